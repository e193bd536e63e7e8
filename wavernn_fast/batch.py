"""Many utterances at once: their lanes through the engine, their waveforms back."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import arrays
from .config import ModelConfig
from .devices import Device
from .errors import EngineError, InputError
from .lanes import Tally, run_lanes
from .subscale_job import SubscaleJob
from .subscale_run import run_utterances
from .utterance import Drawing, DrawnJob, Job, Request, Sampling, Voice, make_request
from .workers import Draw, run_on_devices

if TYPE_CHECKING:
    from . import _C

LEAST_STREAMS = 16  # side by side by default, where an engine asks for fewer


@dataclass(frozen=True)
class BatchReport:
    """How a batch went; `Vocoder.generate_batch` hands one to `report`."""

    samples: int  # drawn, all utterances together
    seconds: float  # from the first mel to the last waveform
    engine_seconds: float  # of these inside an engine; the rest is conditioning and decoding
    slots: int  # utterances, folds or rows with a place at the same time, on all devices together
    occupancy: float  # samples / (slots * steps run), in [0, 1]; 0 for an empty batch
    rtf: float  # real-time factor: seconds / seconds of audio; 0 for an empty batch

    @property
    def samples_per_s(self) -> float:
        """Samples a second, all utterances together."""
        return self.samples / self.seconds if self.seconds > 0 else 0.0


def total(reports: Sequence[BatchReport]) -> BatchReport:
    """Sum up the reports of batches that one vocoder ran one after the other; one or more."""
    samples = sum(one.samples for one in reports)
    place_steps = sum(one.samples / one.occupancy for one in reports if one.samples)
    return BatchReport(
        samples=samples,
        seconds=sum(one.seconds for one in reports),
        engine_seconds=sum(one.engine_seconds for one in reports),
        slots=max(one.slots for one in reports),
        occupancy=samples / place_steps if samples else 0.0,
        rtf=sum(one.rtf * one.samples for one in reports) / samples if samples else 0.0,
    )


def make_requests(
    config: ModelConfig,
    mels: Iterable[Any],
    seeds: Sequence[int] | None,
    memory: str,
    speakers: Sequence[Any] | None = None,
) -> list[Request]:
    """Check what a batch is asked for with; see `Vocoder.generate_batch` and `make_request`.

    Raises
    ------
    InputError
        If there are not as many seeds or speakers as mels, or an item is unusable, naming it.
    """
    items = list(mels)
    given = list(range(len(items))) if seeds is None else list(seeds)
    if len(given) != len(items):
        raise InputError(f"There are {len(given)} seeds for {len(items)} mels; give one each.")
    voices = [None] * len(items) if speakers is None else list(speakers)
    if len(voices) != len(items):
        raise InputError(f"There are {len(voices)} speakers for {len(items)} mels; give one each.")
    requests = []
    for i, (mel, seed, speaker) in enumerate(zip(items, given, voices, strict=True)):
        try:
            requests.append(make_request(config, mel, None, seed, memory, speaker))
        except InputError as error:
            raise InputError(f"Item {i} of the batch: {error}") from error
    return requests


def run_batch(
    voice: Voice,
    requests: Sequence[Request],
    sampling: Sampling,
    streams: int | None = None,
    *,
    devices: Sequence[Device] = (),
    progress: Callable[[int], None] | None = None,
    report: Callable[[BatchReport], None] | None = None,
    job: type[Job] = Job,
) -> list[Any]:
    """Turn requests into waveforms, several utterances (or folds) side by side.

    Parameters
    ----------
    voice : Voice
    requests : sequence of Request
    sampling : Sampling
    streams : int, optional
        How many at most on a device, 1 or more; changes the speed, never the samples. Default:
        `default_streams`.
    devices : sequence of Device, optional
        Engines that share the work; by default the voice's alone works.
    progress : callable, optional
        Called with the number of samples drawn so far, all requests together.
    report : callable, optional
        Called once, at the end.
    job : type
        What becomes of a request (of a subscale model: always a `SubscaleJob`).

    Returns
    -------
    list of float32 arrays
        In the order of the requests, each of the kind that its request says.
    """
    begun = time.perf_counter()
    rows, draw = voice.config.subscale_factor, _draw_of(voice)
    make = job if voice.network is None else SubscaleJob
    jobs = [make(voice, request, sampling) for request in requests]
    engines = [device.engine for device in devices] or [voice.engine]
    share = -(-sum(job.n_lanes for job in jobs) // len(engines))  # of the lanes, for each
    slots = [max(1, min(share, streams or default_streams(engine) // rows)) for engine in engines]
    drawn = 0

    def count(samples: int) -> None:
        nonlocal drawn
        drawn += samples
        if progress is not None:
            progress(drawn)

    work = _longest_first(jobs)
    if len(engines) == 1:
        tally = draw(engines[0], work, slots=slots[0], on_samples=count)
    else:
        tally = run_on_devices(devices, work, draw, slots=slots, on_samples=count)
    lost = sum(job.n_samples for job in jobs) - tally.samples
    if lost:
        raise EngineError(f"{lost} samples of the batch were never drawn; please report this.")
    waves = [job.request.restore(job.result()) for job in jobs]
    if report is not None:
        seconds = time.perf_counter() - begun
        report(_report(tally, rows * sum(slots), seconds, voice.config.sample_rate))
    return waves


def draw_batch(
    voice: Voice,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    devices: Sequence[Device] = (),
    progress: Callable[[int], None] | None = None,
) -> list[Drawing]:
    """What the engine draws for requests, not decoded; arguments as in `run_batch`.

    Raises
    ------
    InputError
        If the model is a subscale one, whose rows are no streams by themselves.
    """
    if voice.network is not None:
        raise InputError("The draws of a subscale model are not handed out before decoding.")
    bare = [dataclasses.replace(request, restore=arrays.as_it_is) for request in requests]
    return run_batch(voice, bare, sampling, devices=devices, progress=progress, job=DrawnJob)


def default_streams(engine: _C.Engine) -> int:
    """How many run side by side where nobody says: as many as are best, some at least."""
    return max(LEAST_STREAMS, engine.lanes)


def _draw_of(voice: Voice) -> Draw[Any]:
    """What draws the lanes of a job of this voice."""
    if voice.network is not None:
        return run_utterances
    return functools.partial(run_lanes, hop_length=voice.hop_length, most_steps=voice.slice_steps)


def _longest_first(jobs: Sequence[Job | SubscaleJob]) -> Iterator[Any]:
    for job in sorted(jobs, key=lambda job: -job.request.n_drawn):
        yield from job.lanes()


def _report(tally: Tally, slots: int, seconds: float, sample_rate: int) -> BatchReport:
    empty = tally.samples == 0
    return BatchReport(
        samples=tally.samples,
        seconds=seconds,
        engine_seconds=tally.engine_seconds,
        slots=slots,
        occupancy=0.0 if empty else tally.samples / tally.place_steps,
        rtf=0.0 if empty else seconds * sample_rate / tally.samples,
    )
