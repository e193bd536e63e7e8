"""Log-mel spectrograms in plain numpy, and the check of a mel that a caller hands in.

Everything is computed in float64 and in windows of frames, so the memory needed does not grow
with the length of the audio. The definitions are those of librosa 0.11 and torchaudio 2.11, which
serve as oracles for the stored golden vectors and are never imported here.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .config import MelConfig, ModelConfig
from .config_checks import choice_problems
from .errors import InputError

FRAMES_PER_WINDOW = 256  # frames transformed at once; bounds the memory of an hour of audio
_LINEAR_HZ_PER_MEL = 200.0 / 3.0  # slaney scale below 1 kHz
_LOG_START_HZ = 1000.0
_LOG_STEP = math.log(6.4) / 27.0  # slaney scale above 1 kHz: 27 mels from 1 kHz to 6.4 kHz
_EDGE = 0.02  # share of the value range that a mel may exceed, for rounding and resampling


class MelRangeWarning(UserWarning):
    """The values of a mel do not look like the convention that the model was trained on."""


def n_frames(n_samples: int, config: MelConfig) -> int:
    """Number of mel frames made from `n_samples` samples.

    Centred framing gives ``1 + n // hop_length`` (of the padded signal); otherwise only frames
    that lie wholly inside the signal count. No samples give no frames.

    Parameters
    ----------
    n_samples : int
        Length of the waveform in samples.
    config : MelConfig
        The convention (`center`, `n_fft`, `hop_length`).

    Returns
    -------
    int
        Frames, 0 or more.
    """
    if n_samples <= 0:
        return 0
    padded = n_samples + (2 * (config.n_fft // 2) if config.center else 0)
    return max(0, 1 + (padded - config.n_fft) // config.hop_length)


def hz_to_mel(hz: ArrayLike, scale: str = "slaney") -> NDArray[np.float64]:
    """Convert frequencies in Hz to mels on the "slaney" or the "htk" scale (float64)."""
    hz = np.asarray(hz, dtype=np.float64)
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hz / 700.0))
    log_part = np.log(np.maximum(hz, _LOG_START_HZ) / _LOG_START_HZ) / _LOG_STEP
    start = _LOG_START_HZ / _LINEAR_HZ_PER_MEL
    return np.where(hz < _LOG_START_HZ, hz / _LINEAR_HZ_PER_MEL, start + log_part)


def mel_to_hz(mel: ArrayLike, scale: str = "slaney") -> NDArray[np.float64]:
    """Convert mels on the "slaney" or the "htk" scale to frequencies in Hz (float64)."""
    mel = np.asarray(mel, dtype=np.float64)
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    start = _LOG_START_HZ / _LINEAR_HZ_PER_MEL
    log_part = _LOG_START_HZ * np.exp(_LOG_STEP * np.maximum(mel - start, 0.0))
    return np.where(mel < start, mel * _LINEAR_HZ_PER_MEL, log_part)


@lru_cache(maxsize=16)
def mel_filterbank(config: MelConfig) -> NDArray[np.float64]:
    """Triangular mel filters over the bins of a real FFT.

    Parameters
    ----------
    config : MelConfig
        Uses sample_rate, n_fft, n_mels, f_min, f_max, mel_scale, mel_norm.

    Returns
    -------
    float64 array [n_mels, n_fft // 2 + 1], read-only
        With mel_norm "slaney" each triangle has unit area in Hz, with "sum" its weights add up to
        1, else it has unit height.

    Raises
    ------
    InputError
        If the convention contradicts itself.
    """
    _check_config(config)
    low, high = hz_to_mel([config.f_min, config.f_max], config.mel_scale).tolist()
    edges = np.linspace(low, high, config.n_mels + 2)
    hz = mel_to_hz(edges, config.mel_scale)  # [n_mels + 2] corner frequencies
    bins = np.arange(config.n_fft // 2 + 1) * (config.sample_rate / config.n_fft)  # Hz
    rising = (bins[None, :] - hz[:-2, None]) / (hz[1:-1] - hz[:-2])[:, None]
    falling = (hz[2:, None] - bins[None, :]) / (hz[2:] - hz[1:-1])[:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if config.mel_norm == "slaney":
        filters *= (2.0 / (hz[2:] - hz[:-2]))[:, None]
    elif config.mel_norm == "sum":
        total = filters.sum(axis=1, keepdims=True)
        filters /= np.where(total > 0.0, total, 1.0)  # a filter between two bins stays empty
    filters.flags.writeable = False
    return filters


def _check_config(config: MelConfig) -> None:
    """Refuse a convention that no filterbank or window can be made from."""
    problems = choice_problems(config)
    for name in ("sample_rate", "n_fft", "hop_length", "win_length", "n_mels"):
        if getattr(config, name) <= 0:
            problems.append(f"{name} is {getattr(config, name)}, must be positive")
    if config.win_length > config.n_fft:
        problems.append(f"win_length {config.win_length} is longer than n_fft {config.n_fft}")
    if not 0.0 <= config.f_min < config.f_max <= config.sample_rate / 2 + 1e-6:
        problems.append(
            f"f_min {config.f_min} Hz and f_max {config.f_max} Hz do not lie in order within"
            f" 0 to {config.sample_rate / 2} Hz (half the sample rate)"
        )
    if config.floor <= 0.0:
        problems.append(f"floor is {config.floor}, must be positive for a logarithm")
    if problems:
        raise InputError(f"Mel convention {config.preset!r} is unusable: {'; '.join(problems)}.")


@lru_cache(maxsize=16)
def analysis_window(config: MelConfig) -> NDArray[np.float64]:
    """Periodic Hann window of win_length samples, centred in n_fft zeros: float64 [n_fft]."""
    phase = 2.0 * np.pi * np.arange(config.win_length) / config.win_length
    window = np.zeros(config.n_fft)
    left = (config.n_fft - config.win_length) // 2
    window[left : left + config.win_length] = 0.5 - 0.5 * np.cos(phase)
    return window


def _samples(wave: NDArray[Any], first: int, count: int, config: MelConfig) -> NDArray[np.float64]:
    """Samples [first, first + count) of the pre-emphasised, padded wave; first may be negative.

    Reflection is an index, not a copy of the signal, and repeats where the signal is short.
    """
    index = np.arange(first, first + count)
    inside = (index >= 0) & (index < wave.size)
    if config.pad_mode == "reflect":
        period = max(1, 2 * (wave.size - 1))
        index = index % period
        index = np.minimum(index, period - index) if wave.size > 1 else index * 0
    else:
        index = np.where(inside, index, 0)
    samples = wave[index].astype(np.float64)
    if config.preemphasis:
        previous = wave[np.maximum(index - 1, 0)].astype(np.float64)
        samples -= config.preemphasis * np.where(index > 0, previous, 0.0)
    if config.pad_mode == "constant":
        samples[~inside] = 0.0
    return samples


def _log_compress(mel: NDArray[np.float64], config: MelConfig) -> NDArray[np.float64]:
    """Apply floor, logarithm, reference, scale, offset and clip of MelConfig."""
    mel = np.maximum(mel, config.floor)
    if config.log == "ln":
        value = np.log(mel)
    else:
        value = np.log10(mel) * (20.0 if config.log == "db" else 1.0)
    value = config.scale * (value - config.ref_db) + config.offset
    return value if config.clip is None else np.clip(value, *config.clip)


def log_mel(wave: ArrayLike, config: MelConfig) -> NDArray[np.float32]:
    """Log-mel spectrogram of a waveform.

    Parameters
    ----------
    wave : float array [n_samples]
        Waveform in [-1, 1] at ``config.sample_rate``.
    config : MelConfig
        The convention; see `wavernn_fast.config.MelConfig` for the formula of a value.

    Returns
    -------
    float32 array [n_mels, n_frames], C-contiguous
        ``n_frames(n_samples, config)`` columns; none for an empty wave.

    Raises
    ------
    InputError
        If the wave is not a vector of finite floats, or the convention contradicts itself.
    """
    wave = check_wave(wave)
    if not isinstance(config, MelConfig):  # such as `config.mel` of a model that tells none
        raise InputError(
            f"The mel convention is {config!r}, expected a MelConfig; where a model's file does "
            "not tell one, load it with preset=..., or take presets.get_preset(name).mel."
        )
    filters, window = mel_filterbank(config).T, analysis_window(config)
    total = n_frames(wave.size, config)
    out = np.empty((config.n_mels, total), dtype=np.float32)
    pad = config.n_fft // 2 if config.center else 0
    for start in range(0, total, FRAMES_PER_WINDOW):
        count = min(FRAMES_PER_WINDOW, total - start)
        length = (count - 1) * config.hop_length + config.n_fft
        segment = _samples(wave, start * config.hop_length - pad, length, config)
        frames = np.lib.stride_tricks.sliding_window_view(segment, config.n_fft)
        spectrum = np.fft.rfft(frames[:: config.hop_length] * window, axis=1)
        magnitude = np.abs(spectrum) ** config.power
        out[:, start : start + count] = _log_compress(magnitude @ filters, config).T
    return out


def check_wave(wave: ArrayLike) -> NDArray[np.floating[Any]]:
    """Return `wave` as a float vector [n_samples], or say what is wrong with it.

    Raises
    ------
    InputError
        If it is not one-dimensional, not of a float dtype, or holds a NaN or an infinity.
    """
    array = np.asarray(wave)
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 1:
        raise InputError(
            f"The waveform has shape {array.shape}, expected one dimension [n_samples]; pass one"
            " channel, such as the mean of all."
        )
    if array.dtype.kind != "f":
        raise InputError(
            f"The waveform has dtype {array.dtype}, expected floats in [-1, 1]; divide 16-bit"
            " integers by 32768."
        )
    bad = ~np.isfinite(array)
    if bad.any():
        raise InputError(
            f"The waveform holds {int(bad.sum())} values that are NaN or infinite, the first at"
            f" sample {int(bad.argmax())}; repair or cut them."
        )
    return array


def expected_range(config: MelConfig) -> tuple[float, float]:
    """Lowest and highest value that a mel of this convention can take for audio in [-1, 1].

    The clip limits where there are any, else the logarithms of the floor and of the largest
    output of any filter (a magnitude is at most half of win_length, the sum of the window).
    """
    if config.clip is not None:
        return config.clip
    gain = float(mel_filterbank(config).sum(axis=1).max())
    top = (config.win_length / 2 * (1.0 + abs(config.preemphasis))) ** config.power * gain
    low, high = _log_compress(np.array([config.floor, max(top, config.floor)]), config)
    return float(low), float(high)


def check_mel(mel: Any, config: ModelConfig, *, check_range: bool = True, xp: Any = np) -> Any:
    """Return `mel` as the float32 array that the engine wants, or say what is wrong with it.

    Parameters
    ----------
    mel : float array [n_mels, n_frames] or [1, n_mels, n_frames]
        Log-mel frames; no frames are allowed and mean empty audio.
    config : ModelConfig
        The model that is to speak it (`n_mels`, `mel`).
    check_range : bool
        Warn when the values do not look like the model's convention.
    xp : module
        Array module of `mel` in the style of the array API standard; numpy reads lists too.

    Returns
    -------
    float32 array [n_mels, n_frames] of `xp`
        C-contiguous in numpy. From a GPU only single numbers come to the host.

    Raises
    ------
    InputError
        For a wrong shape, dtype or number of bins, a transposed mel, a NaN or an infinity.

    Warns
    -----
    MelRangeWarning
        If the values do not look like the convention of the model.
    """
    array = _mel_matrix(mel, config.n_mels, xp)
    with np.errstate(over="ignore"):  # too large for float32 becomes inf and is reported below
        result = xp.asarray(array, dtype=xp.float32)
    if xp is np:
        result = np.ascontiguousarray(result)
    bad = ~xp.isfinite(result)
    if bad.any():
        row, column = (int(i) for i in xp.argwhere(bad)[0])
        raise InputError(
            f"The mel holds {int(bad.sum())} values that are NaN or infinite, the first at bin"
            f" {row}, frame {column}; look at the program that made it."
        )
    if check_range and config.mel is not None:
        message = range_problem(result, config.mel, xp)
        if message:
            warnings.warn(message, MelRangeWarning, stacklevel=2)
    return result


def _mel_matrix(mel: Any, n_mels: int, xp: Any) -> Any:
    """Check dtype and shape of a mel; returns [n_mels, n_frames] in the dtype given."""
    if n_mels == 0:
        raise InputError("This model takes no mel; pass n_samples instead.")
    try:
        array = xp.asarray(mel)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"The mel cannot be read as an array ({error}).") from error
    dtype = array.dtype  # torch's have no kind
    if not (dtype.kind == "f" if hasattr(dtype, "kind") else dtype.is_floating_point):
        raise InputError(
            f"The mel has dtype {dtype}, expected float32 (log-mel values are real and not"
            " whole numbers); convert it with mel.astype('float32') if that is what it holds."
        )
    shape = tuple(array.shape)
    if array.ndim == 3 and shape[0] == 1:
        array = array[0]
    elif array.ndim == 3:
        raise InputError(
            f"The mel has shape {shape}, a batch of {shape[0]}; pass one [n_mels, n_frames] array,"
            " or a list of them to generate_batch."
        )
    if array.ndim != 2:
        raise InputError(f"The mel has shape {shape}, expected [{n_mels} bins, n_frames].")
    if array.shape[0] == n_mels:
        return array
    if array.shape[1] == n_mels:
        raise InputError(
            f"The mel has shape {shape} and looks transposed: expected [{n_mels} bins, n_frames]."
            " Pass mel.T."
        )
    raise InputError(
        f"The mel has shape {shape}, but the model takes {n_mels} bins: [{n_mels}, n_frames]."
        " Make it with the mel settings of the model."
    )


def range_problem(mel: Any, config: MelConfig, xp: Any) -> str | None:
    """One sentence when the values do not fit the convention, naming likely presets."""
    # here, because the list of presets is needed by this check alone
    from . import mel_origin, presets

    values = mel_origin.mel_statistics(mel, xp)
    if values is None:
        return None
    if config.preset in presets.PRESETS:
        return mel_origin.mismatch_warning(values, config.preset)
    low, high = expected_range(config)
    slack = _EDGE * (high - low)
    lowest, highest = values.low, values.high
    if low - slack <= lowest and highest <= high + slack:
        return None
    hint = ""
    if mel_origin.closest_presets(values):
        hint = f"; {mel_origin.likely_origin(values, config)}"
    return (
        f"The mel runs from {lowest:.3g} to {highest:.3g}, but the convention of this model"
        f" ({config.preset!r}) has values from {low:.3g} to {high:.3g}{hint}. The audio is likely"
        " to be noise; make the mel with the settings of the model."
    )
