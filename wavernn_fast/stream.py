"""Sound while it is being made: chunks of a known mel, or of frames as they come."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arrays, subscale_job
from .conditioning import ConditioningStream
from .errors import InputError
from .features import check_mel
from .lanes import Drawn, Lane, Piece, advance
from .samples import OutputDecoder
from .subscale_run import Utterance
from .utterance import Request, Sampling, Voice, sounding_samples

_log = logging.getLogger("wavernn_fast")

Wave = NDArray[np.float32]


def from_mel(
    voice: Voice, request: Request, sampling: Sampling, chunk_samples: int
) -> Iterator[Wave]:
    """Chunks of `chunk_samples` (the last may be shorter); nothing is held back."""
    if voice.network is not None:
        yield from subscale_job.stream(voice, request, sampling, chunk_samples)
        return
    decoder = OutputDecoder(voice.config, request.n_drawn)
    drawn: list[Drawn] = []
    lane = Lane(
        stream=voice.open(request.seed, sampling),
        source=voice.source(request),
        position=0,
        remaining=sounding_samples(voice, request),
        take=drawn.append,
    )
    while lane.remaining:
        piece = Piece(lane, min(chunk_samples, lane.remaining))
        advance(voice.engine, [piece], voice.hop_length)
        yield decoder.push(drawn.pop())


def from_frames(
    voice: Voice,
    frames: Iterator[Any],
    seed: int,
    sampling: Sampling,
    chunk_frames: int,
    speaker: NDArray[np.float64] | None = None,
) -> Iterator[Any]:
    """Chunks of `chunk_frames` frames (the last may be shorter) of a mel still being made.

    What the length rule may cut and the fade-out may cover is held back until the end is known;
    `samples.OutputDecoder` does that. The kind of the chunks is that of the first frames, and
    conditioning runs where those lie.
    """
    feed = _Feed(voice, frames, speaker)
    network = voice.config.network
    if network is not None and network.hears_whole:
        _log.warning(
            "The network of this model hears the whole utterance: nothing sounds before the last "
            "of its mel frames has come."
        )
    hop = voice.config.hop_length
    if voice.network is not None:
        feed.wait_for(1)  # the first frames say where the work is done
        for chunk in _rows_from(voice, feed, seed, sampling, chunk_frames * hop):
            yield feed.restore(chunk)
        return
    drawn: list[Drawn] = []
    lane = Lane(
        stream=voice.open(seed, sampling),
        source=feed,
        position=0,
        remaining=0,
        take=drawn.append,
    )
    decoder = OutputDecoder(voice.config)
    pending = np.zeros(0, dtype=np.float32)  # decoded, less than a chunk
    while True:
        known = feed.wait_for(lane.position // hop + chunk_frames) * hop
        lane.remaining = known - lane.position
        while lane.remaining:
            steps = min(chunk_frames * hop, lane.remaining)
            advance(voice.engine, [Piece(lane, steps)], hop)
            pending = np.concatenate([pending, decoder.push(drawn.pop())])
            while len(pending) >= chunk_frames * hop:
                yield feed.restore(pending[: chunk_frames * hop].copy())
                pending = pending[chunk_frames * hop :]
        if feed.finished:
            break
    rest = np.concatenate([pending, decoder.finish()])
    for first in range(0, len(rest), chunk_frames * hop):
        yield feed.restore(rest[first : first + chunk_frames * hop].copy())


def _rows_from(
    voice: Voice, feed: _Feed, seed: int, sampling: Sampling, chunk_samples: int
) -> Iterator[Wave]:
    one = Utterance(
        voice.config,
        voice.network_in(feed.place),
        lambda row: voice.open(seed, sampling, fold=row),
        feed,
        None,
        place=feed.place,
    )
    return subscale_job.stream_frames(voice, one, chunk_samples)


class _Feed:
    """Frames pulled from the caller's iterator into the conditioning, as many as are needed."""

    def __init__(
        self, voice: Voice, frames: Iterator[Any], speaker: NDArray[np.float64] | None
    ) -> None:
        assert voice.conditioner is not None  # the caller has checked
        self._voice, self._speaker = voice, speaker
        self._frames = frames
        self._number = itertools.count()
        self.place = arrays.HOST
        self._stream = self._start()
        self.restore: arrays.Restore = arrays.as_it_is

    @property
    def finished(self) -> bool:
        """Whether the iterator has ended."""
        return self._stream.finished

    def wait_for(self, n_frames: int) -> int:
        """Pull until `n_frames` output frames can sound or none are left; returns how many can."""
        while self._stream.ready < n_frames and not self._stream.finished:
            try:
                piece = next(self._frames)
            except StopIteration:
                self._stream.finish()
            else:
                self._push(piece)
        return self._stream.ready

    def window(self, first: int, count: int) -> Any:
        """See `subscale_run.FrameSource`."""
        return self._stream.window(first, count)

    def rows(self, first_frame: int, n_frames: int) -> Any:
        """See `lanes.RowSource`."""
        with self.place.scope():
            interp, hold = self.window(first_frame, n_frames)
            export = self.place.export
            return export(interp), None if hold is None else export(hold)

    def _start(self) -> ConditioningStream:
        conditioner = self._voice.conditioner_in(self.place)
        if self._speaker is not None:
            conditioner = conditioner.of_speaker(self._speaker)
        return conditioner.stream()

    def _push(self, piece: Any) -> None:
        number = next(self._number)
        try:
            given = arrays.take(piece, "mel frame", self._voice.memory)
            if number == 0:
                self.restore, self.place = given.restore, given.place
                with self.place.scope():
                    self._stream = self._start()
            elif given.place is not self.place:
                given = arrays.take(piece, "mel frame")
            with given.place.scope():
                array = given.array[:, None] if given.array.ndim == 1 else given.array
                frames = check_mel(array, self._voice.config, check_range=False, xp=given.place.xp)
        except InputError as error:
            raise InputError(f"Piece {number} of the mel stream: {error}") from error
        with self.place.scope():
            self._stream.push(frames)
