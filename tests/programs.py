"""Small C++ programs of tests/cpp, which check a header by themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")


def run_program(folder: Path, name: str, *flags: str) -> None:
    """Compile tests/cpp/NAME.cpp in a folder and run it; what it says on stderr is the failure."""
    if not COMPILER:
        pytest.skip("no C++ compiler; the README asks for one")
    program, source = folder / name, ROOT / "tests" / "cpp" / f"{name}.cpp"
    usual = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}"]
    subprocess.run([COMPILER, *usual, *flags, source, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
