"""The devices of a job and the items in the hands of each: the book-keeping of `child`."""

from __future__ import annotations

import contextlib
import enum
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import journal, parts

if TYPE_CHECKING:
    from .items import Item
    from .process import Process
    from .settings import Settings


@dataclass(frozen=True)
class Care:
    """How children are watched."""

    stall_seconds: float = 300.0  # without an outcome or a sample drawn, while it has work
    start_seconds: float = 1800.0  # to load a model, compile its kernels and check them
    backoff_seconds: float = 1.0  # before a new start; doubled with every one in a row
    most_backoff_seconds: float = 60.0
    most_deaths: int = 5  # in a row without a finished item; then the device is given up


class State(enum.Enum):
    """Of a place."""

    DOWN = "no process; one will be started"
    STARTING = "it loads the model"
    IDLE = "it waits for a round"
    BUSY = "it is in a round"
    LOST = "given up"


class Place:
    """A device, and the child processes that drive it one after another."""

    def __init__(self, settings: Settings, root: str, worker: str) -> None:
        self.settings, self.worker = settings, worker
        self.state = State.DOWN
        self.process: Process | None = None
        self.in_hand: dict[str, Item] = {}  # given out, and no outcome heard
        self.alone = False  # the round is of one item
        self.quiet = 0.0  # seconds without a sign of life
        self.deaths = 0  # in a row
        self.start_at = 0.0  # not before (monotonic)
        self.worked = False  # a model has been loaded here
        self.reason = ""  # of an end that is coming
        self.error: BaseException | None = None  # that it said last
        self._journal = Path(root, journal.FOLDER, f"journal-{worker}.jsonl")
        self._said = 0  # bytes of the journal when the process began

    @property
    def name(self) -> str:
        """Device, for a message."""
        return self.settings.device

    def begin(self, process: Process) -> None:
        """A process has been started."""
        self.process, self.state, self.quiet, self.reason = process, State.STARTING, 0.0, ""
        self._said = os.path.getsize(self._journal) if self._journal.exists() else 0

    def send(self, message: object) -> None:
        """Say something; that a child is gone is noticed when it is listened to."""
        if self.process is not None:
            self.process.line.send(message)

    def limit(self, care: Care) -> float:
        """How long it may be quiet, in seconds."""
        if self.state is State.STARTING:
            return care.start_seconds
        return care.stall_seconds if self.state is State.BUSY else float("inf")

    def finished_unheard(self) -> Iterator[dict[str, Any]]:
        """Lines of items in hand that the process finished before it could say so."""
        if not self._journal.exists():
            return
        with open(self._journal, "rb") as file:
            file.seek(self._said)
            for raw in file:
                try:
                    line = json.loads(raw)
                except ValueError:  # torn
                    continue
                if line.get("state") in ("done", "failed") and line.get("name") in self.in_hand:
                    yield line

    def remove_parts(self) -> None:
        """Delete what the process left of files in the making."""
        folders = sorted({Path(item.target).parent for item in self.in_hand.values()})
        with contextlib.suppress(OSError):  # the next job will
            parts.remove_stale(folders, lambda worker: worker == self.worker)

    def rest(self, care: Care) -> None:
        """Count a death; when the next process may start, or that none will."""
        self.process, self.deaths = None, self.deaths + 1
        if self.deaths > care.most_deaths:
            self.state = State.LOST
            return
        wait = min(care.backoff_seconds * 2 ** (self.deaths - 1), care.most_backoff_seconds)
        self.state, self.start_at = State.DOWN, time.monotonic() + wait


class Work:
    """What is still to be given out."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._count = len(items) if isinstance(items, Sized) else None  # that nobody has had
        self._next: list[Item] = []
        self.suspects: deque[Item] = deque()  # in hand at a death: each is to run alone
        self.deaths: dict[str, str] = {}  # name -> reason of the first

    def has_fresh(self) -> bool:
        """Whether there is an item that nobody has had."""
        if not self._next:
            self._next = list(itertools.islice(self._items, 1))
        return bool(self._next)

    def fresh(self) -> Item | None:
        """The next of these."""
        if not self.has_fresh():
            return None
        if self._count is not None:
            self._count -= 1
        return self._next.pop()

    def share(self, places: int, in_hand: int) -> float:
        """How many a place may have in hand, so that none sits idle at the end of the job.

        A worker reads ahead, and the first of several would otherwise take all of a small job.
        """
        if self._count is None:
            return float("inf")
        return -(-(self._count + in_hand) // places)

    def left(self) -> bool:
        """Whether there is anything at all."""
        return bool(self.suspects) or self.has_fresh()
