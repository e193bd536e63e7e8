"""The network of a subscale model that hears the rows before a row, for training.

Kalchbrenner et al. 2018, section 4, fold an utterance into B rows of samples n = B i + s and let
"a masked dilated CNN with relus" hear, for sample (s, i), the rows before s up to column i + F;
its layers they leave open. Ours, with R = `SubscaleConfig.reach` (docs/subscale.md has its cost)::

    x[s, i]  = bias[s] + sum over rows z < s, columns |d| <= R of weight[s, z, d] u[z, i + d]
    x[s, i] += conv2 relu(conv1(x[s, i - D], x[s, i], x[s, i + D]))         for D = 1, 2, 4, ...

The first layer is linear and has weights of its own for every row, because each row misses other
neighbours: it is the best place to interpolate. The mask lies there, and only there; the blocks mix
columns of one row, all of which are masked alike. Beyond the ends of an utterance u is 0, and the
network goes on, so it is the same function at every column. The result is added to the
conditioning of the cell: its columns of `gru.w_conditioning` are the last layer.

In training the weights of the first layer are the sum of weights that all rows share, by the
distance from sample to sample, and of the row's own: what the sample before says is then learned
once, not in every row. And they act on white samples: neighbours are so much alike that what tells
them apart, which is what a prediction lives on, would be learned last. Every row's whitening
follows from the autocorrelation of the recordings, and is folded into canonical weights. The first
channels begin as the best linear prediction of each row's sample, which follows from it too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..config import ModelConfig
from ..mel_prediction import GAIN, MelPrediction
from ..places import place_of
from ..subscale_config import PREDICTION_SIZE, SubscaleConfig

# Speech fills a small part of [-1, 1], and its quiet end matters: channels of the first layer hear
# it at these gains, as otherwise small steps would take long to reach weights of some hundreds.
_LEAST_GAIN, _MOST_GAIN = 2.0, 64.0
_NEAR = 6.0  # samples over which the first weights of the first layer fall by e
# Variance added to that of every direction, as a share of a sample's: the narrowest directions are
# widened thirty times at most.
_RIDGE = 1e-3
_QUIET = 5e-3  # amplitude below which loudness is not evened out before correlations are measured
_EVEN = 256  # samples over which it is
_UNCORRELATED = np.ones(1)  # before anything has been measured
PREDICTIONS = 4  # first channels, which begin as the linear prediction of a sample,
PREDICTION_GAIN = 16.0  # at this gain
_PREDICTION_RIDGE = 1e-4  # variance of noise on what it is made from, as a share of a sample's


class _Block(nn.Module):
    """x + conv2(relu(conv1 x)), conv1 with three taps `dilation` columns apart."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, 3, dilation=dilation)
        self.conv2 = nn.Linear(width, width)
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """Columns [N, width, n + 2 dilation] -> [N, width, n]; the sum stays in float32."""
        inner = torch.relu(self.conv1(x)).transpose(1, 2)
        more: Tensor = self.conv2(inner).transpose(1, 2)
        return x[:, :, self.dilation : x.shape[2] - self.dilation] + more.to(x.dtype)


class SubscaleNetwork(nn.Module):
    """What every sample hears of the rows before its own."""

    def __init__(self, config: SubscaleConfig) -> None:
        super().__init__()
        self.config = config
        rows, wide, taps = config.factor, config.channels, 2 * config.reach + 1
        self.shared = nn.Parameter(torch.empty(wide, rows * taps + rows - 1))  # before the gains
        self.weight = nn.Parameter(torch.zeros(rows, wide, rows, taps))  # what a row has besides
        self.bias = nn.Parameter(torch.zeros(rows, wide))
        self.blocks = nn.ModuleList(_Block(wide, dilation) for dilation in config.dilations)
        self.gains: Tensor  # [channels, 1, 1]
        self.distance: Tensor  # [row, row seen, columns], counted from the farthest sample before
        for name, value in _fixed(config)._asdict().items():
            self.register_buffer(name, value, persistent=False)
        self.whitening: Tensor  # [row, seen, seen], seen: row seen and column; 0 where masked
        self.register_buffer("whitening", whitening_of(config, _UNCORRELATED))
        distance = torch.arange(self.shared.shape[1]) - (config.factor * (config.reach + 1) - 1)
        with torch.no_grad():  # every channel hears some of the nearest samples
            self.shared.copy_(torch.randn_like(self.shared) * torch.exp(-distance.abs() / _NEAR))

    @property
    def input_weight(self) -> Tensor:
        """The first layer as it acts: [row, channels, row seen, columns], zero where masked."""
        fixed = _Fixed(self.gains, self.distance)
        return _input_weight(fixed, self.shared, self.weight, self.whitening)

    def set_correlation(self, correlation: NDArray[np.float64]) -> None:
        """Begin with what `autocorrelation` has measured: whitening, and the linear prediction.

        The latter where the mel gives none. The weights mean another function then.
        """
        self.whitening.copy_(whitening_of(self.config, correlation))
        if self.config.prediction_reach:
            return  # the mel's is better
        weight = PREDICTION_GAIN * prediction_of(self.config, correlation)
        gains = self.gains[:PREDICTIONS]
        with torch.no_grad():
            self.shared[:PREDICTIONS] = 0.0
            self.weight[:, :PREDICTIONS] = _own_weight(gains, weight[:, None], self.whitening)

    def forward(self, around: Tensor) -> Tensor:
        """Hear the rows before each sample.

        Parameters
        ----------
        around : [B, (n + 2 horizon) factor] float32 in [-1, 1]
            Samples of n whole columns and of `horizon` columns on either side of them, 0 beyond
            the ends of the utterance.

        Returns
        -------
        [B, n, factor, channels] float32
            Entry [:, i, s] may enter the prediction of sample (s, i).
        """
        config = self.config
        with torch.autocast(around.device.type, enabled=False):  # 16 bits do not fit in bfloat16
            columns = around.view(len(around), -1, config.factor)
            windows = columns.unfold(1, 2 * config.reach + 1, 1)  # [B, m, row seen, taps]
            x = torch.einsum("bmzd,sczd->bscm", windows, self.input_weight)
            x = x + self.bias[:, :, None]
        x = x.flatten(0, 1)  # rows stand apart from here on: [B * factor, channels, m]
        for block in self.blocks:
            x = block(x)
        return x.view(len(around), config.factor, config.channels, -1).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=8)
def prediction_on(config: ModelConfig, device: torch.device) -> MelPrediction:
    """What the mel predicts, for tensors of a device."""
    return MelPrediction(config, place_of(torch, device).xp)


def predicted_by_mel(config: ModelConfig, around: Tensor, mel: Tensor) -> Tensor:
    """What the mel predicts of the samples of whole frames from those of the rows before.

    Parameters
    ----------
    config : ModelConfig
        With `subscale.prediction_reach` above 0.
    around : [B, (n + 2 horizon) factor] float32 in [-1, 1]
        As `SubscaleNetwork` hears them.
    mel : [B, n_mels, frames] float32
        Of n columns.

    Returns
    -------
    [B, n, factor, 2] float32
        The prediction at its gain, and the scaled logarithm of its error, as the cell hears them.
        Nothing is learned here: no gradient.
    """
    sub = config.subscale
    assert sub is not None
    with torch.no_grad(), torch.autocast(around.device.type, enabled=False):
        frames = mel.transpose(1, 2).flatten(0, 1).double()
        weights, error = prediction_on(config, around.device).of(frames)
        first = sub.horizon - sub.prediction_reach
        columns = around.view(len(around), -1, sub.factor)
        columns = columns[:, first : columns.shape[1] - first]
        near = columns.unfold(1, 2 * sub.prediction_reach + 1, 1).flatten(2)  # [B, n, heard]
        near = near.reshape(len(frames), config.hop_length // sub.factor, -1).double()
        p = GAIN * (near @ weights.transpose(1, 2))  # [frames, columns, row]
        both = torch.stack([p, error[:, None].expand_as(p)], dim=3).float()
        return both.view(len(around), -1, sub.factor, PREDICTION_SIZE)


class _Fixed(NamedTuple):
    """What follows from the sizes; see `SubscaleNetwork`."""

    gains: Tensor
    distance: Tensor


def _fixed(config: SubscaleConfig) -> _Fixed:
    rows, reach = config.factor, config.reach
    row = torch.arange(rows)
    spread = torch.linspace(math.log(_LEAST_GAIN), math.log(_MOST_GAIN), config.channels)
    columns = rows * (torch.arange(2 * reach + 1) + 1)  # from -reach on
    distance = columns[None, None, :] + row[None, :, None] - row[:, None, None] - 1
    return _Fixed(spread.exp()[:, None, None], distance)


def autocorrelation(
    config: SubscaleConfig, recordings: Iterable[NDArray[np.uint16]]
) -> NDArray[np.float64]:
    """Correlation of samples some apart, loudness evened out: [samples of the first layer].

    Parameters
    ----------
    recordings : of samples [n], 256 coarse + fine, at least one that is not silent
    """
    count = config.factor * (2 * config.reach + 1)
    total = np.zeros(count)
    for samples in recordings:
        u = (samples.astype(np.float64) - 32768.0) / 32768.0
        power = np.convolve(u * u, np.full(_EVEN, 1.0 / _EVEN), mode="same")
        u /= np.sqrt(power) + _QUIET
        spectrum = np.fft.rfft(u, 2 * len(u))
        total[: len(u)] += np.fft.irfft(np.abs(spectrum) ** 2)[: min(count, len(u))]
    found: NDArray[np.float64] = total / total[0]
    return found


def whitening_of(config: SubscaleConfig, correlation: NDArray[np.float64]) -> Tensor:
    """What makes the samples that each row hears uncorrelated: [row, seen, seen], symmetric.

    The inverse square root of their covariance: the nearest of all whitenings to leaving each
    sample where it is, so that weights may still be shared by distance.
    """
    rows = config.factor
    place, seen = _heard(config)
    covariance = _correlated(correlation, place[:, None] - place)
    found = np.zeros((rows, len(place), len(place)))
    for row in range(1, rows):
        mine = np.ix_(seen < row, seen < row)
        variances, directions = np.linalg.eigh(covariance[mine])
        scale = np.sqrt((1.0 + _RIDGE) / (np.maximum(variances, 0.0) + _RIDGE))
        found[row][mine] = directions * scale @ directions.T
    return torch.from_numpy(found.astype(np.float32))


def prediction_of(config: SubscaleConfig, correlation: NDArray[np.float64]) -> Tensor:
    """Weights of the best linear prediction of each row's sample: [row, row seen, columns].

    From what the first layer hears alone, so 0 for the first row and where masked; by least squares
    with a little noise on every sample heard. float64.
    """
    rows = config.factor
    place, seen = _heard(config)
    found = np.zeros((rows, len(place)))
    for row in range(1, rows):
        heard = place[seen < row]
        covariance = _correlated(correlation, heard[:, None] - heard)
        covariance += _PREDICTION_RIDGE * np.eye(len(heard))
        found[row, seen < row] = np.linalg.solve(covariance, _correlated(correlation, heard - row))
    return torch.from_numpy(found).view(rows, rows, -1)


def _heard(config: SubscaleConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What the first layer may hear: samples after the one of row 0, and the row each is of."""
    offset = np.arange(-config.reach, config.reach + 1)
    row = np.arange(config.factor)
    return (row[:, None] + config.factor * offset).reshape(-1), np.repeat(row, len(offset))


def _correlated(correlation: NDArray[np.float64], apart: NDArray[np.int64]) -> NDArray[np.float64]:
    """Correlation of samples so far apart; 0 beyond what was measured."""
    far = np.abs(apart)
    return np.where(far < len(correlation), correlation[far % len(correlation)], 0.0)


def _input_weight(fixed: _Fixed, shared: Tensor, own: Tensor, whitening: Tensor) -> Tensor:
    """Sum of shared and own weights, scaled, of white samples: as `input_weight`.

    The mask is in the whitening: its rows and columns of samples that a row may not hear are zero.
    """
    every = (shared[:, fixed.distance].transpose(0, 1) + own) * fixed.gains
    return torch.matmul(every.flatten(2), whitening).view_as(every)


def _own_weight(gains: Tensor, weight: Tensor, whitening: Tensor) -> Tensor:
    """A row's own weights that act as `weight` [row, channels, row seen, columns], none shared."""
    inverse = torch.linalg.pinv(whitening.double(), hermitian=True)
    white: Tensor = torch.matmul(weight.double().flatten(2), inverse).view(weight.shape)
    return white / gains


def input_layer(config: SubscaleConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """First layer as canonical tensors, from a state dict of `models.wavernn.WaveRNN`."""
    shared, own, whitening = (
        state[f"subscale.{part}"].cpu().double() for part in ("shared", "weight", "whitening")
    )
    weight = _input_weight(_fixed(config), shared, own, whitening)
    return {"subscale.input.weight": weight, "subscale.input.bias": state["subscale.bias"]}


def input_parameters(
    config: SubscaleConfig, weight: Tensor, bias: Tensor, whitening: Tensor
) -> dict[str, Tensor]:
    """Entries of a state dict with this whitening that act as the canonical layer, unshared."""
    shared = torch.zeros(config.channels, config.factor * (2 * config.reach + 2) - 1)
    own = _own_weight(_fixed(config).gains, weight, whitening)
    return {"subscale.shared": shared, "subscale.weight": own.float(), "subscale.bias": bias}
