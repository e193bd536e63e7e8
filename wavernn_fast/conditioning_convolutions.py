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


class DilatedHearing:
    """What a `DilatedNetwork` gives of frames that come piece by piece, each row computed once.

    The same bits as of all frames at once: a row has the same place in its product, and the
    convolutions keep what they still reach back to. It is a source of frames (`Frames`).
    """

    def __init__(self, network: DilatedNetwork) -> None:
        self._network, xp = network, network._xp
        # Of the mel, and of what each block hears of the one before.
        self._heard = [_Kept(xp) for _ in range(len(network._blocks) + 1)]
        self._beside = [_Kept(xp) for _ in network._blocks]  # what its convolution hears
        self._out = _Kept(xp)
        self.n_frames = 0  # of the output so far, those dropped included

    @property
    def taken(self) -> int:
        """Frames of the mel that have been heard."""
        return self._heard[0].end

    def take(self, first: int, count: int) -> Any:
        """Rows [count, size] of the output, zeros beyond."""
        return self._out.take(first, count)

    def drop(self, before: int) -> None:
        """Forget the output before that frame."""
        self._out.drop(before)

    def hear(self, mel: Any, last: bool) -> None:
        """Go on with mel frames [n, n_mels], float64; after the `last` there are none."""
        network = self._network
        xp, reach = network._xp, 2 ** len(network._blocks) - 1
        at = -reach  # frame on which products of this layer begin, in units of BLOCK
        frames, done = self._heard[0], self._heard[1].end if network._blocks else self._out.end
        frames.push(mel)
        first = _on_grid(done, at)
        x = _convolved(xp, frames.take(first, frames.end - first), network._pre)[done - first :]
        frames.drop(frames.end - BLOCK)
        for i in range(len(network._blocks)):
            self._heard[i + 1].push(x)
            x = self._block(i, at, last)
            at += 2**i
        self._out.push(x)
        self.n_frames = self._out.end

    def _block(self, i: int, at: int, last: bool) -> Any:
        """New rows of a residual block, as far as it has heard the frames around them."""
        network, x, beside = self._network, self._heard[i + 1], self._beside[i]
        xp, block, side = network._xp, network._blocks[i], 2**i
        first = _on_grid(beside.end, at)
        new = x.take(first, x.end - first)
        if network._narrow:
            gain, shift = network._gains[i]
            new = _convolved(xp, relu(xp, gain * new + shift), block[0])
        beside.push(relu(xp, new)[beside.end - first :])
        done = self._heard[i + 2].end if i + 2 < len(self._heard) else self._out.end
        end = max(done, x.end if last else x.end - side)
        first = _on_grid(done, at + side)
        y = beside.take(first - side, end - first + 2 * side)
        y = _convolved(xp, y, block[1 if network._narrow else 0], side)
        if network._narrow:
            y = _convolved(xp, relu(xp, y), block[2])
        rows = x.take(done, end - done) + y[done - first :]
        x.drop(min(end, x.end - BLOCK))
        beside.drop(end - BLOCK - side)
        return rows


def _on_grid(frame: int, at: int) -> int:
    """First frame of the product that a frame is in, where one begins with frame `at`."""
    return frame - (frame - at) % BLOCK


class _Kept:
    """Rows of the last frames so far, float64; zeros before the first and after the last."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self._room: Any = None  # [rows, channels], of which some are kept
        self._first = 0  # number of the first frame kept
        self._begin = self._end = 0  # rows of the room that hold the frames kept

    @property
    def end(self) -> int:
        """Frames so far."""
        return self._first + self._end - self._begin

    def push(self, rows: Any) -> None:
        """Add rows [n, channels]."""
        if self._room is None:
            self._room = self._xp.zeros((0, rows.shape[1]), dtype=self._xp.float64)
        if self._end + rows.shape[0] > self._room.shape[0]:  # a row is moved a few times in all
            kept = self._room[self._begin : self._end]
            shape = (2 * (kept.shape[0] + rows.shape[0]), rows.shape[1])
            self._room = self._xp.zeros(shape, dtype=self._xp.float64)
            self._room[: kept.shape[0]] = kept
            self._begin, self._end = 0, kept.shape[0]
        self._room[self._end : self._end + rows.shape[0]] = rows
        self._end += rows.shape[0]

    def drop(self, before: int) -> None:
        """Forget the frames before that number."""
        count = min(max(0, before - self._first), self._end - self._begin)
        self._begin += count
        self._first += count

    def take(self, first: int, count: int) -> Any:
        """Rows [count, channels] from frame `first` on."""
        out = self._xp.zeros((count, self._room.shape[1]), dtype=self._xp.float64)
        low, high = max(first, self._first), min(first + count, self.end)
        if low < high:
            at = self._begin - self._first
            out[low - first : high - first] = self._room[low + at : high + at]
        return out


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
