"""Commands with a model that hears a speaker: it is asked for by the name of the option."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoint_builders as builders
import numpy as np
import pytest
from cli_runner import run
from voices import preset_mel, save_speech, save_voice

SPEAKER = np.linspace(-0.1, 0.1, 256).astype(np.float32)
COMMANDS = {
    "vocode": "vocode mel.npy -o out.wav",
    "a job": "vocode mel.npy -o out",
    "resynth": "resynth speech.wav -o out.wav",
    "stream": "stream mel.npy -o out.wav",
    "eval": "eval speech.wav",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    state = builders.scwavernn(classes=30, scales=(5, 5, 11), n_mels=80)
    builders.save(tmp_path / "speaks.pt", state)
    save_voice(tmp_path, "plain.safetensors")
    save_speech(tmp_path)
    np.save("mel.npy", preset_mel(3))
    np.save("who.npy", SPEAKER)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_speaker_is_asked_for_by_its_option(folder: Path, command: str) -> None:
    before = sorted(folder.iterdir())
    missing = run(*COMMANDS[command].split(), "-m", "speaks.pt", "-q")
    assert missing.exit_code == 2, missing.stderr
    assert "give --speaker, a vector of 256 numbers" in missing.stderr
    assert "speaker=" not in missing.stderr
    assert sorted(folder.iterdir()) == before
    there = run(*COMMANDS[command].split(), "-m", "speaks.pt", "-q", "--speaker", "who.npy")
    assert there.exit_code == 0, there.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_one_that_is_not_heard_is_to_be_left_out(folder: Path, command: str) -> None:
    before = sorted(folder.iterdir())
    given = run(*COMMANDS[command].split(), "-m", "plain.safetensors", "--speaker", "who.npy")
    assert given.exit_code == 2, given.stderr
    assert "knows no speakers; leave --speaker out" in given.stderr
    assert sorted(folder.iterdir()) == before


def test_a_list_that_names_all_speakers_needs_no_option(folder: Path) -> None:
    items = [{"mel": "mel.npy", "out": f"{i}.wav", "speaker": "who.npy"} for i in range(2)]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, items)))
    done = run("vocode", "list.jsonl", "-m", "speaks.pt", "-o", "out", "-q")
    assert done.exit_code == 0, done.stderr
    assert (folder / "out" / "0.wav").read_bytes() == (folder / "out" / "1.wav").read_bytes()
    run("vocode", "mel.npy", "-m", "speaks.pt", "-o", "one.wav", "--speaker", "who.npy")
    assert (folder / "out" / "0.wav").read_bytes() == (folder / "one.wav").read_bytes()
    del items[1]["speaker"]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, items)))
    missing = run("vocode", "list.jsonl", "-m", "speaks.pt", "-o", "none", "-q")
    assert missing.exit_code == 2
    assert "give --speaker" in missing.stderr
    assert not Path("none").exists()


def test_a_list_is_named_where_it_names_one_that_is_not_heard(folder: Path) -> None:
    item = {"mel": "mel.npy", "out": "a.wav", "speaker": "who.npy"}
    Path("list.jsonl").write_text(json.dumps(item))
    given = run("vocode", "list.jsonl", "-m", "plain.safetensors", "-o", "out", "-q")
    assert given.exit_code == 1
    assert "leave the list's speaker out" in given.stderr
