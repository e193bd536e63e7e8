"""What jobs read and write: mels in PyTorch files, and audio in every format."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_runner import refused, run
from job_runs import files_below
from voices import preset_mel, save_mels, save_voice

from wavernn_fast.encoding import encode, with_serial
from wavernn_fast.errors import AudioError
from wavernn_fast.jobs.items import collect
from wavernn_fast.jobs.reading import read_mel
from wavernn_fast.vocoder import Vocoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_voice(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def voc(model: Path) -> Vocoder:
    return Vocoder.from_pretrained(model)


# --- mels in PyTorch files ------------------------------------------------------------------------


def test_mels_in_pytorch_files(model, voc, tmp_path):
    import torch

    mel = preset_mel(5, 2)
    for name, content in {
        "a.pt": torch.from_numpy(mel),
        "b.pth": {"mel": torch.from_numpy(mel), "text": "hello", "id": 3},
        "c.pt": {"spec": torch.from_numpy(mel)},
        "d.pt": torch.from_numpy(np.ascontiguousarray(mel.T)).T,
    }.items():
        torch.save(content, tmp_path / name)
        assert np.array_equal(read_mel(str(tmp_path / name)), mel)
    torch.save(torch.from_numpy(mel), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert np.array_equal(read_mel(str(tmp_path / "old.pt")), mel)
    torch.save(torch.from_numpy(mel).bfloat16(), tmp_path / "half.pt")
    assert read_mel(str(tmp_path / "half.pt")) == pytest.approx(mel, abs=2**-8)
    result = run("vocode", tmp_path / "a.pt", "-m", model, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    expected = b"".join(encode(voc.generate(mel), 22050))
    assert (tmp_path / "out" / "a.wav").read_bytes() == expected


class Attack:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_hostile_pytorch_files_are_refused_and_the_job_goes_on(model, tmp_path):
    import torch

    mels = tmp_path / "mels"
    mels.mkdir()
    good = torch.from_numpy(preset_mel(3))
    bad = {
        "attack": {"mel": good, "x": Attack(tmp_path / "ran")},
        "huge": torch.zeros(1).expand(80, 10**9),
        "two": {"a": good, "b": good},
        "none": {},
        "number": 3,
        "complex": good.to(torch.complex64),
        "sparse": good.to_sparse(),
    }
    torch.save(good, mels / "good.pt")
    for name, content in bad.items():
        torch.save(content, mels / f"{name}.pt")
    (mels / "cut.pt").write_bytes((mels / "good.pt").read_bytes()[:700])
    (mels / "text.pt").write_text("no tensor")
    result = run("vocode", mels, "-m", model, "-o", tmp_path / "out", "--json")
    failed = {entry["name"]: entry["error"] for entry in json.loads(result.stdout)["failed"]}
    assert set(failed) == {f"{name}.wav" for name in (*bad, "cut", "text")}
    assert "refused; nothing was run" in failed["attack.wav"]
    assert "torch.save(mel, path)" in failed["attack.wav"]
    assert "larger than the file" in failed["huge.wav"]
    assert "name one of them 'mel'" in failed["two.wav"]
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "out" / "good.wav").exists()


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "format", "subtype"),
    [
        ((), "WAV", "PCM_16"),
        (("--subtype", "PCM_24"), "WAV", "PCM_24"),
        (("--subtype", "FLOAT"), "WAV", "FLOAT"),
        (("--format", "flac"), "FLAC", "PCM_16"),
        (("--format", "flac", "--subtype", "PCM_24"), "FLAC", "PCM_24"),
        (("--format", "ogg"), "OGG", "VORBIS"),
    ],
)
def test_formats_of_a_folder_give_the_same_bytes_every_time(
    options, format, subtype, model, tmp_path
):
    mels = save_mels(tmp_path / "mels")
    for out in ("one", "two"):
        result = run("vocode", mels, "-m", model, "-o", tmp_path / out, *options)
        assert result.exit_code == 0, result.stderr
    made = files_below(tmp_path / "one")
    assert made == files_below(tmp_path / "two")
    assert len(made) == 3
    for name, data in made.items():
        assert Path(name).suffix == f".{format.lower()}"
        info = soundfile.info(io.BytesIO(data))
        assert (info.format, info.subtype, info.samplerate) == (format, subtype, 22050)
    assert len({data[:50] for data in made.values()}) >= (2 if format != "WAV" else 1)


@pytest.mark.parametrize(
    ("format", "subtype", "words"),
    [("flac", "FLOAT", "FLAC has no FLOAT"), ("ogg", "PCM_24", "Vorbis"), ("ogg", "FLOAT", "Vorb")],
)
def test_formats_that_do_not_exist_are_refused_before_work(format, subtype, words, model, tmp_path):
    mels = save_mels(tmp_path / "mels")
    options = ("--format", format, "--subtype", subtype)
    refused(run("vocode", mels, "-m", model, "-o", tmp_path / "out", *options), tmp_path, words)
    (tmp_path / "l.jsonl").write_text(json.dumps({"mel": "mels/a.npy", "out": f"a.{format}"}))
    listed = ("vocode", tmp_path / "l.jsonl", "-m", model, "-o", tmp_path / "out")
    refused(run(*listed, "--subtype", subtype), tmp_path, words)


def tone(n: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 220 * np.arange(n) / 22050)).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 100, 50_000, 400_000])
def test_ogg_files_are_whole_and_repeat(n):
    data = b"".join(encode(tone(n), 22050, ".ogg"))
    assert data == b"".join(encode(tone(n), 22050, ".ogg"))
    wave, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert (len(wave), rate) == (n, 22050)
    if n > 1000:
        assert np.sqrt(np.mean((wave - tone(n)) ** 2)) < 0.01  # lossy, but of this tone
        other = b"".join(encode(-tone(n), 22050, ".ogg"))
        assert other[14:18] != data[14:18]  # streams that are joined need numbers of their own


def test_the_checksums_of_ogg_pages_are_those_of_libsndfile():
    made = io.BytesIO()
    soundfile.write(made, tone(60_000), 22050, format="OGG", subtype="VORBIS")
    data = made.getvalue()
    theirs = int.from_bytes(data[14:18], "little")
    assert with_serial(data, theirs) == data
    assert with_serial(with_serial(data, 7), theirs) == data
    assert with_serial(data, 7) != data
    for damaged in (data[:-1], data[1:], data + b"x"):
        with pytest.raises(AudioError, match="not the pages"):
            with_serial(damaged, 7)


def test_items_of_a_folder_take_the_format_asked_for(tmp_path):
    save_mels(tmp_path / "mels")
    items = collect([str(tmp_path / "mels")], "out", reads=(".npy",), format="ogg")
    assert [item.name for item in items] == ["a.ogg", "d.ogg"]
