"""The engine's chance for PyTorch programs: stands in for `torch.multinomial` and for uniforms.

Draws are made from the program's own probabilities with the random words of the engine
(`reference.philox_words`), so that a program of any origin must come to the engine's labels. Only
where a word falls so near a boundary that fp32 may decide either way is the engine's label taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import reference
import tolerances
import torch


def choose(probabilities: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and margins [B] of probabilities [B, C] and words [B]: `reference.categorical`."""
    bits = min(23, 31 - int(np.ceil(np.log2(probabilities.shape[1]))))
    scaled = probabilities / probabilities.max(axis=1, keepdims=True) * 2.0**bits
    cumulative = np.cumsum(np.rint(scaled).astype(np.uint64), axis=1)
    total = cumulative[:, -1:]
    threshold = (words[:, None].astype(np.uint64) * total) >> np.uint64(32)
    labels = (cumulative <= threshold).sum(axis=1)
    shares = cumulative[:, :-1] / total
    inner = np.where((shares > 0) & (shares < 1), shares, np.inf)
    return labels, np.abs(inner - words[:, None] / 2.0**32).min(axis=1)


class SameDraws:
    """Chance of streams that run side by side, one a row of the batch.

    Parameters
    ----------
    streams : sequence of (seed, fold)
    n_steps : int
        Of the longest; more steps than that fail.
    ours : sequence of arrays
        Labels of the engine, one a stream, as long as it drew; taken at ties. Of a mixture of
        logistics nothing is known of the mixture that was chosen: leave it empty.
    """

    def __init__(
        self, streams: Sequence[tuple[int, int]], n_steps: int, ours: Sequence[np.ndarray] = ()
    ) -> None:
        words = [reference.philox_words(seed, 0, n_steps, 0, fold) for seed, fold in streams]
        self._words = np.stack(words)  # [B, n_steps, 4]
        self._ours = ours
        self.labels = np.zeros((len(streams), n_steps), dtype=np.int64)
        self.steps = 0
        self.ties = 0  # at which the program would have taken another label

    def multinomial(self, probabilities: Any, *_: Any, **__: Any) -> Any:
        """In place of `torch.multinomial`; [B, C] -> [B, 1]."""
        rows, t = probabilities.detach().double().numpy(), self.steps
        found, margins = choose(rows, self._words[:, t, 0])
        for i, drawn in enumerate(self._ours):
            tie = t < len(drawn) and margins[i] < tolerances.TIE_MARGIN_FP32
            if tie and found[i] != drawn[t]:
                self.ties += 1
                found[i] = drawn[t]
        self.labels[:, t] = found
        self.steps += 1
        return torch.from_numpy(found)[:, None]

    def uniforms(self) -> Any:
        """Uniforms [B] of the second draw of the last step: the logistic of a mixture."""
        words = self._words[:, self.steps - 1, 1].astype(np.float64)
        return torch.from_numpy((words + 0.5) / 2.0**32)
