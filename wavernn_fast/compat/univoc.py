"""`Vocoder` of bshall/UniversalVocoding 0.2 (univoc/model.py) and 0.1, as far as it makes sound."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from .. import vocoder as engine
from ..config import OutputConfig
from ..errors import InputError
from ..fold import Folding, unfold
from ..samples import decode_samples
from .player import Player

_Same = TypeVar("_Same", bound="_Embedded")


# What follows the draws of 0.1: float32 values, folds joined by a crossfade with a hole, mu-law.
_FIRST = OutputConfig(
    mu_law=True,
    label_decode="float32",
    decode_before_crossfade=False,
    crossfade="legacy",
    fold_target=8000,
    fold_overlap=400,
)


class _Embedded(Player):
    """What both versions have in common."""

    core = "embedded"

    def cuda(self: _Same, *args: Any) -> _Same:
        """Do nothing; return the object: the device is chosen when the model is loaded."""
        return self

    def cpu(self: _Same) -> _Same:
        """Do nothing, likewise."""
        return self

    def _mel(self, mel: Any) -> Any:
        """Mel [n_mels, n_frames] of one [1, n_frames, n_mels].

        Raises
        ------
        InputError
            If it has another shape.
        """
        n_mels = self.config.n_mels
        array, _ = arrays.to_array(mel, "mel")
        if array.ndim != 3 or array.shape[0] != 1 or array.shape[2] != n_mels:
            raise InputError(
                f"The mel has shape {array.shape}, expected [1, n_frames, {n_mels}]: one "
                "utterance, time first."
            )
        return array[0].T


class Vocoder(_Embedded):
    """A model with the `generate` of univoc 0.2; arguments as of `Player`.

    Its `vocoder` is one with an embedded core; see also `from_pretrained`.
    """

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        cfg_path: object = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        preset: str | None = None,
        cpu_threads: int | None = None,
        seed: int | None = 0,
    ) -> Vocoder:
        """Load a checkpoint as `wavernn_fast.Vocoder.from_pretrained` does.

        Parameters
        ----------
        path : path
            The file. The original takes a URL and downloads; nothing is downloaded here.
        cfg_path : ignored
            Sizes are read off the weights, the rest is told by the preset.
        device, dtype, preset, cpu_threads
            As there.
        seed
            As for the class.

        Raises
        ------
        InputError
            For a URL, and as there.
        ModelError, MissingDependencyError, DeviceError
            As there.
        """
        if str(path).partition("://")[1]:
            raise InputError(
                f"{path} is a URL, and nothing is downloaded here: fetch the file, give its path."
            )
        loaded = engine.Vocoder.from_pretrained(path, device, dtype, preset, cpu_threads)
        return cls(loaded, seed=seed)

    @property
    def sr(self) -> int:
        """Samples a second, in Hz."""
        return self.vocoder.sample_rate

    def generate(self, mel: Any) -> tuple[NDArray[np.float64], int]:
        """Generate an audio waveform from a log-mel spectrogram.

        Parameters
        ----------
        mel : float array [1, n_frames, n_mels]
            Time first, as the original has it; numpy, PyTorch or another array.

        Returns
        -------
        wav : float64 array [n_frames * hop_length]
            In [-1, 1].
        sr : int
            Sample rate in Hz.

        Raises
        ------
        InputError
            If the mel is unusable, such as one with the bins first or a batch.
        EngineError
            If a logit became NaN or infinite.
        """
        [drawing] = self.draw([self._mel(mel)])
        return decode_samples(drawing.folds[0], self.config), self.sr


class FirstVocoder(_Embedded):
    """A model with the `generate` of univoc 0.1; arguments as of `Player`.

    Its `vocoder` is one with an embedded core; see also `from_checkpoint`.
    """

    def generate(
        self,
        mel: Any,
        batched: bool = False,
        target: int | None = None,
        overlap: int | None = None,
    ) -> NDArray[np.float64]:
        """Turn a mel into a waveform.

        Labels to values in float32, the crossfade of folds, which has a hole in its middle, then
        mu-law in float64. The original also returns what it draws beyond the last frame to fill
        the last fold; here the waveform ends with the mel.

        Parameters
        ----------
        mel : float array [1, n_frames, n_mels]
            Time first, as the original has it; numpy, PyTorch or another array.
        batched : bool
            Cut into folds that run as one batch.
        target, overlap : int, optional
            Samples of a fold and of its overlaps. Default: the original's 8000 and 400.

        Returns
        -------
        float64 array [n_frames * hop_length]
            In [-1, 1].

        Raises
        ------
        InputError
            If the mel or the fold sizes are unusable.
        EngineError
            If a logit became NaN or infinite.
        """
        config = dataclasses.replace(self.config, output=_FIRST)
        sizes: tuple[int, int] | None = None
        if batched:
            own = Folding(target=target, overlap=overlap).applied(config).output
            sizes = own.fold_target, own.fold_overlap
        [drawing] = self.draw([self._mel(mel)], sizes)
        return unfold(drawing.folds, drawing.plan, config)
