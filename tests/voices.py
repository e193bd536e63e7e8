"""Small vocoders for the tests of the Python side, made once each."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cases
import numpy as np

from wavernn_fast import weights
from wavernn_fast.audio import write_wav
from wavernn_fast.config import ModelConfig, OutputConfig
from wavernn_fast.synthetic import random_model
from wavernn_fast.vocoder import Vocoder

# Every end-of-pipe rule at once: the last frame cut, a ramp, a filter with memory.
ENDS = OutputConfig(
    mu_law=True,
    length="frames_minus_one",
    fade_out_frames=3,
    deemphasis=0.9,
    fold_target=24,
    fold_overlap=6,
)
_CONTEXT = {"upsample_left": 1, "upsample_right": 2}
_AUX = {"aux_size": 3, "aux_channels": 8, "aux_blocks": 1, "aux_kernel": 5}

LABELS = cases.residual_config(16, 16, bits=8, output=ENDS, **_CONTEXT, **_AUX)
LOGISTICS = cases.residual_config(32, 16, mixtures=3, output=ENDS, **_CONTEXT)
BETA = cases.residual_config(16, 32, head="beta", n_classes=2, output=ENDS, **_CONTEXT, **_AUX)
DUAL = cases.dual_config(32, 16, n_mels=5, hop_length=3, pad="none", **_CONTEXT)
UNCONDITIONED = cases.dual_config(32, 16)
DTYPES = ("fp32", "fp16", "bf16", "int8", "int8-fast")
# An embedded core that hears some frames around, and one that hears the whole utterance.
NEAR = cases.embedded_config(16, 16, 8, ("conv", 2, 6, 3), hop_length=3, pad="none", output=ENDS)
WHOLE = cases.embedded_config(16, 16, 8, ("gru", 2, 4, 1), output=ENDS)
FRAMED = cases.framed_config(32, 16, hop_length=3, n_mels=5)
CONDITIONED = {
    "labels": LABELS,
    "logistics": LOGISTICS,
    "beta": BETA,
    "dual": DUAL,
    "near": NEAR,
    "whole": WHOLE,
    "framed": FRAMED,
}


@cache
def voice(config: ModelConfig, threads: int = 1, dtype: str = "fp32") -> Vocoder:
    """Vocoder with random weights."""
    return Vocoder(config, cases.random_tensors(config), dtype=dtype, cpu_threads=threads)


def mel(config: ModelConfig, n_frames: int, seed: int = 0) -> np.ndarray:
    """Mel frames float32 [n_mels, n_frames]."""
    return cases.random_mel(config, n_frames, seed)


def joined(chunks: Any) -> np.ndarray:
    """All chunks as one float32 array, also of none."""
    return np.concatenate([np.zeros(0, np.float32), *chunks])


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal in kind, length and every bit (so 0.0 and -0.0 differ)."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def save_voice(folder: Path, name: str = "voice.safetensors") -> Path:
    """Write a model file with the fatchord-raw9 convention (80 bins, hop 275) and return it."""
    config, tensors = random_model("residual:32")
    weights.write(folder / name, config, tensors)
    return folder / name


def preset_mel(n_frames: int, seed: int = 0) -> np.ndarray:
    """Frames as `save_voice`'s model expects them: float32 [80, n_frames] in [0, 1]."""
    return np.random.default_rng(seed).uniform(0.05, 0.95, (80, n_frames)).astype(np.float32)


def save_mels(folder: Path) -> Path:
    """Write three mels of 3, 5 and 2 frames (seeds 1, 2, 3), one in a folder below, and a text."""
    (folder / "b").mkdir(parents=True)
    np.save(folder / "a.npy", preset_mel(3, 1))
    np.savez(folder / "b" / "c.npz", mel=preset_mel(5, 2))
    np.save(folder / "d.npy", preset_mel(2, 3))
    (folder / "notes.txt").write_text("not a mel")
    return folder


def save_speech(folder: Path) -> Path:
    """Write a recording: half a second of a gliding tone, 16-bit, 22.05 kHz."""
    t = np.arange(11025) / 22050
    wave = 0.4 * np.sin(2 * np.pi * (200 + 300 * t) * t) * np.minimum(1.0, 20 * t)
    write_wav(folder / "speech.wav", wave, 22050)
    return folder / "speech.wav"
