"""Many utterances at once: their lanes through the engine, their waveforms back."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import heapq
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import arrays
from .config import ModelConfig
from .devices import Device
from .errors import EngineError, InputError
from .lanes import Tally, draw_lanes
from .subscale_job import SubscaleJob
from .subscale_run import draw_utterances
from .utterance import Drawing, DrawnJob, Job, Request, Sampling, Voice, make_request, owned
from .workers import Draw, draw_on_devices

if TYPE_CHECKING:
    from . import _C

LEAST_STREAMS = 16  # side by side by default, where an engine asks for fewer
AHEAD = 4  # requests looked ahead at by default, in units of the places


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
    memory: arrays.Memory,
    speakers: Sequence[Any] | None = None,
) -> list[Request]:
    """Check what a batch is asked for with; see `Vocoder.generate_batch` and `make_request`.

    Raises
    ------
    InputError
        If there are not as many seeds or speakers as mels, or an item is unusable, naming it.
    """
    for given, name in ((seeds, "seeds"), (speakers, "speakers")):
        if given is not None and not hasattr(given, "__len__"):
            raise InputError(f"{name} is {given!r}, expected a sequence with one for each mel.")
    if isinstance(mels, Iterator):  # which may use one array again and again
        requests = [owned(one) for one in each_request(config, mels, seeds, memory, speakers)]
        _check_counts(len(requests), seeds, speakers)
        return requests
    items = list(_several(mels, "mels"))
    _check_counts(len(items), seeds, speakers)
    return list(each_request(config, items, seeds, memory, speakers))


def _check_counts(n_mels: int, seeds: Sequence[int] | None, speakers: Sequence[Any] | None) -> None:
    for given, name in ((seeds, "seeds"), (speakers, "speakers")):
        if given is not None and len(given) != n_mels:
            raise InputError(f"There are {len(given)} {name} for {n_mels} mels; give one each.")


def _several(values: Any, name: str) -> Iterator[Any]:
    """What an argument of a batch holds, one for each utterance."""
    try:
        return iter(values)
    except TypeError:
        raise InputError(f"{name} is {values!r}, expected one for each utterance.") from None


def each_request(
    config: ModelConfig,
    mels: Iterable[Any],
    seeds: Iterable[int] | None,
    memory: arrays.Memory,
    speakers: Iterable[Any] | None = None,
) -> Iterator[Request]:
    """Check items one by one, as they are asked for; see `Vocoder.generate_each`.

    Raises
    ------
    InputError
        If an item is unusable, naming it, or seeds or speakers end before the mels.
    """
    numbers: Iterator[Any] = itertools.count() if seeds is None else _several(seeds, "seeds")
    voices: Iterator[Any] = itertools.repeat(None)
    if speakers is not None:
        voices = _several(speakers, "speakers")
    for i, mel in enumerate(_several(mels, "mels")):
        try:
            seed, speaker = next(numbers), next(voices)
        except StopIteration:
            raise InputError(f"There is no seed or no speaker for item {i} of the batch.") from None
        try:
            request = make_request(config, mel, None, seed, memory, speaker)
        except InputError as error:
            raise InputError(f"Item {i} of the batch: {error}") from error
        yield request


def run_batch(
    batch: Batch,
    requests: Sequence[Request],
    *,
    progress: Callable[[int], None] | None = None,
    report: Callable[[BatchReport], None] | None = None,
) -> list[Any]:
    """Turn requests into waveforms in their order, the longest begun first; see `run_each`."""
    waves: list[Any] = [None] * len(requests)
    for i, wave in run_each(
        batch, iter(requests), len(waves) + 1, progress=progress, report=report
    ):
        waves[i] = wave
    return waves


class Batch:
    """How requests are to be run, whichever they are.

    Parameters
    ----------
    voice : Voice
    sampling : Sampling
    streams : int, optional
        How many run side by side at most on a device, 1 or more; changes the speed, never the
        samples. Default: `default_streams`.
    devices : sequence of Device, optional
        Engines that share the work; by default the voice's alone works.
    turns : int, optional
        Groups of streams that take turns on a device: while one draws, the host makes rows for the
        other and takes what it drew. Changes the speed, never the samples. Default: 2 on a GPU,
        where there are enough streams that each group fills it.
    job : type
        What becomes of a request (of a subscale model: always a `SubscaleJob`).
    """

    def __init__(
        self,
        voice: Voice,
        sampling: Sampling,
        streams: int | None = None,
        *,
        devices: Sequence[Device] = (),
        turns: int | None = None,
        job: type[Job] = Job,
    ) -> None:
        self.voice, self.sampling, self.devices = voice, sampling, devices
        self._job = job if voice.network is None else SubscaleJob
        rows = voice.config.subscale_factor
        engines = [device.engine for device in devices] or [voice.engine]
        self.places = [max(1, streams or default_streams(engine) // rows) for engine in engines]
        self._filled = sum(
            max(1, min(engine.lanes // rows, n))
            for engine, n in zip(engines, self.places, strict=True)
        )
        self._turns = turns or (2 if engines[0].device == "cuda" else 1)

    def job(self, request: Request) -> Job | SubscaleJob:
        """Begin a request."""
        return self._job(self.voice, request, self.sampling)

    def slots(self, lanes: int | None) -> list[int]:
        """Places of each device, and again of each for its second group if there is one.

        Parameters
        ----------
        lanes : int, optional
            That there are in all, where that is known: no group has more places.
        """
        if lanes is None:
            return self.places * self._turns
        turns = self._turns if lanes >= self._turns * self._filled else 1
        share = -(-lanes // (turns * len(self.places)))
        return [max(1, min(share, each)) for each in self.places] * turns

    def draw(self, work: Iterator[Any], slots: Sequence[int]) -> Iterator[Tally]:
        """Draw all work, slice by slice; places of each group in `slots`."""
        draw = _draw_of(self.voice)
        devices = list(self.devices) or [Device(self.voice.memory.device, self.voice.engine)]
        if len(slots) == 1:
            return draw(devices[0].engine, work, slots=slots[0])
        return draw_on_devices(devices * (len(slots) // len(devices)), work, draw, slots=slots)


class _Queue:
    """Jobs of an iterator of requests: those that wait, the longest first, and those begun.

    `window` jobs are looked ahead at: they are what is in memory beside those that are run.
    """

    def __init__(self, batch: Batch, requests: Iterator[Request], window: int) -> None:
        self._batch, self._window = batch, window
        self._requests = enumerate(requests)
        self._waiting: list[tuple[int, int, Job | SubscaleJob]] = []  # a heap
        self._begun: dict[int, Job | SubscaleJob] = {}  # by number; devices' threads add to it
        self._ended = False

    def slots(self) -> list[int]:
        """Places of each group: no more than there are lanes, where all are known."""
        self._look_ahead()
        lanes = sum(job.n_lanes for _, _, job in self._waiting)
        return self._batch.slots(lanes if self._ended else None)

    def lanes(self) -> Iterator[Any]:
        """What is to be drawn, made when there is a place for it."""
        while self._waiting:
            _, number, job = heapq.heappop(self._waiting)
            self._begun[number] = job
            yield from job.lanes()
            self._look_ahead()

    def completed(self) -> Iterator[tuple[int, Job | SubscaleJob]]:
        """Jobs that have ended since the last call, with their numbers."""
        for number, job in list(self._begun.items()):
            if job.complete:
                yield number, self._begun.pop(number)

    def close(self) -> None:
        """Ask for no more requests, though a thread may be waiting for the next one still."""
        self._ended = True

    def lost(self) -> int:
        """Samples of jobs that were begun and have not ended."""
        return sum(job.n_samples for job in self._begun.values())

    def _look_ahead(self) -> None:
        while not self._ended and len(self._waiting) < self._window:
            number, request = next(self._requests, (0, None))
            if request is None:
                self._ended = True
                return
            entry = (-request.n_drawn, number, self._batch.job(request))
            heapq.heappush(self._waiting, entry)


def run_each(
    batch: Batch,
    requests: Iterator[Request],
    window: int | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    report: Callable[[BatchReport], None] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Turn requests into waveforms, each handed out when it ends.

    Parameters
    ----------
    batch : Batch
    requests : iterator of Request
        Asked for as places become free; with several devices on their threads, one at a time.
    window : int, optional
        Requests that are looked ahead at, the longest of which is begun first. Default: `AHEAD`
        times the places.
    progress : callable, optional
        Called with the number of samples drawn so far, all requests together.
    report : callable, optional
        Called once, at the end; the time in which the caller has the iterator wait is left out.

    Yields
    ------
    int, float32 array
        Number of the request, counted from 0, and its waveform of the kind that it says.
    """
    begun, paused, total = time.perf_counter(), 0.0, Tally()
    queue = _Queue(batch, requests, AHEAD * sum(batch.places) if window is None else window)
    slots = queue.slots()
    with contextlib.closing(_and_an_empty_slice(batch.draw(queue.lanes(), slots))) as parts:
        try:
            for part in parts:
                total.add(part)
                if progress is not None and part.samples:
                    progress(total.samples)
                for number, job in queue.completed():
                    wave = job.request.restore(job.result())
                    left = time.perf_counter()
                    yield number, wave
                    paused += time.perf_counter() - left
        finally:
            queue.close()
    if queue.lost():
        raise EngineError(f"{queue.lost()} samples of the batch were never drawn; please report.")
    if report is not None:
        seconds = time.perf_counter() - begun - paused
        rows = batch.voice.config.subscale_factor
        places = rows * sum(slots[: len(batch.places)])  # both groups have the same
        report(_report(total, places, seconds, batch.voice.config.sample_rate))


def _and_an_empty_slice(parts: Iterator[Tally]) -> Generator[Tally, None, None]:
    """After the last slice, one in which what was empty from the start has ended."""
    yield from parts
    yield Tally()


def draw_batch(
    voice: Voice,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    devices: Sequence[Device] = (),
    progress: Callable[[int], None] | None = None,
) -> list[Drawing]:
    """What the engine draws for requests, not decoded; arguments as in `Batch` and `run_each`.

    Raises
    ------
    InputError
        If the model is a subscale one, whose rows are no streams by themselves.
    """
    if voice.network is not None:
        raise InputError("The draws of a subscale model are not handed out before decoding.")
    bare = [dataclasses.replace(request, restore=arrays.as_it_is) for request in requests]
    return run_batch(Batch(voice, sampling, devices=devices, job=DrawnJob), bare, progress=progress)


def default_streams(engine: _C.Engine) -> int:
    """How many run side by side where nobody says: as many as are best, some at least."""
    return max(LEAST_STREAMS, engine.lanes)


def _draw_of(voice: Voice) -> Draw[Any]:
    """What draws the lanes of a job of this voice."""
    if voice.network is not None:
        return draw_utterances
    return functools.partial(draw_lanes, hop_length=voice.hop_length, most_steps=voice.slice_steps)


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
