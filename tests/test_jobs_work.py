"""The worker: what it writes, what it notes, what it does with items that cannot be done."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import re
from pathlib import Path

import cases
import numpy as np
import pytest
from job_runs import assert_whole, files_below, items_of, parts_below, save_many, sha256, work
from voices import preset_mel, save_mels, save_voice

from wavernn_fast import weights
from wavernn_fast.audio import encode
from wavernn_fast.errors import AudioError, InputError
from wavernn_fast.jobs import identity, journal, parts
from wavernn_fast.jobs.items import Found, Item, collect, pair
from wavernn_fast.jobs.settings import Settings
from wavernn_fast.jobs.stop import Stop
from wavernn_fast.jobs.work import LocalWorker
from wavernn_fast.synthetic import random_model
from wavernn_fast.vocoder import Vocoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_voice(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def voc(model: Path) -> Vocoder:
    return Vocoder.from_pretrained(model)


# --- the worker -----------------------------------------------------------------------------------


def test_files_hold_what_generate_gives_and_the_journal_tells_of_them(model, voc, tmp_path):
    mels, out = save_mels(tmp_path / "mels"), tmp_path / "out"
    outcomes = work(model, items_of(mels, out), out, seed=5)
    assert {o.name: o.state for o in outcomes} == dict.fromkeys(
        ("a.wav", "b/c.wav", "d.wav"), "done"
    )
    for name, n, seed in (("a", 3, 1), ("b/c", 5, 2), ("d", 2, 3)):
        wave = voc.generate(preset_mel(n, seed), seed=5)
        assert (out / f"{name}.wav").read_bytes() == b"".join(encode(wave, 22050))
    [path] = journal.journals(out)
    assert path.name == "journal-0of1.jsonl"
    begin, *done, end = journal.lines(path)
    assert (begin["state"], begin["items"], begin["device"]) == ("begin", 3, "cpu")
    assert begin["model"] == sha256(model)
    assert begin["settings"] == Settings(str(model), seed=5).digest()
    for line in done:
        file = out / line["name"]
        assert (line["state"], line["bytes"]) == ("done", file.stat().st_size)
        assert line["sha256"] == sha256(file)
        assert line["input"] == identity.identity(line["source"])
        assert line["seconds"] == line["samples"] / line["sample_rate"]
    assert (end["state"], end["done"], end["failed"], end["left"]) == ("end", 3, 0, 0)
    assert end["samples"] == sum(line["samples"] for line in done) == 7 * 275
    assert 0 < end["engine_seconds"] < end["wall_seconds"]
    assert parts_below(out) == []


def test_seed_and_speaker_of_an_item_are_its_own(tmp_path):
    config = cases.residual_config(
        16, 16, bits=8, speaker_size=5, aux_size=2, aux_channels=4, aux_blocks=1, aux_kernel=3
    )
    tensors = cases.random_tensors(config)
    weights.write(tmp_path / "m.safetensors", config, tensors)
    frames, who = cases.random_mel(config, 12), np.linspace(-1, 1, 5).astype(np.float32)
    for name, array in (("mel", frames), ("a", who), ("b", -who)):
        np.save(tmp_path / f"{name}.npy", array)
    found = [
        Found(str(tmp_path / "mel.npy"), f"{i}.wav", seed, speaker and str(tmp_path / speaker))
        for i, (seed, speaker) in enumerate([(None, None), (3, None), (None, "b.npy")])
    ]
    out = tmp_path / "out"
    settings = {"seed": 7, "speaker": str(tmp_path / "a.npy")}
    done = work(tmp_path / "m.safetensors", pair(found, str(out)), out, **settings)
    voc = Vocoder(config, tensors)
    for name, seed, speaker in (("0", 7, who), ("1", 3, who), ("2", 7, -who)):
        wave = voc.generate(frames, seed=seed, speaker=speaker)
        expected = b"".join(encode(wave, config.sample_rate))
        assert (out / f"{name}.wav").read_bytes() == expected
    assert len({o.fields["settings"] for o in done}) == 3


def test_items_that_cannot_be_done_fail_and_the_others_are_done(model, tmp_path):
    mels, out = save_mels(tmp_path / "mels"), tmp_path / "out"
    np.save(mels / "bins.npy", np.zeros((40, 3), np.float32))
    np.save(mels / "nan.npy", np.full((80, 3), np.nan, np.float32))
    np.save(mels / "whole.npy", np.zeros((80, 3), np.int64))
    np.save(mels / "objects.npy", np.array([{}]), allow_pickle=True)
    (mels / "cut.npy").write_bytes((mels / "a.npy").read_bytes()[:300])
    (mels / "empty.npy").touch()
    (mels / "garbage.npz").write_bytes(os.urandom(500))
    items = items_of(mels, out)
    (mels / "d.npy").unlink()  # gone since it was listed
    (out / "a.wav").mkdir(parents=True)  # in the way
    outcomes = {o.name: o for o in work(model, items, out)}
    failed = {name: o.fields for name, o in outcomes.items() if o.state == "failed"}
    bad = ("bins", "nan", "whole", "objects", "cut", "empty", "garbage", "d", "a")
    assert set(failed) == {f"{name}.wav" for name in bad}
    assert outcomes["b/c.wav"].state == "done"
    assert failed["nan.wav"]["kind"] == "InputError"
    assert "NaN" in failed["nan.wav"]["error"]
    assert "cannot be opened" in failed["d.wav"]["error"]
    assert list(files_below(out)) == ["b/c.wav"]
    noted = [line["name"] for line in journal.lines(journal.journals(out)[0]) if "name" in line]
    assert set(noted) == set(outcomes)


def test_a_model_that_stops_the_engine_fails_item_by_item(tmp_path):
    config, tensors = random_model("residual:32")
    tensors["fc3.weight"] = np.full_like(tensors["fc3.weight"], 3e38)
    weights.write(tmp_path / "hot.safetensors", config, tensors)
    np.save(tmp_path / "none.npy", preset_mel(0))  # draws nothing, and so is well
    mels, out = save_mels(tmp_path / "mels"), tmp_path / "out"
    items = collect([str(tmp_path / "none.npy"), str(mels)], str(out), reads=(".npy", ".npz"))
    outcomes = {o.name: o.state for o in work(tmp_path / "hot.safetensors", items, out)}
    assert outcomes == {
        "none.wav": "done", "a.wav": "failed", "b/c.wav": "failed", "d.wav": "failed",
    }  # fmt: skip


def test_a_request_to_stop_ends_the_run_and_what_was_drawn_is_written(model, tmp_path):
    out, stop = tmp_path / "out", Stop()
    items = items_of(save_many(tmp_path / "mels", [30] * 200), out)
    done = []
    for outcome in LocalWorker(Settings(str(model), streams=1), out, stop=stop).run(items):
        done.append(outcome)
        stop.request("enough")
    assert 0 < len(done) < 200
    assert sorted(files_below(out)) == sorted(o.name for o in done)
    *_, end = journal.lines(journal.journals(out)[0])
    assert (end["done"], end["left"]) == (len(done), 200 - len(done))


def test_a_consumer_that_goes_away_loses_nothing_that_was_drawn(model, tmp_path):
    out = tmp_path / "out"
    items = items_of(save_many(tmp_path / "mels", [30] * 100), out)
    run = LocalWorker(Settings(str(model), streams=1), out).run(items)
    next(run)
    run.close()
    assert set(journal.finished(out)) == set(files_below(out))
    assert parts_below(out) == []
    assert 0 < assert_whole(out) < 100


@pytest.mark.parametrize("limit", [1, 40_000])
def test_memory_that_is_short_changes_no_byte(limit, model, tmp_path, monkeypatch):
    mels = save_many(tmp_path / "mels", [3, 9, 2, 30, 1, 4, 4, 12])
    work(model, items_of(mels, tmp_path / "a"), tmp_path / "a")
    monkeypatch.setattr("wavernn_fast.jobs.feed._LEAST_MEMORY", limit)
    monkeypatch.setattr("wavernn_fast.jobs.feed._memory", lambda: 0)
    work(model, items_of(mels, tmp_path / "b"), tmp_path / "b", streams=2)
    assert len(files_below(tmp_path / "a")) == 8
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")


def test_recordings_are_copied_and_compared(model, tmp_path):
    from voices import save_speech

    from wavernn_fast.audio import read_wav
    from wavernn_fast.features import log_mel

    speech, out = save_speech(tmp_path), tmp_path / "out"
    items = collect([str(speech)], str(out), reads=(".wav",))
    [outcome] = work(model, items, out, reads="recording")
    voc = Vocoder.from_pretrained(model)
    wave = voc.generate(log_mel(read_wav(speech)[0], voc.config.mel))
    assert (out / "speech.wav").read_bytes() == b"".join(encode(wave, 22050))
    assert -1 <= outcome.fields["mel_correlation"] <= 1


# --- settings, identity ---------------------------------------------------------------------------


def test_settings_travel_and_their_digest_is_of_what_changes_the_audio(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3, np.float32))
    np.save(tmp_path / "b.npy", np.ones(3, np.float32))
    one = Settings("voice.pt", fold=[400, 80], speaker=str(tmp_path / "a.npy"))
    assert pickle.loads(pickle.dumps(one)) == one
    assert Settings(**json.loads(json.dumps(one.to_dict()))) == one
    same = {"model": "b.pt", "device": "cuda", "threads": 3, "streams": 7, "dtype": "fp32"}
    same |= {"conditioning": "device", "gpu_cluster": 8}
    for name, value in same.items():
        assert dataclasses.replace(one, **{name: value}).digest() == one.digest()
    other = {
        "preset": "rtvc", "dtype": "int8", "gpu_streams": 16, "seed": 1, "temperature": 0.5,
        "greedy": True, "fold": None, "speaker": str(tmp_path / "b.npy"), "format": "flac",
        "subtype": "PCM_24", "reads": "recording",
    }  # fmt: skip
    digests = {dataclasses.replace(one, **{n: v}).digest() for n, v in other.items()}
    assert len(digests | {one.digest()}) == len(other) + 1
    assert {f.name for f in dataclasses.fields(Settings)} == set(same) | set(other)


def test_the_identity_of_a_file_is_its_size_and_its_ends(tmp_path):
    data, file = bytearray(os.urandom(3 << 20)), tmp_path / "f"

    def named() -> str:
        file.write_bytes(data)
        return identity.identity(file)

    first = named()
    os.utime(file, (0, 0))
    assert identity.identity(file) == first == named()
    assert first.startswith(f"{3 << 20}:")
    seen = {first}
    for position in (0, (1 << 20) - 1, 2 << 20, (3 << 20) - 1):
        data[position] ^= 1
        seen.add(named())
    assert len(seen) == 5
    data.append(0)
    assert named() not in seen
    with pytest.raises(AudioError, match="cannot be opened"):
        identity.identity(tmp_path / "none")


# --- the journal ----------------------------------------------------------------------------------


def line_of(name: str, **changes: object) -> dict[str, object]:
    fields = {
        "input": "1:ab",
        "model": "m",
        "settings": "s",
        "bytes": 44,
        "samples": 0,
        "sha256": "h",
    }
    return {"name": name, "source": name, **fields, **changes}


def test_torn_lines_are_ignored_and_never_spoil_the_next(tmp_path):
    first = journal.Journal(tmp_path, "1of1")
    first.write("done", **line_of("a.wav"))
    first.write("done", **line_of("b\udcff\n.wav"))
    first.close()
    whole = first.path.read_bytes()
    for cut in range(len(whole) + 1):
        first.path.write_bytes(whole[:cut])
        known = set(journal.finished(tmp_path))
        again = journal.Journal(tmp_path, "1of1")
        again.write("done", **line_of("c.wav"))
        again.close()
        assert set(journal.finished(tmp_path)) == known | {"c.wav"}
    assert known == {"a.wav", "b\udcff\n.wav"}


@pytest.mark.parametrize("fault", ["short", "raises"])
def test_a_line_that_a_full_disk_tears_does_not_spoil_the_next(fault, tmp_path, monkeypatch):
    log, write = journal.Journal(tmp_path, "0of1"), os.write

    def half(handle, data):
        count = write(handle, data[: len(data) // 2])
        if fault == "raises":
            raise OSError(errno.EIO, "as if")
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space left" if fault == "short" else "as if"):
            log.write("done", **line_of("a.wav"))
    log.write("done", **line_of("b.wav"))
    log.close()
    assert list(journal.finished(tmp_path)) == ["b.wav"]


def test_journals_are_one_and_what_is_no_record_is_left_out(tmp_path):
    for worker, names in (("1of2", "ab"), ("2of2-0", "bc")):
        log = journal.Journal(tmp_path, worker)
        log.write("begin", items=2)
        for name in names:
            log.write("done", **line_of(name, samples=ord(worker[0])))
        log.write("done", **line_of("x", bytes="44"))
        log.write("done", **line_of("y", input=None))
        log.write("failed", name="z", source="z", error="e", kind="InputError")
        log.close()
    (tmp_path / journal.FOLDER / "journal-odd.jsonl").write_bytes(b"\xff\xfe\n[1]\n{}\nnull\n\n")
    known = journal.finished(tmp_path)
    assert {name: [r.samples for r in records] for name, records in known.items()} == {
        "a": [49], "b": [49, 50], "c": [50],
    }  # fmt: skip


# --- parts ----------------------------------------------------------------------------------------


def test_a_part_is_beside_its_target_until_it_is_whole(tmp_path):
    target = tmp_path / "new" / "er" / "a.wav"

    def blocks():
        yield b"one"
        [part] = parts_below(tmp_path)
        assert part.parent == target.parent
        assert re.fullmatch(r"\.[0-9a-f]{8}\.part-3of4-0", part.name)
        assert not target.exists()
        yield b"two"

    written = parts.write(target, blocks(), "3of4-0")
    assert (target.read_bytes(), written) == (b"onetwo", (6, sha256(target)))
    assert parts_below(tmp_path) == []

    def broken():
        yield b"three"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parts.write(target, broken(), "w")
    assert target.read_bytes() == b"onetwo"
    assert parts_below(tmp_path) == []


def test_only_parts_of_ones_own_are_removed(tmp_path):
    names = [".01234567.part-1of2", ".89abcdef.part-1of2-0", ".01234567.part-2of2"]
    names += [".0123456.part-1of2", "01234567.part-1of2", ".01234567.part-1of2.wav"]
    for name in names:
        (tmp_path / name).touch()
    folders = [tmp_path, tmp_path / "none"]
    mine = ("1of2", "1of2-0")
    assert parts.remove_stale(folders, lambda worker: worker in mine) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[2:])


# --- items ----------------------------------------------------------------------------------------


def test_items_are_files_below_folders_with_their_layout(tmp_path):
    mels = save_mels(tmp_path / "mels")
    np.save(mels / "take.1.npy", preset_mel(1))
    np.save(mels / "x.flac.npy", preset_mel(1))
    items = collect([str(mels), "-", str(mels / "b" / "c.npz")], "out", reads=(".NPY", ".npz"))
    assert [i.name for i in items] == [
        "a.wav", "b/c.wav", "d.wav", "take.1.wav", "x.flac.wav", "stdin.wav", "c.wav",
    ]  # fmt: skip
    assert items[1] == Item(str(mels / "b" / "c.npz"), os.path.join("out", "b", "c.wav"), "b/c.wav")
    with pytest.raises(InputError, match=r"holds no file ending in \.txt2"):
        collect([str(mels)], "out", reads=(".txt2",))
    with pytest.raises(InputError, match="does not exist"):
        collect([str(mels / "nope.npy")], "out", reads=(".npy",))
