"""The process that runs an engine for another: started by `process`, ends with it.

It asks for one item at a time, when its worker has a place for one, so a worker that runs many side
by side gets many, and no more than it needs are in the hands of a process that may die.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from ..errors import WaveRNNError
from . import messages
from .messages import Line
from .stop import EXIT_INTERRUPTED, Stop
from .work import LocalWorker, Worker

if TYPE_CHECKING:
    from .items import Item
    from .settings import Settings

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_SIGN_SECONDS = 0.5  # at most so often a sign of life is sent
_MOST_TEXT = 8000  # characters of a line of the log: a message must fit the socket's buffer


def main(descriptor: int) -> None:
    """Do what the other end of a socket says, until it says `Quit` or is gone."""
    line = Line.of_descriptor(descriptor)
    hello = line.receive()
    if hello.bound:
        _end_with_parent(hello.parent)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C comes to the parent, which says what to do
    if sys.stderr is not None:
        faulthandler.enable()
    _log_to(line, hello.level)
    started, stop = False, Stop()
    try:
        with stop.handling_signals():
            _heed_once(stop)
            heard, signs = _Heard(line), _Signs(line)
            with stop.raising():
                worker = hello.make(
                    hello.settings, hello.root, hello.worker, stop=stop, progress=signs
                )
            started = True
            line.send(messages.Ready())
            while not stop.requested and heard.run():
                for outcome in worker.run(heard.items()):
                    line.send(messages.Did(outcome))
                line.send(_idle(worker))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BaseException as error:
        line.send(messages.Broken(_portable(error), getattr(error, "errno", None), started))
        sys.exit(1)


def local_worker(
    settings: Settings, root: str, worker: str, *, stop: Stop, progress: Callable[[int], None]
) -> Worker:
    """A `LocalWorker` with its model loaded; what a child runs unless another is asked for."""
    made = LocalWorker(settings, root, worker, vocoder=settings.load(), stop=stop)
    made.on_samples = progress
    return made


def _idle(worker: Worker) -> messages.Idle:
    return messages.Idle(getattr(worker, "times", None), getattr(worker, "batches", []))


class _Heard:
    """What the parent has said, read by a thread of its own, which notices that it is gone."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._messages: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._quit = False
        threading.Thread(target=self._read, name="wavernn_fast reader", daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                self._messages.put(self._line.receive())
            except EOFError:
                os._exit(1)  # as if killed with the parent: the main thread may be in the driver

    def run(self) -> bool:
        """Wait for `Run`; False if it is `Quit`, also in the middle of a round."""
        while not self._quit:
            message = self._messages.get()
            if isinstance(message, messages.Run):
                return True
            self._quit = isinstance(message, messages.Quit)
        return False

    def items(self) -> Iterator[Item]:
        """Items of a round, asked for one by one."""
        while not self._quit:
            self._line.send(messages.Want())
            answer = self._messages.get()
            if not isinstance(answer, messages.Take) or answer.item is None:
                self._quit = isinstance(answer, messages.Quit)
                return
            yield answer.item


class _Signs:
    """Signs of life, sent when the engine gets on; a stuck one sends none."""

    def __init__(self, line: Line) -> None:
        self._line, self._sent, self._samples = line, time.monotonic(), 0

    def __call__(self, samples: int) -> None:
        """Note samples that have been drawn since the last call."""
        self._samples += samples
        now = time.monotonic()
        if now - self._sent >= _SIGN_SECONDS:
            self._line.send(messages.Alive(self._samples))
            self._sent, self._samples = now, 0


class _ToParent(logging.Handler):
    """Hands records to the process that has the terminal."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        self._line.send(messages.Said(record.levelno, self.format(record)[:_MOST_TEXT]))


def _log_to(line: Line, level: int) -> None:
    logger = logging.getLogger("wavernn_fast")
    logger.setLevel(level)
    logger.handlers = [_ToParent(line)]
    logger.propagate = False


def _end_with_parent(parent: int) -> None:
    """Be killed when the thread that started this process ends, where the system can do that."""
    try:
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    except (OSError, AttributeError):
        return  # the end of the socket tells it as well
    if os.getppid() != parent:  # it was faster
        os._exit(1)


def _heed_once(stop: Stop) -> None:
    """Take SIGTERM once: a scheduler sends it to every process, and then the parent does."""
    take = signal.getsignal(signal.SIGTERM)

    def once(number: int, frame: FrameType | None) -> None:
        if stop.signal is None and callable(take):
            take(number, frame)

    signal.signal(signal.SIGTERM, once)


def _portable(error: BaseException) -> BaseException:
    """An error that can be sent: of ours and the system's as it is, others as their traceback."""
    if isinstance(error, (WaveRNNError, OSError)):
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return type(error)(str(error))
        return error
    text = "".join(traceback.format_exception(error))
    return RuntimeError(text[-_MOST_TEXT:])
