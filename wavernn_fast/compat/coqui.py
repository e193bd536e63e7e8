"""`Wavernn` of coqui-ai/TTS (TTS/vocoder/models/wavernn.py), and mozilla/TTS's `generate`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..vocoder import Vocoder
from . import fatchord

WRAPPER = "model"  # key under which these programs save their weights
_HEADS = {"mold": "mol", "gauss": "gaussian"}  # their modes that are no number of bits


class Wavernn(fatchord.WaveRNN):
    """A model with coqui's `inference`, and the `generate` that mozilla/TTS had before.

    Parameters
    ----------
    vocoder : Vocoder
        See also `from_checkpoint`.
    mulaw : bool, optional
        Labels are companded; without effect on other heads. Default: as the preset says.
    seed, flavour, sample_rate
        As in `fatchord.WaveRNN`; the flavour is "coqui" by default.
    """

    def __init__(
        self,
        vocoder: Vocoder,
        *,
        mulaw: bool | None = None,
        seed: int | None = 0,
        **options: Any,
    ) -> None:
        super().__init__(vocoder, **{"flavour": "coqui", "seed": seed, **options})
        self._mulaw = mulaw

    def inference(
        self,
        mels: Any,
        batched: bool | None = None,
        target: int | None = None,
        overlap: int | None = None,
    ) -> Any:
        """Turn a mel into a waveform.

        Parameters
        ----------
        mels : float array [1, n_mels, n_frames] or [n_mels, n_frames]
            numpy, PyTorch or another that `Vocoder.generate` takes.
        batched : bool, optional
            Cut into folds that run as one batch.
        target, overlap : int, optional
            Samples of a fold and of its overlaps. Default: as the flavour has them.

        Returns
        -------
        [(n_frames - 1) * hop_length]
            As the original: float64 array if batched, else float32 tensor on the host (an array
            where PyTorch is not loaded). A ramp over the last 20 frames of more than 20.

        Raises
        ------
        InputError
            If the mel or the fold sizes are unusable.
        """
        flavour, shape = self.flavour, getattr(mels, "shape", (0,))
        if int(shape[-1]) - 1 == flavour.fade_out_frames:  # fatchord's program has a ramp there
            flavour = dataclasses.replace(flavour, fade_out_frames=0)
        fold = (target, overlap) if batched else None
        wave = self.wave(mels, fold, self._mulaw, flavour=flavour)
        if batched:
            return wave
        single = wave.astype(np.float32)
        torch = sys.modules.get("torch")
        return single if torch is None else torch.from_numpy(single)

    def generate(  # type: ignore[override]  # mozilla's, without a file
        self,
        mels: Any,
        batched: bool = False,
        target: int | None = None,
        overlap: int | None = None,
    ) -> NDArray[np.float64]:
        """Turn a mel into a waveform as mozilla/TTS did: as `inference`, but always an array.

        Parameters
        ----------
        mels, batched, target, overlap
            As in `inference`.

        Returns
        -------
        float64 array [(n_frames - 1) * hop_length]
        """
        return self.wave(mels, (target, overlap) if batched else None, self._mulaw)


def setting(module: Any, name: str) -> Any:
    """What a live module was made with: an attribute of it, or of its `args`; None if neither."""
    args = getattr(module, "args", None)
    return getattr(module, name, getattr(args, name, None))


def told(module: Any) -> dict[str, Any]:
    """What the tensors of a live module do not tell: samples of a frame, head of two outputs."""
    audio = getattr(getattr(module, "config", None), "audio", None)
    found = {"hop_length": getattr(audio, "hop_length", None) or setting(module, "hop_length")}
    found["head"] = _HEADS.get(str(setting(module, "mode")))
    return {name: value for name, value in found.items() if value}
