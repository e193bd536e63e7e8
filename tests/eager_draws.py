"""Labels of the eager PyTorch step for several recordings at once, with the engine's chance.

Used by tests and by `benchmarks/drop_in.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from same_draws import SameDraws

from wavernn_fast.config import ModelConfig
from wavernn_fast.models.eager import EagerModel, Generated
from wavernn_fast.models.eager_conditioning import cut_folds, fold_starts
from wavernn_fast.models.eager_wave import resynthesise

Sizes = tuple[int, int] | None


def eager_labels(
    eager: EagerModel,
    mels: Sequence[np.ndarray],
    sizes: Sizes,
    seed: int,
    ours: Sequence[np.ndarray] = (),
) -> tuple[list[np.ndarray], SameDraws]:
    """Draw for mels [M, n] side by side, whole or all their folds, as streams of one seed.

    Parameters
    ----------
    ours : labels of the engine, one array a stream, taken at ties (`SameDraws`)

    Returns
    -------
    list of int32 [num_folds, steps], one a mel (whole: [1, n * hop]), and what drew them
    """
    conditions = [eager.conditions(mel) for mel in mels]
    totals = [len(mel_up) for mel_up, _ in conditions]
    if sizes is None:
        starts, steps = [[0] for _ in mels], max(totals)
    else:
        starts, steps = [fold_starts(n, *sizes) for n in totals], sizes[0] + 2 * sizes[1]
    rows = [
        torch.cat([cut_folds(one[part], places, steps) for one, places in
                   zip(conditions, starts, strict=True)])
        for part in (0, 1)
    ]  # fmt: skip
    draws = SameDraws([(seed, i) for places in starts for i in range(len(places))], steps, ours)
    before, torch.multinomial = torch.multinomial, draws.multinomial
    try:
        with torch.inference_mode():
            for _ in eager._steps(steps, *rows):
                pass
    finally:
        torch.multinomial = before
    labels, first = [], 0
    for total, places in zip(totals, starts, strict=True):
        mine = draws.labels[first : first + len(places)].astype(np.int32)
        labels.append(mine[:, :total] if sizes is None else mine)
        first += len(places)
    return labels, draws


class Drawn:
    """Stands in for an eager model that has drawn already; for `resynthesise`."""

    def __init__(self, config: ModelConfig, labels: np.ndarray) -> None:
        self.config, self._labels = config, labels

    def generate(self, **_: Any) -> Generated:
        return Generated(self._labels, None)


def eager_wave(config: ModelConfig, labels: np.ndarray, mel: np.ndarray, sizes: Sizes) -> Any:
    """Waveform of labels by the original end of the pipe, under the output rule of `config`."""
    return resynthesise(Drawn(config, labels), mel, fold=sizes)  # type: ignore[arg-type]
