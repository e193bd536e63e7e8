"""One utterance of a subscale model: from a mel to its rows, and back to a waveform."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .samples import OutputDecoder
from .subscale_run import Run, advance, helpers
from .subscale_utterance import Utterance
from .utterance import Request, Sampling, Voice, in_chunks, sounding_samples

if TYPE_CHECKING:
    from .conditioning import Conditioner


class MelFrames:
    """Frame conditioning of a whole mel; see `subscale_utterance.FrameSource`."""

    finished = True

    def __init__(self, conditioner: Conditioner, mel: Any) -> None:
        self._conditioner, self._mel = conditioner, mel
        self._frames = conditioner.frames(mel)
        self._total = conditioner.config.n_output_frames(mel.shape[1])

    def wait_for(self, n_frames: int) -> int:
        """All frames are known."""
        return self._total

    def mel(self, first: int, count: int) -> Any:
        """Frames [first, first + count) themselves: float64 [count, n_mels]."""
        return self._frames.take(first, count)

    def window(self, first: int, count: int) -> tuple[Any, Any]:
        """Rows of frames [first, first + count)."""
        return self._conditioner.window(self._mel, first, count)


def make_utterance(
    voice: Voice,
    request: Request,
    sampling: Sampling,
    n_samples: int,
    forced: NDArray[np.int32] | None = None,
) -> Utterance:
    """Begin a request, in the place where its mel lies."""
    place, frames = request.place, None
    if request.mel is not None:
        frames = MelFrames(voice.conditioner_in(place), request.mel)
    return Utterance(
        voice.config,
        voice.network_in(place),
        lambda row: voice.open(request.seed, sampling, fold=row),
        frames,
        n_samples,
        place=place,
        forced=forced,
    )


class SubscaleJob:
    """One request of `generate`; the counterpart of `utterance.Job`."""

    n_lanes = 1  # places of a batch that it takes

    def __init__(self, voice: Voice, request: Request, sampling: Sampling) -> None:
        self.request = request
        self._voice, self._sampling = voice, sampling
        self._decoder = OutputDecoder(voice.config, request.n_drawn)
        self._chunks: list[NDArray[np.float32]] = []
        self._taken = 0  # samples

    @property
    def n_samples(self) -> int:
        """Samples to be drawn."""
        return sounding_samples(self._voice, self.request)

    def lanes(self) -> Iterator[Run]:
        """What is to be drawn, made when asked for."""
        one = make_utterance(self._voice, self.request, self._sampling, self.n_samples)
        yield Run(one, self._take)

    def _take(self, labels: NDArray[np.int32]) -> None:
        if len(labels):
            self._chunks.append(self._decoder.push(labels))
            self._taken += len(labels)

    @property
    def complete(self) -> bool:
        """Whether all has been drawn, on whatever thread."""
        return self._taken == self.n_samples

    def result(self) -> NDArray[np.float32]:
        """Waveform, once all has been drawn."""
        return np.concatenate([np.zeros(0, dtype=np.float32), *self._chunks])


def labels_of(
    voice: Voice, request: Request, sampling: Sampling, n_samples: int
) -> Iterator[NDArray[np.int32]]:
    """Samples of a request as classes, slice by slice; the utterance ends after `n_samples`."""
    one = make_utterance(voice, request, sampling, n_samples)
    with helpers(voice.engine) as pool:
        while not one.finished:
            yield advance(voice.engine, [one], pool)[1][0]


def forced_logits(
    voice: Voice, request: Request, targets: NDArray[Any]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Logits under teacher forcing: (numbers of samples [n], logits [n, 512]), row by row."""
    forced = np.ascontiguousarray(targets, dtype=np.int32)
    sampling = Sampling(1.0, False, None)
    one = make_utterance(voice, request, sampling, len(forced), forced)
    with helpers(voice.engine) as pool:
        while not one.finished:
            found, _, _ = advance(voice.engine, [one], pool, return_logits=True)
            for piece, logits in found[0]:
                columns = np.arange(piece.first, piece.first + piece.columns)
                yield columns * one.rows + piece.row, logits


def stream(
    voice: Voice, request: Request, sampling: Sampling, chunk_samples: int
) -> Iterator[NDArray[np.float32]]:
    """Chunks of `chunk_samples` (the last may be shorter) of a request, as rows complete them."""
    decoder = OutputDecoder(voice.config, request.n_drawn)
    drawn = labels_of(voice, request, sampling, sounding_samples(voice, request))
    return in_chunks(map(decoder.push, drawn), chunk_samples)
