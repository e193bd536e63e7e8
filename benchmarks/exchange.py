"""Time of one exchange of tagged words between blocks: exchange.cu on the device at hand.

    python benchmarks/exchange.py --output out.json

A row is one case: how many blocks, words and copies of them, who polls. `ns_step` is a whole step
(publish, wait for all words, put them in shared memory, barrier), the median of `--repeats`
launches; `ns_idle` the same loop without publishing and waiting; `hop_ns` their difference, which
is what the planner calls a hop (csrc/plan/gpu.cpp, hop_us).
"""

from __future__ import annotations

import argparse
import ctypes
import re
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cuda_driver
import gpu_record
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path(__file__).resolve().with_name("exchange.cu")

BLOCKS = (16, 28, 56, 84, 112, 132)
WORDS = (56, 224, 448, 896, 1344)
REPLICAS = (1, 2, 4)
CLUSTERS = (8, 16)
MANY_CLUSTERS = {8: (4, 8, 14), 16: (4, 7)}  # at once, by their size
THREADS = 256
PAIRS = (1, 2, 3, 4, 7, 14, 21)  # pairs a polling thread, as instantiated in exchange.cu
WARM_UP = 64  # steps before the clock starts, as in exchange.cu
POLL_LIMIT = 1 << 20
LONGEST = 2 * 4 * max(WORDS)  # words: two buffers, four copies
RESULT = np.dtype(  # struct Result of exchange.cu
    [
        ("stall", "u8"),
        ("failed_step", "i4"),
        ("steps_done", "u4"),
        ("errors", "i4"),
        ("steps", "u4"),
        ("ticks", "i8"),
        ("ns", "i8"),
    ]
)


@dataclass(frozen=True)
class Case:
    """One question."""

    # l2: gather words; sums: add to 256 words; none, nosums: the same without the exchange;
    # cluster: gather through the shared memories of a cluster; counted: the same without tags
    transport: str
    blocks: int
    words: int
    pollers: str = "all warps"  # or "one warp"
    replicas: int = 1
    clusters: int = 1  # of `blocks` blocks each, at once

    def problem(self, multiprocessors: int, arch: int) -> str:
        """Why this device or this loop cannot do it; empty if it can."""
        if self.blocks * self.clusters > multiprocessors:
            return f"the device has {multiprocessors} multiprocessors"
        if self.transport in ("sums", "nosums"):
            return ""
        if self.blocks > self.words:
            return "a block would own no word"
        if self.transport in ("cluster", "counted") and arch < 90:
            return "clusters need compute capability 9.0"
        return ""

    def pairs(self) -> int:
        """Pairs of words that a polling thread waits for."""
        threads = 32 if self.pollers == "one warp" else THREADS
        least = -(-self.words // 2 // threads)
        return next(p for p in PAIRS if p >= least and self.words // 2 % p == 0)

    def kernel(self) -> str:
        if self.transport in ("l2", "none"):
            return f"exchange_{self.transport}_{self.pairs()}"
        if self.transport in ("sums", "nosums"):
            return f"exchange_{self.transport}_{self.replicas}"
        return f"exchange_{self.transport}_{self.blocks}"

    def shared_bytes(self) -> int:
        if self.transport in ("sums", "nosums"):
            return 16 + 8 * 2 * self.replicas * 256 + 4 * 2 * 256
        bytes_of_buffers = {"cluster": 3 * 8, "counted": 3 * 4}.get(self.transport, 2 * 4)
        return 16 + bytes_of_buffers * self.words


def cases() -> Iterator[Case]:
    """All of them, the ones that matter most first."""
    for copies in REPLICAS:
        for blocks in BLOCKS:
            yield Case("sums", blocks, 256, "one warp", copies)
            yield Case("nosums", blocks, 256, "one warp", copies)
    for words in (448, *(w for w in WORDS if w != 448)):
        for blocks in BLOCKS:
            yield Case("l2", blocks, words)
            yield Case("none", blocks, words)
    for words in WORDS:
        for blocks in BLOCKS:
            yield Case("l2", blocks, words, "one warp")
            yield Case("none", blocks, words, "one warp")
    for words in WORDS:
        for blocks in BLOCKS:
            for pollers in ("all warps", "one warp"):
                for replicas in REPLICAS[1:]:
                    yield Case("l2", blocks, words, pollers, replicas)
    # Last: a fault here must not cost the others their device.
    for words in WORDS:
        for blocks in CLUSTERS:
            yield Case("cluster", blocks, words)
            yield Case("counted", blocks, words)
            for clusters in MANY_CLUSTERS[blocks]:
                yield Case("counted", blocks, words, clusters=clusters)


def stall_word_bits() -> int:
    """How many bits of a report of a stall have the word; above them is the block."""
    text = (ROOT / "csrc/cuda/kernels/args.h").read_text()
    return int(re.findall(r"kStallWordBits = (\d+);", text)[0])


def macros() -> list[str]:
    """Values of the kernel's constants, which the exchange does not depend on."""
    shape = (ROOT / "csrc/cuda/kernels/shape.h").read_text()
    names = re.findall(r"\bX\(\w+, k\w+,[\s\\]*(WF_\w+)\)", shape)
    return [f"-D{name}=0" for name in names]


def compile_options(arch: int) -> list[str]:
    return [
        "--std=c++17",
        f"--gpu-architecture=sm_{arch}",
        f"-I{ROOT / 'csrc'}",
        f"-I{SOURCE.parent}",
        *macros(),
    ]


class Bench:
    """The compiled kernels, the exchange area and a tag that never comes twice."""

    def __init__(self, driver: cuda_driver.Driver, image: bytes, repeats: int, steps: int) -> None:
        self.driver, self.module = driver, driver.module(image)
        self.repeats, self.steps, self.tag = repeats, steps, 1
        self.words = driver.allocate(8 * LONGEST)
        self.result = driver.allocate(RESULT.itemsize)
        self.events = driver.events()

    def launch(self, function: cuda_driver.Function, case: Case, steps: int) -> dict[str, Any]:
        """One launch: ns a step by events and by the device's clock, ticks a step."""
        self.driver.zero(self.result, RESULT.itemsize)
        if case.transport == "sums":
            self.driver.zero(self.words, 8 * LONGEST)
        numbers = [
            ctypes.c_uint64(self.words),
            ctypes.c_uint64(self.result),
            ctypes.c_int(case.words),
            ctypes.c_int(case.replicas),
            *(ctypes.c_uint(x) for x in (steps, self.tag, POLL_LIMIT)),
        ]
        cooperative = case.transport not in ("cluster", "counted")
        self.driver.call("cuEventRecord", self.events[0], None)
        function.launch(
            case.blocks * case.clusters, THREADS, case.shared_bytes(), numbers, cooperative
        )
        self.driver.call("cuEventRecord", self.events[1], None)
        milliseconds = self.driver.elapsed_ms(self.events)
        self.tag += steps + 1
        found = np.zeros(1, RESULT)
        self.driver.download(self.result, found)
        return measured(found[0], steps, milliseconds)

    def row(self, case: Case) -> dict[str, Any]:
        function = self.module.function(case.kernel())
        if case.transport in ("cluster", "counted") and case.blocks > 8:
            function.set(cuda_driver.NON_PORTABLE_CLUSTER, 1)
        self.launch(function, case, 4 * WARM_UP)
        runs = [self.launch(function, case, self.steps) for _ in range(self.repeats)]
        row = asdict(case)
        for name in runs[0]:
            row[name] = statistics.median(run[name] for run in runs)
        row["ns_step_best"] = min(run["ns_step"] for run in runs)
        row["ns_step_worst"] = max(run["ns_step"] for run in runs)
        return row


def measured(found: Any, steps: int, milliseconds: float) -> dict[str, float]:
    """Numbers of a launch, once its payloads are known to be right."""
    if found["stall"]:
        place, tag = divmod(int(found["stall"]), 1 << 32)
        block, word = divmod(place, 1 << stall_word_bits())
        raise RuntimeError(f"stalled: block {block} waited in vain for word {word}, tag {tag}")
    if found["errors"] or found["steps"] != steps:
        raise RuntimeError(f"{found['errors']} wrong payloads after {found['steps']} steps")
    counted = steps - WARM_UP
    return {
        "ns_step": 1e6 * milliseconds / steps,  # with the launch, some microseconds in all
        "ns_step_device": float(found["ns"]) / counted,
        "ticks_step": float(found["ticks"]) / counted,
        "clock_mhz": 1e3 * float(found["ticks"]) / max(float(found["ns"]), 1.0),
    }


def add_hops(rows: list[dict[str, Any]]) -> None:
    """Put the difference to the loop without an exchange into the rows through L2."""
    idle = {idle_key(r, r["transport"]): r["ns_step_device"] for r in rows}
    for row in rows:
        other = {"l2": "none", "sums": "nosums"}.get(row["transport"])
        without = idle.get(idle_key(row, other or ""))
        if without is not None:
            row["ns_idle"] = without
            row["hop_ns"] = row["ns_step_device"] - without


def idle_key(row: dict[str, Any], transport: str) -> tuple[Any, ...]:
    """Gathering without an exchange is measured once for all numbers of copies."""
    copies = 1 if transport == "none" else row["replicas"]
    return transport, row["blocks"], row["words"], row["pollers"], copies


def hops(rows: list[dict[str, Any]], transport: str, words: int, pollers: str) -> dict[str, float]:
    """Blocks -> ns, one copy of the words."""
    wanted = (transport, words, pollers, 1)
    return {
        str(r["blocks"]): r["hop_ns"]
        for r in rows
        if "hop_ns" in r and (r["transport"], r["words"], r["pollers"], r["replicas"]) == wanted
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the planner needs (csrc/plan/gpu.cpp): a gather of y of the usual model, and sums."""
    gather, sums = hops(rows, "l2", 448, "all warps"), hops(rows, "sums", 256, "one warp")
    clusters = {
        f"{r['transport']} {r['blocks']} x {r['clusters']}": r["ns_step_device"]
        for r in rows
        if r["transport"] in ("cluster", "counted") and r["words"] == 448
    }
    return {
        "gather_hop_ns_by_blocks": gather,
        "sums_hop_ns_by_blocks": sums,
        "hop_us": statistics.median(gather.values()) / 1000 if gather else None,
        "sums_hop_us": statistics.median(sums.values()) / 1000 if sums else None,
        "cluster_ns_step_448_words": clusters,
    }


def show(row: dict[str, Any]) -> str:
    hop = f"{row['hop_ns']:7.0f}" if "hop_ns" in row else "       "
    return (
        f"{row['transport']:8s} {row['blocks']:4d} blocks {row['words']:5d} words "
        f"{row['pollers']:9s} x{row['replicas']} in {row['clusters']:2d} "
        f"{row['ns_step_device']:8.0f} ns a step "
        f"(events {row['ns_step']:.0f}) {row['ticks_step']:7.0f} ticks, hop {hop} ns"
    )


def run(record: gpu_record.Record, repeats: int, steps: int) -> None:
    driver = cuda_driver.Driver()
    facts = driver.facts()
    compiler = cuda_driver.Nvrtc()
    record["compiler"] = {"path": compiler.path, "version": compiler.version()}
    image = compiler.compile(SOURCE, compile_options(facts["arch"]))
    bench = Bench(driver, image, repeats, steps)
    rows: list[dict[str, Any]] = record["rows"]
    for case in cases():
        problem = case.problem(facts["multiprocessors"], facts["arch"])
        if problem:
            record["skipped"].append(asdict(case) | {"reason": problem})
            continue
        with record.attempt(str(asdict(case))):
            rows.append(bench.row(case))
        record.save()
    add_hops(rows)
    record["summary"] = summary(rows)
    for row in rows:
        print(show(row))
    show_hops(record["summary"])
    hop, sums = record["summary"]["hop_us"], record["summary"]["sums_hop_us"]
    if hop is not None and sums is not None:
        record.result = f"hop: gather {hop:.3f} us, sums {sums:.3f} us (medians over blocks)"


def show_hops(found: dict[str, Any]) -> None:
    for name, title in (
        ("gather_hop_ns_by_blocks", "gather of 448 words, all warps"),
        ("sums_hop_ns_by_blocks", "sums of 256 words, one warp reads"),
    ):
        print(f"\nMEASURED HOP (for hop_us of csrc/plan/gpu.cpp), {title}:")
        for blocks, hop in found[name].items():
            print(f"  {blocks:>4s} blocks: {hop / 1000:.3f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10000)
    options = parser.parse_args()
    with gpu_record.Record("exchange", options.output, rows=[], skipped=[]) as record:
        run(record, options.repeats, options.steps)


if __name__ == "__main__":
    main()
