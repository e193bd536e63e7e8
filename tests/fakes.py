"""Stand-ins for libcuda and libnvrtc (tests/fake_cuda), built here and scripted by a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from wavernn_fast import _C

SOURCES = Path(__file__).parent / "fake_cuda"
CSRC = Path(__file__).parents[1] / "csrc"
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
# name -> source and macros
VARIANTS = {
    "cuda": ("libcuda.c",),
    "cuda-old": ("libcuda.c", "WITHOUT_COOPERATIVE_LAUNCH"),
    "nvrtc-11": ("libnvrtc.c", "FAKE_VERSION=1108"),
    "nvrtc-12": ("libnvrtc.c", "FAKE_VERSION=1209"),
    "nvrtc-13": ("libnvrtc.c", "FAKE_VERSION=1305"),
    "nvrtc-poor": ("libnvrtc.c", "FAKE_VERSION=1209", "WITHOUT_CUBIN"),
}
SOURCE = 'extern "C" __global__ void probe() {}\n'


def build(folder: Path) -> dict[str, Path]:
    """Compile every variant into a folder."""
    if not COMPILER:
        pytest.skip("no C++ compiler; the README asks for one")
    built = {}
    for name, (source, *macros) in VARIANTS.items():
        target = folder / f"{name}.so"
        flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra"]
        command = [COMPILER, *flags, *(f"-D{m}" for m in macros), "-x", "c", SOURCES / source]
        if source == "libcuda.c":
            command += ["-I", CSRC, "-x", "c++", SOURCES / "persistent.cpp"]
        subprocess.run([*map(str, command), "-o", target, "-lpthread"], check=True)
        built[name] = target
    return built


@dataclass(frozen=True)
class Call:
    """One call that the driver got."""

    pid: int
    name: str
    details: str


class Fake:
    """A driver and a compiler of one test; every `install` is a library never loaded before."""

    def __init__(
        self, built: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.built, self.folder, self.monkeypatch = built, folder, monkeypatch
        self.record, self.compilations_file = folder / "calls", folder / "compilations"
        self.cache = folder / "cache"
        monkeypatch.setenv("FAKE_CUDA_CALLS", str(self.record))
        monkeypatch.setenv("FAKE_NVRTC_CALLS", str(self.compilations_file))
        monkeypatch.setenv("WAVERNN_FAST_CACHE", str(self.cache))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        self.install("cuda")
        self.install("nvrtc-12")

    def copy(self, variant: str) -> Path:
        """A library of its own: a driver is initialised once a file."""
        target = self.folder / f"{len(list(self.folder.iterdir()))}-{variant}.so"
        shutil.copy(self.built[variant], target)
        return target

    def install(self, variant: str) -> Path:
        """Make a variant the driver or the compiler."""
        path = self.copy(variant)
        kind = "LIBCUDA" if variant.startswith("cuda") else "NVRTC"
        self.monkeypatch.setenv(f"WAVERNN_FAST_{kind}", str(path))
        return path

    def script(self, **what: str | int) -> None:
        """Set FAKE_CUDA_<NAME>: devices, version, memory, fail, args, pause (ms a launch)."""
        for name, value in what.items():
            self.monkeypatch.setenv(f"FAKE_CUDA_{name.upper()}", str(value))

    def calls(self, *names: str) -> list[Call]:
        """Calls so far, in order; all, or those of some names."""
        if not self.record.exists():
            return []
        lines = [line.split(" ", 2) for line in self.record.read_text().splitlines()]
        return [Call(int(p), n, d.strip()) for p, n, d in lines if not names or n in names]

    def counts(self) -> Counter[str]:
        """How often each function was called."""
        return Counter(call.name for call in self.calls())

    def compilations(self) -> list[str]:
        """Version and options of every compilation."""
        path = self.compilations_file
        return path.read_text().splitlines() if path.exists() else []

    def load(self, device: _C.CudaDevice, tag: object = 0, **arguments: object) -> _C.CudaKernel:
        """A kernel that no other test has compiled (images are kept in memory by their source)."""
        source = f"{SOURCE}// {self.folder} {tag}\n"
        return device.load("probe", source, **arguments)  # type: ignore[arg-type]


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, with this environment."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False
    )


def entries(folder: Path) -> list[Path]:
    """Files of a kernel folder."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def load_elsewhere(source: str, **environment: str) -> subprocess.Popen[str]:
    """Load a kernel in another process; it prints where the kernel came from."""
    code = (
        "import sys\nfrom wavernn_fast import _C\n"
        "print(_C.CudaDevice(cubins=sys.argv[2]).load('probe', sys.argv[1]).origin)\n"
    )
    cubins = environment.pop("cubins", "")
    return subprocess.Popen(
        [sys.executable, "-c", code, source, cubins],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def origin_elsewhere(source: str, **environment: str) -> str:
    """Where a process of its own gets a kernel from."""
    process = load_elsewhere(source, **environment)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return output.strip()
