"""The examples of docs/drop-in.md run, against checkpoints of random weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import page_files
import pytest
import soundfile

PAGE = page_files.ROOT / "docs" / "drop-in.md"
SOUNDS = ("wave", "wav", "waveform", "waveforms")  # what examples call their results


@pytest.fixture(autouse=True)
def _one_processor() -> Iterator[None]:
    """The examples name no number of threads; models this small are slower on several."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the examples take as given, and their files in the working folder."""
    monkeypatch.chdir(tmp_path)
    page_files.write_checkpoints()
    return page_files.given()


def test_every_example_of_the_page_runs(names, tmp_path):
    found = page_files.examples(PAGE)
    assert len(found) == 8
    for code in found:
        before = dict(names)
        exec(code, before)
        made = next((before[n] for n in SOUNDS if n in before), None)
        if "OutputConfig(" not in code:
            assert np.abs(np.asarray(made)).max() > 0.01, code
        assert "generate" not in names["model"].__dict__
    assert soundfile.info(tmp_path / "speech.wav").frames == 23 * 275
