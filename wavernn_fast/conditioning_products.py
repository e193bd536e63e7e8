"""Products with fixed matrices over blocks of frames, and the matrices, with all hoisted."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig

# Small enough that a stream fed frame by frame wastes little on its unfinished block, large enough
# that the weights are not read again for every frame (0.35 ms a block at hidden size 512).
BLOCK = 8
_SINGLE_THREAD_PRODUCTS = 2**18  # multiplications; OpenBLAS uses one thread up to here


def unwarned() -> AbstractContextManager[Any]:
    """Let rows of an absurd mel become infinite without a warning of numpy's.

    The engine says so in an error with the sample, as of everything that is not finite.
    """
    return np.errstate(over="ignore", invalid="ignore")


class Network(Protocol):
    """What is made of a few frames, to be multiplied and held for a frame."""

    def on(self, xp: Any) -> Network:
        """Bring the weights to another array module."""

    def __call__(self, mel: Any) -> list[Any]:
        """Arrays [..., BLOCK, channels] for mel [..., BLOCK + 2 * radius, n_mels]."""


class AuxNetwork:
    """Convolution over a few frames, then residual blocks within the frame.

    conv_in, relu, n times {x + conv2(relu(conv1 x))}, conv_out; batch-norm is already folded in.
    """

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, NDArray[np.float32]], xp: Any
    ) -> None:
        def layer(name: str) -> tuple[list[Dense], Any]:
            """One product a tap, and the bias [out]."""
            weight = tensors[f"{name}.weight"].astype(np.float64)
            taps = weight if weight.ndim == 3 else weight[:, :, None]
            bias = tensors[f"{name}.bias"].astype(np.float64)
            return [Dense(taps[:, :, i].T, xp) for i in range(taps.shape[2])], xp.asarray(bias)

        self._xp = xp
        self._size = config.aux_size
        self._conv_in = layer("aux.conv_in")  # a product for each of aux_kernel taps
        self._blocks = [
            (layer(f"aux.blocks.{i}.conv1"), layer(f"aux.blocks.{i}.conv2"))
            for i in range(config.aux_blocks)
        ]
        self._conv_out = layer("aux.conv_out")

    def on(self, xp: Any) -> AuxNetwork:
        """Bring the weights to another array module."""

        def bring(layer: tuple[list[Dense], Any]) -> tuple[list[Dense], Any]:
            return [product.on(xp) for product in layer[0]], xp.asarray(layer[1])

        twin = copy.copy(self)
        twin._xp = xp
        twin._conv_in, twin._conv_out = bring(self._conv_in), bring(self._conv_out)
        twin._blocks = [(bring(conv1), bring(conv2)) for conv1, conv2 in self._blocks]
        return twin

    def __call__(self, mel: Any) -> list[Any]:
        """Slices [..., BLOCK, aux_size] of the output for mel [..., BLOCK + 2 * radius, n_mels]."""
        x = relu(self._xp, convolve(mel, self._conv_in))
        for conv1, conv2 in self._blocks:
            x = x + convolve(relu(self._xp, convolve(x, conv1)), conv2)
        x = convolve(x, self._conv_out)
        return [x[..., i : i + self._size] for i in range(0, x.shape[-1], self._size)]


def convolve(x: Any, layer: tuple[list[Dense], Any]) -> Any:
    """Convolve x [..., BLOCK + taps - 1, in] over frames; returns [..., BLOCK, out]."""
    products, bias = layer
    total = bias
    for tap, product in enumerate(products):
        total = total + product(x[..., tap : tap + BLOCK, :])
    return total


class Dense:
    """Product with a fixed matrix [in, out], done in strips of columns.

    The strips keep each product below the size at which OpenBLAS wakes its threads, so that the
    bits do not hang on the number of threads and the threads of the engine are left alone.
    """

    def __init__(self, matrix: NDArray[np.float64], xp: Any) -> None:
        width = max(1, _SINGLE_THREAD_PRODUCTS // (BLOCK * matrix.shape[0]))
        self._xp = xp
        self.size = int(matrix.shape[1])
        self._strips = [
            xp.asarray(np.ascontiguousarray(matrix[:, i : i + width]))
            for i in range(0, self.size, width)
        ]

    def on(self, xp: Any) -> Dense:
        """Bring the matrix to another array module."""
        twin = copy.copy(self)
        twin._xp, twin._strips = xp, [xp.asarray(strip) for strip in self._strips]
        return twin

    def __call__(self, x: Any) -> Any:
        """Multiply x [..., BLOCK, in]; returns float64 [..., BLOCK, out]."""
        if len(self._strips) == 1:
            return x @ self._strips[0]
        out = self._xp.zeros((*x.shape[:-1], self.size), dtype=self._xp.float64)
        self.put(x, out)
        return out

    def put(self, x: Any, out: Any) -> None:
        """The same into `out` [..., BLOCK, out] of any float type, rounded there."""
        column = 0
        for strip in self._strips:
            out[..., column : column + strip.shape[1]] = x @ strip
            column += strip.shape[1]


def overlapping(xp: Any, x: Any, step: int, more: int) -> Any:
    """Pieces [n, step + more, channels] of x [n * step + more, channels], each `step` further."""
    if xp is np:
        windows = np.lib.stride_tricks.sliding_window_view(x, step + more, axis=0)
        return windows[::step].swapaxes(1, 2)
    return xp.stack([x[i : i + step + more] for i in range(0, x.shape[0] - more, step)])


def relu(xp: Any, x: Any) -> Any:
    """Negative values to 0."""
    return xp.where(x > 0.0, x, 0.0)


def hoist(
    config: ModelConfig, tensors: Mapping[str, NDArray[np.float32]]
) -> tuple[NDArray[np.float64] | None, list[NDArray[np.float64]]]:
    """Matrices [n_mels, interp_size] and, for each aux slice, [aux_size, channels], float64."""
    mels, aux = config.n_mels, config.aux_size
    if mels == 0:
        return None, []

    def get(name: str) -> NDArray[np.float64]:
        return tensors[name].astype(np.float64)

    if config.core == "dual":
        weight = get("gru.w_conditioning")
        matrices = [weight[:, :mels], weight[:, mels : mels + aux]]
    else:
        units, inner = config.hidden_size, get("gru1.w_input")
        bands = config.bands  # the first columns are the samples before
        weight = get("input.weight")[:, bands : bands + mels + aux]
        first = np.concatenate([weight, inner @ weight])  # [4 hidden_size, n_mels + aux_size]
        matrices = [
            first[:, :mels],
            first[:, mels:],
            get("gru2.w_input")[:, units:],
            get("fc1.weight")[:, units:],
            get("fc2.weight")[:, config.fc_size :],
        ]
    turned = [m.T for m in matrices]
    return turned[0], turned[1:] if aux else []


def speaker_matrix(
    config: ModelConfig, tensors: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float64]:
    """A speaker's vector to the first 4 H channels of `hold`: [speaker_size, 4 H], float64.

    Of a residual core; of other cores [0, 0], as a network hears it.
    """
    if not config.speaker_size or config.core != "residual":
        return np.zeros((0, 0))
    columns = tensors["input.weight"][:, -config.speaker_size :].astype(np.float64)
    return np.concatenate([columns, tensors["gru1.w_input"].astype(np.float64) @ columns]).T
