"""Models and runs of the persistent kernel that the parts of the GPU check share."""

from __future__ import annotations

import dataclasses
import importlib
import re
import statistics
import time
from typing import Any

import cases
import numpy as np
import pruned_models

from wavernn_fast import _C
from wavernn_fast.conditioning import Conditioner
from wavernn_fast.config import ModelConfig

PREDICTED = re.compile(r"predicted: (\d+) cycles a sample, (\d+) samples/s")


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


class Voice:
    """One model on one device, with enough conditioning for a run of any length.

    Parameters
    ----------
    config : a dual model
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
            self.rows = Conditioner(self.config, self.tensors).window(mel, 0, frames)
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
    n = first_steps
    voice.seconds(n)
    while (took := voice.seconds(n)) < 0.05 and n < 1 << 24:
        n *= 4
    n = max(first_steps, int(n * seconds * 1.05 / took))
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
