"""Conditioning rows made ahead: while the engine draws with some, a thread makes the next.

The engine leaves Python's lock alone while it draws, and numpy does so within a product, so that
the two hardly meet. What is made is the same, whoever makes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

Rows = tuple[Any, Any]  # (interp, hold): float32 arrays or None

FRAMES = 32  # of a window, a multiple of the conditioner's block: some MB, and no block made twice

_pools: dict[int, ThreadPoolExecutor] = {}  # by number of threads


def _forget_pools() -> None:
    """A child process has none of its parent's threads."""
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


def _submit(threads: int, make: Callable[[], list[Rows]]) -> Future[list[Rows]] | None:
    """Have something made by one of so many threads; None where there can be none, at exit."""
    pool = _pools.get(threads)
    if pool is None:  # of two callers at once one keeps its own, which has no threads yet
        made = ThreadPoolExecutor(threads, thread_name_prefix="wavernn-fast-rows")
        pool = _pools.setdefault(threads, made)
    try:
        return pool.submit(make)
    except RuntimeError:
        return None
    except BaseException:
        # An interrupt between the start of a thread and the pool's note of it: nobody would tell
        # that thread of the end, and the process would wait for it for ever.
        _pools.pop(threads, None)
        pool.shutdown(wait=False)
        raise


class RowsAhead:
    """Rows of one utterance in the host's memory, asked for from front to back.

    Parameters
    ----------
    window : callable
        (first, count) to the rows of so many output frames, as `Conditioner.of` gives it; called
        by one thread at a time.
    total : int
        Output frames of the utterance.
    context : int
        Rows of `interp` beside those of the frames asked for.
    threads : int
        That make rows of all utterances. With several the engine leaves the processor alone, and
        they also make what is wanted at once (`ask`).
    """

    def __init__(
        self,
        window: Callable[[int, int], Rows],
        total: int,
        context: int,
        threads: int = 1,
    ) -> None:
        self._window, self._total, self._context = window, total, context
        self._threads = threads
        self._made: dict[int, Rows] = {}  # by number of the window
        self._coming: tuple[list[int], Future[list[Rows]]] | None = None

    def ask(self, first: int, count: int) -> None:
        """Have what `rows` of these frames will want made, beside that of other utterances."""
        if self._threads > 1:
            last = (first + count - 1) // FRAMES
            self._begin([i for i in range(first // FRAMES, last + 1) if i not in self._made])

    def rows(self, first: int, count: int) -> Rows:
        """Rows of output frames [first, first + count), of which there is one at least."""
        number, last = first // FRAMES, (first + count - 1) // FRAMES
        for i in range(number, last + 1):
            self._make(i)
        for old in [i for i in self._made if i < number]:
            del self._made[old]
        self._begin_next(last, first + count - last * FRAMES)
        return self._joined(0, first, count), self._joined(1, first, count)

    def _begin_next(self, number: int, position: int) -> None:
        """Have the next window made, if half of this one is passed: not beside a first chunk."""
        coming = number + 1
        if position > FRAMES // 2 and coming * FRAMES < self._total and coming not in self._made:
            self._begin([coming])

    def _begin(self, numbers: list[int]) -> None:
        """Have windows made by a thread, if it makes none of this utterance yet."""
        if self._coming is not None or not numbers:
            return
        bounds = [self._bounds(i) for i in numbers]
        future = _submit(self._threads, lambda: [self._window(*place) for place in bounds])
        self._coming = None if future is None else (numbers, future)

    def _make(self, number: int) -> None:
        """Have a window: kept, made ahead or made now."""
        if number not in self._made and self._coming is not None:
            # Waited for in any case: one thread at a time.
            (numbers, future), self._coming = self._coming, None
            self._made.update(zip(numbers, future.result(), strict=True))
        if number not in self._made:
            self._made[number] = self._window(*self._bounds(number))

    def _bounds(self, number: int) -> tuple[int, int]:
        first = number * FRAMES
        return first, min(FRAMES, self._total - first)

    def _joined(self, part: int, first: int, count: int) -> Any:
        """`interp` (0) or `hold` (1) of the frames, from the windows that have them."""
        pieces, last = [], (first + count - 1) // FRAMES
        for number in range(first // FRAMES, last + 1):
            rows = self._made[number][part]
            if rows is None:
                return None
            start = number * FRAMES
            low, high = max(first - start, 0), min(first + count - start, FRAMES)
            extra = self._context if part == 0 and number == last else 0
            pieces.append(rows[low : high + extra])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
