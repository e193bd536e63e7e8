"""Names of outputs: one spelling for each, none that leads out of the folder."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from cli_runner import run
from hypothesis import example, given, settings
from hypothesis import strategies as st
from job_runs import files_below, start
from voices import preset_mel, save_mels, save_voice

from wavernn_fast.errors import InputError
from wavernn_fast.jobs import journal
from wavernn_fast.jobs.items import Found, pair
from wavernn_fast.jobs.names import key, normalize
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


@settings(deadline=None)
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


@settings(deadline=None)
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


PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("locale", [{"LC_ALL": "C.UTF-8"}, PLAIN_C], ids=["utf-8", "ascii"])
def test_bytes_that_are_no_text_are_kept_and_journaled_and_resumed(locale, model, tmp_path):
    mels, out = tmp_path / "mels", tmp_path / "out"
    mels.mkdir()
    np.save(tmp_path / "x.npy", preset_mel(3))
    os.rename(os.fsencode(tmp_path / "x.npy"), os.fsencode(mels) + b"/caf\xe9\n.npy")
    arguments = ("vocode", mels, "-m", model, "-o", out)
    bad = os.fsencode(mels) + "/wörse\n.npy".encode()
    with open(bad, "wb") as file:
        file.write(b"no mel")
    for options, done in (((), 1), (("--resume",), 0)):
        process = start(*arguments, "--json", *options, **locale)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 1
        assert "rse\\n.npy" in errors
        assert "rse\n.npy" not in errors  # a name may not forge a line
        assert "Traceback" not in errors
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
