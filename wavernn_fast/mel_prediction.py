"""Linear prediction of the samples of interleaved rows, from the mel of their frame.

A mel tells how power is spread over frequencies, and so, by an inverse Fourier transform, the
autocorrelation of the samples; from that follow the weights of the best linear prediction of a
sample from any others, and how large its error will be (the normal equations; LPCNet, Valin and
Skoglund 2019, has its coefficients from a cepstrum likewise). Here row s of B is predicted from
the rows before it, at columns i - R to i + R around its own, other weights in every frame::

    ln S(f)   = of the bands, between their centres in proportion; of the drawn (pre-emphasised)
                signal; in steps of 1 / 32768 squared
    r[k]      = sum over f of S(f) cos(2 pi f k)
    C[v, w]   = r[|place v - place w|] + (RELATIVE r[0] + ROUNDING) [v = w]
    p[s, i]   = sum over v of a[s, v] u[v],   a[s] = C[heard, heard]^-1 C[heard, sample]

All rows of a frame follow from one Cholesky factor C = L L': with the samples in the order in
which rows may hear them, row v of the inverse of L is (e_v - a) / sigma.

Written for any array module: numpy beside the engine, PyTorch in training.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig
from .features import analysis_window, mel_filterbank

GAIN = 64.0  # of the prediction, as the cell hears it
ERROR_SCALE = 0.1  # of the logarithm of its error, in steps of 1 / 32768: within about [0, 1]

_BINS = 256  # of the spectrum, up to half the sample rate; the lags needed are far below
_RELATIVE = 3e-6  # of a sample's variance is noise on every sample, for what the mel leaves out
_ROUNDING = 1.0 / 12.0  # and so much comes from rounding to whole steps
_LOUDEST = 60.0  # and quietest logarithm of a power: no sound comes near, other numbers may
_LEAST_RESPONSE = 1e-4  # of a pre-emphasis, in power


class Prediction(NamedTuple):
    """Of some frames, rows B, each hearing B * (2 R + 1) samples."""

    weights: Any  # [frames, row, row heard * column heard], 0 where a row may not hear
    error: Any  # [frames, row] as the cell hears it: ERROR_SCALE ln sigma


class MelPrediction:
    """What is constant about the prediction of one model.

    Parameters
    ----------
    config : ModelConfig
        With `subscale.prediction_reach` above 0 and a mel convention.
    xp : module
        numpy, or another with its names; arrays are made on its host.
    """

    def __init__(self, config: ModelConfig, xp: Any = np) -> None:
        assert config.subscale is not None
        assert config.mel is not None
        self.rows, self.reach = config.subscale.factor, config.subscale.prediction_reach
        scale, shift, to_bins = _spectrum(config)
        cosines = _cosines(self.rows * (2 * self.reach + 1))
        order, place = _order(self.rows, self.reach)
        centre = np.arange(self.rows) * (2 * self.reach + 1)  # in this order
        self._xp = xp
        self._scale, self._shift = scale, xp.asarray(shift)
        self._to_bins, self._added = (xp.asarray(part) for part in to_bins)
        self._cosines = xp.asarray(cosines)
        # The lag of two samples; that of a sample and itself stands behind all others.
        lags = np.abs(place[:, None] - place)
        np.fill_diagonal(lags, cosines.shape[1])
        self._lags = xp.asarray(lags)
        rank = np.argsort(order)
        self._rank, self._centre = xp.asarray(rank), xp.asarray(centre)
        self._row = xp.asarray(np.arange(self.rows))
        self._drawn = xp.asarray(np.eye(len(place))[:, centre])  # the samples of the rows
        self._signs = xp.asarray(np.where(rank[:, None] < centre, -1.0, 0.0))  # [sample, row]

    def of(self, mel: Any) -> Prediction:
        """Prediction in frames of a mel [frames, n_mels], float64; each frame by itself.

        The values of a frame are the same bits in any company.
        """
        xp = self._xp
        bands = (mel * self._scale + self._shift)[:, None, :]  # products one frame at a time
        spectrum = xp.exp((bands @ self._to_bins + self._added).clip(-_LOUDEST, _LOUDEST))
        lags = (spectrum @ self._cosines)[:, 0]
        noisy = lags[:, :1] * (1.0 + _RELATIVE) + _ROUNDING
        lags = xp.concatenate([lags, noisy], axis=1)
        # Indexed by an array, numpy gives frames last in memory, which all that follows is slow on.
        covariance = np.take(lags, self._lags, axis=1) if xp is np else lags[:, self._lags]
        factor = xp.swapaxes(xp.linalg.cholesky(covariance), 1, 2)
        drawn = xp.broadcast_to(self._drawn, (len(mel), *self._drawn.shape))  # as CuPy wants it
        inverse = xp.linalg.solve(factor, drawn)  # rows of that of L, as columns
        sigma = 1.0 / inverse[:, self._centre, self._row]
        weights = inverse[:, self._rank] * self._signs * sigma[:, None, :]
        return Prediction(xp.swapaxes(weights, 1, 2), ERROR_SCALE * xp.log(sigma))


def _order(rows: int, reach: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Samples in an order in which every row's own comes after all it hears.

    Row by row, its own column first. Returns where each stands by [row, column], and how many
    samples it lies after that of row 0 in the column of the sample predicted.
    """
    columns = np.array([0, *(d for k in range(1, reach + 1) for d in (-k, k))])
    row = np.arange(rows)[:, None]
    order = row * (2 * reach + 1) + (columns + reach)
    return order.reshape(-1), (row + rows * columns).reshape(-1)


def _spectrum(
    config: ModelConfig,
) -> tuple[float, NDArray[np.float64], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """From a mel to the logarithm of the power of each bin.

    Returns (scale, shift [n_mels], (matrix [n_mels, bins], added [bins])): with value v of a band
    v scale + shift is the logarithm of the power density around its centre.
    """
    mel = config.mel
    assert mel is not None
    filters = mel_filterbank(mel)
    area = filters.sum(axis=1)
    sounding = area > 0.0  # a filter between two bins is empty and tells nothing
    base = {"db": math.log(10.0) / 20.0, "ln": 1.0, "log10": math.log(10.0)}[mel.log]
    # Bands hold means of |X|^power; of gaussian noise of variance 1 that is gamma(1 + power / 2).
    to_power = 2.0 / mel.power
    level = mel.ref_db * base - math.lgamma(1.0 + mel.power / 2.0)
    shift = to_power * (
        level - np.log(np.where(sounding, area, 1.0)) - mel.offset * base / mel.scale
    )
    bins = np.arange(filters.shape[1]) * (mel.sample_rate / mel.n_fft)
    centre = (filters @ bins)[sounding] / area[sounding]
    hz = np.linspace(0.0, mel.sample_rate / 2.0, _BINS + 1)
    matrix = np.zeros((len(area), len(hz)))
    matrix[sounding] = [np.interp(hz, centre, one) for one in np.eye(len(centre))]
    window = analysis_window(mel)
    wanted, heard = (
        np.maximum(_response(one, hz / mel.sample_rate), _LEAST_RESPONSE)
        for one in (config.output.deemphasis, mel.preemphasis)
    )
    steps = 2.0 * math.log(32768.0) - math.log((window**2).sum())
    return to_power * base / mel.scale, shift, (matrix, np.log(wanted / heard) + steps)


def _response(emphasis: float, turns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power response of y[t] = x[t] - emphasis x[t - 1] at some turns a sample."""
    found: NDArray[np.float64] = np.abs(1.0 - emphasis * np.exp(-2j * np.pi * turns)) ** 2
    return found


def _cosines(lags: int) -> NDArray[np.float64]:
    """Inverse transform of a power density over bins: [bins, lags], the mean of S cos."""
    bins = np.arange(_BINS + 1)
    found = np.cos(np.pi * np.outer(bins, np.arange(lags)) / _BINS) / _BINS
    found[[0, -1]] *= 0.5
    return found
