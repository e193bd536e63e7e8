"""Waves written behind the engine, on threads of their own: encode, part, rename, journal."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import audio
from . import parts
from .items import Item
from .journal import Journal
from .reading import Ready

_THREADS = 4  # of which most wait for the disk
_MOST_BYTES = 1 << 26  # of waves waiting to be written: Ctrl-C waits for them


@dataclass(frozen=True)
class Outcome:
    """What became of an item, and what its journal says of it.

    Its state is "done", "failed" (by its own fault) or "left": by no fault of its own, as on a full
    disk; the next run will do it.
    """

    name: str
    state: str
    fields: dict[str, Any] = field(default_factory=dict)  # of the line; see docs/jobs.md
    stops: bool = False  # no later item can be done either


@dataclass(frozen=True)
class Writing:
    """What the writing of all items has in common."""

    worker: str
    model: str  # its hash
    sample_rate: int
    subtype: str
    describe: Callable[[Ready, NDArray[np.float32]], dict[str, Any]]


class WriteBehind:
    """Writes waves on threads; what became of them is asked for with `outcomes` and `drain`."""

    def __init__(self, journal: Journal, how: Writing) -> None:
        self._journal, self._how = journal, how
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="wavernn-fast-write")
        self._pending: deque[tuple[int, Future[tuple[Outcome | None, float]]]] = deque()
        self._bytes = 0
        self._ready: deque[Outcome] = deque()
        self._full = False
        self.seconds = 0.0  # that the threads spent, the journal left out
        self.waited = 0.0  # that the caller spent waiting for them

    def wave(self, ready: Ready, wave: NDArray[np.float32]) -> None:
        """Have one wave written; waits while too many wait already."""
        begun = time.perf_counter()
        while self._pending and self._bytes + wave.nbytes > _MOST_BYTES:
            self._take()
        self.waited += time.perf_counter() - begun
        self._pending.append((wave.nbytes, self._pool.submit(self._write, ready, wave)))
        self._bytes += wave.nbytes

    def failure(self, item: Item, error: Exception) -> None:
        """Note that an item failed."""
        self._ready.append(self._failed(item, error))

    def outcomes(self) -> Iterator[Outcome]:
        """What has become of items since the last call; never waits."""
        while self._pending and self._pending[0][1].done():
            self._take()
        while self._ready:
            yield self._ready.popleft()

    def drain(self) -> Iterator[Outcome]:
        """What becomes of all others; waits until they are written."""
        begun = time.perf_counter()
        while self._pending:
            self._take()
        self.waited += time.perf_counter() - begun
        yield from self.outcomes()

    def close(self) -> None:
        """Wait for all writing, and end the threads."""
        self._pool.shutdown(wait=True)

    def _take(self) -> None:
        size, future = self._pending.popleft()
        self._bytes -= size
        outcome, seconds = future.result()
        self.seconds += seconds
        if outcome is not None:
            self._ready.append(outcome)

    def _write(self, ready: Ready, wave: NDArray[np.float32]) -> tuple[Outcome | None, float]:
        """Write one wave and its line; None where another has found that nothing can be written."""
        if self._full:
            return None, 0.0
        begun, item, how = time.perf_counter(), ready.item, self._how
        try:
            target = Path(item.target)
            blocks = audio.encode(wave, how.sample_rate, target.suffix, how.subtype)
            if os.path.lexists(target):  # whose record will not be true for a moment
                self._journal.write("redo", name=item.name)
                self._journal.sync()  # the rename may be on the disk before the line is
            written = parts.write(target, blocks, how.worker)
            fields = {
                "source": item.source,
                "input": ready.input,
                "model": how.model,
                "settings": ready.settings,
                "samples": len(wave),
                "sample_rate": how.sample_rate,
                "seconds": len(wave) / how.sample_rate,
                "bytes": written.bytes,
                "sha256": written.sha256,
                **how.describe(ready, wave),
            }
            seconds = time.perf_counter() - begun
        except Exception as error:
            full = getattr(error, "errno", None) in parts.FULL
            outcome = self._left(item, error) if full else self._failed(item, error)
            return outcome, time.perf_counter() - begun
        try:
            self._journal.write("done", name=item.name, **fields)
        except OSError as error:  # the file is whole, but the next run will not know of it
            return self._left(item, error), seconds
        return Outcome(item.name, "done", fields), seconds

    def _failed(self, item: Item, error: Exception) -> Outcome:
        fields = _fault(item, error)
        try:
            self._journal.write("failed", name=item.name, **fields)
        except OSError as problem:
            return self._left(item, problem)
        return Outcome(item.name, "failed", fields)

    def _left(self, item: Item, error: Exception) -> Outcome:
        self._full = True
        return Outcome(item.name, "left", _fault(item, error), stops=True)


def _fault(item: Item, error: Exception) -> dict[str, Any]:
    sentence = str(error) or type(error).__name__
    return {"source": item.source, "error": sentence, "kind": type(error).__name__}
