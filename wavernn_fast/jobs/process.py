"""A child process with an engine, seen from its parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from . import messages
from .messages import Hello, Line

# No module of the caller is imported again, as multiprocessing's own spawn would do, and nothing
# but a string is trusted to find the package: sys.path is the parent's.
_PROGRAM = (
    "import sys; descriptor = int(sys.argv[1]); sys.path[:] = sys.argv[2:]; "
    "from wavernn_fast.jobs.child_main import main; main(descriptor)"
)


class Process:
    """A new interpreter that serves one worker; never a fork of this one, which may hold a GPU.

    Parameters
    ----------
    hello : Hello
        What it is to be; `bound` is found out here.

    Raises
    ------
    OSError
        If the system starts no more processes.
    """

    def __init__(self, hello: Hello) -> None:
        ours, theirs = multiprocessing.Pipe()
        self.line = Line(ours)
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a library prints must not stand between our lines on stdout
                pass_fds=[theirs.fileno()],
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        # The kernel ends a bound child with the thread that started it; only the main thread lives
        # as long as the process.
        bound = threading.current_thread() is threading.main_thread()
        self.line.send(replace(hello, parent=os.getpid(), bound=bound))

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    def bid_end(self, now: bool) -> None:
        """Ask it to end in order: at the end of its round or, as Ctrl-C would, now."""
        if now:
            with contextlib.suppress(OSError):
                self._popen.terminate()
        self.line.send(messages.Take(None))
        self.line.send(messages.Quit())

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(OSError):
            self._popen.kill()

    def reap(self, seconds: float = 10.0) -> str:
        """Wait for the end of a process that is ending, kill it if it does not; how it ended."""
        self.line.close()
        try:
            code = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = self._popen.wait()
        if code >= 0:
            return f"it ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = str(-code)
        return f"it was ended by signal {name}"

    def last_words(self, until: float) -> Iterator[Any]:
        """What it still says, until it has ended or it is `until` (monotonic seconds)."""
        with contextlib.suppress(EOFError):
            while time.monotonic() < until:
                if self.line.waiting(0.05):
                    yield self.line.receive()
