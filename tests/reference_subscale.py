"""A subscale model in float64 numpy: row after row, one sample at a time, nothing shared.

Kalchbrenner et al. 2018, section 4: row s holds the samples n = B i + s, i being their column. A
sample knows the past of its own row through the state of the cell, and through a network the rows
before its own up to F columns ahead. So row after row is an order in which everything is known in
time. The cell and its draws are those of `reference`; each row has a state of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import reference
from numpy.typing import NDArray
from reference import Array, Tensors

from wavernn_fast.config import ModelConfig, SubscaleConfig


def amplitude(samples: NDArray[Any], n: int) -> float:
    """What the network hears of sample n, in [-1, 1); nothing where there is no such sample."""
    return (int(samples[n]) - 32768) / 32768 if 0 <= n < len(samples) else 0.0


class _Heard:
    """What row s hears of the rows before it, which are all there.

    The layers, as functions of a column i of any value, with R the columns the first one reads::

        x0[i]  = bias[s] + sum over z < s, -R <= d <= R of weight[s, :, z, R + d] u[B (i + d) + z]
        xk[i]  = x[i] + conv2 relu(conv1 (x[i - D], x[i], x[i + D])), D = 2**(k - 1), x = x(k - 1)
    """

    def __init__(
        self, config: SubscaleConfig, tensors: Tensors, samples: NDArray[Any], row: int
    ) -> None:
        self.config, self.tensors, self.samples, self.row = config, tensors, samples, row
        self.known: dict[tuple[int, int], Array] = {}  # (layers, column) -> [channels]

    def at(self, column: int) -> Array:
        """What sample (s, column) hears: [channels]."""
        return self._after(self.config.blocks, column)

    def _after(self, layers: int, column: int) -> Array:
        found = self.known.get((layers, column))
        if found is None:
            found = self._block(layers - 1, column) if layers else self._first(column)
            self.known[layers, column] = found
        return found

    def _first(self, column: int) -> Array:
        rows, reach = self.config.factor, self.config.horizon - (2**self.config.blocks - 1)
        weight = self.tensors["subscale.input.weight"][self.row]
        x = self.tensors["subscale.input.bias"][self.row].copy()
        for before in range(self.row):
            for d in range(-reach, reach + 1):
                heard = amplitude(self.samples, rows * (column + d) + before)
                x += weight[:, before, reach + d] * heard
        return x

    def _block(self, block: int, column: int) -> Array:
        name, distance = f"subscale.blocks.{block}", 2**block
        weight = self.tensors[f"{name}.conv1.weight"]
        inner = self.tensors[f"{name}.conv1.bias"].copy()
        for tap in range(3):
            inner += weight[:, :, tap] @ self._after(block, column + (tap - 1) * distance)
        more = reference.dense(self.tensors, f"{name}.conv2", np.maximum(inner, 0.0))
        return self._after(block, column) + more


def run_subscale(
    config: ModelConfig,
    tensors: Tensors,
    mel: NDArray[Any] | None = None,
    n_samples: int | None = None,
    *,
    seed: int = 0,
    item: int = 0,
    uniforms: NDArray[np.float64] | None = None,
    forced: NDArray[Any] | None = None,
    temperature: float = 1.0,
    greedy: bool = False,
) -> dict[str, NDArray[Any]]:
    """Draw an utterance of `n_samples`, or follow a `forced` one.

    Parameters
    ----------
    mel : [M, n_frames], or None for an unconditioned model
    n_samples : T; default all that the mel covers. Not necessarily whole columns
    seed, item : of the generator; row s draws column i with the words of (step i, item, fold s)
    uniforms : [T, 2] in [0, 1) by sample, instead of the generator
    forced : [T], outcomes 256 c + f taken in place of the drawn ones
    temperature, greedy : as in `reference.run`; row s is drawn at temperature^(1 + 2 s / (B - 1))

    Returns
    -------
    dict
        samples [T] int32, logits [T, 512] float64 and margin [T, 2] float64, as `reference.run`.
    """
    assert config.subscale is not None
    weights = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
    mel_up, aux = reference._conditions(config, weights, mel)
    count, rows = len(mel_up) if n_samples is None else n_samples, config.subscale.factor
    if config.n_mels and count > len(mel_up):
        raise ValueError(f"The mel covers {len(mel_up)} samples, {count} wanted.")
    samples, logits = np.zeros(count, np.int32), np.zeros((count, config.logits_size))
    margin = np.full((count, 2), np.inf)
    for row in range(rows):
        columns = len(range(row, count, rows))
        own = None if uniforms is None else uniforms[row::rows]
        words = reference._words(config, columns, (seed, item, row), own)
        taken = None if forced is None else forced[row::rows]
        colder = temperature ** (1 + 2 * row / (rows - 1)) if rows > 1 else temperature
        draws = reference._Draws(config, words, taken, colder, greedy)
        cell, heard = (
            reference._Dual(config, weights),
            _Heard(config.subscale, weights, samples, row),
        )
        for i in range(columns):
            n, draws.t = rows * i + row, i
            frame = n // config.hop_length
            mel_n = mel_up[n] if config.n_mels else np.zeros(0)
            aux_n = aux[frame] if config.aux_size else np.zeros(0)
            condition = np.concatenate([aux_n, heard.at(i)])
            samples[n], logits[n] = cell.advance(mel_n, condition, draws)
        margin[row::rows] = draws.margin
    return {"samples": samples, "logits": logits, "margin": margin}
