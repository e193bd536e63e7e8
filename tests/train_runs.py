"""Small training runs inside the test process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recordings
import torch

from wavernn_fast import features
from wavernn_fast.config import ModelConfig
from wavernn_fast.models.eager import torch_threads
from wavernn_fast.samples import encode_targets
from wavernn_fast.train import run, state
from wavernn_fast.train.corpus import Recording
from wavernn_fast.train.loop import LOG, Every, Trainer
from wavernn_fast.train.processes import Processes
from wavernn_fast.train.prune import PruneSettings
from wavernn_fast.train.settings import TrainSettings

ALONE = Processes(0, 1, torch.device("cpu"))
OFTEN = Every(log=1, validate=3, checkpoint=4)
PRUNE = PruneSettings(sparsity=0.75, start=1, length=4, every=2)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread: for these sizes more only wait for each other."""
    with torch_threads(1):
        yield


def settings(**fields: Any) -> TrainSettings:
    """Numbers of a run of some milliseconds an update."""
    small = {"steps": 8, "batch": 4, "segment": 80, "lr": 3e-3, "lr_warmup": 2, "ema": 0.9}
    return TrainSettings(**{**small, "precision": "fp32", **fields})


@cache
def voice(config: ModelConfig) -> run.Loaded:
    """Five recordings of the toy voice, of which one is held out."""
    read = []
    for i in range(5):
        wave = recordings.tone(0.3, i)
        mel = features.log_mel(wave, recordings.MEL)[:, : len(wave) // config.hop_length]
        read.append(Recording(f"tone{i}", encode_targets(wave, config).astype(np.uint16), mel))
    return run.Loaded(read[:4], read[4:], [])


def trainer(folder: Path, numbers: TrainSettings, config: ModelConfig | None = None) -> Trainer:
    """Trainer of the toy voice in `folder`."""
    config = config or recordings.config()
    folder.mkdir(exist_ok=True)
    return run.make_trainer(folder, config, numbers, voice(config), ALONE)


def resumed(folder: Path, numbers: TrainSettings | None = None) -> Trainer:
    """Trainer that goes on with the run in `folder`."""
    saved = state.read(folder)
    again = trainer(folder, numbers or saved.settings, saved.config)
    again.resume(saved)
    return again


def finish(one: Trainer, every: Every = OFTEN) -> dict[str, Any]:
    """Train to the end without telling anybody."""
    return one.run(every, lambda line: None)


class StoppedError(Exception):
    """Stands for whatever ends a run between two checkpoints."""


def stop_at(one: Trainer, step: int, every: Every = OFTEN) -> None:
    """Train until a step is logged, and fail there, before its checkpoint is written."""

    def tell(line: dict[str, Any]) -> None:
        if line["step"] == step:
            raise StoppedError

    try:
        one.run(every, tell)
    except StoppedError:
        return
    raise AssertionError(f"step {step} was never logged")


def log(folder: Path) -> list[dict[str, Any]]:
    """Lines of the log without what a clock says."""
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    clock = ("samples_per_s", "seconds")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]
