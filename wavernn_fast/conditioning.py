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
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .conditioning_frames import Frames, StreamedMel, WholeMel, check_window
from .conditioning_products import (
    BLOCK,
    AuxNetwork,
    Dense,
    Network,
    hoist,
    overlapping,
    speaker_matrix,
    unwarned,
)
from .config import ModelConfig
from .errors import InputError

# Blocks that are computed together: a call costs as much as some of them on the host, and on a
# device as all of them.
_GROUP = 32

Rows = tuple[Any, Any]  # (interp [n, interp_size] | None, hold [n, hold_size] | None), float32


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

    _at_once: ClassVar[bool] = True  # the network takes several blocks in one array
    _in_order: ClassVar[bool] = False  # it must hear the mel from its first frame

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, NDArray[np.float32]], xp: Any = np
    ) -> None:
        self.config = config
        self._xp = xp
        interp, hold = self._matrices(tensors)
        self._interp = None if interp is None else Dense(interp, xp)  # [n_mels, interp_size]
        self._hold = [Dense(m, xp) for m in hold]  # one a slice: [aux_size, channels]
        self._aux = self._network(tensors)
        self._offset = config.lookback_frames if config.pad == "none" else 0
        self._speaker = speaker_matrix(config, tensors)
        # [speakers, speaker_size], of those that a number is enough for
        self._speakers = tensors["speakers.weight"].astype(np.float64) if config.speakers else None
        self._hold_bias: Any = None  # [hold_size], which all rows of `hold` contain

    def _matrices(
        self, tensors: Mapping[str, NDArray[np.float32]]
    ) -> tuple[NDArray[np.float64] | None, list[NDArray[np.float64]]]:
        """Of `interp`, and of `hold` for every array that the network gives; see `hoist`."""
        return hoist(self.config, tensors)

    def _network(self, tensors: Mapping[str, NDArray[np.float32]]) -> Network | None:
        return AuxNetwork(self.config, tensors, self._xp) if self.config.aux_size else None

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
        speaker : float64 array [speaker_size], or [] of a speaker's number
            As `arrays.to_speaker` gives it.
        """
        twin = copy.copy(self)
        heard = np.zeros(self.hold_size)
        heard[: self._speaker.shape[1]] = self._vector(speaker) @ self._speaker
        bias = self._xp.asarray(heard.astype(np.float32))
        twin._hold_bias = bias if self._hold_bias is None else self._hold_bias + bias
        return twin

    def _vector(self, speaker: NDArray[np.float64]) -> NDArray[np.float64]:
        """The vector of a speaker, [speaker_size], who may be a number."""
        if speaker.ndim:
            return speaker
        assert self._speakers is not None  # `arrays.to_speaker` has checked
        vector: NDArray[np.float64] = self._speakers[int(speaker)]
        return vector

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
        return self.of(mel)(first, count)

    def of(self, mel: Any) -> Callable[[int, int], Rows]:
        """`window` of one whole mel [n_mels, n_frames], to be asked for many windows.

        Of windows that follow each other no block is computed twice. By one thread at a time.
        """
        if self._interp is None and not self._hold:
            return lambda first, count: (None, None)
        return _Windows(self, self.frames(mel))

    def frames(self, mel: Any) -> WholeMel:
        """Frames of a whole mel [n_mels, n_frames] by number, padded as the model pads them."""
        return WholeMel(mel, self._xp, self.config.pad_value)

    def shared(self, mel: Any) -> Callable[[], Callable[[int, int], Rows]]:
        """`of` for several readers of one mel: a call makes what one of them asks.

        Each is of one thread at a time, but they may be of different ones. What a network that
        must hear the mel from its first frame gives is made once for all of them.
        """
        if not self._in_order:
            return lambda: self.of(mel)
        one = self.of(mel)
        return lambda: one

    def stream(self) -> ConditioningStream:
        """Start an utterance whose mel frames come piece by piece."""
        return ConditioningStream(self)

    def _rows(self, frames: Frames, first: int, count: int, cache: dict[int, Rows]) -> Rows:
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
        if self._interp is None:
            left = right = 0
        self._fill(frames, first - left, count + left + right, cache)
        interp = None
        if self._interp is not None:
            interp = self._gather(first - left, count + left + right, cache, 0)
        hold = self._gather(first, count, cache, 1) if self._hold else None
        return interp, hold

    def _fill(self, frames: Frames, first: int, count: int, cache: dict[int, Rows]) -> None:
        """Compute the blocks of mel frames [first, first + count) that `cache` lacks."""
        blocks = range(first // BLOCK, -(-(first + count) // BLOCK))
        missing = [block for block in blocks if block not in cache]
        if not missing:
            return
        # cached ones are before it, or between
        run = self._run(frames, range(missing[0], missing[-1] + 1))
        with unwarned():
            for block, rows in zip(run, self._blocks(frames, run), strict=True):
                cache.setdefault(block, rows)

    def _run(self, frames: Frames, wanted: range) -> range:
        """Which blocks to compute where those of `wanted` are: these at least."""
        if self._xp is np or not self._at_once:
            return wanted
        return range(wanted.start // _GROUP * _GROUP, -(-wanted.stop // _GROUP) * _GROUP)

    def _gather(self, first: int, count: int, cache: dict[int, Rows], part: int) -> Any:
        """Part 0 (interp) or 1 (hold) of the rows of mel frames [first, first + count)."""
        size = self.hold_size if part else self.interp_size
        out = self._xp.zeros((count, size), dtype=self._xp.float32)
        for block in range(first // BLOCK, -(-(first + count) // BLOCK)):
            start = block * BLOCK
            low, high = max(first, start), min(first + count, start + BLOCK)
            out[low - first : high - first] = cache[block][part][low - start : high - start]
        return out

    def _blocks(self, frames: Frames, run: range) -> Iterator[Rows]:
        """Rows of neighbouring blocks of the grid: float32 [BLOCK, channels] each.

        Up to `_GROUP` at once, [blocks, frames, channels]. numpy multiplies such arrays one matrix
        after the other, so that the bits are those of one block. Other modules may not, and `run`
        is of whole groups, on a grid of their own.
        """
        if not self._at_once:
            for block in run:
                yield self._block(frames, block)
            return
        radius = self.config.aux_radius
        for first in range(run.start, run.stop, _GROUP):
            size = min(_GROUP, run.stop - first)
            mel = frames.take(first * BLOCK - radius, size * BLOCK + 2 * radius)
            interp, hold = self._of_blocks(overlapping(self._xp, mel, BLOCK, 2 * radius))
            for i in range(size):
                yield None if interp is None else interp[i], None if hold is None else hold[i]

    def _block(self, frames: Frames, block: int) -> Rows:
        """Rows of one block of the grid: float32 [BLOCK, channels] each."""
        radius = self.config.aux_radius
        return self._of_blocks(frames.take(block * BLOCK - radius, BLOCK + 2 * radius))

    def _of_blocks(self, mel: Any) -> Rows:
        """Rows [..., BLOCK, channels] of mel [..., BLOCK + 2 * radius, n_mels], float64."""
        xp, radius = self._xp, self.config.aux_radius
        interp = None
        if self._interp is not None:
            interp = xp.zeros((*mel.shape[:-2], BLOCK, self.interp_size), dtype=xp.float32)
            self._interp.put(mel[..., radius : radius + BLOCK, :], interp)
        if self._aux is None:
            return interp, None
        hold = xp.zeros((*mel.shape[:-2], BLOCK, self.hold_size), dtype=xp.float32)
        column = 0
        for piece, dense in zip(self._aux(mel), self._hold, strict=True):
            dense.put(piece, hold[..., column : column + dense.size])
            column += dense.size
        return interp, hold if self._hold_bias is None else hold + self._hold_bias


class _Windows:
    """Windows of one whole mel; blocks that the next one reads as well are kept."""

    def __init__(self, conditioner: Conditioner, frames: WholeMel) -> None:
        self._conditioner, self._frames = conditioner, frames
        self._cache: dict[int, Rows] = {}

    def __call__(self, first: int, count: int) -> Rows:
        """See `Conditioner.window`."""
        conditioner, config = self._conditioner, self._conditioner.config
        check_window(first, count, config.n_output_frames(self._frames.n_frames))
        rows = conditioner._rows(self._frames, first, count, self._cache)
        next_first = first + count + conditioner._offset - config.upsample_left
        self._cache = {b: r for b, r in self._cache.items() if b >= next_first // BLOCK}
        return rows


class ConditioningStream:
    """Conditioning of one utterance whose mel frames arrive piece by piece.

    Gives the same rows as `Conditioner.window` on the whole mel, bit for bit, and keeps only the
    frames that later rows still need. Made by `Conditioner.stream`.
    """

    def __init__(self, conditioner: Conditioner) -> None:
        self._conditioner = conditioner
        config = conditioner.config
        self._frames = StreamedMel(config.n_mels, conditioner._xp, config.pad_value)
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

    def mel(self, first: int, count: int) -> Any:
        """Frames themselves, float64 [count, n_mels], from where the last window began or later."""
        return self._frames.take(first, count)

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
        self._check(first, count)
        rows = self._conditioner._rows(self._frames, first, count, self._cache)
        self._drop()
        return rows

    def _check(self, first: int, count: int) -> None:
        """Refuse a window that cannot be had; no later one may start before it."""
        if first < self._oldest:
            raise InputError(f"Frame {first} is no longer kept; frames from {self._oldest} are.")
        check_window(first, count, self.ready)
        self._oldest = first

    def _forget_unfinished_blocks(self) -> None:
        """Drop rows computed while some of the frames they read were unknown."""
        known = self._frames.n_frames - self._conditioner.config.aux_radius
        for block in [b for b in self._cache if (b + 1) * BLOCK > known]:
            del self._cache[block]

    def _drop(self) -> None:
        """Drop blocks and mel frames that no window from `_oldest` on reads."""
        config = self._conditioner.config
        first = self._oldest + self._conditioner._offset - config.upsample_left
        self._frames.drop(self._drop_blocks(first) - config.aux_radius)

    def _drop_blocks(self, first: int) -> int:
        """Drop the blocks before that of frame `first`; return the first frame of that one."""
        block = first // BLOCK
        for old in [b for b in self._cache if b < block]:
            del self._cache[old]
        return block * BLOCK
