"""Clients that come, go, cancel, vanish and push nonsense, for as long as asked: is anything lost?

Every stream that is read to its end must be `generate` bit for bit, and at the end nobody has a
place. Exit code 1 if not.

    python benchmarks/live_soak.py --seconds 60
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from wavernn_fast import InputError, LivePool, PoolFullError, Vocoder
from wavernn_fast.live import LiveStream
from wavernn_fast.synthetic import random_mel, random_model

WAYS = {"whole": 0.7, "cancelled": 0.15, "nonsense": 0.1, "vanished": 0.05}
MELS = 50  # different ones, whose waveforms are made once


class Soak:
    """Clients of one pool."""

    def __init__(self, voc: Vocoder, pool: LivePool, seconds: float) -> None:
        self.voc, self.pool = voc, pool
        self.end = time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.wrong: list[tuple[int, int]] = []

    def client(self, number: int) -> None:
        """One stream after the other."""
        rng = np.random.default_rng(number)
        while time.monotonic() < self.end:
            try:
                outcome = self.one(rng)
            except PoolFullError:
                outcome = "refused"
                time.sleep(0.01)
            except InputError:
                outcome = "nonsense"
            with self.lock:
                self.counts[outcome] += 1

    def one(self, rng: np.random.Generator) -> str:
        """One stream, from its beginning to one of its ends; which it was."""
        mel_number, seed = int(rng.integers(MELS)), int(rng.integers(2**63))
        way = str(rng.choice(list(WAYS), p=list(WAYS.values())))
        mel = random_mel(self.voc.config, 5 + mel_number, mel_number)
        given = mel.copy()
        if way == "nonsense":
            given[0, -1] = np.nan
        stream = self.pool.open(seed=seed)
        parts: list[Any] = list(self.pushed(stream, given, rng, way))
        if way == "cancelled":
            stream.cancel()
        if way != "whole":
            return way
        stream.finish()
        while (chunk := stream.read(60.0)) is not None:
            parts.append(chunk)
        wave = np.concatenate([np.zeros(0, np.float32), *parts])
        if wave.tobytes() != self.voc.generate(mel, seed=seed).tobytes():
            self.wrong.append((mel_number, seed))
        return way

    def pushed(
        self, stream: LiveStream, mel: Any, rng: np.random.Generator, way: str
    ) -> Iterator[Any]:
        """Push in pieces, now and then with a pause; yields what was read meanwhile."""
        first = 0
        while first < mel.shape[1]:
            count = int(rng.integers(1, 9))
            stream.push(mel[:, first : first + count])
            first += count
            time.sleep(rng.uniform(0, 0.003) * rng.integers(2))
            while stream.ready and rng.random() < 0.5:
                yield stream.read(60.0)
            if way in ("cancelled", "vanished") and rng.random() < 0.3:
                return


def soak(voc: Vocoder, seconds: float, clients: int) -> dict[str, Any]:
    """Let clients work; what came of it."""
    with LivePool(voc, max_streams=clients * 5 // 6, chunk_frames=4, buffer_seconds=0.05) as pool:
        run = Soak(voc, pool, seconds)
        threads = [threading.Thread(target=run.client, args=[i]) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = pool.stats()["streams"]
    return {"model": repr(voc), "wrong": run.wrong, "left": left, **run.counts}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of each model")
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--sizes", default="residual:32,dual-mel:32")
    args = parser.parse_args()
    results = []
    for size in args.sizes.split(","):
        results.append(soak(Vocoder(*random_model(size)), args.seconds, args.clients))
        print(json.dumps(results[-1]))
    sys.exit(any(result["wrong"] or result["left"] for result in results))


if __name__ == "__main__":
    main()
