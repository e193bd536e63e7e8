"""How long a stream waits: the lookahead of a model, in frames and in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .samples import held_back_samples
from .utterance import Voice


@dataclass(frozen=True)
class StreamFacts:
    """What a model asks of those who stream; made by `Vocoder.stream_facts`.

    Times in milliseconds are those of the audio: how far the sound lags behind frames that come
    one by one in real time. The time to compute comes on top.

    Attributes
    ----------
    streams_frames : bool
        Whether frames may come piece by piece at all (`Vocoder.stream` of an iterator, of
        `open_stream` and `live.LivePool`); if not, the mel is given as one array.
    hears_whole : bool
        Whether nothing sounds before the last frame has come.
    frame_ms : float
        Sound of one frame.
    lookahead_frames, lookahead_ms : int, float
        Frames after a frame that must have come before it can sound. Where `hears_whole`, all.
    held_back_samples, held_back_ms : int, float
        Drawn samples that are kept until more have come, as they would be cut or faded were the end
        now, or as the synthesis of sub-bands needs those after them.
    first_frames, first_ms : int, float
        Frames that must have come before the first sample can be had: the frame itself and all of
        the above, context before the first frame, and for a subscale model the lag of its rows.
    chunk_frames, chunk_ms : int, float
        Of a chunk.
    """

    streams_frames: bool
    hears_whole: bool
    frame_ms: float
    lookahead_frames: int
    held_back_samples: int
    first_frames: int
    chunk_frames: int
    sample_ms: float

    @property
    def lookahead_ms(self) -> float:
        """See the class."""
        return self.lookahead_frames * self.frame_ms

    @property
    def held_back_ms(self) -> float:
        """See the class."""
        return self.held_back_samples * self.sample_ms

    @property
    def first_ms(self) -> float:
        """See the class."""
        return self.first_frames * self.frame_ms

    @property
    def chunk_ms(self) -> float:
        """See the class."""
        return self.chunk_frames * self.frame_ms

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {name: getattr(self, name) for name in _TOLD}


def stream_facts(voice: Voice, chunk_frames: int) -> StreamFacts:
    """Work out the facts of a voice, with or without its fade-out."""
    config = voice.config
    held = held_back_samples(config)
    before = config.lookback_frames if config.pad == "none" else 0
    return StreamFacts(
        streams_frames=config.n_mels > 0 and config.upsample == "kernel",
        hears_whole=config.network is not None and config.network.hears_whole,
        frame_ms=1000.0 * config.hop_length / config.sample_rate,
        lookahead_frames=config.lookahead_frames,
        held_back_samples=held,
        first_frames=before + _frames_for(voice, held) + config.lookahead_frames,
        chunk_frames=chunk_frames,
        sample_ms=1000.0 / config.sample_rate,
    )


def _frames_for(voice: Voice, held: int) -> int:
    """Frames whose samples are drawn when one more than `held` are complete."""
    hop = voice.config.hop_length
    if voice.network is None:
        return held // hop + 1
    rows, count = voice.config.subscale_factor, voice.network.slice_columns
    behind = (rows - 1) * voice.network.lag
    slices = (behind + held // rows) // count + 1
    return (slices * count - 1) * rows // hop + 1


_TOLD = (
    "streams_frames",
    "hears_whole",
    "frame_ms",
    "lookahead_frames",
    "lookahead_ms",
    "held_back_samples",
    "held_back_ms",
    "first_frames",
    "first_ms",
    "chunk_frames",
    "chunk_ms",
)
