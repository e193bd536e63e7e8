"""The kernel for pruned models through the compiler, with no GPU: registers, spills, memory."""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
from typing import Any, NamedTuple

import cases
import nvrtc_compiler
import pruned_models
import pytest
from gpu_chips import TARGETS
from test_gpu_compile import COMPILERS, SPILL_LIMIT, Loop, check_compiled, compiler_of, loops

from wavernn_fast import _C

pytestmark = pytest.mark.skipif(
    not COMPILERS, reason="no libnvrtc (pip install nvidia-cuda-nvrtc-cu12)"
)
NAME = "wavernn_sparse"
# Instructions of the sample loop of the chain, 1,024 units, 95 %, fp16 on an H200: what it is now
# and a little more, so that it does not grow unseen.
LOOP_LIMIT = 2000
CHAIN_BARRIERS = 8


@functools.cache
def model(hidden: int, density: float, tile: pruned_models.Tile, conditioned: bool):
    fields = {"hop_length": 64, "n_mels": 80, "upsample_left": 1, "upsample_right": 1}
    config = cases.dual_config(hidden, hidden // 2, **(fields if conditioned else {}))
    return dataclasses.asdict(config), pruned_models.pruned(config, tile, density)


class Case(NamedTuple):
    """One kernel: a model, what the planner is asked, and the architecture."""

    target: int
    hidden: int
    options: dict[str, Any]
    tile: pruned_models.Tile = (4, 4)
    density: float = 0.05
    conditioned: bool = False

    def plan(self) -> dict[str, Any]:
        gpu = next(name for name, targets in TARGETS.items() if self.target in targets)
        config, tensors = model(self.hidden, self.density, self.tile, self.conditioned)
        return _C.sparse_plan(config, tensors, gpu=gpu, **self.options)

    def __str__(self) -> str:
        options = "-".join(f"{k}={v}" for k, v in self.options.items())
        tile = f"{self.tile[0]}x{self.tile[1]}"
        return f"sm_{self.target}-{self.hidden}-{tile}-{options}{'-mel' * self.conditioned}"


def covering() -> list[tuple[int, Case]]:
    """(compiler, kernel): the planner's choice for one stream and for many, every architecture."""
    fp32, fp16, many, tall = {"dtype": "fp32"}, {"dtype": "fp16"}, {"many": True}, (16, 1)
    both = {"exact": True, "full": True}
    found = [Case(90, 1024, fp16)]  # whose chain is read below
    found += [Case(120, 1024, fp32), Case(100, 1024, fp16), Case(120, 1024, fp16 | many)]
    found += [Case(120, 1024, fp16, tall), Case(90, 1024, fp16 | many, tall)]
    found += [Case(90, 1024, fp16 | many | both), Case(90, 1024, fp32 | both)]
    found += [Case(90, 1024, fp16, conditioned=True)]
    found += [Case(90, 1024, fp16 | {"full": True}, tall, conditioned=True)]
    found += [Case(90, 1024, fp16 | {"cluster": c}) for c in (2, 4)]
    found += [Case(90, 384, fp32 | {"cluster": 1}, density=0.1)]
    # Before clusters: one block a stream, and only small models fit.
    found += [Case(t, 384, fp16, density=0.1) for t in (70, 86)]
    found += [Case(80, 384, fp16 | many, tall, 0.05), Case(89, 384, fp16, density=0.1)]
    found += [Case(61, 224, fp32), Case(75, 224, fp16), Case(60, 224, fp16 | both, tall)]
    newer = [Case(90, 1024, fp16 | many), Case(120, 1024, fp16)]
    newer += [Case(80, 384, fp16, density=0.1), Case(100, 1024, fp32)]
    return [(12, case) for case in found] + [(13, case) for case in newer]


def rest() -> list[tuple[int, Case]]:
    """(compiler, kernel): the other architectures, formats and tiles of each way."""
    fp32, fp16, many, tall = {"dtype": "fp32"}, {"dtype": "fp16"}, {"many": True}, (16, 1)
    both = {"exact": True, "full": True}
    found = [Case(t, 1024, fp32) for t in (90, 100)] + [Case(120, 1024, fp16)]
    found += [Case(t, 1024, fp16 | many) for t in (90, 100)]
    found += [Case(90, 1024, fp16, tall), Case(120, 1024, fp16 | many, tall)]
    found += [Case(90, 1024, fp16 | both), Case(90, 1024, fp16 | both, tall)]
    found += [Case(90, 1024, fp16 | many, conditioned=True)]
    found += [Case(90, 384, fp32 | {"cluster": 2}, density=0.1), Case(80, 384, fp16, density=0.1)]
    found += [Case(70, 384, fp16 | many, tall, 0.05), Case(75, 224, fp32)]
    found += [Case(60, 224, fp32), Case(60, 224, fp16), Case(61, 224, fp16)]
    found += [Case(75, 224, fp32 | both)]
    newer = [Case(90, 1024, fp16), Case(120, 1024, fp16 | many)]
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
    """The check above can fail: bins of a plan for shared memory, put in registers."""
    case = Case(90, 1024, {"dtype": "fp16"})
    macros = dict(case.plan()["macros"]) | {"WF_FINE_FC1_KEPT": "3"}
    compiled = COMPILERS[0].compile(list(macros.items()), case.target, NAME)
    assert compiled.spill_loads > SPILL_LIMIT


def chain_loop(sass: str) -> Loop:
    """The shortest loop that passes the barriers of a sample: those around it also hold code that
    the compiler put out of the way."""
    return min(
        (loop for loop in loops(sass) if loop.count(r"\bBAR\b") >= CHAIN_BARRIERS),
        key=lambda loop: len(loop.instructions),
    )


def test_the_chain_reads_no_weight_from_l2_and_stays_short(tmp_path, record_property):
    if nvrtc_compiler.disassembler() is None:
        pytest.skip("no nvdisasm on PATH or in an installed triton")
    case = Case(90, 1024, {"dtype": "fp16"})
    cubin = compiler_of(12).compile(case.plan()["macros"], case.target, NAME).cubin
    try:
        loop = chain_loop(nvrtc_compiler.disassemble(cubin, tmp_path))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this nvdisasm does not read sm_{case.target}: {error.stderr.strip()}")
    record_property("instructions", len(loop.instructions))
    assert loop.count(r"LDG") <= 2  # biases of the candidates, a pair a half
    assert len(loop.instructions) <= LOOP_LIMIT


def test_entries_of_both_kernels_are_sources():
    sources = dict(_C.kernel_sources())
    for name, entry in nvrtc_compiler.ENTRIES.items():
        assert re.search(rf"\b{name}\(", sources[entry])
