"""The conditioned dual-softmax WaveRNN as a trainable PyTorch module.

Names and shapes of its parameters are those of the canonical file (docs/formats.md), and any
canonical dual model can be trained on. Their values differ where they meet the mel: a model in
training hears whitened frames (`mel_scale`), a canonical one the frames themselves, and
`canonical` and `load_canonical` turn one into the other without changing the function.

Conditioning, which the paper leaves open: log-mel frames go through a small convolutional stack
(`aux`: one convolution over `aux_kernel` frames, then residual blocks within the frame); its output
and the mel itself are constant over a frame and are added to the gate pre-activations outside the
reset product. Everything up to that addition is done once a frame, so the engine pays three
additions a unit and sample for it, and `aux_kernel // 2` frames of lookahead.

A subscale model (`subscale`) runs the same cell over rows of interleaved samples, as a batch. What
its network hears of the rows before is added to the conditioning, so nothing else changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..canonical import Tensors, expected_shapes, validate
from ..config import ModelConfig
from ..errors import ModelError
from .cell import Cell
from .mel_scale import MelScale, fold, unfold, whitening_of
from .recurrence import Segment, recurrence
from .subscale import SubscaleNetwork, input_layer, input_parameters, predicted_by_mel

_NONE = torch.empty(0, 0, dtype=torch.int64)


class Batch(NamedTuple):
    """Segments of recordings, all of one length T = F * hop_length, each starting at a frame.

    T is a multiple of the subscale factor S (1 without).
    """

    samples: Tensor  # [B, T] int64, 256 coarse + fine: what is to be predicted
    before: Tensor  # [B] or [B, S] int64, the samples before; -1 before the start of a recording
    mel: Tensor  # [B, n_mels, F + left + right], see `WaveRNN.context`; [B, 0, 0] unconditioned
    # subscale: [B, T + 2 S horizon], the samples with those around them; -1 beyond the recording
    around: Tensor = _NONE


class Losses(NamedTuple):
    """Mean negative log-likelihoods in nats per sample; their sum is the loss of a sample."""

    coarse: Tensor
    fine: Tensor


class _Block(nn.Module):
    """x + conv2(relu(conv1 x)) within a frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Frames [..., width] -> the same shape."""
        result: Tensor = x + self.conv2(torch.relu(self.conv1(x)))
        return result


class _Aux(nn.Module):
    """The convolutional stack over mel frames."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.aux_channels
        self.conv_in = nn.Conv1d(config.n_mels, width, config.aux_kernel)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(config.aux_blocks))
        self.conv_out = nn.Linear(width, config.aux_size)

    def forward(self, mel: Tensor) -> Tensor:
        """Mel [B, n_mels, F + aux_kernel - 1] -> [B, F, aux_size]."""
        x = torch.relu(self.conv_in(mel)).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.conv_out(x)
        return result


class WaveRNN(nn.Module):
    """Dual-softmax WaveRNN (Kalchbrenner et al. 2018, equation 2) for training.

    Parameters
    ----------
    config : ModelConfig
        Of the dual core; `upsample_left` and `upsample_right` must be 0 (conditioning is constant
        over a frame).

    Raises
    ------
    ModelError
        If the configuration is of another core, interpolates the mel or has a `network` over it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.core != "dual":
            raise ModelError(f"Only the dual core can be trained; this model is {config.core}.")
        if config.upsample_left or config.upsample_right:
            raise ModelError(
                "A model whose mel is interpolated between frames (upsample.kernel of "
                f"{config.upsample_left + 1 + config.upsample_right} taps) cannot be trained here; "
                "train one whose conditioning is constant over a frame."
            )
        if config.network is not None:
            raise ModelError(
                f"A model with a network of its own over the mel ({config.network.kind}) cannot be "
                "trained here; its mel may go through `aux` alone."
            )
        self.config = config
        half, width, classes = config.hidden_size // 2, config.fc_size, config.n_classes
        self.gru = Cell(config)
        self.coarse_fc1, self.coarse_fc2 = nn.Linear(half, width), nn.Linear(width, classes)
        self.fine_fc1, self.fine_fc2 = nn.Linear(half, width), nn.Linear(width, classes)
        if config.n_mels:
            self.mel = MelScale(config.n_mels)
        if config.aux_size:
            self.aux = _Aux(config)
        if config.subscale is not None:
            self.subscale = SubscaleNetwork(config.subscale)

    @property
    def context(self) -> int:
        """Mel frames needed on each side of a segment."""
        return self.config.aux_radius

    def forward(self, batch: Batch, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits under teacher forcing.

        Parameters
        ----------
        batch : Batch
        h : [B * S, H] state before the segment, a row each, S rows of a segment together; zeros
            by default

        Returns
        -------
        logits : [T, B, 512]
            Coarse then fine; those of step t come before sample t is known.
        h : [B * S, H], detached
            State after the segment.
        """
        y, h = self.hidden(batch, h)
        coarse, fine = torch.split(y, self.config.hidden_size // 2, dim=2)
        logits = torch.cat([self._coarse(coarse), self._fine(fine)], dim=2)
        rows = self.config.subscale_factor
        logits = logits.view(len(logits), -1, rows, logits.shape[2]).transpose(1, 2)
        return logits.flatten(0, 1), h

    def losses(self, batch: Batch, h: Tensor | None = None) -> tuple[Losses, Tensor]:
        """Mean negative log-likelihoods of a batch, and its last state [B * S, H]."""
        y, h = self.hidden(batch, h)
        y_coarse, y_fine = torch.split(y, self.config.hidden_size // 2, dim=2)
        targets = self._by_step(batch.samples).flatten()
        return Losses(
            _cross_entropy(self._coarse(y_coarse), targets >> 8),
            _cross_entropy(self._fine(y_fine), targets & 255),
        ), h

    def hidden(self, batch: Batch, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states [T / S, B * S, H] after every step, and the last one [B * S, H]."""
        x = self._inputs(batch)
        if h is None:
            h = self.gru.b_input.new_zeros(x.shape[1], self.config.hidden_size)
        return self._fused(x, batch, h) if x.is_cuda else self._stepwise(x, batch, h)

    def _by_step(self, values: Tensor) -> Tensor:
        """What belongs to samples [B, T, ...] -> [T / S, B * S, ...]: a step draws all rows."""
        count, rows = len(values), self.config.subscale_factor
        columns = values.reshape(count, -1, rows, *values.shape[2:])
        return columns.transpose(0, 1).flatten(1, 2)

    def _inputs(self, batch: Batch) -> Tensor:
        """c(t-1), f(t-1), c(t) of every step of a row, in [-1, 1]: float32 [T / S, B * S, 3]."""
        halves = _halves(self._by_step(batch.samples))
        before = batch.before.flatten()  # of all rows, as `_by_step` puts them
        start = torch.full_like(halves[0], self.config.first_input)
        first = torch.where(before[:, None] < 0, start, _halves(before))
        return torch.cat([torch.cat([first[None], halves[:-1]]), halves[:, :, :1]], dim=2)

    def _features(self, mel: Tensor) -> Tensor | None:
        """Mel with context -> what is constant over each frame: [B, F, n_mels + aux_size]."""
        if not self.config.n_mels:
            return None
        radius, white = self.context, self.mel(mel)
        own = white[:, :, radius : mel.shape[2] - radius].transpose(1, 2)
        return torch.cat([own, self.aux(white)], dim=2) if self.config.aux_size else own

    def _rows_before(self, batch: Batch) -> Tensor:
        """What each sample hears of the rows before its own: [T / S, B * S, heard_size]."""
        around = ((batch.around - 32768) / 32768.0).masked_fill(batch.around < 0, 0.0)
        heard: Tensor = self.subscale(around)
        if self.subscale.config.prediction_reach:
            mel = batch.mel[:, :, self.context : batch.mel.shape[2] - self.context]
            heard = torch.cat([heard, predicted_by_mel(self.config, around, mel)], dim=3)
        return self._by_step(heard.flatten(1, 2))

    def _stepwise(self, x: Tensor, batch: Batch, h: Tensor) -> tuple[Tensor, Tensor]:
        """The CPU's recurrence: conditioning as gate pre-activations, one row a frame."""
        cell, config = self.gru, self.config
        features, heard = self._features(batch.mel), config.n_mels + config.aux_size
        if features is None:
            frames, steps = cell.b_input.expand(1, len(batch.samples), -1), len(x)
        else:
            weight = cell.w_conditioning[:, :heard]
            frames = nn.functional.linear(features, weight).float().transpose(0, 1) + cell.b_input
            steps = config.hop_length // config.subscale_factor
        if config.subscale is not None:
            with torch.autocast("cpu", enabled=False):
                weight = cell.w_conditioning[:, heard:]
                rows = nn.functional.linear(self._rows_before(batch), weight)
            frames = self._each_step(frames, steps, len(x), 1).unsqueeze(2)  # alike in all rows
            rows = rows.view(len(x), -1, config.subscale_factor, len(weight))
            frames = (rows + frames).flatten(1, 2)
            steps = 1
        low = torch.is_autocast_enabled("cpu")
        segment = Segment(x, frames.contiguous(), steps, h)
        return recurrence(segment, cell.masked_sample, cell.w_recurrent, cell.b_recurrent, low)

    @staticmethod
    def _each_step(frames: Tensor, steps: int, count: int, rows: int) -> Tensor:
        """Frames [F, B, K], each of so many steps -> [count, B * rows, K]."""
        each = frames.repeat_interleave(steps, dim=0)[:count]
        return each.repeat_interleave(rows, dim=1) if rows > 1 else each

    def _fused(self, x: Tensor, batch: Batch, h: Tensor) -> tuple[Tensor, Tensor]:
        """PyTorch's fused GRU (cuDNN): under teacher forcing the masked cell is a standard GRU."""
        cell, config = self.gru, self.config
        inputs, rows = [x], config.subscale_factor
        features = self._features(batch.mel)
        if features is not None:
            steps = config.hop_length // rows
            inputs.append(self._each_step(features.transpose(0, 1), steps, len(x), rows))
        if config.subscale is not None:
            inputs.append(self._rows_before(batch))
        weight = cell.masked_sample
        if len(inputs) > 1:
            weight = torch.cat([weight, cell.w_conditioning], dim=1)
        x = torch.cat([part.to(x.dtype) for part in inputs], dim=2)
        flat = [weight, cell.w_recurrent, cell.b_input, cell.b_recurrent]
        if torch.is_autocast_enabled("cuda"):
            kind = torch.get_autocast_dtype("cuda")
            x, h, flat = x.to(kind), h.to(kind), [w.to(kind) for w in flat]
        y, last = torch.gru(x, h[None], flat, True, 1, 0.0, self.training, False, False)
        return y, last[0].detach().float()

    def _coarse(self, y: Tensor) -> Tensor:
        result: Tensor = self.coarse_fc2(torch.relu(self.coarse_fc1(y)))
        return result

    def _fine(self, y: Tensor) -> Tensor:
        result: Tensor = self.fine_fc2(torch.relu(self.fine_fc1(y)))
        return result

    # -- canonical weights -------------------------------------------------------------------------

    def canonical(self) -> Tensors:
        """Return the weights as canonical tensors (copies); masks of pruned blocks are not ours."""
        return to_canonical(self.config, self.state_dict())

    def load_canonical(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the weights of a canonical model of the same configuration.

        Raises
        ------
        ModelError
            If they do not fit, or the mel is scaled within a frame.
        """
        validate(self.config, tensors)
        kernel = tensors.get("upsample.kernel")
        if kernel is not None and not (kernel == 1.0).all():
            raise ModelError("The model scales its mel within a frame; it cannot be trained here.")
        own = self.state_dict()
        ours = {name: np.array(value) for name, value in tensors.items() if name in own}
        if self.config.n_mels:
            unfold(ours, self.mel.whitening())
        if self.config.subscale is not None:
            weight, bias = (
                torch.from_numpy(np.array(tensors[f"subscale.input.{part}"]))
                for part in ("weight", "bias")
            )
            whitening = own["subscale.whitening"].cpu()
            first = input_parameters(self.config.subscale, weight, bias, whitening)
            ours |= {name: value.numpy() for name, value in first.items()}
        self.load_state_dict(own | {name: torch.from_numpy(a) for name, a in ours.items()})


def _halves(samples: Tensor) -> Tensor:
    """Coarse and fine [..., 2] of samples [...], scaled to [-1, 1]; float32."""
    return torch.stack([samples >> 8, samples & 255], dim=-1) / 127.5 - 1.0


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean nats of targets [T * B] under logits [T, B, 256], always in float32 or better."""
    wide = logits.float() if logits.dtype == torch.bfloat16 else logits
    return nn.functional.cross_entropy(wide.flatten(0, 1), targets)


def to_canonical(config: ModelConfig, state: Mapping[str, Tensor]) -> Tensors:
    """Canonical tensors of a state dict of `WaveRNN`, without masks of pruned blocks.

    They are the same function of the mel itself as the state dict is of the whitened one.
    """
    tensors: Tensors = {}
    if config.subscale is not None:
        state = {**state, **input_layer(config.subscale, state)}
    for name in expected_shapes(dataclasses.replace(config, block_shape=None, pruned=())):
        if name == "upsample.kernel":
            tensors[name] = np.ones((config.hop_length, 1), dtype=np.float32)
        else:
            tensors[name] = state[name].detach().float().cpu().numpy().copy()
    columns = tensors["gru.w_sample"].reshape(3, config.hidden_size, 3)
    columns[:, : config.hidden_size // 2, 2] = 0.0
    if config.n_mels:
        fold(tensors, whitening_of(state["mel.mean"], state["mel.matrix"]))
    return tensors
