"""Asking a job to stop: by Ctrl-C, by SIGTERM, by a disk that is full."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_INTERRUPTED = 130


class Stop:
    """Whether to stop, and why; one for a job and all that works for it in this process.

    The first signal makes `requested` true, and raises `KeyboardInterrupt` only where the main
    thread is within `raising()`: inside the engine, where nothing else looks at `requested`. So no
    interrupt falls between a rename and its line in the journal. The second ends the process at
    once; what it leaves is what a kill leaves.
    """

    def __init__(self) -> None:
        self.reason = ""  # a sentence
        self.signal: int | None = None  # number of the signal, if it was one
        self._raising = False

    @property
    def requested(self) -> bool:
        """Whether no more work should be begun."""
        return bool(self.reason)

    def request(self, reason: str) -> None:
        """Stop, for a reason in one sentence; the first one is kept."""
        self.reason = self.reason or reason

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Within it a signal raises `KeyboardInterrupt`; a request made before raises at once."""
        before, self._raising = self._raising, True
        try:
            if self.signal is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self._raising = before

    @contextlib.contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM meanwhile, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM)
            # A shell has a background job ignore Ctrl-C, and so it stays.
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(EXIT_INTERRUPTED)
        self.signal = number
        self.request("interrupted" if number == signal.SIGINT else "asked to end (SIGTERM)")
        if self._raising:
            raise KeyboardInterrupt
