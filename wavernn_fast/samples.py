"""From drawn classes to waveform and back: labels, mu-law, coarse and fine, sub-bands, ends.

All arithmetic is float64; only the finished waveform is float32. Formulas are those of the public
models: x = 2 k / (C - 1) - 1 for label k of C, and the mu-law companding of ITU-T G.711 in its
continuous form with mu = C - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import pqmf
from .config import ModelConfig
from .errors import InputError
from .features import check_wave

Samples = NDArray[np.int32] | NDArray[np.float32]  # what the engine draws; see decode_samples


def label_to_value(labels: ArrayLike, n_classes: int) -> NDArray[np.float64]:
    """Value 2 k / (C - 1) - 1 in [-1, 1] of label k in 0 .. C - 1."""
    return 2.0 * np.asarray(labels, dtype=np.float64) / (n_classes - 1.0) - 1.0


def label_to_value_float32(labels: ArrayLike, n_classes: int) -> NDArray[np.float32]:
    """Value 2 k / (C - 1) - 1 of label k, each operation rounded to float32 as in PyTorch."""
    one, two, top = np.float32(1), np.float32(2), np.float32(n_classes - 1)
    return np.asarray(two * np.asarray(labels).astype(np.float32) / top - one)


def value_to_label(values: ArrayLike, n_classes: int) -> NDArray[np.int32]:
    """Nearest label of each value; values outside [-1, 1] are clipped first."""
    clipped = np.clip(np.asarray(values, dtype=np.float64), -1.0, 1.0)
    return np.floor((clipped + 1.0) / 2.0 * (n_classes - 1) + 0.5).astype(np.int32)


def mu_law_compress(wave: ArrayLike, n_classes: int) -> NDArray[np.float64]:
    """Companded value sign(x) ln(1 + mu |x|) / ln(1 + mu) in [-1, 1], mu = C - 1."""
    x = np.clip(np.asarray(wave, dtype=np.float64), -1.0, 1.0)
    mu = n_classes - 1.0
    return np.asarray(np.sign(x) * np.log1p(mu * np.abs(x)) / np.log1p(mu))


def mu_law_expand(values: ArrayLike, n_classes: int) -> NDArray[np.float64]:
    """Inverse of `mu_law_compress`: sign(x) / mu * ((1 + mu)^|x| - 1), mu = C - 1."""
    x = np.asarray(values, dtype=np.float64)
    mu = n_classes - 1.0
    return np.asarray(np.sign(x) / mu * ((1.0 + mu) ** np.abs(x) - 1.0))


def mu_law_encode(wave: ArrayLike, n_classes: int) -> NDArray[np.int32]:
    """Mu-law label in 0 .. C - 1 of each sample in [-1, 1] (clipped), rounded to the nearest."""
    return value_to_label(mu_law_compress(wave, n_classes), n_classes)


def mu_law_decode(labels: ArrayLike, n_classes: int) -> NDArray[np.float64]:
    """Waveform in [-1, 1] of mu-law labels in 0 .. C - 1."""
    return mu_law_expand(label_to_value(labels, n_classes), n_classes)


def truncate_labels(labels: ArrayLike, n_classes: int) -> NDArray[np.int32]:
    """Labels as the torchaudio bundle emits them: to float32 values and back by truncation.

    Rounding to float32 puts some values just below their label, and truncation then lowers those
    by one (63 of 256). Only what is heard changes; the value fed back is that of the label drawn.
    """
    one, two, top = np.float32(1), np.float32(2), np.float32(n_classes - 1)
    value = label_to_value_float32(labels, n_classes)
    scaled = (np.clip(value, -one, one) + one) * top / two
    return np.asarray(np.clip(scaled, np.float32(0), top), dtype=np.int32)


def split_sample(samples: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Coarse (high) and fine (low) byte, each 0 .. 255, of samples 0 .. 65535."""
    k = np.asarray(samples, dtype=np.int32)
    return k >> 8, k & 255


def join_sample(coarse: ArrayLike, fine: ArrayLike) -> NDArray[np.int32]:
    """Sample 256 coarse + fine in 0 .. 65535 of coarse and fine bytes 0 .. 255."""
    return np.asarray(coarse, dtype=np.int32) * 256 + np.asarray(fine, dtype=np.int32)


class LabelRule(NamedTuple):
    """What a label means beside the formula 2 k / (C - 1) - 1: both of arrays, and of C classes."""

    value: Callable[[NDArray[np.float64], int], NDArray[np.float64]]  # of labels, companded
    label: Callable[[NDArray[np.float64], int], NDArray[np.float64]]  # of companded values


LABEL_RULES: dict[str, LabelRule] = {
    # librosa.mu_expand of k - C / 2, and the edges of librosa.mu_compress, C from -1 to 1
    "univoc": LabelRule(
        lambda k, n: (k - n / 2) * 2.0 / n, lambda x, n: np.ceil((x + 1.0) / 2.0 * (n - 1))
    ),
    # the middle between two of C - 1 edges, rounded down to; 255 of 256 lies beyond 1
    "gibiansky": LabelRule(
        lambda k, n: (k + 0.5) / (n - 1.0) * 2.0 - 1.0,
        lambda x, n: np.floor((x + 1.0) / 2.0 * (n - 1)),
    ),
    # decoded as usual, but encoded by C equal steps
    "yukarin": LabelRule(
        lambda k, n: 2.0 * k / (n - 1.0) - 1.0, lambda x, n: np.floor((x + 1.0) * (n / 2))
    ),
}


@lru_cache(maxsize=16)
def _label_table(n_classes: int, decode: str, expand: bool) -> NDArray[np.float64]:
    """Value of every label: float64 [n_classes]. A table gives the same bits in any chunking."""
    labels = np.arange(n_classes, dtype=np.int32)
    if decode == "torchaudio":
        labels = truncate_labels(labels, n_classes)
    if decode in LABEL_RULES:
        values = LABEL_RULES[decode].value(labels.astype(np.float64), n_classes)
    elif decode == "float32":
        values = label_to_value_float32(labels, n_classes).astype(np.float64)
    else:
        values = label_to_value(labels, n_classes)
    if expand:
        values = mu_law_expand(values, n_classes)
    values.flags.writeable = False
    return values


def decode_samples(
    samples: Samples, config: ModelConfig, *, expand: bool = True
) -> NDArray[np.float64]:
    """Values of what the engine drew, before de-emphasis or the synthesis of sub-bands.

    Parameters
    ----------
    samples : array of any shape
        dual: int32 256 coarse + fine (0 .. 65535); softmax: int32 labels (0 .. n_classes - 1);
        mol, gaussian, beta: float32 in [-1, 1].
    config : ModelConfig
        Head, classes and output rule.
    expand : bool
        Undo mu-law companding where the model has it; False leaves companded values, as needed
        for crossfading in the companded domain.

    Returns
    -------
    float64 array of the same shape, in [-1, 1] (rule "gibiansky": to 1.02)
    """
    output = config.output
    if config.draws_values:
        return np.asarray(samples, dtype=np.float64)
    if config.head == "softmax":
        table = _label_table(config.n_classes, output.label_decode, output.mu_law and expand)
        return table[np.asarray(samples)]
    k = np.asarray(samples, dtype=np.float64)
    return (k - 32768.0) / 32768.0 if output.dual_scale == "int16" else k / 32767.5 - 1.0


def encode_targets(wave: ArrayLike, config: ModelConfig) -> Samples:
    """What the engine should have drawn to make `wave`: the targets of teacher forcing.

    Inverse of decoding: pre-emphasis where the model de-emphasises, clipping to [-1, 1], then the
    nearest class (the value itself where no classes are drawn). Labels are exact even where the
    decode of the model truncates, because exact labels are what such models were trained on. For
    a model of several bands, the wave is cut into its sub-bands first.

    Parameters
    ----------
    wave : float array [n_samples]
        Waveform in [-1, 1] at the sample rate of the model.
    config : ModelConfig
        Head, classes and output rule.

    Returns
    -------
    int32 or float32 array [n_samples]
        In the form that `decode_samples` takes. Of several bands: interleaved, of whole steps.

    Raises
    ------
    InputError
        If the wave is not a vector of finite floats.
    """
    x = check_wave(wave).astype(np.float64)
    if config.output.deemphasis:
        x[1:] = x[1:] - config.output.deemphasis * x[:-1]
    if config.bands > 1:
        x = pqmf.analyse(x, config.bands)
    x = np.clip(x, -1.0, 1.0)
    if config.draws_values:
        return x.astype(np.float32)
    if config.head == "softmax":
        return _encode_labels(x, config)
    if config.output.dual_scale == "int16":
        k = np.rint(x * 32768.0) + 32768.0
    else:
        k = np.rint((x + 1.0) * 32767.5)
    return np.clip(k, 0, 65535).astype(np.int32)


def _encode_labels(x: NDArray[np.float64], config: ModelConfig) -> NDArray[np.int32]:
    """Labels of a waveform in [-1, 1], as the training program of the model made them."""
    n = config.n_classes
    if config.output.mu_law:
        x = mu_law_compress(x, n)
    rule = LABEL_RULES.get(config.output.label_decode)
    if rule is None:
        return value_to_label(x, n)
    return np.clip(rule.label(x, n), 0, n - 1).astype(np.int32)


def deemphasize(
    wave: NDArray[np.float64], coefficient: float, state: float = 0.0
) -> tuple[NDArray[np.float64], float]:
    """Filter y[t] = x[t] + coefficient * y[t-1]; returns (y float64 [n], last y).

    `state` is the y before the first sample, so that chunks joined equal the whole bit for bit.
    """
    try:
        from . import _C
    except ImportError:  # not compiled: the same recursion, slower
        y = np.empty(wave.size)
        for t, x in enumerate(wave.tolist()):
            state = x + coefficient * state
            y[t] = state
        return y, state
    return _C.deemphasis(np.ascontiguousarray(wave, dtype=np.float64), coefficient, state)


def cut_samples(config: ModelConfig) -> int:
    """Samples dropped at the end by the length rule: one frame for "frames_minus_one"."""
    drop = config.output.length == "frames_minus_one" and config.n_mels > 0
    return config.hop_length if drop else 0


def fade_samples(config: ModelConfig) -> int:
    """Length of the fade-out ramp in samples."""
    return config.output.fade_out_frames * config.hop_length


@lru_cache(maxsize=4)
def _ramp(length: int) -> NDArray[np.float64]:
    ramp = np.linspace(1.0, 0.0, length)
    ramp.flags.writeable = False
    return ramp


def held_back_samples(config: ModelConfig) -> int:
    """Samples that wait for others before they can be heard, while the end is not known."""
    return cut_samples(config) + fade_samples(config) + pqmf.delay(config.bands)


def finish(wave: NDArray[np.float64], config: ModelConfig) -> NDArray[np.float32]:
    """Cut a whole decoded wave to the length rule, fade its end out (`shape_end`), and round."""
    return shape_end(wave, config).astype(np.float32)


def shape_end(wave: NDArray[np.float64], config: ModelConfig) -> NDArray[np.float64]:
    """Cut a whole decoded wave to the length rule, fade its end out and clip it to the limit.

    The ramp runs linearly from 1 to 0 over the last `fade_out_frames`; a wave shorter than the
    ramp is left as it is.

    Parameters
    ----------
    wave : float64 array [n_output_frames * hop_length]
        Decoded and de-emphasised.
    config : ModelConfig
        Output rule.

    Returns
    -------
    float64 array [n_samples]
        A copy.
    """
    length, fade = max(0, wave.size - cut_samples(config)), fade_samples(config)
    wave = wave[:length].copy()
    if 0 < fade <= length:
        wave[length - fade :] *= _ramp(fade)
    return _limited(wave, config)


def _limited(wave: NDArray[np.float64], config: ModelConfig) -> NDArray[np.float64]:
    limit = config.output.limit
    return np.clip(wave, -limit, limit) if limit else wave


class OutputDecoder:
    """Turns drawn classes into waveform chunk by chunk; any cut gives the same bits.

    Parameters
    ----------
    config : ModelConfig
        Output rule.
    total : int, optional
        Samples that will be drawn in all (frames * hop_length), if known. Without it the end of
        the wave is held back (the cut and the fade-out ramp) until `finish` is called.

    Examples
    --------
    ``np.concatenate([*map(decoder.push, chunks), decoder.finish()])`` equals
    ``decode_all(np.concatenate(chunks), config)``.
    """

    def __init__(self, config: ModelConfig, total: int | None = None) -> None:
        self._config = config
        self._total = total
        self._state = 0.0  # last de-emphasised sample
        self._bands = pqmf.Synthesis(config.bands) if config.bands > 1 else None
        self._drawn = 0  # samples pushed so far
        self._made = 0  # samples of the waveform made of those
        self._sent = 0  # samples returned so far
        self._held: NDArray[np.float64] = np.empty(0)  # decoded, not yet returned

    @property
    def delay(self) -> int:
        """Samples held back until the end comes, those of the ends while the total is unknown."""
        return self._of_ends + pqmf.delay(self._config.bands)

    @property
    def _of_ends(self) -> int:
        known = self._total is not None
        return 0 if known else cut_samples(self._config) + fade_samples(self._config)

    def push(self, samples: Samples) -> NDArray[np.float32]:
        """Decode the next drawn classes; returns float32 [n], possibly none while holding back.

        Of several bands whole steps must come; what the synthesis holds back comes with the last.

        Raises
        ------
        InputError
            If more samples come than the total announced.
        """
        wave, config = decode_samples(samples, self._config), self._config
        if config.output.deemphasis:
            wave, self._state = deemphasize(wave, config.output.deemphasis, self._state)
        self._drawn += wave.size
        if self._total is not None and self._drawn > self._total:
            raise InputError(f"{self._drawn} samples came, but {self._total} were announced.")
        if self._bands is not None:
            wave = self._bands.push(wave)
        self._hold(wave)
        if self._drawn == self._total:
            self._end_bands()
        return self._release(self._made - self._of_ends)

    def finish(self) -> NDArray[np.float32]:
        """Return the samples held back; the utterance ends with what was pushed.

        Raises
        ------
        InputError
            If fewer samples came than the total announced.
        """
        if self._total is not None and self._drawn != self._total:
            raise InputError(f"{self._drawn} samples came, but {self._total} were announced.")
        self._end_bands()
        self._total = self._drawn
        return self._release(self._made)

    def _end_bands(self) -> None:
        """Make the last samples of several bands, once."""
        bands, self._bands = self._bands, None
        if bands is not None:
            self._hold(bands.finish())

    def _hold(self, wave: NDArray[np.float64]) -> None:
        """Add to what has been made and not been returned."""
        self._held = np.concatenate([self._held, wave]) if self._held.size else wave
        self._made += wave.size

    def _release(self, end: int) -> NDArray[np.float32]:
        """Return held samples up to position `end` of the wave, cut and faded."""
        config = self._config
        count = max(0, end - self._sent)
        wave, self._held = self._held[:count], self._held[count:]
        first, self._sent = self._sent, self._sent + count
        if self._total is None:
            return _limited(wave, config).astype(np.float32)
        length, fade = max(0, self._total - cut_samples(config)), fade_samples(config)
        wave = wave[: max(0, length - first)].copy()
        start = max(first, length - fade)
        if 0 < fade <= length and start < first + wave.size:
            ramp = _ramp(fade)[start - (length - fade) : first + wave.size - (length - fade)]
            wave[start - first :] *= ramp
        return _limited(wave, config).astype(np.float32)


def decode_all(samples: Samples, config: ModelConfig) -> NDArray[np.float32]:
    """Waveform of one unfolded utterance: values, de-emphasis or synthesis, ends, float32."""
    wave = decode_samples(samples, config)
    if config.bands > 1:
        wave = pqmf.synthesise(wave, config.bands)
    if config.output.deemphasis:
        wave, _ = deemphasize(wave, config.output.deemphasis)
    return finish(wave, config)
