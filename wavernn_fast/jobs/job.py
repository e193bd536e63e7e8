"""A job: its lock, what is left of it, the worker, and what is said at the end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..batch import BatchReport
from ..errors import AudioError, WaveRNNError
from . import parts, plan, sessions
from .items import Item
from .journal import lines
from .lock import WHOLE, Lock, Shard, shard_name
from .settings import Settings
from .stop import EXIT_INTERRUPTED, Stop
from .work import LocalWorker, Outcome, Times, Worker

if TYPE_CHECKING:
    from ..vocoder import Vocoder

logger = logging.getLogger("wavernn_fast")

_OF_SHARD = re.compile(r"failed-\d+of\d+\.jsonl")

# (settings, output root, name of the worker, whether to stop) -> worker
WorkerFactory = Callable[[Settings, Path, str, Stop], Worker]


@dataclass(frozen=True)
class Policy:
    """What a job does where there is a choice."""

    existing: str = plan.REFUSE  # outputs that are there: plan.REFUSE, RESUME, SKIP or OVERWRITE
    max_failures: int | None = None  # stop when so many items have failed
    shard: Shard = WHOLE  # the items given are those of this shard
    growth: float | None = None  # bytes of output for a byte of input, where that is known


@dataclass
class Summary:
    """What a run of a job came to."""

    done: int = 0
    failed: list[Outcome] = field(default_factory=list)
    skipped: list[Item] = field(default_factory=list)  # finished before
    left: list[Item] = field(default_factory=list)
    reason: str = ""  # why items are left
    signal: int | None = None  # that ended it
    needed: int | None = None  # bytes that the items left will take; None: not known
    audio_seconds: float = 0.0
    times: Times = field(default_factory=Times)
    batches: list[BatchReport] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: all done; 1: some failed or are left; 130: interrupted."""
        if self.signal is not None:
            return EXIT_INTERRUPTED
        return 1 if self.failed or self.left else 0


class Job:
    """Items on their way to files in one folder.

    Parameters
    ----------
    items : sequence of Item
        From `items.collect`, which has refused clashes.
    settings : Settings
    root : path
        The output root; made where it is missing.
    policy : Policy
    worker_factory : callable, optional
        Makes the worker; by default a `LocalWorker` in this process.
    stop : Stop, optional
        Another thread may request one.
    """

    def __init__(
        self,
        items: Sequence[Item],
        settings: Settings,
        root: str | os.PathLike[str],
        policy: Policy | None = None,
        *,
        worker_factory: WorkerFactory | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.items, self.settings, self.root = items, settings, Path(root)
        self.policy, self.stop = policy or Policy(), stop or Stop()
        self._make_worker = worker_factory or local_worker()
        self._tried: set[str] = set()
        self._bytes_in = self._bytes_out = 0  # of finished items
        self.summary = Summary()

    def run(
        self,
        on_outcome: Callable[[Outcome], None] | None = None,
        on_skipped: Callable[[int], None] | None = None,
    ) -> Summary:
        """Do what is left of the job; signals are taken meanwhile, in the main thread.

        Parameters
        ----------
        on_outcome : callable, optional
            Told of every item.
        on_skipped : callable, optional
            Told how many items were finished before.

        Raises
        ------
        InputError
            If outputs exist and the policy refuses them, the folder cannot be written, or another
            job works on it.
        WaveRNNError
            If the model cannot be loaded, its device is lost or a journal cannot be read or
            written; what was done stays done.
        """
        plan.refuse_existing(self.items, self.root, self.policy.existing)
        plan.check_folder(self.root)
        with self.stop.handling_signals(), self._lock() as lock:
            self._remove_stale(lock)
            existing = self.policy.existing
            try:
                found = plan.make_plan(self.items, self.settings, self.root, existing, self.stop)
            except WaveRNNError:
                raise
            except OSError as error:  # of a journal that cannot be read
                raise self._sentence(error) from error
            self.summary = Summary(skipped=found.skipped)
            if on_skipped is not None:
                on_skipped(len(found.skipped))
            self._warn_of_space(found.todo)
            sessions.note(self.root, shard_name(self.policy.shard), "job", items=len(found.todo))
            try:
                for outcome in self._outcomes(found.todo):
                    self._note(outcome)
                    if on_outcome is not None:
                        on_outcome(outcome)
            finally:
                self._finish(found.todo)
        return self.summary

    @contextlib.contextmanager
    def _lock(self) -> Iterator[Lock]:
        lock = Lock(self.root, self.policy.shard)
        try:
            lock.__enter__()
        except WaveRNNError:
            raise
        except OSError as error:
            failure = AudioError(f"{str(self.root)!r} cannot be locked ({error.strerror}).")
            failure.errno = error.errno
            raise failure from error
        try:
            yield lock
        finally:
            lock.__exit__()

    def _sentence(self, error: OSError) -> AudioError:
        """An error of the system that is no item's, such as a journal's, as one of ours."""
        failure = AudioError(
            f"The job in {str(self.root)!r} cannot go on ({error}). What is finished is kept."
        )
        failure.errno = error.errno
        return failure

    def _remove_stale(self, lock: Lock) -> None:
        folders = {self.root, *(Path(item.target).parent for item in self.items)}
        removed = parts.remove_stale(sorted(folders), lock.owns_parts_of)
        if removed:
            logger.info("%d unfinished files of an earlier run were removed.", removed)

    def _outcomes(self, todo: Sequence[Item]) -> Iterator[Outcome]:
        if not todo or self.stop.requested:
            return
        name = shard_name(self.policy.shard)
        worker = self._make_worker(self.settings, self.root, name, self.stop)
        try:
            yield from worker.run(todo)
        except WaveRNNError:
            raise
        except OSError as error:
            if error.errno not in parts.FULL:
                raise self._sentence(error) from error
            self.stop.request(f"The journal cannot be written ({error.strerror}).")
        finally:
            self.summary.times = getattr(worker, "times", self.summary.times)
            self.summary.batches = getattr(worker, "batches", [])

    def _note(self, outcome: Outcome) -> None:
        if outcome.stops:
            self.stop.request(outcome.fields["error"])
        if outcome.state == "left":
            return
        self._tried.add(outcome.name)
        if outcome.state == "failed":
            self.summary.failed.append(outcome)
            most = self.policy.max_failures
            if most is not None and len(self.summary.failed) >= most:
                self.stop.request(f"{most} items have failed, as many as --max-failures allows.")
            return
        self.summary.done += 1
        self.summary.audio_seconds += outcome.fields["seconds"]
        self._bytes_out += outcome.fields["bytes"]
        self._bytes_in += int(outcome.fields["input"].partition(":")[0] or 0)

    def _finish(self, todo: Sequence[Item]) -> None:
        summary = self.summary
        summary.left = [item for item in todo if item.name not in self._tried]
        summary.reason, summary.signal = self.stop.reason, self.stop.signal
        if summary.left:
            summary.needed = self._estimate(summary.left)
        try:
            self._write_failed()
        except AudioError as error:
            logger.warning("The list of failed items is not written: %s", error)
        sessions.note(
            self.root,
            shard_name(self.policy.shard),
            "over",
            done=summary.done,
            failed=len(summary.failed),
            left=len(summary.left),
            reason=summary.reason,
        )

    def _write_failed(self) -> None:
        """Names and reasons of the items that failed, and of those that did before and are left.

        A whole job has the items of all shards that were before it, so it takes their lists over.
        """
        path, shard = self.root / failures_name(self.policy.shard), self.policy.shard
        lists = [path]
        if shard == WHOLE:
            lists += sorted(p for p in self.root.glob("failed-*") if _OF_SHARD.fullmatch(p.name))
        left = {item.name for item in self.summary.left}
        before = {e["name"]: e for e in _failures(lists) if e.get("name") in left}
        entries = [{"name": o.name, **o.fields} for o in self.summary.failed]
        entries += before.values()
        if entries:
            blocks = [json.dumps(entry).encode("ascii") + b"\n" for entry in entries]
            parts.write(path, blocks, shard_name(shard))
            lists.remove(path)
        for file in lists:
            with contextlib.suppress(OSError):
                file.unlink()

    # --- space ---

    def _estimate(self, items: Sequence[Item]) -> int | None:
        """Bytes that items will take, by the size of their sources; None if that says nothing."""
        growth = self._bytes_out / self._bytes_in if self._bytes_in else self.policy.growth
        if growth is None:
            return None
        total = 0
        for item in items:
            with contextlib.suppress(OSError, ValueError):
                total += os.stat(item.source).st_size
        return round(total * growth)

    def _warn_of_space(self, todo: Sequence[Item]) -> None:
        needed = self._estimate(todo)
        if needed is None:
            return
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(self.root).free
            if needed > free:
                logger.warning(
                    "The outputs will take about %s, and %r has %s free; the job stops where no "
                    "more can be written, and --resume goes on from there.",
                    megabytes(needed),
                    str(self.root),
                    megabytes(free),
                )


def local_worker(
    vocoder: Vocoder | None = None, on_samples: Callable[[int], None] | None = None
) -> WorkerFactory:
    """Makes workers in this process.

    Parameters
    ----------
    vocoder : Vocoder, optional
        The model, where it is loaded already.
    on_samples : callable, optional
        Called with numbers of samples as they are drawn.
    """

    def make(settings: Settings, root: Path, name: str, stop: Stop) -> Worker:
        worker = LocalWorker(settings, root, name, vocoder=vocoder, stop=stop)
        worker.on_samples = on_samples
        return worker

    return make


def failures_name(shard: Shard) -> str:
    """Name of the list of items that failed, in the output root."""
    return "failed.jsonl" if shard == WHOLE else f"failed-{shard_name(shard)}.jsonl"


def _failures(lists: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Entries of lists of failures; one that is not there, or cannot be read, has none."""
    for path in lists:
        with contextlib.suppress(OSError):
            yield from lines(path)


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:,.0f} MB" if size >= 10_000_000 else f"{size / 1e6:.2f} MB"
