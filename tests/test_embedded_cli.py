"""The commands with a univoc checkpoint: mel, resynth, vocode, convert, verify, eval."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoint_builders as builders
import numpy as np
import pytest
import voices
from cli_runner import run

from wavernn_fast import checkpoints
from wavernn_fast.audio import read_wav
from wavernn_fast.features import log_mel


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builders.save(
        tmp_path_factory.mktemp("univoc") / "univoc.pt", builders.univoc(n_mels=80), wrapper="model"
    )


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return voices.save_speech(tmp_path_factory.mktemp("speech"))


def test_a_mel_is_made_and_spoken(saved: Path, speech: Path, tmp_path: Path) -> None:
    result = run("mel", speech, "-m", saved, "-o", tmp_path / "speech.npy", "-q")
    assert result.exit_code == 0, result.stderr
    mel = np.load(tmp_path / "speech.npy")
    config, _ = checkpoints.load(saved)
    assert config.mel is not None
    assert np.array_equal(mel, log_mel(read_wav(speech, 16000)[0], config.mel))
    result = run("vocode", tmp_path / "speech.npy", "-m", saved, "-o", tmp_path / "out.wav", "-q")
    assert result.exit_code == 0, result.stderr
    wave, rate = read_wav(tmp_path / "out.wav")
    assert (rate, len(wave)) == (16000, 200 * mel.shape[1])


def test_resynth_and_eval_take_it(saved: Path, speech: Path, tmp_path: Path) -> None:
    result = run("resynth", speech, "-m", saved, "-o", tmp_path / "copy.wav", "-q")
    assert result.exit_code == 0, result.stderr
    assert read_wav(tmp_path / "copy.wav")[1] == 16000
    result = run("eval", speech, "-m", saved, "--json", "-q")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)


def test_it_is_converted_and_verified(saved: Path, tmp_path: Path) -> None:
    made = run("convert", saved, "-o", tmp_path / "voice.safetensors", "--verify")
    assert made.exit_code == 0, made.stderr
    shown = run("inspect", tmp_path / "voice.safetensors", "--json")
    facts = json.loads(shown.stdout)
    assert facts["preset"] == "univoc-v0.2"
    assert facts["config"]["network"] == {
        "kind": "gru",
        "layers": 2,
        "size": 5,
        "kernel": 1,
        "lstm_layers": 0,
    }
    checked = run("verify", tmp_path / "voice.safetensors", "--steps", 300, "--dtype", "int8")
    assert checked.exit_code == 0, checked.stdout
