"""Kernels compiled beforehand: what a wheel carries is what the engine looks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import Fake

from wavernn_fast import _C, kernels, nvrtc
from wavernn_fast.errors import DeviceError
from wavernn_fast.synthetic import random_model

SMALL = (96, 48, 0)  # hidden size, output layers, mel bins; no other test compiles it
OLDEST_AND_NEWEST = ("P100", "B200")


@pytest.fixture
def compiler() -> None:
    if not nvrtc.libraries():
        pytest.skip('NVRTC is not installed: pip install "wavernn-fast[cuda]"')


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_usual_models_compile_for_every_known_gpu_without_spilling(tmp_path: Path) -> None:
    lines = kernels.compile_usual(str(tmp_path), [SMALL])
    assert [line.split(", ")[2].split(" (")[0] for line in lines] == _C.known_gpus()
    assert all(line.endswith(" 0 bytes spilled") for line in lines)
    assert list(tmp_path.glob("*-sm_60-*.kernel"))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("outputs", "head"), [(128, "softmax"), pytest.param(30, "mol", marks=pytest.mark.slow)]
)
def test_residual_models_compile_too(
    outputs: int, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For two GPUs: that all are served, the test above tells."""
    monkeypatch.setattr(_C, "known_gpus", lambda: list(OLDEST_AND_NEWEST))
    model = (48, 32, 7, outputs)
    assert kernels.plan_config(*model)["head"] == head
    lines = kernels.compile_usual(str(tmp_path), [model])
    assert len(lines) == len(OLDEST_AND_NEWEST)
    assert all(line.startswith(f"48/32/{outputs}, 7 mels, ") for line in lines)
    assert all(line.endswith(" 0 bytes spilled") for line in lines)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_a_packaged_kernel_serves_an_engine_without_a_compiler(fake: Fake, tmp_path: Path) -> None:
    fake.script(run=1, devices=known("H200"))
    fake.monkeypatch.setattr(_C, "known_gpus", lambda: ["H200"])
    kernels.compile_usual(str(tmp_path), [SMALL])
    fake.monkeypatch.setenv("WAVERNN_FAST_NVRTC", "/nowhere/libnvrtc.so")
    config = kernels.plan_config(*SMALL)
    with pytest.raises(DeviceError, match="nowhere"):
        engine_of(config, "")
    engine = engine_of(config, str(tmp_path))
    [(labels, _)] = engine.run([engine.open(1)], [20], [None], [None])
    assert labels.tolist() == list(range(20))


def test_a_log_without_figures_is_an_error() -> None:
    assert kernels.usage("Used 40 registers\n8 bytes spill stores, 4 bytes spill loads") == (40, 8)
    with pytest.raises(DeviceError, match="did not say"):
        kernels.usage("ptxas info: nothing")


def run_as_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wavernn_fast.kernels", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("arguments", [[], ["one", "two"], ["--help"]])
def test_the_program_says_how_it_is_called(arguments: list[str], tmp_path: Path) -> None:
    done = run_as_program(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usage: python -m wavernn_fast.kernels FOLDER\n"


@pytest.mark.usefixtures("compiler")
def test_a_folder_that_cannot_be_written_is_said_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run_as_program(str(tmp_path / "file" / "cubins"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: cannot write the kernel ")
    assert "file/cubins" in done.stderr
    assert done.stderr.count("\n") == 1


def known(name: str) -> str:
    """Describe a device of the stand-in that has the limits of a known GPU."""
    limits = _C.known_gpu(name)
    fields = {
        "name": "name",
        "sms": "multiprocessors",
        "arch": "arch",
        "clock": "clock_khz",
        "shared": "shared_per_block",
        "l2": "l2_bytes",
    }
    return ",".join(f"{key}={limits[field]}" for key, field in fields.items())


def engine_of(config: dict[str, Any], cubins: str) -> _C.Engine:
    _, tensors = random_model(f"dual:{config['hidden_size']}")
    return _C.Engine(config, tensors, device="cuda", exact=False, cubins=cubins)
