"""Mels in PyTorch files: one tensor, or a dict with one under "mel". No code is run from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio import MAX_MEL_BYTES
from ..errors import AudioError, ModelError
from ..files import label
from . import container

SUFFIXES = (".pt", ".pth")
_ADVICE = "Save the mel alone: torch.save(mel, path)."


def read_mel(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read one mel from a file that ``torch.save`` wrote; `features.check_mel` checks it.

    Parameters
    ----------
    path : path
        Holds a tensor, or a dict with a tensor under "mel" (or a single one under another name).

    Returns
    -------
    array
        As stored; bfloat16 becomes float32.

    Raises
    ------
    AudioError
        If the file is missing, damaged, too large, asks to run code, or holds no such tensor.
    MissingDependencyError
        If PyTorch is absent or older than 2.10.
    """
    try:
        return _to_array(_pick(container.unpickle(Path(path), _ADVICE)), Path(path))
    except ModelError as error:
        raise AudioError(f"{label(path)} cannot be read as a mel: {error}") from None


def _pick(content: Any) -> Any:
    if not isinstance(content, Mapping):
        return content
    if "mel" in content:
        return content["mel"]
    if len(content) == 1:
        return next(iter(content.values()))
    shown = ", ".join(sorted(str(key)[:40] for key in content)[:8])
    raise ModelError(f"it holds {len(content)} values ({shown}); name one of them 'mel'.")


def _to_array(value: Any, path: Path) -> NDArray[Any]:
    import torch

    if not isinstance(value, torch.Tensor):
        raise ModelError(f"it holds a {type(value).__name__}, expected a tensor. {_ADVICE}")
    problem = container.tensor_problem("the mel", value, torch)
    if problem is not None:
        raise ModelError(f"{problem}.")
    size = value.numel() * value.element_size()
    # A stored tensor can be a small buffer seen through a huge shape.
    if size > min(MAX_MEL_BYTES, 2 * path.stat().st_size):
        raise ModelError(f"its tensor of shape {tuple(value.shape)} is larger than the file.")
    if value.dtype is torch.bfloat16:  # which numpy has not
        value = value.float()
    try:
        return np.array(value.detach().cpu().contiguous().numpy(), order="C")
    except TypeError as error:  # an 8-bit float
        raise ModelError(f"its dtype is {value.dtype} ({error}); store float32.") from None
