"""What a process with an engine and the process that feeds it say to each other."""

from __future__ import annotations

import multiprocessing.connection
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..batch import BatchReport
    from .items import Item
    from .settings import Settings
    from .work import Outcome, Times, Worker

# --- from the parent ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello:
    """The first message: what the child is to be."""

    make: Callable[..., Worker]  # `LocalWorker`, by reference; called with the next three
    settings: Settings
    root: str
    worker: str  # name of its journal
    level: int  # of the messages that are wanted of its logger
    parent: int = 0  # process id
    bound: bool = False  # to be killed by the system when the thread that started it ends


class Run(NamedTuple):
    """Begin a round: ask for items until there are no more."""


class Take(NamedTuple):
    """Answer to `Want`; None: there are no more in this round."""

    item: Item | None


class Quit(NamedTuple):
    """End yourself."""


# --- from the child -------------------------------------------------------------------------------


class Ready(NamedTuple):
    """The model is loaded."""


class Want(NamedTuple):
    """There is a place for another item."""


class Did(NamedTuple):
    """An item has ended and is in the journal."""

    outcome: Outcome


class Alive(NamedTuple):
    """So many more samples have been drawn."""

    samples: int


class Said(NamedTuple):
    """A line for the log."""

    level: int
    text: str


class Idle(NamedTuple):
    """The round has ended."""

    times: Times | None
    batches: list[BatchReport]


class Broken(NamedTuple):
    """An error ended the process; the last message."""

    error: BaseException
    errno: int | None  # which no pickle keeps
    started: bool  # whether the model had been loaded


# --- the line -------------------------------------------------------------------------------------


class Line:
    """A connection that several threads may send on; made of the descriptor of a socket."""

    def __init__(self, connection: multiprocessing.connection.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    def of_descriptor(cls, descriptor: int) -> Line:
        """The end that a parent has passed on."""
        os.set_inheritable(descriptor, False)  # a grandchild must not keep it open
        return cls(multiprocessing.connection.Connection(descriptor))

    def fileno(self) -> int:
        """Descriptor, as `multiprocessing.connection.wait` wants it."""
        return self._connection.fileno()

    def send(self, message: Any) -> bool:
        """Send; False if the other end is gone."""
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:
            return False
        return True

    def receive(self) -> Any:
        """Wait for a message.

        Raises
        ------
        EOFError
            If the other end is gone, also in the middle of a message.
        """
        try:
            return self._connection.recv()
        except OSError as error:
            raise EOFError from error

    def waiting(self, seconds: float = 0.0) -> bool:
        """Wait so long at most; whether `receive` would not wait (it may raise)."""
        try:
            return self._connection.poll(seconds)
        except OSError:
            return True

    def close(self) -> None:
        """Close this end."""
        self._connection.close()
