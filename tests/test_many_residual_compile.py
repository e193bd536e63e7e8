"""The kernel for many streams of the residual core through the compiler: registers and code."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import nvrtc_compiler
import pytest
from gpu_chips import TARGETS
from test_gpu_compile import READ_ONLY_LOAD, check_compiled, compiler_of, longest_loop
from test_many_compile import PRODUCT
from test_residual_plan import usual

from wavernn_fast import _C

pytestmark = pytest.mark.skipif(
    not nvrtc_compiler.compilers(), reason="no libnvrtc (pip install nvidia-cuda-nvrtc-cu12)"
)
NAME = "wavernn_many_residual"
LABELS, MORE_LABELS, VALUES = {"bits": 9}, {"bits": 10}, {"mixtures": 10}
GAUSSIAN, BETA = ({"head": head, "n_classes": 2} for head in ("gaussian", "beta"))
EIGHT, MOST, SPLIT = {"streams": 8}, {"streams": 0}, {"streams": 4, "split": True}
BOTH = {"exact": True, "full": True}
BANDS = {"bits": 9, "bands": 4, "hop_length": 128}


class Case(NamedTuple):
    """One kernel: a model, what the planner is asked, and the architecture."""

    target: int
    head: dict[str, Any]
    options: dict[str, Any]
    size: int = 512

    def plan(self) -> dict[str, Any]:
        gpu = next(name for name, targets in TARGETS.items() if self.target in targets)
        return _C.many_plan(
            dataclasses.asdict(usual(self.size, self.head)), gpu=gpu, **self.options
        )

    def __str__(self) -> str:
        given = "-".join(f"{k}={v}" for k, v in (self.head | self.options).items())
        return f"sm_{self.target}-{self.size}-{given}"


# What the sample loop of 512 units and labels has now, and a little more, so that it does not grow
# unseen. Loads are of conditioning: of units from base and five taps in two rounds, of GRU 2, of
# pairs of rows; for the next step, and for streams that begin.
LOADS, INSTRUCTIONS = 53, 3700


# (compiler, kernel): every way once, on targets by turns.
COVERING = [
    (12, Case(75, LABELS, EIGHT | BOTH)),
    (12, Case(75, VALUES, MOST)),
    (12, Case(90, LABELS, MOST)),
    (12, Case(90, VALUES, SPLIT)),
    (12, Case(120, MORE_LABELS, EIGHT)),
    (12, Case(80, LABELS | {"feedback": "mu_law"}, MOST)),
    (13, Case(90, VALUES, EIGHT | BOTH)),
    (12, Case(90, GAUSSIAN, MOST)),
    (12, Case(75, BETA, EIGHT | BOTH)),
    (12, Case(90, BETA, MOST)),
    (12, Case(90, BETA, SPLIT | BOTH)),
    (12, Case(90, BANDS, MOST)),
    (12, Case(80, BANDS, EIGHT | BOTH)),
    (13, Case(120, LABELS, MOST, 128)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("major", "case"), COVERING, ids=str)
def test_a_planned_kernel_compiles_without_spilling(major, case, record_property):
    plan = case.plan()
    compiled = compiler_of(major).compile(plan["macros"], case.target, NAME)
    record_property("registers", compiled.registers)
    check_compiled(compiled, plan)


@pytest.mark.slow
def test_the_sample_loop_loads_no_weight(tmp_path, record_property):
    """What it reads through the read-only path is conditioning, for the next step and for streams
    that begin."""
    if nvrtc_compiler.disassembler() is None:
        pytest.skip("no nvdisasm on PATH or in an installed triton")
    plan = Case(90, LABELS, EIGHT).plan()
    s = plan["shape"]
    assert {s["fc1_place"], s["fc2_place"], s["fc3_place"]} == {1}
    compiled = compiler_of(12).compile(plan["macros"], 90, NAME)
    loop = longest_loop(nvrtc_compiler.disassemble(compiled.cubin, tmp_path))
    record_property("instructions", len(loop.instructions))
    # Three matrices of the GRUs, two of them for streams that begin as well, and three layers.
    assert loop.count(PRODUCT) >= 5 * 3 * s["unit_tiles"] * s["gru_columns"] + 3
    assert loop.count(READ_ONLY_LOAD) <= LOADS
    assert loop.count(r"\bLDL\b") == 0
    assert len(loop.instructions) <= INSTRUCTIONS
