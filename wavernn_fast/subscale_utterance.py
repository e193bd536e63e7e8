"""One utterance of a subscale model between slices: what its rows hear, draw, and hand out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from . import places
from .conditioning_products import unwarned
from .mel_prediction import Prediction
from .subscale import Schedule, row_length
from .subscale_network import Foreseen, NetworkState, SubscaleNetwork

if TYPE_CHECKING:
    from . import _C
    from .config import ModelConfig

_FRAMES_AHEAD = 32  # frames whose rows are made at once, where the mel is there

Labels = NDArray[np.int32]


class FrameSource(Protocol):
    """Frame conditioning of one utterance, in order."""

    def wait_for(self, n_frames: int) -> int:
        """Wait until so many frames are known or none are left; returns how many are known."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the frames known are all there are."""
        ...

    def mel(self, first: int, count: int) -> Any:
        """Known frames themselves, float64 [count, n_mels]; before `window` is asked for them."""
        ...

    def window(self, first: int, count: int) -> tuple[Any, Any]:
        """Rows (interp [count, 3H], hold [count, 3H] or None) of known frames, each asked once."""
        ...


class Piece(NamedTuple):
    """What one row draws in a slice."""

    row: int
    first: int  # column
    columns: int  # how many, 1 or more
    conditioning: Any  # float32 [columns, 3H] as `Engine.run` takes it
    forced: Labels | None  # [columns]


class _Span(NamedTuple):
    """Columns that one row draws in a slice."""

    row: int
    start: int  # where its part of the slice begins, at or before `first`
    first: int
    end: int


class Utterance:
    """One utterance on its way through the engine.

    Parameters
    ----------
    config : ModelConfig
        With `subscale`.
    network : SubscaleNetwork
        Its weights lie in `place`.
    open_row : callable
        Makes the stream of a row.
    frames : FrameSource, optional
        None: unconditioned.
    n_samples : int, optional
        Samples to draw; None: as many as `frames` have once they are finished.
    place : places.Place
        Where the conditioning is computed.
    forced : int32 [n_samples], optional
        Samples that are fed back instead of those drawn.
    """

    def __init__(
        self,
        config: ModelConfig,
        network: SubscaleNetwork,
        open_row: Callable[[int], _C.Stream],
        frames: FrameSource | None,
        n_samples: int | None,
        *,
        place: places.Place = places.HOST,
        forced: Labels | None = None,
    ) -> None:
        assert config.subscale is not None
        self.rows, self._hop = config.subscale.factor, config.hop_length
        self.streams = [open_row(row) for row in range(self.rows)]
        self._network, self._place, self._forced = network, place, forced
        self._n_samples = n_samples
        self._step = 0  # columns that row 0 has been through
        self._heard = 0  # columns of row 0 that the network has heard for
        self._hearing: list[_Span] = []  # of the slice that it hears for next
        with place.scope():
            self._frames = None if frames is None else _FrameTable(frames, network, place)
            self._state: NetworkState = network.start()
            shape = (self.rows, network.slice_columns, network.size)
            self._conditioning = [  # of slices in turn: one may be heard while another is drawn
                place.xp.zeros(shape, dtype=place.xp.float32) for _ in range(network.ahead + 1)
            ]
        behind = (self.rows - 1) * network.lag
        self._drawn = np.zeros((self.rows, behind + network.slice_columns), np.int32)
        self._sent = 0  # columns, all of whose samples have been handed out

    @property
    def finished(self) -> bool:
        """Whether every sample has been drawn."""
        if self._n_samples is None:
            return False
        return self._step >= self._schedule(self._n_samples).n_steps

    @property
    def frames_wanted(self) -> int:
        """Frames that must be known, unless they are the last, before the next slice."""
        return self._frames_of(self._step)

    @property
    def complete_frames(self) -> int:
        """Frames, all of whose samples have been handed out."""
        return self._frame(self._sent)

    @property
    def slice_samples(self) -> int:
        """Samples that all rows together draw in a slice."""
        return self.rows * self._network.slice_columns

    @property
    def has_heard(self) -> bool:
        """Whether the network has heard for the next slice."""
        return self._heard > self._step

    @property
    def can_hear_ahead(self) -> bool:
        """Whether the network can hear for the slice after the next one: it has its frames."""
        network = self._network
        if not network.ahead:
            return False
        self._learn_length()
        if self._n_samples is not None:
            return self._heard < self._schedule(self._n_samples).n_steps
        return self._frames is not None and self._frames.known(self._frames_of(self._heard))

    def prepare(self) -> None:
        """Begin the next slice that is to be heard: have the frames at hand that it lies in."""
        self._learn_length()
        spans = self._hearing = self._spans(self._heard)
        if self._frames is not None and spans:
            steps = self._hop // self.rows  # columns of a frame
            last = max(0, self._heard - (self.rows - 1) * self._network.lag)  # or will begin there
            high = max(span.end - 1 for span in spans) // steps + 1
            with self._place.scope():
                self._frames.keep(last // steps, high)

    def hear(self, rows: slice) -> None:
        """Let some rows hear what they hear of the others in that slice; after `prepare`.

        Several threads may do this at a time, each for rows of its own.
        """
        with self._place.scope():  # rows that still wait hear what is drawn before their beginning
            foreseen = None
            if self._network.predicts:
                assert self._frames is not None
                if self._frames.empty:  # as the utterance is
                    return
                foreseen = self._frames.foreseen(*self._frames_heard())
            out, ahead = self._slot(self._heard), (self._heard - self._step) // self._count
            self._network.hear(self._state, out, rows, foreseen, ahead=ahead)

    def settle(self) -> None:
        """End that slice, once all rows have heard."""
        with self._place.scope():
            if self._hearing and self._frames is not None:
                self._add_frames(self._frames, self._hearing)
            if self._network.ahead:
                self._place.finish()  # so that the engine need not wait for what comes after it
        self._heard += self._count

    def pieces(self) -> list[Piece]:
        """What is drawn in the next slice, which has been heard.

        It may be nothing, where rows wait for those before them.
        """
        self._learn_length()
        with self._place.scope():
            return [self._piece(span) for span in self._spans(self._step)]

    def take(self, pieces: Sequence[Piece], drawn: Sequence[Labels]) -> Labels:
        """Move on by a slice in which `pieces` have been drawn; what is new, in order of time."""
        network, count = self._network, self._count
        heard = np.zeros((self.rows, count), np.float32)
        for piece, labels in zip(pieces, drawn, strict=True):
            at = piece.first - (self._step - piece.row * network.lag)
            heard[piece.row, at : at + piece.columns] = (labels - 32768) / np.float32(32768.0)
            column = piece.first - self._sent
            self._drawn[piece.row, column : column + piece.columns] = labels
        self._state.push(network, heard)
        self._step += count
        return self._complete()

    def _complete(self) -> Labels:
        """Samples of all columns that are complete and not handed out yet, [n]."""
        last = max(0, self._step - (self.rows - 1) * self._network.lag)
        known = self._n_samples
        if known is not None:
            last = min(last, known // self.rows)
            if self.finished:
                rest = known - self._sent * self.rows
                whole = self._drawn[:, : -(-rest // self.rows)].T.reshape(-1)[:rest].copy()
                self._sent = -(-known // self.rows)
                return whole
        columns = last - self._sent
        new = self._drawn[:, :columns].T.reshape(-1).copy()
        kept = self._drawn.shape[1] - columns
        self._drawn[:, :kept] = self._drawn[:, columns:].copy()
        self._sent += columns
        return new

    @property
    def _count(self) -> int:
        """Columns of a slice."""
        return self._network.slice_columns

    def _schedule(self, n_samples: int) -> Schedule:
        sub = self._network.subscale
        return Schedule(n_samples, sub.factor, sub.horizon, *self._network.slices)

    def _learn_length(self) -> None:
        """Take the number of samples from the frames, if these are all there now."""
        if self._n_samples is None:
            assert self._frames is not None
            self._n_samples = self._frames.end(self.frames_wanted, self._hop)

    def _spans(self, step: int) -> list[_Span]:
        """What rows draw in the slice in which row 0 begins at column `step`."""
        spans, known = [], self._n_samples
        for row in range(self.rows):
            start = step - row * self._network.lag
            end = start + self._count
            length = end if known is None else row_length(known, self.rows, row)
            first, end = max(0, start), min(end, length)
            if first < end:
                spans.append(_Span(row, start, first, end))
        return spans

    def _frame(self, column: int) -> int:
        return column * self.rows // self._hop

    def _frames_of(self, step: int) -> int:
        """Frames that a slice reads, counted from the first of the utterance."""
        return self._frame(step + self._count - 1) + 1

    def _frame_numbers(self, step: int) -> NDArray[np.int64]:
        """Frames of the columns of a slice: [row, S]; negative in rows that wait."""
        starts = step - np.arange(self.rows)[:, None] * self._network.lag
        numbers: NDArray[np.int64] = (starts + np.arange(self._count)) // (self._hop // self.rows)
        return numbers

    def _frames_heard(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Frames of the slice being heard, [row, any], and which of them is that of each column."""
        numbers = self._frame_numbers(self._heard)
        first, steps = numbers[:, :1], self._hop // self.rows
        return first + np.arange((self._count - 1) // steps + 2), numbers - first

    def _slot(self, step: int) -> Any:
        """Where the conditioning of a slice lies: [row, S, 3H]."""
        return self._conditioning[step // self._count % len(self._conditioning)]

    def _piece(self, span: _Span) -> Piece:
        row, start, first, end = span
        rows = self._slot(self._step)[row, first - start : end - start]
        forced = None
        if self._forced is not None:
            forced = np.ascontiguousarray(self._forced[row :: self.rows][first:end])
        made = self._network.ahead > 0
        return Piece(row, first, end - first, self._place.export(rows, made), forced)

    def _add_frames(self, frames: _FrameTable, spans: Sequence[_Span]) -> None:
        """Add to the conditioning of the slice being heard what is constant over each frame."""
        out = self._slot(self._heard)
        if self._place is not places.HOST:  # one launch, for all columns of the slice
            out += frames.rows(self._frame_numbers(self._heard))
            return
        steps = self._hop // self.rows  # columns of a frame
        for row, start, first, end in spans:
            for frame in range(first // steps, (end - 1) // steps + 1):
                begin, stop = max(first, frame * steps), min(end, (frame + 1) * steps)
                out[row, begin - start : stop - start] += frames.row(frame)


class _FrameTable:
    """Conditioning of the frames that some row is in, one row of gates each.

    And what their mel predicts, if the network hears that.
    """

    def __init__(self, source: FrameSource, network: SubscaleNetwork, place: places.Place) -> None:
        self._source, self._network, self._place = source, network, place
        self._first, self._end = 0, 0  # frames kept
        self._rows = place.xp.zeros((0, network.size), dtype=place.xp.float32)
        self._predicted: Prediction | None = None  # of the same frames

    @property
    def empty(self) -> bool:
        """Whether no frame has been kept yet."""
        return self._end == 0

    def known(self, n_frames: int) -> bool:
        """Whether so many frames are known now."""
        return self._source.wait_for(n_frames) >= n_frames

    def end(self, n_frames: int, hop_length: int) -> int | None:
        """Wait for frames; samples of all of them if these are the last, else None."""
        known = self._source.wait_for(n_frames)
        return known * hop_length if self._source.finished else None

    def keep(self, first: int, end: int) -> None:
        """Have frames [first, end) at hand; both never fall."""
        if end > self._end:
            known = self._source.wait_for(end)
            ahead = min(max(end, self._end + _FRAMES_AHEAD), known)
            if self._network.predicts:
                new = self._network.predict(self._source.mel(self._end, ahead - self._end))
                self._predicted = self._joined(self._predicted, new, first)
            interp, hold = self._source.window(self._end, ahead - self._end)
            with unwarned():
                rows = interp if hold is None else interp + hold
            self._rows = self._place.xp.concatenate([self._rows[first - self._first :], rows])
            self._first, self._end = first, ahead

    def _joined(self, old: Prediction | None, new: Prediction, first: int) -> Prediction:
        """What is kept of the frames from `first` on, and that of new ones."""
        if old is None:
            return new
        both = zip(old, new, strict=True)
        join = self._place.xp.concatenate
        return Prediction(*(join([kept[first - self._first :], more]) for kept, more in both))

    def row(self, frame: int) -> Any:
        """Gate pre-activations [3H] of a frame at hand."""
        return self._rows[frame - self._first]

    def rows(self, frames: NDArray[np.int64]) -> Any:
        """The same of many, [..., 3H]; of those not at hand, which nobody draws, any."""
        return self._rows[self._place.xp.asarray(self._at(frames))]

    def foreseen(self, frames: NDArray[np.int64], which: NDArray[np.int64]) -> Foreseen:
        """What the mel predicts in frames [row, any]; in those not at hand, anything."""
        assert self._predicted is not None
        return Foreseen(self._predicted, self._at(frames), which)

    def _at(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where frames are kept; of those that are not, anywhere."""
        found: NDArray[np.int64] = np.clip(frames - self._first, 0, self._end - self._first - 1)
        return found
