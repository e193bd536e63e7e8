"""Workers that misbehave, for the processes of the tests of `jobs.child`; and small jobs for them.

They are named by reference, so a child imports this file.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from voices import preset_mel, save_voice

from wavernn_fast.errors import DeviceError, ModelError
from wavernn_fast.jobs import items as collecting
from wavernn_fast.jobs.child_main import local_worker
from wavernn_fast.jobs.items import Item
from wavernn_fast.jobs.settings import Settings
from wavernn_fast.jobs.stop import Stop
from wavernn_fast.jobs.work import LocalWorker, Outcome, Worker


def job(folder: Path, count: int = 12, frames: int = 4) -> tuple[Settings, list[Item]]:
    """A model, `count` mels of a few frames each, and their items below `folder`/out."""
    mels = folder / "mels"
    mels.mkdir(parents=True)
    for i in range(count):
        np.save(mels / f"m{i:03d}.npy", preset_mel(frames + i % 3, seed=i))
    (folder / "out").mkdir()
    items = collecting.collect([str(mels)], str(folder / "out"), reads=[".npy"])
    return Settings(str(save_voice(folder)), device="cpu", threads=1, streams=1), items


def into(items: Iterable[Item], root: Path) -> list[Item]:
    """The same items with another output root."""
    root.mkdir(exist_ok=True)
    return [dataclasses.replace(item, target=str(root / item.name)) for item in items]


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a root but the journals; parts too."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".wavernn-fast" not in path.parts
    }


class _Around:
    """A `LocalWorker`; `before` sees every item that it takes, `after` every outcome."""

    def __init__(self, settings: Settings, root: str, worker: str, **how: object) -> None:
        self.inner: Worker = local_worker(settings, root, worker, **how)  # type: ignore[arg-type]

    def run(self, items: Iterable[Item]) -> Iterator[Outcome]:
        for outcome in self.inner.run(self._seen(items)):
            self.after(outcome)
            yield outcome

    def _seen(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            self.before(item)
            yield item

    def before(self, item: Item) -> None:
        pass

    def after(self, outcome: Outcome) -> None:
        pass


class Poisoned(_Around):
    """Is killed by items m002, in the middle of writing it, and m007."""

    def before(self, item: Item) -> None:
        if "m002" in item.name:
            assert isinstance(self.inner, LocalWorker)
            part = f".{os.urandom(4).hex()}.part-{self.inner.worker_name}"
            Path(item.target).with_name(part).touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        if "m007" in item.name:
            os._exit(9)


class Mute(_Around):
    """Dies after its second outcome and before it is said, once (a file remembers)."""

    count = 0

    def after(self, outcome: Outcome) -> None:
        self.count += 1
        assert isinstance(self.inner, LocalWorker)
        died = self.inner.root / ".wavernn-fast" / "died"
        if self.count == 2 and not died.exists():
            died.touch()
            os._exit(1)


class Stuck(_Around):
    """Item m003 never ends."""

    def before(self, item: Item) -> None:
        if "m003" in item.name:
            time.sleep(3600)


class Broken(_Around):
    """The device is lost at every item."""

    def before(self, item: Item) -> None:
        raise DeviceError("The GPU has fallen off the bus.")


class BrokenLater(_Around):
    """The device is lost after three items of every process."""

    count = 0

    def before(self, item: Item) -> None:
        self.count += 1
        if self.count > 3:
            raise DeviceError("The GPU has fallen off the bus.")


class Slow(_Around):
    """Needs a while for every item."""

    def before(self, item: Item) -> None:
        time.sleep(0.05)


def no_device(settings: Settings, root: str, worker: str, **how: object) -> Worker:
    """Emulator 1 is never there."""
    if settings.device == "emu:1":
        raise DeviceError("There is no second one.")
    return local_worker(settings, root, worker, **how)  # type: ignore[arg-type]


def no_model(
    settings: Settings, root: str, worker: str, *, stop: Stop, progress: Callable[[int], None]
) -> Worker:
    """The model is unusable."""
    raise ModelError("It is no model.", ["a tensor is missing"])
