"""Where the time of a sample goes in our own engines.

On a CPU the engine has clocks (`_C.Engine(clocks=True)`): the thread that called it says after
every stage what it has just done, so the stages add up to the time of the run. What is computed is
c: products, gates, the draw. What is waited for or only handed on is d: meetings of the team, the
slices between which states go in and out, the call itself. The total is measured apart, by an
engine without clocks, in turns with the clocked one.

The emulator has no time. Its split is counted: which stage waits for how many messages that must
follow each other; times are 0 (`method` says "counted").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..devices import Device, EngineOptions, make_devices
from ..errors import InputError
from ..vocoder import Vocoder
from .runs import engine_runner, steps_that_take
from .split import Operation, Split
from .split_gpu import operations_of_ticks

Tensors = Mapping[str, NDArray[np.float32]]

SEQUENTIAL = {"dual": 5, "residual": 5, "embedded": 3}  # products of a sample, one after the other
# Stage of the engine -> operation: O1 to O4 as in the paper, R what the state is multiplied by.
_PRODUCTS: dict[str, dict[str, str]] = {
    "dual": {
        "gru": "R",
        "coarse_fc1": "O1",
        "coarse_fc2": "O2",
        "fine_fc1": "O3",
        "fine_fc2": "O4",
    },
    "residual": {
        "gru1": "R1",
        "gru2_input": "I2",
        "gru2": "R2",
        "fc1": "O1",
        "fc2": "O2",
        "fc3": "O3",
    },
    "embedded": {"gru": "R", "fc1": "O1", "fc2": "O2"},
}
OVERHEAD = ("meetings", "slices", "call")  # operations that are d; all others are c
_FIRST_STEPS = 64
_LAGS = 4  # of a subscale model's rows, which the shortest run is long
_COUNTED_STEPS = (8, 16)  # no more than a launch of the emulator has


@dataclass(frozen=True)
class _Measured:
    """One run: of all streams together, a step at a time."""

    steps: int
    seconds: float
    ns: dict[str, int]  # of stages; empty without clocks
    counts: dict[str, int]


class _Clocked(Vocoder):
    """A vocoder whose engines time their stages."""

    def _open_devices(
        self,
        cell: tuple[ModelConfig, Tensors],
        device: str,
        how: EngineOptions,
    ) -> list[Device]:
        return make_devices(*cell, device, dataclasses.replace(how, clocks=True))


def split_engine(
    config: ModelConfig,
    tensors: Tensors,
    *,
    model: str,
    dtype: str = "fp32",
    threads: int | None = None,
    streams: int = 1,
    device: str = "cpu",
    gpu_cluster: int = 0,
    seconds: float = 0.3,
    rounds: int = 3,
) -> Split:
    """Measure where the time of a sample goes in the engine.

    Parameters
    ----------
    config : ModelConfig
    tensors : canonical tensors (docs/formats.md)
    model : str
        What the result calls the model, such as "dual:896".
    dtype : str
        As `Vocoder` takes it.
    threads : int, optional
        Default: the processors this process may use.
    streams : int
        Utterances side by side; of a subscale model each is as many streams of the engine as the
        model has rows. On a GPU and the emulator several take the kernel for many (fp16).
    device : {"cpu", "cuda", "emu"}
        "cuda" splits by the clocks of the kernel (`split_gpu`), "emu" counts; `seconds` and
        `rounds` are nothing to it, and its facts have `hops_per_step`: messages between blocks
        that no number of blocks could exchange side by side.
    gpu_cluster : int
        As `Vocoder` takes it.
    seconds : float
        About how long one run takes, more than 0; every round has one with clocks and one without.
    rounds : int
        1 or more. The total is the median; the stages are those of the clocked run whose total is
        the median, so they belong together.

    Returns
    -------
    Split
        Times are of a step of all streams, in microseconds. Facts: `us_with_clocks`,
        `counts_per_step` (of stages, or on the emulator of messages and meetings), `isa`,
        `weight_bytes`, `macs_per_step`, `sparse` (a sentence, where zeros are skipped), `rows` (of
        a subscale model), `plan` (of a kernel), `steps`, `rounds`.

    Raises
    ------
    InputError
        If a number has no meaning.
    DeviceError, ModelError
        As `Vocoder`.
    """
    if streams < 1 or rounds < 1 or not seconds > 0.0:
        raise InputError("Give at least one stream and one round of more than 0 seconds.")
    options: dict[str, Any] = {"device": device, "dtype": dtype, "cpu_threads": threads}
    if device != "cpu":
        options |= {"gpu_streams": streams, "gpu_cluster": gpu_cluster}
    clocked = _Clocked(config, tensors, **options)
    if device == "emu":
        return _counted(clocked, model, streams)
    plain = Vocoder(config, tensors, **options)
    steps = _calibrate(plain, streams, seconds)
    _measure(clocked, streams, steps // 4 + 1)
    totals, timed = [], []
    for _ in range(rounds):
        totals.append(_us(_measure(plain, streams, steps)))
        timed.append(_measure(clocked, streams, steps))
    total = sorted(totals)[len(totals) // 2]
    one = sorted(timed, key=_us)[len(timed) // 2]
    operations = _operations(clocked, one)
    facts = _facts(clocked, one) | {"us_with_clocks": _us(one), "rounds": rounds}
    return _split(clocked, model, streams, operations, total, facts)


def _split(
    voc: Vocoder,
    model: str,
    streams: int,
    operations: tuple[Operation, ...],
    total_us: float,
    facts: dict[str, Any],
) -> Split:
    return Split(
        model=model,
        runner="wavernn_fast",
        device=voc.device,
        dtype=voc.dtype,
        threads=voc.cpu_threads,
        streams=streams * voc.config.subscale_factor,
        sequential=SEQUENTIAL[voc.config.core],
        operations=operations,
        total_us=total_us,
        method="counted" if voc.device == "emu" else "stage clocks",
        facts=facts,
    )


def _facts(voc: Vocoder, one: _Measured) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "isa": voc.isa,
        "weight_bytes": voc.engine.weight_bytes,
        "macs_per_step": voc.engine.macs_per_step,
        "steps": one.steps,
        "counts_per_step": {name: n / one.steps for name, n in one.counts.items()},
    }
    if voc.engine.sparse:
        facts["sparse"] = voc.engine.sparse
    if voc.device != "cpu":
        facts["plan"] = voc.engine.describe()
    if voc.config.subscale is not None:
        facts["rows"] = voc.config.subscale_factor
    return facts


# --- runs -----------------------------------------------------------------------------------------


def _measure(voc: Vocoder, streams: int, steps: int) -> _Measured:
    """Run all streams side by side for about so many steps; what the clocks say of it."""
    ticks, counts = dict(voc.engine.stage_ticks()), dict(voc.engine.counts())
    rows = voc.config.subscale_factor
    samples, took = engine_runner(voc, streams)(steps * rows)
    return _Measured(
        max(1, samples // rows),
        took,
        {name: n - ticks[name] for name, n in voc.engine.stage_ticks()},
        {name: n - counts[name] for name, n in voc.engine.counts()},
    )


def _us(one: _Measured) -> float:
    return 1e6 * one.seconds / one.steps


def _calibrate(voc: Vocoder, streams: int, seconds: float) -> int:
    """Steps that take about so long; warms everything up on the way.

    The rows of a subscale model begin and end one after the other: most steps must have them all.
    """
    rows = voc.config.subscale_factor
    samples = engine_runner(voc, streams)

    def run(steps: int) -> tuple[int, float]:
        made, took = samples(steps * rows)
        return made // rows, took

    return steps_that_take(seconds, run, max(_FIRST_STEPS, _LAGS * voc.lag_samples // rows))


# --- operations -----------------------------------------------------------------------------------


def _operations(voc: Vocoder, one: _Measured) -> tuple[Operation, ...]:
    """Stages that came at all, each c or d, and what the time of the run was beside them."""
    if voc.device != "cpu":
        per_step = {name: n / one.steps for name, n in one.ns.items()}
        return operations_of_ticks(per_step, _us(one), voc.engine.describe())
    names = _PRODUCTS[voc.config.core]
    found = [
        _operation(names.get(stage, stage), one.counts[stage] / one.steps, 1e-3 * ns / one.steps)
        for stage, ns in one.ns.items()
        if one.counts[stage]
    ]
    # Clocks and the time of the run are read by two clocks, which may differ in the sixth digit.
    rest = max(0.0, _us(one) - 1e-3 * sum(one.ns.values()) / one.steps)
    # Around the engine a conditioned model computes: rows of frames, a network between rows, the
    # waveform. Without a mel there is only the call.
    return (*found, _operation("frames" if voc.config.n_mels else "call", 1, rest))


def _operation(name: str, count: float, us: float) -> Operation:
    is_overhead = name in OVERHEAD
    return Operation(name, round(count), 0.0 if is_overhead else us, us if is_overhead else 0.0)


# --- the emulator ---------------------------------------------------------------------------------


def _counted(voc: Vocoder, model: str, streams: int) -> Split:
    """Messages that must follow each other, by the stage that waits for them."""
    # What a launch begins with is in both runs, each of which is one launch.
    less, more = (_count(voc, streams, n) for n in _COUNTED_STEPS)
    one = _Measured(
        more.steps - less.steps,
        0.0,
        {name: n - less.ns[name] for name, n in more.ns.items()},
        {name: n - less.counts[name] for name, n in more.counts.items()},
    )
    merged: dict[str, float] = {}
    for stage, hops in one.ns.items():
        name = stage.removeprefix("coarse ").removeprefix("fine ")
        merged[name] = merged.get(name, 0.0) + hops / one.steps
    operations = tuple(Operation(name, round(hops), 0.0, 0.0) for name, hops in merged.items())
    facts = _facts(voc, one) | {"hops_per_step": one.counts["hops"] / one.steps}
    return _split(voc, model, streams, operations, 0.0, facts)


def _count(voc: Vocoder, streams: int, steps: int) -> _Measured:
    """Run so many steps, over conditioning rows of zeros, of which any number is enough."""
    engine = voc.engine
    ticks, counts = dict(engine.stage_ticks()), dict(engine.counts())
    rows = steps + voc.config.upsample_left + voc.config.upsample_right + 1
    interp, hold = (
        np.zeros((rows, width), np.float32) if width else None
        for width in (engine.interp_size, engine.hold_size)
    )
    lanes = [engine.open(seed) for seed in range(streams * voc.config.subscale_factor)]
    count = len(lanes)
    engine.run(lanes, [steps] * count, [interp] * count, [hold] * count)
    return _Measured(
        steps,
        0.0,
        {name: n - ticks[name] for name, n in engine.stage_ticks()},
        {name: n - counts[name] for name, n in engine.counts()},
    )
