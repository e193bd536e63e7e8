"""Make mel_*.npz: log-mel vectors of librosa and torchaudio for synthetic signals.

Run by hand when a case is added::

    python tests/golden/make_mel_golden.py            # needs librosa, scipy and torchaudio

Each family is computed here by its own published recipe, not by the formula of `MelConfig`, so
that the tests compare two derivations. Signals come from `make_signal`, which uses no random
generator whose stream might change.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_fast.config import MelConfig

FOLDER = Path(__file__).resolve().parent
Signal = NDArray[np.float64]

FATCHORD = {
    "sample_rate": 22050,
    "n_fft": 2048,
    "hop_length": 275,
    "win_length": 1100,
    "n_mels": 80,
    "f_min": 40.0,
    "f_max": 11025.0,
}
UNIVOC = {
    "sample_rate": 16000,
    "n_fft": 2048,
    "hop_length": 200,
    "win_length": 800,
    "n_mels": 80,
    "f_min": 50.0,
    "f_max": 8000.0,
    "preemphasis": 0.97,
}
TINY = {"sample_rate": 8000, "n_fft": 256, "hop_length": 64, "win_length": 200, "n_mels": 20}

# name -> (samples of the signal, convention)
CASES: dict[str, tuple[int, MelConfig]] = {
    "fatchord": (6000, MelConfig(**FATCHORD, scale=0.01, offset=1.0, clip=(0.0, 1.0))),
    "torchaudio": (6000, MelConfig(**FATCHORD, scale=0.01, offset=1.0, clip=(0.0, 1.0))),
    "rtvc": (
        5000,
        MelConfig(
            sample_rate=16000,
            n_fft=800,
            hop_length=200,
            win_length=800,
            n_mels=80,
            f_min=55.0,
            f_max=7600.0,
            preemphasis=0.97,
            ref_db=20.0,
            scale=0.02,
            offset=1.0,
            clip=(-1.0, 1.0),
        ),
    ),
    "geneing": (
        5000,
        MelConfig(
            sample_rate=16000,
            n_fft=2048,
            hop_length=200,
            win_length=800,
            n_mels=80,
            f_min=95.0,
            f_max=7600.0,
            ref_db=20.0,
            scale=0.08,
            offset=4.0,
            clip=(-4.0, 4.0),
        ),
    ),
    "forwardtacotron": (
        6000,
        MelConfig(
            sample_rate=22050,
            n_fft=1024,
            hop_length=256,
            win_length=1024,
            n_mels=80,
            f_min=0.0,
            f_max=8000.0,
            log="ln",
        ),
    ),
    "univoc": (5000, MelConfig(**UNIVOC, mel_norm="sum", floor=1e-3, ref_db=20.0, scale=1 / 80)),
    "univoc_first": (5000, MelConfig(**UNIVOC, scale=0.01, offset=1.0, clip=(0.0, 1.0))),
    "htk_power": (
        3000,
        MelConfig(
            **TINY,
            f_min=60.0,
            f_max=3800.0,
            power=2.0,
            mel_scale="htk",
            mel_norm="none",
            pad_mode="constant",
            log="log10",
            floor=1e-10,
        ),
    ),
    "not_centred": (
        3000,
        MelConfig(**TINY, f_min=0.0, f_max=4000.0, center=False, log="ln", floor=1e-3),
    ),
    "short_reflect": (  # shorter than half a window: the reflection repeats
        90,
        MelConfig(**TINY, f_min=0.0, f_max=4000.0, log="ln"),
    ),
}


def make_signal(n_samples: int, sample_rate: int) -> Signal:
    """A gliding voice-like tone with harmonics, a gap of silence, then noise, in [-1, 1]."""
    t = np.arange(n_samples) / sample_rate
    phase = 2.0 * np.pi * (110.0 * t + 90.0 * t**2)
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    state, noise = 1, np.empty(n_samples)
    for i in range(n_samples):
        state = (1103515245 * state + 12345) % 2**31
        noise[i] = state / 2**30 - 1.0
    part = np.arange(n_samples) / n_samples
    wave = 0.3 * voice * (part < 0.5) + 0.2 * noise * (part > 0.7)
    return np.asarray(np.clip(wave, -1.0, 1.0))


def librosa_mel(wave: Signal, config: MelConfig) -> Signal:
    """Mel magnitudes (before the logarithm) by librosa."""
    import librosa

    spectrum = librosa.stft(
        wave,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        win_length=config.win_length,
        center=config.center,
        pad_mode=config.pad_mode,
    )
    filters = librosa.filters.mel(
        sr=config.sample_rate,
        n_fft=config.n_fft,
        n_mels=config.n_mels,
        fmin=config.f_min,
        fmax=config.f_max,
        htk=config.mel_scale == "htk",
        norm={"slaney": "slaney", "none": None, "sum": 1}[config.mel_norm],
        dtype=np.float64,
    )
    return np.asarray(filters @ np.abs(spectrum) ** config.power)


def torchaudio_mel(wave: Signal, config: MelConfig) -> Signal:
    """Mel magnitudes (before the logarithm) by torchaudio, in float64."""
    import torch
    import torchaudio

    torch.set_default_dtype(torch.float64)  # else the side lobes of a float32 window show
    transform = torchaudio.transforms.MelSpectrogram(
        sample_rate=config.sample_rate,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        win_length=config.win_length,
        n_mels=config.n_mels,
        f_min=config.f_min,
        f_max=config.f_max,
        power=config.power,
        mel_scale="slaney",
        norm="slaney",
    )
    return np.asarray(transform(torch.from_numpy(wave)).numpy())


def fatchord(wave: Signal, config: MelConfig) -> Signal:
    """Decibels over 1, -100 dB to 0 dB mapped to 0 to 1."""
    decibels = 20.0 * np.log10(np.maximum(1e-5, librosa_mel(wave, config)))
    return np.asarray(np.clip((decibels - -100.0) / 100.0, 0.0, 1.0))


def torchaudio(wave: Signal, config: MelConfig) -> Signal:
    """As the bundle: natural-log mel, then exp, decibels, -100 dB to 0 dB mapped to 0 to 1."""
    natural = np.log(np.maximum(torchaudio_mel(wave, config), 1e-5))
    decibels = 20.0 * np.log10(np.maximum(1e-5, np.exp(natural)))
    return np.asarray(np.clip((decibels + 100.0) / 100.0, 0.0, 1.0))


def _symmetric(wave: Signal, config: MelConfig) -> Signal:
    decibels = 20.0 * np.log10(np.maximum(1e-5, librosa_mel(wave, config))) - 20.0
    return np.asarray(np.clip(8.0 * ((decibels + 100.0) / 100.0) - 4.0, -4.0, 4.0))


def rtvc(wave: Signal, config: MelConfig) -> Signal:
    """Pre-emphasis, decibels over 20, -100 dB to 0 dB mapped to -4 to 4, divided by 4."""
    import scipy.signal

    return _symmetric(scipy.signal.lfilter([1.0, -0.97], [1.0], wave), config) / 4.0


def univoc(wave: Signal, config: MelConfig) -> Signal:
    """Pre-emphasis, decibels over 20 with a floor of -80, divided by 80.

    The filter starts from rest; librosa.effects.preemphasis would extrapolate one sample before.
    """
    import librosa
    import scipy.signal

    mel = librosa_mel(scipy.signal.lfilter([1.0, -0.97], [1.0], wave), config)
    level = librosa.amplitude_to_db(mel, top_db=None) - 20.0
    return np.asarray(np.maximum(level, -80.0) / 80.0)


def univoc_first(wave: Signal, config: MelConfig) -> Signal:
    """Pre-emphasis, decibels, -100 dB to 0 dB mapped to 0 to 1."""
    import scipy.signal

    return fatchord(scipy.signal.lfilter([1.0, -0.97], [1.0], wave), config)


def natural_log(wave: Signal, config: MelConfig) -> Signal:
    """Natural logarithm over the floor."""
    return np.asarray(np.log(np.maximum(config.floor, librosa_mel(wave, config))))


def common_log(wave: Signal, config: MelConfig) -> Signal:
    """Base-10 logarithm over the floor."""
    return np.asarray(np.log10(np.maximum(config.floor, librosa_mel(wave, config))))


RECIPES: dict[str, Callable[[Signal, Any], Signal]] = {
    "fatchord": fatchord,
    "torchaudio": torchaudio,
    "rtvc": rtvc,
    "geneing": _symmetric,
    "forwardtacotron": natural_log,
    "univoc": univoc,
    "univoc_first": univoc_first,
    "htk_power": common_log,
    "not_centred": natural_log,
    "short_reflect": natural_log,
}


def main() -> None:
    """Write one file per case beside this script."""
    for name, (n_samples, config) in CASES.items():
        mel = RECIPES[name](make_signal(n_samples, config.sample_rate), config)
        np.savez_compressed(FOLDER / f"mel_{name}.npz", mel=mel.astype(np.float32))
        print(f"mel_{name}.npz: {mel.shape}, {mel.min():.3f} to {mel.max():.3f}")


if __name__ == "__main__":
    main()
