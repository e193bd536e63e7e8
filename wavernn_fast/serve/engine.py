"""The one engine that all requests share: a pool of live streams, driven from the event loop.

The pool draws all streams together on a thread of its own and says when there is audio, so that
nothing waits on the event loop and no thread waits for a stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError, EngineError, PoolFullError
from .admission import RETRY_BUSY, Hall
from .problems import Problem, logger

T = TypeVar("T")
Wave = NDArray[np.float32]

_DECODERS = 2  # threads for work on bodies


class Stream(Protocol):
    """What is used of a `live.LiveStream`."""

    @property
    def wanted(self) -> int:
        """Frames that it makes sense to push now."""

    def push(self, frames: Any) -> None:
        """Append frames [n_mels, n]."""

    def finish(self) -> None:
        """Say that no more frames come."""

    def read(self, timeout: float | None = None) -> Wave | None:
        """Return the next chunk, or None at the end; `TimeoutError` if there is none in time."""

    def cancel(self) -> None:
        """Give the stream up and free its place."""


class Pool(Protocol):
    """What is used of a `live.LivePool`."""

    @property
    def failure(self) -> Exception | None:
        """What stopped it for good."""

    def open(
        self, *, seed: int, temperature: float, greedy: bool, wake: Callable[[], None]
    ) -> Stream:
        """Begin a stream; `wake` is called when it has audio."""

    def stats(self) -> dict[str, Any]:
        """Numbers of it; "stalled": streams that are left out until their client reads."""

    def close(self) -> None:
        """End its thread."""


@dataclass(frozen=True)
class Wish:
    """How an utterance is drawn: as in `Vocoder.generate`."""

    seed: int = 0
    temperature: float = 1.0
    greedy: bool = False


class Engine:
    """The pool of a running application.

    Parameters
    ----------
    pool : Pool
    hall : Hall
        Learns when the pool is dead.
    """

    def __init__(self, pool: Pool, hall: Hall) -> None:
        self._pool, self._hall = pool, hall
        self._turns = asyncio.Semaphore(_DECODERS)
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="serve-decode")

    def open(self, wish: Wish) -> Utterance:
        """Begin an utterance; its client has a place.

        Raises
        ------
        Problem
            429 if the pool is full all the same.
        DeviceError, EngineError
            If the pool is dead.
        """
        loop, heard = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(heard.set)

        try:
            stream = self._pool.open(
                seed=wish.seed, temperature=wish.temperature, greedy=wish.greedy, wake=wake
            )
        except PoolFullError as error:
            raise Problem(429, "All places are taken; try again.", RETRY_BUSY) from error
        except (DeviceError, EngineError):
            self.alive()
            raise
        return Utterance(self, stream, heard)

    async def decode(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run `function` on a thread for work on bodies.

        A turn ends with the work, also where the client has left meanwhile, so that bodies of
        clients that come and go do not pile up before the threads.
        """
        await self._turns.acquire()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._decoders, function, *arguments)
        work.add_done_callback(self._turn_ends)
        return await asyncio.shield(work)

    def _turn_ends(self, work: asyncio.Future[Any]) -> None:
        self._turns.release()
        if not work.cancelled():
            work.exception()  # seen, although nobody may be left to hear of it

    def alive(self) -> bool:
        """Whether the pool can still sound anything; a failure is never taken back."""
        failure = self._pool.failure
        if failure is not None and not self._hall.dead:
            logger.critical("the engine is dead: %s", failure)
            self._hall.dead = str(failure) or type(failure).__name__
        return not self._hall.dead

    @property
    def stalled(self) -> int:
        """Streams that are left out until their clients read."""
        count: int = self._pool.stats()["stalled"]
        return count

    def close(self) -> None:
        """End pool and threads."""
        self._pool.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)


class Utterance:
    """One utterance on the engine: frames go in as it wants them, chunks come out.

    Attributes
    ----------
    samples : int
        Samples that came out so far.
    first : float or None
        Seconds from the first frames to the first chunk.
    took : float
        Seconds from the first frames to the last chunk so far.
    """

    def __init__(self, engine: Engine, stream: Stream, heard: asyncio.Event) -> None:
        self._engine, self._stream, self._heard = engine, stream, heard
        self._waiting: deque[Wave] = deque()  # frames that the engine does not want yet
        self._complete = self._finished = False
        self._began: float | None = None
        self.samples = 0
        self.first: float | None = None
        self.took = 0.0

    @property
    def backlog(self) -> bool:
        """Whether frames wait here because the engine has enough to do."""
        return bool(self._waiting)

    def push(self, frames: Wave) -> None:
        """Append frames [n_mels, n]."""
        if self._began is None:
            self._began = time.perf_counter()
        self._waiting.append(frames)
        self._feed()

    def finish(self) -> None:
        """Say that no more frames come."""
        self._complete = True
        self._feed()

    def cancel(self) -> None:
        """Give it up; harmless after the end."""
        self._stream.cancel()

    async def chunks(self) -> AsyncIterator[Wave]:
        """Audio as it is made, to the end.

        Raises
        ------
        EngineError, DeviceError
            If the stream or the engine failed.
        """
        while (chunk := await self._read()) is not None:
            self.samples += len(chunk)
            if self._began is not None:
                self.took = time.perf_counter() - self._began
                self.first = self.took if self.first is None else self.first
            yield chunk

    async def _read(self) -> Wave | None:
        while True:
            self._feed()
            self._heard.clear()  # before looking: what comes after that sets it again
            try:
                return self._stream.read(0)
            except TimeoutError:
                await self._heard.wait()
            except (DeviceError, EngineError):
                self._engine.alive()
                raise

    def _feed(self) -> None:
        while self._waiting and (wanted := self._stream.wanted) > 0:
            piece = self._waiting.popleft()
            if piece.shape[1] > wanted:
                self._waiting.appendleft(piece[:, wanted:])
            self._stream.push(piece[:, :wanted])
        if self._complete and not self._waiting and not self._finished:
            self._finished = True
            self._stream.finish()
