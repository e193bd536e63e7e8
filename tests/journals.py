"""Job folders with hand-written journals: several workers, kills, hostile names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

MODEL = "5e" * 32
SETTINGS = "a1" * 32
START = 1_700_000_000.0

# What file names and messages may hold.
HOSTILE = (
    "<script>alert(1)</script>.wav",
    '"><img src=x onerror=alert(2)>.wav',
    "new\nline\x1b[31m\x00.wav",
    "not-\udcff-utf8.wav",
    "right\u202eto\u2066left\u2028.wav",
    "&lt;b&gt; &amp; '.wav",
)


class Journal:
    """One worker's journal, written line by line."""

    def __init__(
        self, folder: Path, worker: str, at: float = START, *, kind: str = "journal"
    ) -> None:
        self.path = folder / ".wavernn-fast" / f"{kind}-{worker}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.at = at
        self.done_count = self.failed_count = 0

    def write(self, **entry: Any) -> None:
        with self.path.open("ab") as file:
            file.write((json.dumps({"at": self.at, **entry}) + "\n").encode())

    def begin(self, items: int | None, **more: Any) -> Journal:
        self.done_count = self.failed_count = 0
        self.items, self.began = items, self.at
        facts = {"version": "0.1.0", "device": "cpu", "isa": "avx512vnni", "dtype": "fp32"}
        digests = {"model": MODEL, "settings": SETTINGS, "model_path": "voice.safetensors"}
        self.write(state="begin", streams=64, items=items, **{**facts, **digests, **more})
        return self

    def done(self, name: str, seconds: float, took: float) -> None:
        self.at += took
        self.done_count += 1
        samples = round(22050 * seconds)
        size = {"samples": samples, "sample_rate": 22050, "seconds": seconds}
        bits = {"bytes": 2 * samples + 44, "sha256": "0" * 64, "input": f"{samples}:{'1' * 64}"}
        keys = {"name": name, "source": f"mels/{name}.npy", "model": MODEL, "settings": SETTINGS}
        self.write(state="done", **keys, **size, **bits)

    def failed(self, name: str, error: str, kind: str = "InputError") -> None:
        self.failed_count += 1
        entry = {"name": name, "source": f"mels/{name}.npy", "error": error, "kind": kind}
        self.write(state="failed", **entry)

    def end(self, **more: Any) -> None:
        left = (self.items or 0) - self.done_count - self.failed_count
        wall = self.at - self.began
        times = {"engine_seconds": 0.9 * wall, "read_seconds": 0.05 * wall}
        times |= {"conditioning_seconds": 0.04 * wall, "waiting_seconds": 0.03 * wall}
        counts = {"done": self.done_count, "failed": self.failed_count, "left": left}
        fields = {"wall_seconds": wall, "write_seconds": 0.02 * wall, "samples": 1, **counts}
        self.write(state="end", **{**times, **fields, **more})

    def torn(self) -> None:
        """A kill in the middle of a write."""
        with self.path.open("ab") as file:
            file.write(b'{"state":"done","at":17000')


def busy_job(folder: Path, items: int = 400, *, running: bool = False) -> Path:
    """Two workers, killed in the middle and resumed an hour later, failures with hostile names."""
    rng = np.random.default_rng(0)
    workers = [Journal(folder, name).begin(items // 2) for name in ("0", "1")]
    workers[1].at += 0.5
    for i in range(items // 2):
        if i == items // 4:
            workers[1].torn()
            for number, journal in enumerate(workers):
                journal.at += 3600.0
                with journal.path.open("ab") as file:
                    file.write(b"\n" * number)  # a new run begins on a line of its own
                journal.begin(items // 2 - i)
        for number, journal in enumerate(workers):
            if number == 0 and i < len(HOSTILE):
                journal.failed(HOSTILE[i], f"The mel {HOSTILE[i]!r} holds a NaN <b>&</b>.")
                continue
            name = f"speaker{number}/utt{i:05d}.wav"
            journal.done(name, float(rng.gamma(4.0, 1.3)), float(rng.gamma(6.0, 0.02)))
        if running and i == items // 3:
            return folder
    for journal in workers:
        journal.end()
    return folder
