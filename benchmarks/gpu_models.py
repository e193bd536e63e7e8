"""Models and runs of the persistent kernel that the parts of the GPU check share."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cases
import gpu_record
import numpy as np
import pruned_models

from wavernn_fast import _C
from wavernn_fast.conditioning_network import make_conditioner
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import WaveRNNError

PREDICTED = re.compile(r"predicted: (\d+) cycles a (?:sample|step), (\d+) samples/s")


def dual(hidden: int, conditioned: bool = False) -> ModelConfig:
    """The usual proportions: fc of half the state; 80 mels, 3 taps, 12.5 ms if conditioned."""
    fields: dict[str, Any] = {"sample_rate": 24000}
    if conditioned:
        fields |= {"n_mels": 80, "hop_length": 300, "upsample_left": 1, "upsample_right": 1}
    return cases.dual_config(hidden, hidden // 2, **fields)


def name_of(config: ModelConfig) -> str:
    return f"dual {config.hidden_size}" + (" conditioned" if config.n_mels else "")


def has_clusters(device: str) -> bool:
    """Whether blocks of this device can reach each other's shared memory; emu stands for one."""
    return device != "cuda" or _C.cuda_devices()[0]["arch"] >= 90


def that_fit(blocks: Iterable[int], device: str) -> list[int]:
    """Numbers of blocks that the device has multiprocessors for; emu stands for one with 132."""
    most = 132 if device != "cuda" else int(_C.cuda_devices()[0]["multiprocessors"])
    return [count for count in blocks if count <= most]


class Voice:
    """One model on one device, with enough conditioning for a run of any length.

    Parameters
    ----------
    config : any model; pruned, a dual one
    density : share of its 4x4 blocks that are kept; below 1 the kernel for pruned models runs
    options : of `_C.Engine`: device, dtype, exact, blocks, warps, cluster, clocks
    """

    def __init__(
        self, config: ModelConfig, seed: int = 0, density: float = 1.0, **options: Any
    ) -> None:
        self.config, self.tensors = config, cases.random_tensors(config, seed)
        if density < 1.0:
            self.tensors = pruned_models.pruned(config, (4, 4), density, seed)
            options["sparse"] = "on"
        if options.get("device") == "cuda":  # builds without CUDA have no such module
            options["nvrtc"] = importlib.import_module("wavernn_fast.nvrtc").libraries()
        self.engine = _C.Engine(dataclasses.asdict(config), self.tensors, **options)
        self.stream = self.engine.open(seed)
        self.rows: tuple[Any, Any] = (None, None)

    def conditioning(self, n_steps: int) -> tuple[Any, Any]:
        """Rows for `n_steps` samples, the frames of one second repeated."""
        if not self.config.n_mels:
            return None, None
        frames = -(-n_steps // self.config.hop_length) + 8
        if self.rows[0] is None or len(self.rows[0]) < frames:
            mel = cases.mel_for(self.config, self.config.sample_rate)
            assert mel is not None
            repeats = -(-(frames + 8) // mel.shape[1])
            mel = np.tile(mel, repeats)[:, : frames + 8]
            self.rows = make_conditioner(self.config, self.tensors).window(mel, 0, frames)
        return self.rows

    def run(self, n_steps: int, **options: Any) -> Any:
        interp, hold = self.conditioning(n_steps)
        return self.engine.run([self.stream], [n_steps], [interp], [hold], **options)[0]

    def seconds(self, n_steps: int) -> float:
        self.conditioning(n_steps)  # made outside the clock
        begin = time.perf_counter()
        self.run(n_steps)
        return time.perf_counter() - begin

    def predicted(self) -> tuple[int, int] | None:
        """(cycles, samples/s) by the planner's model, for the device that it runs on."""
        found = PREDICTED.search(self.engine.describe())
        return (int(found[1]), int(found[2])) if found else None


def measure(voice: Voice, seconds: float, repeats: int, first_steps: int = 2000) -> dict[str, Any]:
    """Samples a second of one stream: median, best and worst of runs of at least `seconds`.

    The clock is the caller's: launches, copies and slices are in the figure.
    """
    bands = voice.config.bands  # a step is a sample of each
    first_steps = n = -(-first_steps // bands) * bands
    voice.seconds(n)
    while (took := voice.seconds(n)) < 0.05 and n < 1 << 24:
        n *= 4
    n = max(first_steps, int(n * seconds * 1.05 / took) // bands * bands)
    times = [voice.seconds(n) for _ in range(repeats)]
    middle = statistics.median(times)
    row: dict[str, Any] = {
        "samples_per_s": n / middle,
        "samples_per_s_best": n / min(times),
        "samples_per_s_worst": n / max(times),
        "us_per_sample": 1e6 * middle / n,
        "x_realtime": n / middle / voice.config.sample_rate,
        "n_steps": n,
        "repeats": repeats,
    }
    predicted = voice.predicted()
    if predicted:
        row |= {
            "predicted_cycles": predicted[0],
            "predicted_samples_per_s": predicted[1],
            "share_of_prediction": row["samples_per_s"] / predicted[1],
        }
    return row


# --- rows of one utterance ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Job:
    """One row to measure: a model by its name, and what the engine is asked."""

    model: str
    config: ModelConfig
    asked: dict[str, Any]  # dtype, exact, blocks

    def fields(self) -> dict[str, Any]:
        """The model, as a plan is asked for."""
        return dataclasses.asdict(self.config)

    def voice(self, device: str) -> Voice:
        return Voice(self.config, device=device, **self.asked)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the programs that measure jobs have in common."""
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "emu"))
    parser.add_argument("--seconds", type=float, default=0.3, help="of a run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--first-steps", type=int, default=2000)
    parser.add_argument("--compile", help=argparse.SUPPRESS)  # numbers of jobs


def workers() -> int:
    """Processes that compile side by side."""
    return max(1, min(8, (os.cpu_count() or 1) // 2))


def side_by_side(commands: Iterable[list[str]]) -> None:
    """Run processes that fill the kernel cache; what fails here fails again, and is kept."""

    def one(command: list[str]) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):  # then the rest compiles when used
            subprocess.run(command, capture_output=True, timeout=60, check=False)

    with ThreadPoolExecutor(workers()) as pool:
        list(pool.map(one, commands))


def compile_ahead(jobs: list[Job], device: str) -> None:
    """Have this program started again to compile what `jobs` need, each a share of them.

    The emulator's kernel is compiled already.
    """
    if device != "cuda":
        return
    shares = [range(i, len(jobs), workers()) for i in range(min(workers(), len(jobs)))]
    side_by_side(
        [sys.executable, *sys.argv, "--compile", ",".join(map(str, share))] for share in shares
    )


def compile_share(jobs: list[Job], numbers: str, device: str) -> None:
    """In such a process: make the engines of these jobs, and drop them."""
    for number in map(int, numbers.split(",")):
        try:
            jobs[number].voice(device)
        except WaveRNNError as error:
            print(error, file=sys.stderr)


def measure_jobs(
    record: gpu_record.Record, jobs: list[Job], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Add a row a job to the record's `rows`; a job that fails costs its own row only."""
    compile_ahead(jobs, options.device)
    for job in jobs:
        with record.attempt(f"{job.model}, {job.asked}"):
            voice = job.voice(options.device)
            row: dict[str, Any] = {"model": job.model, **job.asked}
            row["plan"] = voice.engine.describe()
            row |= measure(voice, options.seconds, options.repeats, options.first_steps)
            record["rows"].append(row)
            share = 100 * row.get("share_of_prediction", 0.0)
            print(
                f"MEASURED {job.model} {job.asked}: {row['samples_per_s']:.0f} samples/s, "
                f"{share:.0f} % of the prediction",
                flush=True,
            )
        record.save()
    return list(record["rows"])


# --- rows of many streams -------------------------------------------------------------------------


class Crowd(Voice):
    """As many streams as the engine has places, all under the same conditioning."""

    def run(self, n_steps: int, **options: Any) -> Any:
        interp, hold = self.conditioning(n_steps)
        count = self.engine.lanes
        if not hasattr(self, "streams"):
            self.streams = [self.engine.open(seed) for seed in range(count)]
        rows = [interp] * count, [hold] * count
        return self.engine.run(self.streams, [n_steps] * count, *rows, **options)[0]


def measure_crowd(
    model: str, config: ModelConfig, streams: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One row: an engine made for so many streams, or with 0 for most samples; all places run."""
    asked: dict[str, Any] = {"dtype": "fp16", "exact": False, "streams": streams}
    room = {"isa": "fair/room:8"} if options.device == "emu" else {}  # few teams
    crowd = Crowd(config, device=options.device, **asked, **room)
    row: dict[str, Any] = {"model": model, "wanted": streams}
    row |= {"streams": crowd.engine.lanes, "plan": crowd.engine.describe()}
    row |= measure(crowd, options.seconds, options.repeats, options.first_steps)
    row["samples_per_s_in_all"] = row["streams"] * row["samples_per_s"]
    return row


def measure_crowds(
    record: gpu_record.Record,
    models: Iterable[tuple[str, ModelConfig, int]],
    options: argparse.Namespace,
) -> None:
    """Add a row for each (model, config, streams) to the record's `many`."""
    for model, config, streams in models:
        with record.attempt(f"{streams or 'most'} streams, {model}"):
            row = measure_crowd(model, config, streams, options)
            record["many"].append(row)
            share = 100 * row.get("share_of_prediction", 0.0)
            print(
                f"MEASURED {model}: {row['streams']} streams, "
                f"{row['samples_per_s_in_all']:.0f} samples/s, {share:.0f} % of the prediction",
                flush=True,
            )
        record.save()


# --- ticks ----------------------------------------------------------------------------------------


def add_stages(
    record: gpu_record.Record, model: str, config: ModelConfig, options: argparse.Namespace
) -> None:
    """Ticks of every stage of a sample, in fp32, to the record's `stages`."""
    with record.attempt(f"stages of {model}"):
        voice = Voice(config, device=options.device, exact=False, clocks=True)
        n = options.first_steps
        voice.run(n)
        before = dict(voice.engine.stage_ticks())
        seconds = voice.seconds(n)
        ticks = {k: (v - before[k]) / n for k, v in voice.engine.stage_ticks()}
        record["stages"].append(
            {
                "model": model,
                "stages": ticks,
                "ticks_per_sample": sum(ticks.values()),
                "us_per_sample_with_clocks": 1e6 * seconds / n,
            }
        )
    record.save()
