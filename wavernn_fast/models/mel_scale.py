"""The mel as training sees it: centred, uncorrelated, of variance one.

Log-mel bins are mostly positive and strongly correlated, which makes the weights that hear them
slow to learn (docs/decisions/0005-whitened-mel.md has figures). So a model in training hears
M (m - mu) instead of the frame m, with mu and M of its training recordings. Canonical models hear
m itself: M and mu are folded into the first weights on the way out, and taken out of them on the
way in, both in float64. Every frame is treated alike, the zeros beyond the ends of a recording too,
so folding changes nothing there either.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..canonical import Tensors

# Share of the mean variance of a bin that is added to that of every direction. The narrowest have
# ten thousand times less than the widest; blown up to the same size they disturb more than they
# tell, and their folded weights are huge and cancel. Chosen among four by held-out loss, one seed.
RIDGE = 3e-2
_SMALLEST = 1e-6  # variance added where no bin varies at all


class Whitening(NamedTuple):
    """White frame = matrix @ (frame - mean); values are exact in float32."""

    mean: NDArray[np.float64]  # [n_mels]
    matrix: NDArray[np.float64]  # [n_mels, n_mels], invertible


def measure(mels: Iterable[NDArray[np.float32]]) -> Whitening:
    """Whitening of frames [n_mels, n_frames] of all recordings together, at least one frame."""
    frames = list(mels)  # one recording after the other is widened: there may be many hours
    count = sum(mel.shape[1] for mel in frames)
    mean = np.sum([mel.sum(axis=1, dtype=np.float64) for mel in frames], axis=0) / count
    covariance = np.zeros((len(mean), len(mean)))
    for mel in frames:
        centred = mel - mean[:, None]  # float64
        covariance += centred @ centred.T / count
    variances, directions = np.linalg.eigh(covariance)
    floor = RIDGE * float(np.maximum(variances, 0.0).mean()) + _SMALLEST
    matrix = directions.T / np.sqrt(np.maximum(variances, 0.0) + floor)[:, None]
    # What the model multiplies with is what is folded.
    return Whitening(*(a.astype(np.float32).astype(np.float64) for a in (mean, matrix)))


class MelScale(nn.Module):
    """Frames -> white frames; nothing is changed before `set` is called.

    Its two buffers are in the state dict, so a checkpoint keeps them.
    """

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.matrix: Tensor
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("matrix", torch.eye(n_mels))

    def set(self, whitening: Whitening) -> None:
        """Take a whitening; the weights behind it mean another function from then on."""
        for buffer, values in zip((self.mean, self.matrix), whitening, strict=True):
            buffer.copy_(torch.from_numpy(values))

    def whitening(self) -> Whitening:
        """Return the whitening in use."""
        return whitening_of(self.mean, self.matrix)

    def forward(self, mel: Tensor) -> Tensor:
        """Frames [B, n_mels, F] -> the same shape, in float32 whatever runs in less around it."""
        with torch.autocast(mel.device.type, enabled=False):
            return torch.matmul(self.matrix, mel - self.mean[:, None])


def whitening_of(mean: Tensor, matrix: Tensor) -> Whitening:
    """Whitening from the two buffers of a `MelScale`."""
    return Whitening(*(t.detach().cpu().double().numpy().copy() for t in (mean, matrix)))


def fold(tensors: Tensors, whitening: Whitening) -> None:
    """Make canonical weights that hear white frames hear frames instead, in place."""
    for name, bias, n_mels in _hearing(tensors, len(whitening.mean)):
        whole = tensors[name]
        weight = _rows(whole, n_mels) @ whitening.matrix
        _put(whole, weight, n_mels)
        # Of the rounded weights: what rounding moves then acts on m - mu, not on m.
        shift = _rows(whole, n_mels) @ whitening.mean
        tensors[bias] = _less(tensors[bias], shift)


def unfold(tensors: Tensors, whitening: Whitening) -> None:
    """Undo `fold`, in place."""
    inverse = np.linalg.inv(whitening.matrix)
    for name, bias, n_mels in _hearing(tensors, len(whitening.mean)):
        whole = tensors[name]
        shift = _rows(whole, n_mels) @ whitening.mean
        _put(whole, _rows(whole, n_mels) @ inverse, n_mels)
        tensors[bias] = _less(tensors[bias], -shift)


def _hearing(tensors: Tensors, n_mels: int) -> list[tuple[str, str, int]]:
    """(weight, bias, mel bins) of what reads the mel."""
    found = [("gru.w_conditioning", "gru.b_input", n_mels)]
    if "aux.conv_in.weight" in tensors:
        found.append(("aux.conv_in.weight", "aux.conv_in.bias", n_mels))
    return found


def _rows(weight: NDArray[np.float32], n_mels: int) -> NDArray[np.float64]:
    """Weights [R, mel and more] or [R, mel, taps] -> float64 [R, n_mels] or [R, taps, n_mels]."""
    own = weight[:, :n_mels].astype(np.float64)
    return np.moveaxis(own, 1, -1)


def _put(weight: NDArray[np.float32], rows: NDArray[np.float64], n_mels: int) -> None:
    """Write back what `_rows` read."""
    weight[:, :n_mels] = np.moveaxis(rows, -1, 1)


def _less(bias: NDArray[np.float32], shift: NDArray[np.float64]) -> NDArray[np.float32]:
    """Bias [R] - shift [R] or [R, taps], in float64."""
    less = bias - shift.reshape(len(bias), -1).sum(axis=1)
    return np.asarray(less, dtype=np.float32)
