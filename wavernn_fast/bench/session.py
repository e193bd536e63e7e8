"""Measured speed beside two yardsticks of the same minutes: eager PyTorch and the hardware floor.

All cases of a session take turns: in every round each engine runs between two probes of its floor,
and each PyTorch baseline runs once. So a machine that slows down slows everything that is compared.
Every figure is a median of the rounds; the best and the slowest tenth are given beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import floors
from .config import ModelConfig
from .errors import InputError, MissingDependencyError
from .synthetic import random_mel
from .vocoder import Vocoder

if TYPE_CHECKING:
    from .models.eager import EagerModel

Tensors = Mapping[str, NDArray[np.float32]]

_WARM_UP_STEPS = 200


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str  # of the model, a key of the session's models
    dtype: str
    threads: int
    streams: int


@dataclass(frozen=True)
class Row:
    """What was measured for a case; rates are all streams together."""

    model: str
    dtype: str
    isa: str
    threads: int
    streams: int
    rounds: int
    samples_per_s: float  # median
    samples_per_s_p10: float  # nine rounds of ten were faster
    samples_per_s_best: float
    x_realtime: float  # of the median, all streams
    x_realtime_stream: float  # of one stream
    weight_bytes: int
    macs_per_step: int
    probes: dict[str, float]  # kind -> bytes/s (read), flop/s (fma), multiply-adds/s; medians
    floor: str  # the tightest limit, one of the probes
    floor_samples_per_s: float
    share_of_floor: float  # samples_per_s / floor_samples_per_s
    share_of_read: float | None  # the same against reading alone; None from 8 streams on
    eager_samples_per_s: float | None  # PyTorch float32, one stream; None: not run
    eager_threads: int | None  # 1 or `threads`, whichever was faster
    ratio_to_eager: float | None
    eager_batch_samples_per_s: float | None  # the best batch that ran; None: no batch ran
    eager_batch_streams: int | None
    eager_batch_threads: int | None
    ratio_to_eager_batch: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def measure(
    models: Mapping[str, tuple[ModelConfig, Tensors]],
    cases: Sequence[Case],
    *,
    rounds: int = 5,
    seconds: float = 0.5,
    baseline: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[Row]:
    """Measure all cases in one interleaved session.

    Parameters
    ----------
    models : name -> configuration and canonical tensors
    cases : what to run; every name in `models`
    rounds : int
        1 or more. Odd rounds run in reverse order.
    seconds : float
        About how long one engine or baseline runs in a round.
    baseline : bool
        Also run eager PyTorch, if it is installed: one stream, and every number of streams of
        `cases`; on one thread and on every number of threads of `cases`.
    progress : callable, optional
        Called with 1 after every measurement; there are `measurements(...)` of them.

    Returns
    -------
    list of Row
        In the order of `cases`.
    """
    if rounds < 1 or not seconds > 0.0:
        raise InputError("Give at least one round of more than 0 seconds.")
    runs = list(_engine_runs(models, cases))
    eager = list(_eager_runs(models, cases)) if baseline else []
    for one in (*runs, *eager):
        one.steps = _calibrate(one.run, seconds)
    for i in range(rounds):
        order = [*runs, *eager]
        for one in order if i % 2 == 0 else reversed(order):
            one.measure()
            if progress is not None:
                progress(1)
    return [_row(run, eager) for run in runs]


def measurements(cases: Sequence[Case], rounds: int, baseline: bool = True) -> int:
    """How often `progress` of `measure` is called at the most."""
    pairs = {pair for case in cases for pair in _eager_keys(case)} if baseline else set()
    return rounds * (len(cases) + len(pairs))


# --- what is timed --------------------------------------------------------------------------------


Runner = Callable[[int], tuple[int, float]]  # about n samples a stream -> (samples made, seconds)


@dataclass
class _Run:
    """Something that is timed once a round."""

    case: Case
    run: Runner
    steps: int = 0
    rates: list[float] = field(default_factory=list)  # samples/s, all streams

    def measure(self) -> None:
        made, took = self.run(self.steps)
        self.rates.append(made * self.case.streams / took)


@dataclass
class _EngineRun(_Run):
    """An engine; its floor is probed before and after."""

    voc: Vocoder | None = None
    probes: list[dict[str, float]] = field(default_factory=list)

    def measure(self) -> None:
        before = self._probe()
        super().measure()
        after = self._probe()
        self.probes.append({kind: 0.5 * (before[kind] + after[kind]) for kind in before})

    def _probe(self) -> dict[str, float]:
        voc = self.voc
        assert voc is not None
        rows = voc.config.subscale_factor  # streams of the engine for each of the case
        kinds = floors.kinds(voc.dtype, self.case.streams * rows)
        return {kind: floors.probe(voc, kind) for kind in kinds}


def _engine_runs(
    models: Mapping[str, tuple[ModelConfig, Tensors]], cases: Sequence[Case]
) -> Iterator[_EngineRun]:
    made: dict[tuple[str, str, int], Vocoder] = {}  # cases that differ in streams share one
    for case in cases:
        key = case.name, case.dtype, case.threads
        if key not in made:
            made[key] = Vocoder(*models[case.name], dtype=case.dtype, cpu_threads=case.threads)
        yield _EngineRun(case, _engine_runner(made[key], case.streams), voc=made[key])


def _engine_runner(voc: Vocoder, streams: int) -> Runner:
    """From mels to waveforms: conditioning and decoding are timed too."""
    config = voc.config

    def run(steps: int) -> tuple[int, float]:
        if config.n_mels == 0:
            return _unconditioned(voc, streams, steps)
        mels = [random_mel(config, _frames(config, steps), seed) for seed in range(streams)]
        started = time.perf_counter()
        waves = voc.generate_batch(mels, streams=streams)
        return len(waves[0]), time.perf_counter() - started

    return run


def _unconditioned(voc: Vocoder, streams: int, steps: int) -> tuple[int, float]:
    from .lanes import SLICE_STEPS, let_signals_in

    started = time.perf_counter()
    if voc.config.subscale is not None:
        for seed in range(streams):  # one after the other: each is a batch of rows
            voc.generate(n_samples=steps, seed=seed)
        return steps, time.perf_counter() - started
    lanes = [voc.engine.open(seed) for seed in range(streams)]
    nothing: list[None] = [None] * streams
    started = time.perf_counter()
    for first in range(0, steps, SLICE_STEPS):
        count = min(SLICE_STEPS, steps - first)
        voc.engine.run(lanes, [count] * streams, nothing, nothing, interrupt=let_signals_in)
    return steps, time.perf_counter() - started


def _frames(config: ModelConfig, steps: int) -> int:
    """Mel frames that give at least `steps` samples."""
    frames = -(-steps // config.hop_length) + (config.output.length == "frames_minus_one")
    if config.pad == "none":
        frames += config.lookback_frames + config.lookahead_frames
    return frames


def _eager_keys(case: Case) -> list[tuple[str, int, int]]:
    """Baselines that a case is compared with: (model, streams, threads)."""
    return [
        (case.name, streams, threads)
        for streams in sorted({1, case.streams})
        for threads in sorted({1, case.threads})
    ]


def _eager_runs(
    models: Mapping[str, tuple[ModelConfig, Tensors]], cases: Sequence[Case]
) -> Iterator[_Run]:
    """PyTorch's own loops, float32; none if it is not installed."""
    from .models.eager import make_eager

    made: dict[str, EagerModel] = {}
    for name, streams, threads in dict.fromkeys(key for case in cases for key in _eager_keys(case)):
        if name not in made:
            try:
                made[name] = make_eager(*models[name], "float32")
            except MissingDependencyError:
                return
        case = Case(name, "fp32", threads, streams)
        yield _Run(case, _eager_runner(made[name], models[name][0], case))


def _eager_runner(model: EagerModel, config: ModelConfig, case: Case) -> Runner:
    from .models.eager import torch_threads

    def run(steps: int) -> tuple[int, float]:
        mel = random_mel(config, _frames(config, steps)) if config.n_mels else None
        with torch_threads(case.threads):
            started = time.perf_counter()
            model.generate(steps, mel, batch=case.streams)
            return steps, time.perf_counter() - started

    return run


def _calibrate(run: Runner, seconds: float) -> int:
    """Steps that take about `seconds`; warms everything up on the way."""
    steps = _WARM_UP_STEPS // 8  # a large batch takes long
    while True:
        made, took = run(steps)
        if took >= seconds / 4:
            return max(_WARM_UP_STEPS // 8, int(made / took * seconds))
        steps = min(steps * 8, int(steps * max(2.0, seconds / max(took, 1e-6))))


# --- the rows -------------------------------------------------------------------------------------


def _row(run: _EngineRun, eager: Sequence[_Run]) -> Row:
    case, voc = run.case, run.voc
    assert voc is not None
    rate, probes = statistics.median(run.rates), floors.medians(run.probes)
    side_by_side = case.streams * voc.config.subscale_factor
    floor = floors.floor(voc, side_by_side, probes)
    allowed = floor.samples_per_s(side_by_side)
    peers = [e for e in eager if e.case.name == case.name and e.case.threads in (1, case.threads)]
    single, single_threads, _ = _fastest([e for e in peers if e.case.streams == 1])
    batch, batch_threads, batch_streams = _fastest(
        [e for e in peers if e.case.streams > 1 and case.streams > 1]
    )
    few = side_by_side < floors.ARITHMETIC_STREAMS
    return Row(
        model=case.name,
        dtype=voc.dtype,
        isa=voc.isa,
        threads=voc.cpu_threads,
        streams=case.streams,
        rounds=len(run.rates),
        samples_per_s=rate,
        samples_per_s_p10=float(np.quantile(run.rates, 0.1)),
        samples_per_s_best=max(run.rates),
        x_realtime=rate / voc.sample_rate,
        x_realtime_stream=rate / case.streams / voc.sample_rate,
        weight_bytes=voc.engine.weight_bytes,
        macs_per_step=voc.engine.macs_per_step,
        probes=probes,
        floor=floor.limit,
        floor_samples_per_s=allowed,
        share_of_floor=rate / allowed,
        share_of_read=rate / floor.samples_per_s(case.streams, "read") if few else None,
        eager_samples_per_s=single,
        eager_threads=single_threads,
        ratio_to_eager=None if single is None else rate / single,
        eager_batch_samples_per_s=batch,
        eager_batch_streams=batch_streams,
        eager_batch_threads=batch_threads,
        ratio_to_eager_batch=None if batch is None else rate / batch,
    )


def _fastest(runs: Sequence[_Run]) -> tuple[float, int, int] | tuple[None, None, None]:
    """(median samples/s, threads, streams) of the fastest baseline; None where there is none."""
    if not runs:
        return None, None, None
    best = max(runs, key=lambda run: statistics.median(run.rates))
    return statistics.median(best.rates), best.case.threads, best.case.streams


def to_markdown(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """A table of the rows, and a line about the machine."""
    heads = (
        "model", "dtype", "threads", "streams", "samples/s", "slowest tenth", "best",
        "x real time", "floor", "share of floor", "of read", "eager, 1 stream", "ratio",
        "eager, best batch", "ratio",
    )  # fmt: skip
    lines = [_line(heads), "|" + "---|" * len(heads)]
    lines += [_line(_cells(row)) for row in rows]
    isa = ", ".join(sorted({row.isa for row in rows}))
    lines += [
        "",
        f"{facts['cpu']}, {facts['cores']} cores, {facts['cpus_allowed']} allowed, {isa}; medians "
        f"of {rows[0].rounds if rows else 0} rounds; torch {facts['torch']}, "
        f"wavernn_fast {facts['wavernn_fast']}, {facts['date']}. Samples/s count all streams "
        "together; (n t) is PyTorch on n threads, (B = n) its batch.",
    ]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(row: Row) -> list[str]:
    eager, ratio = "not measured", ""
    if row.eager_samples_per_s is not None:
        eager, ratio = (
            f"{row.eager_samples_per_s:,.0f} ({row.eager_threads} t)",
            f"{row.ratio_to_eager:.1f}",
        )
    batch, batch_ratio = "", ""
    if row.eager_batch_samples_per_s is not None:
        batch = (
            f"{row.eager_batch_samples_per_s:,.0f} (B = {row.eager_batch_streams}, "
            f"{row.eager_batch_threads} t)"
        )
        batch_ratio = f"{row.ratio_to_eager_batch:.1f}"
    return [
        row.model, row.dtype, str(row.threads), str(row.streams), f"{row.samples_per_s:,.0f}",
        f"{row.samples_per_s_p10:,.0f}", f"{row.samples_per_s_best:,.0f}",
        f"{row.x_realtime:.2f}", f"{row.floor} {row.floor_samples_per_s:,.0f}",
        f"{100 * row.share_of_floor:.0f} %",
        "" if row.share_of_read is None else f"{100 * row.share_of_read:.0f} %",
        eager, ratio, batch, batch_ratio,
    ]  # fmt: skip
