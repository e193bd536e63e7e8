"""``model.bin``, which geneing's `convert_model.py` writes for its C++ library.

Little-endian, without signature. A head of four int32 (residual blocks, upsampling stages, samples
a frame, frames of padding), then layers one after the other, each with its number, 64 bytes of text
and its own head: the auxiliary network, the stages (repetition, filter), I, rnn1, fc1, fc3.
Matrices are lists of groups of weights: their number and values, then the length of a list of bytes
that has the place of every group in its row, and 255 where a row ends.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from . import fir

State = dict[str, NDArray[Any]]

_HEAD = struct.Struct("<4i")
_TEXT_BYTES = 64
_LAYERS = {1: "Conv1d", 2: "Conv2d", 3: "BatchNorm1d", 4: "Linear", 5: "GRU", 6: "Stretch2d"}
_ROW_ENDS = 255
_MAX_WEIGHTS = 1 << 26  # of all matrices, which are written without their zeros
_EPS = 1e-5  # of fatchord's layout
_GATES = 3


def is_model_bin(head: bytes) -> bool:
    """Tell the format by the first 84 bytes: a sensible head, then a layer called Conv1d."""
    if len(head) < _HEAD.size + 4 + 7:
        return False
    blocks, stages, hop, pad = _HEAD.unpack_from(head)
    sensible = (
        0 <= blocks < 256 and 0 < stages <= fir.MAX_STAGES and 0 < hop <= 1 << 16 and 0 <= pad < 64
    )
    return sensible and head[_HEAD.size :].startswith(b"\x01\0\0\0Conv1d(")


def read(path: Path) -> State:
    """Read the file into tensors of geneing's PyTorch names.

    Raises
    ------
    ModelError
        If the file ends too early or late, or a layer is not the one that belongs there.
    """
    try:
        return _Reader(path, path.read_bytes()).model()
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror or error}.") from error


class _Reader:
    """Walks through the bytes; everything is taken through `_take`, which knows the end."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data, self._at = path, data, 0
        self._layer = "the head"
        self._weights = 0  # of the matrices so far

    def _fail(self, what: str) -> ModelError:
        return ModelError(
            f"{self._path} is a model.bin that is truncated or damaged: {self._layer} {what}, at "
            f"byte {self._at} of {len(self._data)}. Copy it again, or write it again by "
            "convert_model.py."
        )

    def _take(self, size: int) -> bytes:
        if size < 0 or size > len(self._data) - self._at:
            raise self._fail(f"has {size} bytes, more than are left")
        self._at += size
        return self._data[self._at - size : self._at]

    def _ints(self, count: int) -> list[int]:
        return list(struct.unpack(f"<{count}i", self._take(4 * count)))

    def _sizes(self, count: int) -> list[int]:
        sizes = self._ints(count)
        if any(not 0 < size <= 1 << 20 for size in sizes):
            raise self._fail(f"has sizes {sizes}")
        return sizes

    def _numbers(self, width: int, *shape: int) -> NDArray[np.float32]:
        if width not in (2, 4):
            raise self._fail(f"has numbers of {width} bytes, expected 2 or 4")
        count = int(np.prod(shape, dtype=np.int64))
        stored = np.frombuffer(self._take(width * count), dtype=f"<f{width}")
        return np.asarray(stored, dtype=np.float32).reshape(shape)

    def model(self) -> State:
        blocks, self._stages, self._hop, self._pad = self._ints(4)
        state = self._resnet(blocks)
        for stage in range(self._stages):
            state |= self._stage(stage)
        state |= self._linear("I")
        state |= self._gru("rnn1")
        state |= self._linear("fc1") | self._linear("fc3")
        if self._at != len(self._data):
            raise self._fail("is the last layer, but more follows")
        self._check_head(state)
        return state

    def _check_head(self, state: State) -> None:
        """What the head says beside what the layers are."""
        self._layer = "the head"
        taps = [state[f"upsample.up_layers.{2 * k + 1}.weight"].size for k in range(self._stages)]
        hop = int(np.prod([n // 2 for n in taps], dtype=np.int64))
        pad = state["upsample.resnet.conv_in.weight"].shape[2] // 2
        if (hop, pad) != (self._hop, self._pad):
            raise self._fail(
                f"says {self._hop} samples a frame and {self._pad} frames of padding, the layers "
                f"{hop} and {pad}"
            )

    def _begin(self, name: str, kind: str) -> None:
        """Read the start of a layer and check that it is the expected one."""
        self._layer = f"layer {name}"
        [number] = self._ints(1)
        self._take(_TEXT_BYTES)  # what PyTorch prints of it
        if _LAYERS.get(number) != kind:
            found = _LAYERS.get(number, f"of kind {number}")
            raise self._fail(f"is {found}, expected {kind}")

    def _resnet(self, blocks: int) -> State:
        prefix = "upsample.resnet"
        state = self._conv(f"{prefix}.conv_in") | self._norm(f"{prefix}.batch_norm")
        for i in range(blocks):
            for k in (1, 2):
                state |= self._conv(f"{prefix}.layers.{i}.conv{k}")
                state |= self._norm(f"{prefix}.layers.{i}.batch_norm{k}")
        state |= self._conv(f"{prefix}.conv_out")
        self._stretch(f"{prefix}_stretch")
        return state

    def _conv(self, name: str) -> State:
        self._begin(name, "Conv1d")
        width, biased = self._ints(2)
        inputs, outputs, kernel = self._sizes(3)
        state: State = {f"{name}.weight": self._numbers(width, outputs, inputs, kernel)}
        if biased:
            state[f"{name}.bias"] = self._numbers(width, outputs)
        return state

    def _norm(self, name: str) -> State:
        self._begin(name, "BatchNorm1d")
        [width], [size] = self._ints(1), self._sizes(1)
        [eps] = struct.unpack("<f", self._take(4))
        parts = ("weight", "bias", "running_mean", "running_var")
        state: State = {f"{name}.{part}": self._numbers(width, size) for part in parts}
        if abs(eps - _EPS) > 1e-7 * _EPS:  # 1e-5 itself is stored as the nearest float32
            wide = state[f"{name}.running_var"].astype(np.float64) + (eps - _EPS)
            state[f"{name}.running_var"] = wide.astype(np.float32)
        return state

    def _stretch(self, name: str) -> int:
        self._begin(name, "Stretch2d")
        along, across = self._sizes(2)
        if across != 1:
            raise self._fail(f"repeats {across} times across mel bins")
        return along

    def _stage(self, number: int) -> State:
        scale = self._stretch(f"upsample.up_layers.{2 * number}")
        name = f"upsample.up_layers.{2 * number + 1}"
        self._begin(name, "Conv2d")
        [width], [taps] = self._ints(1), self._sizes(1)
        if taps != 2 * scale + 1:
            raise self._fail(f"has {taps} taps behind a repetition of {scale}")
        return {f"{name}.weight": self._numbers(width, 1, 1, 1, taps)}

    def _linear(self, name: str) -> State:
        self._begin(name, "Linear")
        [width], (rows, columns) = self._ints(1), self._sizes(2)
        weight = self._matrix(width, rows, columns)
        return {f"{name}.weight": weight, f"{name}.bias": self._numbers(width, rows)}

    def _gru(self, name: str) -> State:
        """Gates reset, update, new: six matrices, six biases."""
        self._begin(name, "GRU")
        [width], (units, inputs) = self._ints(1), self._sizes(2)
        parts = {"weight_ih_l0": inputs, "weight_hh_l0": units}
        state: State = {}
        for part, columns in parts.items():
            gates = [self._matrix(width, units, columns) for _ in range(_GATES)]
            state[f"{name}.{part}"] = np.concatenate(gates)
        for part in ("bias_ih_l0", "bias_hh_l0"):
            state[f"{name}.{part}"] = self._numbers(width, _GATES * units)
        return state

    def _matrix(self, width: int, rows: int, columns: int) -> NDArray[np.float32]:
        """A matrix [rows, columns] from the list of its groups."""
        [count] = self._ints(1)
        weights = self._numbers(width, count)
        [length] = self._ints(1)
        places = np.frombuffer(self._take(length), dtype=np.uint8)
        ends = places == _ROW_ENDS
        row, column = np.cumsum(ends)[~ends], places[~ends].astype(np.int64)
        self._weights += rows * columns
        if self._weights > _MAX_WEIGHTS:
            raise self._fail(f"makes it {self._weights} weights, limit {_MAX_WEIGHTS}")
        if ends.sum() not in (rows, rows + 1):  # the program writes an end too many
            raise self._fail(f"has {ends.sum()} rows in its list, expected {rows}")
        matrix = np.zeros((rows, columns), dtype=np.float32)
        if not column.size and not count:
            return matrix
        group = count // max(1, column.size)
        if group * column.size != count or columns % max(1, group) or not group:
            raise self._fail(f"has {count} weights in {column.size} groups of {columns} columns")
        if row.max() >= rows or column.max() >= columns // group:
            raise self._fail("has a group outside of the matrix")
        matrix.reshape(rows, columns // group, group)[row, column] = weights.reshape(-1, group)
        return matrix
