"""The planned kernels through NVIDIA's compiler, with no GPU: registers, spills, memory, code.

A model that the planner puts on a GPU must compile there without spilling. What is compiled is a
choice that covers every architecture with the paper's model in both formats, the largest and
smallest usual model, exact and fast arithmetic, two and four exchanges, conditioning and clocks.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
from typing import Any, NamedTuple

import cases
import nvrtc_compiler
import pytest
from gpu_chips import SHARED_LIMIT, TARGETS
from quick import first_is_quick

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError

COMPILERS = nvrtc_compiler.compilers()
pytestmark = pytest.mark.skipif(
    not COMPILERS, reason="no libnvrtc (pip install nvidia-cuda-nvrtc-cu12)"
)

SPILL_LIMIT = 16  # bytes a thread, of stores and of loads
# Instructions of the sample loop of the paper's model, by architecture and what the planner is
# asked: what it is now and a little more, so that it does not grow unseen. The cap of the chosen
# plan is 1,400; whoever shortens the loop lowers these. A block of a cluster has more rows of the
# output layers.
WAYS: dict[str, dict[str, int]] = {"chosen": {}, "2": {"exchanges": 2}, "cluster": {"cluster": 8}}
LOOP_LIMITS = {
    (90, "chosen"): 1390,
    (60, "chosen"): 1530,
    (70, "chosen"): 1530,
    (80, "chosen"): 1340,
    (80, "2"): 1435,
    (90, "2"): 1460,
    (90, "cluster"): 1780,
}


class Case(NamedTuple):
    """One kernel: a model, what the planner is asked, and the architecture."""

    target: int
    hidden: int
    options: dict[str, Any]
    conditioned: bool = False

    def plan(self) -> dict[str, Any]:
        fields = {"hop_length": 64, "n_mels": 80, "upsample_left": 1, "upsample_right": 1}
        config = cases.dual_config(
            self.hidden, self.hidden // 2, **(fields if self.conditioned else {})
        )
        gpu = next(name for name, targets in TARGETS.items() if self.target in targets)
        return _C.gpu_plan(dataclasses.asdict(config), gpu=gpu, **self.options)

    def __str__(self) -> str:
        options = "-".join(f"{k}={v}" for k, v in self.options.items())
        return f"sm_{self.target}-{self.hidden}-{options}{'-mel' * self.conditioned}"


def covering() -> list[tuple[int, Case]]:
    """(compiler, kernel): about thirty of a second each."""
    fp32, fp16, exact = {"dtype": "fp32"}, {"dtype": "fp16"}, {"exact": True}
    found = [Case(t, 896, fp32) for t in (90, 60, 70, 80)]  # whose loops are read below
    found += [Case(61, 896, fp16), Case(86, 896, fp16 | {"exchanges": 4})]
    found += [Case(t, 1024, fp32) for t in (70, 100)] + [Case(t, 1024, fp16) for t in (75, 89)]
    found += [
        Case(70, 512, fp32),
        Case(75, 512, fp32),
        *(Case(t, 896, fp32 | exact) for t in (60, 120)),
    ]
    found += [Case(120, 224, fp16), Case(90, 896, fp32 | {"exchanges": 4})]
    found += [Case(90, 896, fp32, conditioned=True), Case(90, 896, fp32 | {"clocks": True})]
    clusters = {"cluster": 8}
    found += [Case(t, 896, fp32 | clusters) for t in (90, 120)]
    found += [Case(90, 896, fp32 | clusters | exact), Case(90, 896, fp16 | clusters)]
    found += [Case(90, 896, fp32 | clusters, conditioned=True)]
    found += [Case(90, 384, fp16 | clusters | {"warps": 16}), Case(90, 1024, fp16 | clusters)]
    # The newer compiler, which has no Pascal and no Volta: the paper's model again.
    newer = [Case(80, 896, fp32), Case(75, 896, fp16), Case(120, 896, fp32)]
    newer += [Case(90, 896, fp32 | clusters), Case(100, 896, fp16 | clusters)]
    return [(12, case) for case in found] + [(13, case) for case in newer]


def rest() -> list[tuple[int, Case]]:
    """(compiler, kernel): the other architectures and formats of each option."""
    fp32, fp16, exact = {"dtype": "fp32"}, {"dtype": "fp16"}, {"exact": True}
    found = [Case(t, 896, fp32) for t in (61, 86, 89, 100, 120)]
    found += [Case(90, 896, fp32 | exact), Case(60, 512, fp16 | exact)]
    found += [Case(t, 896, fp16) for t in (75, 86, 90, 120)]
    found += [Case(90, 1024, fp32)] + [Case(t, 1024, fp16) for t in (60, 120)]
    found += [Case(90, 512, fp32), Case(100, 512, fp16 | exact), Case(60, 224, fp32)]
    found += [Case(t, 896, fp32 | {"exchanges": 4}) for t in (60, 120)]
    found += [Case(70, 896, fp16 | {"exchanges": 4}), Case(60, 896, fp32, conditioned=True)]
    found += [Case(100, 896, fp32 | {"cluster": 8}), Case(90, 512, fp32 | {"cluster": 8})]
    return [(12, case) for case in found] + [(13, Case(90, 896, fp32)), (13, Case(100, 896, fp16))]


def check_compiled(compiled: nvrtc_compiler.Compiled, plan: dict[str, Any]) -> None:
    """The code of a planned kernel keeps within the device and spills next to nothing."""
    assert compiled.registers <= 255
    assert max(compiled.spill_stores, compiled.spill_loads) <= SPILL_LIMIT
    assert compiled.registers * plan["shape"]["threads"] <= 65536
    assert plan["shared_bytes"] + compiled.static_shared <= SHARED_LIMIT[plan["arch"]]


def compiler_of(major: int) -> nvrtc_compiler.Compiler:
    for compiler in COMPILERS:
        if compiler.version[0] == major:
            return compiler
    pytest.skip(f"NVRTC {major} is not installed")


def test_the_choice_lacks_nothing_that_the_grid_has():
    assert nvrtc_compiler.uncovered(covering(), rest()) == set()


@pytest.mark.parametrize(("major", "case"), nvrtc_compiler.chosen(covering(), rest()), ids=str)
def test_a_planned_kernel_compiles_without_spilling(major, case):
    plan = case.plan()
    compiled = compiler_of(major).compile(plan["macros"], case.target)
    check_compiled(compiled, plan)


def test_a_kernel_with_more_weights_than_registers_is_seen_to_spill():
    """The check above can fail: the weights of a plan for shared memory, put in registers."""
    case = Case(90, 896, {"dtype": "fp32", "exchanges": 4, "blocks": 56, "warps": 8})
    macros = dict(case.plan()["macros"]) | {"WF_COARSE_FC2_PLACE": "0", "WF_FINE_FC2_PLACE": "0"}
    compiled = COMPILERS[-1].compile(list(macros.items()), case.target)
    assert compiled.spill_loads > SPILL_LIMIT


def test_a_source_with_an_error_is_refused_with_the_compilers_words():
    macros = dict(Case(90, 224, {}).plan()["macros"]) | {"WF_HIDDEN": "nonsense"}
    with pytest.raises(DeviceError, match=r'(?s)for sm_90: .*identifier "nonsense" is undefined'):
        COMPILERS[-1].compile(list(macros.items()), 90)


# --- the code of the sample loop ------------------------------------------------------------------


class Loop(NamedTuple):
    """Instructions of the longest loop: from the target of its backward branch to the branch."""

    instructions: list[str]

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, text)) for text in self.instructions)


def loops(sass: str) -> list[Loop]:
    """One for every backward branch, in the order of the code."""
    labels: dict[str, int] = {}
    code: list[str] = []
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.match(r"\s*\{?\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*[;}]", line):
            code.append(instruction[1])
    return [
        Loop(code[labels[name] : at + 1])
        for at, text in enumerate(code)
        for name in re.findall(r"BRA.*?(\.L_\w+)", text)
        if labels.get(name, at) < at
    ]


def longest_loop(sass: str) -> Loop:
    return max(loops(sass), key=lambda loop: len(loop.instructions))


def sample_loop(case: Case, folder) -> Loop:
    if nvrtc_compiler.disassembler() is None:
        pytest.skip("no nvdisasm on PATH or in an installed triton")
    cubin = compiler_of(12).compile(case.plan()["macros"], case.target).cubin
    try:
        return longest_loop(nvrtc_compiler.disassemble(cubin, folder))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this nvdisasm does not read sm_{case.target}: {error.stderr.strip()}")


# Loads through the read-only path: weights, and what a sample takes of biases and conditioning
# (the published gates, the candidate's bias of either half; one more should the loop be rotated).
READ_ONLY_LOAD = r"LDG\S*\.(CONSTANT|CI)\b"
CONDITIONING_LOADS = 4
IN_L2 = 2  # a Place of csrc/cuda/kernels/shape.h


@pytest.mark.parametrize(("target", "way"), first_is_quick(LOOP_LIMITS))
def test_the_sample_loop_loads_no_weight_and_stays_short(target, way, tmp_path, record_property):
    case = Case(target, 896, {"dtype": "fp32"} | WAYS[way])
    plan = case.plan()
    assert plan["streamed_bytes"] == 0
    loop = sample_loop(case, tmp_path)
    record_property("instructions", len(loop.instructions))
    assert loop.count(r"\bBAR\b") >= (4 if way == "cluster" else 6)  # it is the loop over samples
    assert loop.count(r"\bFFMA\b") >= 6 * 2 * 7 * 2  # and holds the products
    input_loads = 6 if plan["shape"]["coarse_sample_place"] == IN_L2 else 0
    assert loop.count(READ_ONLY_LOAD) <= CONDITIONING_LOADS + input_loads
    assert len(loop.instructions) <= LOOP_LIMITS[target, way]


@pytest.mark.slow
def test_weights_that_are_read_from_l2_are_seen_in_the_loop(tmp_path):
    case = Case(75, 1024, {"dtype": "fp16"})
    plan = case.plan()
    assert plan["streamed_bytes"] > 0
    loop = sample_loop(case, tmp_path)
    assert loop.count(READ_ONLY_LOAD) > CONDITIONING_LOADS
