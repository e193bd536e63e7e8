"""Driving the engine for subscale models: the rows of an utterance are the streams of a batch.

Between two slices of S columns, drawn by one call of the engine, the network hears what the rows
before have drawn (`subscale_network`)::

    row 0   |<- S ->|<- S ->|<- S ->|
    row 1           lag = horizon + S behind      |<- S ->|
    row 2                                                  lag behind that ...

so every row begins a slice when all that its network hears in it has been drawn. Where the lag is a
slice more (`Slices.ahead`), the network hears for a slice while the one before is drawn. Several
utterances may share a slice; nobody's samples hang on that.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .lanes import Tally, let_signals_in
from .subscale_utterance import Labels, Piece, Utterance

if TYPE_CHECKING:
    from . import _C


class Run(NamedTuple):
    """An utterance in a queue, and who gets its samples."""

    utterance: Utterance
    take: Callable[[Labels], None]


@contextmanager
def helpers(engine: _C.Engine) -> Iterator[Executor | None]:
    """Threads for what lies between the slices of an engine, as many as it has on the CPU.

    Elsewhere one, for what the network hears while the engine draws.
    """
    count = engine.threads - 1 if engine.device == "cpu" else 1
    if not count:
        yield None
        return
    with ThreadPoolExecutor(count, "wavernn_fast rows") as pool:
        yield pool


def _hear(utterances: Sequence[Utterance], pool: Executor | None, threads: int) -> None:
    """Let all rows hear for the next slice, shared between the threads of the pool and this one."""
    for utterance in utterances:
        utterance.prepare()
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
    for utterance in utterances:
        utterance.settle()


@contextmanager
def _hearing_ahead(utterances: Sequence[Utterance], pool: Executor | None) -> Iterator[None]:
    """Let those hear for the slice after the next one that can, while the next one is drawn."""
    able = [utterance for utterance in utterances if utterance.can_hear_ahead]
    if not able or pool is None:
        yield
        return
    heard = pool.submit(_hear, able, None, 1)
    try:
        yield
    finally:
        heard.result()  # before anybody's past moves on


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
    late = [utterance for utterance in utterances if not utterance.has_heard]
    if late:
        on_cpu = pool is not None and engine.device == "cpu"
        _hear(late, pool if on_cpu else None, engine.threads if on_cpu else 1)
    prepared = [utterance.pieces() for utterance in utterances]
    streams = [
        utterance.streams[piece.row]
        for utterance, pieces in zip(utterances, prepared, strict=True)
        for piece in pieces
    ]
    every = [piece for pieces in prepared for piece in pieces]
    begun, results = time.perf_counter(), []
    with _hearing_ahead(utterances, pool):
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
