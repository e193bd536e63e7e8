"""Many utterances at once: their lanes through the engine, their waveforms back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .lanes import Lane, run_lanes
from .utterance import Job, Request, Sampling, Voice


def run_batch(
    voice: Voice,
    requests: Sequence[Request],
    sampling: Sampling,
    slots: int,
    progress: Callable[[int], None] | None = None,
) -> list[Any]:
    """Turn requests into waveforms, at most `slots` utterances (or folds) side by side.

    Parameters
    ----------
    voice : Voice
    requests : sequence of Request
    sampling : Sampling
    slots : int
        1 or more; changes the speed, never the samples.
    progress : callable, optional
        Called with the number of samples drawn so far, all requests together.

    Returns
    -------
    list of float32 arrays
        In the order of the requests, each of the kind that its request says.
    """
    jobs = [Job(voice, request, sampling) for request in requests]
    drawn = 0

    def count(samples: int) -> None:
        nonlocal drawn
        drawn += samples
        if progress is not None:
            progress(drawn)

    run_lanes(
        voice.engine,
        _longest_first(jobs),
        hop_length=voice.config.hop_length,
        slots=slots,
        on_samples=count,
    )
    return [job.request.restore(job.result()) for job in jobs]


def _longest_first(jobs: Sequence[Job]) -> Iterator[Lane]:
    for job in sorted(jobs, key=lambda job: -job.request.n_drawn):
        yield from job.lanes()
