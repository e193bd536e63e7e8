"""The worker: takes items, leaves finished files and a journal. The one code path that does.

Reading, the engine and writing overlap, each on threads of its own::

    items -> [read, check] -> mels -> [engine] -> waves -> [encode, rename, journal] -> outcomes

Between them are bounded queues; what an item becomes depends on itself alone, so no order and no
number of threads changes a byte.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..batch import BatchReport
from ..errors import DeviceError, WaveRNNError
from ..features import MelRangeWarning
from .feed import Feed
from .identity import model_hash
from .items import Item
from .journal import Journal
from .reading import ItemReader, ReadAhead, Ready
from .settings import Settings
from .stop import Stop
from .writing import Outcome, WriteBehind, Writing

if TYPE_CHECKING:
    from ..vocoder import Vocoder

__all__ = ["LocalWorker", "Outcome", "Times", "Worker"]

_LEAST_AHEAD = 8  # items read ahead, where few run side by side


class Worker(Protocol):
    """Whatever does items."""

    def run(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """Do the items in any order; each comes out once, but those left after a stop."""
        ...


@dataclass
class Times:
    """Where the time of a worker went; of what overlaps, every part counts in full."""

    wall_seconds: float = 0.0
    engine_seconds: float = 0.0  # inside the engine: the rest of the wall is the overhead
    conditioning_seconds: float = 0.0  # beside it on the same thread: mels to rows, decoding
    waiting_seconds: float = 0.0  # the engine's thread, for mels and for full queues
    read_seconds: float = 0.0  # on their threads
    write_seconds: float = 0.0
    journal_seconds: float = 0.0
    samples: int = 0

    def add(self, other: Mapping[str, Any]) -> None:
        """Count the times of another worker in, by their names; walls add up as well."""
        for name, value in other.items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def overhead(self) -> float:
        """Share of the wall outside the engine, in [0, 1]."""
        return max(0.0, 1.0 - self.engine_seconds / self.wall_seconds) if self.wall_seconds else 0.0


class LocalWorker:
    """Does items in this process with one `Vocoder`.

    Parameters
    ----------
    settings : Settings
    root : path
        The output root, which exists; folders below it are made.
    worker_name : str
        Names the journal and the parts; unique among the workers on this root.
    vocoder : Vocoder, optional
        Made of `settings` before; by default it is loaded when the first item comes.
    stop : Stop, optional
        Asked before every item.
    """

    def __init__(
        self,
        settings: Settings,
        root: str | Path,
        worker_name: str = "0of1",
        *,
        vocoder: Vocoder | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.settings, self.root, self.worker_name = settings, Path(root), worker_name
        self.stop = stop or Stop()
        self.times = Times()  # of the last run
        self.batches: list[BatchReport] = []  # of the last run
        self.on_samples: Callable[[int], None] | None = None  # told of samples as they are drawn
        self._vocoder = vocoder

    @property
    def vocoder(self) -> Vocoder:
        """The model, loaded when it is first needed."""
        if self._vocoder is None:
            self._vocoder = self.settings.load()
        return self._vocoder

    def run(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """Do the items; ends early after `Stop.request` and when nothing more can be written.

        What has come out of the engine is always written, whatever ends the run.

        Raises
        ------
        WaveRNNError
            If the model cannot be loaded, or its device is lost.
        OSError
            If the journal cannot be opened.
        """
        voc, total = self.vocoder, len(items) if isinstance(items, Sized) else None
        model = model_hash(self.settings.model)
        journal = Journal(self.root, self.worker_name)
        run = _Run(self, voc, model, journal)
        try:
            journal.write("begin", **_facts(voc, model, self.settings, total))
            with warnings.catch_warnings():
                # Said of a file when it is read; the engine's own check would say it again.
                warnings.simplefilter("ignore", MelRangeWarning)
                for outcome in run.outcomes(items):
                    run.count(outcome)
                    yield outcome
        finally:
            run.end(total)


class _Run:
    """One run of a `LocalWorker`."""

    def __init__(self, owner: LocalWorker, voc: Vocoder, model: str, journal: Journal) -> None:
        self._settings, self._voc, self._journal = owner.settings, voc, journal
        self._stop, self._begun = owner.stop, time.perf_counter()
        self._on_samples = owner.on_samples
        self._times, self._batches = Times(), list[BatchReport]()
        owner.times, owner.batches = self._times, self._batches
        self._reader = ItemReader(owner.settings, voc.config)
        self._write = WriteBehind(
            journal,
            Writing(
                owner.worker_name,
                model,
                voc.sample_rate,
                owner.settings.subtype,
                self._reader.describe,
            ),
        )
        self._counts = {"done": 0, "failed": 0, "left": 0}

    def outcomes(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """Whatever becomes of the items."""
        each = self._settings.streams
        side_by_side = each * len(self._voc.devices) if each else self._voc.streams
        ahead = ReadAhead(self._reader, items, max(_LEAST_AHEAD, side_by_side))
        feed = Feed(ahead, self._stop, self._write.failure, self._voc.config.hop_length)
        try:
            while not self._stop.requested and not feed.ended:
                for ready, wave in self._waves(feed):
                    self._times.samples += len(wave)
                    self._write.wave(ready, wave)
                    yield from self._told()
                    if self._stop.requested:
                        break
                yield from self._told()
            yield from self._write.drain()
        finally:
            ahead.close()
            self._write.close()
            self._times.read_seconds = ahead.seconds
            self._times.waiting_seconds = ahead.waited + self._write.waited

    def _told(self) -> Iterator[Outcome]:
        """What has become of items by now; one that says that nothing can be written stops."""
        for outcome in self._write.outcomes():
            if outcome.stops:
                self._stop.request(outcome.fields["error"])
            yield outcome

    def count(self, outcome: Outcome) -> None:
        """Add to what the last line of the journal says."""
        self._counts[outcome.state] += 1

    def end(self, total: int | None) -> None:
        """Write the last line of the journal, where that is still possible."""
        times = self._times
        times.wall_seconds = time.perf_counter() - self._begun
        times.write_seconds, times.journal_seconds = self._write.seconds, self._journal.seconds
        times.engine_seconds = sum(one.engine_seconds for one in self._batches)
        inside = sum(one.seconds for one in self._batches) - times.engine_seconds
        times.conditioning_seconds = max(0.0, inside - times.waiting_seconds)
        done, failed = self._counts["done"], self._counts["failed"]
        left = self._counts["left"] if total is None else total - done - failed
        fields = {name: round(value, 6) for name, value in vars(times).items()}
        with contextlib.suppress(OSError):  # a disk that is full
            self._journal.write("end", done=done, failed=failed, left=left, **fields)
        with contextlib.suppress(OSError):
            self._journal.close()

    def _waves(self, feed: Feed) -> Iterator[tuple[Ready, NDArray[np.float32]]]:
        """Waves of as many items as may be in memory; where the engine stops, one by one."""
        feed.begin()
        waves = self._generate(feed)
        try:
            yield from waves
            return
        except KeyboardInterrupt:  # `Stop` has noted it
            return
        except DeviceError:
            raise
        except (WaveRNNError, MemoryError) as error:
            fault = error
        rest = feed.taken()
        if not rest:  # no item is at fault
            raise fault
        if len(rest) == 1:
            self._write.failure(rest[0].item, fault)
            return
        for ready in rest:  # to find the one at fault
            alone = Feed(iter([ready]), self._stop, self._write.failure, feed.hop_length)
            yield from self._waves(alone)

    def _counter(self) -> Callable[[int], None] | None:
        """What a run of the engine, which counts from 0, tells of its progress."""
        tell, before = self._on_samples, 0

        def count(samples: int) -> None:
            nonlocal before
            if tell is not None:
                tell(samples - before)
            before = samples

        return None if tell is None else count

    def _generate(self, feed: Feed) -> Iterator[tuple[Ready, NDArray[np.float32]]]:
        how = self._settings
        waves = self._voc.generate_each(
            feed.mels(),
            feed.seeds(),
            speakers=feed.speakers(),
            streams=how.streams,
            temperature=how.temperature,
            greedy=how.greedy,
            fold=how.folding(),
            progress=self._counter(),
            report=self._batches.append,
        )
        with contextlib.closing(cast("Generator[tuple[int, Any]]", waves)):
            while True:
                with self._stop.raising():
                    found = next(waves, None)
                if found is None:
                    return
                number, wave = found
                yield feed.done(number), wave


def _facts(voc: Vocoder, model: str, settings: Settings, items: int | None) -> dict[str, Any]:
    return {
        "version": __version__,
        "device": voc.device,
        "isa": voc.isa,
        "dtype": voc.dtype,
        "streams": settings.streams or voc.streams,
        "items": items,
        "model": model,
        "settings": settings.digest(),
        "model_path": settings.model,
    }
