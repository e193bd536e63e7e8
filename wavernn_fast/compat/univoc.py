"""`Vocoder` of bshall/UniversalVocoding (univoc/model.py, 0.2), as far as it makes sound."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from .. import vocoder as engine
from ..errors import InputError
from ..samples import decode_samples
from .player import Player


class Vocoder(Player):
    """A model with univoc's `generate`; arguments as of `Player`.

    Its `vocoder` is one with an embedded core; see also `from_pretrained`.
    """

    core = "embedded"

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

    def cuda(self, *args: Any) -> Vocoder:
        """Do nothing: the device is chosen when the model is loaded."""
        return self

    def cpu(self) -> Vocoder:
        """Do nothing: the device is chosen when the model is loaded."""
        return self

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
        config = self.vocoder.config
        array, _ = arrays.to_array(mel, "mel")
        if array.ndim != 3 or array.shape[0] != 1 or array.shape[2] != config.n_mels:
            raise InputError(
                f"The mel has shape {array.shape}, expected [1, n_frames, {config.n_mels}]: one "
                "utterance, time first."
            )
        [drawing] = self.draw([array[0].T])
        return decode_samples(drawing.folds[0], config), self.sr
