"""The thread behind `live.LivePool`: rounds, each of which gives every stream that can sound a bit.

A round is one call of the engine (for a subscale model: one an utterance) with all streams that
have frames and room for audio. It is short, so that a new stream waits for little before it joins
the next one, and everybody gets the same number of samples in it, so nobody starves.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .arriving import LaneSound, RowSound, draw
from .errors import EngineError, WaveRNNError
from .subscale_run import helpers

if TYPE_CHECKING:
    from . import _C

_log = logging.getLogger("wavernn_fast")

ROUND_SECONDS = 0.04  # about as long as a round should take; one frame of each it always is
_STREAM = re.compile(r"stream \d+")  # as the engine counts those of a call
_LOOK_SECONDS = 0.5  # between two looks for streams that nobody holds, while there is no work
_FORK_SECONDS = 0.001  # a fork takes longer
_RATE_SECONDS = 5.0  # over which the speed is told
_CLOSED = "The pool was closed before the end of this live stream."


Sound = LaneSound | RowSound


class _StoppedError(BaseException):
    """Leaves the engine in the middle of a round."""


@dataclass
class Limits:
    """What rounds keep to."""

    chunk_samples: int  # of a stream in a round at most
    hop_length: int
    buffer_samples: int  # unread, from which on a stream is left out


@dataclass(eq=False)
class Channel:
    """What goes in and out of one live stream, guarded by `Rounds.lock`."""

    number: int
    heard: threading.Condition  # audio or the end has come
    wake: Callable[[], None] | None = None  # called then, outside the lock
    inbox: list[NDArray[np.float32]] = field(default_factory=list)  # not in the conditioning yet
    pushed: int = 0  # frames
    finished: bool = False  # no more frames come
    drawn_frames: int = 0
    more: bool = False  # something could be drawn after the last round
    outbox: deque[NDArray[np.float32]] = field(default_factory=deque)
    ready: int = 0  # samples in it
    samples: int = 0  # put there so far
    ended: bool = False  # nothing more will be put there
    error: WaveRNNError | None = None  # why it ended early
    abandoned: bool = False  # set without the lock, by the garbage collector

    def can_sound(self, buffer_samples: int) -> bool:
        """Whether a round may have something to do for it."""
        return self.ready < buffer_samples and bool(self.inbox or self.more or self.finished)

    def end(self, error: WaveRNNError | None = None) -> None:
        """Let nothing more come; what is unread stays."""
        self.ended, self.error, self.inbox = True, error, []
        self.heard.notify_all()


Pair = tuple[Channel, Sound]


class Rounds:
    """All channels of one engine, and the thread that draws them.

    Parameters
    ----------
    engine : _C.Engine
    with_helpers : bool
        Whether the model is a subscale one, whose rows need threads between the rounds.
    limits : Limits
    """

    def __init__(self, engine: _C.Engine, with_helpers: bool, limits: Limits) -> None:
        self.lock = threading.Lock()
        self.limits = limits
        # Those with a place. What is inside a sound is of the thread alone.
        self.channels: dict[Channel, Sound] = {}
        self.failure: WaveRNNError | None = None  # why no stream can sound any more
        self.opened = self.failed = self.rounds = self.samples = 0
        self.round_seconds = 0.0  # of the last
        self._engine, self._with_helpers = engine, with_helpers
        self._work = threading.Condition(self.lock)
        self._stop, self._pid = False, os.getpid()
        self._drawing, self._forking = threading.Lock(), False  # see `before_fork`
        self._rate = 0.0  # samples a second of all streams of a round together, smoothed
        self._history: deque[tuple[float, int]] = deque(maxlen=4096)  # when, samples of a round
        self._thread = threading.Thread(target=self._run, name="wavernn_fast live", daemon=True)
        self._thread.start()
        _running.add(self)

    # --- from any thread ---

    def check_process(self) -> None:
        """Refuse use in a child of fork(), where the thread is not.

        Raises
        ------
        EngineError
        """
        if os.getpid() != self._pid:
            raise EngineError(
                f"This LivePool belongs to process {self._pid} and its thread did not come along "
                "with fork(); make a LivePool in the new process."
            )

    def check_running(self) -> None:
        """Refuse work after the end.

        Raises
        ------
        EngineError
            After `close`; what stopped the thread, if something did.
        """
        if self.failure is not None:
            raise type(self.failure)(*self.failure.args)
        if self._stop:
            raise EngineError("This LivePool is closed; make another one.")

    def add(self, sound: Sound, wake: Callable[[], None] | None) -> Channel:
        """Let a stream join; with the lock."""
        channel = Channel(self.opened, threading.Condition(self.lock), wake)
        self.opened += 1
        self.channels[channel] = sound
        return channel

    def live(self) -> dict[Channel, Sound]:
        """Channels that have a place, with the lock; one whose stream nobody holds loses it."""
        for channel in self.channels:
            if channel.abandoned:
                channel.end()
        self.channels = {c: sound for c, sound in self.channels.items() if not c.ended}
        return self.channels

    def remove(self, channel: Channel, error: WaveRNNError | None = None) -> None:
        """End a channel and free its place; with the lock."""
        channel.end(error)
        self.live()

    def wake(self) -> None:
        """Let the thread look for work; with the lock."""
        self._work.notify_all()

    def abandon(self) -> None:
        """Let the thread end when it looks next; without a lock, for the garbage collector."""
        self._stop = True

    def stop(self) -> None:
        """End the thread and wait for that."""
        if os.getpid() != self._pid:
            return  # it did not come along
        with self.lock:
            self._stop = True
            self._work.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def before_fork(self) -> None:
        """Wait until the thread is outside the engine: its locks would stay locked in the child."""
        if threading.current_thread() is not self._thread:
            self._forking = True
            self._drawing.acquire()

    def after_fork(self) -> None:
        """Let the thread go on; in the child, the engine is free and there is no thread."""
        if threading.current_thread() is not self._thread:
            self._forking = False
            self._drawing.release()

    def samples_per_s(self) -> float:
        """Samples a second of all streams over the last seconds; with the lock."""
        now = time.monotonic()
        recent = [(at, n) for at, n in self._history if now - at <= _RATE_SECONDS]
        if not recent:
            return 0.0
        return sum(n for _, n in recent) / max(now - recent[0][0], self.round_seconds, 1e-3)

    # --- the thread ---

    def _run(self) -> None:
        error: WaveRNNError = EngineError(_CLOSED)
        try:
            with helpers(self._engine) if self._with_helpers else nullcontext() as threads:
                while self._round(threads):
                    pass
        except _StoppedError:
            pass
        except WaveRNNError as problem:  # such as a device that is lost
            error = self.failure = problem
        except BaseException as problem:
            error = self.failure = EngineError(f"The thread of a LivePool stopped: {problem!r}.")
            error.__cause__ = problem
        finally:
            self._end_all(error)

    def _gather(self) -> list[Pair]:
        """Wait for channels that can sound; empty at the end."""
        with self.lock:
            while not self._stop:
                most = self.limits.buffer_samples
                batch = [pair for pair in self.live().items() if pair[0].can_sound(most)]
                if batch:
                    return batch
                self._work.wait(_LOOK_SECONDS)
        return []

    def _round(self, threads: Executor | None) -> bool:
        """Wait until there is something to do, and do it; False at the end.

        Sounds are held no longer than that, so that an ended one is gone while nothing happens.
        """
        batch = self._gather()
        begun = time.perf_counter()
        ready = [pair for pair in batch if self._feed(*pair)]
        # The rows of a subscale model are a batch by themselves, and a failing one fails alone.
        groups = [[pair] for pair in ready] if self._with_helpers else [ready]
        steps, drawn = self._steps(len(ready)), 0
        for group in groups:
            while self._forking:
                time.sleep(_FORK_SECONDS)
            with self._drawing:
                drawn += self._draw(group, steps, threads) if group else 0
        self._count(drawn, time.perf_counter() - begun)
        return bool(batch)

    def _feed(self, channel: Channel, sound: Sound) -> bool:
        """Hand the frames that have come to the conditioning; whether anything is to be done."""
        with self.lock:
            inbox, channel.inbox = channel.inbox, []
            finished, channel.more = channel.finished, False
        if inbox:
            sound.feed.add(np.concatenate(inbox, axis=1))
        if finished and not sound.feed.finished:
            sound.feed.finish()
        return sound.drawable > 0 or finished

    def _steps(self, n_channels: int) -> int:
        """Samples of each in a round: whole frames, as long as a round may take."""
        limits = self.limits
        hop, wanted = limits.hop_length, self._rate * ROUND_SECONDS / max(1, n_channels)
        return max(hop, min(limits.chunk_samples, int(wanted) // hop * hop))

    def _draw(self, group: Sequence[Pair], steps: int, threads: Executor | None) -> int:
        """Draw one step of a group and deliver it; returns the number of samples."""
        sounds = [sound for _, sound in group]
        saved = [s.save() if isinstance(s, LaneSound) else None for s in sounds]
        try:
            waves = draw(
                self._engine,
                sounds,
                steps,
                helpers=threads,
                slots=self._slots(len(group)),
                interrupt=self._leave_if_stopped,
            )
        except EngineError as error:
            if len(group) == 1:
                self._fail(group[0][0], error)
                return 0
            for sound, stream in zip(sounds, saved, strict=True):
                if isinstance(sound, LaneSound) and stream is not None:
                    sound.restore(stream)
            half = len(group) // 2  # who failed fails again, in smaller and smaller company
            return sum(self._draw(part, steps, threads) for part in (group[:half], group[half:]))
        return self._deliver(group, waves)

    def _slots(self, n_channels: int) -> int:
        """Places of the engine, such that all take as many turns."""
        turns = -(-n_channels // max(1, self._engine.lanes))
        return -(-n_channels // max(1, turns))

    def _leave_if_stopped(self) -> None:
        if self._stop:
            raise _StoppedError

    def _deliver(self, group: Sequence[Pair], waves: Sequence[NDArray[np.float32]]) -> int:
        drawn = 0
        with self.lock:
            for (channel, sound), wave in zip(group, waves, strict=True):
                drawn += (sound.drawn_frames - channel.drawn_frames) * self.limits.hop_length
                channel.drawn_frames, channel.more = sound.drawn_frames, sound.drawable > 0
                if channel.ended:  # cancelled meanwhile
                    continue
                if len(wave):
                    channel.outbox.append(wave)
                    channel.ready += len(wave)
                    channel.samples += len(wave)
                if sound.ended:
                    channel.end()
                elif len(wave):
                    channel.heard.notify_all()
        _wake([channel for channel, _ in group])
        return drawn

    def _fail(self, channel: Channel, error: EngineError) -> None:
        with self.lock:
            if not channel.ended:
                self.failed += 1
                named = _STREAM.sub(f"live stream {channel.number}", str(error), count=1)
                channel.end(EngineError(named))
        _wake([channel])

    def _count(self, drawn: int, seconds: float) -> None:
        with self.lock:
            self.rounds += 1
            self.samples += drawn
            self.round_seconds = seconds
            self._history.append((time.monotonic(), drawn))
        if drawn:
            rate = drawn / max(seconds, 1e-9)
            self._rate = rate if self._rate == 0.0 else 0.5 * (self._rate + rate)

    def _end_all(self, error: WaveRNNError) -> None:
        with self.lock:
            self._stop = True
            ended, self.channels = list(self.channels), {}
            for channel in ended:
                if not channel.ended:
                    channel.end(error)
        _wake(ended)


def _wake(channels: Sequence[Channel]) -> None:
    """Call those who asked for it; what one of them does wrong is no concern of the others."""
    for channel in channels:
        if channel.wake is not None:
            try:
                channel.wake()
            except Exception:
                _log.exception("The 'wake' of live stream %d failed.", channel.number)


# --- the process ----------------------------------------------------------------------------------

_running: weakref.WeakSet[Rounds] = weakref.WeakSet()
_held: list[Rounds] = []  # during a fork


@atexit.register
def _end_at_exit() -> None:
    """No thread may be inside the engine when the interpreter goes."""
    for rounds in list(_running):
        rounds.stop()


def _hold_for_fork() -> None:
    """No thread may be inside an engine that a child of fork() will use."""
    for rounds in list(_running):
        rounds.before_fork()
        _held.append(rounds)


def _go_on_after_fork() -> None:
    while _held:
        _held.pop().after_fork()


os.register_at_fork(
    before=_hold_for_fork, after_in_parent=_go_on_after_fork, after_in_child=_go_on_after_fork
)
