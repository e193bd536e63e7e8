"""Measured speed beside two yardsticks of the same minutes: eager PyTorch and the hardware floor.

Engine, baseline and floor probes take turns, so that a machine that slows down slows all of them.
Every figure is a median of rounds; the best is given beside it.

The floor of one stream is reading all weights once a sample, at the bandwidth measured for that
many bytes a thread. For eight streams or more it is arithmetic: 2 * macs_per_step operations a
stream and sample at the measured peak (int8: macs_per_step multiply-adds).
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig
from .errors import InputError, MissingDependencyError
from .synthetic import random_mel
from .vocoder import Vocoder

if TYPE_CHECKING:
    from .models.eager import EagerModel

Tensors = Mapping[str, NDArray[np.float32]]

ARITHMETIC_STREAMS = 8  # from here on the floor is arithmetic, below it is memory
_WARM_UP_STEPS = 200
_PROBE_SECONDS = 0.1


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str  # of the model
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
    samples_per_s_best: float
    samples_per_s_p10: float  # nine rounds of ten were faster
    x_realtime: float  # of the median, all streams
    x_realtime_stream: float  # of one stream
    floor: str  # "read", "fma" or "int8"
    floor_peak: float  # bytes/s, flop/s or multiply-adds/s, median of the probes
    floor_samples_per_s: float
    floor_share: float  # samples_per_s / floor_samples_per_s
    baseline_samples_per_s: float | None  # eager PyTorch float32; None: not run
    baseline_threads: int | None  # 1 or `threads`, whichever PyTorch was faster with
    speedup: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def measure(
    case: Case,
    config: ModelConfig,
    tensors: Tensors,
    *,
    rounds: int = 7,
    seconds: float = 0.5,
    baseline: bool = True,
) -> Row:
    """Measure one case.

    Parameters
    ----------
    rounds : int
        Turns of probe, engine, baseline, probe; 1 or more.
    seconds : float
        About how long engine and baseline run in a turn.
    baseline : bool
        Also run eager PyTorch with as many streams, on one thread or as many as the engine,
        whichever is faster; left out if it is not installed.
    """
    if rounds < 1 or not seconds > 0.0:
        raise InputError("Give at least one round of more than 0 seconds.")
    voc = Vocoder(config, tensors, dtype=case.dtype, cpu_threads=case.threads)
    run_engine = _engine_runner(voc, case.streams)
    run_eager, eager_threads = _best_eager(config, tensors, case) if baseline else (None, 0)
    engine_steps = _calibrate(run_engine, seconds)
    eager_steps = 0 if run_eager is None else _calibrate(run_eager, seconds)
    kind = _floor_kind(voc.dtype, case.streams)
    peaks, engine_rates, eager_rates = [], [], []
    for _ in range(rounds):
        peaks.append(_probe(voc, kind))
        engine_rates.append(_rate(run_engine, engine_steps, case.streams))
        if run_eager is not None:
            eager_rates.append(_rate(run_eager, eager_steps, case.streams))
        peaks.append(_probe(voc, kind))
    row = _row(case, voc, kind, peaks, engine_rates)
    if not eager_rates:
        return row
    base = statistics.median(eager_rates)
    return replace(
        row,
        baseline_samples_per_s=base,
        baseline_threads=eager_threads,
        speedup=row.samples_per_s / base,
    )


def _row(
    case: Case,
    voc: Vocoder,
    kind: str,
    peaks: Sequence[float],
    rates: Sequence[float],
) -> Row:
    rate, peak = statistics.median(rates), statistics.median(peaks)
    floor = _floor_rate(voc, kind, peak, case.streams)
    return Row(
        model=case.name,
        dtype=voc.dtype,
        isa=voc.isa,
        threads=voc.cpu_threads,
        streams=case.streams,
        rounds=len(rates),
        samples_per_s=rate,
        samples_per_s_best=max(rates),
        samples_per_s_p10=float(np.quantile(rates, 0.1)),
        x_realtime=rate / voc.sample_rate,
        x_realtime_stream=rate / case.streams / voc.sample_rate,
        floor=kind,
        floor_peak=peak,
        floor_samples_per_s=floor,
        floor_share=rate / floor,
        baseline_samples_per_s=None,
        baseline_threads=None,
        speedup=None,
    )


# --- what is timed --------------------------------------------------------------------------------


Runner = Callable[[int], tuple[int, float]]  # about n samples a stream -> (samples made, seconds)


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


def _eager_runner(config: ModelConfig, tensors: Tensors, case: Case, threads: int) -> Runner | None:
    """Make the same for PyTorch: its own loop, float32; None if it is not installed."""
    from .models.eager import make_eager

    try:
        model: EagerModel = make_eager(config, tensors, "float32")
    except MissingDependencyError:
        return None

    torch = sys.modules["torch"]  # the model has loaded it

    def run(steps: int) -> tuple[int, float]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        mel = random_mel(config, _frames(config, steps)) if config.n_mels else None
        started = time.perf_counter()
        model.generate(steps, mel, batch=case.streams)
        took = time.perf_counter() - started
        torch.set_num_threads(before)
        return steps, took

    return run


def _best_eager(config: ModelConfig, tensors: Tensors, case: Case) -> tuple[Runner | None, int]:
    """PyTorch with one thread or the case's, whichever is faster here, and how many that is."""
    best: tuple[float, Runner | None, int] = (0.0, None, 0)
    for threads in sorted({1, case.threads}):
        run = _eager_runner(config, tensors, case, threads)
        if run is not None:
            run(_WARM_UP_STEPS // 4)
            rate = _rate(run, _WARM_UP_STEPS, case.streams)
            best = max(best, (rate, run, threads), key=lambda entry: entry[0])
    return best[1], best[2]


def _calibrate(run: Runner, seconds: float) -> int:
    """Steps that take about `seconds`; warms everything up on the way."""
    steps = _WARM_UP_STEPS
    while True:
        made, took = run(steps)
        if took >= seconds / 4:
            return max(_WARM_UP_STEPS, int(made / took * seconds))
        steps = min(steps * 8, int(steps * max(2.0, seconds / max(took, 1e-6))))


def _rate(run: Runner, steps: int, streams: int) -> float:
    """Samples per second, all streams."""
    made, took = run(steps)
    return made * streams / took


# --- the floor ------------------------------------------------------------------------------------


def _floor_kind(dtype: str, streams: int) -> str:
    if streams < ARITHMETIC_STREAMS:
        return "read"
    return "int8" if dtype == "int8" else "fma"


def _probe(voc: Vocoder, kind: str) -> float:
    from . import _C

    share = max(1, voc.engine.weight_bytes // voc.cpu_threads)
    return _C.probe(kind, share, voc.cpu_threads, _PROBE_SECONDS, voc.isa)


def _floor_rate(voc: Vocoder, kind: str, peak: float, streams: int) -> float:
    """Samples per second, all streams, that the probed limit allows."""
    if kind == "read":
        return streams * peak / voc.engine.weight_bytes
    operations = voc.engine.macs_per_step * (1 if kind == "int8" else 2)
    return peak / operations


# --- the table ------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    from . import __version__

    return {
        "cpu": _cpu_name(),
        "cpus_allowed": allowed_cpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": _torch_version(),
        "wavernn_fast": __version__,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def allowed_cpus() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _torch_version() -> str | None:
    from importlib import metadata

    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def to_markdown(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """A table of the rows, and a line about the machine."""
    head = (
        "| model | dtype | threads | streams | samples/s | best | x real time | floor | "
        "share of floor | eager PyTorch | speed-up |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        base = (
            "not measured"
            if row.baseline_samples_per_s is None
            else f"{row.baseline_samples_per_s:,.0f} ({row.baseline_threads} thr.)"
        )
        speedup = "" if row.speedup is None else f"{row.speedup:.1f}"
        lines.append(
            f"| {row.model} | {row.dtype} | {row.threads} | {row.streams} | "
            f"{row.samples_per_s:,.0f} | {row.samples_per_s_best:,.0f} | {row.x_realtime:.2f} | "
            f"{row.floor} {row.floor_samples_per_s:,.0f} | {100 * row.floor_share:.0f} % | "
            f"{base} | {speedup} |"
        )
    isa = ", ".join(sorted({row.isa for row in rows}))
    lines += [
        "",
        f"{facts['cpu']}, {facts['cpus_allowed']} processors allowed, {isa}; median of "
        f"{rows[0].rounds if rows else 0} rounds; torch {facts['torch']}, "
        f"wavernn_fast {facts['wavernn_fast']}. Samples/s count all streams together.",
    ]
    return "\n".join(lines)
