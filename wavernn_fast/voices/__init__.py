"""Voices that ship in the package: a model, a mel to try it on, and what is known of both.

Everything here was made by this project; NAME.md is the model card, NAME.json its facts, and
NAME.jsonl the log of the training that NAME.sh repeats.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ModelError

DEFAULT = "kerstin"  # what `demo` speaks with, and `resynth` where no model is named
_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the voices there are."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def find(name: str) -> Path | None:
    """Path of the model file of a voice; None if there is no voice of that name."""
    return _FOLDER / f"{name}.safetensors" if name in names() else None


def resolve(path_or_name: str | os.PathLike[str]) -> Path:
    """Path of a model: the file, or where there is none of that name, the voice called so.

    A folder is no model: one that is called like a voice, such as of its outputs, hides nothing.

    Raises
    ------
    ModelError
        If the name is empty: as a path it would be the current folder.
    """
    if not os.fspath(path_or_name):
        raise ModelError("The name of the model is empty; give a file or a voice.")
    path = Path(path_or_name)
    is_file = os.path.exists(path) and not os.path.isdir(path)
    voice = None if is_file else find(os.fspath(path_or_name))
    return path if voice is None else voice


@lru_cache(maxsize=4)
def facts(name: str) -> dict[str, Any]:
    """What is known of a voice.

    Returns
    -------
    dict
        ``kind`` ("demo voice", or "test model" as long as the voice is not good enough to be
        called that), ``language``, ``about`` (a sentence), ``steps`` of its training,
        ``temperature`` (recommended) and ``measured`` (held-out figures at that temperature).

    Raises
    ------
    InputError
        If there is no such voice.
    """
    if find(name) is None:
        raise InputError(f"There is no voice {name!r}; there are: {', '.join(names()) or 'none'}.")
    known: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return known


def mel(name: str) -> NDArray[np.float32]:
    """Return the mel of a held-out sentence: float32 [n_mels, n_frames], by the voice's preset.

    Raises
    ------
    InputError
        If there is no such voice.
    """
    facts(name)
    frames = np.load(_FOLDER / f"{name}.npy", allow_pickle=False)
    return np.ascontiguousarray(frames, dtype=np.float32)
