"""The border: whatever array the caller has is checked, and the result is of the same kind.

An array of CuPy or PyTorch in the memory that the engine reads (device "cuda": of its GPU; "emu":
the host's, for PyTorch) stays there: conditioning runs in its library, and the engine takes the
rows by `__cuda_array_interface__`. Every other array becomes numpy.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import operator
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig
from .errors import InputError, MissingDependencyError
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


class Place:
    """Where the arrays of an utterance lie: this one is the host, with numpy."""

    xp: Any = np  # array module of `conditioning.Conditioner`, making its arrays here

    def scope(self) -> AbstractContextManager[Any]:
        """Within it the module's current device is this one."""
        return contextlib.nullcontext()

    def own(self, mel: Any) -> Any:
        """Copy a mel, here."""
        return mel.copy()

    def export(self, rows: Any) -> Any:
        """Hand over rows, float32 [n, channels], as `Engine.run` takes them."""
        return rows


HOST = Place()


class DeviceRows:
    """Rows in a device's memory by `__cuda_array_interface__`, version 3.

    PyTorch's own interface does not name the stream that the values come from, and CuPy's does
    only by default.

    Parameters
    ----------
    rows : array, float32 [n, channels], C-contiguous
        Kept as long as this object.
    address : int
        Of the first value.
    stream : int or None
        Handle of the stream whose work makes the values, 0 for the legacy default stream; None if
        they are there already.
    """

    def __init__(self, rows: Any, address: int, stream: int | None) -> None:
        self._rows = rows
        self.__cuda_array_interface__ = {
            "shape": tuple(rows.shape),
            "typestr": "<f4",
            "data": (address, True),  # read only
            "strides": None,
            "stream": None if stream is None else stream or 1,  # 0 is not allowed, 1 means the same
            "version": 3,
        }


class _CupyPlace(Place):
    """CuPy on one GPU."""

    def __init__(self, cupy: Any, number: int) -> None:
        self.xp, self._number = cupy, number

    def scope(self) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = self.xp.cuda.Device(self._number)
        return device

    def export(self, rows: Any) -> DeviceRows:
        return DeviceRows(rows, rows.data.ptr, self.xp.cuda.get_current_stream().ptr)


class _TorchModule:
    """PyTorch in the style of the array API, as far as it is used here, on one device."""

    def __init__(self, torch: Any, device: Any) -> None:
        self._torch, self._device = torch, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def zeros(self, shape: tuple[int, ...], *, dtype: Any) -> Any:
        return self._torch.zeros(shape, dtype=dtype, device=self._device)

    def asarray(self, values: Any, *, dtype: Any = None) -> Any:
        return self._torch.asarray(values, dtype=dtype, device=self._device)


class _TorchPlace(Place):
    """PyTorch on one device."""

    def __init__(self, torch: Any, device: Any) -> None:
        self.xp = _TorchModule(torch, device)
        self._streams = torch.cuda if device.type == "cuda" else None
        self._device = device

    def own(self, mel: Any) -> Any:
        return mel.clone()

    def export(self, rows: Any) -> DeviceRows:
        stream = self._streams and self._streams.current_stream(self._device).cuda_stream
        return DeviceRows(rows, rows.data_ptr(), stream)


@functools.cache  # a place is known by its identity: weights are brought to it once
def _place(module: Any, device: Any) -> Place:
    if isinstance(device, int):
        return _CupyPlace(module, device)
    return _TorchPlace(module, device)


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


def home_on(device: str) -> Place:
    """The place on an engine's device to which mels of the host are brought.

    CuPy's there, or PyTorch's if there is no CuPy and the program has PyTorch loaded; the host for
    devices that read its memory. The emulator stands for a GPU, and PyTorch's tensors of the host
    for those on it.

    Raises
    ------
    MissingDependencyError
        If there is neither.
    """
    kind, _, number = device.partition(":")
    if kind not in ("cuda", "emu"):
        return HOST
    if kind == "cuda":
        with contextlib.suppress(ImportError):
            return _place(importlib.import_module("cupy"), int(number or 0))
    torch: Any = sys.modules.get("torch")
    if torch is not None and kind == "emu":
        return _place(torch, torch.device("cpu"))
    if torch is not None and torch.cuda.is_available():
        return _place(torch, torch.device("cuda", int(number or 0)))
    if kind == "emu":
        raise MissingDependencyError(
            "Conditioning on the emulator needs PyTorch, imported by the program; use "
            "conditioning='host'."
        )
    raise MissingDependencyError(
        f"Conditioning on device {device} needs CuPy, or PyTorch where the program has imported it "
        "and it sees the GPU; install cupy-cuda12x or cupy-cuda13x, or use conditioning='host'."
    )


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
        place = _place(library, where)
        return Given(value, lambda wave: library.from_numpy(wave).to(where), place)
    place = _place(library, int(device.partition(":")[2] or 0))

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


# --- numbers --------------------------------------------------------------------------------------


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


def to_count(value: Any, what: str, least: int = 0, most: int | None = None) -> int:
    """Check a number of things: an integer of at least `least`, at most `most` if that is given.

    Raises
    ------
    InputError
        If it is none.
    """
    try:
        count = operator.index(value)
    except TypeError:
        raise InputError(f"{what} is {value!r}, expected an integer.") from None
    if isinstance(value, bool) or count < least:
        raise InputError(f"{what} is {value!r}, expected an integer of at least {least}.")
    if most is not None and count > most:
        raise InputError(f"{what} is {value!r}, expected at most {most}.")
    return count


def to_temperature(value: Any, greedy: str = "greedy=True") -> float:
    """Check a temperature: a finite number above 0; `greedy` is what messages call its limit."""
    try:
        temperature = float(value)
    except (TypeError, ValueError):
        raise InputError(f"The temperature is {value!r}, expected a number.") from None
    if not (math.isfinite(temperature) and temperature > 0.0):
        way_out = f" (for no chance at all use {greedy})" if greedy else ""
        raise InputError(
            f"The temperature is {value!r}, expected a finite number above 0{way_out}."
        )
    return temperature
