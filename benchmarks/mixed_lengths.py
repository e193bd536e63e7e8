"""Is a mixture of short and long utterances as fast as utterances of one length?

Both have the same number of samples. Lengths are drawn as a speaking program has them: log-normal
around 2 s, from 0.1 s to 10 s. All are divided by --shorten, so that a run takes a minute, not a
quarter of an hour; what an utterance costs beside its samples then weighs as many times as much.
Both ways, and all engines, take turns in rounds that alternate in order; every figure is a median.

    python benchmarks/mixed_lengths.py --output results.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_fast import Vocoder
from wavernn_fast.batch import BatchReport
from wavernn_fast.files import write_atomic
from wavernn_fast.machine import machine
from wavernn_fast.synthetic import random_mel, random_model

MEDIAN, SPREAD = 2.0, 0.8  # seconds; standard deviation of the logarithm
SHORTEST, LONGEST = 0.1, 10.0  # seconds


def mixed_frames(count: int, frames_per_s: float, seed: int = 0) -> list[int]:
    """Frames of `count` utterances, the shortest and the longest possible among them."""
    random = np.random.default_rng(seed)
    seconds = np.clip(MEDIAN * np.exp(SPREAD * random.standard_normal(count)), SHORTEST, LONGEST)
    seconds[:2] = SHORTEST, LONGEST
    return [max(1, round(float(s) * frames_per_s)) for s in seconds]


def equal_frames(total: int, streams: int) -> list[int]:
    """The same frames dealt to `streams` utterances, lengths as equal as whole frames allow."""
    return [total // streams + (i < total % streams) for i in range(streams)]


def measure(voc: Vocoder, mels: Sequence[NDArray[np.float32]], streams: int) -> BatchReport:
    """One batch, from mels to waveforms."""
    reports: list[BatchReport] = []
    voc.generate_batch(mels, streams=streams, report=reports.append)
    return reports[0]


@dataclass
class Case:
    """One engine, and its batches of both kinds."""

    voc: Vocoder
    streams: int
    frames: dict[str, list[int]]  # way -> of each utterance
    mels: dict[str, list[NDArray[np.float32]]]
    reports: dict[str, list[BatchReport]] = field(
        default_factory=lambda: {"mixed": [], "equal": []}
    )

    def turn(self, reverse: bool) -> None:
        """Both ways, one after the other."""
        for way in sorted(self.mels, reverse=reverse):
            self.reports[way].append(measure(self.voc, self.mels[way], self.streams))

    def row(self) -> dict[str, Any]:
        """What was measured, ready for JSON."""
        pairs = zip(self.reports["mixed"], self.reports["equal"], strict=True)
        ratios = [mixed.samples_per_s / equal.samples_per_s for mixed, equal in pairs]
        row: dict[str, Any] = {
            "dtype": self.voc.dtype,
            "threads": self.voc.cpu_threads,
            "isa": self.voc.isa,
            "streams": self.streams,
            "ratio": statistics.median(ratios),
            "ratios": ratios,
        }
        for way, reports in self.reports.items():
            row[way] = {
                "utterances": len(self.frames[way]),
                "samples": reports[0].samples,
                "longest_samples": max(self.frames[way]) * self.voc.config.hop_length,
                "samples_per_s": statistics.median(r.samples_per_s for r in reports),
                "occupancy": reports[0].occupancy,
                "engine_share": statistics.median(r.engine_seconds / r.seconds for r in reports),
                "rounds": [asdict(r) for r in reports],
            }
        return row


def make_cases(args: argparse.Namespace) -> list[Case]:
    """One for each dtype and number of threads; all sound the same mels."""
    config, tensors = random_model(args.size)
    mixed = mixed_frames(args.utterances, config.sample_rate / config.hop_length / args.shorten)
    frames = {"mixed": mixed, "equal": equal_frames(sum(mixed), args.streams)}
    mels = {
        way: [random_mel(config, n, seed) for seed, n in enumerate(lengths)]
        for way, lengths in frames.items()
    }
    return [
        Case(
            Vocoder(config, tensors, device="cpu", dtype=dtype, cpu_threads=threads),
            args.streams,
            frames,
            mels,
        )
        for dtype in args.dtype.split(",")
        for threads in map(int, args.threads.split(","))
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = ["| dtype | threads | equal | mixed | of equal | occupancy | in the engine |"]
    lines.append("|---|---|---|---|---|---|---|")
    lines += [
        f"| {row['dtype']} | {row['threads']} | {row['equal']['samples_per_s']:,.0f} | "
        f"{row['mixed']['samples_per_s']:,.0f} | {row['ratio']:.1%} | "
        f"{row['mixed']['occupancy']:.1%} | {row['mixed']['engine_share']:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", default="dual-mel:896")
    parser.add_argument("--dtype", default="fp32,int8")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--utterances", type=int, default=256)
    parser.add_argument("--shorten", type=float, default=32.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output")
    args = parser.parse_args()
    cases = make_cases(args)
    for case in cases:  # warm-up
        measure(case.voc, [mel[:, :2] for mel in case.mels["equal"]], case.streams)
    for i in range(args.rounds):
        for case in cases if i % 2 == 0 else reversed(cases):
            case.turn(reverse=i % 2 == 1)
    rows = [case.row() for case in cases]
    print(table(rows))
    if args.output:
        command = shlex.join(["python", *sys.argv])
        report = {"command": command, "model": args.size, "machine": machine(), "rows": rows}
        text = json.dumps(report, indent=2, sort_keys=True) + "\n"
        write_atomic(args.output, [text.encode()])


if __name__ == "__main__":
    main()
