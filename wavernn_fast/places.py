"""Where the arrays of an utterance lie: the host's memory, or a GPU's, with CuPy or PyTorch."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from .errors import MissingDependencyError


class Place:
    """Where the arrays of an utterance lie: this one is the host, with numpy."""

    xp: Any = np  # array module of `conditioning.Conditioner`, making its arrays here

    def scope(self) -> AbstractContextManager[Any]:
        """Within it the module's current device is this one."""
        return contextlib.nullcontext()

    def own(self, mel: Any) -> Any:
        """Copy a mel, here."""
        return mel.copy()

    def export(self, rows: Any, made: bool = False) -> Any:
        """Hand over rows, float32 [n, channels], as `Engine.run` takes them.

        If they are `made` already (`finish`), the engine waits for nothing.
        """
        return rows

    def finish(self) -> None:
        """Wait until all values asked for so far are there."""


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

    def export(self, rows: Any, made: bool = False) -> DeviceRows:
        stream = None if made else self.xp.cuda.get_current_stream().ptr
        return DeviceRows(rows, rows.data.ptr, stream)

    def finish(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()


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

    def export(self, rows: Any, made: bool = False) -> DeviceRows:
        stream = None
        if self._streams and not made:
            stream = self._streams.current_stream(self._device).cuda_stream
        return DeviceRows(rows, rows.data_ptr(), stream)

    def finish(self) -> None:
        if self._streams:
            self._streams.current_stream(self._device).synchronize()


@functools.cache  # a place is known by its identity: weights are brought to it once
def place_of(module: Any, device: Any) -> Place:
    """CuPy on the GPU of a number, or PyTorch on one of its devices."""
    if isinstance(device, int):
        return _CupyPlace(module, device)
    return _TorchPlace(module, device)


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
            return place_of(importlib.import_module("cupy"), int(number or 0))
    torch: Any = sys.modules.get("torch")
    if torch is not None and kind == "emu":
        return place_of(torch, torch.device("cpu"))
    if torch is not None and torch.cuda.is_available():
        return place_of(torch, torch.device("cuda", int(number or 0)))
    if kind == "emu":
        raise MissingDependencyError(
            "Conditioning on the emulator needs PyTorch, imported by the program; use "
            "conditioning='host'."
        )
    raise MissingDependencyError(
        f"Conditioning on device {device} needs CuPy, or PyTorch where the program has imported it "
        "and it sees the GPU; install cupy-cuda12x or cupy-cuda13x, or use conditioning='host'."
    )
