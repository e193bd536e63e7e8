"""Mel frames to conditioning rows of a core with one GRU: a network, then one hoisted product.

Nothing is interpolated: what the network makes of a frame is held for a frame. In an embedded core
all rows are rows of `hold`, ``gru.w_conditioning @ c``; in a dual core, whose rows of `hold` are
those of an auxiliary network, rows of `interp` with one tap. Convolutions hear some frames around
and are computed in the blocks of `conditioning`; bidirectional GRUs hear the whole utterance, so
that the first row can be had when the last frame has come.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conditioning import Conditioner, ConditioningStream, Rows
from .conditioning_frames import Frames, StreamedMel, WholeMel, check_window
from .conditioning_products import BLOCK, Dense, Network, convolve
from .config import ModelConfig
from .errors import InputError

Tensors = Mapping[str, NDArray[np.float32]]


def make_conditioner(config: ModelConfig, tensors: Tensors, xp: Any = np) -> Conditioner:
    """Return the conditioner of a model; see `conditioning.Conditioner` for the arguments."""
    if config.core == "dual" and config.network is not None:
        return ResidualConvConditioner(config, tensors, xp)
    if config.core != "embedded":
        return Conditioner(config, tensors, xp)
    if config.network is not None and config.network.hears_whole:
        return UtteranceConditioner(config, tensors, xp)
    return HeldConditioner(config, tensors, xp)


class HeldConditioner(Conditioner):
    """Rows of `hold` alone: of the mel itself, or of a network that hears some frames around."""

    def _matrices(
        self, tensors: Tensors
    ) -> tuple[NDArray[np.float64] | None, list[NDArray[np.float64]]]:
        return None, [tensors["gru.w_conditioning"].astype(np.float64).T]

    def _network(self, tensors: Tensors) -> Network | None:
        network = self.config.network
        if network is None or network.hears_whole:
            return _AsItIs()
        return ConvNetwork(self.config, tensors, self._xp)


class ResidualConvConditioner(Conditioner):
    """Rows of `interp` of a dual core that hears what residual convolutions give."""

    def __init__(self, config: ModelConfig, tensors: Tensors, xp: Any = np) -> None:
        super().__init__(config, tensors, xp)
        self._residual = ResidualConvNetwork(config, tensors, xp)

    def _matrices(
        self, tensors: Tensors
    ) -> tuple[NDArray[np.float64] | None, list[NDArray[np.float64]]]:
        return tensors["gru.w_conditioning"].astype(np.float64).T, []

    def on(self, xp: Any, hold_bias: NDArray[np.float32] | None) -> ResidualConvConditioner:
        """See `Conditioner.on`."""
        twin = super().on(xp, hold_bias)
        assert isinstance(twin, ResidualConvConditioner)
        twin._residual = self._residual.on(xp)
        return twin

    def _block(self, frames: Frames, block: int) -> Rows:
        radius = self.config.aux_radius
        first, count = block * BLOCK - radius, BLOCK + 2 * radius
        inside = [0 <= n < frames.n_frames for n in range(first, first + count)]
        assert self._interp is not None  # a network needs a mel
        rows = self._interp(self._residual(frames.take(first, count), inside))
        return self._xp.asarray(rows, dtype=self._xp.float32), None


class UtteranceConditioner(HeldConditioner):
    """The same where the network hears the whole utterance."""

    def __init__(self, config: ModelConfig, tensors: Tensors, xp: Any = np) -> None:
        super().__init__(config, tensors, xp)
        self._whole = BidirectionalGru(config, tensors, xp)

    def on(self, xp: Any, hold_bias: NDArray[np.float32] | None) -> UtteranceConditioner:
        """See `Conditioner.on`."""
        twin = super().on(xp, hold_bias)
        assert isinstance(twin, UtteranceConditioner)
        twin._whole = self._whole.on(xp)
        return twin

    def window(self, mel: Any, first: int, count: int) -> Rows:
        """See `Conditioner.window`; each call runs the network over the whole mel, `of` once."""
        return self.of(mel)(first, count)

    def of(self, mel: Any) -> Callable[[int, int], Rows]:
        """See `Conditioner.of`; what the network gives, [n_frames, channels], is kept."""
        return _Heard(self, mel)

    def stream(self) -> ConditioningStream:
        """See `Conditioner.stream`: no frame is ready before `finish`."""
        return _UtteranceStream(self)


class _Heard:
    """Windows of one utterance; the network runs when the first is asked for."""

    def __init__(self, conditioner: UtteranceConditioner, mel: Any) -> None:
        self._conditioner, self._mel = conditioner, mel
        self._frames: WholeMel | None = None  # of what the network gives, as if it were a mel

    def __call__(self, first: int, count: int) -> Rows:
        conditioner = self._conditioner
        check_window(first, count, int(self._mel.shape[1]))
        if self._frames is None:
            self._frames = WholeMel(conditioner._whole(self._mel).T, conditioner._xp, 0.0)
        return conditioner._rows(self._frames, first, count, {})


class _UtteranceStream(ConditioningStream):
    """Frames are gathered; rows can be had when all have come."""

    def __init__(self, conditioner: UtteranceConditioner) -> None:
        super().__init__(conditioner)
        self._whole_conditioner = conditioner
        self._heard: Callable[[int, int], Rows] | None = None

    @property
    def ready(self) -> int:
        """None before the end of the utterance, then all."""
        return self._frames.n_frames if self._finished else 0

    def window(self, first: int, count: int) -> Rows:
        """See `ConditioningStream.window`."""
        if first < self._oldest:
            raise InputError(f"Frame {first} is no longer kept; frames from {self._oldest} are.")
        check_window(first, count, self.ready)
        if self._heard is None:
            self._heard = self._whole_conditioner.of(_all_frames(self._frames))
        self._oldest = first
        return self._heard(first, count)


def _all_frames(frames: StreamedMel) -> Any:
    """The mel [n_mels, n_frames] of a stream that has dropped nothing."""
    return frames.take(0, frames.n_frames).T


class _AsItIs:
    """No network: the frames themselves."""

    def on(self, xp: Any) -> _AsItIs:
        return self

    def __call__(self, mel: Any) -> list[Any]:
        return [mel]


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
        """Output [BLOCK, size] for mel [BLOCK + 2 * radius, n_mels].

        `convolve` gives BLOCK frames a call, so a layer that must give more, for the context of
        those above it, is computed in steps of BLOCK; the last step may overlap the one before.
        """
        x = mel
        for taps, bias in self._layers:
            x = _tanh_of_convolution(self._xp, x, taps, bias)
        return [x]


def _tanh_of_convolution(xp: Any, x: Any, taps: list[Dense], bias: Any) -> Any:
    """Rows [n - kernel + 1, out] of x [n, in], of which there are BLOCK at least."""
    rows = x.shape[0] - len(taps) + 1
    out = xp.zeros((rows, bias.shape[0]), dtype=xp.float64)
    for first in [*range(0, rows - BLOCK, BLOCK), rows - BLOCK]:
        part = x[first : first + BLOCK + len(taps) - 1]
        out[first : first + BLOCK] = xp.tanh(convolve(part, (taps, bias)))
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


class BidirectionalGru:
    """Layers of two GRUs, one from the first frame on and one from the last.

    torch.nn.GRU with ``bidirectional=True``: a layer hears both directions of the one below,
    forward first.
    """

    def __init__(self, config: ModelConfig, tensors: Tensors, xp: Any) -> None:
        network = config.network
        assert network is not None
        self._xp = xp
        self._size = network.size
        self._layers = [_GruLayer(tensors, layer, xp) for layer in range(network.layers)]

    def on(self, xp: Any) -> BidirectionalGru:
        """Bring the weights to another array module."""
        twin = copy.copy(self)
        twin._xp, twin._layers = xp, [layer.on(xp) for layer in self._layers]
        return twin

    def __call__(self, mel: Any) -> Any:
        """Output float64 [n_frames, 2 * size] for a mel [n_mels, n_frames]."""
        x = self._xp.asarray(mel, dtype=self._xp.float64).T
        for layer in self._layers:
            x = self._run(layer, x)
        return x

    def _run(self, layer: _GruLayer, x: Any) -> Any:
        """One layer, both directions side by side: x [n, in] -> [n, 2 * size]."""
        xp, size, n = self._xp, self._size, int(x.shape[0])
        inputs = layer.inputs(x)  # [2, n, 3 size], those of the second direction last frame first
        h = xp.zeros((2, 1, size), dtype=xp.float64)
        out = xp.zeros((n, 2 * size), dtype=xp.float64)
        for t in range(n):
            given = inputs[:, t : t + 1]
            recurrent = h @ layer.w_recurrent + layer.b_recurrent  # [2, 1, 3 size]
            # sigmoid(x) = (1 + tanh(x / 2)) / 2, which cannot overflow; reset, then update
            gates = 0.5 + 0.5 * xp.tanh(
                0.5 * (recurrent[:, :, : 2 * size] + given[:, :, : 2 * size])
            )
            reset, update = gates[:, :, :size], gates[:, :, size:]
            candidate = xp.tanh(reset * recurrent[:, :, 2 * size :] + given[:, :, 2 * size :])
            h = update * h + (1.0 - update) * candidate
            out[t, :size] = h[0, 0]
            out[n - 1 - t, size:] = h[1, 0]
        return out


class _GruLayer:
    """Weights of both directions of a layer, in float64, turned so that rows are multiplied."""

    def __init__(self, tensors: Tensors, layer: int, xp: Any) -> None:
        def both(name: str) -> list[NDArray[np.float64]]:
            ways = ("forward", "backward")
            return [tensors[f"network.{layer}.{way}.{name}"].astype(np.float64) for way in ways]

        self._xp = xp
        self._w_input = [Dense(w.T, xp) for w in both("w_input")]
        self._b_input = [xp.asarray(b) for b in both("b_input")]
        self.w_recurrent = xp.asarray(np.stack([w.T for w in both("w_recurrent")]))
        self.b_recurrent = xp.asarray(np.stack(both("b_recurrent"))[:, None])  # [2, 1, 3 size]

    def on(self, xp: Any) -> _GruLayer:
        """Bring the weights to another array module."""
        twin = copy.copy(self)
        twin._xp = xp
        twin._w_input = [dense.on(xp) for dense in self._w_input]
        twin._b_input = [xp.asarray(bias) for bias in self._b_input]
        twin.w_recurrent = xp.asarray(self.w_recurrent)
        twin.b_recurrent = xp.asarray(self.b_recurrent)
        return twin

    def inputs(self, x: Any) -> Any:
        """Gate inputs [2, n, 3 size] of x [n, in]; of the second direction from the last frame on.

        Multiplied BLOCK rows at a time, the last of them partly zero: bits that do not depend on
        how many frames there are.
        """
        xp, n = self._xp, int(x.shape[0])
        out = xp.zeros((2, n, self._w_input[0].size), dtype=xp.float64)
        for first in range(0, n, BLOCK):
            count = min(BLOCK, n - first)
            rows = xp.zeros((BLOCK, x.shape[1]), dtype=xp.float64)
            rows[:count] = x[first : first + count]
            out[0, first : first + count] = self._w_input[0](rows)[:count] + self._b_input[0]
            back = self._w_input[1](rows)[:count] + self._b_input[1]
            out[1, n - first - count : n - first] = xp.flip(back, (0,))
        return out
