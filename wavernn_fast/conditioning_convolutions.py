"""Convolutions over frames, in float64: with a tanh after each, residual, and dilated.

BLOCK rows a product, on the grid of `conditioning`: bits do not depend on how many frames there
are, nor on how they came.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conditioning_products import BLOCK, Dense, convolve, relu
from .config import ModelConfig

Tensors = Mapping[str, NDArray[np.float32]]
Layer = tuple[list[Dense], Any]  # one product a tap, and the bias [out]


class ConvNetwork:
    """Convolutions over frames, a tanh after each, nothing padded between them."""

    def __init__(self, config: ModelConfig, tensors: Tensors, xp: Any) -> None:
        network = config.network
        assert network is not None
        self._xp = xp
        self._layers = []  # products of the taps, and the bias [size]
        for layer in range(network.layers):
            weight = tensors[f"network.{layer}.weight"].astype(np.float64)
            bias = xp.asarray(tensors[f"network.{layer}.bias"].astype(np.float64))
            taps = [Dense(weight[:, :, i].T, xp) for i in range(network.kernel)]
            self._layers.append((taps, bias))

    def on(self, xp: Any) -> ConvNetwork:
        """Bring the weights to another array module."""
        twin = copy.copy(self)
        twin._xp = xp
        twin._layers = [
            ([tap.on(xp) for tap in taps], xp.asarray(bias)) for taps, bias in self._layers
        ]
        return twin

    def __call__(self, mel: Any) -> list[Any]:
        """Output [..., BLOCK, size] for mel [..., BLOCK + 2 * radius, n_mels].

        `convolve` gives BLOCK frames a call, so a layer that must give more, for the context of
        those above it, is computed in steps of BLOCK; the last step may overlap the one before.
        """
        x = mel
        for taps, bias in self._layers:
            x = _tanh_of_convolution(self._xp, x, taps, bias)
        return [x]


def _tanh_of_convolution(xp: Any, x: Any, taps: list[Dense], bias: Any) -> Any:
    """Rows [..., n - kernel + 1, out] of x [..., n, in], of which there are BLOCK at least."""
    rows = x.shape[-2] - len(taps) + 1
    out = xp.zeros((*x.shape[:-2], rows, bias.shape[0]), dtype=xp.float64)
    for first in [*range(0, rows - BLOCK, BLOCK), rows - BLOCK]:
        part = x[..., first : first + BLOCK + len(taps) - 1, :]
        out[..., first : first + BLOCK, :] = xp.tanh(convolve(part, (taps, bias)))
    return out


class ResidualConvNetwork:
    """Padded convolutions beside the mel, then two dense layers; a tanh after each."""

    def __init__(self, config: ModelConfig, tensors: Tensors, xp: Any) -> None:
        network = config.network
        assert network is not None
        self._xp = xp

        def layer(name: str) -> tuple[list[Dense], Any]:
            weight = tensors[f"{name}.weight"].astype(np.float64)
            taps = weight if weight.ndim == 3 else weight[:, :, None]
            bias = xp.asarray(tensors[f"{name}.bias"].astype(np.float64))
            return [Dense(taps[:, :, i].T, xp) for i in range(taps.shape[2])], bias

        self._convs = [layer(f"network.{i}") for i in range(network.layers)]
        self._dense = [layer(f"network.dense{i}") for i in range(2)]

    def on(self, xp: Any) -> ResidualConvNetwork:
        """Bring the weights to another array module."""

        def bring(layer: tuple[list[Dense], Any]) -> tuple[list[Dense], Any]:
            return [product.on(xp) for product in layer[0]], xp.asarray(layer[1])

        twin = copy.copy(self)
        twin._xp = xp
        twin._convs = [bring(layer) for layer in self._convs]
        twin._dense = [bring(layer) for layer in self._dense]
        return twin

    def __call__(self, mel: Any, inside: list[bool]) -> Any:
        """Output [BLOCK, size] for mel [BLOCK + 2 * radius, n_mels].

        `inside` says of each frame whether it belongs to the utterance: every convolution hears
        zeros beside it, not what the one before makes of zeros.
        """
        xp, x = self._xp, mel
        known = xp.asarray(np.array(inside, np.float64))[:, None]
        for taps, bias in self._convs:
            side = len(taps) // 2
            known = known[side : known.shape[0] - side] if side else known
            x = _tanh_of_convolution(xp, x, taps, bias) * known
        cut = (mel.shape[0] - BLOCK) // 2
        x = x + mel[cut : cut + BLOCK]
        for layer in self._dense:
            x = xp.tanh(convolve(x, layer))
        return x


class DilatedNetwork:
    """A dense layer, then residual blocks of dilated convolutions: see `NetworkConfig`.

    "dilated_conv": x + conv(relu x). "bottleneck_conv": x + conv3 relu conv2 relu conv1 relu(gain x
    + shift), of which conv2 alone sees several frames.
    """

    def __init__(self, config: ModelConfig, tensors: Tensors, xp: Any = np) -> None:
        network = config.network
        assert network is not None

        def layer(name: str) -> Layer:
            weight = tensors[f"{name}.weight"].astype(np.float64)
            taps = weight if weight.ndim == 3 else weight[:, :, None]
            bias = xp.asarray(tensors[f"{name}.bias"].astype(np.float64))
            return [Dense(taps[:, :, i].T, xp) for i in range(taps.shape[2])], bias

        def vector(name: str) -> Any:
            return xp.asarray(tensors[name].astype(np.float64))

        self._xp, self._narrow = xp, network.kind == "bottleneck_conv"
        pre = tensors["network.pre.weight"].astype(np.float64)
        bias = xp.asarray(tensors["network.pre.bias"].astype(np.float64))
        self._pre: Layer = [Dense(pre[:, : config.n_mels].T, xp)], bias
        self._of_speaker = pre[:, config.n_mels :]  # [size, speaker_size]
        names = ("conv1", "conv2", "conv3") if self._narrow else ("conv",)
        blocks = [f"network.{i}" for i in range(network.layers)]
        self._blocks = [[layer(f"{block}.{name}") for name in names] for block in blocks]
        self._gains = [
            (vector(f"{block}.gain"), vector(f"{block}.shift")) for block in blocks if self._narrow
        ]

    def on(self, xp: Any) -> DilatedNetwork:
        """Bring the weights to another array module."""

        def bring(layer: Layer) -> Layer:
            return [product.on(xp) for product in layer[0]], xp.asarray(layer[1])

        twin = copy.copy(self)
        twin._xp, twin._pre = xp, bring(self._pre)
        twin._blocks = [[bring(layer) for layer in block] for block in self._blocks]
        twin._gains = [(xp.asarray(gain), xp.asarray(shift)) for gain, shift in self._gains]
        return twin

    def of_speaker(self, speaker: NDArray[np.float64]) -> DilatedNetwork:
        """Let every frame hear a speaker's vector [speaker_size] as well: a bias."""
        twin = copy.copy(self)
        products, bias = self._pre
        twin._pre = products, bias + self._xp.asarray(self._of_speaker @ speaker)
        return twin

    def __call__(self, mel: Any, inside: list[bool]) -> Any:
        """Output [n, size] for mel [n + 2 * radius, n_mels], n a multiple of BLOCK.

        `inside` says of each frame whether it belongs to the utterance: a convolution hears zeros
        beside it, not what the layers before make of nothing.
        """
        xp = self._xp
        known = xp.asarray(np.array(inside, np.float64))[:, None]
        x = _convolved(xp, mel, self._pre)
        for i, block in enumerate(self._blocks):
            side = 2**i
            if self._narrow:
                gain, shift = self._gains[i]
                y = relu(xp, _convolved(xp, relu(xp, gain * x + shift), block[0]))
                y = relu(xp, _convolved(xp, y * known, block[1], side))
                y = _convolved(xp, y, block[2])
            else:
                y = _convolved(xp, relu(xp, x) * known, block[0], side)
            x = x[side : x.shape[0] - side] + y
            known = known[side : known.shape[0] - side]
        return x


def _convolved(xp: Any, x: Any, layer: Layer, dilation: int = 1) -> Any:
    """Rows [n - dilation * (taps - 1), out] of x [n, in].

    BLOCK rows a product, the last of them partly zero: a row's place in its product does not
    depend on how many there are.
    """
    products, bias = layer
    rows = x.shape[0] - dilation * (len(products) - 1)
    lacking = -rows % BLOCK
    if lacking:
        x = xp.concatenate([x, xp.zeros((lacking, x.shape[1]), dtype=xp.float64)])
    out = xp.zeros((rows + lacking, bias.shape[0]), dtype=xp.float64)
    for first in range(0, rows, BLOCK):
        total = bias
        for tap, product in enumerate(products):
            start = first + tap * dilation
            total = total + product(x[start : start + BLOCK])
        out[first : first + BLOCK] = total
    return out[:rows]
