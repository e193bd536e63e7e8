"""What a voice thinks of samples that are known, and what it draws as classes.

For `Vocoder.score`, `eval` and `verify`: nothing here becomes a waveform.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import subscale_job
from .errors import InputError
from .lanes import Drawn, Lane, draw_lanes, forced_logits
from .samples import encode_targets
from .scoring import negative_log_likelihood
from .utterance import Request, Sampling, Voice

if TYPE_CHECKING:
    from .config import ModelConfig

_SCORE_SLACK_FRAMES = 4  # framing conventions differ by so many frames in length


def draw(voice: Voice, request: Request, sampling: Sampling, n_samples: int) -> NDArray[Any]:
    """Draw the first `n_samples` of a request as classes, or values x, [n_samples].

    A subscale model draws them as if the utterance ended there.
    """
    parts: list[NDArray[Any]] = []
    if voice.network is not None:
        parts.extend(subscale_job.labels_of(voice, request, sampling, n_samples))
    else:
        lane = Lane(
            stream=voice.open(request.seed, sampling),
            source=voice.source(request),
            position=0,
            remaining=n_samples,
            take=parts.append,
        )
        for _ in draw_lanes(
            voice.engine,
            iter([lane]),
            hop_length=voice.hop_length,
            slots=1,
            most_steps=voice.slice_steps,
        ):
            pass
    return np.concatenate(parts)


def score(voice: Voice, request: Request, wave: NDArray[Any]) -> float:
    """Nats per sample of `wave` [n_samples] under teacher forcing; see `Vocoder.score`."""
    targets = forced_targets(voice.config, request, wave)
    parts = (nll for _, nll in forced_nll(voice, request, targets))
    return sum(float(part.sum()) for part in parts) / len(targets)


def forced_targets(config: ModelConfig, request: Request, wave: NDArray[Any]) -> NDArray[Any]:
    """What the engine is to follow so that it says `wave` [n_samples]: one target a sample.

    The first belongs to the first sample that the model makes of the request's mel.

    Raises
    ------
    InputError
        If the lengths of mel and waveform do not belong together, or nothing is left.
    """
    targets = encode_targets(wave, config)
    if request.mel is not None:
        offset = config.lookback_frames if config.pad == "none" else 0
        _check_lengths(len(targets), request.mel.shape[1] * config.hop_length, config)
        targets = targets[offset * config.hop_length :][: request.n_drawn]
    if len(targets) == 0:
        raise InputError("There is nothing to score: the waveform or the mel is empty.")
    return targets


def forced_nll(
    voice: Voice, request: Request, targets: NDArray[Any]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Nats of every sample of `forced_targets` under the engine, slice by slice.

    Yields
    ------
    numbers : int64 [n]
        Of the samples, rising; those of a subscale model come row by row.
    nats : float64 [n]
    """
    for numbers, logits in teacher_forced_logits(voice, request, targets):
        yield numbers, negative_log_likelihood(voice.config, logits, targets[numbers])


def teacher_forced_logits(
    voice: Voice, request: Request, targets: NDArray[Any]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Logits of every sample under teacher forcing, slice by slice.

    Yields
    ------
    numbers : int64 [n]
        Of the samples, as in `forced_nll`.
    logits : float32 [n, logits_size]
    """
    if voice.network is not None:
        yield from subscale_job.forced_logits(voice, request, targets)
        return
    lane = Lane(
        stream=voice.open(0, Sampling(1.0, False, None)),
        source=voice.source(request),
        position=0,
        remaining=len(targets),
        take=_nothing,
    )
    done = 0
    for logits, part in forced_logits(voice.engine, lane, targets, voice.hop_length):
        yield np.arange(done, done + len(part)), logits
        done += len(part)


def _nothing(drawn: Drawn) -> None:
    """Forced outcomes are known already."""


def _check_lengths(n_samples: int, covered: int, config: ModelConfig) -> None:
    slack = _SCORE_SLACK_FRAMES * config.hop_length
    if config.mel is not None:
        slack = max(slack, config.mel.n_fft)
    if abs(n_samples - covered) > slack:
        raise InputError(
            f"The waveform has {n_samples} samples but the mel covers {covered}; they must be of "
            f"the same recording at {config.sample_rate} Hz (up to {slack} samples may differ)."
        )
