"""Is a mixture of short and long utterances as fast as utterances of one length?

Both have the same number of samples. Lengths are drawn as a speaking program has them: log-normal
around 2 s, from 0.1 s to 10 s. All are divided by --shorten, so that a run takes a minute, not a
quarter of an hour; what an utterance costs beside its samples then weighs as many times as much.
Both ways take turns, in rounds that alternate in order, and every figure is a median.

    python benchmarks/mixed_lengths.py --output results.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
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


def compare(voc: Vocoder, args: argparse.Namespace) -> dict[str, Any]:
    """Both ways in turns; a row of the report."""
    config = voc.config
    per_s = config.sample_rate / config.hop_length / args.shorten
    mixed = mixed_frames(args.utterances, per_s)
    lengths = {"mixed": mixed, "equal": equal_frames(sum(mixed), args.streams)}
    mels = {
        way: [random_mel(config, n, seed) for seed, n in enumerate(frames)]
        for way, frames in lengths.items()
    }
    runs: dict[str, list[BatchReport]] = {way: [] for way in mels}
    measure(voc, [mel[:, :2] for mel in mels["equal"]], args.streams)  # warm-up
    for i in range(args.rounds):
        for way in sorted(mels, reverse=i % 2 == 1):
            runs[way].append(measure(voc, mels[way], args.streams))
    ratios = [m.samples_per_s / e.samples_per_s for m, e in zip(*runs.values(), strict=True)]
    row: dict[str, Any] = {
        "dtype": voc.dtype,
        "threads": voc.cpu_threads,
        "isa": voc.isa,
        "streams": args.streams,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }
    for way, reports in runs.items():
        row[way] = {
            "utterances": len(lengths[way]),
            "samples": reports[0].samples,
            "longest_samples": max(lengths[way]) * config.hop_length,
            "samples_per_s": statistics.median(r.samples_per_s for r in reports),
            "occupancy": reports[0].occupancy,
            "engine_share": statistics.median(r.engine_seconds / r.seconds for r in reports),
            "rounds": [asdict(r) for r in reports],
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", default="dual-mel:896")
    parser.add_argument("--dtype", default="fp32,int8")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--utterances", type=int, default=256)
    parser.add_argument("--shorten", type=float, default=16.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output")
    args = parser.parse_args()
    config, tensors = random_model(args.size)
    rows = []
    print("| dtype | threads | equal | mixed | of equal | occupancy | in the engine |")
    print("|---|---|---|---|---|---|---|")
    for dtype in args.dtype.split(","):
        for threads in map(int, args.threads.split(",")):
            voc = Vocoder(config, tensors, device="cpu", dtype=dtype, cpu_threads=threads)
            row = compare(voc, args)
            rows.append(row)
            print(
                f"| {dtype} | {threads} | {row['equal']['samples_per_s']:,.0f} | "
                f"{row['mixed']['samples_per_s']:,.0f} | {row['ratio']:.1%} | "
                f"{row['mixed']['occupancy']:.1%} | {row['mixed']['engine_share']:.1%} |",
                flush=True,
            )
    if args.output:
        command = shlex.join(["python", *sys.argv])
        report = {"command": command, "model": args.size, "machine": machine(), "rows": rows}
        text = json.dumps(report, indent=2, sort_keys=True) + "\n"
        write_atomic(args.output, [text.encode()])


if __name__ == "__main__":
    main()
