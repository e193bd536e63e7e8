"""The emulated kernel under AddressSanitizer and UndefinedBehaviorSanitizer.

Every block's shared memory, every buffer of the device and every fiber's stack is an allocation of
its own, so a thread that reads beyond one is reported, with the line of the kernel.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -g1 -O0"

pytestmark = pytest.mark.slow


def sanitizers_missing(folder: Path) -> str | None:
    """Why no program can be built and run with them here, or None."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        return "there is no C++ compiler"
    source, program = folder / "probe.cpp", folder / "probe"
    source.write_text("int main() { return 0; }\n")
    command = [compiler, *FLAGS.split(), str(source), "-o", str(program)]
    for step in (command, [str(program)]):
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            return f"{' '.join(step)}: {done.stderr.strip()[-200:]}"
    return None


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sanitized")
    reason = sanitizers_missing(folder)
    if reason:
        pytest.skip(f"no sanitizers: {reason}")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = ["-DWF_PYTHON=OFF", "-DWF_CPP_TESTS=ON", "-DCMAKE_BUILD_TYPE=None"]
    options += [f"-DCMAKE_CXX_FLAGS={FLAGS}"]
    build = folder / "build"
    subprocess.run(
        ["cmake", "-S", str(ROOT), "-B", str(build), *generator, *options],
        check=True,
        capture_output=True,
    )
    jobs = str(os.cpu_count() or 1)
    command = ["cmake", "--build", str(build), "--parallel", jobs, "--target", "wf_emulator_tests"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    return build / "wf_emulator_tests"


def run(program: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_the_kernel_keeps_within_its_memory_wherever_weights_live(program):
    code, output = run(program, "places")
    assert code == 0, output
    assert "Sanitizer" not in output
    found = re.findall(r"fp32 in (\d) (\d) (\d) (\d): 0 draws differ", output)
    gru, fc1, coarse_fc2, fine_fc2 = (set(places) for places in zip(*found, strict=True))
    assert gru == {"0", "2"}  # registers, L2
    assert fc1 == {"0", "1", "2"}  # and shared memory
    assert coarse_fc2 == fine_fc2 == {"0", "1", "2"}


def test_blocks_of_a_cluster_keep_within_their_memory_wherever_weights_live(program):
    code, output = run(program, "cluster_places")
    assert code == 0, output
    assert "Sanitizer" not in output
    assert len(re.findall(r"clusters in \d{5}: 0 draws differ", output)) >= 4


def test_teams_of_a_pruned_model_keep_within_their_memory_wherever_bins_live(program):
    code, output = run(program, "sparse")
    assert code == 0, output
    assert "Sanitizer" not in output
    assert output.count(": 0 draws differ") == 12


def test_the_residual_kernel_keeps_within_its_memory_wherever_weights_live(program):
    code, output = run(program, "residual")
    assert code == 0, output
    assert "Sanitizer" not in output
    found = re.findall(r"in (\d) (\d) (\d) (\d) (\d) (\d): 0 draws differ", output)
    assert len(found) > 35  # plans, no two alike
    for places in zip(*found, strict=True):  # of R1, R2, W_ih2, fc1, fc2 and fc3
        assert set(places) == {"0", "1", "2"}  # registers, shared memory, L2


def test_the_kernels_for_many_streams_keep_within_their_memory(program):
    code, output = run(program, "many")
    assert code == 0, output
    assert "Sanitizer" not in output
    assert output.count("streams a team") == 9  # no two alike
    assert "fc3 in L2" in output


def test_the_embedded_kernel_keeps_within_its_memory_wherever_weights_live(program):
    """127 labels: the last row of the table is fed back at once, an odd row of fc2 is padded."""
    code, output = run(program, "embedded")
    assert code == 0, output
    assert "Sanitizer" not in output
    found = re.findall(r"in (\d) (\d) (\d): 0 draws differ", output)
    for places in zip(*found, strict=True):  # of R, fc1 and fc2
        assert set(places) == {"0", "1", "2"}  # registers, shared memory, L2


def test_a_read_beyond_shared_memory_is_reported_with_its_line(program):
    code, output = run(program, "outside")
    assert code != 0
    assert "AddressSanitizer: heap-buffer-overflow" in output
    assert "stage_dense.cuh:" in output


@pytest.mark.parametrize(
    ("exchanges", "schedule"), [("2", "random:1"), ("4", "random:1"), ("4", "starve:0")]
)
def test_a_block_without_units_is_never_left_behind(program, exchanges, schedule):
    """Forty blocks for 32 units a half: of what the planner refuses, block 0 owns nothing but its
    share of the output layers. That share is enough: no draw is made before every block has given
    it, so nobody gets a step ahead of a starved one."""
    code, output = run(program, "idle", exchanges, schedule)
    assert code == 0, output
