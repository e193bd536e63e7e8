"""Driving the engine: streams of any length side by side, refilled as they end.

What is packed with what never changes a sample: the engine promises the same bits for a stream
whatever runs beside it, and so does the conditioning for a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from . import _C

SLICE_STEPS = 2048  # samples of every stream between two looks at progress, memory and Ctrl-C

Drawn = NDArray[np.int32] | NDArray[np.float32]  # classes, or x of a mixture; see _C.pyi
Rows = tuple[Any, Any]  # (interp, hold): float32 ndarray, `arrays.DeviceRows` or None


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


@dataclass
class Lane:
    """One engine stream on its way through (a piece of) an utterance."""

    stream: _C.Stream
    source: RowSource | None  # None: unconditioned
    position: int  # of the next sample in the utterance; a fold begins inside it
    remaining: int  # samples still to draw
    take: Callable[[Drawn], None]  # receives what was drawn, in order

    def rows(self, n_steps: int, hop_length: int) -> Rows:
        """Conditioning for the next `n_steps` samples."""
        if self.source is None:
            return None, None
        first_frame = self.position // hop_length
        last_frame = (self.position + n_steps - 1) // hop_length
        return self.source.rows(first_frame, last_frame - first_frame + 1)


def run_lanes(
    engine: _C.Engine,
    queue: Iterator[Lane],
    *,
    hop_length: int,
    slots: int,
    on_samples: Callable[[int], None] | None = None,
) -> None:
    """Draw every lane of `queue` to its end, at most `slots` at a time.

    Lanes should come longest first, so that the last ones to run alone are short.

    Parameters
    ----------
    on_samples : callable, optional
        Called after every slice with the number of samples drawn in it, all lanes together.
    """
    active: list[Lane] = []
    while True:
        while len(active) < slots:
            lane = next(queue, None)
            if lane is None:
                break
            if lane.remaining > 0:
                active.append(lane)
        if not active:
            return
        n_steps = min(SLICE_STEPS, min(lane.remaining for lane in active))
        advance(engine, active, n_steps, hop_length)
        if on_samples is not None:
            on_samples(n_steps * len(active))
        active = [lane for lane in active if lane.remaining > 0]


def advance(engine: _C.Engine, lanes: list[Lane], n_steps: int, hop_length: int) -> None:
    """Draw the next `n_steps` samples of every lane."""
    rows = [lane.rows(n_steps, hop_length) for lane in lanes]
    results = engine.run(
        [lane.stream for lane in lanes],
        [n_steps] * len(lanes),
        [interp for interp, _ in rows],
        [hold for _, hold in rows],
        interrupt=let_signals_in,
    )
    for lane, (drawn, _) in zip(lanes, results, strict=True):
        lane.remaining -= n_steps
        lane.position += n_steps
        lane.take(drawn)


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
