"""An engine in a Ray actor: what `ray_engine` has many of.

The engine itself is in a child of the actor, as on a GPU of one machine (`child`): an item that
kills its process is set aside there, and Ray does not see it. What is done with an item is what any
worker does: the file is written, renamed and noted in a journal of this actor, below the output
root, which all machines must see. An actor that gets a batch for the second time finds in the
journals what the first had finished, so nothing is done twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import errors
from ..errors import DeviceError, InputError, WaveRNNError
from . import journal
from .child import ChildWorker
from .items import Item
from .places import Care
from .settings import Settings
from .stop import Stop
from .work import Outcome

_LOOK_SECONDS = 0.5  # at most so often an actor looks whether the job goes on
_MOST_TRIES = 3  # of a batch; then it is left, as its actors have died again and again
_LOST_SECONDS = 30.0  # that an actor without a device takes to say so, lest it gets all the work


@dataclass(frozen=True)
class Task:
    """What an actor is made with: plain values, which travel."""

    settings: Settings
    root: str
    name: str  # of the shard: begins the names of journals and parts
    token: str  # of this run of the job
    care: Care

    @property
    def on_gpu(self) -> bool:
        """Whether every actor needs a GPU."""
        return self.settings.device == "cuda"

    @property
    def job_file(self) -> Path:
        """The file that holds the job together."""
        return Path(self.root, journal.FOLDER, f"ray-{self.token}.job")


class EngineActor:
    """An engine in a Ray actor; called with a batch of items, it returns their outcomes.

    Parameters
    ----------
    task : Task
    """

    def __init__(self, task: Task) -> None:
        self._task, self._stop, self._done = task, _JobFile(task.job_file), _DoneBefore(task)
        self._error: WaveRNNError | OSError | None = None
        self._checked = False
        settings = task.settings
        if not task.on_gpu:  # Ray counts on as many
            settings = dataclasses.replace(settings, threads=settings.threads or 1)
        name = f"{task.name}-{task.token}-{secrets.token_hex(4)}"  # one journal a life
        self._worker = ChildWorker(
            settings, task.root, name, stop=self._stop, care=task.care, keep=True
        )

    def __call__(self, batch: Any) -> Any:
        """Do a batch: a pyarrow table with a column "item" to one with a column "outcome"."""
        import pyarrow

        items = [Item(**json.loads(text)) for text in batch["item"].to_pylist()]
        lines = [json.dumps(line) for line in self._lines(items)]
        return pyarrow.table({"outcome": pyarrow.array(lines, pyarrow.string())})

    def _lines(self, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
        """Outcomes, and last where the time went, or an error that is no item's."""
        if self._error is None:
            try:
                if not self._checked:
                    self._check()
                    self._checked = True
                with self._tried(items):
                    yield from map(dataclasses.asdict, self._outcomes(items))
                yield {"times": vars(self._worker.times)}
                return
            except _TriedTooOftenError as error:
                yield _line(error)
                return
            except (WaveRNNError, OSError) as error:  # of the system: a journal on a full disk
                self._error = error  # this actor does nothing more
        yield _line(self._error)
        if isinstance(self._error, DeviceError):
            until = time.monotonic() + _LOST_SECONDS
            while time.monotonic() < until and not self._stop.requested:
                time.sleep(_LOOK_SECONDS)

    def _outcomes(self, items: Sequence[Item]) -> Iterator[Outcome]:
        found = self._done.of(items)
        for name, fields in found.items():
            yield Outcome(name, "done", fields)
        yield from self._worker.run([item for item in items if item.name not in found])

    @contextlib.contextmanager
    def _tried(self, items: Sequence[Item]) -> Iterator[None]:
        """Count how often a batch has been begun, in the size of a file that all actors see."""
        key = hashlib.sha256(json.dumps([item.name for item in items]).encode()).hexdigest()[:16]
        path = self._task.job_file.with_suffix(f".try-{key}")
        with open(path, "ab") as file:
            file.write(b".")
        if path.stat().st_size > _MOST_TRIES:
            raise _TriedTooOftenError(
                f"the actors of a batch of {len(items)} items, {items[0].name!r} the first, died "
                f"{_MOST_TRIES} times"
            )
        yield
        path.unlink(missing_ok=True)

    def _check(self) -> None:
        """Refuse a machine that does not see the output root as the others do."""
        try:
            if self._task.job_file.read_text() == self._task.token:
                return
            reason = "another job's file is there"
        except FileNotFoundError:
            reason = "the job's file is not there"
        except OSError as error:
            reason = str(error)
        raise InputError(
            f"Machine {socket.gethostname()!r} does not see the output folder {self._task.root!r} "
            f"as the others do: {reason}. All machines need it on one file system, under one path."
        )


class _TriedTooOftenError(DeviceError):
    """A batch must not be begun once more."""


class _JobFile(Stop):
    """Stops when the job's file is gone."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._next = path, 0.0

    @property
    def requested(self) -> bool:
        """Whether no more work should be begun."""
        now = time.monotonic()
        if not self.reason and now >= self._next:
            self._next = now + _LOOK_SECONDS
            if not self._path.exists():
                self.request("The job has ended.")
        return bool(self.reason)


class _DoneBefore:
    """What actors that are dead now have finished of a batch."""

    def __init__(self, task: Task) -> None:
        self._folder = Path(task.root, journal.FOLDER)
        self._pattern = f"journal-{task.name}-{task.token}-*.jsonl"
        self._read: dict[Path, int] = {}  # bytes
        self._lines: dict[str, dict[str, Any]] = {}

    def of(self, items: Iterable[Item]) -> dict[str, dict[str, Any]]:
        """Fields of the lines of items that are done, by name; most are not even there."""
        there = [item.name for item in items if os.path.lexists(item.target)]
        if not there:
            return {}
        self._update()
        return {name: self._lines[name] for name in there if name in self._lines}

    def _update(self) -> None:
        for path in self._folder.glob(self._pattern):
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for raw in whole.splitlines():
                with contextlib.suppress(ValueError):
                    line = json.loads(raw)
                    if line.get("state") == "done":
                        kept = {k: line[k] for k in line if k not in ("state", "at", "name")}
                        self._lines[line["name"]] = kept


def _line(error: WaveRNNError | OSError) -> dict[str, Any]:
    if not isinstance(error, WaveRNNError):  # its class says no more than its number
        details = {"strerror": error.strerror, "filename": error.filename}
        return {"error": str(error), "kind": "OSError", "errno": error.errno, **details}
    kind = DeviceError if isinstance(error, DeviceError) else type(error)
    return {"error": str(error), "kind": kind.__name__}


def raise_again(line: dict[str, Any]) -> None:
    """Raise the error that an actor has sent, unless it is of its device alone."""
    if line["kind"] == "OSError":
        if line["errno"] is None:
            raise OSError(line["error"])
        raise OSError(line["errno"], line["strerror"], line["filename"])
    kind = getattr(errors, line["kind"], WaveRNNError)
    if kind is not DeviceError:
        raise kind(line["error"])
