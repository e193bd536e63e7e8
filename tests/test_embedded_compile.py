"""Planned kernels of the embedded core through NVIDIA's compiler, as in test_gpu_compile.py."""

from __future__ import annotations

from typing import Any, NamedTuple

import nvrtc_compiler
import pytest
from gpu_chips import TARGETS
from test_embedded_plan import plan_of, usual
from test_gpu_compile import SPILL_LIMIT, check_compiled, compiler_of

pytestmark = pytest.mark.skipif(
    not nvrtc_compiler.compilers(), reason="no libnvrtc (pip install nvidia-cuda-nvrtc-cu12)"
)


class Case(NamedTuple):
    """One kernel: sizes of the model, what the planner is asked, and the architecture."""

    target: int
    size: tuple[int, int, int]
    options: dict[str, Any]

    def plan(self) -> dict[str, Any]:
        gpu = next(name for name, targets in TARGETS.items() if self.target in targets)
        return plan_of(usual(*self.size), gpu=gpu, **self.options)

    def compiled(self, **changed: int) -> nvrtc_compiler.Compiled:
        macros = dict(self.plan()["macros"]) | {n: str(v) for n, v in changed.items()}
        return compiler_of(12).compile(list(macros.items()), self.target, "wavernn_embedded")

    def __str__(self) -> str:
        given = "-".join(f"{k}={v}" for k, v in self.options.items())
        return f"sm_{self.target}-{'-'.join(map(str, self.size))}-{given}"


UNIVOC, FIRST_UNIVOC = (896, 256, 10), (896, 256, 9)
FP32, FP16 = {"dtype": "fp32"}, {"dtype": "fp16"}
COVERING = [
    Case(60, UNIVOC, FP16),
    *(Case(t, UNIVOC, FP32) for t in (80, 120)),
    Case(75, UNIVOC, FP16),
    Case(90, FIRST_UNIVOC, FP32),
    Case(80, (1024, 512, 9), FP32),
    Case(60, (896, 1024, 10), FP16),
    Case(90, UNIVOC, FP32 | {"exact": True}),
    Case(90, UNIVOC, FP16 | {"blocks": 28}),  # four units a warp
]
REST = [Case(60, UNIVOC, FP32), Case(90, UNIVOC, FP16)]


@pytest.mark.parametrize(
    ("major", "case"),
    nvrtc_compiler.chosen([(12, case) for case in COVERING], [(12, case) for case in REST]),
    ids=str,
)
def test_a_planned_kernel_compiles_without_spilling(major, case):
    plan, made = case.plan(), case.compiled()
    check_compiled(made, plan)


def test_a_full_kernel_compiles():
    """What forced labels, given random words, logits out and greedy draws need."""
    made = Case(90, UNIVOC, FP32).compiled(WF_FULL=1)
    assert max(made.spill_stores, made.spill_loads) <= 4 * SPILL_LIMIT  # not the one that is fast


@pytest.mark.slow
def test_a_kernel_with_more_weights_than_registers_is_seen_to_spill():
    """The check above can fail: the weights of a plan for shared memory, put in registers."""
    case = Case(90, UNIVOC, FP32 | {"blocks": 48})
    assert dict(case.plan()["macros"])["WF_GRU_PLACE"] == "1"
    assert case.compiled(WF_GRU_PLACE=0).spill_loads > SPILL_LIMIT
