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
import soundfile
from cli_runner import run
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


# --- what cannot be printed -----------------------------------------------------------------------


@pytest.mark.parametrize("command", ["inspect kerstin", "inspect kerstin --json", "--help"])
def test_an_output_that_is_full_is_told_in_a_sentence(command: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "wavernn_fast", *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
    expected = "wavernn-fast: The output cannot be written (No space left on device).\n"
    assert (done.returncode, done.stderr) == (1, expected)


def test_a_full_standard_output_is_called_so(tmp_path: Path, sources: Path) -> None:
    words = ["mel", str(sources / "speech.wav"), "-o", "-", "--preset", "fatchord-raw9"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "wavernn_fast", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
    assert done.returncode == 1
    assert "The standard output cannot be written (No space left on device)" in done.stderr


# --- what is left of a failure --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("demo -o new/deep/out.wav --device gpu", 2),
        ("stream none.npy -m kerstin -o new/deep/out.wav", 2),
        ("stream mel.npy -m none.pt -o new/out.wav", 2),
        ("vocode bad.npy -m model.safetensors -o new/deep/out.wav", 1),
        ("resynth bad.npy -o new/deep/out.wav", 1),
        ("mel bad.npy -o new/deep/out.npy --preset fatchord-raw9", 1),
        ("bench --matvec --size dual:64 --output new/deep/out.json", 2),
    ],
)
def test_a_command_that_fails_leaves_no_empty_folder(
    command: str, code: int, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.npy").write_bytes(b"no mel")
    words = [str(sources / w) if (sources / w).exists() else w for w in command.split()]
    result = run(*words)
    assert result.exit_code == code, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npy"]


def test_a_folder_that_was_there_or_has_something_in_it_stays(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    assert run("demo", "-o", "there/out.wav", "--device", "gpu").exit_code == 2
    assert Path("there").is_dir()
    words = ("mel", sources / "speech.wav", "--preset", "fatchord-raw9", "-o")
    assert run(*words, "new/out.npy").exit_code == 0
    assert Path("new/out.npy").is_file()


@pytest.mark.parametrize("name", ["report.md", "report.json", "report.html", "report.wav"])
def test_a_folder_is_not_named_like_a_file(
    name: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = sources / "model.safetensors"
    result = run("eval", sources / "speech.wav", "-m", model, "-o", name)
    assert result.exit_code == 2
    assert f"{name!r} is not written by this command; give a folder." in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["vocode - -m model.safetensors", "resynth -"])
def test_an_empty_standard_input_is_called_so(command: str, sources: Path, tmp_path: Path) -> None:
    words = [str(sources / w) if (sources / w).exists() else w for w in command.split()]
    result = run(*words, "-o", tmp_path / "out.wav", input=b"")
    assert result.exit_code == 1
    assert "The standard input is empty." in result.stderr


def test_words_are_those_of_the_command_line(tmp_path: Path) -> None:
    result = run("demo", "-o", tmp_path / "out.mp3")
    assert "must end in .wav, .wave, .flac, .ogg, .oga, or be '-'" in result.stderr
    result = run("demo", "-o", tmp_path / "out.wav", "--temperature", 0)
    assert "expected a finite number above 0.\n" in result.stderr  # it has no --greedy
    result = run("resynth", tmp_path / "none.wav", "--temperature", 0)
    assert "use --greedy)" in result.stderr
    result = run("demo", "-o", tmp_path / "out.wav", "--device", "cuda:77")
    assert "device=" not in result.stderr
    (tmp_path / "folder").mkdir()
    result = run("train", tmp_path / "folder", "-o", tmp_path / "run")
    assert result.stderr.count(".ogg") == 1
    checkpoint = builders.save(tmp_path / "m.pt", builders.mkotha())
    result = run("train", tmp_path, "-o", tmp_path / "run", "--from", checkpoint)
    assert result.exit_code == 2
    assert "wavernn-fast convert" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        "vocode mel.npy -m model.safetensors -o /proc/self/out.wav",
        "resynth speech.wav -m model.safetensors -o /proc/self/out.wav",
        "mel speech.wav --preset fatchord-raw9 -o /proc/self/out.npy",
        "demo -o /proc/self/out.wav",
        "stream mel.npy -m model.safetensors -o /proc/self/out.wav",
        "bench --size dual:64 --output /proc/self/out.json",
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    command: str, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder lets itself be written, by what the system says of it, but holds no files."""
    for name in ("Vocoder.generate", "Vocoder.generate_batch"):
        monkeypatch.setattr(f"wavernn_fast.vocoder.{name}", lambda *_, **__: pytest.fail("drawn"))
    monkeypatch.setattr("wavernn_fast.features.log_mel", lambda *_: pytest.fail("heard"))
    monkeypatch.setattr("wavernn_fast.cli.bench._measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr("os.access", lambda *_, **__: True)
    words = [str(sources / w) if (sources / w).exists() else w for w in command.split()]
    result = run(*words)
    assert result.exit_code == 2, (result.stderr, result.exception)
    assert "/proc/self/out." in result.stderr
    assert "cannot be written" in result.stderr


def test_an_empty_name_of_a_run_is_not_the_current_folder(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("train", sources / "speech.wav", "-o", "", "--steps", 1)
    assert result.exit_code == 2
    assert "The output is empty; give a folder for the run" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", ["inspect", "verify", "convert -o out.safetensors", "train x.wav -o run --from"]
)
def test_an_empty_name_of_a_model_is_not_the_current_folder(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*command.split(), "")
    assert result.exit_code == 2
    assert "The name of the model is empty; give a file or a voice." in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [".au", ".caf"])
def test_a_folder_is_searched_for_all_audio_that_can_be_read(ending: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    kind = {".au": "AU", ".caf": "CAF"}[ending]
    wave = np.sin(np.arange(4000) * 0.1) * 0.5
    soundfile.write(tmp_path / "in" / f"a{ending}", wave, 16000, format=kind)
    result = run("mel", tmp_path / "in", "-o", tmp_path / "out", "--preset", "geneing")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out" / "a.npy").exists()
