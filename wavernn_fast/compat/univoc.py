"""`Vocoder` of bshall/UniversalVocoding (univoc/model.py, 0.2), as far as it makes sound."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import arrays, likelihood
from .. import vocoder as engine
from ..errors import InputError
from ..samples import decode_samples
from ..utterance import Sampling, make_request
from .player import fresh_seed


class Vocoder:
    """A model with univoc's `generate`.

    Parameters
    ----------
    vocoder : wavernn_fast.Vocoder
        With an embedded core; see also `from_pretrained`.
    seed : int or None
        Every call gives the audio of this seed. None: a new seed a call, taken from PyTorch's
        global generator where PyTorch is loaded (so that ``torch.manual_seed`` makes a program
        repeatable, as before), else from the system.

    Raises
    ------
    InputError
        If the model is of another kind, or the seed is none.
    """

    def __init__(self, vocoder: engine.Vocoder, *, seed: int | None = 0) -> None:
        config = vocoder.config
        if config.core != "embedded" or not config.n_mels:
            raise InputError(
                f"univoc's class plays models with an embedded core that hear a mel; this is "
                f"{vocoder!r}. Use its own generate()."
            )
        self.vocoder = vocoder
        self.seed = seed if seed is None else arrays.to_seed(seed)

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
    def hop_length(self) -> int:
        """Samples of a frame."""
        return self.vocoder.config.hop_length

    @property
    def sr(self) -> int:
        """Samples a second, in Hz."""
        return self.vocoder.sample_rate

    # Programs call these on a module; the engine has one mode and one place.

    def eval(self) -> Vocoder:
        """Do nothing; return the object, as a module does."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> Vocoder:
        """Do nothing, likewise: the device is chosen when the model is loaded."""
        return self

    def cuda(self, *args: Any) -> Vocoder:
        """Do nothing, likewise."""
        return self

    def cpu(self) -> Vocoder:
        """Do nothing, likewise."""
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
        seed = fresh_seed() if self.seed is None else self.seed
        request = make_request(config, array[0].T, None, seed)
        if request.n_drawn == 0:
            return np.zeros(0), self.sr
        sampling = Sampling(1.0, False, None)
        labels = likelihood.draw(self.vocoder.voice(), request, sampling, request.n_drawn)
        return decode_samples(labels, config), self.sr
