"""The kernel for many streams of the embedded core through the compiler: registers and code."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import nvrtc_compiler
import pytest
from gpu_chips import TARGETS
from test_embedded_plan import usual
from test_gpu_compile import READ_ONLY_LOAD, check_compiled, compiler_of, longest_loop
from test_many_compile import PRODUCT

from wavernn_fast import _C

pytestmark = pytest.mark.skipif(
    not nvrtc_compiler.compilers(), reason="no libnvrtc (pip install nvidia-cuda-nvrtc-cu12)"
)
NAME = "wavernn_many_embedded"
UNIVOC, FIRST_UNIVOC, LARGE, SMALL = (896, 256, 10), (896, 256, 9), (1024, 512, 8), (512, 256, 8)
EIGHT, MOST, SPLIT = {"streams": 8}, {"streams": 0}, {"streams": 4, "split": True}
BOTH = {"exact": True, "full": True}


class Case(NamedTuple):
    """One kernel: sizes of the model, what the planner is asked, and the architecture."""

    target: int
    size: tuple[int, int, int]
    options: dict[str, Any]

    def plan(self) -> dict[str, Any]:
        gpu = next(name for name, targets in TARGETS.items() if self.target in targets)
        return _C.many_plan(dataclasses.asdict(usual(*self.size)), gpu=gpu, **self.options)

    def __str__(self) -> str:
        given = "-".join(f"{k}={v}" for k, v in self.options.items())
        return f"sm_{self.target}-{'-'.join(map(str, self.size))}-{given}"


# (compiler, kernel): every way once, on targets by turns.
COVERING = [
    (12, Case(75, UNIVOC, EIGHT | BOTH)),
    (12, Case(80, LARGE, MOST)),
    (12, Case(86, UNIVOC, MOST)),
    (12, Case(90, UNIVOC, MOST)),
    (12, Case(90, FIRST_UNIVOC, SPLIT | BOTH)),
    (13, Case(100, UNIVOC, MOST | BOTH)),
    (12, Case(89, SMALL, MOST)),
    (12, Case(120, SMALL, EIGHT)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("major", "case"), COVERING, ids=str)
def test_a_planned_kernel_compiles_without_spilling(major, case, record_property):
    plan = case.plan()
    compiled = compiler_of(major).compile(plan["macros"], case.target, NAME)
    record_property("registers", compiled.registers)
    check_compiled(compiled, plan)


# What the sample loop has now, and a little more, so that it does not grow unseen. Loads are of
# conditioning, for the next step and for streams that begin, and of a row of the table of labels.
LOADS, INSTRUCTIONS = 20, 2420


@pytest.mark.slow
def test_the_sample_loop_loads_no_weight(tmp_path, record_property):
    if nvrtc_compiler.disassembler() is None:
        pytest.skip("no nvdisasm on PATH or in an installed triton")
    plan = Case(90, UNIVOC, EIGHT).plan()
    s = plan["shape"]
    assert {s["fc1_place"], s["fc2_place"]} == {1}
    assert s["gru_kept"] == s["gru_columns"]
    compiled = compiler_of(12).compile(plan["macros"], 90, NAME)
    loop = longest_loop(nvrtc_compiler.disassemble(compiled.cubin, tmp_path))
    record_property("instructions", len(loop.instructions))
    record_property("loads", loop.count(READ_ONLY_LOAD))
    # R, for the next step and for streams that begin, and two layers.
    assert loop.count(PRODUCT) >= 2 * 3 * s["unit_tiles"] * s["gru_columns"] + 2
    assert loop.count(READ_ONLY_LOAD) <= LOADS
    assert loop.count(r"\bLDL\b") == 0
    assert len(loop.instructions) <= INSTRUCTIONS
