"""Rongjiehuang/Multiband-WaveRNN in PyTorch, from its equations: the oracle of its loader and pipe.

Names are the published ones, so ``load_state_dict(strict=True)`` proves that the builder writes the
published layout. The filter bank is dense: convolutions over the whole signal in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from checkpoint_twins import _as_module, _ResNet, _Upsample
from torch import nn
from torch.nn import functional as F

BANDS, FLOOR = 4, -5.0


class Multiband(nn.Module):
    """The module; sizes as in `checkpoint_builders.multiband`."""

    def __init__(
        self,
        *,
        hidden: int = 16,
        fc: int = 16,
        classes: int = 512,
        n_mels: int = 8,
        aux: int = 4,
        channels: int = 12,
        blocks: int = 2,
        pad: int = 2,
        scales: Sequence[int] = (2, 2, 3),
    ) -> None:
        super().__init__()
        self.aux, self.classes, self.hidden = aux, classes, hidden
        resnet = _ResNet(n_mels, channels, 4 * aux, blocks, pad)
        self.upsample = _Upsample(scales, resnet, pad, FLOOR)
        self.I = nn.Linear(n_mels + aux + BANDS, hidden)
        self.rnn1 = nn.GRU(hidden, hidden, batch_first=True)
        self.rnn2 = nn.GRU(hidden + aux, hidden, batch_first=True)
        self.fc1 = nn.Linear(hidden + aux, fc)
        self.fc2 = nn.Linear(fc + aux, fc)
        self.fc31 = nn.Linear(fc, classes)
        self.fc32 = nn.Linear(fc, classes)
        self.fc33 = nn.Linear(fc, classes)
        self.fc30 = nn.Linear(fc, classes)
        self.register_buffer("step", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def logits(self, mel: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Outputs [n, 4, C] of n steps that follow labels [n, 4], step by step; mel [M, frames]."""
        mel_up, aux = self.upsample(torch.from_numpy(mel).double()[None])
        cells = [self._cell(gru) for gru in (self.rnn1, self.rnn2)]
        h1 = h2 = torch.zeros(1, self.hidden, dtype=torch.float64)
        x, rows = torch.zeros(1, BANDS, dtype=torch.float64), []
        for i, drawn in enumerate(labels):
            a1, a2, a3, a4 = aux[i : i + 1].split(self.aux, dim=1)
            x = self.I(torch.cat([x, mel_up[i : i + 1], a1], dim=1))
            h1 = cells[0](x, h1)
            x = x + h1
            h2 = cells[1](torch.cat([x, a2], dim=1), h2)
            x = x + h2
            x = F.relu(self.fc1(torch.cat([x, a3], dim=1)))
            x = F.relu(self.fc2(torch.cat([x, a4], dim=1)))
            heads = (self.fc30, self.fc31, self.fc32, self.fc33)
            rows.append(torch.cat([head(x) for head in heads]))
            x = 2 * torch.from_numpy(drawn[None].astype(np.float64)) / (self.classes - 1.0) - 1.0
        found: np.ndarray = torch.stack(rows).numpy()
        return found

    def _cell(self, gru: nn.GRU) -> nn.GRUCell:
        cell = nn.GRUCell(gru.input_size, gru.hidden_size).double()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(cell, name, getattr(gru, f"{name}_l0"))
        return cell


def multiband(state: dict[str, np.ndarray], **sizes: Any) -> Multiband:
    """The module with these weights, loaded strictly."""
    return _as_module(state, Multiband(**sizes))


# --- the filter bank ------------------------------------------------------------------------------


def filters(bands: int = BANDS) -> tuple[np.ndarray, np.ndarray]:
    """Analysis and synthesis [bands, 63]; for two bands, what the package chose."""
    taps, cutoff, off = (62, 0.15, 30.5) if bands == 4 else (62, 0.267, 31.0)
    n = np.arange(taps + 1)
    with np.errstate(invalid="ignore"):
        h = np.sin(np.pi * cutoff * (n - 0.5 * taps)) / (np.pi * (n - 0.5 * taps))
    h[taps // 2] = cutoff
    h = h * np.kaiser(taps + 1, 9.0)
    both = np.zeros((2, bands, taps + 1))
    for k in range(bands):
        angle = (2 * k + 1) * (np.pi / (2 * bands)) * (n - off)
        both[0, k] = 2 * h * np.cos(angle + (-1) ** k * np.pi / 4)
        both[1, k] = 2 * h * np.cos(angle - (-1) ** k * np.pi / 4)
    return both[0], both[1]


def _picks(bands: int) -> torch.Tensor:
    picks = torch.zeros(bands, bands, bands, dtype=torch.float64)
    for k in range(bands):
        picks[k, k, 0] = 1.0
    return picks


def analysis(wave: np.ndarray, bands: int = BANDS) -> np.ndarray:
    """Sub-bands [bands, T // bands] of a wave [T]."""
    x = F.pad(torch.from_numpy(wave)[None, None], (31, 31))
    x = F.conv1d(x, torch.from_numpy(filters(bands)[0])[:, None])
    found: np.ndarray = F.conv1d(x, _picks(bands), stride=bands)[0].numpy()
    return found


def synthesis(values: np.ndarray) -> np.ndarray:
    """Wave [bands * T] of sub-bands [bands, T]."""
    bands = len(values)
    x = torch.from_numpy(np.ascontiguousarray(values))[None]
    x = F.conv_transpose1d(x, _picks(bands) * bands, stride=bands)
    found: np.ndarray = F.conv1d(F.pad(x, (31, 31)), torch.from_numpy(filters(bands)[1])[None])[
        0, 0
    ]
    return np.asarray(found)


def waveform(labels: np.ndarray, classes: int) -> np.ndarray:
    """Wave [4 n] of labels [n, 4]: to float32 values, mu-law in float64, synthesis."""
    values = 2 * torch.from_numpy(labels).float() / (classes - 1.0) - 1.0
    y, mu = values.numpy().astype(np.float64), classes - 1
    return synthesis((np.sign(y) / mu * ((1 + mu) ** np.abs(y) - 1)).T)
