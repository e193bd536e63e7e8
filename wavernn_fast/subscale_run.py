"""Driving the engine for subscale models: the rows of an utterance are the streams of a batch.

Between two slices of S columns, drawn by one call of the engine, the network hears what the rows
before have drawn (`subscale_network`)::

    row 0   |<- S ->|<- S ->|<- S ->|
    row 1           lag = horizon + S behind      |<- S ->|
    row 2                                                  lag behind that ...

so every row begins a slice when all that its network hears in it has been drawn. Several utterances
may share a slice; nobody's samples hang on that.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from . import places
from .conditioning_products import unwarned
from .lanes import Tally, let_signals_in
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
        with place.scope():
            self._frames = None if frames is None else _FrameTable(frames, network, place)
            self._state: NetworkState = network.start()
            shape = (self.rows, network.slice_columns, network.size)
            self._conditioning = place.xp.zeros(shape, dtype=place.xp.float32)
        behind = (self.rows - 1) * network.lag
        self._drawn = np.zeros((self.rows, behind + network.slice_columns), np.int32)
        self._sent = 0  # columns, all of whose samples have been handed out
        self._spans: list[_Span] = []  # of the next slice

    @property
    def finished(self) -> bool:
        """Whether every sample has been drawn."""
        if self._n_samples is None:
            return False
        sub, columns = self._network.subscale, self._network.slice_columns
        return self._step >= Schedule(self._n_samples, sub.factor, sub.horizon, columns).n_steps

    @property
    def frames_wanted(self) -> int:
        """Frames that must be known, unless they are the last, before the next slice."""
        return self._frame(self._step + self._network.slice_columns - 1) + 1

    @property
    def complete_frames(self) -> int:
        """Frames, all of whose samples have been handed out."""
        return self._frame(self._sent)

    @property
    def slice_samples(self) -> int:
        """Samples that all rows together draw in a slice."""
        return self.rows * self._network.slice_columns

    def prepare(self) -> None:
        """Begin the next slice: which columns rows draw in it, and the frames they lie in."""
        network, count = self._network, self._network.slice_columns
        if self._n_samples is None:
            assert self._frames is not None
            self._n_samples = self._frames.end(self.frames_wanted, self._hop)
        self._spans = []
        for row in range(self.rows):
            start = self._step - row * network.lag
            known = self._n_samples
            length = start + count if known is None else row_length(known, self.rows, row)
            first, end = max(0, start), min(start + count, length)
            if first < end:
                self._spans.append(_Span(row, start, first, end))
        if self._frames is not None and self._spans:
            steps = self._hop // self.rows  # columns of a frame
            last = max(0, self._step - (self.rows - 1) * network.lag)  # or where it will begin
            high = max(span.end - 1 for span in self._spans) // steps + 1
            with self._place.scope():
                self._frames.keep(last // steps, high)

    def hear(self, rows: slice) -> None:
        """Let some rows hear what the next slice of them hears of the others; after `prepare`.

        Several threads may do this at a time, each for rows of its own.
        """
        with self._place.scope():  # rows that still wait hear what is drawn before their beginning
            foreseen = None
            if self._network.predicts:
                assert self._frames is not None
                if self._frames.empty:  # as the utterance is
                    return
                foreseen = self._frames.foreseen(self._columns() // (self._hop // self.rows))
            self._network.hear(self._state, self._conditioning, rows, foreseen)

    def pieces(self) -> list[Piece]:
        """What is drawn in the next slice, once all rows have heard.

        It may be nothing, where rows wait for those before them.
        """
        with self._place.scope():
            if self._spans and self._frames is not None:
                self._add_frames(self._frames)
            return [self._piece(span) for span in self._spans]

    def take(self, pieces: Sequence[Piece], drawn: Sequence[Labels]) -> Labels:
        """Move on by a slice in which `pieces` have been drawn; what is new, in order of time."""
        network, count = self._network, self._network.slice_columns
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

    def _frame(self, column: int) -> int:
        return column * self.rows // self._hop

    def _columns(self) -> NDArray[np.int64]:
        """Columns of the next slice: [row, S]; those of rows that wait are negative."""
        starts = self._step - np.arange(self.rows)[:, None] * self._network.lag
        columns: NDArray[np.int64] = starts + np.arange(self._network.slice_columns)
        return columns

    def _piece(self, span: _Span) -> Piece:
        row, start, first, end = span
        rows = self._conditioning[row, first - start : end - start]
        forced = None
        if self._forced is not None:
            forced = np.ascontiguousarray(self._forced[row :: self.rows][first:end])
        return Piece(row, first, end - first, self._place.export(rows), forced)

    def _add_frames(self, frames: _FrameTable) -> None:
        """Add to the conditioning what is constant over each frame."""
        steps = self._hop // self.rows  # columns of a frame
        if self._place is not places.HOST:  # one launch, for all columns of the slice
            self._conditioning += frames.rows(self._columns() // steps)
            return
        for row, start, first, end in self._spans:
            for frame in range(first // steps, (end - 1) // steps + 1):
                begin, stop = max(first, frame * steps), min(end, (frame + 1) * steps)
                self._conditioning[row, begin - start : stop - start] += frames.row(frame)


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

    def foreseen(self, frames: NDArray[np.int64]) -> Foreseen:
        """What the mel predicts in frames [row, S]; in those not at hand, anything."""
        assert self._predicted is not None
        return Foreseen(self._predicted, self._at(frames))

    def _at(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where frames are kept; of those that are not, anywhere."""
        found: NDArray[np.int64] = np.clip(frames - self._first, 0, self._end - self._first - 1)
        return found


class Run(NamedTuple):
    """An utterance in a queue, and who gets its samples."""

    utterance: Utterance
    take: Callable[[Labels], None]


@contextmanager
def helpers(engine: _C.Engine) -> Iterator[Executor | None]:
    """Threads for what lies between the slices of an engine on the CPU, as many as it has."""
    if engine.device != "cpu" or engine.threads == 1:
        yield None
        return
    with ThreadPoolExecutor(engine.threads - 1, "wavernn_fast rows") as pool:
        yield pool


def _hear(utterances: Sequence[Utterance], pool: Executor | None, threads: int) -> None:
    """Let all rows hear, shared between the threads of the pool and this one."""
    parts = [
        (utterance, slice(*bounds))
        for utterance in utterances
        for bounds in itertools.pairwise(utterance.rows * i // threads for i in range(threads + 1))
    ]
    share = -(-len(parts) // threads)

    def work(first: int) -> None:
        for utterance, rows in parts[first : first + share]:
            utterance.hear(rows)

    others = [pool.submit(work, i) for i in range(share, len(parts), share)] if pool else []
    work(0)
    for other in others:
        other.result()


def advance(
    engine: _C.Engine,
    utterances: Sequence[Utterance],
    pool: Executor | None = None,
    *,
    return_logits: bool = False,
    interrupt: Callable[[], None] | None = None,
) -> tuple[list[list[tuple[Piece, Any]]], list[Labels], float]:
    """Draw the next slice of each utterance, all rows of all of them side by side.

    Parameters
    ----------
    pool : Executor, optional
        See `helpers`.

    Returns
    -------
    logits : for each utterance, its pieces with their logits [count, 512], or None
    samples : for each utterance, what is new in order of time, int32 [n]
    seconds : inside the engine
    """
    for utterance in utterances:
        utterance.prepare()
    _hear(utterances, pool, engine.threads if pool else 1)
    prepared = [utterance.pieces() for utterance in utterances]
    streams = [
        utterance.streams[piece.row]
        for utterance, pieces in zip(utterances, prepared, strict=True)
        for piece in pieces
    ]
    every = [piece for pieces in prepared for piece in pieces]
    begun, results = time.perf_counter(), []
    if every:
        forced = [piece.forced for piece in every]
        results = engine.run(
            streams,
            [piece.columns for piece in every],
            [piece.conditioning for piece in every],
            [None] * len(every),
            forced=None if forced[0] is None else forced,
            return_logits=return_logits,
            lanes=len(every),
            interrupt=interrupt or let_signals_in,
        )
    seconds = time.perf_counter() - begun
    found, samples, at = [], [], 0
    for utterance, pieces in zip(utterances, prepared, strict=True):
        own = results[at : at + len(pieces)]
        at += len(pieces)
        found.append([(piece, logits) for piece, (_, logits) in zip(pieces, own, strict=True)])
        samples.append(utterance.take(pieces, [np.asarray(d, np.int32) for d, _ in own]))
    return found, samples, seconds


def draw_utterances(
    engine: _C.Engine,
    queue: Iterator[Run],
    *,
    slots: int,
    interrupt: Callable[[], None] | None = None,
) -> Iterator[Tally]:
    """Draw every utterance of `queue` to its end, at most `slots` at a time.

    See `lanes.draw_lanes`, which does the same for streams that are an utterance each.
    """
    active = list[Run]()
    with helpers(engine) as pool:
        while active := _refill(active, queue, slots):
            found, samples, seconds = advance(
                engine, [run.utterance for run in active], pool, interrupt=interrupt
            )
            counts = [piece.columns for pieces in found for piece, _ in pieces]
            for run, new in zip(active, samples, strict=True):
                run.take(new)
            steps = max(counts, default=0) * slots * active[0].utterance.rows
            yield Tally(sum(counts), steps, seconds)


def _refill(active: Sequence[Run], queue: Iterator[Run], slots: int) -> list[Run]:
    """Those that go on, and as many more as find a place."""
    left = [run for run in active if not run.utterance.finished]
    while len(left) < slots:
        run = next(queue, None)
        if run is None:
            break
        if not run.utterance.finished:  # an empty one
            left.append(run)
    return left
