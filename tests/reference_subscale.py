"""A subscale model in float64 numpy: row after row, one sample at a time, nothing shared.

Kalchbrenner et al. 2018, section 4: row s holds the samples n = B i + s, i being their column. A
sample knows the past of its own row through the state of the cell, and through a network the rows
before its own up to F columns ahead. So row after row is an order in which everything is known in
time. The cell and its draws are those of `reference`; each row has a state of its own.
"""

from __future__ import annotations

from math import gamma
from typing import Any

import numpy as np
import reference
from numpy.typing import NDArray
from reference import Array, Tensors

from wavernn_fast.config import ModelConfig
from wavernn_fast.features import mel_filterbank
from wavernn_fast.subscale_config import SubscaleConfig


def amplitude(samples: NDArray[Any], n: int) -> float:
    """What the network hears of sample n, in [-1, 1); nothing where there is no such sample."""
    return (int(samples[n]) - 32768) / 32768 if 0 <= n < len(samples) else 0.0


class _Predicted:
    """What the mel of a frame predicts of a sample of row s from the rows before it.

    By the normal equations of each row of each frame, as the text of docs/formats.md has them.
    """

    def __init__(self, config: ModelConfig, mel: NDArray[Any], samples: NDArray[Any]) -> None:
        assert config.subscale is not None
        assert config.mel is not None
        self.config, self.convention, self.sub = config, config.mel, config.subscale
        self.mel, self.samples = np.asarray(mel, np.float64), samples
        self.filters = mel_filterbank(config.mel)
        self.known: dict[tuple[int, int], tuple[Array, float]] = {}

    def at(self, row: int, column: int) -> Array:
        """(64 p, a tenth of the logarithm of its error in steps) of sample (row, column)."""
        n = self.sub.factor * column + row
        key = (row, n // self.config.hop_length)
        if key not in self.known:
            self.known[key] = self._solved(*key)
        weights, sigma = self.known[key]
        heard = [amplitude(self.samples, n + d) for d in self._distances(row)]
        return np.array([64.0 * (weights @ heard), 0.1 * np.log(sigma)])

    def _distances(self, row: int) -> list[int]:
        reach, rows = self.sub.prediction_reach, self.sub.factor
        columns = range(-reach, reach + 1)
        return [rows * d + before - row for before in range(row) for d in columns]

    def _solved(self, row: int, frame: int) -> tuple[Array, float]:
        distances = np.array(self._distances(row), np.int64)
        lags = np.abs(distances[:, None] - distances)
        r = self._autocorrelation(frame, 2 * self.sub.factor * (self.sub.prediction_reach + 1))
        noise = 3e-6 * r[0] + 1.0 / 12.0
        covariance, across = r[lags] + noise * np.eye(len(lags)), r[np.abs(distances)]
        weights = np.linalg.solve(covariance, across)
        return weights, float(np.sqrt(r[0] + noise - weights @ across))

    def _autocorrelation(self, frame: int, count: int) -> Array:
        """Of the drawn signal in steps of 1 / 32768, from a spectrum of 257 bins."""
        mel, turns = self.convention, np.arange(257) / 512.0
        value = (self.mel[:, frame] - mel.offset) / mel.scale + mel.ref_db
        magnitude = {"db": 10.0 ** (value / 20.0), "ln": np.exp(value), "log10": 10.0**value}
        means = magnitude[mel.log] / self.filters.sum(axis=1) / gamma(1.0 + mel.power / 2.0)
        bins = np.arange(self.filters.shape[1]) * mel.sample_rate / mel.n_fft
        centre = (self.filters * bins).sum(axis=1) / self.filters.sum(axis=1)
        ours = np.interp(turns * mel.sample_rate, centre, (2.0 / mel.power) * np.log(means))

        def response(emphasis: float) -> Array:
            found = 1.0 + emphasis**2 - 2.0 * emphasis * np.cos(2.0 * np.pi * turns)
            return np.asarray(np.maximum(found, 1e-4))

        window = np.hanning(mel.win_length + 1)[:-1]
        density = np.exp(ours) / np.sum(window**2) * 32768.0**2
        density *= response(self.config.output.deemphasis) / response(mel.preemphasis)
        return np.fft.irfft(density)[:count]


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
    predicted = None
    if config.subscale.prediction_reach:
        assert mel is not None
        predicted = _Predicted(config, mel, samples)
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
            foreseen = [] if predicted is None else predicted.at(row, i)
            condition = np.concatenate([aux_n, heard.at(i), foreseen])
            samples[n], logits[n] = cell.advance(mel_n, condition, draws)
        margin[row::rows] = draws.margin
    return {"samples": samples, "logits": logits, "margin": margin}
