"""The kernel through NVIDIA's run-time compiler, which needs no GPU: what it reports, and its code.

The library is looked for where pip puts it (nvidia-cuda-nvrtc-cu12, nvidia-cuda-nvrtc), of every
path that Python searches and of WAVERNN_FAST_TEST_NVRTC, a list of folders; all major versions
that are there are used. The disassembler is `nvdisasm` of PATH, of pip (nvidia-cuda-nvdisasm), or
inside an installed triton.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quick import first_is_quick

from wavernn_fast import _C

ENTRIES = {
    "wavernn_persistent": "cuda/kernels/entry_device.cuh",
    "wavernn_sparse": "cuda/kernels/entry_sparse.cuh",
    "wavernn_many": "cuda/kernels/entry_many.cuh",
    "wavernn_many_residual": "cuda/kernels/entry_many_residual.cuh",
    "wavernn_many_embedded": "cuda/kernels/entry_many_embedded.cuh",
    "wavernn_residual": "cuda/kernels/entry_residual.cuh",
    "wavernn_embedded": "cuda/kernels/entry_embedded.cuh",
}
PLACES = ("nvidia/cuda_nvrtc/lib", "nvidia/cu12/lib", "nvidia/cu13/lib", ".")


@dataclass(frozen=True)
class Compiled:
    """What the assembler reported of the kernel, and its machine code."""

    registers: int  # a thread
    spill_stores: int  # bytes
    spill_loads: int  # bytes
    static_shared: int  # bytes a block, beside what the launch asks for
    cubin: bytes


class Compiler:
    """One libnvrtc, called as the engine calls it: with its options."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        major, minor = ctypes.c_int(), ctypes.c_int()
        ctypes.CDLL(self.path).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)
        self.compiled: dict[tuple[object, ...], Compiled] = {}

    def compile(
        self, macros: list[tuple[str, str]], target: int, name: str = "wavernn_persistent"
    ) -> Compiled:
        """Compile a kernel for one shape and one architecture, once in a process.

        Raises
        ------
        DeviceError : with the compiler's log
        """
        key = (name, target, *sorted(macros))
        if key not in self.compiled:
            self.compiled[key] = self.compile_anew(macros, target, name)
        return self.compiled[key]

    def compile_anew(self, macros: list[tuple[str, str]], target: int, name: str) -> Compiled:
        """Compile whether or not it has been done before: about a second."""
        sources = dict(_C.kernel_sources())
        cubin, log = _C.compile_kernel(
            name,
            sources[ENTRIES[name]],
            f"sm_{target}",
            nvrtc=self.path,
            headers=sources,
            defines=dict(macros),
        )
        return Compiled(*report(log), cubin)


def report(log: str) -> tuple[int, int, int, int]:
    """Registers, bytes of spill stores and loads, and static shared memory, from ptxas -v."""
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    shared = re.search(r"(\d+) bytes smem", log)
    if registers is None or spills is None:
        raise RuntimeError(f"the compiler reported no registers or spills: {log[:2000]}")
    return int(registers[1]), int(spills[1]), int(spills[2]), int(shared[1]) if shared else 0


@functools.cache
def compilers() -> list[Compiler]:
    """Every libnvrtc found, one a major version."""
    extra = os.environ.get("WAVERNN_FAST_TEST_NVRTC", "").split(os.pathsep)
    found: dict[int, Compiler] = {}
    for folder in [*sys.path, *extra]:
        for place in PLACES:
            for path in sorted(Path(folder or "/nonexistent", place).glob("libnvrtc.so.[0-9]*")):
                compiler = Compiler(path)
                found.setdefault(compiler.version[0], compiler)
    return [found[major] for major in sorted(found)]


Grid = tuple[int, Any]  # a compiler, and a named tuple with a `target` that describes a kernel


def chosen(covering: list[Grid], more: list[Grid]) -> list[Any]:
    """Kernels to compile: a choice that covers, and with WF_SEARCH=1 the rest of the grid as well.

    Of kernels that are alike, a choice has the one that is nearest to the limit of registers; what
    it must not lack, `uncovered` tells.
    """
    return first_is_quick(covering + (more if os.environ.get("WF_SEARCH") else []))


def uncovered(covering: list[Grid], more: list[Grid]) -> set[object]:
    """What the rest of a grid has and the choice lacks: an architecture by one of the compilers, a
    value of a field of the cases, an option. Cases are (compiler, named tuple)."""
    return seen(more) - seen(covering)


def seen(grid: list[Grid]) -> set[object]:
    """Values of the fields of all cases, dictionaries by item; architectures by compiler."""
    found: set[object] = set()
    for major, case in grid:
        found.add((major, case.target))
        for name, value in case._asdict().items():
            items = value.items() if isinstance(value, dict) else [value]
            found |= {(name, item) for item in items}
    return found


@functools.cache
def disassembler() -> str | None:
    """Path of nvdisasm, or None."""
    on_path = shutil.which("nvdisasm")
    if on_path:
        return on_path
    for package, place in (("nvidia", "cu13/bin"), ("triton", "backends/nvidia/bin")):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            tool = Path(folder, place, "nvdisasm")
            if tool.is_file():
                return str(tool)
    return None


def disassemble(cubin: bytes, folder: Path) -> str:
    """SASS of the kernel as nvdisasm prints it.

    Raises
    ------
    subprocess.CalledProcessError : a disassembler that does not know the architecture
    """
    tool = disassembler()
    assert tool is not None
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    return subprocess.run(
        [tool, "-c", str(path)], check=True, capture_output=True, text=True
    ).stdout
