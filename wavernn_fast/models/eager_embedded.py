"""One GRU over embedded labels as plain PyTorch modules, sampled the way the originals do it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..network_config import NetworkConfig
from .eager import EagerModel, _categorical

if TYPE_CHECKING:
    from torch import Tensor


class EagerEmbedded(EagerModel):
    """embedding, GRU over [embedding; conditioning], fc1 with ReLU, fc2 (van Niekerk, univoc)."""

    def _build(self) -> None:
        import torch

        t = self._tensors
        inputs = [t["gru.w_label"]]
        if self.config.n_mels:
            inputs.append(t["gru.w_conditioning"])
        self._w_input = torch.cat(inputs, dim=1)
        self.rnn = self._gru(self._w_input, "gru", "GRUCell")
        self.fc1, self.fc2 = self._layer("fc1"), self._layer("fc2")
        self.embedding = t["embedding.weight"]  # goes where the loop runs, as all attributes do

    def hear(self, speaker: NDArray[Any]) -> None:
        """Take a speaker's vector, as `EagerModel`; the conditioning hears it, on the host."""
        self._vector = np.array(speaker, np.float64)

    def conditions(self, mel: NDArray[np.float32] | None) -> tuple[Tensor, Tensor]:
        """Per-sample conditioning: mel [n_mels, n] -> (network [T, channels], nothing [T, 0])."""
        import torch

        config = self.config
        if not config.n_mels:
            return torch.zeros(0, 0, dtype=self.dtype), torch.zeros(0, 0, dtype=self.dtype)
        if mel is None or mel.ndim != 2 or mel.shape[0] != config.n_mels:
            found = "none" if mel is None else f"shape {mel.shape}"
            raise InputError(f"The mel must be [{config.n_mels}, n_frames]; found {found}.")
        held = self._network(torch.from_numpy(np.array(mel)).to(self.dtype))
        rows = held.repeat_interleave(config.hop_length, dim=0)
        return rows, rows.new_zeros(len(rows), 0)

    def _network(self, mel: Tensor) -> Tensor:
        """Mel [n_mels, n] -> [output frames, channels]."""
        import torch

        network, t = self.config.network, self._tensors
        if network is None:
            return mel.T
        speaker = torch.from_numpy(self._vector).to(self.dtype)[:, None]
        mel = torch.cat([mel, speaker.expand(-1, mel.shape[1])])
        if network.dilated:
            return self._dilated(network, mel)
        if network.kind == "conv":
            if self.config.pad == "zeros":
                mel = torch.nn.functional.pad(mel, (network.radius, network.radius))
            x = mel[None]
            for i in range(network.layers):
                weight, bias = t[f"network.{i}.weight"], t[f"network.{i}.bias"]
                x = torch.tanh(torch.nn.functional.conv1d(x, weight, bias))
            return x[0].T
        state = {}
        for i in range(network.layers):
            for way, end in (("forward", ""), ("backward", "_reverse")):
                name = f"network.{i}.{way}"
                state[f"weight_ih_l{i}{end}"] = t[f"{name}.w_input"]
                state[f"weight_hh_l{i}{end}"] = t[f"{name}.w_recurrent"]
                state[f"bias_ih_l{i}{end}"] = t[f"{name}.b_input"]
                state[f"bias_hh_l{i}{end}"] = t[f"{name}.b_recurrent"]
        sizes = (len(mel), network.size, network.layers)
        options = {"batch_first": True, "bidirectional": True}
        gru: Any = self._module("GRU", state, *sizes, **options)
        held: Tensor = gru(mel.T[None])[0][0]
        return held

    def _dilated(self, network: NetworkConfig, mel: Tensor) -> Tensor:
        """Features [in, n] -> [n, size]: see `NetworkConfig`, kinds dilated and bottleneck."""
        import torch
        from torch.nn.functional import conv1d

        t = self._tensors

        def conv(name: str, x: Tensor, side: int = 0) -> Tensor:
            weight = t[f"{name}.weight"]
            wide = weight if weight.ndim == 3 else weight[:, :, None]
            return conv1d(x, wide, t[f"{name}.bias"], padding=side, dilation=max(1, side))

        x = conv("network.pre", mel[None])
        for i in range(network.layers):
            name = f"network.{i}"
            if network.kind == "dilated_conv":
                x = x + conv(f"{name}.conv", torch.relu(x), 2**i)
                continue
            y = torch.relu(t[f"{name}.gain"][:, None] * x + t[f"{name}.shift"][:, None])
            y = torch.relu(conv(f"{name}.conv1", y))
            y = torch.relu(conv(f"{name}.conv2", y, 2**i))
            x = x + conv(f"{name}.conv3", y)
        return x[0].T

    def _steps(self, n_steps: int, mel: Tensor, aux: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        import torch

        batch = mel.shape[0]
        h = torch.zeros(batch, self.config.hidden_size, dtype=self.dtype)
        label = torch.full((batch,), self.config.first_label, dtype=torch.long)
        for i in range(n_steps):
            now = [mel[:, i]] if self.config.n_mels else []
            h = self.rnn(torch.cat([self.embedding[label], *now], dim=1), h)
            logits = self.fc2(torch.relu(self.fc1(h)))
            label = _categorical(logits)
            yield label, logits

    def _forced(self, samples: Tensor, mel: Tensor, aux: Tensor) -> Tensor:
        import torch

        first = torch.full((1,), self.config.first_label, dtype=torch.long)
        labels = torch.cat([first, samples.to(torch.long)[:-1]])
        now = [mel] if self.config.n_mels else []
        x = torch.cat([self.embedding[labels], *now], dim=1)
        y = self._gru(self._w_input, "gru", "GRU")(x[None])[0][0]
        logits: Tensor = self.fc2(torch.relu(self.fc1(y)))
        return logits
