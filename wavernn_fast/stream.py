"""Sound while it is being made: chunks of a known mel, of frames pulled, or of frames pushed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import subscale_job
from .arriving import Speaker, draw, open_sound, warn_of_silence
from .errors import EngineError
from .lanes import SLICE_STEPS, Drawn, Lane, Piece, advance
from .samples import OutputDecoder
from .subscale_run import helpers
from .utterance import Request, Sampling, Voice, in_chunks, sounding_samples

Wave = NDArray[np.float32]


def from_mel(
    voice: Voice, request: Request, sampling: Sampling, chunk_samples: int
) -> Iterator[Wave]:
    """Chunks of `chunk_samples` (the last may be shorter); nothing is held back.

    The synthesis of several bands is, so they are drawn so far ahead of the first chunk.
    """
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
    ahead = decoder.delay
    pending = np.zeros(0, dtype=np.float32)
    while lane.remaining:
        wanted = min(chunk_samples + ahead, lane.remaining)
        while wanted:  # in slices: their rows are in memory
            piece = Piece(lane, min(wanted, voice.slice_steps or SLICE_STEPS))
            advance(voice.engine, [piece], voice.hop_length)
            wanted -= piece.n_steps
        ahead = 0
        new = [decoder.push(part) for part in drawn]
        drawn.clear()
        pending = np.concatenate([pending, *new])
        yield pending[:chunk_samples]
        pending = pending[chunk_samples:]
    if len(pending):
        yield pending


def from_frames(
    voice: Voice,
    frames: Iterator[Any],
    seed: int,
    sampling: Sampling,
    chunk_frames: int,
    speaker: Speaker = None,
) -> Iterator[Any]:
    """Chunks of `chunk_frames` frames (the last may be shorter) of a mel still being made.

    No more frames are pulled than the next chunk needs. The kind of the chunks is that of the
    first frames, and conditioning runs where those lie.
    """
    sound = open_sound(voice, seed, sampling, speaker)
    feed = sound.feed
    warn_of_silence(voice.config)
    size = chunk_frames * voice.config.hop_length
    step = min(size, SLICE_STEPS)  # whatever the chunk: frames and rows of a step are in memory

    def drawn() -> Generator[Wave, None, None]:
        with _helpers(voice) as threads:
            while not sound.ended:
                while not feed.finished and feed.ready < sound.frames_for(step):
                    try:
                        piece = next(frames)
                    except StopIteration:
                        feed.finish()
                    else:
                        feed.push(piece)
                yield from draw(voice.engine, [sound], step, helpers=threads)

    with closing(drawn()) as waves:
        for chunk in in_chunks(waves, size):
            yield feed.restore(chunk)


class PushStream:
    """One utterance by pushing: frames go in, the samples that can sound come back.

    Made by `Vocoder.open_stream`. It has no thread and waits for nobody: work is done inside `push`
    and `finish`. Of one thread at a time.
    """

    def __init__(self, voice: Voice, seed: int, sampling: Sampling, speaker: Speaker) -> None:
        self._voice = voice
        self._sound = open_sound(voice, seed, sampling, speaker)
        self._failed = False
        warn_of_silence(voice.config)

    @property
    def ended(self) -> bool:
        """Whether all samples have been handed out."""
        return self._sound.ended

    def push(self, frames: Any) -> Any:
        """Add mel frames and take the samples that can sound now.

        Parameters
        ----------
        frames : float array [n_mels] or [n_mels, n], any n

        Returns
        -------
        float32 array [samples]
            Of the kind of the first frames; empty where more frames are needed.

        Raises
        ------
        InputError
            For unusable frames, which change nothing, or frames after `finish`.
        EngineError
            If a logit became NaN or infinite; the stream cannot go on then.
        """
        self._sound.feed.push(frames)
        return self._drawn()

    def finish(self) -> Any:
        """Announce the end and take the rest of the samples: float32 [samples].

        Raises
        ------
        EngineError
            As in `push`.
        """
        self._sound.feed.finish()
        return self._drawn()

    def _drawn(self) -> Any:
        if self._failed:
            raise EngineError("This stream has failed before and cannot go on; open another one.")
        sound, parts = self._sound, [np.zeros(0, dtype=np.float32)]
        self._failed = True  # until all went well
        with _helpers(self._voice) as threads:
            while sound.drawable or (sound.feed.finished and not sound.ended):
                parts += draw(self._voice.engine, [sound], SLICE_STEPS, helpers=threads)
        self._failed = False
        return sound.feed.restore(np.concatenate(parts))


def _helpers(voice: Voice) -> AbstractContextManager[Executor | None]:
    """Threads beside the engine's, where the model needs them."""
    return nullcontext() if voice.network is None else helpers(voice.engine)
