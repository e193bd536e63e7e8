"""Biases and conditioning of a step as one row, made before the loop that reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conditioning_network import make_conditioner
from ..config import ModelConfig
from ..errors import InputError
from .base import Tensors
from .cells import half_rows


class Conditions:
    """Rows that the steps of a fused loop add to what they compute from the last sample.

    Dual: what both halves' gates hear, [3 H], the coarse half first. Residual: u [H], the inputs of
    the first GRU [3 H] and of the second [3 H], then of the two hidden output layers [2 K].

    Parameters
    ----------
    config : ModelConfig
        One that `cells.fused` takes.
    tensors : canonical tensors
    xp : module
        numpy, cupy or torch: whose arrays the rows are.
    place : callable
        Brings a numpy array to where the loop runs.
    """

    def __init__(self, config: ModelConfig, tensors: Tensors, xp: Any, place: Any) -> None:
        self.config, self.xp, self.place = config, xp, place
        self.bias = _biases(config, tensors)
        self.size = len(self.bias)
        self.order: NDArray[np.int64] | slice = slice(None)
        if config.core == "dual":
            self.order = np.concatenate(half_rows(config.hidden_size))
            self.bias = self.bias[self.order]
        self._constant = place(self.bias[None, :, None])
        if config.n_mels:
            self._conditioner = make_conditioner(config, tensors)
            kernel = tensors["upsample.kernel"]
            self._kernel = place(np.concatenate([kernel, np.ones_like(kernel[:, :1])], axis=1))

    def check(self, n_steps: int, mel: NDArray[np.float32] | None) -> None:
        """Raise InputError unless `mel` is what the model hears and covers `n_steps` >= 1."""
        config = self.config
        if n_steps < 1:
            raise InputError(f"The number of samples must be at least 1; found {n_steps}.")
        if not config.n_mels:
            return
        if mel is None or mel.ndim != 2 or mel.shape[0] != config.n_mels:
            found = "none" if mel is None else f"shape {mel.shape}"
            raise InputError(f"The mel must be [{config.n_mels}, n_frames]; found {found}.")
        covered = config.n_output_frames(mel.shape[1]) * config.hop_length
        if n_steps > covered:
            raise InputError(f"{n_steps} samples wanted, the mel covers {covered}.")

    def rows(self, mel: NDArray[np.float32] | None, first: int, count: int) -> Any:
        """Rows [n, size, 1] of the n samples from `first` on; [1, size, 1] without a mel."""
        if not self.config.n_mels:
            return self._constant
        hop, xp = self.config.hop_length, self.xp
        frame = first // hop
        frames = -(-(first + count) // hop) - frame
        interp, hold = self._conditioner.window(mel, frame, frames)
        fixed = np.repeat(self.bias[None], frames, axis=0)  # constant over a frame
        if hold is not None:
            fixed[:, : hold.shape[1]] += hold[:, self.order]
        mixed = interp.shape[1]
        taps = [interp[j : j + frames][:, self.order] for j in range(len(interp) - frames + 1)]
        taps.append(fixed[:, :mixed])
        rows = self._kernel @ self.place(np.stack(taps, axis=1))  # [frames, hop, mixed]
        rest = self.place(np.ascontiguousarray(fixed[:, None, mixed:]))
        rest = xp.broadcast_to(rest, (frames, hop, self.size - mixed))
        rows = xp.concatenate([rows, rest], axis=2).reshape(frames * hop, self.size)
        begin = first - frame * hop
        return rows[begin : begin + count, :, None]


def _biases(config: ModelConfig, t: Tensors) -> NDArray[np.float32]:
    """What a row holds at every sample, [size] float32."""
    if config.core == "dual":
        return np.array(t["gru.b_input"], np.float32)
    bias = t["input.bias"].astype(np.float64)
    through = t["gru1.w_input"].astype(np.float64) @ bias + t["gru1.b_input"]
    parts = (bias, through, t["gru2.b_input"], t["fc1.bias"], t["fc2.bias"])
    return np.concatenate(parts).astype(np.float32)
