"""The border: whatever array the caller has is checked, and the result is of the same kind.

An array of CuPy or PyTorch in the memory that the engine reads (device "cuda": of its GPU; "emu":
the host's, for PyTorch) stays there: conditioning runs in its library, and the engine takes the
rows by `__cuda_array_interface__`. Every other array becomes numpy.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig
from .errors import InputError
from .features import check_mel
from .places import HOST, Place, place_of

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
    if isinstance(value, (str, os.PathLike)):
        raise InputError(
            f"The {what} is {os.fspath(value)!r}, a string; where that is a file, read it first "
            "(numpy.load, or wavernn_fast.audio) and hand over the array."
        )
    restore: Restore = as_it_is
    try:
        module = type(value).__module__.partition(".")[0]
        if module == "torch":
            value, restore = _from_torch(value)
        elif module == "cupy" or hasattr(value, "__cuda_array_interface__"):
            value, restore = _from_cupy(value if module == "cupy" else _cupy(what).asarray(value))
        elif not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
            value = np.from_dlpack(value)
        return np.asarray(value), restore
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InputError(f"The {what} cannot be read as an array ({error}).") from error


def _from_torch(value: Any) -> tuple[Any, Restore]:
    """A tensor as numpy, and the way back."""
    torch, device = sys.modules["torch"], value.device  # loaded: the caller made the tensor with it
    value = value.detach().cpu()
    known = (torch.float16, torch.float32, torch.float64)
    if value.dtype.is_floating_point and value.dtype not in known:
        value = value.float()  # numpy has no bfloat16, and widening it loses nothing
    return value.numpy(), lambda wave: torch.from_numpy(wave).to(device)


def _from_cupy(value: Any) -> tuple[Any, Restore]:
    """The same of CuPy."""
    cupy, gpu = sys.modules["cupy"], value.device

    def restore(wave: NDArray[np.float32]) -> Any:
        with gpu:
            return cupy.asarray(wave)

    return value.get(), restore


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


# --- arrays that stay where they are --------------------------------------------------------------


def _memory(device: str) -> tuple[tuple[int, int], ...]:
    """Memory that an engine on a device reads: DLPack's type, and number of the device.

    That of a GPU (2), managed (13), the host's (1).
    """
    kind, _, number = device.partition(":")
    gpu = int(number or 0)
    return {"cuda": ((2, gpu), (13, gpu)), "emu": ((1, 0),)}.get(kind, ())


class Given(NamedTuple):
    """An array of the caller's, where the engine can have it."""

    array: Any  # numpy, or of the place's module
    restore: Restore
    place: Place


class Memory(NamedTuple):
    """Whose memory the engine reads, and where mels are conditioned that lie in the host's."""

    device: str = "cpu"  # such as "cuda:1"; see `take`
    home: Place = HOST


HOST_MEMORY = Memory()


def take(value: Any, what: str, device: str = "cpu") -> Given:
    """Leave an array where it is if an engine on `device` reads that memory, else `to_array` it.

    Parameters
    ----------
    value : array
        CuPy's or PyTorch's, or by `__cuda_array_interface__`, to stay; or what `to_array` takes.
    what : str
        What it is, for the message of an error.
    device : str
        The engine's: "cpu", "cuda" (GPU 0), "cuda:1", "emu" or "reference". An array on another
        GPU than the engine's passes through the host.

    Raises
    ------
    InputError
        As `to_array`.
    """
    module = type(value).__module__.partition(".")[0]
    if module not in ("cupy", "torch") and hasattr(value, "__cuda_array_interface__"):
        module, value = "cupy", _cupy(what).asarray(value)
    if module not in ("cupy", "torch") or not _lies_in(value, _memory(device)):
        return Given(*to_array(value, what), HOST)
    library = sys.modules[module]
    if module == "torch":
        value, where = value.detach(), value.device
        place = place_of(library, where)
        return Given(value, lambda wave: library.from_numpy(wave).to(where), place)
    place = place_of(library, int(device.partition(":")[2] or 0))

    def restore(wave: NDArray[np.float32]) -> Any:
        with place.scope():
            return library.asarray(wave)

    return Given(value, restore, place)


def _lies_in(value: Any, memory: tuple[tuple[int, int], ...]) -> bool:
    """Whether a dense array is in memory of these kinds (DLPack's type and number of a device)."""
    if "strided" not in str(getattr(value, "layout", "strided")):  # a sparse tensor
        return False
    try:
        kind, number = value.__dlpack_device__()
        return (int(kind), int(number)) in memory
    except (AttributeError, ValueError, RuntimeError, BufferError):  # neither host nor GPU
        return False


def to_mel(value: Any, config: ModelConfig, memory: Memory = HOST_MEMORY) -> Given:
    """Check one mel spectrogram and bring it where the engine has it: `take`, or to its home.

    Integers are refused where floats are expected, before they are converted. A mel that does
    not look like the model's convention gives a `features.MelRangeWarning`.

    Returns
    -------
    Given
        `array` is float32 [n_mels, n_frames].
    """
    array, restore, place = take(value, "mel", memory.device)
    with place.scope():
        checked = check_mel(array, config, xp=place.xp)
    if place is HOST and memory.home is not HOST:
        place = memory.home
        with place.scope():
            checked = place.xp.asarray(checked)
    return Given(checked, restore, place)


def to_speaker(
    value: Any, config: ModelConfig, name: str = "speaker="
) -> NDArray[np.float64] | None:
    """Check a speaker's vector or number; None for a model that hears no speaker.

    `name` is what messages call the place where it is given.

    Returns
    -------
    float64 array [speaker_size], or [] of a number, or None
        A copy.

    Raises
    ------
    InputError
        If the model needs one and there is none, or the other way round, or it is misshapen.
    """
    size = config.speaker_size
    if value is None and size == 0:
        return None
    if value is None or size == 0:
        number = f", or a number from 0 to {config.speakers - 1}" if config.speakers else ""
        raise InputError(
            f"This model speaks for a speaker: give {name}, a vector of {size} numbers{number}."
            if value is None
            else f"This model knows no speakers; leave {name.rstrip('=')} out."
        )
    array, _ = to_array(value, "speaker's vector")
    if array.ndim == 0 and config.speakers:
        if array.dtype.kind not in "iuf" or array not in range(config.speakers):
            raise InputError(
                f"Speaker {array} does not exist; expected 0 to {config.speakers - 1}, or a vector "
                f"of {size} numbers."
            )
        return np.array(array, dtype=np.float64)
    if array.size != size or max(array.shape, default=0) != size:
        raise InputError(f"The speaker's vector has shape {array.shape}, expected [{size}].")
    if array.dtype.kind not in "biuf":
        raise InputError(f"The speaker's vector has dtype {array.dtype}, expected numbers.")
    vector = np.array(array, dtype=np.float64).reshape(size)
    if not np.isfinite(vector).all():
        raise InputError("The speaker's vector holds a NaN or an infinity.")
    return vector
