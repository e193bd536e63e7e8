"""The few calls of the CUDA driver and of NVRTC that the exchange benchmark needs, by ctypes.

Clusters of sixteen blocks and cooperative launches need attributes that CuPy does not pass on.
Every call is checked; nothing here changes a setting of the device.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

# CUdevice_attribute, CUfunction_attribute
CLOCK_KHZ, MULTIPROCESSORS, L2_BYTES, MAJOR, MINOR = 13, 16, 38, 75, 76
NON_PORTABLE_CLUSTER = 14

Handle = ctypes.c_void_p
U = ctypes.c_uint
# name: parameter types. Handles and sizes must not be cut to an int.
SIGNATURES: dict[str, list[Any]] = {
    "cuInit": [U],
    "cuDriverGetVersion": [ctypes.POINTER(ctypes.c_int)],
    "cuGetErrorName": [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)],
    "cuDeviceGet": [ctypes.POINTER(ctypes.c_int), ctypes.c_int],
    "cuDeviceGetName": [ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
    "cuDeviceGetAttribute": [ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int],
    "cuDevicePrimaryCtxRetain": [ctypes.POINTER(Handle), ctypes.c_int],
    "cuCtxSetCurrent": [Handle],
    "cuCtxSynchronize": [],
    "cuMemAlloc_v2": [ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t],
    "cuMemsetD8_v2": [ctypes.c_uint64, ctypes.c_ubyte, ctypes.c_size_t],
    "cuMemcpyDtoH_v2": [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t],
    "cuModuleLoadData": [ctypes.POINTER(Handle), ctypes.c_char_p],
    "cuModuleGetFunction": [ctypes.POINTER(Handle), Handle, ctypes.c_char_p],
    "cuFuncSetAttribute": [Handle, ctypes.c_int, ctypes.c_int],
    "cuLaunchKernel": [Handle, U, U, U, U, U, U, U, Handle, ctypes.c_void_p, ctypes.c_void_p],
    "cuLaunchCooperativeKernel": [Handle, U, U, U, U, U, U, U, Handle, ctypes.c_void_p],
    "cuEventCreate": [ctypes.POINTER(Handle), U],
    "cuEventRecord": [Handle, Handle],
    "cuEventSynchronize": [Handle],
    "cuEventElapsedTime": [ctypes.POINTER(ctypes.c_float), Handle, Handle],
}


class CudaError(RuntimeError):
    """A call failed, or what it needs is missing."""


class Driver:
    """Device 0 and its primary context, current on the thread that makes this."""

    def __init__(self) -> None:
        try:
            self.library = ctypes.CDLL(os.environ.get("WAVERNN_FAST_LIBCUDA", "libcuda.so.1"))
        except OSError as error:
            raise CudaError(f"no CUDA driver: {error}") from error
        self.call("cuInit", 0)
        device, context = ctypes.c_int(), Handle()
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.device = device.value
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name: str, *arguments: Any) -> None:
        function = getattr(self.library, name)
        function.argtypes, function.restype = SIGNATURES[name], ctypes.c_int
        code = function(*arguments)
        if code != 0:
            text = ctypes.c_char_p()
            if name != "cuGetErrorName":
                self.library.cuGetErrorName(code, ctypes.byref(text))
            raise CudaError(f"{name}: {(text.value or b'?').decode()} ({code})")

    def attribute(self, which: int) -> int:
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), which, self.device)
        return value.value

    def facts(self) -> dict[str, Any]:
        """Name, compute capability, multiprocessors, L2 and the clock the driver states."""
        name, version = ctypes.create_string_buffer(256), ctypes.c_int()
        self.call("cuDeviceGetName", name, 256, self.device)
        self.call("cuDriverGetVersion", ctypes.byref(version))
        return {
            "name": name.value.decode(),
            "arch": 10 * self.attribute(MAJOR) + self.attribute(MINOR),
            "multiprocessors": self.attribute(MULTIPROCESSORS),
            "l2_bytes": self.attribute(L2_BYTES),
            "clock_khz": self.attribute(CLOCK_KHZ),
            "cuda_of_driver": f"{version.value // 1000}.{version.value % 1000 // 10}",
        }

    def module(self, image: bytes) -> Module:
        handle = Handle()
        self.call("cuModuleLoadData", ctypes.byref(handle), image)
        return Module(self, handle)

    def allocate(self, n_bytes: int) -> int:
        """Address of zeroed memory that lives as long as the process."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), n_bytes)
        self.call("cuMemsetD8_v2", address.value, 0, n_bytes)
        return address.value

    def zero(self, address: int, n_bytes: int) -> None:
        self.call("cuMemsetD8_v2", address, 0, n_bytes)

    def download(self, address: int, into: NDArray[Any]) -> None:
        self.call("cuCtxSynchronize")
        self.call("cuMemcpyDtoH_v2", into.ctypes.data, address, into.nbytes)

    def events(self) -> tuple[Any, Any]:
        pair = Handle(), Handle()
        for event in pair:
            self.call("cuEventCreate", ctypes.byref(event), 0)
        return pair

    def elapsed_ms(self, events: tuple[Any, Any]) -> float:
        value = ctypes.c_float()
        self.call("cuEventSynchronize", events[1])
        self.call("cuEventElapsedTime", ctypes.byref(value), *events)
        return value.value


class Module:
    """Kernels of one image."""

    def __init__(self, driver: Driver, handle: Any) -> None:
        self.driver, self.handle = driver, handle

    def function(self, name: str) -> Function:
        handle = Handle()
        self.driver.call("cuModuleGetFunction", ctypes.byref(handle), self.handle, name.encode())
        return Function(self.driver, handle)


class Function:
    """One kernel."""

    def __init__(self, driver: Driver, handle: Any) -> None:
        self.driver, self.handle = driver, handle

    def set(self, which: int, value: int) -> None:
        self.driver.call("cuFuncSetAttribute", self.handle, which, value)

    def launch(
        self, blocks: int, threads: int, shared: int, arguments: list[Any], cooperative: bool
    ) -> None:
        """Start the kernel on the default stream; `arguments` are ctypes values."""
        pointers = (ctypes.c_void_p * len(arguments))(
            *[ctypes.cast(ctypes.pointer(a), ctypes.c_void_p) for a in arguments]
        )
        size = (blocks, 1, 1, threads, 1, 1, shared, None, pointers)
        if cooperative:
            self.driver.call("cuLaunchCooperativeKernel", self.handle, *size)
        else:
            self.driver.call("cuLaunchKernel", self.handle, *size, None)


# --- the compiler ---------------------------------------------------------------------------------


def nvrtc_paths() -> list[str]:
    """Every NVRTC of this machine: of pip's packages, then of a toolkit."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    patterns = [f"{folder}/*/lib/libnvrtc.so.*" for folder in folders]
    patterns += ["/usr/local/cuda*/lib64/libnvrtc.so.*", "/usr/lib/*/libnvrtc.so.*"]
    found = [path for pattern in patterns for path in sorted(glob.glob(pattern))]
    found = [path for path in found if re.search(r"libnvrtc\.so\.\d+(\.\d+)*$", path)]
    override = os.environ.get("WAVERNN_FAST_NVRTC")
    return ([override] if override else []) + found + ["libnvrtc.so"]


class Nvrtc:
    """The first NVRTC that loads."""

    def __init__(self, path: str | None = None) -> None:
        tried = []
        for candidate in [path] if path else nvrtc_paths():
            try:
                self.library = ctypes.CDLL(candidate)
            except OSError as error:
                tried.append(str(error))
                continue
            self.path = candidate
            return
        raise CudaError(f"no NVRTC: {'; '.join(tried)}")

    def version(self) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def compile(self, source: Path, options: list[str]) -> bytes:
        """Cubin of a file.

        Raises
        ------
        CudaError
            With the compiler's log.
        """
        program = Handle()
        text, name = source.read_bytes(), source.name.encode()
        self._check(
            "nvrtcCreateProgram", ctypes.byref(program), text, name, ctypes.c_int(0), None, None
        )
        array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
        try:
            self._check("nvrtcCompileProgram", program, ctypes.c_int(len(options)), array)
        except CudaError as error:
            log = self._text(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            raise CudaError(f"{error}\n{log}") from error
        return self._text(program, "CUBIN")

    def _text(self, program: Any, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        self._check(f"nvrtcGet{what}", program, data)
        return data.raw

    def _check(self, name: str, *arguments: Any) -> None:
        code = getattr(self.library, name)(*arguments)
        if code != 0:
            raise CudaError(f"{name} of {self.path}: error {code}")
