"""What the engine takes its mels from: read items, while more may be begun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .items import Item
from .reading import Ready, Unready
from .stop import Stop

_LEAST_MEMORY = 1 << 30  # bytes of mels and waves in the engine that are always allowed
_MOST_UNTOLD = 8  # items that fail one after another before the run ends, so that they are told of


class Feed:
    """Mels for one run of the engine after the other, and the items that they belong to.

    A run ends when a quarter of the machine's memory is taken by mels and waves that are not
    finished: with very long ones, few run side by side. It ends as well where one item after
    another fails: nothing is told of an item while the engine takes the next ones.

    Parameters
    ----------
    results : iterator of Ready or Unready
    stop : Stop
        Asked before every mel.
    failed : callable
        Told of every item that cannot be sounded.
    hop_length : int
        Samples of a frame.
    """

    def __init__(
        self,
        results: Iterator[Ready | Unready],
        stop: Stop,
        failed: Callable[[Item, Exception], None],
        hop_length: int,
    ) -> None:
        self.hop_length = hop_length
        self.ended = False  # whether there are no more items
        self._results, self._stop, self._failed = results, stop, failed
        self._taken: dict[int, Ready] = {}
        self._held, self._most = 0, max(_LEAST_MEMORY, _memory() // 4)  # bytes
        self._untold = 0  # items that failed since a wave came out
        self._last: Ready | None = None

    def begin(self) -> None:
        """Start a run of the engine, which counts its mels from 0."""
        self._taken.clear()
        self._held = self._untold = 0

    def mels(self) -> Iterator[NDArray[np.float32]]:
        """Mels until no more may be begun; what is no mel is passed on as failed."""
        number = 0
        while self._held < self._most and not self._stop.requested:
            result = next(self._results, None)
            if result is None:
                self.ended = True
                return
            if isinstance(result, Unready):
                self._failed(result.item, result.error)
                self._untold += 1
                if self._untold >= (_MOST_UNTOLD if self._taken else 1):
                    return
                continue
            self._taken[number] = self._last = result
            self._held += self._bytes(result)
            number += 1
            yield result.mel

    def seeds(self) -> Iterator[int]:
        """The seed of the mel that was taken last."""
        while self._last is not None:
            yield self._last.seed

    def speakers(self) -> Iterator[Any]:
        """The speaker of the mel that was taken last."""
        while self._last is not None:
            yield self._last.speaker

    def done(self, number: int) -> Ready:
        """The item of a mel that has become a wave."""
        ready = self._taken.pop(number)
        self._held -= self._bytes(ready)
        self._untold = 0  # what is known by now is told with this wave
        return ready

    def taken(self) -> list[Ready]:
        """The items that are in the engine."""
        return list(self._taken.values())

    def _bytes(self, ready: Ready) -> int:
        return int(ready.mel.nbytes + 4 * ready.mel.shape[1] * self.hop_length)


def _memory() -> int:
    """Bytes of memory of this machine; 0 where it does not say."""
    try:
        pages: int = os.sysconf("SC_PHYS_PAGES")
        size: int = os.sysconf("SC_PAGE_SIZE")
        return pages * size
    except (AttributeError, OSError, ValueError):
        return 0
