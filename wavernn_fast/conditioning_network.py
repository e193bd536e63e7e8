"""Mel frames to conditioning rows of a core with one GRU: a network, then one hoisted product.

Nothing is interpolated: what the network makes of a frame is held for a frame. In an embedded core
all rows are rows of `hold`, ``gru.w_conditioning @ c``; in a dual core, whose rows of `hold` are
those of an auxiliary network, rows of `interp` with one tap. Convolutions hear some frames around
and are computed in the blocks of `conditioning`; LSTM layers behind them hear all frames before;
bidirectional GRUs hear the whole utterance, so that the first row can be had when the last frame
has come.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conditioning import Conditioner, ConditioningStream, Rows
from .conditioning_convolutions import (
    ConvNetwork,
    DilatedHearing,
    DilatedNetwork,
    ResidualConvNetwork,
)
from .conditioning_frames import Frames, StreamedMel, WholeMel, check_window
from .conditioning_products import BLOCK, Network
from .conditioning_recurrent import BidirectionalGru, Lstm, LstmState
from .config import ModelConfig

Tensors = Mapping[str, NDArray[np.float32]]

_BLOCKS_AT_ONCE = 32  # of dilated convolutions, at the least


def make_conditioner(config: ModelConfig, tensors: Tensors, xp: Any = np) -> Conditioner:
    """Return the conditioner of a model; see `conditioning.Conditioner` for the arguments."""
    if config.core == "dual" and config.network is not None:
        if config.network.lstm_layers:
            return LstmConditioner(config, tensors, xp)
        return ResidualConvConditioner(config, tensors, xp)
    if config.core != "embedded":
        return Conditioner(config, tensors, xp)
    if config.network is not None and config.network.hears_whole:
        return UtteranceConditioner(config, tensors, xp)
    if config.network is not None and config.network.dilated:
        return DilatedConditioner(config, tensors, xp)
    return HeldConditioner(config, tensors, xp)


class HeldConditioner(Conditioner):
    """Rows of `hold` alone: of the mel itself, or of a network that hears some frames around."""

    def _matrices(
        self, tensors: Tensors
    ) -> tuple[NDArray[np.float64] | None, list[NDArray[np.float64]]]:
        return None, [tensors["gru.w_conditioning"].astype(np.float64).T]

    def _network(self, tensors: Tensors) -> Network | None:
        network = self.config.network
        if network is None or network.kind != "conv":
            return _AsItIs()
        return ConvNetwork(self.config, tensors, self._xp)

    def _held(self, heard: Any) -> Any:
        """Rows float32 [BLOCK, channels] of what a network gives, [BLOCK, size]."""
        rows = self._xp.asarray(self._hold[0](heard), dtype=self._xp.float32)
        return rows if self._hold_bias is None else rows + self._hold_bias


class DilatedConditioner(HeldConditioner):
    """Rows of `hold` of a network of dilated convolutions, which may hear a speaker."""

    def __init__(self, config: ModelConfig, tensors: Tensors, xp: Any = np) -> None:
        super().__init__(config, tensors, xp)
        self._dilated = DilatedNetwork(config, tensors, xp)

    def on(self, xp: Any, hold_bias: NDArray[np.float32] | None) -> DilatedConditioner:
        """See `Conditioner.on`."""
        twin = super().on(xp, hold_bias)
        assert isinstance(twin, DilatedConditioner)
        twin._dilated = self._dilated.on(xp)
        return twin

    def of_speaker(self, speaker: NDArray[np.float64]) -> DilatedConditioner:
        """See `Conditioner.of_speaker`; here it is the network that hears the vector."""
        twin = copy.copy(self)
        twin._dilated = self._dilated.of_speaker(self._vector(speaker))
        return twin

    def _run(self, frames: Frames, wanted: range) -> range:
        """See `Conditioner._run`: as far as the layers reach, so that little is computed again."""
        if not isinstance(frames, WholeMel):
            return wanted
        reach = wanted.start + self.config.aux_radius // BLOCK
        return range(wanted.start, max(wanted.stop, min(reach, -(-frames.n_frames // BLOCK))))

    def _blocks(self, frames: Frames, run: range) -> Iterator[Rows]:
        """See `Conditioner._blocks`: some blocks at once, as each needs the frames around it."""
        if isinstance(frames, DilatedHearing):
            for block in run:
                yield None, self._held(frames.take(block * BLOCK, BLOCK))
            return
        radius = self.config.aux_radius
        most = max(_BLOCKS_AT_ONCE, radius // BLOCK)
        for start in range(run.start, run.stop, most):
            size = min(most, run.stop - start)
            first, count = start * BLOCK - radius, size * BLOCK + 2 * radius
            inside = [0 <= n < frames.n_frames for n in range(first, first + count)]
            heard = self._dilated(frames.take(first, count), inside)
            for i in range(0, size * BLOCK, BLOCK):
                yield None, self._held(heard[i : i + BLOCK])

    def stream(self) -> ConditioningStream:
        """See `Conditioner.stream`."""
        return _DilatedStream(self)


class ResidualConvConditioner(Conditioner):
    """Rows of `interp` of a dual core that hears what residual convolutions give."""

    _at_once = False

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
        return self._multiplied(self._of_network(frames, block))

    def _of_network(self, frames: Frames, block: int) -> Any:
        """What the convolutions give in one block of the grid: float64 [BLOCK, size]."""
        radius = self.config.aux_radius
        first, count = block * BLOCK - radius, BLOCK + 2 * radius
        inside = [0 <= n < frames.n_frames for n in range(first, first + count)]
        return self._residual(frames.take(first, count), inside)

    def _multiplied(self, heard: Any) -> Rows:
        """Rows of [BLOCK, size] that condition the cell."""
        assert self._interp is not None  # a network needs a mel
        return self._xp.asarray(self._interp(heard), dtype=self._xp.float32), None


class LstmConditioner(ResidualConvConditioner):
    """The same with LSTM layers behind the convolutions: a frame hears all before it.

    They hear the frames of an utterance once and in order; what they give is kept (`_HeardInOrder`,
    and `_LstmStream` for frames that come piece by piece), and is a mel to the rest.
    """

    _in_order = True

    def __init__(self, config: ModelConfig, tensors: Tensors, xp: Any = np) -> None:
        super().__init__(config, tensors, xp)
        self._lstm = Lstm(config, tensors, xp)

    def on(self, xp: Any, hold_bias: NDArray[np.float32] | None) -> LstmConditioner:
        """See `Conditioner.on`."""
        twin = super().on(xp, hold_bias)
        assert isinstance(twin, LstmConditioner)
        twin._lstm = self._lstm.on(xp)
        return twin

    def window(self, mel: Any, first: int, count: int) -> Rows:
        """See `Conditioner.window`; each call runs the network from the first frame, `of` once."""
        return self.of(mel)(first, count)

    def of(self, mel: Any) -> Callable[[int, int], Rows]:
        """See `Conditioner.of`; what the network gives, [n_frames, size], is kept."""
        return _HeardInOrder(self, mel)

    def stream(self) -> ConditioningStream:
        """See `Conditioner.stream`."""
        return _LstmStream(self)

    def _hear(self, frames: Frames, first: int, state: LstmState, out: Any) -> LstmState:
        """Fill `out` [n, size] with what frames from `first` on give; returns the state then."""
        for n in range(first, first + out.shape[0]):
            block, row = divmod(n, BLOCK)
            if row == 0 or n == first:
                rows = self._of_network(frames, block)
            out[n - first : n - first + 1], state = self._lstm.step(rows[row : row + 1], state)
        return state

    def _block(self, frames: Frames, block: int) -> Rows:
        """Rows of one block; `frames` are those of the LSTM layers."""
        return self._multiplied(frames.take(block * BLOCK, BLOCK))


class UtteranceConditioner(HeldConditioner):
    """The same where the network hears the whole utterance."""

    _in_order = True

    def __init__(self, config: ModelConfig, tensors: Tensors, xp: Any = np) -> None:
        super().__init__(config, tensors, xp)
        self._whole = BidirectionalGru(config, tensors, xp)

    def on(self, xp: Any, hold_bias: NDArray[np.float32] | None) -> UtteranceConditioner:
        """See `Conditioner.on`."""
        twin = super().on(xp, hold_bias)
        assert isinstance(twin, UtteranceConditioner)
        twin._whole = self._whole.on(xp)
        return twin

    def of_speaker(self, speaker: NDArray[np.float64]) -> UtteranceConditioner:
        """See `Conditioner.of_speaker`; here it is the network that hears the vector."""
        twin = copy.copy(self)
        twin._whole = self._whole.of_speaker(self._vector(speaker))
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
    """Windows of one utterance, for any threads; the network runs when the first is asked for."""

    def __init__(self, conditioner: UtteranceConditioner, mel: Any) -> None:
        self._conditioner, self._mel, self._lock = conditioner, mel, threading.Lock()
        self._frames: WholeMel | None = None  # of what the network gives, as if it were a mel

    def __call__(self, first: int, count: int) -> Rows:
        conditioner = self._conditioner
        check_window(first, count, int(self._mel.shape[1]))
        with self._lock:
            if self._frames is None:
                self._frames = WholeMel(conditioner._whole(self._mel).T, conditioner._xp, 0.0)
        return conditioner._rows(self._frames, first, count, {})


class _HeardInOrder:
    """Windows of one utterance, of which LSTM layers have heard as far as was asked for.

    Any threads may ask.
    """

    def __init__(self, conditioner: LstmConditioner, mel: Any) -> None:
        xp, size = conditioner._xp, conditioner.config.conditioning_size
        self._conditioner, self._mel = conditioner, WholeMel(mel, xp, 0.0)
        self._lock = threading.Lock()
        self._state, self._count = conditioner._lstm.start(), 0
        self._out = xp.zeros((self._mel.n_frames, size), dtype=xp.float32)
        self._frames = WholeMel(self._out.T, xp, 0.0)

    def __call__(self, first: int, count: int) -> Rows:
        conditioner, n_frames = self._conditioner, self._mel.n_frames
        check_window(first, count, n_frames)
        end = min(n_frames, -(-(first + count) // BLOCK) * BLOCK)
        with self._lock:
            begun = self._count
            if end > begun:
                out = self._out[begun:end]
                self._state = conditioner._hear(self._mel, begun, self._state, out)
                self._count = end
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
        self._check(first, count)
        if self._heard is None:
            self._heard = self._whole_conditioner.of(_all_frames(self._frames))
        return self._heard(first, count)


class _LstmStream(ConditioningStream):
    """Frames are heard in order, as soon as those that a convolution looks ahead to have come."""

    def __init__(self, conditioner: LstmConditioner) -> None:
        super().__init__(conditioner)
        self._network, size = conditioner, conditioner.config.conditioning_size
        self._state = conditioner._lstm.start()
        self._heard = StreamedMel(size, conditioner._xp, 0.0)

    def finish(self) -> None:
        """See `ConditioningStream.finish`; the last frames are still to be heard."""
        self._forget_unfinished_blocks()
        super().finish()

    def window(self, first: int, count: int) -> Rows:
        """See `ConditioningStream.window`."""
        self._check(first, count)
        self._hear(min(self.ready, -(-(first + count) // BLOCK) * BLOCK))
        rows = self._network._rows(self._heard, first, count, self._cache)
        self._heard.drop(self._drop_blocks(first))
        radius = self._network.config.aux_radius
        self._frames.drop(self._heard.n_frames // BLOCK * BLOCK - radius)
        return rows

    def _hear(self, count: int) -> None:
        """Let the LSTM layers hear the frames before number `count`."""
        first, xp = self._heard.n_frames, self._network._xp
        if count <= first:
            return
        out = xp.zeros((count - first, self._network.config.conditioning_size), dtype=xp.float32)
        self._state = self._network._hear(self._frames, first, self._state, out)
        self._heard.push(out.T)


class _DilatedStream(ConditioningStream):
    """Every layer hears a frame once: computed anew, its whole reach would be, for each frame."""

    def __init__(self, conditioner: DilatedConditioner) -> None:
        super().__init__(conditioner)
        self._hearing = DilatedHearing(conditioner._dilated)

    def finish(self) -> None:
        """See `ConditioningStream.finish`; the last frames are still to be heard."""
        self._forget_unfinished_blocks()
        super().finish()

    def window(self, first: int, count: int) -> Rows:
        """See `ConditioningStream.window`."""
        self._check(first, count)
        hearing, wanted = self._hearing, min(self.ready, -(-(first + count) // BLOCK) * BLOCK)
        while hearing.n_frames < wanted:  # some at a time: what layers give of them is in memory
            new = min(_BLOCKS_AT_ONCE * BLOCK, self._frames.n_frames - hearing.taken)
            last = self._finished and hearing.taken + new == self._frames.n_frames
            hearing.hear(self._frames.take(hearing.taken, new), last)
            self._frames.drop(hearing.taken)
        rows = self._conditioner._rows(hearing, first, count, self._cache)
        hearing.drop(self._drop_blocks(first))
        return rows


def _all_frames(frames: StreamedMel) -> Any:
    """The mel [n_mels, n_frames] of a stream that has dropped nothing."""
    return frames.take(0, frames.n_frames).T


class _AsItIs:
    """No network: the frames themselves."""

    def on(self, xp: Any) -> _AsItIs:
        return self

    def __call__(self, mel: Any) -> list[Any]:
        return [mel]
