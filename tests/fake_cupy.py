"""A CuPy of host memory: what the package uses of it, as strict as the real one.

Nothing becomes numpy by itself, and work is done only where device 0
is the current one. The emulator reads its memory as a GPU reads CuPy's.
"""

from __future__ import annotations

import threading
import types
from typing import Any

import numpy as np

KIND = (1, 0)  # DLPack's device type and number: the host, which the emulator reads


class _Thread(threading.local):
    device = 1


class Device:
    """Makes a device the thread's current one; outside it is 1, where none of the arrays lie."""

    _thread = _Thread()

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal

    def __enter__(self) -> None:
        self.before, self._thread.device = self._thread.device, self.ordinal

    def __exit__(self, *_: object) -> None:
        self._thread.device = self.before

    @classmethod
    def current(cls) -> int:
        """Number of the thread's current device."""
        return cls._thread.device


def _bare(value: Any) -> Any:
    assert Device.current() == 0, "work on the wrong device"
    assert not isinstance(value, np.ndarray), "numpy and CuPy do not mix"
    return value.values if isinstance(value, Array) else value


class Array:
    """What is used of cupy.ndarray."""

    __module__ = "cupy"
    __array_ufunc__ = None  # numpy leaves operators to this class

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)
        self.shape, self.ndim, self.dtype = self.values.shape, self.values.ndim, self.values.dtype

    def __array__(self, *_: object, **__: object) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def get(self) -> Any:
        """Copy to the host, as restoring results in a test may."""
        raise AssertionError("an array came to the host")

    @property
    def device(self) -> Device:
        return Device(0)

    def __dlpack_device__(self) -> tuple[int, int]:
        return KIND

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self.values.ctypes.data)

    @property
    def T(self) -> Array:
        return Array(self.values.T)

    def copy(self) -> Array:
        return Array(_bare(self).copy())

    def reshape(self, *shape: int) -> Array:
        return Array(_bare(self).reshape(*shape))

    def clip(self, *bounds: float) -> Array:
        return Array(_bare(self).clip(*bounds))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> Array:
        key = tuple(map(_bare, key)) if isinstance(key, tuple) else _bare(key)
        return Array(_bare(self)[key])

    def __iadd__(self, other: Any) -> Array:
        values = _bare(self)
        values += _bare(other)
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        _bare(self)[key] = _bare(value)

    def __bool__(self) -> bool:
        return bool(self.values)

    def __float__(self) -> float:
        return float(self.values)

    def __int__(self) -> int:
        return int(self.values)

    def __iter__(self) -> Any:
        return (Array(value) for value in self.values)


def _method(name: str) -> Any:
    return lambda self, *others: Array(getattr(_bare(self), name)(*map(_bare, others)))


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "matmul", "gt", "invert", "rtruediv"):
    setattr(Array, f"__{_name}__", _method(f"__{_name}__"))
for _name in ("all", "any", "sum", "min", "max", "mean"):
    setattr(Array, _name, _method(_name))


def _solve(a: Array, b: Array) -> Array:
    assert a.shape[:-1] == b.shape[: a.ndim - 1], "CuPy does not broadcast here"
    return Array(np.linalg.solve(_bare(a), _bare(b)))


def module(stream: int = 0) -> types.ModuleType:
    """Make a module `cupy` whose current stream has a handle."""
    cupy: Any = types.ModuleType("cupy")
    cupy.float32, cupy.float64 = np.float32, np.float64

    def asarray(value: Any, dtype: Any = None) -> Array:
        assert Device.current() == 0, "an array was made on the wrong device"
        if isinstance(value, Array):
            return Array(np.asarray(value.values, dtype=dtype))
        assert type(value) is np.ndarray, "arrays of a third library come without their stream"
        return Array(np.array(value, dtype=dtype))  # memory of its own

    cupy.asarray = asarray
    cupy.zeros = lambda shape, dtype: asarray(np.zeros(shape, dtype))
    for name in ("where", "isfinite", "argwhere", "tanh", "flip", "exp", "log", "swapaxes"):
        function = getattr(np, name)
        setattr(cupy, name, lambda *given, f=function: Array(f(*map(_bare, given))))
    cupy.broadcast_to = lambda array, shape: Array(np.broadcast_to(_bare(array), shape))
    cupy.linalg = types.SimpleNamespace(
        cholesky=lambda a: Array(np.linalg.cholesky(_bare(a))), solve=_solve
    )
    cupy.concatenate = lambda arrays, axis=0: Array(np.concatenate([*map(_bare, arrays)], axis))
    cupy.stack = lambda arrays, axis=0: Array(np.stack([*map(_bare, arrays)], axis))
    current = types.SimpleNamespace(ptr=stream, synchronize=lambda: None)
    cupy.cuda = types.SimpleNamespace(Device=Device, get_current_stream=lambda: current)
    return cupy
