"""The GRU of the dual-softmax WaveRNN: its weights, and what they are before training."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import mel_prediction
from ..config import ModelConfig
from ..subscale_config import SubscaleConfig
from .subscale import PREDICTION_GAIN, PREDICTIONS

_LAST_SAMPLE = 0.03  # of the initial weights that hear it, in a subscale model
_FORGETTING = -4.0  # first bias of update gates that should let nothing of the state through


class _Predicted(NamedTuple):
    """Columns of `w_conditioning` that hear the linear prediction of a sample, and its gain."""

    columns: Tensor  # [3H, any], a view
    gain: float

    @staticmethod
    def of(config: SubscaleConfig, last: Tensor) -> _Predicted:
        """Among those for the rows before, [3H, heard_size]."""
        if config.prediction_reach:
            first = config.channels
            return _Predicted(last[:, first : first + 1], mel_prediction.GAIN)
        return _Predicted(last[:, : min(PREDICTIONS, config.channels)], PREDICTION_GAIN)


class Cell(nn.Module):
    """Weights of the GRU, gates reset, update, candidate; the first H/2 units are coarse."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, inputs = config.hidden_size, config.conditioning_size
        self.w_recurrent = nn.Parameter(torch.empty(3 * size, size))
        self.b_recurrent = nn.Parameter(torch.empty(3 * size))
        self.b_input = nn.Parameter(torch.empty(3 * size))
        self.w_sample = nn.Parameter(torch.empty(3 * size, 3))  # columns c(t-1), f(t-1), c(t)
        if inputs:
            self.w_conditioning = nn.Parameter(torch.empty(3 * size, inputs))
        mask = torch.ones(3, size, 3)
        mask[:, : size // 2, 2] = 0.0  # the coarse half does not see the sample drawn from it
        self.mask: Tensor
        self.register_buffer("mask", mask.reshape(3 * size, 3), persistent=False)
        self.reset()
        if config.subscale is not None:
            self._reset_subscale(config.subscale)

    def reset(self) -> None:
        """Initialise so that the units see the last sample at many gains from the start.

        A sample enters as c + f / 256 (up to scale), and speech fills a small part of [-1, 1]:
        trained models have input weights up to some hundreds, which small steps take long to
        reach. So every unit gets a gain between 1 and 100, spread evenly in the logarithm, on c,
        the matching 1/256 of it on f, and something of f alone. The recurrence is orthogonal gate
        by gate.
        """
        size = self.w_recurrent.shape[1]
        with torch.no_grad():
            for gate in torch.split(self.w_recurrent, size):
                nn.init.orthogonal_(gate)
            gain = 100.0 ** torch.rand(3 * size, 2) * torch.sign(torch.rand(3 * size, 2) - 0.5)
            self.w_sample[:, 0] = gain[:, 0]
            self.w_sample[:, 1] = gain[:, 0] / 256.0 + 0.6 * (torch.rand(3 * size) - 0.5)
            self.w_sample[:, 2] = gain[:, 1]
            self.w_sample.mul_(self.mask)
            nn.init.zeros_(self.b_recurrent)
            nn.init.zeros_(self.b_input)
            if hasattr(self, "w_conditioning"):
                bound = self.w_conditioning.shape[1] ** -0.5
                nn.init.uniform_(self.w_conditioning, -bound, bound)

    def _reset_subscale(self, config: SubscaleConfig) -> None:
        """Let the units hear the rows before at many gains, and their own last sample softly.

        It lies some samples back; the one just before is among what the network hears. All gates
        hear the linear prediction p of the sample, the mel's or that with which the network begins,
        or, in the fine half, how far it lies above c(t): at gains of up to 100, there 316.
        """
        gates, size = self.w_recurrent.shape
        with torch.no_grad():
            self.w_sample[:, :2] *= _LAST_SAMPLE
            gain = 0.1 * 100.0 ** torch.rand(gates, 1)
            last = self.w_conditioning[:, -config.heard_size :]
            last.copy_(torch.randn_like(last) * gain * config.channels**-0.5)
            fine = torch.arange(gates) % size >= size // 2
            some = torch.rand(gates)
            gain = torch.where(fine, 10.0 ** (1.0 + 1.5 * some), 100.0**some)
            gain *= torch.sign(torch.rand(gates) - 0.5)
            predicted = _Predicted.of(config, last)
            self._hear_prediction(torch.arange(gates), gain, predicted)
            self._reset_thermometers(predicted)

    def _hear_prediction(self, rows: Tensor, gain: Tensor, predicted: _Predicted) -> None:
        """Set what these rows of the gates hear of p, less c(t) in the fine half, at a gain."""
        columns = predicted.columns
        columns[rows] = 0.0
        columns[rows, rows % columns.shape[1]] = gain / predicted.gain
        self.w_sample[rows, 2] = -gain * self.mask[rows, 2]

    def _reset_thermometers(self, predicted: _Predicted) -> None:
        """Make most units tanh(g (p - theta)), fine ones tanh(g (p - c(t) - theta)), and no more.

        Every one has its own theta, so that together they tell the output layers where p lies,
        coarse ones among all samples, densest in the middle, fine ones within one value of c.
        Otherwise a few units at the edge of saturation would have to: sharp distributions, those of
        rows with neighbours on both sides, would need large weights behind them, and be learned
        last. They hold no past at first, as it would blur theirs.
        """
        size = self.w_recurrent.shape[1]
        coarse, fine = size // 4, size * 5 // 16
        wide = 30.0 * torch.linspace(-3.0, 3.0, coarse).sinh() / math.sinh(3.0)
        narrow = torch.linspace(-0.6, 0.6, fine)
        theta = torch.cat([wide, narrow]) / 128.0  # so far in values of c
        steep = 64.0 * 8.0 ** torch.rand(coarse) / (1.0 + wide.abs())  # less, where they are rare
        gain = torch.cat([steep, 256.0 * 6.0 ** torch.rand(fine)])
        unit = torch.cat([torch.arange(coarse), size // 2 + torch.arange(fine)])
        reset, update, candidate = unit, size + unit, 2 * size + unit
        for rows in (reset, update, candidate):
            self.w_recurrent[rows] = 0.0
            self.w_sample[rows] = 0.0
            self.w_conditioning[rows] = 0.0
        self._hear_prediction(candidate, gain, predicted)
        self.b_input[candidate] = -gain * theta
        self.b_input[update] = _FORGETTING

    @property
    def masked_sample(self) -> Tensor:
        """`w_sample` [3H, 3] with zeros where the coarse half would see c(t)."""
        return self.w_sample * self.mask
