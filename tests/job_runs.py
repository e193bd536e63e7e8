"""What the tests of jobs share: a model, mels, items, and what a finished folder must hold."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from voices import preset_mel

from wavernn_fast.jobs.items import Item, collect
from wavernn_fast.jobs.journal import FOLDER
from wavernn_fast.jobs.settings import Settings
from wavernn_fast.jobs.work import LocalWorker, Outcome

ENDINGS = (".npy", ".npz", ".safetensors")


def save_many(folder: Path, frames: list[int]) -> Path:
    """Write mels of so many frames each as 000.npy, 001.npy ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, n in enumerate(frames):
        np.save(folder / f"{i:03}.npy", preset_mel(n, i))
    return folder


def items_of(mels: Path, out: Path) -> list[Item]:
    return collect([str(mels)], str(out), reads=ENDINGS)


def work(model: Path, items: list[Item], out: Path, **settings: Any) -> list[Outcome]:
    """Run a worker to its end."""
    return list(LocalWorker(Settings(str(model), **settings), out).run(items))


def files_below(out: Path) -> dict[str, bytes]:
    """Every file that is no journal, by name."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and FOLDER not in path.parts
    }


def parts_below(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if ".part-" in path.name]


def assert_whole(out: Path) -> int:
    """Every file with a final name can be read to its end; returns how many there are."""
    count = 0
    for path in out.rglob("*.wav"):
        with soundfile.SoundFile(path) as file:
            assert len(file.read()) == file.frames
            assert path.stat().st_size == 44 + 2 * file.frames
        count += 1
    return count


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


ROOT = str(Path(__file__).resolve().parents[1])


def _heed_ctrl_c() -> None:
    """Background jobs start with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*arguments: object, code: str | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start the command as a user does, or by a program of its own; stdout and stderr are pipes."""
    how = ["-m", "wavernn_fast"] if code is None else ["-c", code]
    return subprocess.Popen(
        [sys.executable, *how, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_ctrl_c,
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
    )


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until something is there while a process lives."""
    for _ in range(30_000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("waited for five minutes")
