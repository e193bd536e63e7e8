"""The border: whatever array the caller has becomes checked numpy, and the result goes back."""

from __future__ import annotations

import importlib
import math
import operator
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig
from .errors import InputError
from .features import check_mel

Restore = Callable[[NDArray[np.float32]], Any]


def to_array(value: Any, what: str) -> tuple[NDArray[Any], Restore]:
    """Bring numpy, torch, cupy, CUDA, DLPack arrays or nested lists to numpy, values unchanged.

    Returns
    -------
    array : ndarray
    restore : callable
        Turns a float32 result into the caller's kind of array, on the caller's device.

    Raises
    ------
    InputError
        If `value` cannot be read as one array.
    """
    module = type(value).__module__.partition(".")[0]
    restore: Restore = as_it_is
    if module == "torch":  # its module is loaded already: the caller made the tensor with it
        torch, device = sys.modules["torch"], value.device
        value = value.detach().cpu()
        # numpy has no bfloat16, and widening it loses nothing
        value = (value.float() if value.dtype is torch.bfloat16 else value).numpy()

        def restore(wave: NDArray[np.float32]) -> Any:
            return torch.from_numpy(wave).to(device)

    elif module == "cupy":
        restore, value = sys.modules["cupy"].asarray, value.get()
    elif hasattr(value, "__cuda_array_interface__"):
        cupy = _cupy(what)
        restore, value = cupy.asarray, cupy.asarray(value).get()
    elif not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
        value = np.from_dlpack(value)
    try:
        return np.asarray(value), restore
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"The {what} cannot be read as an array ({error}).") from error


def _cupy(what: str) -> Any:
    """CuPy, to read arrays on a GPU that their own library does not bring to numpy."""
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise InputError(
            f"The {what} lies on a GPU, and reading it needs CuPy ({error}); install "
            "cupy-cuda12x or cupy-cuda13x, or hand over a NumPy, CuPy or PyTorch array."
        ) from error


def as_it_is(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Numpy in, numpy out."""
    return wave


def to_mel(value: Any, config: ModelConfig) -> tuple[NDArray[np.float32], Restore]:
    """Check and convert one mel spectrogram: `to_array`, then `features.check_mel`.

    Integers are refused where floats are expected, before they are converted. A mel that does
    not look like the model's convention gives a `features.MelRangeWarning`.
    """
    array, restore = to_array(value, "mel")
    return check_mel(array, config), restore


def to_seed(value: Any) -> int:
    """Check a seed: any integer from 0 to 2**64 - 1.

    Raises
    ------
    InputError
        If it is no integer or out of range.
    """
    try:
        seed = operator.index(value)
    except TypeError:
        raise InputError(f"The seed is {value!r}, expected an integer.") from None
    if isinstance(value, bool) or not 0 <= seed < 2**64:
        raise InputError(f"The seed is {value!r}, expected an integer from 0 to 2**64 - 1.")
    return seed


def to_count(value: Any, what: str, least: int = 0) -> int:
    """Check a number of things: an integer of at least `least`."""
    try:
        count = operator.index(value)
    except TypeError:
        raise InputError(f"{what} is {value!r}, expected an integer.") from None
    if isinstance(value, bool) or count < least:
        raise InputError(f"{what} is {value!r}, expected an integer of at least {least}.")
    return count


def to_temperature(value: Any) -> float:
    """Check a temperature: a finite number above 0."""
    try:
        temperature = float(value)
    except (TypeError, ValueError):
        raise InputError(f"The temperature is {value!r}, expected a number.") from None
    if not (math.isfinite(temperature) and temperature > 0.0):
        raise InputError(
            f"The temperature is {value!r}, expected a finite number above 0 "
            "(for no chance at all use greedy=True)."
        )
    return temperature
