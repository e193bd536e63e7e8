"""The same bits from every instruction set, and from AArch64 NEON under qemu-user."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import cross_isa_models
import pytest
from programs import COMPILER, ROOT, run_program
from quick import first_is_quick

from wavernn_fast import _C

GOLDEN = ROOT / "tests" / "golden" / "cross_isa.txt"
ARM = ["aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++"]


def build(folder: Path, *options: str) -> Path:
    """Build the program from a copy of the sources, laid out as an installation lays them out.

    So a compiler cache, where one is set up, finds what the installation compiled.
    """
    for name in ("CMakeLists.txt", "cmake", "csrc", "tests/cpp"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, folder / name)
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    binaries = folder / "build" / "tests"
    command = ["cmake", "-S", str(folder), "-B", str(binaries), *generator, *options]
    command += ["-DWF_PYTHON=OFF", "-DWF_CPP_TESTS=ON"]
    environment = os.environ | {"CCACHE_BASEDIR": str(folder)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    jobs = str(os.cpu_count() or 1)
    make = ["cmake", "--build", str(binaries), "--target", "wf_cpp_tests", "--parallel", jobs]
    subprocess.run(make, check=True, capture_output=True, env=environment)
    return binaries / "wf_cpp_tests"


def checksums(*command: str) -> tuple[str, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("isa", first_is_quick(reversed(_C.available_isas())))
def test_every_instruction_set_here_gives_the_golden_bits(isa):
    """Through the extension, so of what is installed; the program below runs the same models."""
    assert list(cross_isa_models.lines(isa)) == GOLDEN.read_text().splitlines()


@pytest.mark.slow
def test_the_multiply_add_of_plain_c_rounds_as_the_librarys(tmp_path):
    flags = ["-ffp-contract=off", "-Wno-unused-function"]
    run_program(tmp_path, "multiply_add", *flags)


@pytest.mark.slow
def test_the_program_for_other_machines_compiles():
    """Here without what it links to: that is built by those who have the tools below."""
    if not COMPILER:
        pytest.skip("no C++ compiler; the README asks for one")
    flags = ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
    source = ROOT / "tests/cpp/main.cpp"
    subprocess.run([COMPILER, *flags, f"-I{ROOT / 'csrc'}", source], check=True)


@pytest.mark.slow
def test_neon_under_qemu_gives_the_golden_bits(tmp_path):
    missing = [tool for tool in [*ARM, "qemu-aarch64"] if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: g++-aarch64-linux-gnu qemu-user)")
    program = build(
        tmp_path / "arm",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_C_COMPILER={ARM[0]}",
        f"-DCMAKE_CXX_COMPILER={ARM[1]}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    )
    found, isas = checksums("qemu-aarch64", str(program))
    assert "neon" in isas
    assert found == GOLDEN.read_text()
