"""`torchaudio.models.WaveRNN.infer`, and the vocoder of torchaudio's Tacotron 2 bundles."""

from __future__ import annotations

import os
import sys
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import InputError
from ..samples import label_to_value_float32
from .player import Player

Decode = Literal["truncate", "exact"]


class WaveRNN(Player):
    """A model with torchaudio's `infer`.

    Softmax models of any size, and mixtures of logistics, which the original cannot sample
    (pytorch/audio issue 1721).
    """

    @property
    def n_bits(self) -> int:
        """Bits of a label: log2 of the number of classes, rounded down."""
        return self.n_classes.bit_length() - 1

    def infer(self, specgram: Any, lengths: Any = None) -> tuple[Any, Any]:
        """Turn a batch of spectrograms into waveforms, in one batch and without folds.

        Parameters
        ----------
        specgram : float array [n_batch, n_freq, n_time]
            Of torch or numpy, in the network's own convention (for the published weights in
            [0, 1]). All frames sound, whatever `lengths` says, as in the original.
        lengths : integer array [n_batch], optional
            Valid frames of each.

        Returns
        -------
        waveform : float32 array [n_batch, 1, n_time * hop_length]
            Of the kind of `specgram`: 2 k / (C - 1) - 1 for label k, so still companded; of a
            mixture of logistics the samples themselves.
        lengths : array [n_batch] or None
            ``lengths * hop_length``.

        Raises
        ------
        InputError
            If a spectrogram is unusable or there are not as many lengths.
        """
        mels, restore = arrays.to_array(specgram, "specgram")
        if mels.ndim != 3:
            raise InputError(
                f"The specgram has shape {list(mels.shape)}, expected [n_batch, "
                f"{self.config.n_mels}, n_time]; for one spectrogram give specgram[None]."
            )
        lengths = _lengths(lengths, len(mels))
        wave = np.zeros((len(mels), 1, mels.shape[2] * self.hop_length), dtype=np.float32)
        for row, drawing in zip(wave, self.draw(list(mels)), strict=True):
            row[0] = self._values(drawing.folds[0])
        return restore(wave), None if lengths is None else lengths * self.hop_length

    def _values(self, drawn: NDArray[Any]) -> NDArray[np.float32]:
        if self.config.head == "softmax":
            return label_to_value_float32(drawn, self.n_classes)
        return drawn.astype(np.float32)


def _lengths(lengths: Any, n_batch: int) -> Any:
    """Check lengths; lists become arrays, as they are to be multiplied."""
    if lengths is None:
        return None
    found, _ = arrays.to_array(lengths, "lengths")
    if found.shape != (n_batch,) or found.dtype.kind not in "iu":
        raise InputError(
            f"lengths has shape {list(found.shape)} and dtype {found.dtype}, expected integers "
            f"[{n_batch}], one for each spectrogram."
        )
    return found if isinstance(lengths, (list, tuple)) else lengths


class Vocoder:
    """The vocoder of TACOTRON2_WAVERNN_{CHAR,PHONE}_LJSPEECH: natural-log mel in, waveform out.

    Parameters
    ----------
    model : WaveRNN
        See also `from_checkpoint`.
    min_level_db : float or None
        Lowest level, mapped to 0 (and 0 dB to 1); None: decibels as they are.
    decode : {"truncate", "exact"}
        "truncate" goes from values to labels as the bundle does, which lowers 63 of the 256
        labels by one: rounding to float32 puts their values just below, and the rest is cut off.
        It is heard, not fed back. "exact" emits the labels that were drawn.

    Raises
    ------
    InputError
        If `decode` is neither.
    """

    sample_rate = 22050  # Hz, as the bundle says

    def __init__(
        self, model: WaveRNN, min_level_db: float | None = -100.0, *, decode: Decode = "truncate"
    ) -> None:
        if decode not in get_args(Decode):
            raise InputError(f"decode is {decode!r}; expected {' or '.join(get_args(Decode))}.")
        self.model, self.min_level_db, self.decode = model, min_level_db, decode

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        *,
        min_level_db: float | None = -100.0,
        decode: Decode = "truncate",
        **options: Any,
    ) -> Vocoder:
        """Load a checkpoint; `options` are those of `WaveRNN.from_checkpoint`."""
        return cls(WaveRNN.from_checkpoint(path, **options), min_level_db, decode=decode)

    def __call__(self, mel_spec: Any, lengths: Any = None) -> tuple[Any, Any]:
        """The same as `forward`."""
        return self.forward(mel_spec, lengths)

    def forward(self, mel_spec: Any, lengths: Any = None) -> tuple[Any, Any]:
        """Turn the mels of Tacotron 2 into waveforms.

        Arithmetic is float32 in the library of the array, so that PyTorch tensors give the bits
        of the bundle for the same labels.

        Parameters
        ----------
        mel_spec : float array [n_batch, n_freq, n_time]
            Natural logarithm of magnitudes.
        lengths : integer array [n_batch], optional

        Returns
        -------
        waveform : float32 array [n_batch, n_time * hop_length]
            Decoded; of a mixture of logistics, which is not companded, as drawn.
        lengths : array [n_batch] or None
            ``lengths * hop_length``.
        """
        xp = _library(mel_spec)
        mel = mel_spec if xp is not np else np.asarray(mel_spec, dtype=np.float32)
        mel = 20 * xp.log10(xp.clip(xp.exp(mel), 1e-5, None))
        if self.min_level_db is not None:
            mel = xp.clip((self.min_level_db - mel) / self.min_level_db, 0, 1)
        wave, lengths = self.model.infer(mel, lengths)
        wave = wave[:, 0]
        if self.model.config.head == "softmax":
            wave = self._expanded(wave, xp)
        return wave, lengths

    def _expanded(self, wave: Any, xp: Any) -> Any:
        """Companded values in [-1, 1], by way of labels, to the waveform; float32 throughout."""
        top = 2**self.model.n_bits - 1
        scaled = (xp.clip(wave, -1, 1) + 1.0) * top / 2
        scaled = xp.clip(scaled if self.decode == "truncate" else xp.round(scaled), 0, top)
        labels = xp.trunc(scaled)
        mu = xp.asarray(top, dtype=xp.float32)
        x = labels / mu * 2 - 1.0
        return xp.sign(x) * (xp.exp(xp.abs(x) * xp.log1p(mu)) - 1.0) / mu


def _library(array: Any) -> Any:
    """PyTorch for its tensors (it is loaded, as the caller made them), else numpy."""
    return sys.modules["torch"] if type(array).__module__.startswith("torch") else np
