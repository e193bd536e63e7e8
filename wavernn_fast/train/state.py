"""The checkpoint of a training run: one file, replaced whole, read without running code."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import AudioError, ModelError
from ..files import write_atomic
from .settings import TrainSettings

NAME = "state.pt"  # in the folder of the run
FORMAT, VERSION = "wavernn_fast training state", 2  # 2: models hear whitened mels


@dataclass
class State:
    """Everything needed to go on as if nothing had happened."""

    config: ModelConfig
    settings: TrainSettings
    step: int  # updates done
    model: dict[str, Tensor]
    average: dict[str, Tensor]  # exponential moving average of `model`
    optimizer: dict[str, Any]
    masks: dict[str, Tensor]  # of pruned matrices, bool by block; empty when dense
    # since the last line of the log: coarse, fine, norm of the gradient, updates
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    # which recordings, and what was asked for: `run.facts_of`; empty where an older run did not say
    data: dict[str, Any] = field(default_factory=dict)


def write(folder: Path, state: State) -> None:
    """Replace the checkpoint of a run; on failure the previous one stays as it was.

    Raises
    ------
    ModelError
        If it cannot be written.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": state.config.to_json(),
        "settings": state.settings.to_json(),
        "step": state.step,
        "model": state.model,
        "average": state.average,
        "optimizer": state.optimizer,
        "masks": state.masks,
        "sums": state.sums,
        "data": state.data,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        write_atomic(folder / NAME, [buffer.getvalue()])
    except AudioError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ModelError(
            f"The checkpoint {str(folder / NAME)!r} cannot be written: {reason}. It needs "
            f"{len(buffer.getvalue()) / 1e6:.0f} MB beside the previous one, which is intact."
        ) from error


def read(folder: Path) -> State:
    """Read the checkpoint of a run.

    Raises
    ------
    ModelError
        If there is none, or it is damaged or of another kind.
    """
    path = folder / NAME
    if not path.is_file():
        raise ModelError(f"There is no checkpoint {str(path)!r} to resume from.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the reader fail in many ways
        # What PyTorch says of damaged bytes is long, and advises to run code from them.
        reason = getattr(error, "strerror", None) or (
            f"it is damaged, or holds more than tensors and plain values: {type(error).__name__}"
        )
        raise ModelError(
            f"The checkpoint {str(path)!r} cannot be read ({reason}). {_way_on(folder)}."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelError(f"{str(path)!r} is not the checkpoint of a training run.")
    if content.get("version") != VERSION:
        raise ModelError(
            f"The checkpoint {str(path)!r} has version {content.get('version')}, this program "
            f"reads {VERSION}. {_way_on(folder)}, or go on with the release that wrote it."
        )
    parts = ("config", "settings", "step", "model", "average", "optimizer", "masks")
    missing = [name for name in parts if name not in content]
    if missing:
        raise ModelError(f"The checkpoint {str(path)!r} lacks {', '.join(missing)}.")
    config, settings, *rest = (content[name] for name in parts)
    state = State(ModelConfig.from_json(config), TrainSettings.from_json(settings), *rest)
    state.sums = content.get("sums", state.sums)
    state.data = content.get("data", state.data)
    return state


def _way_on(folder: Path) -> str:
    return f"Start a new run from its model by --from {str(folder)!r} with another -o"
