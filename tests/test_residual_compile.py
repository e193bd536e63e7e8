"""Planned kernels of the residual core through NVIDIA's compiler, as in test_gpu_compile.py."""

from __future__ import annotations

from typing import Any, NamedTuple

import nvrtc_compiler
import pytest
from gpu_chips import TARGETS
from quick import first_is_quick
from test_gpu_compile import READ_ONLY_LOAD, SPILL_LIMIT, check_compiled, compiler_of, longest_loop
from test_residual_plan import plan_of, usual

pytestmark = pytest.mark.skipif(
    not nvrtc_compiler.compilers(), reason="no libnvrtc (pip install nvidia-cuda-nvrtc-cu12)"
)

LABELS, MORE_LABELS, VALUES = {"bits": 9}, {"bits": 10}, {"mixtures": 10}
MULAW = LABELS | {"feedback": "mu_law"}
GAUSSIAN, BETA = ({"head": head, "n_classes": 2} for head in ("gaussian", "beta"))
BANDS = {"bits": 9, "bands": 4, "hop_length": 128}
MORE_BANDS = {"bits": 10, "bands": 4, "hop_length": 128}  # with eight rows of fc3 a warp
# Instructions of the sample loop of 512 units and labels in fp32: what it is now and a little more.
LOOP_LIMITS = {90: 1770, 80: 1360}


class Case(NamedTuple):
    """One kernel: a model, what the planner is asked, and the architecture."""

    target: int
    size: int
    head: dict[str, Any]
    options: dict[str, Any]

    def plan(self) -> dict[str, Any]:
        gpu = next(name for name, targets in TARGETS.items() if self.target in targets)
        return plan_of(usual(self.size, self.head), gpu=gpu, **self.options)

    def __str__(self) -> str:
        given = "-".join(f"{k}={v}" for k, v in (self.head | self.options).items())
        return f"sm_{self.target}-{self.size}-{given}"


def covering() -> list[tuple[int, Case]]:
    """(compiler, kernel): about thirty of a second each."""
    fp32, fp16, exact = {"dtype": "fp32"}, {"dtype": "fp16"}, {"exact": True}
    found = [Case(t, 512, LABELS, fp32) for t in (90, 80)]  # whose loops are read below
    found += [Case(86, 512, LABELS, fp32)] + [Case(t, 512, LABELS, fp16) for t in (61, 70, 89, 100)]
    found += [Case(t, 512, VALUES, fp32) for t in (70, 100)]
    found += [Case(t, 512, VALUES, fp16) for t in (60, 86, 90)]
    found += [Case(89, 512, MORE_LABELS, fp32), Case(75, 512, MORE_LABELS, fp16)]
    found += [Case(60, 128, LABELS, fp32), Case(120, 128, VALUES, fp16)]
    found += [Case(90, 512, LABELS, fp16 | exact), Case(120, 512, VALUES, fp32 | exact)]
    found += [Case(90, 512, LABELS, fp32 | {"clocks": True})]
    found += [Case(90, 512, LABELS, fp16 | {"blocks": 16})]  # four units a warp
    found += [Case(90, 512, GAUSSIAN, fp32)]
    found += [Case(120, 512, BETA, fp32), Case(75, 512, BETA, fp16)]
    found += [Case(90, 512, MULAW, fp32)]
    found += [Case(100, 512, BANDS, fp32)] + [Case(t, 512, BANDS, fp16) for t in (60, 90)]
    newer = [Case(t, 512, LABELS, fp32) for t in (80, 120)] + [Case(75, 512, VALUES, fp16)]
    newer += [Case(90, 512, BETA, fp32), Case(100, 512, MORE_BANDS, fp32)]
    return [(12, case) for case in found] + [(13, case) for case in newer]


def rest() -> list[tuple[int, Case]]:
    """(compiler, kernel): the other architectures and formats of each head."""
    fp32, fp16, exact = {"dtype": "fp32"}, {"dtype": "fp16"}, {"exact": True}
    found = [Case(t, 512, LABELS, fp32) for t in (70, 89, 100, 120)]
    found += [Case(t, 512, LABELS, fp16) for t in (60, 75, 80, 86, 90, 120)]
    found += [Case(t, 512, VALUES, fp32) for t in (80, 90, 120)]
    found += [Case(t, 512, VALUES, fp16) for t in (75, 120)]
    found += [Case(t, 512, MORE_LABELS, fp32) for t in (70, 90)]
    found += [Case(t, 512, MORE_LABELS, fp16) for t in (61, 90, 100)]
    found += [Case(t, 128, LABELS, fp32) for t in (75, 90)]
    found += [Case(t, 128, VALUES, fp16) for t in (61, 86)]
    found += [Case(60, 512, LABELS, fp16 | exact)]
    found += [Case(t, 512, VALUES, fp32 | exact) for t in (70, 90)]
    found += [Case(80, 512, GAUSSIAN, fp32), Case(60, 512, BETA, fp16)]
    found += [Case(t, 512, BETA, fp32) for t in (70, 90)]
    found += [Case(t, 512, BANDS, fp32) for t in (80, 90)] + [Case(75, 512, BANDS, fp16)]
    found += [Case(t, 512, MORE_BANDS, fp32) for t in (90, 100)]
    found += [Case(75, 512, MULAW, fp16)]
    newer = [Case(90, 512, LABELS, fp32), Case(100, 512, VALUES, fp16)]
    newer += [Case(90, 512, BANDS, fp32)]
    return [(12, case) for case in found] + [(13, case) for case in newer]


def compiled(major: int, case: Case, full: bool = False) -> nvrtc_compiler.Compiled:
    macros = case.plan()["macros"]
    if full:
        macros = [(name, "1" if name == "WF_FULL" else value) for name, value in macros]
    return compiler_of(major).compile(macros, case.target, "wavernn_residual")


def test_the_choice_lacks_nothing_that_the_grid_has():
    assert nvrtc_compiler.uncovered(covering(), rest()) == set()


@pytest.mark.parametrize(("major", "case"), nvrtc_compiler.chosen(covering(), rest()), ids=str)
def test_a_planned_kernel_compiles_without_spilling(major, case):
    plan, made = case.plan(), compiled(major, case)
    check_compiled(made, plan)


FULL = {"labels": LABELS, "values": VALUES, "beta": BETA, "bands": BANDS}


@pytest.mark.parametrize(("name", "head"), first_is_quick(FULL.items()))
def test_a_full_kernel_compiles(name, head):
    """What forced outcomes, given random words, logits out and greedy draws need."""
    made = compiled(12, Case(90, 512, head, {"dtype": "fp32"}), full=True)
    assert max(made.spill_stores, made.spill_loads) <= 4 * SPILL_LIMIT  # not the one that is fast


def test_a_kernel_with_more_weights_than_registers_is_seen_to_spill():
    """The check above can fail: the weights of a plan for shared memory, put in registers."""
    case = Case(90, 512, LABELS, {"dtype": "fp32", "blocks": 32})
    macros = dict(case.plan()["macros"])
    assert macros["WF_GRU1_PLACE"] == "1"
    macros |= {"WF_GRU1_PLACE": "0"}
    made = compiler_of(12).compile(list(macros.items()), 90, "wavernn_residual")
    assert made.spill_loads > SPILL_LIMIT


def sample_loop(case: Case, folder):
    if nvrtc_compiler.disassembler() is None:
        pytest.skip("no nvdisasm on PATH or in an installed triton")
    return longest_loop(nvrtc_compiler.disassemble(compiled(12, case).cubin, folder))


# Of a sample: base and five taps of u, of the outer candidate and of a published gate, the scales
# of the taps, three held biases: 31.
CONDITIONING_LOADS = 36


@pytest.mark.parametrize(("target", "limit"), first_is_quick(LOOP_LIMITS.items()))
def test_the_sample_loop_loads_no_weight_and_stays_short(target, limit, tmp_path, record_property):
    case = Case(target, 512, LABELS, {"dtype": "fp32"})
    plan = case.plan()
    assert plan["streamed_bytes"] == 0
    loop = sample_loop(case, tmp_path)
    record_property("instructions", len(loop.instructions))
    slots = plan["shape"]["unit_slots"]
    assert loop.count(r"\bBAR\b") >= 6  # it is the loop over samples
    assert loop.count(r"\bFFMA\b") >= 2 * 8 * (9 + 3) * slots  # and holds the products
    assert loop.count(READ_ONLY_LOAD) <= CONDITIONING_LOADS
    assert len(loop.instructions) <= limit


@pytest.mark.slow
def test_weights_that_are_read_from_l2_are_seen_in_the_loop(tmp_path):
    case = Case(80, 512, LABELS, {"dtype": "fp32", "blocks": 32})
    assert case.plan()["streamed_bytes"] > 0
    assert sample_loop(case, tmp_path).count(READ_ONLY_LOAD) > CONDITIONING_LOADS
