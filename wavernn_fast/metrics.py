"""How close one recording is to another, in numpy: correlation, spectral and cepstral distances.

The two must be aligned: sample t of one belongs to sample t of the other, as in copy synthesis.
Nothing is warped or shifted; where the lengths differ, what both cover is compared.

The spectra of the two distances do not depend on a model's mel convention, so figures of different
models can be compared: STFT with a periodic Hann window of 1024 samples every 256, magnitudes
scaled so that a sine of amplitude 1 has 1 (0 dB), nothing below -100 dB.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .config import MelConfig
from .errors import InputError, MissingDependencyError
from .features import check_wave, mel_filterbank

N_FFT = 1024  # samples
HOP = 256  # samples
FLOOR = 1e-5  # smallest magnitude: -100 dB of a full-scale sine, below the noise of 16 bits
N_MELS = 80  # bands of the cepstrum, 0 Hz to half the sample rate
N_CEPSTRA = 13  # coefficients 1 .. 13; coefficient 0, the level, does not count

_FRAMES_AT_ONCE = 256  # bounds the memory of long recordings
_STOI_SECONDS = 0.4  # 30 frames every 12.8 ms: the segment that STOI correlates


def mel_correlation(before: NDArray[np.float32], after: NDArray[np.float32]) -> float | None:
    """Pearson correlation of two log-mels over all bins and the frames that both have.

    Returns
    -------
    float or None
        -1 to 1; None where a mel is constant or empty and so has no correlation.
    """
    frames = min(before.shape[1], after.shape[1])
    a, b = (m[:, :frames].astype(np.float64).ravel() for m in (before, after))
    if frames == 0 or a.std() == 0.0 or b.std() == 0.0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def log_spectral_distance(reference: ArrayLike, other: ArrayLike) -> float:
    """Log-spectral distance of two aligned waveforms, in dB.

    The mean over frames of ``sqrt(mean over bins of (20 log10(X / Y))^2)``, where X and Y are the
    magnitudes of the two, at least `FLOOR`, in the STFT described above. After Gray and Markel,
    "Distance measures for speech processing", IEEE Trans. ASSP 24(5), 1976.

    Parameters
    ----------
    reference, other : float arrays [n_samples]
        Waveforms in [-1, 1] of one sample rate.

    Returns
    -------
    float
        dB, 0 for equal waveforms; a scaled copy has the ratio of the two in dB.

    Raises
    ------
    InputError
        If one of them is empty, or not a vector of finite floats.
    """
    total, frames = 0.0, 0
    for x, y in _spectra(reference, other):
        difference = 20.0 * np.log10(np.maximum(x, FLOOR) / np.maximum(y, FLOOR))
        total += float(np.sqrt(np.mean(difference**2, axis=1)).sum())
        frames += len(x)
    return total / frames


def mel_cepstral_distortion(reference: ArrayLike, other: ArrayLike, sample_rate: int) -> float:
    """Mel-cepstral distortion of two aligned waveforms, in dB.

    The mean over frames of ``10 / ln 10 * sqrt(2 * sum over k = 1 .. 13 of (c_k - c'_k)^2)``,
    after Kubichek, "Mel-cepstral distance measure for objective speech quality assessment",
    IEEE Pacific Rim Conference, 1993, without time warping. The cepstrum is

        c_k = 1 / M * sum over m = 0 .. M - 1 of ln(E_m) cos(pi k (m + 1/2) / M)

    a DCT-II of the natural logarithm of M = 80 mel energies (slaney scale, triangles of height 1
    on the squared magnitudes of the STFT described above, at least `FLOOR`^2). So scaled, the
    distortion is the root-mean-square difference in dB of the two smoothed mel spectra, level
    apart. Other programs scale the cepstrum or warp in time: compare figures of one program only.

    Parameters
    ----------
    reference, other : float arrays [n_samples]
        Waveforms in [-1, 1].
    sample_rate : int
        Of both, in Hz.

    Returns
    -------
    float
        dB, 0 for equal waveforms and for a scaled copy.

    Raises
    ------
    InputError
        As `log_spectral_distance`.
    """
    filters = mel_filterbank(_mel_bands(sample_rate)).T  # [n_fft // 2 + 1, n_mels]
    basis = _cosines()  # [n_mels, n_cepstra]
    total, frames = 0.0, 0
    for x, y in _spectra(reference, other):
        ours, theirs = (np.log(np.maximum(s**2 @ filters, FLOOR**2)) for s in (x, y))
        distance = np.sqrt(2.0 * np.sum(((ours - theirs) @ basis) ** 2, axis=1))
        total += float(distance.sum())
        frames += len(x)
    return 10.0 / float(np.log(10.0)) * total / frames


def spectrogram(wave: ArrayLike, hop: int = HOP) -> NDArray[np.float32]:
    """Magnitudes of the STFT described above in dB, for pictures.

    Parameters
    ----------
    wave : float array [n_samples]
    hop : int
        Samples from frame to frame.

    Returns
    -------
    float32 array [n_fft // 2 + 1, n_frames]
        dB of a full-scale sine, -100 or more; frame n begins at sample ``n * hop``.

    Raises
    ------
    InputError
        If the wave is empty, or not a vector of finite floats.
    """
    x, _ = _aligned(wave, wave)
    parts = [20.0 * np.log10(np.maximum(m, FLOOR)) for m in _magnitudes(x, hop)]
    return np.ascontiguousarray(np.concatenate(parts).T, dtype=np.float32)


def stoi(reference: ArrayLike, other: ArrayLike, sample_rate: int) -> float | None:
    """Short-time objective intelligibility (Taal et al., IEEE Trans. ASLP 19(7), 2011).

    Computed by the package pystoi, which resamples to 10 kHz and leaves silent frames out.

    Parameters
    ----------
    reference, other : float arrays [n_samples]
        Aligned waveforms; the first is the clean one.
    sample_rate : int
        Of both, in Hz.

    Returns
    -------
    float or None
        About 0 to 1, more is better; None where there is too little speech to tell (under about
        0.4 s that is not silent).

    Raises
    ------
    InputError
        As `log_spectral_distance`.
    MissingDependencyError
        If pystoi is not installed.
    """
    measure = require_stoi()
    x, y = _aligned(reference, other)
    if not x.any() or len(x) < _STOI_SECONDS * sample_rate:
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = float(measure(x, y, sample_rate))
    # pystoi returns 1e-5 and warns so when fewer than 30 frames are left
    short = any("Not enough STFT frames" in str(warning.message) for warning in caught)
    return None if short or not np.isfinite(value) else value


def require_stoi() -> Callable[..., Any]:
    """Return pystoi's function.

    Raises
    ------
    MissingDependencyError
        If pystoi is not installed.
    """
    try:
        from pystoi import stoi as measure
    except ImportError as error:
        raise MissingDependencyError(
            'STOI needs pystoi: pip install "wavernn-fast[eval]".'
        ) from error
    found: Callable[..., Any] = measure
    return found


# --- helpers ---


def _aligned(reference: ArrayLike, other: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as float64 [n], cut to the shorter."""
    x, y = check_wave(reference), check_wave(other)
    count = min(x.size, y.size)
    if count == 0:
        raise InputError("There is nothing to compare: a waveform is empty.")
    return x[:count].astype(np.float64), y[:count].astype(np.float64)


def _spectra(
    reference: ArrayLike, other: ArrayLike
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Magnitudes [n, n_fft // 2 + 1] of both, some frames at a time."""
    x, y = _aligned(reference, other)
    yield from zip(_magnitudes(x, HOP), _magnitudes(y, HOP), strict=True)


def _magnitudes(wave: NDArray[np.float64], hop: int) -> Iterator[NDArray[np.float64]]:
    """STFT magnitudes [n, n_fft // 2 + 1], some frames at a time.

    Frames lie wholly inside; a signal shorter than one is filled up with zeros.
    """
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(N_FFT) / N_FFT)
    window *= 2.0 / window.sum()  # a sine of amplitude 1 has magnitude 1
    filled = np.pad(wave, (0, max(0, N_FFT - wave.size)))
    frames = np.lib.stride_tricks.sliding_window_view(filled, N_FFT)[::hop]
    for first in range(0, len(frames), _FRAMES_AT_ONCE):
        part = frames[first : first + _FRAMES_AT_ONCE] * window
        yield np.abs(np.fft.rfft(part, axis=1))


def _mel_bands(sample_rate: int) -> MelConfig:
    return MelConfig(
        preset="metrics",
        sample_rate=sample_rate,
        n_fft=N_FFT,
        hop_length=HOP,
        win_length=N_FFT,
        n_mels=N_MELS,
        f_min=0.0,
        f_max=sample_rate / 2,
        power=2.0,
        mel_norm="none",
    )


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    """DCT-II divided by the number of bands: float64 [n_mels, n_cepstra], k = 1 .. 13."""
    bands, orders = np.arange(N_MELS)[:, None] + 0.5, np.arange(1, N_CEPSTRA + 1)[None, :]
    return np.asarray(np.cos(np.pi * orders * bands / N_MELS) / N_MELS)
