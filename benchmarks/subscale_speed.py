"""What rows drawn side by side bring in speed: measured on the CPU, predicted for a GPU.

Used by subscale.py and gpu_subscale.py.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wavernn_fast import _C, Vocoder
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import DeviceError, InputError
from wavernn_fast.subscale import Schedule
from wavernn_fast.subscale_job import make_utterance
from wavernn_fast.subscale_network import Slices, SubscaleNetwork, cell_of, slices_of
from wavernn_fast.synthetic import random_mel, random_model
from wavernn_fast.utterance import Sampling, make_request

LAUNCH_SECONDS = 20e-6  # of a kernel: predicted, see docs
HOST_SECONDS = 130e-6  # of Python between two slices that nothing hides: `between`, EPYC (Zen 4)
NETWORK_SECONDS = 55 * 5e-6  # calls of the array library for a slice, counted; of each, guessed


def alone(config: ModelConfig, tensors: Any) -> tuple[ModelConfig, Any]:
    """The same cell drawn one sample after the other: without the network of rows before."""
    plain = dataclasses.replace(config, subscale=None)
    kept = {name: array for name, array in tensors.items() if not name.startswith("subscale.")}
    heard = config.n_mels + config.aux_size
    kept["gru.w_conditioning"] = np.ascontiguousarray(kept["gru.w_conditioning"][:, :heard])
    return plain, kept


def time_cell(size: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Samples a second of one utterance of each length, with and without rows."""
    config, tensors = random_model(f"subscale:{size}")
    models = {"rows": (config, tensors), "one": alone(config, tensors)}
    rows = []
    for threads in args.threads:
        voices = {
            way: Vocoder(*model, device="cpu", dtype=args.dtype, cpu_threads=threads)
            for way, model in models.items()
        }
        for seconds in args.seconds:
            frames = max(1, round(seconds * config.sample_rate / config.hop_length))
            mel = random_mel(config, frames)
            found: dict[str, list[float]] = {"rows": [], "one": []}
            for number in range(args.rounds):
                for way in sorted(voices, reverse=bool(number % 2)):
                    started = time.perf_counter()
                    wave = voices[way].generate(mel, seed=number)
                    found[way].append(len(wave) / (time.perf_counter() - started))
            rows.append(_speed_row(config, size, threads, seconds, found, voices["rows"]))
    return rows


def _speed_row(
    config: ModelConfig,
    size: int,
    threads: int,
    seconds: float,
    found: dict[str, list[float]],
    voc: Vocoder,
) -> dict[str, Any]:
    assert config.subscale is not None
    count = round(seconds * config.sample_rate / config.hop_length) * config.hop_length
    factor, horizon = config.subscale.factor, config.subscale.horizon
    schedule = Schedule(count, factor, horizon, *slices_of("cpu", 0))
    ratios = [a / b for a, b in zip(found["rows"], found["one"], strict=True)]
    return {
        "hidden_size": size,
        "dtype": voc.dtype,
        "isa": voc.isa,
        "threads": threads,
        "seconds": seconds,
        "samples_per_step": schedule.samples_per_step,
        "samples_per_s": statistics.median(found["rows"]),
        "samples_per_s_one": statistics.median(found["one"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "lag_seconds": voc.lag_samples / voc.sample_rate,
    }


def unpredicted(config: ModelConfig, tensors: Any) -> tuple[ModelConfig, Any]:
    """The same model without what the mel predicts."""
    assert config.subscale is not None
    sub = dataclasses.replace(config.subscale, prediction_reach=0)
    heard = dataclasses.replace(config, subscale=sub).conditioning_size
    weight = np.ascontiguousarray(tensors["gru.w_conditioning"][:, :heard])
    return dataclasses.replace(config, subscale=sub), {**tensors, "gru.w_conditioning": weight}


def cost_of_prediction(size: int, threads: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Samples a second of one utterance with what the mel predicts and without, in turns."""
    config, tensors = random_model(f"subscale:{size}")
    models = {"with": (config, tensors), "without": unpredicted(config, tensors)}
    voices = {n: Vocoder(*m, device="cpu", cpu_threads=threads) for n, m in models.items()}
    mel = random_mel(config, round(seconds * config.sample_rate / config.hop_length))
    found: dict[str, list[float]] = {name: [] for name in voices}
    for number in range(rounds + 1):
        for name in sorted(voices, reverse=bool(number % 2)):
            begun = time.perf_counter()
            wave = voices[name].generate(mel, seed=number)
            if number:  # the first warms up
                found[name].append(len(wave) / (time.perf_counter() - begun))
    rates = {name: statistics.median(every) for name, every in found.items()}
    ratio = statistics.median(a / b for a, b in zip(*found.values(), strict=True))
    return {"hidden_size": size, "threads": threads, **rates, "ratio": ratio}


def between(columns: int) -> dict[str, float]:
    """Microseconds of Python for a slice of 16 rows, by part: medians over 10 s of audio.

    What no thread hides, `pieces` and `take`, and what one can, where the network hears ahead.
    """
    config, tensors = random_model("subscale:32")
    voc = Vocoder(config, tensors, device="cpu", cpu_threads=1)
    voice = voc.voice()
    network = SubscaleNetwork(config, tensors, Slices(columns))
    request = make_request(config, random_mel(config, 919), None, 0)
    voice = dataclasses.replace(voice, network=network)
    one = make_utterance(voice, request, Sampling(1.0, False, None), request.n_drawn)
    spent: dict[str, list[float]] = {name: [] for name in ("hear", "pieces", "take")}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = work()
        spent[name].append(1e6 * (time.perf_counter() - begun))
        return result

    def hear() -> None:
        one.prepare()
        one.hear(slice(None))
        one.settle()

    while not one.finished:
        timed("hear", hear)
        pieces = timed("pieces", one.pieces)
        drawn = [np.zeros(piece.columns, np.int32) for piece in pieces]
        timed("take", lambda pieces=pieces, drawn=drawn: one.take(pieces, drawn))
    return {name: statistics.median(every) for name, every in spent.items()}


def clustered(cell: ModelConfig, gpu: str, streams: int) -> tuple[int, dict[str, Any]] | None:
    """The largest cluster of at most 8 blocks that a team can be, and its plan; None if none."""
    for cluster in range(8, 1, -1):
        with contextlib.suppress(DeviceError, InputError):
            config = dataclasses.asdict(cell)
            return cluster, _C.many_plan(config, gpu=gpu, streams=streams, cluster=cluster)
    return None


def predict(
    size: int, seconds: Sequence[float], gpu: str = "H200", clusters: bool = False
) -> list[dict[str, Any]]:
    """What a GPU should do with one utterance: the plan's latency model, and what slices cost.

    With `clusters`, of teams that are clusters; no rows if the model fits none.
    """
    config, tensors = random_model(f"subscale:{size}")
    assert config.subscale is not None
    factor, horizon = 16, config.subscale.horizon
    cell, _ = cell_of(config, tensors)
    if clusters:
        found = clustered(cell, gpu, factor)
        if found is None:
            return []
        cluster, plan = found
    else:
        cluster, plan = 1, _C.many_plan(dataclasses.asdict(cell), gpu=gpu, streams=factor)
    step, slices = 1.0 / plan["samples_per_s"], slices_of("cuda", cluster if clusters else 0)
    rows = []
    for length in seconds:
        count = round(length * config.sample_rate)
        schedule = Schedule(count, factor, horizon, *slices)
        launches = -(-schedule.n_steps // slices.columns)
        drawing, network = slices.columns * step, NETWORK_SECONDS
        each = max(drawing, network) if slices.ahead else drawing + network
        took = launches * (each + LAUNCH_SECONDS + HOST_SECONDS)
        engine = schedule.n_steps * step + launches * LAUNCH_SECONDS
        rows.append(
            {
                "gpu": gpu,
                "hidden_size": size,
                "cluster": cluster,
                "seconds": length,
                "predicted": True,
                "network_hidden": slices.ahead > 0,
                "slice_us": 1e6 * drawing,
                "samples_per_step": schedule.samples_per_step,
                "samples_per_s": count / took,
                "samples_per_s_engine": count / engine,
                "samples_per_s_without_lag": factor / step,
            }
        )
    return rows
