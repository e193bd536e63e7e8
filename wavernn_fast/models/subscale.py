"""The network of a subscale model that hears the rows before a row, for training.

Kalchbrenner et al. 2018, section 4, fold an utterance into B rows of samples n = B i + s and let
"a masked dilated CNN with relus" hear, for sample (s, i), the rows before s up to column i + F;
its layers they leave open. Ours, with R = `SubscaleConfig.reach` (docs/subscale.md has its cost)::

    x[s, i]  = bias[s] + sum over rows z < s, columns |d| <= R of weight[s, z, d] u[z, i + d]
    x[s, i] += conv2 relu(conv1(x[s, i - D], x[s, i], x[s, i + D]))         for D = 1, 2, 4, ...

The first layer is linear and has weights of its own for every row, because each row misses other
neighbours: it is the best place to interpolate. In training they are the sum of weights that all
rows share, by the distance from sample to sample, and of the row's own: what the sample before says
is then learned once, not in every row. The mask lies there, and only there; the blocks
mix columns of one row, all of which are masked alike. Beyond the ends of an utterance u is 0, and
the network goes on, so it is the same function at every column. The result is added to the
conditioning of the cell: its columns of `gru.w_conditioning` are the last layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import SubscaleConfig

# Speech fills a small part of [-1, 1], and its quiet end matters: channels of the first layer hear
# it at these gains, as otherwise small steps would take long to reach weights of some hundreds.
_LEAST_GAIN, _MOST_GAIN = 2.0, 64.0
_NEAR = 6.0  # samples over which the first weights of the first layer fall by e


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
        self.mask: Tensor  # [row, 1, row seen, 1]: whether it lies before
        self.gains: Tensor  # [channels, 1, 1]
        self.distance: Tensor  # [row, row seen, columns], counted from the farthest sample before
        for name, value in _fixed(config)._asdict().items():
            self.register_buffer(name, value, persistent=False)
        distance = torch.arange(self.shared.shape[1]) - (config.factor * (config.reach + 1) - 1)
        with torch.no_grad():  # every channel hears some of the nearest samples
            self.shared.copy_(torch.randn_like(self.shared) * torch.exp(-distance.abs() / _NEAR))

    @property
    def input_weight(self) -> Tensor:
        """The first layer as it acts: [row, channels, row seen, columns], zero where masked."""
        fixed = _Fixed(self.mask, self.gains, self.distance)
        return _input_weight(fixed, self.shared, self.weight)

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


class _Fixed(NamedTuple):
    """What follows from the sizes; see `SubscaleNetwork`."""

    mask: Tensor
    gains: Tensor
    distance: Tensor


def _fixed(config: SubscaleConfig) -> _Fixed:
    rows, reach = config.factor, config.reach
    row = torch.arange(rows)
    mask = (row[None, :] < row[:, None]).float()[:, None, :, None]
    spread = torch.linspace(math.log(_LEAST_GAIN), math.log(_MOST_GAIN), config.channels)
    columns = rows * (torch.arange(2 * reach + 1) + 1)  # from -reach on
    distance = columns[None, None, :] + row[None, :, None] - row[:, None, None] - 1
    return _Fixed(mask, spread.exp()[:, None, None], distance)


def _input_weight(fixed: _Fixed, shared: Tensor, own: Tensor) -> Tensor:
    """Sum of shared and own weights, masked and scaled: [row, channels, row seen, columns]."""
    every = shared[:, fixed.distance].transpose(0, 1)
    return (every + own) * fixed.mask * fixed.gains


def input_layer(config: SubscaleConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """First layer as canonical tensors, from a state dict of `models.wavernn.WaveRNN`."""
    shared, own, bias = (state[f"subscale.{part}"].cpu() for part in ("shared", "weight", "bias"))
    weight = _input_weight(_fixed(config), shared, own)
    return {"subscale.input.weight": weight, "subscale.input.bias": bias}


def input_parameters(config: SubscaleConfig, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Entries of such a state dict that act as this canonical first layer; nothing is shared."""
    shared = torch.zeros(config.channels, config.factor * (2 * config.reach + 2) - 1)
    own = weight / _fixed(config).gains
    return {"subscale.shared": shared, "subscale.weight": own, "subscale.bias": bias}
