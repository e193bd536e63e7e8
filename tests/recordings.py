"""A toy voice for the tests of training: decaying harmonic tones of gliding pitch, as wav files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import numpy as np
import soundfile

from wavernn_fast.config import MelConfig, ModelConfig

RATE = 8000  # Hz
MEL = MelConfig(
    sample_rate=RATE, n_fft=128, hop_length=40, win_length=128, n_mels=8, f_min=0.0, f_max=4000.0,
    scale=0.02, offset=1.0,
)  # fmt: skip
AUX = {"aux_size": 6, "aux_channels": 8, "aux_blocks": 1, "aux_kernel": 5}


def config(hidden_size: int = 32, **fields: Any) -> ModelConfig:
    """Model of the toy voice: 8 kHz, 8 bins, hop 40, two frames of context."""
    return cases.dual_config(
        hidden_size, 16, **{"hop_length": 40, "n_mels": 8, "mel": MEL, **AUX, **fields}
    )


def tone(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Float64 [n] of size 0.5: a pitch that glides, five harmonics, a decay, a little noise."""
    random = np.random.default_rng([seed, 77])
    t = np.arange(round(seconds * rate)) / rate
    low, high = random.uniform(90, 250, 2)
    phase = 2 * np.pi * np.cumsum(low + (high - low) * t / max(seconds, 1e-9)) / rate
    wave = sum(np.sin(k * phase) * 0.6**k for k in range(1, 6))
    wave = wave * np.exp(-1.5 * (t % 0.4)) + 0.003 * random.standard_normal(len(t))
    return 0.5 * wave / np.abs(wave).max()


def save(path: Path, wave: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> Path:
    """Write one file, whatever is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype=subtype)
    return path


def voice(folder: Path, count: int, seconds: float = 1.0, rate: int = RATE) -> Path:
    """Write `count` recordings of the toy voice and return their folder."""
    for i in range(count):
        save(folder / f"tone{i:02d}.wav", tone(seconds, i, rate), rate)
    return folder
