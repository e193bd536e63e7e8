"""The vocoder of Real-Time-Voice-Cloning and MockingBird (vocoder/models, vocoder/inference)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..fold import fold_plan
from ..vocoder import Vocoder
from . import fatchord

MEL_MAX_ABS_VALUE = 4.0  # of the synthesizer's mels; the vocoder hears them divided by it

Progress = Callable[[int, int, int, float], object]  # (step, steps, folds, thousand samples/s)


class WaveRNN(fatchord.WaveRNN):
    """A model with `generate` of that vocoder, and `infer_waveform` of its module `inference`.

    The original prints its progress; this calls `progress_callback` if there is one.
    """

    def __init__(self, vocoder: Vocoder, *, seed: int | None = 0, **options: Any) -> None:
        super().__init__(vocoder, **{"flavour": "rtvc", "seed": seed, **options})

    def generate(  # type: ignore[override]  # the original's, without a file
        self,
        mels: Any,
        batched: bool = True,
        target: int | None = None,
        overlap: int | None = None,
        mu_law: bool | None = None,
        progress_callback: Progress | None = None,
    ) -> NDArray[np.float64]:
        """Turn a mel into a waveform; as `fatchord.WaveRNN.generate`, but without a file.

        Parameters
        ----------
        mels : float array [1, n_mels, n_frames] or [n_mels, n_frames]
            In [-1, 1]: divided by 4 already.
        batched, target, overlap, mu_law
            As there; by default folds of 8000 samples that overlap by 800.
        progress_callback : callable, optional
            Called with step, number of steps, number of folds and thousand samples a second.

        Returns
        -------
        float64 array [(n_frames - 1) * hop_length]
            De-emphasised.
        """
        fold = (target, overlap) if batched else None
        report = None
        if progress_callback is not None:
            report = self._reporter(mels, fold, progress_callback)
        return self.wave(mels, fold, mu_law, report)

    def infer_waveform(
        self,
        mel: Any,
        normalize: bool = True,
        batched: bool = True,
        target: int = 8000,
        overlap: int = 800,
        progress_callback: Progress | None = None,
    ) -> NDArray[np.float64]:
        """``vocoder.inference.infer_waveform``: a synthesizer's mel [n_mels, n_frames] in [-4, 4].

        Parameters
        ----------
        normalize : bool
            Divide by 4 first, as the vocoder was trained.
        batched, target, overlap, progress_callback
            As in `generate`.
        """
        mel, _ = arrays.to_array(mel, "mel")
        if normalize:
            mel = mel / MEL_MAX_ABS_VALUE
        return self.generate(mel, batched, target, overlap, progress_callback=progress_callback)

    def _reporter(
        self, mels: Any, fold: tuple[int | None, int | None] | None, callback: Progress
    ) -> Callable[[int], None]:
        """Translate "so many samples drawn" for a callback of the original's kind."""
        total, folds = int(np.shape(mels)[-1]) * self.hop_length, 1
        steps = total
        if fold is not None:
            output = self.flavour
            target = output.fold_target if fold[0] is None else fold[0]
            overlap = output.fold_overlap if fold[1] is None else fold[1]
            plan = fold_plan(total, target, overlap)
            folds, steps = plan.num_folds, max(plan.lengths)
        begun = time.perf_counter()

        def report(samples: int) -> None:
            rate = samples / max(time.perf_counter() - begun, 1e-9) / 1000
            callback(min(samples // folds, steps), steps, folds, rate)

        return report
