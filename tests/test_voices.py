"""The voice in the package: it speaks, is called what it has been measured to be, and is small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cases
import numpy as np
import pytest

from wavernn_fast import Vocoder, checkpoints, features, voices, weights
from wavernn_fast.errors import InputError, ModelError
from wavernn_fast.metrics import mel_correlation

FOLDER = Path(voices.__file__).parent
NAMES = voices.names()


def test_the_default_voice_is_there() -> None:
    assert voices.DEFAULT in NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_voice_says_again_what_its_mel_says(name: str) -> None:
    """Copy synthesis of its held-out sentence: the spectrum is that of the recording."""
    voc, mel = Vocoder.from_pretrained(name, cpu_threads=1), voices.mel(name)
    assert voc.config.mel is not None
    again = features.log_mel(voc.generate(mel, seed=0), voc.config.mel)
    correlation = mel_correlation(mel, again)
    assert correlation is not None
    assert correlation >= 0.85


@pytest.mark.parametrize("name", NAMES)
def test_a_voice_is_called_a_demo_voice_only_if_it_is_good_enough(name: str) -> None:
    facts = voices.facts(name)
    measured = facts["measured"]
    good = measured["stoi"] >= 0.85 and measured["mel_correlation"] >= 0.85
    assert facts["kind"] == ("demo voice" if good else "test model")
    assert facts["about"].endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_a_voice_ships_with_card_recipe_and_log_and_is_small(name: str) -> None:
    assert (FOLDER / f"{name}.safetensors").stat().st_size <= 5_000_000
    card = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert "CC0" in card
    assert "wavernn_fast train" in (FOLDER / f"{name}.sh").read_text(encoding="utf-8")
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps)
    assert steps[-1] == voices.facts(name)["steps"]


@pytest.mark.parametrize("name", NAMES)
def test_the_mel_of_a_voice_is_of_its_own_preset(name: str) -> None:
    config, _ = weights.read(FOLDER / f"{name}.safetensors")
    mel = voices.mel(name)
    assert mel.dtype == np.float32
    features.check_mel(mel, config)  # a wrong range is a warning, which is an error here


def test_an_unknown_voice_is_refused_with_the_known_names() -> None:
    with pytest.raises(InputError, match=voices.DEFAULT):
        voices.facts("nobody")
    with pytest.raises(InputError, match="no voice 'nobody'"):
        voices.mel("nobody")
    assert voices.find("nobody") is None


def test_a_slip_in_the_name_of_a_voice_is_met_with_the_names_there_are() -> None:
    for read in (checkpoints.load, checkpoints.inspect):
        with pytest.raises(ModelError, match=r"no file kerstn, and no voice.*there are: kerstin"):
            read("kerstn")
        with pytest.raises(ModelError, match=r"no file kerstn\.pt\."):
            read("kerstn.pt")


def test_a_folder_is_refused_with_the_files_in_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a folder.*none that ends like a model"):
        Vocoder.from_pretrained(tmp_path)
    for name in ("latest_weights.pyt", "latest_optim.pyt", "log.txt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelError, match=r"In it: latest_optim\.pyt, latest_weights\.pyt\."):
        checkpoints.inspect(tmp_path)
    for n in range(20):
        (tmp_path / f"checkpoint_{n}k_steps.pyt").write_bytes(b"")
    with pytest.raises(ModelError, match="and 14 more"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize("name", ["https://hub.example/m.pt", "someone/a-model"])
def test_an_address_is_refused_as_nothing_is_downloaded(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name}.*Nothing is downloaded"):
        Vocoder.from_pretrained(name)


def test_a_file_of_the_name_of_a_voice_comes_first(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / voices.DEFAULT).write_bytes(b"not a model")
    with pytest.raises(ModelError):
        Vocoder.from_pretrained(voices.DEFAULT)


def test_a_folder_of_the_name_of_a_voice_hides_nothing(tmp_path, monkeypatch) -> None:
    """Such as one that a job writes its outputs to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / voices.DEFAULT).mkdir()
    assert checkpoints.load(voices.DEFAULT)[0].preset == "native-22k"


def test_training_can_start_from_a_voice() -> None:
    from wavernn_fast.train.run import read_start

    config, tensors = read_start(Path(voices.DEFAULT))
    expected, _ = weights.read(FOLDER / f"{voices.DEFAULT}.safetensors")
    assert config == expected
    assert "gru.w_recurrent" in tensors


def test_training_starts_from_what_is_there_before_a_voice_of_that_name(
    tmp_path, monkeypatch
) -> None:
    """The rule of every command; of a folder, what has a model in it is there."""
    from wavernn_fast.train.run import read_start

    monkeypatch.chdir(tmp_path)
    voice, other = weights.read(FOLDER / f"{voices.DEFAULT}.safetensors"), tmp_path / "other"
    small = cases.dual_config(32, 16)
    weights.write(other, small, cases.random_tensors(small))
    folder = Path(voices.DEFAULT)
    folder.mkdir()  # such as of its recordings
    (folder / "a.wav").touch()
    assert read_start(voices.DEFAULT)[0] == voice[0]
    with pytest.raises(ModelError, match=r"is a folder without model\.safetensors"):
        read_start(f"./{voices.DEFAULT}")  # a path is never a voice
    shutil.copy(other, folder / "model.safetensors")  # a run
    assert read_start(voices.DEFAULT)[0] == small
    assert read_start(f"./{voices.DEFAULT}")[0] == small
    shutil.rmtree(folder)
    assert read_start(voices.DEFAULT)[0] == voice[0]
    shutil.copy(other, folder)
    assert read_start(voices.DEFAULT)[0] == small


def test_a_folder_that_is_no_run_is_named(tmp_path) -> None:
    from wavernn_fast.train.run import read_start

    (tmp_path / "recordings").mkdir()
    with pytest.raises(ModelError, match=r"recordings.*give a run, a canonical model or a voice"):
        read_start(tmp_path / "recordings")
