"""Mel frames to conditioning rows, hoisted: every product that is constant over a frame.

The engine adds, at sample ``n * hop_length + p``::

    hold[n] + sum_j kernel[p, j] * interp[n - upsample_left + j]

so upsampling acts on products with the weights, not on the mel, and nothing is computed per sample
here. `interp` comes from the mel bins, `hold` from the auxiliary network, whose output is constant
over a frame. Biases are the engine's, except in rows for a device (`Conditioner.on`).

A row has the same bits however the utterance is cut. Matrix products change with the shape of the
matrices, so rows are always computed in blocks of `BLOCK` frames on a grid aligned to mel frame 0:
frames not known (or beyond the ends) are zero, and only rows whose frames are known are used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig
from .errors import InputError

# Small enough that a stream fed frame by frame wastes little on its unfinished block, large enough
# that the weights are not read again for every frame (0.35 ms a block at hidden size 512).
BLOCK = 8
_SINGLE_THREAD_PRODUCTS = 2**18  # multiplications; OpenBLAS uses one thread up to here

Rows = tuple[Any, Any]  # (interp [n, interp_size] | None, hold [n, hold_size] | None), float32


class _Frames(Protocol):
    """A source of mel frames by number."""

    n_frames: int  # known so far, those dropped included

    def take(self, first: int, count: int) -> Any:
        """Mel frames [count, n_mels] from `first` on, padding where there are none, float64."""


class Network(Protocol):
    """What is made of a few frames, to be multiplied and held for a frame."""

    def on(self, xp: Any) -> Network:
        """Bring the weights to another array module."""

    def __call__(self, mel: Any) -> list[Any]:
        """Arrays [BLOCK, channels] for mel [BLOCK + 2 * radius, n_mels]."""


class Conditioner:
    """Conditioning rows of one model.

    Parameters
    ----------
    config : ModelConfig
        Sizes; `pad` says what lies beyond the ends of the mel ("zeros": zeros, whatever the floor
        of the mel; "none": the first and last frames only serve as context).
    tensors : mapping of str to float32 array
        Canonical tensors (docs/formats.md).
    xp : module
        Array module in the style of the array API standard: numpy, or cupy on a GPU.
    """

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, NDArray[np.float32]], xp: Any = np
    ) -> None:
        self.config = config
        self._xp = xp
        interp, hold = self._matrices(tensors)
        self._interp = None if interp is None else _Dense(interp, xp)  # [n_mels, interp_size]
        self._hold = [_Dense(m, xp) for m in hold]  # one a slice: [aux_size, channels]
        self._aux = self._network(tensors)
        self._offset = config.lookback_frames if config.pad == "none" else 0
        self._speaker = _speaker_matrix(config, tensors)
        self._hold_bias: Any = None  # [hold_size], which all rows of `hold` contain

    def _matrices(
        self, tensors: Mapping[str, NDArray[np.float32]]
    ) -> tuple[NDArray[np.float64] | None, list[NDArray[np.float64]]]:
        """Of `interp`, and of `hold` for every array that the network gives; see `_hoist`."""
        return _hoist(self.config, tensors)

    def _network(self, tensors: Mapping[str, NDArray[np.float32]]) -> Network | None:
        return _AuxNetwork(self.config, tensors, self._xp) if self.config.aux_size else None

    def on(self, xp: Any, hold_bias: NDArray[np.float32] | None) -> Conditioner:
        """Bring the weights to another array module, for rows in the memory of an engine's device.

        Parameters
        ----------
        xp : module
            As for the class; it has made what `window` and `push` will be given.
        hold_bias : float32 array [hold_size], optional
            `Engine.hold_bias`, which rows of `hold` then contain.
        """
        twin = copy.copy(self)
        twin._xp = xp
        twin._interp = None if self._interp is None else self._interp.on(xp)
        twin._hold = [dense.on(xp) for dense in self._hold]
        twin._aux = None if self._aux is None else self._aux.on(xp)
        twin._hold_bias = None if hold_bias is None else xp.asarray(hold_bias)
        return twin

    def of_speaker(self, speaker: NDArray[np.float64]) -> Conditioner:
        """Let rows of `hold` contain what the input layer hears of a speaker's vector.

        It is the same at every sample, so it costs none anything.

        Parameters
        ----------
        speaker : float64 array [speaker_size]
        """
        twin = copy.copy(self)
        heard = np.zeros(self.hold_size)
        heard[: self._speaker.shape[1]] = speaker @ self._speaker
        bias = self._xp.asarray(heard.astype(np.float32))
        twin._hold_bias = bias if self._hold_bias is None else self._hold_bias + bias
        return twin

    @property
    def interp_size(self) -> int:
        """Channels of `interp`; 0 for an unconditioned model."""
        return 0 if self._interp is None else self._interp.size

    @property
    def hold_size(self) -> int:
        """Channels of `hold`; 0 without a network."""
        return sum(dense.size for dense in self._hold)

    def window(self, mel: Any, first: int, count: int) -> Rows:
        """Rows for output frames [first, first + count) of a whole mel.

        Each call computes the blocks it touches, so windows of some dozens of frames waste little.

        Parameters
        ----------
        mel : float32 array [n_mels, n_frames]
            The whole utterance.
        first, count : int
            Output frames wanted, within ``config.n_output_frames(n_frames)``.

        Returns
        -------
        interp : float32 array [count + upsample_left + upsample_right, interp_size], or None
            Row 0 belongs to frame ``first - upsample_left``. Zeros if `count` is 0.
        hold : float32 array [count, hold_size], or None

        Raises
        ------
        InputError
            If the window does not lie within the output frames.
        """
        if self._interp is None and not self._hold:
            return None, None
        frames = _WholeMel(mel, self._xp, self.config.pad_value)
        _check_window(first, count, self.config.n_output_frames(frames.n_frames))
        return self._rows(frames, first, count, {})

    def of(self, mel: Any) -> Callable[[int, int], Rows]:
        """`window` of one whole mel [n_mels, n_frames], to be asked for many windows."""
        return partial(self.window, mel)

    def stream(self) -> ConditioningStream:
        """Start an utterance whose mel frames come piece by piece."""
        return ConditioningStream(self)

    def _rows(self, frames: _Frames, first: int, count: int, cache: dict[int, Rows]) -> Rows:
        """Rows of output frames [first, first + count), using and filling `cache` of blocks."""
        first += self._offset  # from here on in numbers of mel frames
        left, right = self.config.upsample_left, self.config.upsample_right
        if count == 0:  # no sample reads the context, which may not be known yet
            shape = (left + right, self.interp_size)
            context = (
                self._xp.zeros(shape, dtype=self._xp.float32) if self._interp is not None else None
            )
            empty = self._xp.zeros((0, self.hold_size), dtype=self._xp.float32)
            return context, empty if self._hold else None
        interp = None
        if self._interp is not None:
            interp = self._gather(frames, first - left, count + left + right, cache, 0)
        hold = self._gather(frames, first, count, cache, 1) if self._hold else None
        return interp, hold

    def _gather(
        self, frames: _Frames, first: int, count: int, cache: dict[int, Rows], part: int
    ) -> Any:
        """Part 0 (interp) or 1 (hold) of the rows of mel frames [first, first + count)."""
        size = self.hold_size if part else self.interp_size
        out = self._xp.zeros((count, size), dtype=self._xp.float32)
        for block in range(first // BLOCK, -(-(first + count) // BLOCK)):
            if block not in cache:
                cache[block] = self._block(frames, block)
            start = block * BLOCK
            low, high = max(first, start), min(first + count, start + BLOCK)
            out[low - first : high - first] = cache[block][part][low - start : high - start]
        return out

    def _block(self, frames: _Frames, block: int) -> Rows:
        """Rows of one block of the grid: float32 [BLOCK, channels] each."""
        xp, radius = self._xp, self.config.aux_radius
        mel = frames.take(block * BLOCK - radius, BLOCK + 2 * radius)
        interp = None
        if self._interp is not None:
            interp = xp.asarray(self._interp(mel[radius : radius + BLOCK]), dtype=xp.float32)
        if self._aux is None:
            return interp, None
        hold = xp.zeros((BLOCK, self.hold_size), dtype=xp.float32)
        column = 0
        for piece, dense in zip(self._aux(mel), self._hold, strict=True):
            hold[:, column : column + dense.size] = dense(piece)
            column += dense.size
        return interp, hold if self._hold_bias is None else hold + self._hold_bias


class ConditioningStream:
    """Conditioning of one utterance whose mel frames arrive piece by piece.

    Gives the same rows as `Conditioner.window` on the whole mel, bit for bit, and keeps only the
    frames that later rows still need. Made by `Conditioner.stream`.
    """

    def __init__(self, conditioner: Conditioner) -> None:
        self._conditioner = conditioner
        config = conditioner.config
        self._frames = _StreamedMel(config.n_mels, conditioner._xp, config.pad_value)
        self._cache: dict[int, Rows] = {}
        self._finished = False
        self._oldest = 0  # first output frame that may still be asked for

    @property
    def ready(self) -> int:
        """Output frames, counted from the start, whose rows can be had now."""
        config, known = self._conditioner.config, self._frames.n_frames
        if config.pad == "zeros" and not self._finished:
            return max(0, known - config.lookahead_frames)
        return config.n_output_frames(known)

    @property
    def finished(self) -> bool:
        """Whether all frames have come."""
        return self._finished

    def push(self, frames: Any) -> None:
        """Add mel frames: float32 [n_mels, n], any n.

        Raises
        ------
        InputError
            After `finish`, or if the shape is wrong.
        """
        n_mels = self._conditioner.config.n_mels
        if self._finished:
            raise InputError("Mel frames came after the end of the utterance was announced.")
        if len(frames.shape) != 2 or frames.shape[0] != n_mels:
            raise InputError(
                f"Mel frames of shape {tuple(frames.shape)} came, expected [{n_mels}, n]."
            )
        self._forget_unfinished_blocks()
        self._frames.push(frames)

    def finish(self) -> None:
        """Announce that no more frames come; what lies beyond is zero, as blocks assumed."""
        self._finished = True

    def window(self, first: int, count: int) -> Rows:
        """Rows for output frames [first, first + count); see `Conditioner.window`.

        Windows may overlap but must not start before an earlier one: older frames are dropped.

        Raises
        ------
        InputError
            If the frames are not `ready` yet or already dropped.
        """
        if self._conditioner._interp is None and not self._conditioner._hold:
            return None, None
        if first < self._oldest:
            raise InputError(f"Frame {first} is no longer kept; frames from {self._oldest} are.")
        _check_window(first, count, self.ready)
        rows = self._conditioner._rows(self._frames, first, count, self._cache)
        self._oldest = first
        self._drop()
        return rows

    def _forget_unfinished_blocks(self) -> None:
        """Drop rows computed while some of the frames they read were unknown."""
        known = self._frames.n_frames - self._conditioner.config.aux_radius
        for block in [b for b in self._cache if (b + 1) * BLOCK > known]:
            del self._cache[block]

    def _drop(self) -> None:
        """Drop blocks and mel frames that no window from `_oldest` on reads."""
        config = self._conditioner.config
        first = self._oldest + self._conditioner._offset - config.upsample_left
        block = first // BLOCK
        for old in [b for b in self._cache if b < block]:
            del self._cache[old]
        self._frames.drop(block * BLOCK - config.aux_radius)


def _check_window(first: int, count: int, available: int) -> None:
    if first < 0 or count < 0 or first + count > available:
        raise InputError(
            f"Output frames {first} to {first + count} were asked for, but there are {available}."
        )


class _WholeMel:
    """Frames of a mel that is there in full; `beyond` is the value of those outside it."""

    def __init__(self, mel: Any, xp: Any, beyond: float) -> None:
        self._mel, self._xp, self._beyond = mel, xp, beyond
        self.n_frames = int(mel.shape[1])

    def take(self, first: int, count: int) -> Any:
        out = self._xp.zeros((count, self._mel.shape[0]), dtype=self._xp.float64)
        if self._beyond:
            out += self._beyond
        low, high = max(first, 0), min(first + count, self.n_frames)
        if low < high:
            out[low - first : high - first] = self._mel[:, low:high].T
        return out


class _StreamedMel:
    """Frames that came so far, less those dropped."""

    def __init__(self, n_mels: int, xp: Any, beyond: float) -> None:
        self._xp, self._beyond = xp, beyond
        self._first = 0  # number of the first frame kept
        self._kept = xp.zeros((max(1, n_mels), 0), dtype=xp.float32)
        self.n_frames = 0

    def push(self, frames: Any) -> None:
        old = self._kept
        self.n_frames += int(frames.shape[1])
        self._kept = self._xp.zeros(
            (old.shape[0], old.shape[1] + frames.shape[1]), dtype=self._xp.float32
        )
        self._kept[:, : old.shape[1]] = old
        self._kept[:, old.shape[1] :] = self._xp.asarray(frames)

    def drop(self, before: int) -> None:
        count = min(max(0, before - self._first), int(self._kept.shape[1]))
        self._kept = self._kept[:, count:]
        self._first += count

    def take(self, first: int, count: int) -> Any:
        return _WholeMel(self._kept, self._xp, self._beyond).take(first - self._first, count)


class _AuxNetwork:
    """Convolution over a few frames, then residual blocks within the frame.

    conv_in, relu, n times {x + conv2(relu(conv1 x))}, conv_out; batch-norm is already folded in.
    """

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, NDArray[np.float32]], xp: Any
    ) -> None:
        def layer(name: str) -> tuple[list[_Dense], Any]:
            """One product a tap, and the bias [out]."""
            weight = tensors[f"{name}.weight"].astype(np.float64)
            taps = weight if weight.ndim == 3 else weight[:, :, None]
            bias = tensors[f"{name}.bias"].astype(np.float64)
            return [_Dense(taps[:, :, i].T, xp) for i in range(taps.shape[2])], xp.asarray(bias)

        self._xp = xp
        self._size = config.aux_size
        self._conv_in = layer("aux.conv_in")  # a product for each of aux_kernel taps
        self._blocks = [
            (layer(f"aux.blocks.{i}.conv1"), layer(f"aux.blocks.{i}.conv2"))
            for i in range(config.aux_blocks)
        ]
        self._conv_out = layer("aux.conv_out")

    def on(self, xp: Any) -> _AuxNetwork:
        """Bring the weights to another array module."""

        def bring(layer: tuple[list[_Dense], Any]) -> tuple[list[_Dense], Any]:
            return [product.on(xp) for product in layer[0]], xp.asarray(layer[1])

        twin = copy.copy(self)
        twin._xp = xp
        twin._conv_in, twin._conv_out = bring(self._conv_in), bring(self._conv_out)
        twin._blocks = [(bring(conv1), bring(conv2)) for conv1, conv2 in self._blocks]
        return twin

    def __call__(self, mel: Any) -> list[Any]:
        """Slices [BLOCK, aux_size] of the output for mel [BLOCK + 2 * radius, n_mels]."""
        x = _relu(self._xp, _convolve(mel, self._conv_in))
        for conv1, conv2 in self._blocks:
            x = x + _convolve(_relu(self._xp, _convolve(x, conv1)), conv2)
        x = _convolve(x, self._conv_out)
        return [x[:, i : i + self._size] for i in range(0, x.shape[1], self._size)]


def _convolve(x: Any, layer: tuple[list[_Dense], Any]) -> Any:
    """Convolve x [BLOCK + taps - 1, in] over frames; returns [BLOCK, out]."""
    products, bias = layer
    total = bias
    for tap, product in enumerate(products):
        total = total + product(x[tap : tap + BLOCK])
    return total


class _Dense:
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

    def on(self, xp: Any) -> _Dense:
        """Bring the matrix to another array module."""
        twin = copy.copy(self)
        twin._xp, twin._strips = xp, [xp.asarray(strip) for strip in self._strips]
        return twin

    def __call__(self, x: Any) -> Any:
        """Multiply x [BLOCK, in]; returns float64 [BLOCK, out]."""
        out = self._xp.zeros((x.shape[0], self.size), dtype=self._xp.float64)
        column = 0
        for strip in self._strips:
            out[:, column : column + strip.shape[1]] = x @ strip
            column += strip.shape[1]
        return out


def _relu(xp: Any, x: Any) -> Any:
    return xp.where(x > 0.0, x, 0.0)


def _hoist(
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
        weight = get("input.weight")[:, 1 : 1 + mels + aux]  # column 0 is the last sample
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


def _speaker_matrix(
    config: ModelConfig, tensors: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float64]:
    """A speaker's vector to the first 4 H channels of `hold`: [speaker_size, 4 H], float64."""
    if not config.speaker_size:
        return np.zeros((0, 0))
    columns = tensors["input.weight"][:, -config.speaker_size :].astype(np.float64)
    return np.concatenate([columns, tensors["gru1.w_input"].astype(np.float64) @ columns]).T
