"""`WaveRNN` of fatchord/WaveRNN (models/fatchord_version.py), as far as it makes sound."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio import check_wav, write_wav
from ..config import OutputConfig
from ..errors import InputError
from ..fold import Folding, unfold
from ..presets import PRESETS
from ..vocoder import Vocoder
from .player import Player

# What follows the draws in each program: "fatchord" since November 2019; "rtvc" and "coqui" join
# companded values by the older crossfade, with its hole of power, and rtvc undoes the pre-emphasis.
FLAVOURS: Mapping[str, OutputConfig] = MappingProxyType(
    {
        "fatchord": PRESETS["fatchord-raw9"].output,
        "rtvc": dataclasses.replace(PRESETS["rtvc"].output, crossfade="legacy"),
        "coqui": dataclasses.replace(PRESETS["coqui"].output, crossfade="legacy"),
    }
)


class WaveRNN(Player):
    """A model with fatchord's `generate`.

    Parameters
    ----------
    vocoder : Vocoder
        See also `from_checkpoint`.
    flavour : {"fatchord", "rtvc", "coqui"} or OutputConfig
        What follows the draws: order of mu-law and crossfade, kind of crossfade, de-emphasis, cut
        and final ramp. Programs in between are described by an `OutputConfig`, of which the
        crossfade, the order of decoding, fold sizes, de-emphasis, length and ramp are used.
    seed : int or None
        See `player.Player`.
    sample_rate : int, optional
        In Hz, of the files written. Default: the model's, which its preset says.

    Raises
    ------
    InputError
        If an argument has no meaning.
    """

    def __init__(
        self,
        vocoder: Vocoder,
        *,
        flavour: str | OutputConfig = "fatchord",
        seed: int | None = 0,
        sample_rate: int | None = None,
    ) -> None:
        super().__init__(vocoder, seed=seed)
        self.flavour = _flavour(flavour)
        self._sample_rate = sample_rate

    @property
    def sample_rate(self) -> int:
        """Samples a second of the files written, in Hz."""
        return self._sample_rate or super().sample_rate

    def generate(
        self,
        mels: Any,
        save_path: str | os.PathLike[str] | None = None,
        batched: bool = False,
        target: int | None = None,
        overlap: int | None = None,
        mu_law: bool | None = None,
        silent: bool = True,
    ) -> NDArray[np.float64]:
        """Turn a mel into a waveform, and write it to a file.

        Stack, mu-law, crossfade (in the order of the flavour), de-emphasis, cut to
        (n_frames - 1) * hop_length samples, a ramp from 1 to 0 over the last 20 frames. The
        original fails for utterances shorter than its ramp and for folded ones no longer than the
        overlap; here the first have no ramp and the second are not cut into folds.

        Parameters
        ----------
        mels : float array [1, n_mels, n_frames] or [n_mels, n_frames]
            numpy, PyTorch or another that `Vocoder.generate` takes.
        save_path : path or None
            A .wav file of 32-bit floats is written here; None: none.
        batched : bool
            Cut into folds that run as one batch.
        target, overlap : int, optional
            Samples of a fold and of its overlaps. Default: as the flavour has them.
        mu_law : bool, optional
            Labels are companded; without effect on mixtures of logistics. Default: as the preset
            of the checkpoint says.
        silent : bool
            Of no effect: nothing is printed.

        Returns
        -------
        float64 array [(n_frames - 1) * hop_length]

        Raises
        ------
        InputError
            If the mel, the fold sizes or the ending of the file are unusable.
        AudioError
            If the file cannot be written; what can be told of it is told before anything is drawn.
        """
        if save_path is not None:
            check_wav(save_path, self.sample_rate, "FLOAT")
        wave = self.wave(mels, (target, overlap) if batched else None, mu_law)
        if save_path is not None:
            write_wav(save_path, wave, self.sample_rate, "FLOAT")
        return wave

    def wave(
        self,
        mels: Any,
        fold: tuple[int | None, int | None] | None,
        mu_law: bool | None = None,
        progress: Callable[[int], None] | None = None,
        *,
        flavour: OutputConfig | None = None,
    ) -> NDArray[np.float64]:
        """What `generate` returns; `fold` is (target, overlap), None for unfolded.

        `progress` is called with the number of samples drawn so far; `flavour` stands in for that
        of the object.
        """
        if mu_law is None:
            mu_law = self.config.output.mu_law
        output = dataclasses.replace(
            self.flavour if flavour is None else flavour,
            mu_law=bool(mu_law) and self.config.head == "softmax",
            label_decode="float32",
        )
        config = dataclasses.replace(self.config, output=output)
        sizes: tuple[int, int] | None = None
        if fold is not None:
            own = Folding(target=fold[0], overlap=fold[1]).applied(config).output
            sizes = own.fold_target, own.fold_overlap
        [drawing] = self.draw([mels], sizes, progress)
        return unfold(drawing.folds, drawing.plan, config)


def _flavour(flavour: str | OutputConfig) -> OutputConfig:
    if isinstance(flavour, OutputConfig):
        return flavour
    try:
        return FLAVOURS[flavour]
    except (KeyError, TypeError):
        raise InputError(
            f"There is no flavour {flavour!r}; expected {', '.join(FLAVOURS)} or an OutputConfig."
        ) from None
