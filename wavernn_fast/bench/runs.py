"""What takes turns in a session: engines with probes of their floor, baselines, probes alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import floors
from ..config import ModelConfig
from ..synthetic import random_mel, random_speaker
from ..vocoder import Vocoder
from .rows import ENGINE, Case

Tensors = Mapping[str, NDArray[np.float32]]
Model = tuple[Any, Tensors]  # a ModelConfig, or the configuration of what only baselines run
Runner = Callable[[int], tuple[int, float]]  # about n samples a stream -> (samples made, seconds)

_FEWEST_STEPS = 8  # of a run: a large batch takes long
_WARM_UP_STEPS = 25
_GROWTH = 8  # of the number of steps, from one run of the calibration to the next, at the most


def steps_that_take(seconds: float, run: Runner, fewest: int, whole: int = 1) -> int:
    """Steps of a run that takes about `seconds`; the runs it takes to find out warm up everything.

    Parameters
    ----------
    seconds : float
    run : Runner
    fewest : int
        Steps of the first run, and the fewest that are returned.
    whole : int
        All numbers of steps are multiples of it, such as the hop length of what makes its
        conditioning by the frame.
    """
    steps = least = whole * -(-fewest // whole)
    while True:
        made, took = run(steps)
        if took >= seconds / 4:
            return max(least, whole * int(made / took * seconds / whole))
        wanted = int(steps * max(2.0, seconds / max(took, 1e-6)))
        steps = whole * -(-min(steps * _GROWTH, wanted) // whole)


class Probe:
    """The floor of some work, asked for in these very minutes.

    Parameters
    ----------
    work : floors.Work
    streams : int
        Of the case; those of the engine are `rows` times as many.
    rows : int
        Of a subscale model; else 1.
    """

    def __init__(self, work: floors.Work, streams: int, rows: int = 1) -> None:
        self.work, self.rows = work, rows
        self._kinds = floors.kinds(work.dtype, streams * rows)
        self.rounds: list[dict[str, float]] = []

    def read(self) -> dict[str, float]:
        """Rates of this moment."""
        return {kind: floors.probe(self.work, kind) for kind in self._kinds}

    def medians(self) -> dict[str, float]:
        """Over the rounds."""
        return floors.medians(self.rounds)


@dataclass
class Run:
    """Something that is timed once a round."""

    case: Case
    run: Runner
    runner: str = ENGINE
    steps: int = 0
    rates: list[float] = field(default_factory=list)  # samples/s, all streams
    logit_error: float | None = None  # of a baseline

    def calibrate(self, seconds: float) -> None:
        """Find the steps that take about `seconds`; warms everything up on the way."""
        fewest = _FEWEST_STEPS if self.runner != ENGINE else _WARM_UP_STEPS
        self.steps = steps_that_take(seconds, self.run, fewest)

    def measure(self) -> None:
        """One turn."""
        made, took = self.run(self.steps)
        self.rates.append(made * self.case.streams / took)


@dataclass
class EngineRun(Run):
    """An engine; on the CPU its floor is probed before and after."""

    voc: Vocoder | None = None
    probe: Probe | None = None

    def measure(self) -> None:
        """One turn between two probes."""
        if self.probe is None:
            super().measure()
            return
        before = self.probe.read()
        super().measure()
        after = self.probe.read()
        self.probe.rounds.append({kind: 0.5 * (before[kind] + after[kind]) for kind in before})


@dataclass
class ProbeRun(Run):
    """The floor alone: for baselines beside which no engine reads the same weights."""

    probe: Probe = field(kw_only=True)

    def measure(self) -> None:
        """One turn."""
        self.probe.rounds.append(self.probe.read())


def probe_run(case: Case, work: floors.Work, rows: int) -> ProbeRun:
    """A run that only probes."""
    return ProbeRun(case, lambda steps: (steps, 1.0), probe=Probe(work, case.streams, rows))


def rows_of(config: Any) -> int:
    """Streams of the engine for each of a case: the rows of a subscale model."""
    return int(getattr(config, "subscale_factor", 1))


class Engines:
    """Makes the runs of the engines of a session; cases that differ in streams share an engine.

    On a GPU in clusters of so many blocks; see `Vocoder`.
    """

    def __init__(self, gpu_cluster: int = 0) -> None:
        self._gpu_cluster = gpu_cluster
        self._made: dict[tuple[str, str, int, str, int], Vocoder] = {}

    def run(self, case: Case, model: Model) -> EngineRun:
        """What times a case.

        Raises
        ------
        DeviceError, InputError
            If the device, or the dtype on it, is not to be had.
        """
        voc = self.vocoder(case, model)
        probe = None
        if case.device == "cpu":
            probe = Probe(floors.Work.of(voc), case.streams, rows_of(voc.config))
        return EngineRun(case, engine_runner(voc, case.streams), voc=voc, probe=probe)

    def vocoder(self, case: Case, model: Model) -> Vocoder:
        """The engine of a case."""
        on_gpu = 1 if case.device == "cpu" else case.streams  # a GPU's kernel is made for a number
        key = case.name, case.dtype, case.threads, case.device, on_gpu
        if key not in self._made:
            self._made[key] = Vocoder(
                *model,
                device=case.device,
                dtype=case.dtype,
                cpu_threads=case.threads,
                gpu_streams=on_gpu,
                gpu_cluster=self._gpu_cluster,
            )
        return self._made[key]


def engine_runner(voc: Vocoder, streams: int) -> Runner:
    """From mels to waveforms: conditioning and decoding are timed too."""
    config = voc.config

    def run(steps: int) -> tuple[int, float]:
        if config.n_mels == 0:
            return _unconditioned(voc, streams, steps)
        mels = [random_mel(config, frames(config, steps), seed) for seed in range(streams)]
        speakers = None
        if config.speaker_size:
            speakers = [random_speaker(config, seed) for seed in range(streams)]
        started = time.perf_counter()
        waves = voc.generate_batch(mels, speakers=speakers, streams=streams)
        return len(waves[0]), time.perf_counter() - started

    return run


def _unconditioned(voc: Vocoder, streams: int, steps: int) -> tuple[int, float]:
    from ..lanes import SLICE_STEPS, let_signals_in

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


def frames(config: ModelConfig, steps: int) -> int:
    """Mel frames that give at least `steps` samples."""
    count = -(-steps // config.hop_length) + (config.output.length == "frames_minus_one")
    if config.pad == "none":
        count += config.lookback_frames + config.lookahead_frames
    return count


def mel_for(config: Any, steps: int) -> NDArray[np.float32] | None:
    """A mel [n_mels, n_frames] that covers `steps` samples; None where a model hears none."""
    if not getattr(config, "n_mels", 0):
        return None
    return random_mel(config, frames(config, steps))
