"""Recordings to segments: what is read, what is left out and why, and which numbers come out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import recordings
import torch
from train_runs import one_thread  # noqa: F401

from wavernn_fast import audio, features
from wavernn_fast.conditioning import Conditioner
from wavernn_fast.errors import InputError, MissingDependencyError, ModelError
from wavernn_fast.models.wavernn import WaveRNN
from wavernn_fast.samples import encode_targets
from wavernn_fast.train.corpus import (
    Corpus,
    Recording,
    find_recordings,
    read_recordings,
    split,
)
from wavernn_fast.train.run import Data, load
from wavernn_fast.train.settings import TrainSettings

CONFIG = recordings.config()
HOP = CONFIG.hop_length


# --- which files ------------------------------------------------------------------------------


def test_a_folder_is_searched_through_in_the_order_of_names(tmp_path):
    for name in ("b.wav", "a/z.FLAC", "a/notes.txt", "c.ogg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    found = [str(p.relative_to(tmp_path)) for p in find_recordings(tmp_path)]
    assert found == ["a/z.FLAC", "b.wav", "c.ogg"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "# a comment\n\n a.wav|some text, and more\nb/c.wav\n"),
        ("list.lst", "a.wav\tspeaker\nb/c.wav\n"),
        ("list.csv", "a.wav,text\nb/c.wav,\n"),
        ("list.jsonl", '{"audio_filepath": "a.wav", "text": "x"}\n{"path": "b/c.wav"}\n'),
        ("list.csv", "\ufeffa.wav,as a spreadsheet writes it\nb/c.wav,\n"),
        ("LIST.JSONL", '{"audio": "a.wav"}\n{"wav": "b/c.wav"}\n'),
    ],
)
def test_manifests_name_files_beside_them(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert find_recordings(tmp_path / name) == [tmp_path / "a.wav", tmp_path / "b" / "c.wav"]


def test_absolute_paths_of_a_manifest_stay(tmp_path):
    (tmp_path / "list.txt").write_text("/elsewhere/a.wav|x\n")
    assert find_recordings(tmp_path / "list.txt") == [Path("/elsewhere/a.wav")]


def test_a_single_file_is_itself(tmp_path):
    path = recordings.save(tmp_path / "one.wav", recordings.tone(0.1))
    assert find_recordings(path) == [path]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("list.jsonl", '{"path": "a.wav"}\n{"text": 3}\n', "Line 2 of .* names no audio file"),
        ("list.jsonl", "a.wav\n", "Line 1 of .* names no audio file"),
        ("list.jsonl", "[1]\n", "Line 1 of .* names no audio file"),
        ("list.txt", "a.wav\n | text\n", "Line 2 of .* names no audio file"),
        ("list.txt", "# nothing\n\n", "names no audio file"),
        ("list.txt", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_bad_manifests_are_refused_with_the_line(tmp_path, name, text, words):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=words):
        find_recordings(tmp_path / name)


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(InputError, match="holds no audio file"):
        find_recordings(tmp_path)
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(InputError, match="holds no audio file"):
        find_recordings(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        find_recordings(tmp_path / "nowhere")


# --- what is in them --------------------------------------------------------------------------


def bad_files(folder: Path) -> dict[str, str]:
    """Write one file of every unusable kind; the names, with words of the reason expected."""
    tone = recordings.tone(0.5)
    noisy = np.float32(tone)
    noisy[100] = np.nan
    recordings.save(folder / "stereo.wav", np.stack([tone, tone], axis=1))
    recordings.save(folder / "low.wav", tone[::2], 4000)
    recordings.save(folder / "nan.wav", noisy, subtype="FLOAT")
    recordings.save(folder / "short.wav", tone[: 10 * HOP - 1])
    recordings.save(folder / "silent.wav", 0.0 * tone)
    recordings.save(folder / "none.wav", tone[:0])
    flac = recordings.save(folder / "cut.flac", recordings.tone(3.0))
    flac.write_bytes(flac.read_bytes()[:9000])
    (folder / "text.wav").write_text("not audio at all")
    (folder / "empty.wav").touch()
    return {
        "stereo.wav": "2 channels",
        "low.wav": "4000 Hz, less than the model's 8000 Hz",
        "nan.wav": "NaN",
        "short.wav": "399 samples (9 frames); a segment needs 10 frames",
        "silent.wav": "silent",
        "none.wav": "no samples",
        "cut.flac": "cannot be read",
        "text.wav": "cannot be read as audio",
        "empty.wav": "is empty",
        "missing.wav": "cannot be opened",
    }


def test_every_unusable_file_is_listed_with_its_reason_and_the_rest_is_read(tmp_path):
    recordings.save(tmp_path / "good.wav", recordings.tone(0.5))
    expected = bad_files(tmp_path)
    manifest = tmp_path / "all.txt"
    manifest.write_text("\n".join(["good.wav", *expected]))
    good, skipped = read_recordings(find_recordings(manifest), CONFIG, 10)
    assert [Path(r.name).name for r in good] == ["good.wav"]
    reasons = {Path(one.path).name: one.reason for one in skipped}
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name], (name, reasons[name])


def test_nothing_left_is_refused_with_every_reason(tmp_path):
    expected = bad_files(tmp_path)
    del expected["missing.wav"]
    settings = TrainSettings(steps=1, segment=10 * HOP)
    with pytest.raises(InputError, match="No recording can be trained on") as caught:
        load(Data(train=tmp_path, held_out=0), CONFIG, settings)
    for name, words in expected.items():
        assert name in str(caught.value)
        assert words in str(caught.value)


def test_a_recording_is_the_targets_and_mel_of_its_whole_frames(tmp_path):
    path = recordings.save(tmp_path / "a.wav", recordings.tone(0.5)[: 12 * HOP + 17])
    [recording], skipped = read_recordings([path], CONFIG, 10)
    wave = audio.read_wav(path)[0][: 12 * HOP]
    assert not skipped
    assert recording.samples.dtype == np.uint16
    assert np.array_equal(recording.samples, encode_targets(wave, CONFIG))
    assert recording.mel.shape == (8, 12)
    assert np.array_equal(recording.mel, features.log_mel(wave, recordings.MEL)[:, :12])


def test_a_higher_rate_is_resampled(tmp_path, monkeypatch):
    high = recordings.save(tmp_path / "high.wav", recordings.tone(0.5, rate=16000), 16000)
    [recording], _ = read_recordings([high], CONFIG, 10)
    assert len(recording.samples) == 4000
    wave = audio.read_wav(high, 8000)[0]
    assert np.array_equal(recording.samples, encode_targets(wave, CONFIG))
    monkeypatch.setitem(__import__("sys").modules, "soxr", None)
    with pytest.raises(MissingDependencyError, match=r"\[audio\]"):  # not one file after another
        read_recordings([high], CONFIG, 10)


def test_full_scale_and_louder_float_files_become_the_nearest_class(tmp_path):
    wave = np.tile(np.array([1.5, 1.0, -1.0, -2.0], np.float32), 200)
    [recording], _ = read_recordings(
        [recordings.save(tmp_path / "loud.wav", wave, subtype="FLOAT")], CONFIG, 10
    )
    assert list(recording.samples[:4]) == [65535, 65535, 0, 0]


# --- the held-out part ------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (20, 4), (97, 16), (17, 16), (5, 0)])
def test_the_held_out_recordings_are_spread_and_always_the_same(count, held_out):
    paths = [Path(f"{i:03d}") for i in range(count)]
    train, valid = split(paths, held_out)
    assert (train, valid) == split(paths, held_out)
    assert len(valid) == held_out
    assert sorted(train + valid) == paths
    gaps = np.diff([int(str(p)) for p in valid])
    if held_out > 1:
        assert gaps.max() - gaps.min() <= 1


def test_holding_everything_out_is_refused():
    with pytest.raises(InputError, match="cannot give 2 held-out ones"):
        split([Path("a"), Path("b")], 2)


def test_by_default_a_few_are_held_out(tmp_path):
    folder = recordings.voice(tmp_path, 5, 0.2)
    settings = TrainSettings(steps=1, segment=10 * HOP)
    loaded = load(Data(train=folder), CONFIG, settings)
    assert (len(loaded.train), len(loaded.valid)) == (4, 1)
    separate = load(Data(train=folder, valid=folder), CONFIG, settings)
    assert (len(separate.train), len(separate.valid)) == (5, 5)


def test_held_out_recordings_that_are_named_must_be_usable(tmp_path):
    folder = recordings.voice(tmp_path / "good", 2, 0.2)
    silent = recordings.save(tmp_path / "silent.wav", np.zeros(4000))
    settings = TrainSettings(steps=1, segment=10 * HOP)
    with pytest.raises(InputError, match=r"No recording can be held out:[^:]*silent\.wav: is sil"):
        load(Data(train=folder, valid=silent), CONFIG, settings)


def test_a_model_that_does_not_say_how_its_mel_is_made_is_not_trained(tmp_path):
    folder = recordings.voice(tmp_path, 2, 0.2)
    with pytest.raises(ModelError, match="does not say how its mel is made"):
        load(Data(train=folder), recordings.config(mel=None), TrainSettings(steps=1))


# --- segments ---------------------------------------------------------------------------------


def make(frames: int, seed: int, bins: int = 8) -> Recording:
    random = np.random.default_rng(seed)
    samples = random.integers(0, 65536, frames * HOP).astype(np.uint16)
    mel = random.standard_normal((bins, frames)).astype(np.float32)
    return Recording(str(seed), samples, mel)


FRAMES = 3  # of a segment
RECORDINGS = [make(3, 1), make(7, 2), make(4, 3)]  # 1 + 5 + 2 segments
CORPUS = Corpus(RECORDINGS, CONFIG, FRAMES, CONFIG.aux_radius)


def test_every_segment_is_a_slice_with_what_stands_around_it():
    expected = [(0, 0), *((1, i) for i in range(5)), (2, 0), (2, 1)]
    assert CORPUS.n_segments == len(expected)
    assert CORPUS.n_samples == 14 * HOP
    batch = CORPUS.batch(np.arange(8))
    assert (batch.samples.dtype, batch.before.dtype) == (torch.int64, torch.int64)
    assert batch.mel.dtype == torch.float32
    for i, (index, frame) in enumerate(expected):
        recording, at = RECORDINGS[index], frame * HOP
        assert np.array_equal(batch.samples[i], recording.samples[at : at + FRAMES * HOP])
        assert batch.before[i] == (recording.samples[at - 1] if at else -1)
        padded = np.pad(recording.mel, ((0, 0), (2, 2)))
        assert np.array_equal(batch.mel[i], padded[:, frame : frame + FRAMES + 4])


def test_segments_are_conditioned_as_the_whole_recording_is():
    torch.manual_seed(1)
    model = WaveRNN(CONFIG)
    tensors = model.canonical()
    batch = CORPUS.batch(np.arange(1, 6))
    with torch.no_grad():
        features_ = model._features(batch.mel)
        assert features_ is not None
        found = (features_ @ model.gru.w_conditioning.T).numpy()  # [5, F, 3H]
    interp, hold = Conditioner(CONFIG, tensors).window(RECORDINGS[1].mel, 0, 7)
    rows = interp + hold
    assert rows.shape[1] == found.shape[2]
    for frame in range(5):
        expected = rows[frame : frame + FRAMES]
        assert np.abs(np.sort(found[frame]) - np.sort(expected)).max() < 1e-5


def test_an_unconditioned_corpus_starts_segments_at_every_sample():
    config = dataclasses.replace(
        CONFIG, n_mels=0, mel=None, hop_length=1, aux_size=0, aux_channels=0, aux_blocks=0
    )
    samples = np.arange(50, dtype=np.uint16)
    corpus = Corpus([Recording("a", samples, np.zeros((0, 50), np.float32))], config, 20, 0)
    assert corpus.n_segments == 31
    batch = corpus.batch(np.array([30]))
    assert list(batch.samples[0]) == list(range(30, 50))
    assert batch.before[0] == 29
    assert batch.mel.shape[1] == 0


def numbers(corpus: Corpus, *key: int, count: int = 64) -> list[int]:
    """Which segments a random batch has."""
    drawn: list[np.ndarray] = []
    spy = Corpus(corpus.recordings, CONFIG, FRAMES, CONFIG.aux_radius)
    whole = spy.batch
    spy.batch = lambda which: drawn.append(which) or whole(which)  # type: ignore[method-assign]
    spy.random(*key, count)
    return [int(n) for n in drawn[0]]


LONG = Corpus([make(4000, 5)], CONFIG, FRAMES, CONFIG.aux_radius)


def test_a_batch_depends_on_seed_step_and_rank_alone():
    first = numbers(LONG, 1, 2, 3)
    np.random.default_rng().random()
    torch.rand(3)
    assert numbers(LONG, 1, 2, 3) == first
    others = [numbers(LONG, *key) for key in ((0, 2, 3), (1, 0, 3), (1, 2, 0), (2, 1, 3))]
    assert all(other != first for other in others)
    assert numbers(LONG, 2**63 - 1, 10**9, 7)


def test_batches_of_following_steps_are_independent():
    """Two of 64 segments of 3998 have one in common about once; half of it would be a shift."""
    steps = [set(numbers(LONG, 0, step, 0)) for step in range(12)]
    for i, one in enumerate(steps):
        for other in steps[:i]:
            assert len(one & other) <= 8
    assert len(set.union(*steps)) > 600


def test_random_batches_reach_every_segment_evenly():
    drawn = np.bincount(
        [n for step in range(100) for n in numbers(CORPUS, 0, step, 0)], minlength=8
    )
    assert drawn.min() > 0.8 * 800
    assert drawn.max() < 1.2 * 800


def test_spread_segments_are_distinct_and_reach_both_ends():
    batch = LONG.spread(10)
    again = LONG.spread(10)
    assert torch.equal(batch.samples, again.samples)
    assert len({tuple(row.tolist()) for row in batch.samples[:, :5]}) == 10
    assert batch.before[0] == -1
    assert len(CORPUS.spread(64).samples) == 8
