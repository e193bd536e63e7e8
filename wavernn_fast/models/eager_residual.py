"""The two-GRU vocoder as plain PyTorch modules, sampled the way the original projects do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .eager import EagerModel, _categorical

if TYPE_CHECKING:
    from torch import Tensor

LOG_SCALE_FLOOR = -32.236  # ln(1e-14), the lowest logistic log-scale of the original samplers
UNIFORM_CLIP = 1e-5  # their uniforms stay in [1e-5, 1 - 1e-5]
LOG_STD_FLOOR = -7.0  # the lowest log-deviation of the original gaussian samplers


class EagerResidual(EagerModel):
    """Two residual GRUs and three dense layers: I, rnn1, rnn2, fc1 to fc3; labels or values."""

    def _build(self) -> None:
        t = self._tensors
        self.I = self._layer("input")
        self.rnn1 = self._gru(t["gru1.w_input"], "gru1", "GRUCell")
        self.rnn2 = self._gru(t["gru2.w_input"], "gru2", "GRUCell")
        self.fc1, self.fc2, self.fc3 = (self._layer(n) for n in ("fc1", "fc2", "fc3"))

    def _scaled(self, samples: Tensor) -> Tensor:
        """Labels to the [-1, 1] that is fed back; values are that already."""
        if self.config.draws_values:
            return samples
        mu = self.config.n_classes - 1.0
        x = 2.0 * samples.to(self.dtype) / mu - 1.0
        if self.config.feedback == "linear":
            return x
        return x.sign() * ((1.0 + mu) ** x.abs() - 1.0) / mu

    def _steps(self, n_steps: int, mel: Tensor, aux: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        import torch

        batch = mel.shape[0]
        h1 = torch.zeros(batch, self.config.hidden_size, dtype=self.dtype)
        h2 = torch.zeros_like(h1)
        x = torch.full((batch, 1), self.config.first_input, dtype=self.dtype)
        draw = _DRAWS[self.config.head]
        for i in range(n_steps):
            q, h1, h2 = self._step(x, mel, aux, i, (h1, h2))
            logits = self.fc3(q)
            sample = draw(logits)
            x = self._scaled(sample).unsqueeze(1)
            yield sample, logits

    def _step(
        self, x: Tensor, mel: Tensor, aux: Tensor, i: int, states: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the last layer hears at sample `i`, and the new states."""
        import torch

        h1, h2 = states
        nothing = h1[:, :0]
        mel_i = mel[:, i] if self.config.n_mels else nothing
        a1, a2, a3, a4 = (aux[:, i] if self.config.aux_size else nothing).chunk(4, dim=1)
        u = self.I(torch.cat([x, mel_i, a1, self._speaker.expand(len(x), -1)], dim=1))
        h1 = self.rnn1(u, h1)
        v = u + h1
        h2 = self.rnn2(torch.cat([v, a2], dim=1), h2)
        w = v + h2
        p = torch.relu(self.fc1(torch.cat([w, a3], dim=1)))
        return torch.relu(self.fc2(torch.cat([p, a4], dim=1))), h1, h2

    def _forced(self, samples: Tensor, mel: Tensor, aux: Tensor) -> Tensor:
        import torch

        t, n = self._tensors, len(samples)
        first = torch.full((1,), self.config.first_input, dtype=self.dtype)
        x = torch.cat([first, self._scaled(samples)[:-1]])[:, None]
        mel, aux = (y if len(y) else y.new_zeros(n, 0) for y in (mel, aux))
        a1, a2, a3, a4 = aux.chunk(4, dim=1)
        u = self.I(torch.cat([x, mel, a1, self._speaker.expand(n, -1)], dim=1))
        v = u + self._gru(t["gru1.w_input"], "gru1", "GRU")(u[None])[0][0]
        both = torch.cat([v, a2], dim=1)
        w = v + self._gru(t["gru2.w_input"], "gru2", "GRU")(both[None])[0][0]
        p = torch.relu(self.fc1(torch.cat([w, a3], dim=1)))
        q = torch.relu(self.fc2(torch.cat([p, a4], dim=1)))
        logits: Tensor = self.fc3(q)
        return logits


class EagerBands(EagerResidual):
    """The same cell over several bands: all their last samples in, a head each, a draw each."""

    def _build(self) -> None:
        from torch import nn

        super()._build()
        weights, biases = (
            self._tensors[f"fc3.{part}"].chunk(self.config.bands) for part in ("weight", "bias")
        )
        # a module, so that they go where the others go
        self.heads = nn.ModuleList(self._linear(w, b) for w, b in zip(weights, biases, strict=True))

    def _steps(self, n_steps: int, mel: Tensor, aux: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        import torch

        batch, bands = mel.shape[0], self.config.bands
        h1 = torch.zeros(batch, self.config.hidden_size, dtype=self.dtype)
        h2 = torch.zeros_like(h1)
        x = torch.full((batch, bands), self.config.first_input, dtype=self.dtype)
        for i in range(0, n_steps, bands):
            q, h1, h2 = self._step(x, mel, aux, i, (h1, h2))
            logits = [head(q) for head in self.heads]
            drawn = [_categorical(one) for one in logits]
            x = self._scaled(torch.stack(drawn, dim=1))
            yield from zip(drawn, logits, strict=True)

    def _forced(self, samples: Tensor, mel: Tensor, aux: Tensor) -> Tensor:
        import torch

        t, bands, n = self._tensors, self.config.bands, len(samples)
        first = torch.full((1, bands), self.config.first_input, dtype=self.dtype)
        x = torch.cat([first, self._scaled(samples).reshape(-1, bands)[:-1]])
        mel, aux = mel[::bands], (aux if len(aux) else aux.new_zeros(n, 0))[::bands]
        a1, a2, a3, a4 = aux.chunk(4, dim=1)
        u = self.I(torch.cat([x, mel, a1], dim=1))
        v = u + self._gru(t["gru1.w_input"], "gru1", "GRU")(u[None])[0][0]
        both = torch.cat([v, a2], dim=1)
        w = v + self._gru(t["gru2.w_input"], "gru2", "GRU")(both[None])[0][0]
        p = torch.relu(self.fc1(torch.cat([w, a3], dim=1)))
        q = torch.relu(self.fc2(torch.cat([p, a4], dim=1)))
        logits = torch.stack([head(q) for head in self.heads], dim=1)
        return logits.reshape(n, self.config.n_classes)


def _logistics(logits: Tensor) -> Tensor:
    """Draw x [B] in [-1, 1] from mixtures of logistics [B, 3 n]: mixture by Gumbel-max, then x."""
    import torch

    mixtures, means, log_scales = logits.chunk(3, dim=1)
    u = torch.empty_like(mixtures).uniform_(UNIFORM_CLIP, 1.0 - UNIFORM_CLIP)
    k = torch.argmax(mixtures - torch.log(-torch.log(u)), dim=1, keepdim=True)
    mean = means.gather(1, k)[:, 0]
    scale = log_scales.gather(1, k)[:, 0].clamp(min=LOG_SCALE_FLOOR).exp()
    v = torch.empty_like(mean).uniform_(UNIFORM_CLIP, 1.0 - UNIFORM_CLIP)
    return (mean + scale * (torch.log(v) - torch.log1p(-v))).clamp(-1.0, 1.0)


def _gaussians(logits: Tensor) -> Tensor:
    """Draw x [B] in [-1, 1] from normals [B, 2] of mean and log-deviation."""
    import torch

    mean, log_std = logits.unbind(dim=1)
    return torch.normal(mean, log_std.clamp(min=LOG_STD_FLOOR).exp()).clamp(-1.0, 1.0)


def _betas(logits: Tensor) -> Tensor:
    """Draw x = 2 y - 1 [B] for y from beta distributions [B, 2] of log alpha and log beta."""
    import torch

    alpha, beta = logits.exp().unbind(dim=1)
    drawn: Tensor = 2.0 * torch.distributions.Beta(alpha, beta).sample() - 1.0
    return drawn


_DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": _categorical,
    "mol": _logistics,
    "gaussian": _gaussians,
    "beta": _betas,
}
