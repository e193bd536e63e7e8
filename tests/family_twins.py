"""The published relatives of fatchord's network in PyTorch: oracles of their loaders.

Written from the published programs' equations, with their parameter names, so that
``load_state_dict(strict=True)`` proves that the builders write the published layouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from checkpoint_twins import _as_module
from torch import nn
from torch.nn import functional as F


class _Block(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, 1, bias=bias)
        self.conv2 = nn.Conv1d(width, width, 1, bias=bias)
        self.batch_norm1 = nn.BatchNorm1d(width)
        self.batch_norm2 = nn.BatchNorm1d(width)

    def forward(self, x: torch.Tensor) -> Any:
        return x + self.batch_norm2(self.conv2(torch.relu(self.batch_norm1(self.conv1(x)))))


class _ResNet(nn.Module):
    def __init__(self, sizes: dict[str, int], bias: bool) -> None:
        super().__init__()
        width, n_mels, taps = sizes["channels"], sizes["n_mels"], 2 * sizes["pad"] + 1
        self.conv_in = nn.Conv1d(n_mels, width, taps, bias=bias)
        self.batch_norm = nn.BatchNorm1d(width)
        self.layers = nn.ModuleList(_Block(width, bias) for _ in range(sizes["blocks"]))
        self.conv_out = nn.Conv1d(width, 4 * sizes["aux"], 1)

    def forward(self, mel: torch.Tensor) -> Any:
        x = torch.relu(self.batch_norm(self.conv_in(mel)))
        for layer in self.layers:
            x = layer(x)
        return self.conv_out(x)


class _Filters(nn.Module):
    """Repetitions and filters; `forward` takes the padded mel [1, M, n + 2 pad]."""

    def __init__(self, scales: Sequence[int], sizes: dict[str, int], bias: bool) -> None:
        super().__init__()
        self.resnet = _ResNet(sizes, bias)
        stages: list[nn.Module] = []
        for s in scales:
            stages.append(nn.Identity())
            stages.append(nn.Conv2d(1, 1, (1, 2 * s + 1), padding=(0, s), bias=bias))
        self.up_layers = nn.ModuleList(stages)
        self.scales, self.pad = tuple(scales), sizes["pad"]

    def forward(self, padded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hop = int(np.prod(self.scales))
        x = padded[:, None]
        for scale, conv in zip(self.scales, list(self.up_layers)[1::2], strict=True):
            x = conv(x.repeat_interleave(scale, dim=-1))
        aux = self.resnet(padded).repeat_interleave(hop, dim=-1)
        return x[0, 0, :, self.pad * hop : -self.pad * hop].T, aux[0].T


class _Linear(nn.Module):
    """Interpolation over the whole utterance, mel times 0.045."""

    def __init__(self, hop: int, sizes: dict[str, int]) -> None:
        super().__init__()
        self.resnet = _ResNet(sizes, bias=False)
        self.hop, self.pad = hop, sizes["pad"]

    def forward(self, padded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        how = {"scale_factor": float(self.hop), "mode": "linear", "align_corners": True}
        aux = F.interpolate(self.resnet(padded), **how)
        mel = F.interpolate(padded, **how)[:, :, self.pad * self.hop : -self.pad * self.hop]
        return 0.045 * mel[0].T, aux[0].T


class Relative(nn.Module):
    """The residual model with the switches of its relatives.

    Parameters
    ----------
    linear : int
        Samples of a frame where there are no filters; 0: filters.
    hears_aux : bool
        Whether the slices of the auxiliary network are read.
    bias, beyond
        Biases of convolutions and filters; value of the frames that the mel is padded with.
    speaker : int
        Numbers of the speaker's vector.
    """

    def __init__(
        self,
        *,
        hidden: int = 16,
        fc: int = 16,
        classes: int = 512,
        scales: Sequence[int] = (2, 2, 3),
        linear: int = 0,
        hears_aux: bool = True,
        bias: bool = False,
        beyond: float = 0.0,
        speaker: int = 0,
        **sizes: int,
    ) -> None:
        super().__init__()
        every = {"n_mels": 8, "aux": 4, "channels": 12, "blocks": 2, "pad": 2} | sizes
        if linear:
            self.upsample: nn.Module = _Linear(linear, every)
        else:
            self.upsample = _Filters(scales, every, bias)
        self.pad, self.beyond = every["pad"], beyond
        self.aux = aux = every["aux"] if hears_aux else 0
        self.I = nn.Linear(1 + every["n_mels"] + aux + speaker, hidden)
        self.rnn1 = nn.GRU(hidden, hidden, batch_first=True)
        self.rnn2 = nn.GRU(hidden + aux, hidden, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(hidden + aux, fc), nn.Linear(fc + aux, fc)
        self.fc3 = nn.Linear(fc, classes)

    @torch.no_grad()
    def logits(self, mel: np.ndarray, x: np.ndarray, speaker: np.ndarray | None) -> np.ndarray:
        """Outputs [n * hop, C] for mel [M, n], the values x [n * hop] fed back before each."""
        padded = F.pad(
            torch.from_numpy(mel).double()[None], (self.pad, self.pad), value=self.beyond
        )
        mel_up, aux = self.upsample(padded)
        parts = [aux[:, i * self.aux : (i + 1) * self.aux] for i in range(4)]
        heard = [torch.from_numpy(x).double()[:, None], mel_up, parts[0]]
        if speaker is not None:
            heard.append(torch.from_numpy(speaker).double().expand(len(mel_up), -1))
        u = self.I(torch.cat(heard, dim=1))
        v = u + self.rnn1(u[None])[0][0]
        w = v + self.rnn2(torch.cat([v, parts[1]], dim=1)[None])[0][0]
        p = torch.relu(self.fc1(torch.cat([w, parts[2]], dim=1)))
        q = torch.relu(self.fc2(torch.cat([p, parts[3]], dim=1)))
        logits: torch.Tensor = self.fc3(q)
        return logits.numpy()


def relative(state: dict[str, np.ndarray], **switches: Any) -> Relative:
    """The module with these weights, loaded strictly (a step counter aside)."""
    kept = {name: array for name, array in state.items() if name != "step"}
    return _as_module(kept, Relative(**switches))
