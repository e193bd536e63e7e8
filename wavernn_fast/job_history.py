"""What the journals of a job folder tell, read while the job runs or after.

A folder of outputs holds `.wavernn-fast/journal-<worker>.jsonl`, one for each worker, and
`failed*.jsonl`. Any number of runs stand in a journal, one after the other: a run begins with a
line "begin" and ends with "end", unless it was killed. Lines that are no JSON (the last one of a
killed run is torn) are counted and left out; a field of the wrong type is as good as missing.
Nothing here changes the folder or takes its locks.
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
_FAILURES = "failed*.jsonl"
_SHARD = re.compile(r"(\d+of\d+)")

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
    """One run of one worker; times are Unix seconds, None where the journal has none."""

    worker: str
    begin: Entry
    end: Entry | None = None
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
    def left(self) -> int:
        """Items that the run had not tried when it last wrote a line."""
        if self.end is not None and number(self.end.get("left")) is not None:
            return int(number(self.end["left"]) or 0)
        return max(0, int(number(self.begin.get("items")) or 0) - self.done - self.failed)

    @property
    def seconds(self) -> float:
        """From its first line to its last, or what it said when it ended."""
        said = number((self.end or {}).get("wall_seconds"))
        if said is not None:
            return said
        return 0.0 if self.first is None or self.last is None else self.last - self.first


@dataclass
class History:
    """All runs of a job, and what has become of its items."""

    folder: str
    runs: list[Run] = field(default_factory=list)  # by the time of their first line
    done: dict[str, float] = field(default_factory=dict)  # name -> seconds of audio
    failed: dict[str, Failure] = field(default_factory=dict)
    bytes_written: int = 0  # of the items done
    finished_at: array[float] = field(default_factory=lambda: array("d"))  # every "done" line
    finished_seconds: array[float] = field(default_factory=lambda: array("d"))  # its audio
    ignored: int = 0  # lines that are no JSON object

    @property
    def left(self) -> int:
        """Items that nobody has tried yet, as far as the last runs knew.

        Workers side by side share the work, so what each has left adds up; a later run replaces
        the earlier ones of its shard.
        """
        last: dict[str, list[Run]] = {}
        for run in self.runs:
            found = _SHARD.search(run.worker)
            group = last.setdefault(found[1] if found else "", [])
            if group and not any(_side_by_side(run, other) for other in group):
                group.clear()
            group[:] = [other for other in group if other.worker != run.worker]
            group.append(run)
        return sum(run.left for group in last.values() for run in group)

    @property
    def audio_seconds(self) -> float:
        """Of the items done."""
        return math.fsum(self.done.values())

    @property
    def open_runs(self) -> list[Run]:
        """The last run of each worker, where it has not ended."""
        latest = {run.worker: run for run in self.runs}
        return [run for run in latest.values() if run.end is None]

    def periods(self) -> list[tuple[float, float]]:
        """When at least one worker was at work: intervals that do not touch, in order."""
        spans = sorted((r.first, r.last) for r in self.runs if r.first is not None and r.last)
        merged: list[tuple[float, float]] = []
        for start, stop in spans:
            if merged and start <= merged[-1][1]:
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
    journals = sorted((root / FOLDER).glob(_JOURNALS))
    if not journals:
        raise InputError(
            f"The folder {label(folder)} holds no journal of a job"
            f" ({FOLDER}/{_JOURNALS}); give the output folder of 'wavernn-fast vocode'."
        )
    history = History(str(folder))
    for path in journals:
        _read_journal(path, history)
    if not history.runs:
        raise InputError(
            f"The journals of {label(folder)} have no line of a job yet; wait until it has begun."
        )
    history.runs.sort(key=lambda run: math.inf if run.first is None else run.first)
    for path in sorted(root.glob(_FAILURES)):
        for entry in _lines(path, history):
            _add_failure(entry, "", history)
    for name in history.done.keys() & history.failed.keys():
        del history.failed[name]
    return history


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
        if state == "begin" or run is None:
            run = Run(worker, entry if state == "begin" else {})
            history.runs.append(run)
        run.see(at)
        if state == "end":
            run.end = entry
        elif state == "failed":
            run.failed += 1
            own[text(entry.get("name"))] = _failure(entry, worker)
        elif state == "done":
            seconds = number(entry.get("seconds")) or 0.0
            run.done += 1
            run.audio_seconds += seconds
            own[text(entry.get("name"))] = (seconds, int(number(entry.get("bytes")) or 0))
            if at is not None:
                history.finished_at.append(at)
                history.finished_seconds.append(seconds)
    for name, outcome in own.items():
        if isinstance(outcome, Failure):
            history.failed[name] = outcome
        else:
            history.done[name] = outcome[0]
            history.bytes_written += outcome[1]


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
