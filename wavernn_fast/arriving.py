"""One utterance whose mel frames are still coming: frames in, samples out as they can be drawn.

A `Sound` holds what such an utterance needs (conditioning, stream of the engine, decoder) and knows
how much of it can be drawn; `draw` takes several of them one step further in one call of the
engine. Nothing here waits or decides when to draw: `stream` (pull and push) and `live` (many
streams, one thread) do.

What the length rule may cut and the fade-out may cover is held back until the end is known;
`samples.OutputDecoder` does that.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import arrays, lanes, places, subscale_run, subscale_utterance
from .errors import InputError
from .features import check_mel
from .samples import OutputDecoder
from .utterance import Sampling, Voice

if TYPE_CHECKING:
    from . import _C
    from .conditioning import ConditioningStream
    from .config import ModelConfig

_log = logging.getLogger("wavernn_fast")

Wave = NDArray[np.float32]
Speaker = NDArray[np.float64] | None


def check_arrivals(config: ModelConfig) -> None:
    """Refuse a model that cannot sound before its mel is whole.

    Raises
    ------
    InputError
        If it hears no mel, or its upsampling depends on the length of the mel.
    """
    if config.n_mels == 0:
        raise InputError("An unconditioned model streams n_samples=..., not frames.")
    if config.upsample == "linear":
        raise InputError(
            "This model's upsampling depends on the length of the mel, so it cannot sound "
            "before the mel is whole; give the mel as one array."
        )


def warn_of_silence(config: ModelConfig) -> None:
    """Log that a model sounds only when all frames have come, if it does."""
    if config.network is not None and config.network.hears_whole:
        _log.warning(
            "The network of this model hears the whole utterance: nothing sounds before the last "
            "of its mel frames has come."
        )


def check_frames(given: arrays.Given, config: ModelConfig) -> Any:
    """Check mel frames, [n_mels] or [n_mels, n]; returns float32 [n_mels, n] in their place.

    Raises
    ------
    InputError
        For a wrong shape or dtype, a NaN or an infinity.
    """
    with given.place.scope():
        array = given.array[:, None] if given.array.ndim == 1 else given.array
        return check_mel(array, config, check_range=False, xp=given.place.xp)


class FrameFeed:
    """Frames on their way into the conditioning of one utterance.

    Conditioning runs where the first frames lie; `restore` makes a wave of their kind.
    """

    def __init__(self, voice: Voice, speaker: Speaker = None) -> None:
        check_arrivals(voice.config)
        self._voice, self._speaker = voice, speaker
        self._pieces = 0  # that came, usable or not
        self._begun = False  # whether a usable one has
        self.place = voice.memory.home
        self.restore: arrays.Restore = arrays.as_it_is
        with self.place.scope():
            self._stream = self._start()

    @property
    def finished(self) -> bool:
        """Whether the end has been announced."""
        return self._stream.finished

    @property
    def ready(self) -> int:
        """Output frames, counted from the start, that can sound."""
        return self._stream.ready

    def push(self, piece: Any) -> None:
        """Check and add frames, [n_mels] or [n_mels, any].

        Raises
        ------
        InputError
            Naming the piece by its number, or after `finish`; nothing has been added then.
        """
        if self._stream.finished:
            raise InputError("Mel frames came after the end of the utterance was announced.")
        number, self._pieces = self._pieces, self._pieces + 1
        try:
            given = arrays.take(piece, "mel frame", self._voice.memory.device)
            if self._begun and given.place is not self.place:
                given = arrays.take(piece, "mel frame")
            frames = check_frames(given, self._voice.config)
        except InputError as error:
            raise InputError(f"Piece {number} of the mel stream: {error}") from error
        if not self._begun:
            self.restore = given.restore
            self.place = self._voice.memory.home if given.place is places.HOST else given.place
        with self.place.scope():
            if not self._begun:
                self._begun, self._stream = True, self._start()
            self._stream.push(frames)

    def add(self, frames: NDArray[np.float32]) -> None:
        """Add frames [n_mels, n] of the host that `check_frames` has seen."""
        with self.place.scope():
            self._stream.push(frames)

    def finish(self) -> None:
        """Announce that no more frames come."""
        self._stream.finish()

    def wait_for(self, n_frames: int) -> int:
        """How many frames can sound; see `subscale_utterance.FrameSource`. Nobody is waited for."""
        return self._stream.ready

    def mel(self, first: int, count: int) -> Any:
        """See `subscale_utterance.FrameSource`."""
        return self._stream.mel(first, count)

    def window(self, first: int, count: int) -> Any:
        """See `subscale_utterance.FrameSource`."""
        return self._stream.window(first, count)

    def ask(self, first_frame: int, n_frames: int) -> None:
        """See `lanes.RowSource`. Rows are made when they are wanted."""

    def rows(self, first_frame: int, n_frames: int) -> Any:
        """See `lanes.RowSource`."""
        with self.place.scope():
            interp, hold = self.window(first_frame, n_frames)
            export = self.place.export
            return None if interp is None else export(interp), None if hold is None else export(
                hold
            )

    def _start(self) -> ConditioningStream:
        conditioner = self._voice.conditioner_in(self.place)
        if self._speaker is not None:
            conditioner = conditioner.of_speaker(self._speaker)
        return conditioner.stream()


class Sound(ABC):
    """What can be drawn of one utterance, and what was."""

    def __init__(self, voice: Voice, seed: int, sampling: Sampling, speaker: Speaker) -> None:
        self.feed = FrameFeed(voice, speaker)
        self.ended = False  # all has been drawn and handed out
        self._voice, self._seed, self._sampling = voice, seed, sampling
        self._decoder = OutputDecoder(voice.config)

    @property
    @abstractmethod
    def drawable(self) -> int:
        """Samples that can be drawn now, 0 where frames are missing."""

    @property
    @abstractmethod
    def drawn_frames(self) -> int:
        """Output frames that no later step reads."""

    @abstractmethod
    def frames_for(self, n_samples: int) -> int:
        """Output frames that must be ready, or the last, before `n_samples` more can be drawn."""

    def decode(self, drawn: lanes.Drawn, last: bool) -> Wave:
        """Waveform of what was drawn, less what is held back; all of it after the last."""
        wave = self._decoder.push(drawn)
        if not last:
            return wave
        self.ended = True
        return np.concatenate([wave, self._decoder.finish()])


class LaneSound(Sound):
    """An utterance that is one stream of the engine."""

    def __init__(self, voice: Voice, seed: int, sampling: Sampling, speaker: Speaker) -> None:
        super().__init__(voice, seed, sampling, speaker)
        self.hop = voice.config.hop_length
        self._drawn: list[lanes.Drawn] = []
        self.lane = lanes.Lane(
            stream=voice.open(seed, sampling),
            source=self.feed,
            position=0,
            remaining=0,
            take=self._drawn.append,
        )

    @property
    def drawable(self) -> int:
        """See `Sound`."""
        return self.feed.ready * self.hop - self.lane.position

    @property
    def drawn_frames(self) -> int:
        """See `Sound`."""
        return self.lane.position // self.hop

    def frames_for(self, n_samples: int) -> int:
        """See `Sound`."""
        return -(-(self.lane.position + n_samples) // self.hop)

    def piece(self, most: int) -> lanes.Piece:
        """What is drawn next, `most` samples or as many as can be."""
        self.lane.remaining = min(most, self.drawable)
        return lanes.Piece(self.lane, self.lane.remaining)

    def save(self) -> _C.Stream:
        """Copy the state of the stream, to go back to where a step fails."""
        return self.lane.stream.copy()

    def restore(self, saved: _C.Stream) -> None:
        """Go back to what `save` copied; since then `draw` has failed."""
        self.lane.stream = saved

    def heard(self) -> Wave:
        """Waveform of what has been drawn since the last call."""
        drawn = self._drawn.pop() if self._drawn else np.zeros(0, dtype=np.int32)
        return self.decode(drawn, self.feed.finished and self.drawable == 0)


class RowSound(Sound):
    """An utterance of a subscale model, whose rows are the streams of a batch."""

    def __init__(self, voice: Voice, seed: int, sampling: Sampling, speaker: Speaker) -> None:
        super().__init__(voice, seed, sampling, speaker)
        self._utterance: subscale_utterance.Utterance | None = None  # until its place is known

    @property
    def utterance(self) -> subscale_utterance.Utterance:
        """The rows, begun when first asked for."""
        if self._utterance is None:
            voice, feed = self._voice, self.feed
            self._utterance = subscale_utterance.Utterance(
                voice.config,
                voice.network_in(feed.place),
                lambda row: voice.open(self._seed, self._sampling, fold=row),
                feed,
                None,
                place=feed.place,
            )
        return self._utterance

    @property
    def drawable(self) -> int:
        """See `Sound`; a slice of all rows, whole or not."""
        feed = self.feed
        if self.ended or not (feed.finished or feed.ready):
            return 0
        if not feed.finished and feed.ready < self.utterance.frames_wanted:
            return 0
        return self.utterance.slice_samples

    @property
    def drawn_frames(self) -> int:
        """See `Sound`."""
        return 0 if self._utterance is None else self._utterance.complete_frames

    def frames_for(self, n_samples: int) -> int:
        """See `Sound`: of a slice, whatever `n_samples`."""
        return self.utterance.frames_wanted if self.feed.ready else 1

    def heard(self, labels: NDArray[np.int32]) -> Wave:
        """Waveform of what a slice completed."""
        return self.decode(labels, self.utterance.finished)


def open_sound(
    voice: Voice, seed: int, sampling: Sampling, speaker: Speaker = None
) -> LaneSound | RowSound:
    """Begin an utterance.

    Raises
    ------
    InputError
        As `check_arrivals`.
    """
    kind = LaneSound if voice.network is None else RowSound
    return kind(voice, seed, sampling, speaker)


def draw(
    engine: _C.Engine,
    sounds: Sequence[LaneSound | RowSound],
    most: int,
    *,
    helpers: Executor | None = None,
    slots: int | None = None,
    interrupt: Callable[[], None] | None = None,
) -> list[Wave]:
    """Take each utterance a step further: the next samples of each, float32 [n], n may be 0.

    Parameters
    ----------
    most : int
        Samples of each at most. Of a subscale model a slice is drawn, and one utterance after the
        other: its rows are a batch by themselves.
    helpers : Executor, optional
        See `subscale_run.helpers`.
    slots : int, optional
        Utterances side by side at most; default: all.
    interrupt : callable, optional
        Called every 10 ms or so by the engine; may raise to stop.

    Raises
    ------
    EngineError
        If a logit became NaN or infinite. The position of no lane has moved then, but its stream
        has: go on with a copy made before.
    """
    waves: list[Wave] = []
    single = [sound for sound in sounds if isinstance(sound, LaneSound)]
    if single:
        pieces = [sound.piece(most) for sound in single]
        if any(piece.n_steps for piece in pieces):
            lanes.advance(engine, pieces, single[0].hop, slots or len(pieces), interrupt)
    for sound in sounds:
        if isinstance(sound, LaneSound):
            waves.append(sound.heard())
        else:
            one = [sound.utterance]
            _, [labels], _ = subscale_run.advance(engine, one, helpers, interrupt=interrupt)
            waves.append(sound.heard(labels))
    return waves
