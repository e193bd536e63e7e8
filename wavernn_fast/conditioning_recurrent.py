"""Recurrent layers over frames, in float64: bidirectional GRUs, and LSTM layers that run forward.

Frames are multiplied in products whose shapes do not depend on how many there are, and the states
one frame at a time, so the bits of a frame are the same however the utterance came.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conditioning_products import BLOCK, Dense
from .config import ModelConfig

Tensors = Mapping[str, NDArray[np.float32]]
LstmState = list[tuple[Any, Any]]  # output and cell of each layer, [1, size] each


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
        heard = config.n_mels  # columns of the first layer; behind them those of a speaker
        self._layers = [
            _GruLayer(tensors, layer, xp, heard if layer == 0 else None)
            for layer in range(network.layers)
        ]

    def on(self, xp: Any) -> BidirectionalGru:
        """Bring the weights to another array module."""
        twin = copy.copy(self)
        twin._xp, twin._layers = xp, [layer.on(xp) for layer in self._layers]
        return twin

    def of_speaker(self, speaker: NDArray[np.float64]) -> BidirectionalGru:
        """Let every frame hear a speaker's vector [speaker_size] as well."""
        twin = copy.copy(self)
        twin._layers = [self._layers[0].of_speaker(speaker), *self._layers[1:]]
        return twin

    def __call__(self, mel: Any) -> Any:
        """Output float64 [n_frames, 2 * size] for a mel [n_mels, n_frames]."""
        x = self._xp.asarray(mel, dtype=self._xp.float64).T
        for layer in self._layers:
            x = self._run(layer, x)
        return x

    def _run(self, layer: _GruLayer, x: Any) -> Any:
        """One layer, both directions side by side: x [n, in] -> [n, 2 * size]."""
        inputs = layer.inputs(x)  # [2, n, 3 size], those of the second direction last frame first
        if self._xp is np:
            with contextlib.suppress(ImportError):  # not compiled: the same recursion, slower
                from . import _C

                return _C.bidirectional_gru(inputs, layer.w_recurrent, layer.b_recurrent[:, 0])
        return self._recursion(layer, inputs)

    def _recursion(self, layer: _GruLayer, inputs: Any) -> Any:
        """The states [n, 2 * size] of inputs [2, n, 3 * size], frame by frame."""
        xp, size, n = self._xp, self._size, int(inputs.shape[1])
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
    """Weights of both directions of a layer, in float64, turned so that rows are multiplied.

    Of its input columns those before number `heard` are of frames, the others of a speaker.
    """

    def __init__(self, tensors: Tensors, layer: int, xp: Any, heard: int | None) -> None:
        def both(name: str) -> list[NDArray[np.float64]]:
            ways = ("forward", "backward")
            return [tensors[f"network.{layer}.{way}.{name}"].astype(np.float64) for way in ways]

        self._xp = xp
        inputs = both("w_input")
        self._w_input = [Dense(w[:, :heard].T, xp) for w in inputs]
        self._of_speaker = [w[:, w.shape[1] if heard is None else heard :] for w in inputs]
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

    def of_speaker(self, speaker: NDArray[np.float64]) -> _GruLayer:
        """The same with what it hears of a speaker's vector [speaker_size] in its biases."""
        twin = copy.copy(self)
        twin._b_input = [
            bias + self._xp.asarray(w @ speaker)
            for bias, w in zip(self._b_input, self._of_speaker, strict=True)
        ]
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


class Lstm:
    """Layers of one LSTM, from the first frame on: torch.nn.LSTM in one direction."""

    def __init__(self, config: ModelConfig, tensors: Tensors, xp: Any = np) -> None:
        network = config.network
        assert network is not None
        self._xp, self._size = xp, network.size
        self._layers = []  # products with input and state, and the bias [4 size]
        for i in range(network.lstm_layers):
            name = f"network.lstm{i}"
            weights = (tensors[f"{name}.{part}"] for part in ("w_input", "w_recurrent"))
            w_input, w_recurrent = (Dense(w.astype(np.float64).T, xp) for w in weights)
            bias = xp.asarray(tensors[f"{name}.bias"].astype(np.float64))
            self._layers.append((w_input, w_recurrent, bias))

    def on(self, xp: Any) -> Lstm:
        """Bring the weights to another array module."""
        twin = copy.copy(self)
        twin._xp = xp
        twin._layers = [
            (w_input.on(xp), w_recurrent.on(xp), xp.asarray(bias))
            for w_input, w_recurrent, bias in self._layers
        ]
        return twin

    def start(self) -> LstmState:
        """State of an utterance of which nothing has been heard."""
        zeros = self._xp.zeros((1, self._size), dtype=self._xp.float64)
        return [(zeros, zeros) for _ in self._layers]

    def step(self, x: Any, state: LstmState) -> tuple[Any, LstmState]:
        """Output [1, size] for one frame x [1, size], and the state after it."""
        xp, size, after = self._xp, self._size, []
        for (w_input, w_recurrent, bias), (h, c) in zip(self._layers, state, strict=True):
            sums = w_input(x) + w_recurrent(h) + bias  # gates: input, forget, cell, output
            # sigmoid(x) = (1 + tanh(x / 2)) / 2, which cannot overflow
            gates = 0.5 + 0.5 * xp.tanh(0.5 * sums)
            candidate = xp.tanh(sums[:, 2 * size : 3 * size])
            c = gates[:, size : 2 * size] * c + gates[:, :size] * candidate
            x = gates[:, 3 * size :] * xp.tanh(c)
            after.append((x, c))
        return x, after
