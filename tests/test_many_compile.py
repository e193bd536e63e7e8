"""The kernel for many streams through the compiler, with no GPU: registers, spills, code."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from typing import Any, NamedTuple

import cases
import nvrtc_compiler
import pytest
from gpu_chips import TARGETS
from quick import first_is_quick
from test_gpu_compile import (
    COMPILERS,
    READ_ONLY_LOAD,
    SPILL_LIMIT,
    Loop,
    check_compiled,
    compiler_of,
    longest_loop,
)

from wavernn_fast import _C

pytestmark = pytest.mark.skipif(
    not COMPILERS, reason="no libnvrtc (pip install nvidia-cuda-nvrtc-cu12)"
)
NAME = "wavernn_many"
PRODUCT = r"\bHMMA\b"


class Case(NamedTuple):
    """One kernel: a model, what the planner is asked, and the architecture."""

    target: int
    options: dict[str, Any]
    hidden: int = 896
    conditioned: bool = False

    def plan(self) -> dict[str, Any]:
        fields = {"hop_length": 64, "n_mels": 80, "upsample_left": 1, "upsample_right": 1}
        config = cases.dual_config(
            self.hidden, self.hidden // 2, **(fields if self.conditioned else {})
        )
        gpu = next(name for name, targets in TARGETS.items() if self.target in targets)
        return _C.many_plan(dataclasses.asdict(config), gpu=gpu, **self.options)

    def __str__(self) -> str:
        options = "-".join(f"{k}={v}" for k, v in self.options.items())
        return f"sm_{self.target}-{self.hidden}-{options}{'-mel' * self.conditioned}"


EIGHT, MOST, SPLIT = {"streams": 8}, {"streams": 0}, {"streams": 4, "split": True}
MANY = {"streams": 128}  # teams of few blocks, which have many units each
BOTH = {"exact": True, "full": True}


def covering() -> list[tuple[int, Case]]:
    """(compiler, kernel): every architecture, and every way by one or two."""
    # First those whose loops are read below.
    found = [Case(t, EIGHT) for t in (90, 80, 75)] + [Case(90, MOST)]
    found += [Case(75, SPLIT), *(Case(t, MOST) for t in (80, 100, 120))]
    found += [Case(t, EIGHT) for t in (86, 89)]
    found += [Case(90, MOST | BOTH), Case(120, SPLIT | BOTH)]
    found += [Case(90, EIGHT, conditioned=True)]
    found += [Case(75, EIGHT | {"full": True}, conditioned=True)]
    found += [Case(90, MOST, 224), Case(90, MOST, 1024)]
    found += [Case(90, MANY, 512), Case(80, MANY, 448), Case(90, {"streams": 512}, 224)]
    found += [Case(90, MANY, 640, conditioned=True)]
    found += [Case(90, EIGHT | {"cluster": 8}, 512), Case(90, MOST | {"cluster": 8}, 512)]
    found += [Case(90, EIGHT | {"cluster": 4}, 320), Case(120, EIGHT | {"cluster": 6}, 384)]
    found += [Case(90, SPLIT | BOTH | {"cluster": 16}, 512, conditioned=True)]
    newer = [Case(t, EIGHT) for t in (75, 86, 89, 90, 120)] + [Case(80, SPLIT | BOTH)]
    newer += [Case(100, MOST | {"full": True}, conditioned=True)]
    newer += [Case(90, MANY, 448), Case(80, MANY, 512)]
    newer += [Case(90, EIGHT | {"cluster": 8}, 512), Case(100, MOST | {"cluster": 8}, 512)]
    return [(12, case) for case in found] + [(13, case) for case in newer]


def rest() -> list[tuple[int, Case]]:
    """(compiler, kernel): the other architectures of each way."""
    found = [Case(t, EIGHT) for t in (100, 120)] + [Case(90, SPLIT)]
    found += [Case(75, EIGHT | BOTH)]
    newer = [Case(t, EIGHT) for t in (80, 100)] + [Case(90, MOST)]
    return [(12, case) for case in found] + [(13, case) for case in newer]


def test_the_choice_lacks_nothing_that_the_grid_has():
    assert nvrtc_compiler.uncovered(covering(), rest()) == set()


@pytest.mark.parametrize(("major", "case"), nvrtc_compiler.chosen(covering(), rest()), ids=str)
def test_a_planned_kernel_compiles_without_spilling(major, case, record_property):
    plan = case.plan()
    compiled = compiler_of(major).compile(plan["macros"], case.target, NAME)
    record_property("registers", compiled.registers)
    check_compiled(compiled, plan)


@pytest.mark.slow
def test_a_kernel_with_more_weights_than_registers_is_seen_to_spill():
    """The check above can fail: more of R in registers than fits."""
    case = Case(90, EIGHT | {"warps": 2}, 512)
    plan = case.plan()
    assert plan["shape"]["gru_kept"] < plan["shape"]["gru_columns"]
    macros = dict(plan["macros"]) | {"WF_GRU_KEPT": str(plan["shape"]["gru_kept"] + 6)}
    compiled = COMPILERS[0].compile(list(macros.items()), case.target, NAME)
    assert compiled.spill_loads > SPILL_LIMIT


# --- the code of the sample loop ------------------------------------------------------------------

# Instructions of the sample loop, the paper's model: what it is now and a little more, so that it
# does not grow unseen.
LOOP_LIMITS = {(90, "eight"): 2880, (80, "eight"): 2800, (90, "most"): 3630, (90, "cluster"): 3080}
WAYS = {"eight": EIGHT, "most": MOST, "cluster": EIGHT | {"cluster": 8}}
BARRIERS = 21  # of a sample and of streams that end and begin
# Loads through the read-only path that are no weights: conditioning of the gates, here and
# for streams that begin, one a round.
CONDITIONING_LOADS = 2
IN_L2 = 2  # a Place of csrc/cuda/kernels/shape.h


def sample_loop(case: Case, folder) -> Loop:
    if nvrtc_compiler.disassembler() is None:
        pytest.skip("no nvdisasm on PATH or in an installed triton")
    cubin = compiler_of(12).compile(case.plan()["macros"], case.target, NAME).cubin
    try:
        return longest_loop(nvrtc_compiler.disassemble(cubin, folder))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this nvdisasm does not read sm_{case.target}: {error.stderr.strip()}")


@pytest.mark.parametrize(("target", "way"), first_is_quick(LOOP_LIMITS))
def test_the_sample_loop_loads_no_weight_and_stays_short(target, way, tmp_path, record_property):
    case = Case(target, WAYS[way], 512 if way == "cluster" else 896)
    s = case.plan()["shape"]
    assert IN_L2 not in (s["fc1_place"], s["fine_fc2_place"])
    loop = sample_loop(case, tmp_path)
    record_property("instructions", len(loop.instructions))
    assert loop.count(r"\bBAR\b") >= BARRIERS  # it is the loop over samples
    # R by the state, of every stream and of those that begin, and four output layers.
    gates = 3 * s["unit_tiles"] * s["gru_columns"]
    assert loop.count(PRODUCT) >= 2 * gates + 4
    assert loop.count(READ_ONLY_LOAD) <= CONDITIONING_LOADS * s["gate_rounds"]
    assert loop.count(r"\bLDL\b") == 0
    assert len(loop.instructions) <= LOOP_LIMITS[target, way]


@pytest.mark.slow
def test_weights_that_are_read_from_l2_are_seen_in_the_loop(tmp_path):
    """Before compute capability 8.0 two instructions do what one does after."""
    case = Case(75, EIGHT)
    s = case.plan()["shape"]
    assert s["fine_fc2_place"] == IN_L2
    loop = sample_loop(case, tmp_path)
    assert loop.count(READ_ONLY_LOAD) > CONDITIONING_LOADS * s["gate_rounds"]
    assert loop.count(PRODUCT) >= 2 * (2 * 3 * s["unit_tiles"] * s["gru_columns"] + 4)


def test_entries_of_all_kernels_are_sources():
    sources = dict(_C.kernel_sources())
    for name, entry in nvrtc_compiler.ENTRIES.items():
        assert re.search(rf"\b{name}\(", sources[entry])
