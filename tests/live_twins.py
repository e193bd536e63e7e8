"""Live modules with the published classes' attributes and sampling loops, from their equations.

`WaveRNN` is fatchord's class, `RtvcWaveRNN` that of Real-Time-Voice-Cloning; layout and names of
the tensors come from `checkpoint_twins.Fatchord`. Their loops are slow and plain: one step of one
batch of folds at a time, in float32, with `torch.multinomial` for chance, which `same_draws`
replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoint_twins
import numpy as np
import torch
from torch.nn import functional as F


def expand(x: np.ndarray, classes: int) -> np.ndarray:
    """Undo mu-law companding of values in [-1, 1]."""
    mu = classes - 1
    return np.sign(x) / mu * ((1 + mu) ** np.abs(x) - 1)


def fold(x: torch.Tensor, target: int, overlap: int) -> torch.Tensor:
    """Cut [1, T, D] into [folds, target + 2 overlap, D], the last one padded with zeros."""
    total = x.shape[1]
    folds, rest = divmod(total - overlap, target + overlap)
    folds += bool(rest)
    length = target + 2 * overlap
    x = F.pad(x, (0, 0, 0, folds * (target + overlap) + overlap - total))
    return torch.cat(
        [x[:, i : i + length] for i in range(0, x.shape[1] - overlap, length - overlap)]
    )


def unfold(y: np.ndarray, overlap: int, *, hole: bool) -> np.ndarray:
    """Crossfade [folds, length]; `hole`: the form before November 2019, silent in its middle."""
    folds, length = y.shape
    silence = overlap // 2
    t = np.linspace(-1, 1, overlap - silence)
    fade_in = np.concatenate([np.zeros(silence), np.sqrt(0.5 * (1 + t))])
    falling = np.sqrt(0.5 * (1 - t))
    fade_out = np.concatenate([falling, np.zeros(silence)] if hole else [np.ones(silence), falling])
    stride = length - overlap
    wave = np.zeros(folds * stride + overlap)
    for i in range(folds):
        piece = y[i].copy()
        piece[:overlap] *= fade_in
        piece[-overlap:] *= fade_out
        wave[i * stride : i * stride + length] += piece
    return wave


class WaveRNN(checkpoint_twins.Fatchord):
    """fatchord's class; what it was asked to save is in `saved`."""

    def __init__(
        self,
        *,
        mode: str = "RAW",
        classes: int = 512,
        pad: int = 2,
        scales: Sequence[int] = (2, 2, 3),
        sample_rate: int = 16000,
        uniforms: Callable[[], torch.Tensor] | None = None,
        **sizes: Any,
    ) -> None:
        super().__init__(classes=classes, pad=pad, scales=scales, **sizes)
        self.mode, self.n_classes, self.pad = mode, classes, pad
        self.hop_length, self.sample_rate = int(np.prod(scales)), sample_rate
        self.rnn_dims, self.aux_dims = self.I.out_features, self.aux
        self.uniforms = uniforms  # of the logistic draw, if it is not to be PyTorch's
        self.logits_seen: list[torch.Tensor] = []  # [B, C] of every step
        self.saved: list[tuple[Any, np.ndarray]] = []

    def draw(self, logits: torch.Tensor) -> torch.Tensor:
        """Values [B] in [-1, 1] of logits [B, C]."""
        self.logits_seen.append(logits)
        if self.mode == "RAW":
            label = torch.distributions.Categorical(F.softmax(logits, dim=1)).sample()
            return 2 * label.float() / (self.n_classes - 1.0) - 1.0
        mixture, means, log_scales = logits.chunk(3, dim=1)
        k = torch.multinomial(F.softmax(mixture, dim=1), 1)
        v = torch.rand(len(logits)) if self.uniforms is None else self.uniforms()
        v = v.double().clamp(1e-5, 1 - 1e-5)
        mean, log_scale = means.gather(1, k)[:, 0], log_scales.gather(1, k)[:, 0]
        scale = log_scale.clamp(min=-32.236).exp()
        x = mean + scale * (v.log() - (1 - v).log())
        return x.clamp(-1, 1).float()

    @torch.no_grad()
    def sample(self, mels: torch.Tensor, folds: tuple[int, int] | None) -> np.ndarray:
        """Drawn values, float64 [folds, n]."""
        self.eval()
        self.logits_seen.clear()
        mel_up, aux = (x[None] for x in self.upsample(mels))
        if folds is not None:
            mel_up, aux = fold(mel_up, *folds), fold(aux, *folds)
        a1, a2, a3, a4 = aux.split(self.aux_dims, dim=2)
        batch, steps, _ = mel_up.shape
        h1 = h2 = torch.zeros(1, batch, self.rnn_dims)
        x, values = torch.zeros(batch), []
        for t in range(steps):
            u = self.I(torch.cat([x[:, None], mel_up[:, t], a1[:, t]], dim=1))
            _, h1 = self.rnn1(u[:, None], h1)
            v = u + h1[0]
            _, h2 = self.rnn2(torch.cat([v, a2[:, t]], dim=1)[:, None], h2)
            p = torch.relu(self.fc1(torch.cat([v + h2[0], a3[:, t]], dim=1)))
            q = torch.relu(self.fc2(torch.cat([p, a4[:, t]], dim=1)))
            x = self.draw(self.fc3(q))
            values.append(x)
        return torch.stack(values, dim=1).numpy().astype(np.float64)

    def _end(self, wave: np.ndarray, n_frames: int) -> np.ndarray:
        wave = wave[: (n_frames - 1) * self.hop_length]
        ramp = 20 * self.hop_length
        wave[-ramp:] *= np.linspace(1, 0, ramp)  # fails for shorter utterances
        return wave

    def generate(
        self,
        mels: torch.Tensor,
        save_path: str | Path | None,
        batched: bool,
        target: int,
        overlap: int,
        mu_law: bool,
        silent: bool = False,
    ) -> np.ndarray:
        mu_law = mu_law and self.mode == "RAW"
        values = self.sample(mels, (target, overlap) if batched else None)
        if mu_law:
            values = expand(values, self.n_classes)
        wave = unfold(values, overlap, hole=False) if batched else values[0]
        wave = self._end(wave, mels.shape[-1])
        self.saved.append((save_path, wave.astype(np.float32)))
        self.train()
        return wave


class RtvcWaveRNN(WaveRNN):
    """Real-Time-Voice-Cloning's: no file, the older crossfade, mu-law after it, de-emphasis."""

    def generate(  # type: ignore[override]
        self,
        mels: torch.Tensor,
        batched: bool,
        target: int,
        overlap: int,
        mu_law: bool,
        progress_callback: Any = None,
    ) -> np.ndarray:
        values = self.sample(mels, (target, overlap) if batched else None)
        wave = unfold(values, overlap, hole=True) if batched else values[0]
        if mu_law:
            wave = expand(wave, self.n_classes)
        for n in range(1, len(wave)):
            wave[n] += 0.97 * wave[n - 1]
        wave = self._end(wave, mels.shape[-1])
        self.train()
        return wave


class CoquiWavernn(WaveRNN):
    """coqui-ai/TTS's: settings in `args` and `config`, no ramp but over longer utterances."""

    def __init__(self, *, bits: int | str = 9, mulaw: bool = True, **fields: Any) -> None:
        classes = 2**bits if isinstance(bits, int) else {"mold": 30, "gauss": 2}[bits]
        super().__init__(classes=classes, mode="RAW", **fields)
        self.args = SimpleNamespace(mode=bits, mulaw=mulaw, pad=self.pad)
        self.config = SimpleNamespace(audio=SimpleNamespace(hop_length=self.hop_length))
        del self.mode, self.pad

    def draw(self, logits: torch.Tensor) -> torch.Tensor:
        self.mode = "RAW"
        try:
            return super().draw(logits)
        finally:
            del self.mode

    def inference(
        self,
        mels: Any,
        batched: bool | None = None,
        target: int | None = None,
        overlap: int | None = None,
    ) -> Any:
        x = torch.as_tensor(mels)
        x = x if x.ndim == 3 else x[None]
        values = self.sample(x, (target, overlap) if batched else None)  # type: ignore[arg-type]
        wave = unfold(values, overlap, hole=True) if batched else values[0].astype(np.float32)  # type: ignore[arg-type]
        if self.args.mulaw:
            wave = expand(wave, self.n_classes)
        ramp = 20 * self.hop_length
        wave = wave[: (x.shape[-1] - 1) * self.hop_length]
        if len(wave) > ramp:
            wave[-ramp:] *= np.linspace(1, 0, ramp)
        self.train()
        return wave if batched else torch.from_numpy(wave.astype(np.float32))

    generate = None  # type: ignore[assignment]


def load(module: WaveRNN, state: dict[str, np.ndarray]) -> WaveRNN:
    """Load weights strictly."""
    module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    return module
