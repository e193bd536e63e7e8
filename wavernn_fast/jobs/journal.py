"""The journal of a job: what is done, one line an item, one file a worker.

A line is one JSON object, written by one `os.write` to a descriptor in append mode, after the file
that it tells of has its final name. So every line is true for ever, and what is lost with a process
or a machine is at most the line of a file that is whole. The fields are those of docs/jobs.md.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from . import parts

FOLDER = ".wavernn-fast"  # below the output root; no output may lie in it
_PATTERN = "journal-*.jsonl"


class Record(NamedTuple):
    """What a journal says of a finished item."""

    input: str  # see identity.identity
    model: str
    settings: str
    bytes: int  # of the output
    samples: int
    sha256: str  # of the output


class History(NamedTuple):
    """What all journals of a folder say."""

    records: dict[str, list[Record]]  # of finished items by name
    doubtful: set[str]  # names of which the file may be of any of the records, or of none


class Journal:
    """The journal of one worker, appended to; threads may share it.

    Parameters
    ----------
    root : path
        The output root.
    worker : str
        Name of the worker: no other may have it while this one lives.

    Raises
    ------
    OSError
        If the file cannot be opened or written.
    """

    def __init__(self, root: str | os.PathLike[str], worker: str) -> None:
        folder = Path(root) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"journal-{worker}.jsonl"
        self.seconds = 0.0  # spent writing
        self._lock = threading.Lock()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._file = os.open(self.path, flags, 0o666)
        self._torn = _ends_torn(self._file)  # by a worker of the same name that was killed
        for place in (folder, folder.parent):  # a journal without a name is none
            parts.sync_folder(place)

    def write(self, state: str, **fields: Any) -> None:
        """Append one line: `state`, the time, `fields`."""
        line = {"state": state, "at": round(time.time(), 3), **fields}
        data = json.dumps(line).encode("ascii") + b"\n"
        begun = time.perf_counter()
        with self._lock:
            if self._torn:  # a new line must not become the end of a torn one
                data = b"\n" + data
            self._torn = True  # unless the call returns, and has taken all of it
            self._torn = os.write(self._file, data) < len(data)
            self.seconds += time.perf_counter() - begun
        if self._torn:  # a disk that is full takes a part
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def sync(self) -> None:
        """Bring all lines to the disk: they count even if the power goes now."""
        begun = time.perf_counter()
        os.fsync(self._file)
        with self._lock:
            self.seconds += time.perf_counter() - begun

    def close(self) -> None:
        """Bring all lines to the disk and close the file."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)


def _ends_torn(file: int) -> bool:
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"


def journals(root: str | os.PathLike[str]) -> list[Path]:
    """Journals of all workers that ever worked below an output root, by name."""
    return sorted((Path(root) / FOLDER).glob(_PATTERN))


def lines(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Lines of one journal in their order; what is torn or no JSON object is left out."""
    with open(path, "rb") as file:
        for raw in file:
            try:
                line = json.loads(raw)
            except ValueError:  # also of bytes that are no UTF-8
                continue
            if isinstance(line, dict):
                yield line


def finished(root: str | os.PathLike[str]) -> dict[str, list[Record]]:
    """All finished items by name, the union of all journals; each with all that was said of it."""
    return history(root).records


def history(root: str | os.PathLike[str]) -> History:
    """The union of all journals below an output root.

    Which of two lines came first cannot be told where they stand in different journals. So a name
    with more than one record is doubtful, and so is one that a worker began to write over: it may
    have been killed between the rename and its line.
    """
    known: dict[str, list[Record]] = {}
    doubtful: set[str] = set()
    for path in journals(root):
        for line in lines(path):
            name = line.get("name")
            if line.get("state") == "redo" and isinstance(name, str):
                doubtful.add(name)
            record = _record(line)
            if record is not None:
                records = known.setdefault(line["name"], [])
                if record not in records:
                    records.append(record)
                if len(records) > 1:
                    doubtful.add(line["name"])
    return History(known, doubtful)


def _record(line: Mapping[str, Any]) -> Record | None:
    """The record of a line of state "done"; None for others and for what is no such line."""
    if line.get("state") != "done" or not isinstance(line.get("name"), str):
        return None
    texts = [line.get(field) for field in ("input", "model", "settings", "sha256")]
    numbers = [line.get(field) for field in ("bytes", "samples")]
    if not all(isinstance(t, str) for t in texts) or not all(type(n) is int for n in numbers):
        return None
    source, model, settings, digest = map(str, texts)
    size, samples = numbers
    assert isinstance(size, int)
    assert isinstance(samples, int)
    # Hundreds of thousands of lines have the same two hashes.
    return Record(source, sys.intern(model), sys.intern(settings), size, samples, digest)
