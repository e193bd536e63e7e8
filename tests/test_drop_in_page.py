"""The examples of docs/drop-in.md run, against checkpoints of random weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoint_builders
import live_twins
import numpy as np
import pytest
import soundfile
import torch

PAGE = Path(__file__).resolve().parents[1] / "docs" / "drop-in.md"
README = Path(__file__).resolve().parents[1] / "README.md"
SIZES: dict[str, Any] = {"hidden": 32, "fc": 32, "n_mels": 80, "aux": 4}
FILES = {
    "checkpoints/latest_weights.pyt": ("fatchord", 512, (5, 5, 11), None),
    "latest_weights.pyt": ("fatchord", 512, (5, 5, 11), None),
    "saved_models/default/vocoder.pt": ("fatchord", 512, (5, 5, 8), "model_state"),
    "best_model.pth": ("fatchord", 512, (4, 8, 8), "model"),
    "wavernn_10k_epochs_8bits_ljspeech.pth": ("torchaudio", 256, (5, 5, 11), None),
}
SOUNDS = ("wave", "wav", "waveform", "waveforms")  # what examples call their results
UNIVOC = "univoc-ljspeech-7mtpaq.pt"


@pytest.fixture(autouse=True)
def _one_processor() -> Iterator[None]:
    """The examples name no number of threads; models this small are slower on several."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def examples(path: Path) -> list[str]:
    """Python blocks of a page; of those that show a change, what is after it."""
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.S)
    return [block.partition("# after\n")[2] or block for block in blocks]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the examples take as given, and their files in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, (dialect, classes, scales, wrapper) in FILES.items():
        builder = getattr(checkpoint_builders, dialect)
        state = builder(classes=classes, scales=scales, **SIZES)
        tensors: Any = {key: torch.from_numpy(np.array(a)) for key, a in state.items()}
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({wrapper: tensors} if wrapper else tensors, name)
    scales = (5, 5, 11)
    univoc = checkpoint_builders.univoc(n_mels=80)
    torch.save({"model": {n: torch.from_numpy(a) for n, a in univoc.items()}}, UNIVOC)
    model = live_twins.load(
        live_twins.WaveRNN(scales=scales, **SIZES),
        checkpoint_builders.fatchord(classes=512, scales=scales, **SIZES),
    )
    rng = np.random.default_rng(0)
    mels = torch.from_numpy(rng.uniform(0.05, 0.95, (2, 80, 24)).astype(np.float32))
    return {
        "model": model, "mels": mels[:1], "specgram": mels, "mel": 8 * mels[0].numpy() - 4,
        "log_mel": mels[:1, :, :3].mT - 1.0,
        "mel_spec": mels * 11 - 11, "lengths": torch.tensor([24, 9]),
        "mel_lengths": torch.tensor([24, 9]),
        "batched": True, "target": 2000, "overlap": 100, "mu_law": True,
    }  # fmt: skip


def test_every_example_of_the_page_runs(names, tmp_path):
    found = examples(PAGE)
    assert len(found) == 8
    for code in found:
        before = dict(names)
        exec(code, before)
        made = next((before[n] for n in SOUNDS if n in before), None)
        if "OutputConfig(" not in code:
            assert np.abs(np.asarray(made)).max() > 0.01, code
        assert "generate" not in names["model"].__dict__
    assert soundfile.info(tmp_path / "speech.wav").frames == 23 * 275


def test_the_example_of_the_readme_runs(names, tmp_path):
    [code] = [code for code in examples(README) if "accelerate(" in code]
    exec(code, names)
    assert soundfile.info(tmp_path / "speech.wav").frames == 23 * 275
    assert "generate" in names["model"].__dict__
