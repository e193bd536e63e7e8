"""T(u) of the baselines: computation and overhead of every operation of their loops.

What an operation of a library costs without computing anything is measured by an empty twin: the
same loop over a model of the smallest widths, with as many layers, calls and classes. Its time is
the overhead d; what the model takes longer is the computation c, weights read from memory included.
Three limits follow. The draw is over the same classes in both, so all of it counts as d. Starting
the threads of a large product counts as c, since small ones are not shared out. And a loop that a
compiler has merged, or that runs on a GPU, is one operation.

Operations are timed by clocks that are put in for it (`clocks`), and the total without them. What
the clocks themselves cost is measured and taken off.
"""

from __future__ import annotations

import dataclasses
import time
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..baselines import Baseline
from ..baselines.base import Tensors
from ..baselines.wavenet import WaveNetConfig
from ..baselines.wavenet import random_tensors as random_wavenet_tensors
from ..canonical import expected_shapes
from ..config import ModelConfig
from ..errors import InputError
from .clocks import Clock, Now
from .runs import mel_for, steps_that_take
from .split import Operation, Split
from .split_engine import SEQUENTIAL
from .split_points import can_be_taken_apart, clocks_in

REST = "rest"  # what no operation is named for
WHOLE = "loop"  # of a loop that cannot be taken apart
_WARM_UP_STEPS = 8
_FEWEST_STEPS = 16


class _Timed(NamedTuple):
    """One run with clocks; times are ns of a step of all streams."""

    total: float
    ns: dict[str, float]  # by operation, REST included; what the clocks cost is taken off
    calls: dict[str, float]


def split_baseline(
    baseline: Baseline,
    *,
    model: str,
    rounds: int = 5,
    seconds: float = 0.3,
    now: Now = time.perf_counter_ns,
) -> Split:
    """Measure where the time of a sample goes in a baseline.

    Parameters
    ----------
    baseline : Baseline
    model : str
        What the result calls the model, such as "dual:896".
    rounds : int
        1 or more; every round runs baseline and twin, without clocks and with. Medians are given.
    seconds : float
        About how long one run takes, more than 0.
    now : callable
        The time in nanoseconds.

    Returns
    -------
    Split
        Times are of a step of all streams, in microseconds. Facts: `us_of_twin`, and where there
        are clocks `us_with_clocks` and `clock_us` (of one timed call); `below_twin_us`, the
        operations whose twin was slower, with by how much: these have c = 0 and d as measured;
        `steps`, `rounds`.

    Raises
    ------
    InputError
        If a number has no meaning.
    """
    if rounds < 1 or not seconds > 0.0:
        raise InputError("Give at least one round of more than 0 seconds.")
    twin = empty_twin(baseline)
    both = _Bench(baseline, seconds, now), _Bench(twin, seconds, now)
    for i in range(rounds):
        for one in both if i % 2 == 0 else both[::-1]:
            one.round()
    full, empty = both
    operations, below = _operations(full, empty)
    facts: dict[str, Any] = {"us_of_twin": 1e-3 * median(empty.plain)}
    if full.timed:
        facts["us_with_clocks"] = 1e-3 * median(run.total for run in full.timed)
        facts["clock_us"] = 1e-3 * sum(full.cost)
    return Split(
        model=model,
        runner=baseline.name,
        device=baseline.device,
        dtype="fp32",
        threads=baseline.threads,
        streams=baseline.streams,
        sequential=sequential(baseline.config),
        operations=operations,
        total_us=1e-3 * median(full.plain),
        method="empty twin",
        facts={**facts, "below_twin_us": below, "steps": full.steps, "rounds": rounds},
    )


def sequential(config: Any) -> int:
    """N: products of a sample that must follow each other."""
    if isinstance(config, WaveNetConfig):
        return config.sequential
    return SEQUENTIAL[config.core]


# --- the twin -------------------------------------------------------------------------------------


def empty_twin(baseline: Baseline) -> Baseline:
    """The same loop over a model of the smallest widths, with random weights."""
    config, tensors = smallest(baseline.config)
    return type(baseline)(
        config,
        tensors,
        streams=baseline.streams,
        threads=baseline.threads,
        device=baseline.device,
    )


def smallest(config: Any) -> tuple[Any, Tensors]:
    """A model with as many layers and classes, and the smallest widths."""
    if isinstance(config, WaveNetConfig):
        narrow = dataclasses.replace(config, residual_size=2, gate_size=2, skip_size=2)
        return narrow, random_wavenet_tensors(narrow)
    width = 32 if config.core == "dual" else 16  # what the cores are divisible by
    changes: dict[str, Any] = {"hidden_size": width, "fc_size": width}
    if config.aux_size:
        changes |= {"aux_channels": 4}
    small = dataclasses.replace(config, block_shape=None, pruned=(), **changes)
    return small, _random_tensors(small)


def _random_tensors(config: ModelConfig) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return {
        name: random.uniform(-0.1, 0.1, shape).astype(np.float32)
        for name, shape in expected_shapes(config).items()
    }


# --- running --------------------------------------------------------------------------------------


class _Bench:
    """Runs one baseline, without clocks and with."""

    def __init__(self, baseline: Baseline, seconds: float, now: Now) -> None:
        self.baseline, self.now = baseline, now
        self.apart = can_be_taken_apart(baseline)
        self.clock = Clock(now)
        self.cost = self.clock.cost() if self.apart else (0.0, 0.0)
        self.plain: list[float] = []  # ns of a step
        self.timed: list[_Timed] = []
        self.steps = self._calibrate(seconds)

    def round(self) -> None:
        """One run without clocks, one with."""
        self.plain.append(self._run(self.steps) / self.steps)
        if self.apart:
            self.timed.append(self._clocked())

    def _run(self, steps: int) -> int:
        """Nanoseconds of so many steps."""
        mel = mel_for(self.baseline.config, steps)
        begun = self.now()
        self.baseline.sample(steps, mel)
        return self.now() - begun

    def _calibrate(self, seconds: float) -> int:
        """Steps that take about so long, whole frames; warms everything up on the way."""
        frame = int(self.baseline.config.hop_length)  # its conditioning is made at once
        self._run(_WARM_UP_STEPS)
        return steps_that_take(
            seconds, lambda steps: (steps, 1e-9 * self._run(steps)), _FEWEST_STEPS, frame
        )

    def _clocked(self) -> _Timed:
        clock, (own, beside) = self.clock, self.cost
        clock.reset()
        with clocks_in(self.baseline, clock):
            total = self._run(self.steps)
        named = {k: v - own * clock.calls[k] for k, v in clock.ns.items()}
        calls = sum(clock.calls.values())
        rest = total - (own + beside) * calls - sum(named.values())
        ns = {name: value / self.steps for name, value in {**named, REST: rest}.items()}
        counts = {name: count / self.steps for name, count in clock.calls.items()}
        return _Timed(total / self.steps, ns, {**counts, REST: 1.0})


# --- the result -----------------------------------------------------------------------------------


def _operations(full: _Bench, empty: _Bench) -> tuple[tuple[Operation, ...], dict[str, float]]:
    """Operations, and those whose twin was slower: by how many microseconds."""
    below: dict[str, float] = {}

    def operation(name: str, count: float, whole: float, twin: float) -> Operation:
        if whole < twin:
            below[name] = 1e-3 * (twin - whole)
        d = max(0.0, min(whole, twin))
        return Operation(name, round(count), 1e-3 * max(0.0, whole - d), 1e-3 * d)

    if not full.timed:
        return (operation(WHOLE, 1, median(full.plain), median(empty.plain)),), below
    calls = full.timed[0].calls
    if calls.keys() != empty.timed[0].calls.keys():
        raise RuntimeError("The empty twin runs other operations; this is an error of the program.")
    found = tuple(operation(name, calls[name], _of(full, name), _of(empty, name)) for name in calls)
    return found, below


def _of(one: _Bench, name: str) -> float:
    """Median over the rounds, ns of a step."""
    return median(run.ns[name] for run in one.timed)
