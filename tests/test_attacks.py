"""Hostile files are refused with our error: no code runs, memory is bounded, nothing crashes."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import checkpoint_builders as builders
import pytest
from attacks import archives, mutations, pickles, reader, weights_files
from attacks.kinds import Attack

from wavernn_fast import checkpoints, weights

KINDS = {"pickles": pickles, "archives": archives, "weights": weights_files}


@functools.cache
def attacks_of(kind: str) -> list[Attack]:
    return KINDS[kind].attacks()


def outcomes(folder: Path) -> dict[str, dict]:
    """What became of every file of a folder, read by one process that works in that folder."""
    done = subprocess.run(
        [sys.executable, reader.__file__, str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {found[-1:]}: {done.stderr[-2000:]}"
    return {each["file"]: each for each in found}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("attacks")
    builders.save(folder / "sound.pt", builders.deepmind())
    builders.save(folder / "sound_legacy.pt", builders.deepmind(), legacy=True)
    for attack in (a for kind in KINDS for a in attacks_of(kind)):
        (folder / f"{attack.name}{attack.suffix}").write_bytes(attack.content)
    # Programs beside a checkpoint, under the names that training programs give them.
    for name in ("hparams.py", "config.py", "torch.py", "sitecustomize.py"):
        (folder / name).write_text("open('MARK', 'w')\n")
    found = outcomes(folder)
    assert not (folder / "MARK").exists(), "code of a file was run"
    return found


def test_a_sound_file_is_loaded_beside_them(results: dict[str, dict]) -> None:
    for name in ("sound.pt", "sound_legacy.pt"):
        assert results[name]["outcome"] == "loaded"
        assert results[name]["events"] == []


def wrong(attack: Attack, found: dict) -> str | None:
    """What is wrong about the end that an attack took, or None."""
    if found["outcome"] != "refused":
        return f"{found['outcome']}: {found['message']}"
    if not re.search(attack.words, found["message"], re.S):
        return f"it says: {found['message']}"
    return f"it did: {found['events']}" if found["events"] else None


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_files_are_refused(results: dict[str, dict], kind: str) -> None:
    ends = {a.name: wrong(a, results[a.name + a.suffix]) for a in attacks_of(kind)}
    assert not {name: end for name, end in ends.items() if end}


# --- damage ---------------------------------------------------------------------------------------

# A checksum covers all weights but in legacy files. WF_SEARCH=1 tries more, others in every run.
COUNT = 20_000 if os.environ.get("WF_SEARCH") else 1_000
SEED = int(time.time()) if os.environ.get("WF_SEARCH") else 1
FORMS = ("zip", "legacy", "canonical")


def ends(folder: Path, *how: object) -> dict[str, dict[str, int]]:
    """How often each end came when a sound file of each form was damaged; one process reads all."""
    paths = []
    for form in FORMS:
        (folder / form).mkdir()
        path = folder / form / "model.pt"
        builders.save(path, builders.deepmind(), legacy=form == "legacy")
        if form == "canonical":
            model, path = checkpoints.load(path), path.with_suffix(".safetensors")
            weights.write(path, *model)
        paths.append(path)
    command = [str(word) for word in (sys.executable, mutations.__file__, *how, *paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    # a crash of the reader too
    assert done.returncode == 0, (done.stdout.count("\n"), done.stderr[-2000:])
    return dict(zip(FORMS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.fixture(scope="module")
def of_cut(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    return ends(tmp_path_factory.mktemp("cut"), "cut", 64)


@pytest.fixture(scope="module")
def of_altered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    return ends(tmp_path_factory.mktemp("altered"), "alter", COUNT, SEED)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_cut_at_every_64th_byte_is_refused(of_cut, form: str) -> None:
    found = of_cut[form]
    assert set(found) == {"refused"}
    assert found["refused"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_file_altered_at_random_is_refused_or_loaded_whole(of_altered, form: str) -> None:
    """A legacy file has no checksum: weights altered in it are other weights, but numbers."""
    found = of_altered[form]
    assert set(found) <= {"refused", "same"} | ({"other"} if form == "legacy" else set()), SEED
    assert sum(found.values()) == COUNT
    assert found["refused"] > COUNT // 4
