"""Files and names that the examples of the pages take as given, with random weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import checkpoint_builders
import live_twins
import numpy as np
import soundfile
import torch

ROOT = Path(__file__).resolve().parents[1]
SIZES: dict[str, Any] = {"hidden": 32, "fc": 32, "n_mels": 80, "aux": 4}
FILES = {
    "checkpoints/latest_weights.pyt": ("fatchord", 512, (5, 5, 11), None),
    "latest_weights.pyt": ("fatchord", 512, (5, 5, 11), None),
    "saved_models/default/vocoder.pt": ("fatchord", 512, (5, 5, 8), "model_state"),
    "vocoder.pt": ("fatchord", 512, (5, 5, 8), "model_state"),
    "best_model.pth": ("fatchord", 512, (4, 8, 8), "model"),
    "wavernn_10k_epochs_8bits_ljspeech.pth": ("torchaudio", 256, (5, 5, 11), None),
}
UNIVOC = "univoc-ljspeech-7mtpaq.pt"


def examples(path: Path) -> list[str]:
    """Python blocks of a page; of those that show a change, what is after it."""
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.S)
    return [block.partition("# after\n")[2] or block for block in blocks]


def write_checkpoints() -> None:
    """Put the checkpoints of the pages into the working folder."""
    for name, (dialect, classes, scales, wrapper) in FILES.items():
        builder = getattr(checkpoint_builders, dialect)
        state = builder(classes=classes, scales=scales, **SIZES)
        tensors: Any = {key: torch.from_numpy(np.array(a)) for key, a in state.items()}
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({wrapper: tensors} if wrapper else tensors, name)
    univoc = checkpoint_builders.univoc(n_mels=80)
    torch.save({"model": {n: torch.from_numpy(a) for n, a in univoc.items()}}, UNIVOC)


def write_inputs() -> None:
    """Put mel.npy, a folder mels/ and speech.wav into the working folder."""
    rng = np.random.default_rng(0)
    mel = rng.uniform(0.05, 0.95, (80, 24)).astype(np.float32)
    Path("mels").mkdir()
    for name in ("mel.npy", "mels/a.npy", "mels/b.npy"):
        np.save(name, mel)
    soundfile.write("speech.wav", 0.3 * np.sin(0.05 * np.arange(24 * 275)), 22050)


def live_model() -> Any:
    """A module of fatchord's class."""
    scales = (5, 5, 11)
    return live_twins.load(
        live_twins.WaveRNN(scales=scales, **SIZES),
        checkpoint_builders.fatchord(classes=512, scales=scales, **SIZES),
    )


def given() -> dict[str, Any]:
    """Names that the examples use: modules and mels, in the conventions of each program."""
    rng = np.random.default_rng(0)
    mels = torch.from_numpy(rng.uniform(0.05, 0.95, (2, 80, 24)).astype(np.float32))
    return {
        "model": live_model(), "mels": mels[:1], "specgram": mels, "mel": 8 * mels[0].numpy() - 4,
        "log_mel": mels[:1, :, :3].mT - 1.0,
        "mel_spec": mels * 11 - 11, "lengths": torch.tensor([24, 9]),
        "mel_lengths": torch.tensor([24, 9]),
        "batched": True, "target": 2000, "overlap": 100, "mu_law": True,
    }  # fmt: skip


class _Torchaudio(torch.nn.Module):
    """torchaudio's tensors and method, without what computes."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = checkpoint_builders.torchaudio(classes=256, scales=(5, 5, 11), **SIZES)
        return {name: torch.from_numpy(np.array(a)) for name, a in state.items()}

    def infer(self, specgram: Any, lengths: Any = None) -> Any:
        raise AssertionError("the original was called")


def live_torchaudio() -> Any:
    """A module that looks like `torchaudio.models.WaveRNN`."""
    return _Torchaudio()
