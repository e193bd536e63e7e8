"""How many samples a second can the host feed to a GPU that runs many streams, and take from it?

A stand-in for the engine waits as long as a GPU of a given speed would draw, and takes no
processor time; before it waits it copies the rows twice, as the engine and the driver do. All
else is what `generate_batch` does for mels in the host's memory: conditioning, slices, decoding.
With one group of streams the device waits for the host between slices, with two they take turns.
With --free-rows conditioning and copies cost nothing: what is left is Python and decoding.
Ways take turns in rounds that alternate in order; every figure is a median.

    python benchmarks/host_limit.py --output results.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from wavernn_fast import _C, arrays
from wavernn_fast.batch import Batch, BatchReport, make_requests, run_batch
from wavernn_fast.conditioning_network import make_conditioner
from wavernn_fast.devices import default_threads
from wavernn_fast.files import write_atomic
from wavernn_fast.machine import machine
from wavernn_fast.synthetic import random_mel, random_model
from wavernn_fast.utterance import Sampling, Voice

MODELS = ("dual-mel:896", "residual:512", "residual-mol:512", "embedded:896")


class StandIn:
    """An engine that draws zeros at so many samples a second, one call at a time."""

    device = "cuda"

    def __init__(self, config: Any, tensors: Any, streams: int, rate: float) -> None:
        sizes = _C.Engine(dataclasses.asdict(config), tensors, device="reference")
        self.hold_size, self.interp_size = sizes.hold_size, sizes.interp_size
        self.lanes, self.rate = streams, rate
        self.busy = 0.0  # seconds
        self.free = False
        self._alone = threading.Lock()
        self._kind = np.float32 if config.draws_values else np.int32

    def open(self, seed: int, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(step=0)

    def run(
        self, streams: Sequence[Any], steps: Sequence[int], interp: Any, hold: Any, **_: Any
    ) -> list[tuple[Any, None]]:
        for rows in (interp, hold):
            given = [one for one in rows if one is not None]
            if given and not self.free:
                np.concatenate(given).copy()
        with self._alone:
            seconds = sum(steps) / self.rate
            time.sleep(seconds)
            self.busy += seconds
        return [(np.zeros(n, self._kind), None) for n in steps]


class FreeVoice(Voice):
    """One whose rows are there already, the same for all."""

    def source(self, request: Any) -> Any:
        interp, hold = (
            np.zeros((300, size), np.float32) if size else None
            for size in (self.engine.interp_size, self.engine.hold_size)
        )
        return SimpleNamespace(ask=lambda first, n: None, rows=lambda first, n: (interp, hold))


@dataclasses.dataclass
class Case:
    """One model on the stand-in with one or two groups of streams."""

    model: str
    turns: int
    streams: int
    rate: float
    run: Callable[[], BatchReport]
    engine: StandIn
    reports: list[BatchReport] = dataclasses.field(default_factory=list)
    shares: list[float] = dataclasses.field(default_factory=list)
    processor: list[float] = dataclasses.field(default_factory=list)

    def turn(self) -> None:
        self.engine.busy, begun = 0.0, time.process_time()
        report = self.run()
        self.processor.append(1e9 * (time.process_time() - begun) / report.samples)
        self.shares.append(self.engine.busy / report.seconds)
        self.reports.append(report)

    def row(self) -> dict[str, Any]:
        """What was measured, ready for JSON."""
        return {
            "model": self.model,
            "groups": self.turns,
            "streams": self.streams,
            "device_samples_per_s": self.rate,
            "samples": self.reports[0].samples,
            "samples_per_s": statistics.median(r.samples_per_s for r in self.reports),
            "device_busy": statistics.median(self.shares),
            "processor_ns_per_sample": statistics.median(self.processor),
            "rounds": [r.samples_per_s for r in self.reports],
        }


def predicted(model: str, config: Any) -> tuple[int, float]:
    """Streams, and samples a second of all, of the planner's choice for most samples."""
    plan = _C.many_plan(dataclasses.asdict(config), gpu="H200", streams=0)
    return int(plan["slots"]), float(plan["throughput"])


def make_cases(args: argparse.Namespace) -> list[Case]:
    cases = []
    for model in args.models.split(","):
        config, tensors = random_model(model)
        streams, rate = predicted(model, config)
        frames = max(1, round(args.seconds * config.sample_rate / config.hop_length))
        mels = [random_mel(config, frames, seed) for seed in range(4)]
        requests = make_requests(config, (mels * streams)[: 2 * streams], None, arrays.HOST_MEMORY)
        for turns in (1, 2):
            engine = StandIn(config, tensors, streams, rate)
            conditioner = make_conditioner(config, tensors)
            engine.free = args.free_rows
            kind = FreeVoice if args.free_rows else Voice
            voice = kind(config, engine, conditioner, row_threads=default_threads())  # type: ignore[arg-type]
            batch = Batch(voice, Sampling(1.0, False, None), turns=turns)

            def run(batch: Batch = batch, requests: Any = requests) -> BatchReport:
                reports: list[BatchReport] = []
                run_batch(batch, requests, report=reports.append)
                return reports[0]

            cases.append(Case(model, turns, streams, rate, run, engine))
    return cases


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = [
        "| model | streams | device, samples/s | groups | samples/s | device busy "
        "| processor, ns a sample |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {row['streams']} | {row['device_samples_per_s']:,.0f} "
        f"| {row['groups']} | {row['samples_per_s']:,.0f} | {row['device_busy']:.0%} "
        f"| {row['processor_ns_per_sample']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of an utterance")
    parser.add_argument("--free-rows", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # random mels are of no convention
    cases = make_cases(args)
    for i in range(args.rounds):
        for case in cases if i % 2 == 0 else reversed(cases):
            case.turn()
    rows = [case.row() for case in cases]
    print(table(rows))
    if args.output:
        report = {
            "benchmark": "host_limit",
            "command": shlex.join(["python", *sys.argv]),
            "threads": default_threads(),
            "machine": machine(),
            "rows": rows,
        }
        text = json.dumps(report, indent=2, sort_keys=True) + "\n"
        write_atomic(args.output, [text.encode()])


if __name__ == "__main__":
    main()
