"""Driving the engine: streams of any length side by side, refilled as they end.

One call of the engine draws a slice: pieces of lanes, often more than there are places. The engine
gives a place to the next piece the moment the one before has ended there, and pieces are cut so
that all places end together::

    place 0   |<------ lane 0 ------------------->      (goes on in the next slice)
    place 1   |<- lane 1 ->|<- lane 3 -->|<- lane 4 ->
    place 2   |<------ lane 2 ------>|<--- lane 5 --->

So no place is idle while lanes wait, and only the rows of a slice are in memory, whatever the
lengths. What is packed with what never changes a sample: the engine promises the same bits for a
stream whatever runs beside it, and so does the conditioning for a frame.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from . import _C

SLICE_STEPS = 2048  # samples of a place in one slice at most: they bound the rows in memory
_GRAIN = 4  # samples: all bands that a step of a model draws, whatever their number
_LEAST_STEPS = 128  # and at least: a slice costs some 20 us of Python a lane
_SLICE_SECONDS = 0.25  # about as long as a slice should take, for progress
_PIECES_A_PLACE = 4  # of a slice at most, each of which has rows for some frames of context

Drawn = NDArray[np.int32] | NDArray[np.float32]  # classes, or values x; see _C.pyi
Rows = tuple[Any, Any]  # (interp, hold): float32 ndarray, `places.DeviceRows` or None


class RowSource(Protocol):
    """Frame conditioning of one utterance, computed when asked for."""

    def rows(self, first_frame: int, n_frames: int) -> Rows:
        """Rows for sounding frames [first_frame, first_frame + n_frames).

        Returns
        -------
        interp : float32 [upsample_left + n_frames + upsample_right, interp_size] or None
        hold : float32 [n_frames, hold_size] or None
            In the memory of the engine's device with the biases in it; see `Engine.hold_bias`.
        """
        ...

    def ask(self, first_frame: int, n_frames: int) -> None:
        """Say that these rows are wanted next: they may be made beside those of other lanes."""
        ...


@dataclass
class Lane:
    """One engine stream on its way through (a piece of) an utterance."""

    stream: _C.Stream
    source: RowSource | None  # None: unconditioned
    position: int  # of the next sample in the utterance; a fold begins inside it
    remaining: int  # samples still to draw
    take: Callable[[Drawn], None]  # receives what was drawn, in order

    def ask(self, n_steps: int, hop_length: int) -> None:
        """Say that conditioning for the next `n_steps` samples is wanted next."""
        if self.source is not None:
            self.source.ask(*self._frames(n_steps, hop_length))

    def rows(self, n_steps: int, hop_length: int) -> Rows:
        """Conditioning for the next `n_steps` samples."""
        if self.source is None:
            return None, None
        return self.source.rows(*self._frames(n_steps, hop_length))

    def _frames(self, n_steps: int, hop_length: int) -> tuple[int, int]:
        """First of the frames of the next `n_steps` samples, and how many."""
        first = self.position // hop_length
        return first, (self.position + n_steps - 1) // hop_length - first + 1


class Piece(NamedTuple):
    """What one lane draws in a slice."""

    lane: Lane
    n_steps: int


class Slice(NamedTuple):
    """What one call of the engine draws."""

    pieces: list[Piece]  # in the order in which they begin; the first ones at once
    n_steps: int  # from the beginning to the end of the place that ends last


@dataclass
class Tally:
    """What a run of lanes came to."""

    samples: int = 0  # drawn, all lanes together
    place_steps: int = 0  # samples that all places could have drawn in the same steps
    engine_seconds: float = 0.0  # inside the engine

    def add(self, part: Tally) -> None:
        """Count a part of the same run."""
        self.samples += part.samples
        self.place_steps += part.place_steps
        self.engine_seconds += part.engine_seconds


def plan_slice(lanes: Iterator[Lane], slots: int, n_steps: int) -> Slice:
    """Fill `slots` places for `n_steps` steps with the next lanes.

    Parameters
    ----------
    lanes : iterator of Lane
        Those in flight first. As many are taken as find a place, and each is given one: what a
        lane has left after the slice is for the next slice.
    slots : int
        Places, 1 or more.
    n_steps : int
        Samples of a place, 1 or more. The slice is shorter where lanes are so short that very
        many would be needed, and where there are no more.

    Returns
    -------
    Slice
        Without pieces if no lane has anything left.
    """
    ends = [0] * slots  # of each place, smallest first: where the next lane begins
    begun: list[tuple[Lane, int]] = []
    most = slots * _PIECES_A_PLACE
    while ends[0] < n_steps and len(begun) < most:
        lane = next((lane for lane in lanes if lane.remaining > 0), None)
        if lane is None:
            n_steps = min(n_steps, max(ends))
            break
        start = heapq.heapreplace(ends, min(ends[0] + lane.remaining, n_steps))
        begun.append((lane, start))
    else:
        n_steps = ends[0]
    return Slice(
        [Piece(lane, min(lane.remaining, n_steps - start)) for lane, start in begun], n_steps
    )


def draw_lanes(
    engine: _C.Engine,
    queue: Iterator[Lane],
    *,
    hop_length: int,
    slots: int,
    most_steps: int | None = None,
    interrupt: Callable[[], None] | None = None,
) -> Iterator[Tally]:
    """Draw every lane of `queue` to its end, at most `slots` at a time.

    Lanes should come longest first, so that the last ones to run alone are short; they are taken
    as places become free. If anything is raised on the way, streams are at their last finished
    sample, and what was drawn in the slice is lost.

    Parameters
    ----------
    most_steps : int, optional
        Samples of a place in one slice at most; they bound the rows in memory.
    interrupt : callable, optional
        Called every 10 ms or so by the engine; may raise to stop the run.

    Yields
    ------
    Tally
        Of each slice, all lanes together, after it.
    """
    most = SLICE_STEPS if most_steps is None else most_steps
    active, n_steps = list[Lane](), min(2 * _LEAST_STEPS, most)
    while True:
        pieces, steps = plan_slice(itertools.chain(active, queue), slots, n_steps)
        if not pieces:
            return
        seconds = advance(engine, pieces, hop_length, slots, interrupt)
        yield Tally(sum(piece.n_steps for piece in pieces), slots * steps, seconds)
        active = [piece.lane for piece in pieces if piece.lane.remaining > 0]
        wanted = int(steps * _SLICE_SECONDS / max(seconds, 1e-9))
        n_steps = min(max(wanted // _GRAIN * _GRAIN, _LEAST_STEPS), most)


def advance(
    engine: _C.Engine,
    pieces: Sequence[Piece],
    hop_length: int,
    slots: int = 1,
    interrupt: Callable[[], None] | None = None,
) -> float:
    """Draw pieces, at most `slots` at a time; returns the seconds that the engine took."""
    pieces = [piece for piece in pieces if piece.n_steps > 0]
    for lane, n_steps in pieces:
        lane.ask(n_steps, hop_length)
    rows = [lane.rows(n_steps, hop_length) for lane, n_steps in pieces]
    begun = time.perf_counter()
    results = engine.run(
        [lane.stream for lane, _ in pieces],
        [n_steps for _, n_steps in pieces],
        [interp for interp, _ in rows],
        [hold for _, hold in rows],
        lanes=slots,
        interrupt=interrupt or let_signals_in,
    )
    seconds = time.perf_counter() - begun
    for (lane, n_steps), (drawn, _) in zip(pieces, results, strict=True):
        lane.remaining -= n_steps
        lane.position += n_steps
        lane.take(drawn)
    return seconds


def let_signals_in() -> None:
    """Give Python a moment to run its signal handlers: Ctrl-C raises here, inside the engine."""


def forced_logits(
    engine: _C.Engine, lane: Lane, targets: Any, hop_length: int
) -> Iterator[tuple[NDArray[np.float32], Any]]:
    """Logits of a lane under teacher forcing, slice by slice: (logits [n, L], targets [n])."""
    for first in range(0, lane.remaining, SLICE_STEPS):
        part = np.ascontiguousarray(targets[first : first + SLICE_STEPS])
        interp, hold = lane.rows(len(part), hop_length)
        [(_, logits)] = engine.run(
            [lane.stream],
            [len(part)],
            [interp],
            [hold],
            forced=[part],
            return_logits=True,
            interrupt=let_signals_in,
        )
        assert logits is not None  # asked for above
        lane.position += len(part)
        yield logits, part
