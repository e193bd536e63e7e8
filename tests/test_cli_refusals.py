"""What the command refuses before work, and what it leaves behind when work is cut short."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import checkpoint_builders
import numpy as np
import pytest
import soundfile
from cli_runner import refused, run
from patience import soon, within
from voices import preset_mel, save_mels, save_speech, save_voice

from wavernn_fast import _C, weights
from wavernn_fast.errors import AudioError, DeviceError
from wavernn_fast.synthetic import random_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_voice(tmp_path_factory.mktemp("model"))


@pytest.fixture
def mels(tmp_path: Path) -> Path:
    return save_mels(tmp_path / "mels")


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return save_speech(tmp_path)


# --- refused before work --------------------------------------------------------------------------


def test_names_that_clash_are_refused_before_work(model, mels, tmp_path):
    np.savez(mels / "a.npz", mel=preset_mel(2))
    result = run("vocode", mels, "-m", model, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "a.npy" in result.stderr
    assert "a.npz" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "output", "words"),
    [
        ("vocode", "out.mp3", ".wav, .wave, .flac, .ogg"),
        ("vocode", "out.NPY", ".wav, .wave, .flac, .ogg"),
        ("resynth", "out.opus", ".wav, .wave, .flac, .ogg"),
        ("mel", "out.npz", ".npy, or a folder"),
        ("mel", "out.wav", ".npy, or a folder"),
        ("vocode", "", "is empty"),
        ("resynth", "", "is empty"),
        ("mel", "", "is empty"),
    ],
)
def test_an_output_that_is_no_folder_is_not_made_one(
    command, output, words, model, mels, speech, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    source = mels / "a.npy" if command == "vocode" else speech
    result = run(command, source, "-m", model, "-o", output)
    refused(result, tmp_path, words)
    assert not list(Path.cwd().iterdir())
    (Path.cwd() / "out.mp3").mkdir()  # a folder that is there is meant
    if output == "out.mp3":
        assert run(command, source, "-m", model, "-o", output).exit_code == 0


LONG = "n" * 300  # longer than a name may be


@pytest.mark.parametrize(
    "command",
    [
        ("vocode", "{mels}", "-m", LONG, "-o", "out"),
        ("vocode", LONG, "-m", "{model}", "-o", "out"),
        ("vocode", "{mels}", "-m", "{model}", "-o", LONG),
        ("vocode", "{mels}", "-m", "{model}", "-o", LONG, "--skip-existing"),
        ("resynth", LONG, "-m", "{model}"),
        ("mel", "{speech}", "-o", f"{LONG}.npy", "--preset", "native-22k", "--skip-existing"),
        ("prune", LONG, "-o", "out.safetensors", "--sparsity", "0.5"),
        ("train", "{speech}", "-o", LONG),
        ("train", "{speech}", "-o", "out", "--from", LONG),
        ("train", LONG, "-o", "out"),
    ],
    ids=" ".join,
)
def test_a_name_that_is_too_long_is_an_error_in_a_sentence(
    command, model, mels, speech, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = run(*(word.format(mels=mels, model=model, speech=speech) for word in command))
    assert result.exit_code in (1, 2), result.exception
    assert isinstance(result.exception, SystemExit)
    assert LONG in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_input_is_never_overwritten(speech, model, tmp_path):
    before = speech.read_bytes()
    result = run("resynth", speech, "-m", model, "-o", tmp_path)
    assert result.exit_code == 2
    assert "also an input" in result.stderr
    assert speech.read_bytes() == before


def test_unusable_arguments_are_refused_before_work(model, mels, tmp_path):
    out, mel = tmp_path / "out", mels / "a.npy"
    base = ("-m", model, "-o", out)
    refused(run("vocode", tmp_path / "nowhere.npy", *base), tmp_path, "nowhere.npy", "not exist")
    (tmp_path / "empty").mkdir()
    refused(run("vocode", tmp_path / "empty", *base), tmp_path, "holds no file ending in .npy")
    refused(run("vocode", mel, "-m", model), tmp_path, "-o")
    refused(run("vocode", mel, "-o", out), tmp_path, "-m")
    refused(run("vocode", mel, *base, "--temperature", "0"), tmp_path, "temperature")
    refused(run("vocode", mel, *base, "--seed", "-1"), tmp_path, "--seed")
    refused(run("vocode", mel, *base, "--temperature", "nan"), tmp_path, "temperature")
    refused(run("vocode", mel, *base, "--fold", "7"), tmp_path, "11000/550")
    refused(run("vocode", mel, *base, "--fold", "8/4/2"), tmp_path, "11000/550")
    refused(run("vocode", mel, *base, "--fold", "5,10"), tmp_path, "target")
    refused(run("vocode", mel, *base, "--crossfade", "legacy"), tmp_path, "--crossfade", "--fold")
    linear = ("--fold", "yes", "--crossfade", "linear")
    refused(run("vocode", mel, *base, *linear), tmp_path, "linear", "constant_power", "legacy")
    refused(run("vocode", mel, *base, "--fold", "yes", "--decode", "x"), tmp_path, "before")
    refused(run("vocode", mel, *base, "--dtype", "fp8"), tmp_path, "fp8")
    refused(run("vocode", mel, *base, "--preset", "melgan"), tmp_path, "melgan", "fatchord-raw9")
    refused(run("vocode", mel, *base, "--device", "gpu"), tmp_path, "gpu", "cpu")
    refused(run("vocode", mels, "-m", model, "-o", tmp_path / "out.wav"), tmp_path, "3 inputs")
    refused(run("vocode", mel, "-m", model, "-o", "-", "--json"), tmp_path, "stdout")
    flac = ("-o", tmp_path / "out.flac", "--subtype", "FLOAT")
    refused(run("vocode", mel, "-m", model, *flac), tmp_path, "FLAC")
    refused(run("shout"), tmp_path, "shout")


def test_unusable_models_are_refused_before_work(model, mels, tmp_path):
    out, mel = ("-o", tmp_path / "out"), mels / "a.npy"
    refused(run("vocode", mel, "-m", tmp_path / "none.safetensors", *out), tmp_path, "none.safeten")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(model.read_bytes()[:5000])
    refused(run("vocode", mel, "-m", cut, *out), tmp_path, "truncated")
    refused(run("vocode", mel, "-m", mel, *out), tmp_path, "a.npy")
    state = checkpoint_builders.fatchord()
    del state["fc1.weight"]
    state["fc2.bias"] = state["fc2.bias"][:-1]
    state["rnn1.bias_hh_l0"][0] = np.nan
    state["fc9.weight"] = np.zeros((2, 2), np.float32)
    broken = checkpoint_builders.save(tmp_path / "broken.pt", state)
    refused(
        run("vocode", mel, "-m", broken, *out),
        tmp_path,
        "broken.pt",
        "missing tensor fc1.weight",
        "fc2.bias",
        "NaN",
        "fc9.weight",
    )


def test_a_pytorch_file_without_torch_is_refused_with_the_extra(mels, tmp_path, monkeypatch):
    path = checkpoint_builders.save(tmp_path / "weights.pyt", checkpoint_builders.fatchord())
    for name in [n for n in sys.modules if n == "torch" or n.startswith("torch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("vocode", mels, "-m", path, "-o", tmp_path / "out")
    refused(result, tmp_path, 'pip install "wavernn-fast[torch]"')


def test_an_output_folder_that_cannot_be_made_is_refused(model, mels, tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = run("vocode", mels, "-m", model, "-o", tmp_path / "file" / "out")
    refused(result, tmp_path, "cannot be made", "-o")


def test_a_full_disk_stops_the_job_and_leaves_no_half_file(model, mels, tmp_path):
    # a file size limit of 512 bytes stands in for the disk
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sys.dont_write_bytecode = True\n"  # it would be cut, too
        "resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))\n"
        "from wavernn_fast.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ["vocode", str(mels), "-m", str(model), "-o", str(tmp_path / "out")]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    for path in (tmp_path / "out").rglob("*.wav"):
        assert soundfile.info(path).frames > 0


def test_a_job_that_can_write_no_more_stops_and_says_what_is_left(
    model, mels, tmp_path, monkeypatch
):
    from wavernn_fast.jobs import parts

    for i in range(8):
        np.save(mels / f"more{i}.npy", preset_mel(1))
    write, written, lock = parts.write, [], threading.Lock()

    def write_three(path, *arguments):
        with lock:
            if len(written) == 3:
                failure = AudioError(f"{path} cannot be written (No space left on device).")
                failure.errno = errno.ENOSPC
                raise failure
            written.append(path)
        return write(path, *arguments)

    monkeypatch.setattr(parts, "write", write_three)
    result = run("vocode", mels, "-m", model, "-o", tmp_path / "out", "--streams", 1, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [len(report[k]) for k in ("done", "failed", "left")] == [3, 0, 8]
    for words in ("No space left", "3 done, 8 left, need about", "MB", "--resume"):
        assert words in result.stderr
    monkeypatch.undo()
    again = run("vocode", mels, "-m", model, "-o", tmp_path / "out", "--resume", "--json")
    assert again.exit_code == 0, again.stderr
    report = json.loads(again.stdout)
    assert [len(report[k]) for k in ("done", "skipped", "left")] == [8, 3, 0]


@pytest.mark.parametrize("device", ["cuda", "emu"])
def test_a_missing_device_has_its_own_exit_code(device, model, mels, tmp_path, monkeypatch):
    monkeypatch.setenv("WAVERNN_FAST_LIBCUDA", "/nowhere/libcuda.so")
    monkeypatch.setattr(_C, "available_devices", lambda: ["cpu", "reference"])
    result = run("vocode", mels, "-m", model, "-o", tmp_path / "out", "--device", device)
    assert result.exit_code == 3
    assert "doctor" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_model_that_stops_the_engine_fails_item_by_item(mels, tmp_path):
    config, tensors = random_model("residual:32")
    tensors["fc3.weight"] = np.full_like(tensors["fc3.weight"], 3e38)
    weights.write(tmp_path / "hot.safetensors", config, tensors)
    out = tmp_path / "out"
    result = run("vocode", mels, "-m", tmp_path / "hot.safetensors", "-o", out)
    assert result.exit_code == 1
    assert "3 of 3 items failed" in result.stderr
    assert list(out.rglob("*.wav")) == []


def _heed_ctrl_c() -> None:
    """Background jobs start with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@soon
def test_ctrl_c_ends_within_a_second_and_leaves_no_half_file(tmp_path):
    config, tensors = random_model("residual:512")
    weights.write(tmp_path / "big.safetensors", config, tensors)
    np.save(tmp_path / "long.npy", preset_mel(20_000))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "wavernn_fast",
            "-v",
            "vocode",
            "long.npy",
            "-m",
            "big.safetensors",
            "-o",
            "out",
        ],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_ctrl_c,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert process.stderr is not None
    process.stderr.readline()  # "Running on the CPU": it is loading now
    end = time.monotonic() + 120
    while not (tmp_path / "out" / ".wavernn-fast").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, rest = process.communicate(timeout=60)
    within(1.5, began)
    assert process.returncode == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".wavernn-fast"]
    assert "0 done, 1 left" in rest


ROOT = str(Path(__file__).resolve().parents[1])


def test_a_device_that_is_lost_is_no_fault_of_the_one_file(model, mels, tmp_path, monkeypatch):
    def lost(*_, **__):
        raise DeviceError("the GPU has fallen off the bus")

    monkeypatch.setattr("wavernn_fast.vocoder.Vocoder.generate_batch", lost)
    result = run("vocode", mels / "a.npy", "-m", model, "-o", tmp_path / "a.wav")
    assert result.exit_code == 3
    assert "fallen off" in result.stderr
    assert not (tmp_path / "a.wav").exists()
