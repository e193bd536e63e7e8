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

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """A child process has none of its parent's threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _submit(make: Callable[[int, int], Rows], first: int, count: int) -> Future[Rows] | None:
    """Have a window made by the thread; None where there can be none, as the interpreter ends."""
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(1, thread_name_prefix="wavernn-fast-rows")
    try:
        return _pool.submit(make, first, count)
    except RuntimeError:
        return None


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
    """

    def __init__(self, window: Callable[[int, int], Rows], total: int, context: int) -> None:
        self._window, self._total, self._context = window, total, context
        self._made: dict[int, Rows] = {}  # by number of the window
        self._next: tuple[int, Future[Rows]] | None = None

    def rows(self, first: int, count: int) -> Rows:
        """Rows of output frames [first, first + count), of which there is one at least."""
        number, low = divmod(first, FRAMES)
        high = low + count
        inside = self._made.get(number)
        if inside is not None and high <= FRAMES:  # as nearly always
            self._begin_next(number, high)
            interp, hold = inside
            return (
                None if interp is None else interp[low : high + self._context],
                None if hold is None else hold[low:high],
            )
        last = (first + count - 1) // FRAMES
        self._made = {i: self._get(i) for i in range(number, last + 1)}
        self._begin_next(last, first + count - last * FRAMES)
        return self._joined(0, first, count), self._joined(1, first, count)

    def _begin_next(self, number: int, position: int) -> None:
        """Have the next window made, if half of this one is passed: not beside a first chunk."""
        coming = number + 1
        if self._next is not None or position <= FRAMES // 2 or coming in self._made:
            return
        if coming * FRAMES < self._total:
            future = _submit(self._window, *self._bounds(coming))
            self._next = None if future is None else (coming, future)

    def _get(self, number: int) -> Rows:
        """A window: kept, made ahead or made now."""
        if number in self._made:
            return self._made[number]
        if self._next is not None:  # waited for in any case: one thread at a time
            (coming, future), self._next = self._next, None
            rows = future.result()
            if coming == number:
                return rows
        return self._window(*self._bounds(number))

    def _bounds(self, number: int) -> tuple[int, int]:
        first = number * FRAMES
        return first, min(FRAMES, self._total - first)

    def _joined(self, part: int, first: int, count: int) -> Any:
        """`interp` (0) or `hold` (1) of the frames, from the windows that have them."""
        pieces, last = [], max(self._made)
        for number, rows in self._made.items():
            if rows[part] is None:
                return None
            start = number * FRAMES
            low, high = max(first - start, 0), min(first + count - start, FRAMES)
            extra = self._context if part == 0 and number == last else 0
            pieces.append(rows[part][low : high + extra])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
