"""What the journals of a job folder tell, read while the job runs or after.

A folder of outputs holds `.wavernn-fast/journal-<worker>.jsonl`, one for each worker, `job-*.jsonl`
beside them, and `failed*.jsonl`. Any number of runs stand in a journal, one after the other: a run
begins with a line "begin" and ends with "end", unless it was killed. The whole job, which may have
several workers, says by lines "job" and "over" in job-<shard>.jsonl how much there is to do. Lines
that are no JSON (the last one of a killed run is torn) are counted and left out; a field of the
wrong type is as good as missing. Nothing here changes the folder or takes its locks.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import AudioError, InputError
from .files import PathLike, label

FOLDER = ".wavernn-fast"
_JOURNALS = "journal-*.jsonl"
_SESSIONS = "job-*.jsonl"
_FAILURES = "failed*.jsonl"
_SHARD = re.compile(r"(\d+)of(\d+)(?!\d)")  # begins the name of a worker

_PAUSE = 2.0  # seconds between two runs that count as none

Entry = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """An item that failed and has not been made since."""

    name: str
    source: str
    error: str
    kind: str
    worker: str


@dataclass
class Run:
    """One run of one worker; times are Unix seconds, None where the journal has none.

    A process that is handed items one by one works in rounds, each with a first and a last line;
    rounds that follow at once are one run.
    """

    worker: str
    begin: Entry
    ends: list[Entry] = field(default_factory=list)  # the last line of each round
    is_open: bool = True  # the last round has not ended, in its own words
    first: float | None = None
    last: float | None = None
    done: int = 0
    failed: int = 0
    audio_seconds: float = 0.0

    def see(self, at: float | None) -> None:
        """Note the time of a line."""
        if at is not None:
            self.first = at if self.first is None else min(self.first, at)
            self.last = at if self.last is None else max(self.last, at)

    @property
    def left(self) -> int | None:
        """Items that the run had not tried when it last wrote a line; None where it cannot know."""
        items = number(self.begin.get("items"))
        return None if items is None else max(0, int(items) - self.done - self.failed)

    def goes_on(self, begin: Entry) -> bool:
        """Whether a first line is of another round of this run."""
        facts = self.begin.keys() | begin.keys()
        same = all(self.begin.get(key) == begin.get(key) for key in facts - {"at"})
        at = number(begin.get("at"))
        soon = at is not None and self.last is not None and abs(at - self.last) < _PAUSE
        return same and soon and not self.is_open and begin.get("items") is None

    @property
    def shard(self) -> tuple[str, str]:
        """(number, count) of the part of the job, as the name of the worker begins."""
        return shard_of(self.worker)

    @property
    def seconds(self) -> float:
        """From its first line to its last, or what it said when it ended."""
        if not self.is_open and len(self.ends) == 1:
            said = number(self.ends[0].get("wall_seconds"))
            if said is not None:
                return said
        return 0.0 if self.first is None or self.last is None else self.last - self.first


@dataclass
class Session:
    """One run of a whole job, or of one of its shards."""

    shard: tuple[str, str]
    at: float | None
    todo: int | None  # items when it began
    over: Entry | None = None  # its last line


@dataclass
class History:
    """All runs of a job, and what has become of its items."""

    folder: str
    runs: list[Run] = field(default_factory=list)  # by the time of their first line
    sessions: list[Session] = field(default_factory=list)  # by time
    done: dict[str, float] = field(default_factory=dict)  # name -> seconds of audio
    failed: dict[str, Failure] = field(default_factory=dict)
    bytes_written: int = 0  # of the items done
    finished_at: array[float] = field(default_factory=lambda: array("d"))  # every "done" line
    finished_seconds: array[float] = field(default_factory=lambda: array("d"))  # its audio
    correlations: dict[str, float] = field(default_factory=dict)  # of copies: name -> mel's
    ignored: int = 0  # lines that are no JSON object

    @property
    def left(self) -> int | None:
        """Items that nobody has tried yet, as far as the last runs knew; None: nobody knows.

        A job that is cut into another number of shards is another job, so the newest cut counts;
        its shards add up, at whatever time they ran.
        """
        each = [self._left_of(shard) for shard in self._shards()]
        return None if None in each else sum(n for n in each if n is not None)

    @property
    def open_runs(self) -> list[Run]:
        """Runs of the last sessions that have not ended: at work, or killed."""
        return [
            run
            for shard in self._shards()
            for run in self._latest(shard)
            if run.begin and run.is_open
        ]

    @property
    def is_open(self) -> bool:
        """Whether the last session of a shard has not ended, in its own words or its workers'."""
        for shard in self._shards():
            session = self._session(shard)
            if session is not None and session.over is None:
                return True
            if session is None and any(r.begin and r.is_open for r in self._latest(shard)):
                return True
        return False

    def _shards(self) -> list[tuple[str, str]]:
        known = [(one.first, one.shard) for one in self.runs]
        known += [(one.at, one.shard) for one in self.sessions]
        count = max(known, key=lambda one: one[0] or 0.0)[1][1]
        return list(dict.fromkeys(shard for _, shard in known if shard[1] == count))

    def _session(self, shard: tuple[str, str]) -> Session | None:
        """The last one of a shard."""
        return next((one for one in reversed(self.sessions) if one.shard == shard), None)

    def _latest(self, shard: tuple[str, str]) -> list[Run]:
        """Runs of the last session of a shard, the last one of each worker."""
        runs = [run for run in self.runs if run.shard == shard]
        session = self._session(shard)
        if session is not None:
            return [run for run in runs if (run.first or 0.0) >= (session.at or 0.0)]
        group: list[Run] = []
        for run in runs:
            if not any(_side_by_side(run, other) for other in group):
                group = []
            group = [*(other for other in group if other.worker != run.worker), run]
        return group

    def _left_of(self, shard: tuple[str, str]) -> int | None:
        runs, session = self._latest(shard), self._session(shard)
        if session is not None:
            said = number((session.over or {}).get("left"))
            if said is not None:
                return int(said)
            tried = sum(run.done + run.failed for run in runs)
            return None if session.todo is None else max(0, session.todo - tried)
        # Workers side by side share the work, so what they have left adds up.
        each = [run.left for run in runs if run.begin]
        return None if None in each else sum(n for n in each if n is not None)

    @property
    def audio_seconds(self) -> float:
        """Of the items done."""
        return math.fsum(self.done.values())

    @property
    def reason(self) -> str:
        """Why the last session left items, in its own words."""
        return text((self.sessions[-1].over or {}).get("reason")) if self.sessions else ""

    def periods(self) -> list[tuple[float, float]]:
        """When at least one worker was at work: intervals with pauses between them, in order."""
        spans = sorted((r.first, r.last) for r in self.runs if r.first is not None and r.last)
        merged: list[tuple[float, float]] = []
        for start, stop in spans:
            if merged and start <= merged[-1][1] + _PAUSE:
                merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
            else:
                merged.append((start, stop))
        return merged


def read_history(folder: PathLike) -> History:
    """Read all journals below a folder of outputs.

    Raises
    ------
    InputError
        If the folder holds no journal, or none with a line of a job.
    AudioError
        If a journal cannot be read.
    """
    root = Path(folder)
    journals, sessions = (sorted((root / FOLDER).glob(p)) for p in (_JOURNALS, _SESSIONS))
    if not journals and not sessions:
        raise InputError(
            f"The folder {label(folder)} holds no journal of a job"
            f" ({FOLDER}/{_JOURNALS}); give the output folder of 'wavernn-fast vocode'."
        )
    history = History(str(folder))
    for path in sessions:
        for entry in _lines(path, history):
            _add_session(entry, shard_of(path.name.removeprefix("job-")), history)
    for path in journals:
        _read_journal(path, history)
    if not history.runs and not history.sessions:
        raise InputError(
            f"The journals of {label(folder)} have no line of a job yet; wait until it has begun."
        )
    history.runs.sort(key=lambda run: math.inf if run.first is None else run.first)
    history.sessions.sort(key=lambda one: math.inf if one.at is None else one.at)
    for path in sorted(root.glob(_FAILURES)):
        for entry in _lines(path, history):
            _add_failure(entry, "", history)
    for name in history.done.keys() & history.failed.keys():
        del history.failed[name]
    return history


def shard_of(worker: str) -> tuple[str, str]:
    """(number, count) as a worker's name begins; ("0", "1") where it does not."""
    found = _SHARD.match(worker)
    return (found[1], found[2]) if found else ("0", "1")


def number(value: object) -> float | None:
    """A finite number that is not negative, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) and result >= 0.0 else None


def text(value: object) -> str:
    """A string as it is, "" for anything else."""
    return value if isinstance(value, str) else ""


# --- helpers ---


def _side_by_side(a: Run, b: Run) -> bool:
    """Whether two runs were at work at one time, as far as their lines tell."""
    if a.first is None or a.last is None or b.first is None or b.last is None:
        return False
    return a.first <= b.last and b.first <= a.last


def _read_journal(path: Path, history: History) -> None:
    """Runs of one worker; what the last line about an item says holds for this worker."""
    worker = path.name.removeprefix("journal-").removesuffix(".jsonl")
    run: Run | None = None
    own: dict[str, tuple[float, int] | Failure] = {}
    for entry in _lines(path, history):
        state, at = entry.get("state"), number(entry.get("at"))
        if run is None or (state == "begin" and not run.goes_on(entry)):
            run = Run(worker, entry if state == "begin" else {})
            history.runs.append(run)
        run.see(at)
        if state == "begin":
            run.is_open = True
        elif state == "end":
            run.ends.append(entry)
            run.is_open = False
        elif state == "failed":
            run.failed += 1
            own[text(entry.get("name"))] = _failure(entry, worker)
        elif state == "done":
            seconds = number(entry.get("seconds")) or 0.0
            run.done += 1
            run.audio_seconds += seconds
            own[text(entry.get("name"))] = (seconds, int(number(entry.get("bytes")) or 0))
            close = number(entry.get("mel_correlation"))
            if close is not None and close <= 1.0:
                history.correlations[text(entry.get("name"))] = close
            if at is not None:
                history.finished_at.append(at)
                history.finished_seconds.append(seconds)
    for name, outcome in own.items():
        if isinstance(outcome, Failure):
            history.failed[name] = outcome
        else:
            history.done[name] = outcome[0]
            history.bytes_written += outcome[1]


def _add_session(entry: Entry, shard: tuple[str, str], history: History) -> None:
    if entry.get("state") == "over":
        own = [session for session in history.sessions if session.shard == shard]
        if own:
            own[-1].over = entry
        return
    if entry.get("state") != "job":
        return
    todo, at = number(entry.get("items")), number(entry.get("at"))
    history.sessions.append(Session(shard, at, None if todo is None else int(todo)))


def _add_failure(entry: Entry, worker: str, history: History) -> None:
    """From failed.jsonl, which may be of an earlier run: the journals know better."""
    name = text(entry.get("name"))
    if name not in history.done and name not in history.failed:
        history.failed[name] = _failure(entry, worker)


def _failure(entry: Entry, worker: str) -> Failure:
    name, source, error, kind = (text(entry.get(k)) for k in ("name", "source", "error", "kind"))
    return Failure(name, source, error, kind, worker)


def _lines(path: Path, history: History) -> Iterator[Entry]:
    """JSON objects of a file, one by one; lines that are none are counted."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    entry = None
                if isinstance(entry, dict):
                    yield entry
                else:
                    history.ignored += 1
    except OSError as error:
        failure = AudioError(f"{label(path)} cannot be read ({error.strerror or error}).")
        failure.errno = error.errno
        raise failure from error
