"""Conventions of models with an embedded core, as the fields of `presets.Preset`."""

from __future__ import annotations

from typing import Any

from .config import MelConfig, OutputConfig


def _univoc_mel(name: str, **changes: Any) -> MelConfig:
    """Univoc 0.2: (20 log10 S - 20) / 80 from -1 up, of filters whose weights sum to 1.

    Its librosa (0.8 or newer) takes ``norm=1`` as the sum of a filter's weights; -80 dB over the
    20 dB reference, its lowest value, is a floor of 1e-3 before the logarithm.
    """
    fields: dict[str, Any] = {
        "preset": name,
        "sample_rate": 16000,
        "n_fft": 2048,
        "hop_length": 200,
        "win_length": 800,
        "n_mels": 80,
        "f_min": 50.0,
        "f_max": 8000.0,
        "mel_norm": "sum",
        "preemphasis": 0.97,
        "floor": 1e-3,
        "ref_db": 20.0,
        "scale": 1 / 80,
    }
    return MelConfig(**(fields | changes))


def _univoc() -> dict[str, Any]:
    """Trained at -24 LUFS. Its range is given as that of rtvc, from which values cannot tell it."""
    return {
        "name": "univoc-v0.2",
        "summary": "16 kHz, hop 200, 10 bits mu-law, mel from -1 up, pre-emphasis 0.97 (mel only)",
        "sample_rate": 16000,
        "hop_length": 200,
        "heads": ("softmax",),
        "value_range": (-1.0, 1.0),
        "mel": _univoc_mel("univoc-v0.2"),
        "output": OutputConfig(mu_law=True, label_decode="univoc"),
    }


def _univoc_first() -> dict[str, Any]:
    """Univoc 0.1: clip((20 log10 S + 100) / 100, 0, 1); folds are joined before decoding."""
    mel = _univoc_mel(
        "univoc-v0.1",
        mel_norm="slaney",
        floor=1e-5,
        ref_db=0.0,
        scale=0.01,
        offset=1.0,
        clip=(0.0, 1.0),
    )
    return {
        "name": "univoc-v0.1",
        "summary": "16 kHz, hop 200, 9 bits mu-law, mel in [0, 1], pre-emphasis 0.97 (mel only)",
        "sample_rate": 16000,
        "hop_length": 200,
        "heads": ("softmax",),
        "value_range": (0.0, 1.0),
        "mel": mel,
        "output": OutputConfig(
            mu_law=True, decode_before_crossfade=False, fold_target=8000, fold_overlap=400
        ),
    }


def _anandaswarup() -> dict[str, Any]:
    """Univoc 0.2 at 22.05 kHz: 100 dB in place of 80."""
    mel = _univoc_mel(
        "anandaswarup",
        sample_rate=22050,
        hop_length=275,
        win_length=1100,
        f_max=11025.0,
        preemphasis=0.0,
        floor=1e-4,
        scale=0.01,
    )
    return {
        "name": "anandaswarup",
        "summary": "22.05 kHz, hop 275, 10 bits mu-law, mel from -1 up",
        "sample_rate": 22050,
        "hop_length": 275,
        "heads": ("softmax",),
        "value_range": (-1.0, 1.0),
        "mel": mel,
        "output": OutputConfig(mu_law=True, label_decode="univoc"),
    }


def _gibiansky() -> dict[str, Any]:
    """ln(max(1e-3, S)) of a power mel that is not centred; the sound is pre-emphasised too."""
    mel = MelConfig(
        preset="gibiansky",
        sample_rate=22050,
        n_fft=1024,
        hop_length=256,
        win_length=512,
        n_mels=80,
        f_min=0.0,
        f_max=11025.0,
        power=2.0,
        center=False,
        preemphasis=0.9,
        log="ln",
        floor=1e-3,
    )
    return {
        "name": "gibiansky",
        "summary": "22.05 kHz, hop 256, 8 bits mu-law, ln power mel, pre-emphasis 0.9",
        "sample_rate": 22050,
        "hop_length": 256,
        "heads": ("softmax",),
        "value_range": (-7.0, 9.5),
        "mel": mel,
        "output": OutputConfig(mu_law=True, label_decode="gibiansky", deemphasis=0.9, limit=0.9999),
    }


def _yukarin() -> dict[str, Any]:
    """The features are whatever a model was trained on, so that only the sound is known."""
    return {
        "name": "yukarin",
        "summary": "24 kHz, hop 240, mu-law; features as trained (no mel can be made for them)",
        "sample_rate": 24000,
        "hop_length": 240,
        "heads": ("softmax",),
        "value_range": (0.0, 0.0),
        "mel": None,
        "output": OutputConfig(mu_law=True, label_decode="yukarin"),
    }


def _yukarin_linear() -> dict[str, Any]:
    """The same trained without mu-law, which is a setting of its data set."""
    return _yukarin() | {
        "name": "yukarin-linear",
        "summary": "24 kHz, hop 240, labels not companded; features as trained",
        "output": OutputConfig(label_decode="yukarin"),
    }


def _zerospeech() -> dict[str, Any]:
    """Codes of 20 ms, each two frames; no mel is heard (`codes.features`)."""
    return {
        "name": "zerospeech",
        "summary": "16 kHz, hop 160, 8 bits mu-law; codes and a speaker in place of a mel",
        "sample_rate": 16000,
        "hop_length": 160,
        "heads": ("softmax",),
        "value_range": (0.0, 0.0),
        "mel": None,
        "output": OutputConfig(mu_law=True),
    }


CONVENTIONS = (
    _univoc(),
    _univoc_first(),
    _anandaswarup(),
    _gibiansky(),
    _yukarin(),
    _yukarin_linear(),
    _zerospeech(),
)
