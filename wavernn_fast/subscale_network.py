"""What the rows of a subscale model hear of the rows before them, slice by slice.

The network is that of `models.subscale` (docs/subscale.md), run ahead of the engine. All rows of an
utterance move together, S columns a slice, each `lag` columns behind the one before it. So a slice
has the same shapes whatever the utterance is: one product for all rows, and columns that the next
slice needs again are kept. Nothing is computed twice, and the bits hang on S alone.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .canonical import Tensors, expected_shapes
from .config import ModelConfig
from .mel_prediction import GAIN, MelPrediction, Prediction

_SINGLE_THREAD_PRODUCTS = 2**18  # multiplications; OpenBLAS uses one thread up to here

# Frames: few stay in a processor's cache.
_PREDICTED_AT_ONCE = {"host": 8, "gpu": 32}

Weights = Mapping[str, NDArray[np.float32]]


class Slices(NamedTuple):
    """How an utterance is cut: the lag grows with both, which short utterances pay."""

    columns: int  # that a row draws between two looks at the others; each costs some calls
    # 0, or 1: the network hears them while the slice before is drawn, which hides what it takes
    ahead: int = 0


# On a GPU a slice is a launch. Clusters leave most of it free, so that the network can run beside
# them; other teams fill it.
SLICES = {"cpu": Slices(32), "emu": Slices(32), "cuda": Slices(128)}
BESIDE_CLUSTERS = {"emu": Slices(32, 1), "cuda": Slices(96, 1)}


def slices_of(device: str, cluster: int) -> Slices:
    """How utterances are cut for an engine on a device, "cuda:1" too, with clusters or without."""
    kind = device.partition(":")[0]
    return BESIDE_CLUSTERS[kind] if cluster and kind in BESIDE_CLUSTERS else SLICES[kind]


class _Block(NamedTuple):
    """x + conv2(relu(conv1 x)); matrices [channels in, channels out]."""

    dilation: int
    taps: tuple[Any, Any, Any]  # of conv1, at columns i - dilation, i, i + dilation
    bias1: Any  # [channels]
    conv2: Any
    bias2: Any  # [channels]
    silence: Any  # [factor, 1, channels] what it hears where nothing sounds


class Foreseen(NamedTuple):
    """What the mel predicts in one slice."""

    table: Prediction  # of some frames, in the network's place
    frames: NDArray[np.int64]  # [factor, any] those of the slice, by where they are in the table
    which: NDArray[np.int64]  # [factor, S] of these, that of each column


class SubscaleNetwork:
    """The network of one model, for arrays of one module.

    Parameters
    ----------
    config : ModelConfig
        With `subscale`.
    tensors : mapping of str to float32 array
        Canonical tensors (docs/formats.md).
    slices : Slices
        S columns that a row advances in a slice, and how many slices ahead it hears.
    """

    def __init__(self, config: ModelConfig, tensors: Weights, slices: Slices) -> None:
        assert config.subscale is not None
        sub = self.subscale = config.subscale
        slice_columns, self.ahead = self.slices = slices
        self.slice_columns, self.lag = slice_columns, sub.horizon + slice_columns * (1 + self.ahead)
        near = max(sub.reach, sub.prediction_reach)
        self.columns = (sub.factor - 1) * self.lag + near  # of the past that is kept
        first = tensors["subscale.input.weight"].reshape(sub.factor, sub.channels, -1)
        self._first = np.ascontiguousarray(first.transpose(0, 2, 1))  # [row, seen, channels]
        self._bias = tensors["subscale.input.bias"][:, None]  # [row, 1, channels]
        self._windows = self._every_window(sub.reach, sub.horizon - sub.reach)
        self._prediction: MelPrediction | None = None
        if sub.prediction_reach:
            self._config, self._prediction = config, MelPrediction(config)
            self._near = self._every_window(sub.prediction_reach, 0)
            self._rows = np.arange(sub.factor)[:, None]
            self._steps = np.arange(slice_columns)
        self._blocks: list[_Block] = []
        silence = self._bias
        for i, dilation in enumerate(sub.dilations):
            block = _read_block(f"subscale.blocks.{i}", dilation, tensors, silence)
            self._blocks.append(block)
            ends = np.repeat(silence, 2 * dilation + 1, axis=1)
            silence = _pass(block, ends, 1)
        weight = tensors["gru.w_conditioning"][:, config.n_mels + config.aux_size :].T
        width = _SINGLE_THREAD_PRODUCTS // (slice_columns * sub.heard_size)
        self._xp: Any = np
        self._out = _strips(np.ascontiguousarray(weight), max(1, width))
        self.size = weight.shape[1]  # gate pre-activations, 3 hidden_size

    def _every_window(self, reach: int, beyond: int) -> list[Any]:
        """Where `NetworkState.past`, flat, holds what is read around each column.

        That are columns up to `reach` to either side of one that lies `beyond` it, of all rows;
        those that a row may not hear have weight zero, so any place will do for them. An array
        [row, S, seen] for each number of slices heard and not drawn.
        """
        rows, count, columns = self.subscale.factor, self.slice_columns, self.columns
        row = np.arange(rows)[:, None, None, None]
        step = np.arange(count)[None, :, None, None]
        seen = np.arange(rows)[None, None, :, None]
        tap = np.arange(-reach, reach + 1)[None, None, None, :]
        found = []
        for ahead in range(self.ahead + 1):
            place = columns - row * self.lag + ahead * count + beyond + step + tap
            flat = seen * columns + np.clip(place, 0, max(0, columns - 1))
            found.append(np.ascontiguousarray(flat.reshape(rows, count, -1)))
        return found

    def on(self, xp: Any) -> SubscaleNetwork:
        """Bring the weights to another array module."""
        twin = copy.copy(self)
        twin._xp = xp
        twin._first, twin._bias = xp.asarray(self._first), xp.asarray(self._bias)
        twin._windows = [xp.asarray(windows) for windows in self._windows]
        if self._prediction is not None:
            twin._prediction = MelPrediction(self._config, xp)
            twin._near = [xp.asarray(windows) for windows in self._near]
            twin._rows, twin._steps = xp.asarray(self._rows), xp.asarray(self._steps)
        twin._blocks = [
            _Block(
                block.dilation,
                (xp.asarray(block.taps[0]), xp.asarray(block.taps[1]), xp.asarray(block.taps[2])),
                *(xp.asarray(array) for array in block[2:]),
            )
            for block in self._blocks
        ]
        # A GPU has no threads to be left alone: one product.
        twin._out = [xp.asarray(np.concatenate(self._out, axis=1))]
        return twin

    def start(self) -> NetworkState:
        """Begin an utterance, before which nothing sounds."""
        xp = self._xp
        past = np.zeros((self.subscale.factor, self.columns), np.float32)
        kept = [
            block.silence + xp.zeros((1, 2 * block.dilation, 1), dtype=xp.float32)
            for block in self._blocks
        ]
        return NetworkState(past, kept)

    @property
    def predicts(self) -> bool:
        """Whether `hear` needs what the mel predicts."""
        return self._prediction is not None

    def predict(self, mel: Any) -> Prediction:
        """Prediction in frames of a mel [frames, n_mels], float64 in the place of the weights.

        On a GPU in batches of one size, so that each frame has the same bits in any company.
        """
        assert self._prediction is not None
        xp, parts = self._xp, []
        size = _PREDICTED_AT_ONCE["host" if xp is np else "gpu"]
        for first in range(0, len(mel), size):
            part = mel[first : first + size]
            if xp is not np and len(part) < size:
                batch = xp.zeros((size, mel.shape[1]), dtype=xp.float64)
                batch[: len(part)] = part
                parts.append([array[: len(part)] for array in self._prediction.of(batch)])
            else:
                parts.append([*self._prediction.of(part)])
        return Prediction(*(xp.concatenate(list(both)) for both in zip(*parts, strict=True)))

    def hear(
        self,
        state: NetworkState,
        out: Any,
        rows: slice = slice(None),
        foreseen: Foreseen | None = None,
        *,
        ahead: int = 0,
    ) -> None:
        """Compute what the rows of the next slice hear.

        Whenever that is done, the values are the same.

        Parameters
        ----------
        state : NetworkState
            Of the utterance; moved on by S columns for these rows.
        out : float32 array [factor, S, size]
            Written for these rows: gate pre-activations without the rest of the conditioning. Entry
            [s, j] belongs to column ``slice * S - s * lag + j``.
        rows : slice
            All by default; several threads may each take some.
        foreseen : Foreseen, optional
            What the mel predicts; needed if `predicts`.
        ahead : int
            Slices heard and not drawn yet, `SubscaleNetwork.ahead` at most.
        """
        xp, count = self._xp, self.slice_columns
        past = xp.asarray(state.past.reshape(-1))
        seen = past[self._windows[ahead][rows]]  # [rows, S, seen]
        x = seen @ self._first[rows] + self._bias[rows]
        for block, kept in zip(self._blocks, state.kept, strict=True):
            wide = xp.concatenate([kept[rows], x], axis=1)
            kept[rows] = wide[:, count:]
            x = _pass(block, wide, count)
        if foreseen is not None:
            near = past[self._near[ahead][rows]]
            x = xp.concatenate([x, self._foreseen(foreseen, near, rows)], axis=2)
        column = 0
        for strip in self._out:
            out[rows, :, column : column + strip.shape[1]] = x @ strip
            column += strip.shape[1]

    def _foreseen(self, foreseen: Foreseen, near: Any, rows: slice) -> Any:
        """Prediction from samples [rows, S, heard] at its gain, and how large its error is."""
        xp, table, row = self._xp, foreseen.table, self._rows[rows]
        frames = xp.asarray(foreseen.frames[rows])
        at = self._rows[: len(row)], self._steps, xp.asarray(foreseen.which[rows])
        # In float64: it is a small difference of large terms, and units hear it at large gains.
        weights = xp.swapaxes(table.weights[frames, row], 1, 2)
        every = xp.asarray(near, dtype=xp.float64) @ weights  # [rows, S, frames]
        both = [GAIN * every[at], table.error[frames, row][at[0], at[2]]]
        return xp.asarray(xp.stack(both, axis=2), dtype=xp.float32)


class NetworkState:
    """What the network keeps of one utterance between slices; made by `SubscaleNetwork.start`.

    Attributes
    ----------
    past : float32 [factor, columns], on the host as what the engine draws
        Amplitudes of the last columns of row 0, and of the same columns of all others as far as
        they are drawn; 0 where there is none.
    kept : list of float32 [factor, 2 dilation, channels]
        What each block heard last.
    """

    def __init__(self, past: NDArray[np.float32], kept: list[Any]) -> None:
        self.past, self.kept = past, kept

    def push(self, network: SubscaleNetwork, drawn: NDArray[np.float32]) -> None:
        """Add a slice: [factor, S], 0 where a row has drawn nothing."""
        past, count, lag = self.past, network.slice_columns, network.lag
        left = max(0, network.columns - count)
        past[:, :left] = past[:, network.columns - left :].copy()
        past[:, left:] = 0.0
        for row in range(len(past) - 1):  # nobody hears the last one
            end = network.columns - row * lag
            begin = max(0, end - count)
            past[row, begin:end] = drawn[row, count - (end - begin) :]


def cell_of(config: ModelConfig, tensors: Weights) -> tuple[ModelConfig, Tensors]:
    """The model that the engine runs for each row: all its conditioning comes from outside.

    It hears one row of gate pre-activations a sample, so its hop length is 1.
    """
    cell = dataclasses.replace(
        config,
        subscale=None,
        hop_length=1,
        n_mels=1,
        aux_size=0,
        aux_channels=0,
        aux_blocks=0,
        aux_kernel=0,
        mel=None,
    )
    given = dict(tensors)
    given["gru.w_conditioning"] = np.zeros((3 * config.hidden_size, 1), np.float32)
    given["upsample.kernel"] = np.ones((1, 1), np.float32)
    return cell, {name: given[name] for name in expected_shapes(cell)}


def _read_block(name: str, dilation: int, tensors: Weights, silence: Any) -> _Block:
    def turned(weight: NDArray[np.float32]) -> Any:
        return np.ascontiguousarray(weight.T)

    first = tensors[f"{name}.conv1.weight"]
    return _Block(
        dilation,
        (turned(first[:, :, 0]), turned(first[:, :, 1]), turned(first[:, :, 2])),
        tensors[f"{name}.conv1.bias"],
        turned(tensors[f"{name}.conv2.weight"]),
        tensors[f"{name}.conv2.bias"],
        silence,
    )


def _pass(block: _Block, wide: Any, count: int) -> Any:
    """Columns [rows, count + 2 dilation, channels] -> [rows, count, channels]."""
    inner = wide[:, :count] @ block.taps[0]
    for i in (1, 2):
        first = i * block.dilation
        inner += wide[:, first : first + count] @ block.taps[i]
    inner += block.bias1
    more = inner.clip(0.0) @ block.conv2
    more += block.bias2
    more += wide[:, block.dilation : block.dilation + count]
    return more


def _strips(matrix: NDArray[np.float32], width: int) -> list[Any]:
    """Columns in strips whose products OpenBLAS does on one thread; as `Dense` has them."""
    return [
        np.ascontiguousarray(matrix[:, i : i + width]) for i in range(0, matrix.shape[1], width)
    ]
