"""Lists of items: what they may hold, and what is refused before work."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import refused, run
from hypothesis import example, given, settings
from hypothesis import strategies as st
from job_runs import ROOT, files_below
from voices import preset_mel, save_mels, save_voice

from wavernn_fast.encoding import encode
from wavernn_fast.errors import AudioError, InputError
from wavernn_fast.jobs.items import Found, pair
from wavernn_fast.jobs.manifest import read_manifest
from wavernn_fast.vocoder import Vocoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_voice(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def voc(model: Path) -> Vocoder:
    return Vocoder.from_pretrained(model)


def test_the_three_kinds_of_lists(tmp_path):
    (tmp_path / "l.jsonl").write_text(
        '{"mel": "m/a.npy"}\n\n'
        '{"mel": "/abs/b.npy", "out": "x/y", "seed": 18446744073709551615, "text": "hello"}\n'
        '{"mel": "c.npy", "out": "z.FLAC", "speaker": "s.npy", "seed": null}\n'
    )
    (tmp_path / "l.csv").write_bytes(
        b'\xef\xbb\xbfout,mel,seed,speaker,note\r\n"x,1",m/a.npy,7,,hi\r\n,b.npy,,s.npy,\r\n'
    )
    (tmp_path / "blanks.csv").write_text('mel, out ,seed\na.npy, x, 3\nb.npy, " y"\n')
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
    assert read_manifest(f"{top}/blanks.csv") == [
        Found(f"{top}/a.npy", "x.wav", 3),
        Found(f"{top}/b.npy", " y.wav"),
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
        (
            "l.jsonl",
            '{"mel": "\\ud800/a"}\n{"mel": "a", "out": "\\udc00/\\ud800"}',
            ["line 1", "line 2"],
        ),
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


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["l.jsonl", "l.csv", "l.scp"]))
@example(b'{"mel":"\\ud800"}', "l.jsonl")
@example(b'{"mel":"\\ud800/a"}', "l.jsonl")
@example(b'{"mel":"a","out":"\\ud800/a"}', "l.jsonl")
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
