"""How a command ends that is told to: no file in the making is left, and the exit code says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import checkpoint_builders as builders
import numpy as np
import pytest
from quick import first_is_quick
from voices import preset_mel, save_speech, save_voice

ROOT = str(Path(__file__).resolve().parents[1])

# The command, held where a file in the making is brought to the disk.
HELD = """
import os, sys, time
def hold(descriptor):
    print("writing", flush=True)
    time.sleep(120)
os.fsync = hold
from wavernn_fast.cli import main
main(sys.argv[1:])
"""
COMMANDS = {
    "vocode": "vocode mel.npy -m model.safetensors -o out.wav",
    "resynth": "resynth speech.wav -o out.wav",
    "mel": "mel speech.wav -o out.npy --preset fatchord-raw9",
    "convert": "convert checkpoint.pt -o out.safetensors",
    "convert --verify": "convert checkpoint.pt -o out.safetensors --verify",
    "demo": "demo -o out.wav",
    "prune": "prune kerstin -o out.safetensors --sparsity 0.5",
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what the commands read."""
    folder = tmp_path_factory.mktemp("sources")
    save_voice(folder).rename(folder / "model.safetensors")
    np.save(folder / "mel.npy", preset_mel(3))
    builders.save(folder / "checkpoint.pt", builders.fatchord())
    save_speech(folder).rename(folder / "speech.wav")
    return folder


def _held(sources: Path, command: str, folder: Path) -> subprocess.Popen[str]:
    """The command, writing its output into `folder`."""
    words = [str(sources / w) if (sources / w).exists() else w for w in command.split()]
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_ctrl_c,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert process.stdout is not None
    if process.stdout.readline() != "writing\n":
        raise AssertionError(process.communicate()[1])
    assert list(folder.iterdir()) != []
    return process


def _heed_ctrl_c() -> None:
    """Background jobs start with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("command", first_is_quick(COMMANDS))
def test_a_signal_leaves_no_file_in_the_making(
    sources: Path, command: str, number: int, tmp_path: Path
) -> None:
    process = _held(sources, COMMANDS[command], tmp_path)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "wavernn-fast: interrupted"
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_forked_dies_of_the_signal_as_any_other(tmp_path: Path) -> None:
    """It has the handler, but the command is not its own."""
    code = """
import os, signal, sys, time
import wavernn_fast.cli as cli
with cli._ended_by_sigterm():
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(1)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, status
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""
    environment = {**os.environ, "PYTHONPATH": ROOT}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)
