"""The published classes of the embedded core in PyTorch, as `checkpoint_twins` has the others.

Each has `held`, what conditions every sample, and `step`, one step by nn.GRUCell; `logits` follows
given labels and `labels` draws its own, with a draw that the caller supplies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from checkpoint_twins import _as_module
from torch import nn
from torch.nn import functional as F


class LabelTwin(nn.Module):
    """What all share; `first` is fed back before the first sample, `hop` samples are a frame."""

    first: int
    hop: int

    def held(self, mel: torch.Tensor) -> torch.Tensor:
        """Conditioning [frames, channels] of mel [n_mels, n]."""
        raise NotImplementedError

    def step(self, label: torch.Tensor, c: torch.Tensor, h: torch.Tensor) -> Any:
        """(Logits [1, C], new state [1, H]) for label [1] and conditioning [1, channels]."""
        raise NotImplementedError

    def start(self) -> torch.Tensor:
        """State [1, H] of zeros."""
        raise NotImplementedError

    @torch.no_grad()
    def run(
        self, mel: np.ndarray, choose: Callable[[int, np.ndarray], int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels and logits of all samples; `choose` makes a label of its number and its logits."""
        up = self.held(torch.from_numpy(mel).double()).T[None]
        if up.shape[1]:
            up = F.interpolate(up, scale_factor=float(self.hop))
        h, label = self.start(), torch.tensor([self.first])
        labels, rows = [], []
        for i, c in enumerate(up[0].T):
            logits, h = self.step(label, c[None], h)
            label = torch.tensor([choose(i, logits[0].numpy())])
            labels.append(int(label))
            rows.append(logits[0].numpy())
        return np.array(labels), np.array(rows)

    def logits(self, mel: np.ndarray, forced: np.ndarray) -> np.ndarray:
        """Logits [n, C] when `forced` is fed back."""
        return self.run(mel, lambda i, _: int(forced[i]))[1]


def _cell(gru: nn.GRU) -> nn.GRUCell:
    cell = nn.GRUCell(gru.input_size, gru.hidden_size).double()
    cell.weight_ih.data, cell.weight_hh.data = gru.weight_ih_l0.data, gru.weight_hh_l0.data
    cell.bias_ih.data, cell.bias_hh.data = gru.bias_ih_l0.data, gru.bias_hh_l0.data
    return cell


class Univoc(LabelTwin):
    """univoc.Vocoder; `first_version` is model.py of 0.1, whose network is two GRUs."""

    def __init__(
        self,
        *,
        hidden: int = 32,
        fc: int = 16,
        classes: int = 1024,
        n_mels: int = 8,
        embedding: int = 6,
        conditioning: int = 5,
        hop: int = 200,
        first_version: bool = False,
    ) -> None:
        super().__init__()
        self.first, self.hop, self.first_version = classes // 2, hop, first_version
        options: dict[str, Any] = {"batch_first": True, "bidirectional": True}
        inputs = embedding + 2 * conditioning
        if first_version:
            self.rnn1 = nn.GRU(n_mels, conditioning, **options)
            self.rnn2 = nn.GRU(2 * conditioning, conditioning, **options)
            self.rnn3 = nn.GRU(inputs, hidden, batch_first=True)
        else:
            self.rnn1 = nn.GRU(n_mels, conditioning, num_layers=2, **options)
            self.rnn2 = nn.GRU(inputs, hidden, batch_first=True)
        self.embedding = nn.Embedding(classes, embedding)
        self.fc1, self.fc2 = nn.Linear(hidden, fc), nn.Linear(fc, classes)

    def held(self, mel: torch.Tensor) -> torch.Tensor:
        held, _ = self.rnn1(mel.T[None])
        if self.first_version:
            held, _ = self.rnn2(held)
        return held[0]

    def start(self) -> torch.Tensor:
        gru = self.rnn3 if self.first_version else self.rnn2
        self.cell = [_cell(gru)]  # in a list: no part of the state dict
        return torch.zeros(1, gru.hidden_size).double()

    def step(self, label: torch.Tensor, c: torch.Tensor, h: torch.Tensor) -> Any:
        h = self.cell[0](torch.cat([self.embedding(label), c], dim=1), h)
        return self.fc2(F.relu(self.fc1(h))), h


class _Conditioner(nn.Module):
    def __init__(self, n_mels: int, channels: int, layers: int, width: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for i in range(layers):
            parts += [nn.Conv1d(channels if i else n_mels, channels, width), nn.Tanh()]
        self.model = nn.Sequential(*parts)
        self.register_buffer("input_range", torch.zeros(2))


class _Autoregressive(nn.Module):
    def __init__(self, channels: int, hidden: int, fc: int) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, hidden, batch_first=True)
        self.post_gru = nn.Linear(hidden, fc)


class _Domain(nn.Module):
    def __init__(self, classes: int, channels: int, fc: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, channels)
        self.linear = nn.Linear(fc, classes)


class Gibiansky(LabelTwin):
    """wavernn.model.Model with one band: embedding and conditioning are added."""

    def __init__(
        self,
        *,
        hidden: int = 32,
        fc: int = 16,
        classes: int = 256,
        n_mels: int = 8,
        channels: int = 6,
        layers: int = 3,
        width: int = 5,
        hop: int = 256,
    ) -> None:
        super().__init__()
        self.first, self.hop = 127, hop
        self.conditioner = _Conditioner(n_mels, channels, layers, width)
        self.autoregressive = _Autoregressive(channels, hidden, fc)
        self.domain = _Domain(classes, channels, fc)

    def held(self, mel: torch.Tensor) -> torch.Tensor:
        low, high = self.conditioner.input_range
        centre, scale = (low + high) / 2, (high - low) / 2
        held: torch.Tensor = self.conditioner.model(((mel + centre) / scale)[None])[0].T
        return held

    def start(self) -> torch.Tensor:
        self.cell = [_cell(self.autoregressive.gru)]
        return torch.zeros(1, self.autoregressive.gru.hidden_size).double()

    def step(self, label: torch.Tensor, c: torch.Tensor, h: torch.Tensor) -> Any:
        h = self.cell[0](c + self.domain.embedding(label), h)
        return self.domain.linear(F.relu(self.autoregressive.post_gru(h))), h


class _SkipDilated(nn.Module):
    """yukarin_wavernn's SkipDilatedCNN: [1, n, in] -> [1, n, size]."""

    def __init__(self, heard: int, layers: int, size: int) -> None:
        super().__init__()
        self.pre = nn.Conv1d(heard, size, 1)
        self.conv_list = nn.ModuleList(
            nn.utils.weight_norm(nn.Conv1d(size, size, 3, dilation=2**i, padding=2**i))
            for i in range(layers)
        )

    def forward(self, x: torch.Tensor) -> Any:
        h = self.pre(x.transpose(1, 2))
        for conv in self.conv_list:
            h = h + conv(torch.relu(h))
        return h.transpose(1, 2)


class _Bottleneck(nn.Module):
    """Its ResidualBottleneckDilatedCNN; with `normed` ResidualBottleneckDilatedCNNBN."""

    def __init__(self, heard: int, layers: int, size: int, normed: bool) -> None:
        super().__init__()
        narrow, norm = size // 4, (lambda m: m) if normed else nn.utils.weight_norm
        self.normed = normed
        self.pre = nn.Conv1d(heard, size, 1)
        shapes = ((size, narrow, 1), (narrow, narrow, 3), (narrow, size, 1))
        for k, (ins, outs, kernel) in enumerate(shapes, start=1):
            convs, norms = nn.ModuleList(), nn.ModuleList()
            for i in range(layers):
                dilation, padding = (2**i, 2**i) if kernel == 3 else (1, 0)
                conv = nn.Conv1d(ins, outs, kernel, dilation=dilation, padding=padding)
                convs.append(norm(conv))
                norms.append(nn.BatchNorm1d(ins))
            setattr(self, f"conv{k}_list", convs)
            if normed:
                setattr(self, f"bn{k}_list", norms)

    def forward(self, x: torch.Tensor) -> Any:
        h = self.pre(x.transpose(1, 2))
        for i in range(len(self.conv1_list)):
            y = h
            for k in (1, 2, 3):
                if self.normed:
                    y = getattr(self, f"bn{k}_list")[i](y)
                y = getattr(self, f"conv{k}_list")[i](torch.relu(y))
            h = h + y
        return h.transpose(1, 2)


class Yukarin(LabelTwin):
    """WaveRNN of yukarin_wavernn; without features if `n_mels` is 0.

    `who` is the number of the speaker that `held` listens to, in a model of several.
    """

    def __init__(
        self,
        *,
        hidden: int = 32,
        fc: int = 16,
        classes: int = 1024,
        n_mels: int = 8,
        embedding: int = 6,
        conditioning: int = 5,
        layers: int = 2,
        masked: bool = True,
        encoder: str = "gru",
        speakers: int = 0,
        speaker: int = 3,
        hop: int = 240,
    ) -> None:
        super().__init__()
        self.first, self.hop, self.who = classes // 2, hop, 0
        self.speaker_embedder = nn.Embedding(speakers, speaker) if speakers else None
        heard = n_mels + speaker * (speakers > 0)
        self.local_gru: nn.Module | None = None
        self.local_encoder: nn.Module | None = None
        if heard and encoder == "gru":
            self.local_gru = nn.GRU(
                heard, conditioning, num_layers=layers, batch_first=True, bidirectional=True
            )
        elif heard and encoder == "skip_dilated_cnn":
            self.local_encoder = _SkipDilated(heard, layers, conditioning)
        elif heard:
            normed = encoder == "residual_bottleneck_dilated_cnn_bn"
            self.local_encoder = _Bottleneck(heard, layers, conditioning, normed)
        self.x_embedder = nn.Embedding(
            classes + masked, embedding, padding_idx=classes if masked else None
        )
        held = (2 if encoder == "gru" else 1) * conditioning * (heard > 0)
        self.gru = nn.GRU(embedding + held, hidden, batch_first=True)
        self.O1, self.O2 = nn.Linear(hidden, fc), nn.Linear(fc, classes)

    def held(self, mel: torch.Tensor) -> torch.Tensor:
        x = mel.T[None]
        if self.speaker_embedder is not None:
            vector = self.speaker_embedder(torch.tensor([self.who]))
            x = torch.cat([x, vector[:, None].expand(1, x.shape[1], -1)], dim=2)
        if self.local_gru is not None:
            x = self.local_gru(x)[0]
        elif self.local_encoder is not None:
            x = self.local_encoder(x)
        held: torch.Tensor = x[0]
        return held

    def start(self) -> torch.Tensor:
        return torch.zeros(1, self.gru.hidden_size).double()

    def step(self, label: torch.Tensor, c: torch.Tensor, h: torch.Tensor) -> Any:
        x = torch.cat([self.x_embedder(label), c], dim=1)
        y, h = self.gru(x[:, None], h[None])
        return self.O2(F.relu(self.O1(y[:, 0]))), h[0]


def univoc(state: dict[str, np.ndarray], **sizes: Any) -> Univoc:
    """The module with these weights, loaded strictly."""
    return _as_module(state, Univoc(**sizes))


def yukarin(state: dict[str, np.ndarray], **sizes: Any) -> Yukarin:
    """The module with these weights, loaded strictly."""
    return _as_module(state, Yukarin(**sizes))


def gibiansky(state: dict[str, np.ndarray], **sizes: Any) -> Gibiansky:
    """The module with these weights, loaded strictly."""
    return _as_module(state, Gibiansky(**sizes))
