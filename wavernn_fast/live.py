"""Many live streams on one engine: frames of each come when they come, audio is read as it is made.

::

    with LivePool(voc) as pool:
        sound = pool.open(seed=0)
        for frame in frames:
            sound.push(frame)
        sound.finish()
        for chunk in sound:
            play(chunk)

The pool has one thread (`live_rounds`). Joined, the chunks of a stream equal `Vocoder.generate` of
all its frames bit for bit, whatever runs beside it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import arrays, places, scalars
from .arriving import check_arrivals, check_frames, open_sound, warn_of_silence
from .errors import InputError, PoolFullError
from .live_rounds import Channel, Limits, Rounds
from .utterance import Sampling

if TYPE_CHECKING:
    from .config import ModelConfig
    from .vocoder import Vocoder


class LivePool:
    """One engine for many live streams, each of which has its own seed, temperature and speaker.

    In a round of some 40 ms every stream that has frames and room for audio gets the same number
    of samples, one chunk at most; a new stream joins the next round. A stream whose unread audio
    fills its buffer is left out until it is read, so a slow reader slows nobody. On a vocoder of
    several devices the first one works.

    Parameters
    ----------
    voc : Vocoder
    max_streams : int
        Streams that have a place at a time; `open` raises `PoolFullError` beyond.
    chunk_frames : int, optional
        Frames of sound of a stream in a round at most. Default: about 50 ms.
    buffer_seconds : float
        Audio that a stream may have unread before it is left out.
    waiting_seconds : float
        Sound of the frames that a stream may have pushed beyond what is drawn; `LiveStream.push`
        raises `PoolFullError` beyond.

    Raises
    ------
    InputError
        If an argument is unusable, or the model cannot sound before its mel is whole.
    """

    def __init__(
        self,
        voc: Vocoder,
        *,
        max_streams: int = 64,
        chunk_frames: int | None = None,
        buffer_seconds: float = 2.0,
        waiting_seconds: float = 600.0,
    ) -> None:
        check_arrivals(voc.config)
        warn_of_silence(voc.config)
        self._voc, self._config = voc, voc.config
        self._max_streams = scalars.to_count(max_streams, "max_streams", 1)
        rate, hop = voc.sample_rate, voc.config.hop_length
        buffer = max(hop, round(_seconds(buffer_seconds, "buffer_seconds") * rate))
        chunk = voc.chunk_frames(chunk_frames) * hop
        self._ahead = _frames_ahead(voc) + -(-buffer // hop)
        self._waiting = round(_seconds(waiting_seconds, "waiting_seconds") * rate / hop)
        self._waiting += self._ahead
        subscale = voc.config.subscale is not None
        self._rounds = Rounds(voc.engine, subscale, Limits(chunk, hop, buffer))
        weakref.finalize(self, self._rounds.abandon).atexit = False

    def open(
        self,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        greedy: bool = False,
        fade_out: bool = True,
        speaker: Any = None,
        wake: Callable[[], None] | None = None,
    ) -> LiveStream:
        """Begin a stream.

        Parameters
        ----------
        seed, temperature, greedy, fade_out, speaker
            As in `Vocoder.generate`.
        wake : callable, optional
            Called by the pool's thread, without arguments, when audio or the end of this stream has
            come; it must return at once and may not raise (an event loop's
            ``call_soon_threadsafe``, say).

        Raises
        ------
        PoolFullError
            If `max_streams` have a place already.
        InputError
            If an argument is unusable.
        EngineError, DeviceError
            If the pool is closed, has failed, or belongs to another process.
        """
        rounds = self._rounds
        rounds.check_process()
        sampling = Sampling(temperature, greedy, None)
        who, key = arrays.to_speaker(speaker, self._config), scalars.to_seed(seed)
        with rounds.lock:
            rounds.check_running()
            if len(rounds.live()) >= self._max_streams:
                raise PoolFullError(
                    f"All {self._max_streams} places of the pool are taken; try again when a "
                    "stream has ended."
                )
            sound = open_sound(self._voc.voice(fade_out), key, sampling, who)
            channel = rounds.add(sound, wake)
        return LiveStream(self, channel)

    def stats(self) -> dict[str, Any]:
        """What the pool is doing.

        Returns
        -------
        dict
            streams, max_streams : now, and at most
            opened, failed : streams since the start
            samples, rounds : since the start
            samples_per_s, x_realtime : of all streams together over the last 5 seconds
            round_seconds : of the last round
            queue : frames that wait to be drawn, all streams together
            unread : samples that wait to be read, of the streams that have a place
            stalled : streams that are left out until they are read
        """
        rounds = self._rounds
        rounds.check_process()
        with rounds.lock:
            channels, speed = rounds.live(), rounds.samples_per_s()
            most = rounds.limits.buffer_samples
            return {
                "streams": len(channels),
                "max_streams": self._max_streams,
                "opened": rounds.opened,
                "failed": rounds.failed,
                "samples": rounds.samples,
                "rounds": rounds.rounds,
                "samples_per_s": speed,
                "x_realtime": speed / self._config.sample_rate,
                "round_seconds": rounds.round_seconds,
                "queue": sum(c.pushed - c.drawn_frames for c in channels),
                "unread": sum(c.ready for c in channels),
                "stalled": sum(c.ready >= most for c in channels),
            }

    @property
    def failure(self) -> Exception | None:
        """What stopped the pool for good, such as a lost device; None while it works."""
        return self._rounds.failure

    def close(self) -> None:
        """End all streams and the thread; streams not at their end raise `EngineError` then."""
        self._rounds.stop()

    def __enter__(self) -> LivePool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class LiveStream:
    """One stream of a `LivePool`: frames in, audio out, from any threads. Made by `LivePool.open`.

    Its end frees its place in the pool, and so does losing the last reference to it.
    """

    def __init__(self, pool: LivePool, channel: Channel) -> None:
        self._pool, self._channel = pool, channel  # the pool lives as long as its streams
        self._rounds, self._config = pool._rounds, pool._config
        self._pieces = 0
        weakref.finalize(self, setattr, channel, "abandoned", True).atexit = False

    @property
    def number(self) -> int:
        """Which stream of the pool it is, as errors name it."""
        return self._channel.number

    @property
    def samples(self) -> int:
        """Samples made so far, read or not."""
        return self._channel.samples

    @property
    def ready(self) -> int:
        """Samples that can be read at once."""
        return self._channel.ready

    @property
    def ended(self) -> bool:
        """Whether no more audio comes; some may be unread."""
        return self._channel.ended

    @property
    def wanted(self) -> int:
        """Frames that it makes sense to push now; more would only wait.

        As many as keep the thread busy until the buffer is full. A network that hears the whole
        utterance wants all there are.
        """
        self._rounds.check_process()
        channel, network = self._channel, self._config.network
        with self._rounds.lock:
            if channel.finished or channel.ended:
                return 0
            whole = network is not None and network.hears_whole
            most = self._pool._waiting if whole else self._pool._ahead
            return max(0, channel.drawn_frames + most - channel.pushed)

    def push(self, frames: Any) -> None:
        """Add mel frames; returns at once.

        Parameters
        ----------
        frames : float array [n_mels] or [n_mels, n], any n
            Of any library; copied.

        Raises
        ------
        InputError
            For unusable frames, which end this stream alone; and for any after `finish`, `cancel`
            or the end, which change nothing.
        PoolFullError
            If more frames would wait than the pool allows (`waiting_seconds`); none was added.
        EngineError
            What ended the stream before.
        """
        self._rounds.check_process()
        channel, number = self._channel, self._pieces
        with self._rounds.lock:
            self._check_open()  # what comes too late changes nothing, usable or not
        self._pieces += 1
        try:
            array, _ = arrays.to_array(frames, "mel frame")
            given = arrays.Given(array, arrays.as_it_is, places.HOST)
            new = check_frames(given, self._config).copy()
        except InputError as error:
            problem = InputError(f"Piece {number} of live stream {channel.number}: {error}")
            with self._rounds.lock:
                if not channel.ended:
                    self._rounds.failed += 1
                    self._rounds.remove(channel, problem)
            raise problem from error
        with self._rounds.lock:
            self._check_open()
            waiting = channel.pushed - channel.drawn_frames + new.shape[1]
            if waiting > self._pool._waiting:
                raise PoolFullError(
                    f"Live stream {channel.number} has {waiting - new.shape[1]} frames waiting and "
                    f"{new.shape[1]} more came, but at most {self._pool._waiting} may wait; push "
                    "'wanted' frames at a time."
                )
            channel.inbox.append(new)
            channel.pushed += new.shape[1]
            self._rounds.wake()

    def finish(self) -> None:
        """Announce that no more frames come. May be called again.

        Raises
        ------
        EngineError
            What ended the stream before.
        """
        self._rounds.check_process()
        with self._rounds.lock:
            if not self._channel.finished:
                self._check_open()
                self._channel.finished = True
                self._rounds.wake()

    def read(self, timeout: float | None = None) -> NDArray[np.float32] | None:
        """Take the next chunk, waiting for it.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most, infinity too; 0 looks only.

        Returns
        -------
        float32 array [samples], or None
            None at the end, or after `cancel`.

        Raises
        ------
        TimeoutError
            If nothing has come in time.
        InputError, EngineError, DeviceError
            What ended the stream early, once all audio made before has been read.
        """
        self._rounds.check_process()
        channel = self._channel
        until = None if timeout is None else time.monotonic() + timeout
        with self._rounds.lock:
            while not channel.outbox:
                if channel.error is not None:
                    raise type(channel.error)(*channel.error.args)
                if channel.ended:
                    return None
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"Live stream {channel.number} had no audio in {timeout} s.")
                channel.heard.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
            chunk = channel.outbox.popleft()
            most = self._rounds.limits.buffer_samples
            if channel.ready - len(chunk) < most <= channel.ready:
                self._rounds.wake()
            channel.ready -= len(chunk)
            return chunk

    def cancel(self) -> None:
        """End the stream at once: its place is free, its unread audio gone. May be called again."""
        self._rounds.check_process()
        channel = self._channel
        with self._rounds.lock:
            channel.outbox.clear()
            channel.ready, channel.error = 0, None
            self._rounds.remove(channel)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return self

    def __next__(self) -> NDArray[np.float32]:
        chunk = self.read()
        if chunk is None:
            raise StopIteration
        return chunk

    def __enter__(self) -> LiveStream:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self.ended:
            self.cancel()

    def _check_open(self) -> None:
        """With the lock."""
        channel = self._channel
        if channel.error is not None:
            raise type(channel.error)(*channel.error.args)
        if channel.finished or channel.ended:
            what = "was finished" if channel.finished else "was cancelled"
            raise InputError(f"Live stream {channel.number} {what}; open another one.")


def _seconds(value: Any, what: str) -> float:
    """Check a time: a finite number above 0."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise InputError(f"{what} is {value!r}, expected a number of seconds above 0.")
    return seconds


def _frames_ahead(voc: Vocoder) -> int:
    """Frames that must have come beyond those drawn before the next one can be."""
    config: ModelConfig = voc.config
    before = config.lookback_frames if config.pad == "none" else 0
    network, begun = voc.voice().network, voc.lag_samples
    if network is not None:  # a slice of all rows is drawn at a time
        begun += 2 * network.slice_columns * network.subscale.factor
    return before + config.lookahead_frames + 1 + -(-begun // config.hop_length)
