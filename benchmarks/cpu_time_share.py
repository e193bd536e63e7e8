"""Batches on one thread, as a share of the arithmetic peak, by processor time instead of wall time.

For a machine that other programs keep busy: `wavernn-fast bench` measures wall time and would count
their turns. Probe and engine are both divided by the processor time they got.

    python benchmarks/cpu_time_share.py --isa avx512vnni,avx2 --dtype fp32,int8 --streams 32
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

from wavernn_fast import _C, floors, synthetic


def processor_seconds(work: Callable[[], object]) -> float:
    """Processor time of this process while `work` runs."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def peak(kind: str, isa: str) -> float:
    """Operations a second of processor time that the probe reaches."""
    begin, rate = time.perf_counter(), 0.0

    def run() -> None:
        nonlocal rate
        rate = _C.probe(kind, 16384, 1, 0.03, isa)

    seconds = processor_seconds(run)
    return rate * (time.perf_counter() - begin) / seconds


def measure(isa: str, dtype: str, streams: int, rounds: int) -> tuple[float, float]:
    """Samples a second of all streams (dual 896) and their share of the peak, medians of rounds."""
    config, tensors = synthetic.random_model("dual:896")
    engine = _C.Engine(dataclasses.asdict(config), tensors, dtype=dtype, threads=1, isa=isa)
    opened, rows = [engine.open(i) for i in range(streams)], [None] * streams
    steps = max(8, 1500 // streams)
    kind, operations = floors.arithmetic(dtype)

    def run() -> None:
        engine.run(opened, [steps] * streams, rows, rows)

    run()
    rates, shares = [], []
    for _ in range(rounds):
        before = peak(kind, isa)
        rates.append(steps * streams / processor_seconds(run))
        limit = (before + peak(kind, isa)) / 2
        shares.append(rates[-1] * operations * engine.macs_per_step / limit)
    return statistics.median(rates), statistics.median(shares)


def main() -> None:
    """Print one line a combination."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", default=_C.available_isas()[-1])
    parser.add_argument("--dtype", default="fp32,fp16,bf16,int8,int8-fast")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for isa in options.isa.split(","):
        for dtype in options.dtype.split(","):
            rate, share = measure(isa, dtype, options.streams, options.rounds)
            print(f"{isa} {dtype}: {rate:,.0f} samples/s, {share:.0%} of the peak", flush=True)


if __name__ == "__main__":
    main()
