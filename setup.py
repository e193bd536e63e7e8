"""Builds the compiled engine with CMake; everything else is declared in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class CMakeExtension(Extension):
    """An extension whose sources only CMake knows."""

    def __init__(self, name: str) -> None:
        super().__init__(name, sources=[])


def keep_pybind11(build: Path) -> Path:
    """Copy pybind11 into the build folder, once a version; return its folder for CMake.

    pip unpacks it somewhere else for every installation, and what includes it would be compiled
    again each time.
    """
    installed = Path(pybind11.__file__).resolve().parent
    kept = build / f"pybind11-{pybind11.__version__}"
    if not kept.is_dir():
        unfinished = build / f"{kept.name}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(installed, unfinished, ignore=shutil.ignore_patterns("__pycache__"))
        unfinished.rename(kept)
    return kept / Path(pybind11.get_cmake_dir()).resolve().relative_to(installed)


class CMakeBuild(build_ext):
    """Configure, build and place one CMake extension."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension and put it where setuptools expects it."""
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # One place for every kind of installation (pip gives an editable one a new folder each
        # time), so that the second compiles only what has changed.
        source = Path(__file__).resolve().parent
        tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        build = source / "build" / f"cmake-{tag}"
        build.mkdir(parents=True, exist_ok=True)
        # It names the ninja of an earlier build's environment, which is gone; the objects are good.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        configure = [
            "cmake",
            "-S",
            str(source),
            "-B",
            str(build),
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={keep_pybind11(build)}",
            f"-DWF_VERSION={self.distribution.get_version()}",
            "-DCMAKE_BUILD_TYPE=Release",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        if not os.environ.get("CMAKE_GENERATOR"):
            configure += ["-G", "Ninja"]
        subprocess.run(configure, check=True)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        subprocess.run(["cmake", "--build", str(build), "--parallel", jobs], check=True)
        if os.environ.get("WAVERNN_FAST_PACKAGE_KERNELS") == "1":
            self.package_kernels(target.parent)

    def package_kernels(self, package: Path) -> None:
        """Compile the GPU kernels of the usual models into the package; NVRTC must be installed."""
        source = Path(__file__).resolve().parent
        code = (
            "import sys, wavernn_fast; sys.path.pop(0)\n"
            f"wavernn_fast.__path__.append({str(package)!r})\n"
            "from wavernn_fast.kernels import compile_usual\n"
            f"print(*compile_usual({str(package / 'cubins')!r}), sep='\\n')"
        )
        paths = os.pathsep.join([str(source), *sys.path])
        subprocess.run(
            [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths}
        )


setup(ext_modules=[CMakeExtension("wavernn_fast._C")], cmdclass={"build_ext": CMakeBuild})
