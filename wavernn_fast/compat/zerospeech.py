"""`Vocoder` of bshall/ZeroSpeech and bshall/VectorQuantizedCPC (model.py), as far as it sounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import InputError
from ..samples import decode_samples
from .player import Player


class Vocoder(Player):
    """A model with their decoder's `generate`; arguments as of `Player`."""

    core = "embedded"

    def generate(self, z: Any, speaker: Any) -> NDArray[np.float64]:
        """Turn codes into a waveform.

        Parameters
        ----------
        z : int array [1, n], or float array [1, n, code_size]
            Codes, or their vectors (the input of ZeroSpeech's decoder); numpy, PyTorch or another.
        speaker : int array [1], or int
            Number of the speaker.

        Returns
        -------
        float64 array [2 * n * hop_length]
            In [-1, 1].

        Raises
        ------
        InputError
            If the arguments are unusable, such as a batch.
        EngineError
            If a logit became NaN or infinite.
        """
        codes, who = arrays.to_array(z, "z")[0], arrays.to_array(speaker, "speaker")[0]
        if codes.ndim not in (2, 3) or len(codes) != 1 or who.size != 1:
            raise InputError(
                f"z has shape {codes.shape} and speaker {who.shape}, expected one utterance, "
                "[1, n] or [1, n, code_size], and one speaker."
            )
        features = self.vocoder.features(codes[0].T, who.reshape(-1)[0].item())
        [drawing] = self.draw([features])
        return decode_samples(drawing.folds[0], self.config)
