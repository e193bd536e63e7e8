"""One line of a result: what ran, how fast, beside what else could be had in the same minutes.

An engine and a baseline have the same fields, so that one table holds both; what does not apply is
None. `docs/benchmarking.md` explains the fields to readers of the files.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

ENGINE = "wavernn_fast"  # the runner of the rows of the package's own engines


@dataclass(frozen=True)
class Case:
    """What an engine is to do."""

    name: str  # of the model, a key of the session's models
    dtype: str
    threads: int
    streams: int
    device: str = "cpu"  # "cpu", "cuda" or "emu"


@dataclass(frozen=True)
class Row:
    """What was measured for one engine or baseline; rates are all streams together."""

    model: str
    runner: str  # `ENGINE`, or the name of a baseline
    device: str  # "cpu", "cuda" or "emu"
    device_name: str  # of the processor or the GPU
    dtype: str  # of the weights in memory
    isa: str  # of the engine; for a baseline the best of the machine, which libraries choose from
    threads: int
    streams: int
    rounds: int
    samples_per_s: float  # median
    samples_per_s_p10: float  # nine rounds of ten were faster
    samples_per_s_best: float
    spread: float  # half of what lies between the slowest and the fastest tenth, over the median
    rates: tuple[float, ...]  # samples/s of every round, in order
    x_realtime: float  # of the median, all streams
    x_realtime_stream: float  # of one stream
    n_weights: int  # numbers in the model, zeros and conditioning too
    weight_bytes: int  # read in a step; of several bands, for a sample of one
    macs_per_step: int  # multiply-adds of a step of one stream; the same
    probes: dict[str, float]  # kind -> bytes/s (read), flop/s (fma), multiply-adds/s; medians
    floor: str | None  # the tightest limit, one of the probes; None: no probe of this device
    floor_samples_per_s: float | None
    share_of_floor: float | None  # samples_per_s / floor_samples_per_s
    share_of_read: float | None  # the same against reading alone; None from 8 streams on
    eager_samples_per_s: float | None  # PyTorch float32, one stream; None: not run
    eager_threads: int | None  # 1 or `threads`, whichever was faster
    ratio_to_eager: float | None
    eager_batch_samples_per_s: float | None  # the best batch that ran; None: no batch ran
    eager_batch_streams: int | None
    eager_batch_threads: int | None
    ratio_to_eager_batch: float | None
    fastest_baseline: str | None  # with no more threads; of one stream: on one stream
    fastest_baseline_samples_per_s: float | None
    fastest_baseline_streams: int | None
    fastest_baseline_threads: int | None
    ratio_to_fastest: float | None
    logit_error: float | None  # of a baseline, largest, against the readable engine

    @property
    def is_baseline(self) -> bool:
        """Whether this is something that the engines are compared with."""
        return self.runner != ENGINE

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "rates": list(self.rates)}


FIELDS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Left:
    """A baseline, or a case of an engine, that has no row, and why."""

    runner: str
    model: str | None  # None: whatever the model
    reason: str  # one sentence
    device: str = "cpu"
    streams: int | None = None
    threads: int | None = None
    logit_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def sentence(self) -> str:
        """For people."""
        where = f"{self.runner}, {self.model}" if self.model else self.runner
        return f"{where}: {self.reason}"


@dataclass(frozen=True)
class Result:
    """All of a session."""

    rows: tuple[Row, ...]  # of the engines, in the order of the cases; then of the baselines
    refused: tuple[Left, ...] = ()  # baselines whose logits are not those of the model
    left_out: tuple[Left, ...] = ()  # what could not run here, such as for want of a package

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: "isa", "rows", "refused", "left_out"."""
        return {
            "isa": sorted({row.isa for row in self.rows if not row.is_baseline}),
            "rows": [row.to_dict() for row in self.rows],
            "refused": [one.to_dict() for one in self.refused],
            "left_out": [one.to_dict() for one in self.left_out],
        }


def speeds(rates: Sequence[float], streams: int, sample_rate: float) -> dict[str, Any]:
    """The fields of a row that the rates of its rounds give.

    Parameters
    ----------
    rates : samples/s of all streams, one a round
    streams : int
    sample_rate : Hz
    """
    median = statistics.median(rates)
    slow, fast = (float(q) for q in np.quantile(rates, (0.1, 0.9)))
    return {
        "streams": streams,
        "rounds": len(rates),
        "samples_per_s": median,
        "samples_per_s_p10": slow,
        "samples_per_s_best": max(rates),
        "spread": 0.5 * (fast - slow) / median,
        "rates": tuple(rates),
        "x_realtime": median / sample_rate,
        "x_realtime_stream": median / streams / sample_rate,
    }


# Facts of `machine.machine` that every line of csv and jsonl carries.
MACHINE_FIELDS = (
    "cpu",
    "cores",
    "cpus_allowed",
    "system",
    "python",
    "numpy",
    "torch",
    "onnxruntime",
    "wavernn_fast",
    "load_average",
    "date",
)


def flat(row: Row, command: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    """A row that stands alone: with the machine, its versions and the command."""
    facts = {name: machine.get(name) for name in MACHINE_FIELDS}
    return {**row.to_dict(), **facts, "command": command}
