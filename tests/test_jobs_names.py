"""Names, lists and formats: what an output is called, and what is refused before work."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_runner import refused, run
from hypothesis import example, given
from hypothesis import strategies as st
from job_runs import ROOT, files_below, start
from voices import preset_mel, save_mels, save_voice

from wavernn_fast.encoding import encode, with_serial
from wavernn_fast.errors import AudioError, InputError
from wavernn_fast.jobs import journal
from wavernn_fast.jobs.items import Found, collect, pair
from wavernn_fast.jobs.manifest import read_manifest
from wavernn_fast.jobs.names import key, normalize
from wavernn_fast.jobs.reading import read_mel
from wavernn_fast.vocoder import Vocoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_voice(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def voc(model: Path) -> Vocoder:
    return Vocoder.from_pretrained(model)


# --- names ----------------------------------------------------------------------------------------

ANY = st.text(st.characters(codec=None), max_size=30)  # surrogates and control characters too
ODD = st.text(st.sampled_from("a./\\~ :\0\n\x7f\x85\u2028é\u0301\udcffCONnul"), max_size=12)


@given(st.one_of(ANY, ODD))
@example("../x.wav")
@example("a/../../x.wav")
@example("/etc/passwd")
@example("C:\\x.wav")
@example("a\\..\\..\\x.wav")
@example(".wavernn-fast/journal-0of1.jsonl")
@example(".WAVERNN-fast/x.wav")
@example("CON.wav")
def test_a_name_is_refused_or_lies_below_the_root_and_is_normal(text):
    try:
        name = normalize(text)
    except InputError:
        return
    parts = name.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert os.path.normpath(os.path.join("/root", name)) == "/root/" + name
    assert unicodedata.is_normalized("NFC", name)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]", name)
    assert parts[0].casefold() != journal.FOLDER
    assert not any(re.fullmatch(r"(?i)(con|prn|aux|nul|(com|lpt)\d)(\..*)?", p) for p in parts)
    assert normalize(name) == name  # once is enough
    assert json.loads(json.dumps(name)) == name  # as a journal has it


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a//./b.wav", "a/b.wav"),
        ("e\u0301.wav", "é.wav"),
        ("a\nb\t.wav", "a_b_.wav"),
        ("a\\b.wav", "a_b.wav"),
        ("nul.wav", "_nul.wav"),
        ("x/Com1/LPT9.tar.wav", "x/_Com1/_LPT9.tar.wav"),
        ("console.wav", "console.wav"),
        ("caf\udce9.wav", "caf\udce9.wav"),
    ],
)
def test_names_are_made_usable_everywhere(text, name):
    assert normalize(text) == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("../a.wav", "leads out"),
        ("a/../b.wav", "leads out"),
        ("/a.wav", "absolute"),
        ("d:/a.wav", "absolute"),
        ("", "empty"),
        ("././", "empty"),
        (".wavernn-fast/a.wav", "journals"),
    ],
)
def test_names_that_mean_harm_are_refused(text, words):
    with pytest.raises(InputError, match=words):
        normalize(text)


def test_all_clashes_are_listed_before_work():
    names = ["a.wav", "A.WAV", "b.wav", "e\u0301.wav", "é.wav", "b.wav", "c.wav", "../x.wav"]
    found = [Found(f"{i}.npy", name) for i, name in enumerate(names)]
    with pytest.raises(InputError) as caught:
        pair(found[:-1], "out")
    text = str(caught.value)
    for one, other in (("0", "1"), ("3", "4"), ("2", "5")):
        assert f"'{one}.npy' and '{other}.npy' would both be written" in text
    assert text.count("would both") == 3
    with pytest.raises(InputError, match=r"7\.npy.*leads out"):
        pair(found, "out")
    many = [Found(f"{i}.npy", f"{i // 2}.wav") for i in range(100)]
    with pytest.raises(InputError, match="and 30 more"):
        pair(many, "out")


@given(st.lists(ODD, max_size=6))
def test_names_that_are_kept_never_meet(texts):
    try:
        items = pair([Found(f"{i}", text) for i, text in enumerate(texts)], "/nowhere/out")
    except InputError:
        return
    assert len({key(item.name) for item in items}) == len(texts)


def test_links_may_not_lead_out_of_the_output_folder(model, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    (elsewhere / "deep").mkdir(parents=True)
    (out / "b").symlink_to(elsewhere)
    (out / "c").mkdir()
    (out / "d").symlink_to(out / "c")  # stays inside
    names = ["a.wav", "b/a.wav", "b/deep/a.wav", "c/a.wav", "d/b.wav"]
    with pytest.raises(InputError) as caught:
        pair([Found("x.npy", name) for name in names], str(out))
    assert "'b/a.wav'" in str(caught.value)
    assert "'b/deep/a.wav'" in str(caught.value)
    assert str(caught.value).count("\n  - ") == 2
    mels = save_mels(tmp_path / "mels")
    assert run("vocode", mels, "-m", model, "-o", out).exit_code == 2
    assert list(elsewhere.rglob("*.wav")) == []


def test_bytes_that_are_no_text_are_kept_and_journaled_and_resumed(model, tmp_path):
    mels, out = tmp_path / "mels", tmp_path / "out"
    mels.mkdir()
    np.save(tmp_path / "x.npy", preset_mel(3))
    os.rename(os.fsencode(tmp_path / "x.npy"), os.fsencode(mels) + b"/caf\xe9\n.npy")
    arguments = ("vocode", mels, "-m", model, "-o", out)
    for options, done in (((), 1), (("--resume",), 0)):
        process = start(*arguments, "--json", *options)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert len(json.loads(output)["done"]) == done
    assert [p for p in os.listdir(os.fsencode(out)) if p.endswith(b".wav")] == [b"caf\xe9_.wav"]
    assert list(journal.finished(out)) == ["caf\udce9_.wav"]


def test_a_name_the_system_cannot_have_fails_alone(model, tmp_path):
    np.save(tmp_path / "a.npy", preset_mel(3))
    lines = [{"mel": "a.npy", "out": "n" * 300}, {"mel": "a.npy", "out": "b"}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = run("vocode", tmp_path / "list.jsonl", "-m", model, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "File name too long" in result.stderr
    assert set(files_below(tmp_path / "out")) == {"failed.jsonl", "b.wav"}


# --- lists ----------------------------------------------------------------------------------------


def test_the_three_kinds_of_lists(tmp_path):
    (tmp_path / "l.jsonl").write_text(
        '{"mel": "m/a.npy"}\n\n'
        '{"mel": "/abs/b.npy", "out": "x/y", "seed": 18446744073709551615, "text": "hello"}\n'
        '{"mel": "c.npy", "out": "z.FLAC", "speaker": "s.npy", "seed": null}\n'
    )
    (tmp_path / "l.csv").write_bytes(
        b'\xef\xbb\xbfout,mel,seed,speaker,note\r\n"x,1",m/a.npy,7,,hi\r\n,b.npy,,s.npy,\r\n'
    )
    (tmp_path / "l.scp").write_text("utt/1 m/a b.npy\nutt-2\t/abs/b.npy\n")
    top = str(tmp_path)
    assert read_manifest(f"{top}/l.jsonl", format="ogg") == [
        Found(f"{top}/m/a.npy", "a.ogg"),
        Found("/abs/b.npy", "x/y.ogg", 2**64 - 1),
        Found(f"{top}/c.npy", "z.FLAC", None, f"{top}/s.npy"),
    ]
    assert read_manifest(f"{top}/l.csv") == [
        Found(f"{top}/m/a.npy", "x,1.wav", 7),
        Found(f"{top}/b.npy", "b.wav", None, f"{top}/s.npy"),
    ]
    assert read_manifest(f"{top}/l.scp") == [
        Found(f"{top}/m/a b.npy", "utt/1.wav"),
        Found("/abs/b.npy", "utt-2.wav"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("l.jsonl", '{"mel": 3}\n[]\n{"out": "a"}\n{', ["line 1", "line 2", "line 3", "line 4"]),
        ("l.jsonl", '{"mel": "a", "seed": -1}\n{"mel": "a", "seed": true}', ["line 1", "line 2"]),
        ("l.jsonl", '{"mel": "a", "seed": 1.5}\n{"mel": "a", "out": 7}', ["'seed'", "'out'"]),
        ("l.jsonl", '{"mel": "a\\u0000b"}\n{"mel": "-"}', ["expected a path", "no list may name"]),
        ("l.jsonl", "\n\n", ["names nothing"]),
        ("l.jsonl", "[" * 100_000, ["no JSON"]),
        ("l.csv", "path,out\na,b\n", ["no column 'mel'"]),
        ("l.csv", "mel,out\na,b,c\n", ["line 2", "more values"]),
        ("l.csv", 'mel,out\n"a"b,c\n', ["no CSV"]),
        ("l.csv", "mel,seed\na,x\n", ["'seed' is 'x'"]),
        ("l.scp", "utt\n", ["no 'id path'"]),
        ("l.scp", "u cat a.npy |\nv |rm x\n", ["line 1", "line 2", "never run"]),
        ("l.scp", "u feats.ark:123\n", ["archive"]),
        ("l.txt", "a.npy\n", ["is no list"]),
    ],
)
def test_lists_that_cannot_be_used_are_refused_with_every_line(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_manifest(str(tmp_path / name))
    for word in words:
        assert word in str(caught.value)


@given(st.binary(max_size=200), st.sampled_from(["l.jsonl", "l.csv", "l.scp"]))
@example(b'{"mel":"\\ud800"}', "l.jsonl")
def test_any_bytes_as_a_list_are_read_or_refused(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("list") / name
    path.write_bytes(data)
    with contextlib.suppress(InputError, AudioError):
        pair(read_manifest(str(path)), "/nowhere/out")


def test_a_list_is_a_job_with_seeds_of_its_own(model, voc, tmp_path):
    save_mels(tmp_path / "mels")
    lines = [{"mel": "mels/a.npy", "out": "x", "seed": 3}, {"mel": "mels/b/c.npz"}]
    lines.append({"mel": "mels/gone.npy"})
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    result = run("vocode", tmp_path / "list.jsonl", "-m", model, "-o", out, "--seed", 9)
    assert result.exit_code == 1  # of the one that is gone
    assert "gone.npy" in result.stderr
    for name, mel, seed in (("x", preset_mel(3, 1), 3), ("c", preset_mel(5, 2), 9)):
        expected = b"".join(encode(voc.generate(mel, seed=seed), 22050))
        assert (out / f"{name}.wav").read_bytes() == expected


def test_a_list_on_standard_input_and_among_the_inputs(model, tmp_path):
    save_mels(tmp_path / "mels")
    line = json.dumps({"mel": "mels/a.npy", "out": "first"})
    (tmp_path / "l.csv").write_text("mel,out\nmels/d.npy,second\n")
    result = subprocess.run(
        [sys.executable, "-m", "wavernn_fast", "vocode", "l.csv", "--manifest", "-",
         "mels/b", "-m", str(model), "-o", "out"],
        input=line, capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ROOT},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert set(files_below(tmp_path / "out")) == {"first.wav", "second.wav", "c.wav"}


def test_what_is_only_for_folders_is_refused_for_a_file(model, tmp_path):
    mels = save_mels(tmp_path / "mels")
    (tmp_path / "l.jsonl").write_text('{"mel": "mels/a.npy"}')
    one = ("vocode", mels / "a.npy", "-m", model, "-o", tmp_path / "a.wav")
    for options in (("--resume",), ("--max-failures", 1), ("--format", "flac"),
                    ("--manifest", tmp_path / "l.jsonl")):  # fmt: skip
        refused(run(*one, *options), tmp_path, "is for a folder of outputs")
    listed = ("vocode", tmp_path / "l.jsonl", "-m", model, "-o", tmp_path / "a.wav")
    refused(run(*listed), tmp_path, "A list is for a folder")
    refused(run("vocode", "-m", model, "-o", tmp_path / "out"), tmp_path, "Nothing to do")
    twice = ("vocode", "-", "--manifest", "-", "-m", model, "-o", tmp_path / "out")
    refused(run(*twice), tmp_path, "once only")


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
