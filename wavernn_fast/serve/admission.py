"""Who may come in: a bounded hall, in it a bounded number of places at the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from .limits import Limits
from .problems import Problem

RETRY_BUSY, RETRY_DRAINING = 1, 10  # seconds that a refused client is asked to wait


class Hall:
    """Counts requests from their first byte on; only used on the event loop.

    A request is inside from its first byte, so that bodies in the making are bounded as well; it
    has a place while it sounds. Places are given in the order of asking.

    Parameters
    ----------
    limits : Limits
        `max_streams` places, `max_queue` more requests in the hall.
    """

    def __init__(self, limits: Limits) -> None:
        self._capacity = limits.max_streams + limits.max_queue
        self._places = asyncio.Semaphore(limits.max_streams)
        self.inside = 0
        self.live = 0
        self.draining = False
        self.dead = ""  # why the engine will never sound again

    @property
    def waiting(self) -> int:
        """Requests inside that do not sound yet."""
        return self.inside - self.live

    def refuse(self) -> None:
        """Raise if no request is taken at all.

        Raises
        ------
        Problem
            503, when the service is ending or its engine is dead.
        """
        if self.dead:
            raise Problem(503, "The engine of this service has failed; it is ending.")
        if self.draining:
            raise Problem(503, "This service is ending; try another one.", RETRY_DRAINING)

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Be inside, or be refused.

        Raises
        ------
        Problem
            503 as `refuse`, 429 when the hall is full.
        """
        self.refuse()
        if self.inside >= self._capacity:
            raise Problem(429, "All places are taken and the queue is full; try again.", RETRY_BUSY)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place and keep it.

        Raises
        ------
        Problem
            503 where the service began to end meanwhile.
        """
        async with self._places:
            self.refuse()
            self.live += 1
            try:
                yield
            finally:
                self.live -= 1
