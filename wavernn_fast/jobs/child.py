"""Items done by engines in processes of their own, which may die without the job.

After certain faults a GPU answers nothing more in a process, however long that lives; and a driver
that crashes takes its process along. So a GPU is driven by a child process, one for each GPU, and
this process only deals out items and listens. A child that dies is replaced. What it had in hand
comes again, each item alone, so that one that kills its process is found: at its second death it is
set aside as failed, and the job goes on.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeviceError, EngineError, WaveRNNError
from . import messages
from .child_main import local_worker
from .journal import Journal
from .places import Care, Place, State, Work
from .process import Process
from .stop import Stop
from .work import Outcome, Times, Worker

if TYPE_CHECKING:
    from ..batch import BatchReport
    from .items import Item
    from .settings import Settings

logger = logging.getLogger("wavernn_fast")

_TICK = 0.5  # seconds at most between two looks at the children
_ORDERLY_SECONDS = 10.0  # that children have to finish files when the job is ended


class ChildWorker:
    """A `Worker` whose work is done by child processes, one for each device.

    Parameters
    ----------
    settings : Settings
    root : str
        The output root.
    worker_name : str
        Of the journals: with several devices, a number is added for each.
    devices : sequence of str, optional
        Such as ("cuda:0", "cuda:1"); by default `settings.device` alone.
    stop : Stop, optional
        Asked at least twice a second.
    care : Care
    make : callable
        Makes the worker inside a child, as `child_main.local_worker` does; picklable by reference.
    on_samples : callable, optional
        Called with the number of samples drawn since the last call.
    keep : bool
        Leave children that have ended a run in order for the next one; then `close` ends them.
    """

    def __init__(
        self,
        settings: Settings,
        root: str,
        worker_name: str,
        *,
        devices: Sequence[str] = (),
        stop: Stop | None = None,
        care: Care | None = None,
        make: Callable[..., Worker] = local_worker,
        on_samples: Callable[[int], None] | None = None,
        keep: bool = False,
    ) -> None:
        self.times = Times()  # of all children together, in the last run
        self.batches: list[BatchReport] = []  # of the last run
        self._keep = keep
        self._root, self._name, self._make = root, worker_name, make
        self._stop, self._care = stop or Stop(), care or Care()
        self._on_samples = on_samples
        named = list(devices) or [settings.device]
        suffixes = [f"-{i}" for i in range(len(named))] if len(named) > 1 else [""]
        self._places = [
            Place(replace(settings, device=device), root, worker_name + suffix)
            for device, suffix in zip(named, suffixes, strict=True)
        ]

    def run(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """Do all items; outcomes come as they end.

        Ends early after `Stop.request`, which a full disk makes too, with what the children have
        finished by then.

        Raises
        ------
        DeviceError
            If every device has been given up; what is finished is kept.
        WaveRNNError
            That ended a child and would end every other: an unusable model, a full disk.
        """
        work = Work(items)
        self.times, self.batches = Times(), []
        kept = False
        try:
            while not self._stop.requested and (work.left() or self._any_busy()):
                self._deal(work)
                self._refuse_if_all_are_lost()
                for place in self._listen():
                    for outcome in self._hear(place, work):
                        if outcome.stops:
                            self._stop.request(str(outcome.fields.get("error")))
                        yield outcome
                self._accuse()
            kept = self._keep and not self._stop.requested
            if not kept:
                yield from self._finish()
        finally:
            if not kept:
                self.close()

    def _any_busy(self) -> bool:
        return any(place.state is State.BUSY for place in self._places)

    # --- what to do next ---

    def _deal(self, work: Work) -> None:
        """Start what is down, and give rounds to what is idle."""
        for place in self._places:
            if place.state is State.DOWN and time.monotonic() >= place.start_at and work.left():
                self._start(place)
            elif place.state is State.IDLE and work.left():
                place.alone = bool(work.suspects)
                place.state, place.quiet = State.BUSY, 0.0
                place.send(messages.Run())

    def _start(self, place: Place) -> None:
        hello = messages.Hello(
            self._make, place.settings, self._root, place.worker, logger.getEffectiveLevel()
        )
        try:
            place.begin(Process(hello))
        except OSError as error:  # no memory, too many processes
            place.rest(self._care)
            logger.warning("%s: a process could not be started (%s).", place.name, error)

    def _refuse_if_all_are_lost(self) -> None:
        if any(place.state is not State.LOST for place in self._places):
            return
        for place in self._places:
            if isinstance(place.error, WaveRNNError) and not place.worked:
                raise place.error
        reasons = "; ".join(f"{place.name}: {place.reason}" for place in self._places)
        raise DeviceError(
            f"No device is left ({reasons}). What is finished is kept; go on with --resume."
        )

    # --- what they say ---

    def _listen(self) -> list[Place]:
        """Places that have something to say, after a tick at most; counts the quiet of others.

        Quiet is counted in ticks of this process, so that one that was itself stopped or busy
        accuses nobody.
        """
        living = {p.process.line.fileno(): p for p in self._places if p.process is not None}
        begun = time.monotonic()
        if living:
            heard = self._wait(living)
        else:
            time.sleep(_TICK / 10)
            heard = []
        passed = min(time.monotonic() - begun, 2 * _TICK)
        for place in self._places:
            place.quiet = 0.0 if place in heard else place.quiet + passed
        return heard

    def _wait(self, living: dict[int, Place]) -> list[Place]:
        """Places that say something within a tick, or before an interrupt."""
        try:
            with self._stop.raising():
                lines = wait(list(living), _TICK)
        except KeyboardInterrupt:  # the loop sees it in `stop`
            return []
        return [place for descriptor, place in living.items() if descriptor in lines]

    def _hear(self, place: Place, work: Work) -> Iterator[Outcome]:
        """Take in one message."""
        assert place.process is not None
        try:
            message = place.process.line.receive()
        except EOFError:
            yield from self._bury(place, work)
            return
        if isinstance(message, messages.Want):
            self._give(place, work)
        elif isinstance(message, messages.Did):
            place.in_hand.pop(message.outcome.name, None)
            place.deaths = 0
            yield message.outcome
        elif isinstance(message, messages.Alive):
            if self._on_samples is not None:
                self._on_samples(message.samples)
        elif isinstance(message, messages.Said):
            logger.log(message.level, "%s: %s", place.name, message.text)
        elif isinstance(message, messages.Broken):
            self._note(place, message)
        elif isinstance(message, messages.Ready):
            place.state, place.worked = State.IDLE, True
        elif isinstance(message, messages.Idle):
            place.state = State.IDLE
            self._count(message)
            yield from self._blame(place, work, "the worker ended without an outcome")

    def _count(self, round: messages.Idle) -> None:
        self.batches += round.batches
        self.times.add({} if round.times is None else vars(round.times))

    def _give(self, place: Place, work: Work) -> None:
        item = None
        if not place.alone:
            item = work.fresh() if len(place.in_hand) < self._share(work) else None
        elif work.suspects and not place.in_hand and place.state is State.BUSY:
            item = work.suspects.popleft()
        if item is not None:
            place.in_hand[item.name] = item
        place.send(messages.Take(item))

    def _share(self, work: Work) -> float:
        places = sum(place.state is not State.LOST for place in self._places)
        return work.share(places, sum(len(place.in_hand) for place in self._places))

    def _note(self, place: Place, broken: messages.Broken) -> None:
        """Remember why a process ends; what would end every other as well is raised."""
        error = broken.error
        if isinstance(error, OSError) and broken.errno is not None:
            error.errno = broken.errno
        of_device = isinstance(error, (DeviceError, EngineError))
        if isinstance(error, (WaveRNNError, OSError)) and not of_device:
            raise error
        place.error, place.reason = error, str(error)
        if of_device and not broken.started and not place.worked:
            place.deaths = self._care.most_deaths  # it never worked here, so it will not

    # --- the dead ---

    def _accuse(self) -> None:
        """Kill what has been quiet for too long."""
        for place in self._places:
            if place.process is not None and place.quiet > place.limit(self._care):
                place.reason = f"it did nothing for {place.quiet:.0f} s"
                place.quiet = 0.0
                place.process.kill()

    def _bury(self, place: Place, work: Work) -> Iterator[Outcome]:
        """A process is gone: what becomes of its items, and of its place."""
        assert place.process is not None
        how = place.process.reap()
        place.reason = place.reason or how
        place.remove_parts()
        for line in place.finished_unheard():
            name, state = line.pop("name"), line.pop("state")
            place.in_hand.pop(name)
            place.deaths = 0
            yield Outcome(name, state, {key: line[key] for key in line if key != "at"})
        in_hand = len(place.in_hand)
        place.rest(self._care)
        if place.state is State.LOST:
            what = "the device is given up"
        else:
            what = f"a new process starts in {max(place.start_at - time.monotonic(), 0):.0f} s"
        logger.warning(
            "%s: the process ended (%s) with %d items in hand; %s.",
            place.name, place.reason, in_hand, what,
        )  # fmt: skip
        yield from self._blame(place, work, place.reason)

    def _blame(self, place: Place, work: Work, reason: str) -> Iterator[Outcome]:
        """Items in hand at a death are tried again alone; at the second, set aside."""
        items = list(place.in_hand.values())
        place.in_hand.clear()
        for item in items:
            if item.name not in work.deaths:
                work.deaths[item.name] = reason
                work.suspects.append(item)
                continue
            sentence = (
                "The process that had this item in hand died twice, the second time with no other "
                f"item: first {work.deaths[item.name]}; then {reason}."
            )
            fields = {"source": item.source, "error": sentence, "kind": EngineError.__name__}
            with contextlib.closing(Journal(self._root, f"{self._name}-aside")) as journal:
                journal.write("failed", name=item.name, **fields)
            yield Outcome(item.name, "failed", fields)

    # --- the end ---

    def _finish(self) -> Iterator[Outcome]:
        """Have the children end: their rounds at the end of a job, what is written after a stop."""
        until = time.monotonic() + _ORDERLY_SECONDS
        for place in self._places:
            if place.process is not None:
                place.process.bid_end(self._stop.requested or place.state is State.STARTING)
        for place in self._places:
            if place.process is not None:
                for message in place.process.last_words(until):
                    if isinstance(message, messages.Did):
                        yield message.outcome
                    elif isinstance(message, messages.Idle):
                        self._count(message)

    def close(self) -> None:
        """End what still lives, in order if it can be."""
        until = time.monotonic() + _ORDERLY_SECONDS
        living = [place.process for place in self._places if place.process is not None]
        for process in living:
            process.bid_end(True)
        for process in living:
            for _ in process.last_words(until):
                pass
            process.kill()
            process.reap()
        for place in self._places:
            place.process = None
            place.in_hand.clear()
            if place.state is not State.LOST:
                place.state = State.DOWN


def child_worker(
    devices: Sequence[str] = (),
    care: Care | None = None,
    on_samples: Callable[[int], None] | None = None,
) -> Callable[[Settings, Path, str, Stop], Worker]:
    """A factory of `ChildWorker`, as `job.Job` takes one; arguments as there."""

    def make(settings: Settings, root: Path, name: str, stop: Stop) -> Worker:
        return ChildWorker(
            settings,
            str(root),
            name,
            devices=devices,
            stop=stop,
            care=care,
            on_samples=on_samples,
        )

    return make
