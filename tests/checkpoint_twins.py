"""The published modules in PyTorch, written from their equations: independent oracles of loaders.

Module and parameter names are the published ones, so ``load_state_dict(strict=True)`` proves that
the builders write the published layouts. All compute in float64 under teacher forcing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

_Module = TypeVar("_Module", bound=nn.Module)


def _as_module(state: dict[str, np.ndarray], module: _Module) -> _Module:
    """Load strictly and switch to evaluation in float64."""
    module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    return module.double().eval()


# ---------------------------------------------------------------- fatchord


class _ResBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, 1, bias=False)
        self.conv2 = nn.Conv1d(width, width, 1, bias=False)
        self.batch_norm1 = nn.BatchNorm1d(width)
        self.batch_norm2 = nn.BatchNorm1d(width)

    def forward(self, x: torch.Tensor) -> Any:
        inner = torch.relu(self.batch_norm1(self.conv1(x)))
        return x + self.batch_norm2(self.conv2(inner))


class _ResNet(nn.Module):
    def __init__(self, n_mels: int, width: int, out: int, blocks: int, pad: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv1d(n_mels, width, 2 * pad + 1, bias=False)
        self.batch_norm = nn.BatchNorm1d(width)
        self.layers = nn.ModuleList(_ResBlock(width) for _ in range(blocks))
        self.conv_out = nn.Conv1d(width, out, 1)

    def forward(self, mel: torch.Tensor) -> Any:
        x = torch.relu(self.batch_norm(self.conv_in(mel)))
        for layer in self.layers:
            x = layer(x)
        return self.conv_out(x)


class _Stretch(nn.Module):
    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> Any:
        return x.repeat_interleave(self.scale, dim=-1)


class _Upsample(nn.Module):
    def __init__(
        self, scales: Sequence[int], resnet: nn.Module | None, pad: int, floor: float = 0.0
    ) -> None:
        super().__init__()
        if resnet is not None:
            self.resnet = resnet
        stages: list[nn.Module] = []
        for s in scales:
            stages += [_Stretch(s), nn.Conv2d(1, 1, (1, 2 * s + 1), padding=(0, s), bias=False)]
        self.up_layers = nn.ModuleList(stages)
        self.hop = int(np.prod(scales))
        self.pad, self.floor = pad, floor

    def forward(self, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pad mel [1, M, n] by `pad` frames of `floor`; mel_up and aux, [n * hop, ...] each."""
        padded = F.pad(mel, (self.pad, self.pad), value=self.floor)
        aux = None
        if hasattr(self, "resnet"):
            aux = self.resnet(padded).repeat_interleave(self.hop, dim=-1)[0].T
        up = padded[:, None]
        for stage in self.up_layers:
            up = stage(up)
        cut = self.pad * self.hop
        return up[0, 0, :, cut:-cut].T, aux


class Fatchord(nn.Module):
    """The residual model; `aux` 0 leaves the auxiliary network out."""

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
        resnet = _ResNet(n_mels, channels, 4 * aux, blocks, pad) if aux else None
        self.aux = aux
        self.upsample = _Upsample(scales, resnet, pad)
        self.I = nn.Linear(1 + n_mels + aux, hidden)
        self.rnn1 = nn.GRU(hidden, hidden, batch_first=True)
        self.rnn2 = nn.GRU(hidden + aux, hidden, batch_first=True)
        self.fc1 = nn.Linear(hidden + aux, fc)
        self.fc2 = nn.Linear(fc + aux, fc)
        self.fc3 = nn.Linear(fc, classes)
        self.register_buffer("step", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def logits(self, mel: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Outputs [n * hop, C] for mel [M, n] and the values x [n * hop] fed back before each."""
        mel_up, aux = self.upsample(torch.from_numpy(mel).double()[None])
        parts = list(aux.split(self.aux, dim=1)) if aux is not None else [mel_up[:, :0]] * 4
        fed = torch.from_numpy(x).double()[:, None]
        u = self.I(torch.cat([fed, mel_up, parts[0]], dim=1))
        v = u + self.rnn1(u[None])[0][0]
        w = v + self.rnn2(torch.cat([v, parts[1]], dim=1)[None])[0][0]
        p = torch.relu(self.fc1(torch.cat([w, parts[2]], dim=1)))
        q = torch.relu(self.fc2(torch.cat([p, parts[3]], dim=1)))
        logits: torch.Tensor = self.fc3(q)
        return logits.numpy()


def fatchord(state: dict[str, np.ndarray], **sizes: Any) -> Fatchord:
    """The module with these weights, loaded strictly."""
    return _as_module(state, Fatchord(**sizes))


# ---------------------------------------------------------------- geneing


class Geneing(nn.Module):
    """The single-GRU model; `drops` leaves the last channel of the first slice out of I."""

    def __init__(
        self,
        *,
        hidden: int = 16,
        fc: int = 16,
        classes: int = 512,
        n_mels: int = 8,
        aux: int = 8,
        channels: int = 12,
        blocks: int = 2,
        pad: int = 2,
        scales: Sequence[int] = (2, 2, 3),
        drops: bool = True,
    ) -> None:
        super().__init__()
        self.aux, self.heard = aux, aux - 1 if drops else aux
        self.upsample = _Upsample(scales, _ResNet(n_mels, channels, 2 * aux, blocks, pad), pad)
        self.I = nn.Linear(1 + n_mels + self.heard, hidden)
        self.rnn1 = nn.GRU(hidden, hidden, batch_first=True)
        self.fc1 = nn.Linear(hidden + aux, fc)
        self.fc3 = nn.Linear(fc, classes)

    @torch.no_grad()
    def logits(self, mel: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Outputs [n * hop, C] for mel [M, n] and the values x [n * hop] fed back before each."""
        mel_up, aux = self.upsample(torch.from_numpy(mel).double()[None])
        assert aux is not None
        first, second = aux.split(self.aux, dim=1)
        fed = torch.from_numpy(x).double()[:, None]
        u = self.I(torch.cat([fed, mel_up, first[:, : self.heard]], dim=1))
        v = u + self.rnn1(u[None])[0][0]
        logits: torch.Tensor = self.fc3(torch.relu(self.fc1(torch.cat([v, second], dim=1))))
        return logits.numpy()


def geneing(state: dict[str, np.ndarray], **sizes: Any) -> Geneing:
    """The module with these weights, loaded strictly."""
    return _as_module(state, Geneing(**sizes))


# ---------------------------------------------------------------- dual softmax


class Deepmind(nn.Module):
    """fatchord's deepmind_version: gates update, reset, candidate; biases beside the inputs."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        half = hidden // 2
        self.hidden, self.units = hidden, half
        self.R = nn.Linear(hidden, 3 * hidden, bias=False)
        self.O1, self.O2 = nn.Linear(half, half), nn.Linear(half, 256)
        self.O3, self.O4 = nn.Linear(half, half), nn.Linear(half, 256)
        self.I_coarse = nn.Linear(2, 3 * half, bias=False)
        self.I_fine = nn.Linear(3, 3 * half, bias=False)
        self.bias_u = nn.Parameter(torch.zeros(hidden))
        self.bias_r = nn.Parameter(torch.zeros(hidden))
        self.bias_e = nn.Parameter(torch.zeros(hidden))

    @torch.no_grad()
    def logits(self, samples: np.ndarray) -> np.ndarray:
        """Outputs [n, 512] following `samples` (256 c + f), starting from c = f = 0."""
        h, c, f = torch.zeros(self.hidden).double(), 0, 0
        rows = []
        for sample in samples:
            c_now, f_now = divmod(int(sample), 256)
            last = torch.tensor([c / 127.5 - 1, f / 127.5 - 1]).double()
            now = torch.tensor([c_now / 127.5 - 1]).double()
            coarse = torch.split(self.I_coarse(last), self.units)
            fine = torch.split(self.I_fine(torch.cat([last, now])), self.units)
            inputs = [torch.cat(pair) for pair in zip(coarse, fine, strict=True)]
            r_u, r_r, r_e = torch.split(self.R(h), self.hidden)
            u = torch.sigmoid(r_u + inputs[0] + self.bias_u)
            r = torch.sigmoid(r_r + inputs[1] + self.bias_r)
            e = torch.tanh(r * r_e + inputs[2] + self.bias_e)
            h = u * h + (1 - u) * e
            h_c, h_f = torch.split(h, self.units)
            out = [self.O2(torch.relu(self.O1(h_c))), self.O4(torch.relu(self.O3(h_f)))]
            rows.append(torch.cat(out))
            c, f = c_now, f_now
        return torch.stack(rows).numpy()


def deepmind(state: dict[str, np.ndarray], hidden: int = 32) -> Deepmind:
    """The module with these weights, loaded strictly."""
    return _as_module(state, Deepmind(hidden))


class _MkothaUpsample(nn.Module):
    def __init__(self, scales: Sequence[int]) -> None:
        super().__init__()
        self.scales = scales
        self.up_layers = nn.ModuleList(nn.Conv2d(1, 1, (1, 2 * s - 1)) for s in scales)

    def forward(self, mel: torch.Tensor) -> Any:
        x = mel[None, None]
        for scale, layer in zip(self.scales, self.up_layers, strict=True):
            x = layer(x.repeat_interleave(scale, dim=-1))
        return x[0, 0, :, 1:-1].T


class _MkothaCell(nn.Module):
    def __init__(self, hidden: int, fc: int, n_mels: int) -> None:
        super().__init__()
        self.gru = nn.GRU(n_mels + 3, hidden, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(hidden // 2, fc), nn.Linear(fc, 256)
        self.fc3, self.fc4 = nn.Linear(hidden // 2, fc), nn.Linear(fc, 256)


class Mkotha(nn.Module):
    """The GRU is evaluated twice a sample from the same state: without, then with c_t."""

    def __init__(
        self,
        *,
        hidden: int = 32,
        fc: int = 16,
        n_mels: int = 8,
        scales: Sequence[int] = (2, 2, 3),
    ) -> None:
        super().__init__()
        self.units = hidden // 2
        self.upsample = _MkothaUpsample(scales)
        self.wavernn = _MkothaCell(hidden, fc, n_mels)

    @torch.no_grad()
    def logits(self, mel: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Outputs [n, 512] for mel [M, n_frames] following `samples` (256 c + f)."""
        cell, rows = self.wavernn, []
        # Training masks c_t for the coarse units; generation reads only the right half each time.
        up = self.upsample(torch.from_numpy(mel).double())
        h, c, f = torch.zeros(1, 1, 2 * self.units).double(), 0.0, 0.0
        for mel_t, sample in zip(up, samples, strict=True):
            c_new, f_new = (value / 127.5 - 1 for value in divmod(int(sample), 256))

            def state(c_now: float) -> Any:
                x = torch.cat([mel_t, torch.tensor([c, f, c_now]).double()])  # noqa: B023
                return cell.gru(x[None, None], h)[1]  # noqa: B023

            h_c = state(0.0)[0, 0, : self.units]
            new = state(c_new)
            coarse = cell.fc2(torch.relu(cell.fc1(h_c)))
            fine = cell.fc4(torch.relu(cell.fc3(new[0, 0, self.units :])))
            rows.append(torch.cat([coarse, fine]))
            h, c, f = new, c_new, f_new
        return torch.stack(rows).numpy()


def mkotha(state: dict[str, np.ndarray], **sizes: Any) -> Mkotha:
    """The module with these weights, loaded strictly."""
    return _as_module(state, Mkotha(**sizes))


class _FrameNet(nn.Module):
    def __init__(self, n_mels: int) -> None:
        super().__init__()
        convs = [nn.Conv1d(n_mels, n_mels, 3, padding=1) for _ in range(2)]
        self.convs = nn.Sequential(convs[0], nn.Tanh(), convs[1], nn.Tanh())
        dense = [nn.Linear(n_mels, n_mels) for _ in range(2)]
        self.fc = nn.Sequential(dense[0], nn.Tanh(), dense[1], nn.Tanh())

    def forward(self, mel: torch.Tensor) -> Any:
        return self.fc((self.convs(mel[None])[0] + mel).T)


class _YanggengCell(nn.Module):
    def __init__(self, hidden: int, fc: int, n_mels: int) -> None:
        super().__init__()

        def outputs() -> nn.Sequential:
            return nn.Sequential(nn.Linear(hidden // 2, fc), nn.ReLU(), nn.Linear(fc, 256))

        self.gru = nn.GRU(n_mels + 3, hidden, batch_first=True)
        self.fc_coarse, self.fc_fine = outputs(), outputs()
        self.register_buffer("mask", torch.zeros(3 * hidden, n_mels + 3))


class _YanggengUpsample(nn.Module):
    """Frames [n, M] to samples, behind `lstm` LSTM layers if there are any."""

    def __init__(self, n_mels: int, lstm: int) -> None:
        super().__init__()
        if lstm:
            self.lstm_layer = nn.LSTM(n_mels, n_mels, num_layers=lstm, batch_first=True)

    def forward(self, frames: torch.Tensor) -> Any:
        if hasattr(self, "lstm_layer"):
            frames = self.lstm_layer(frames[None])[0][0]
        return frames.repeat_interleave(200, dim=0)


class Yanggeng(nn.Module):
    """The network over frames, each held for 200 samples, and the cell in one pass over inputs."""

    def __init__(self, *, hidden: int = 32, fc: int = 16, n_mels: int = 8, lstm: int = 0) -> None:
        super().__init__()
        self.units = hidden // 2
        self.frame_net = _FrameNet(n_mels)
        self.upsample = _YanggengUpsample(n_mels, lstm)
        self.wavernn = _YanggengCell(hidden, fc, n_mels)

    @torch.no_grad()
    def logits(self, mel: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Outputs [n, 512] for mel [M, n_frames] following `samples` (256 c + f)."""
        cell = self.wavernn
        held = self.upsample(self.frame_net(torch.from_numpy(mel).double()))
        now = torch.from_numpy(np.stack(divmod(samples, 256), axis=1) / 127.5 - 1)
        last = torch.cat([torch.zeros(1, 2).double(), now[:-1]])
        x = torch.cat([held[: len(now)], last, now[:, :1]], dim=1)  # weights are masked as trained
        h = cell.gru(x[None])[0][0]
        halves = (cell.fc_coarse(h[:, : self.units]), cell.fc_fine(h[:, self.units :]))
        return torch.cat(halves, dim=1).numpy()


def yanggeng(state: dict[str, np.ndarray], **sizes: Any) -> Yanggeng:
    """The module with these weights, loaded strictly."""
    return _as_module(state, Yanggeng(**sizes))
