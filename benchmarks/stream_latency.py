"""How long the first sound of a stream takes, and how many live streams keep up with real time.

First chunk: from the call until as many samples as a chunk has are there, for a newcomer beside
streams that always have frames and are always read (the worst company). Pull: `Vocoder.stream` in a
thread each. Push: `LivePool`, all frames at once.

Real time: frames of every stream come one by one at the speed of their sound; a player starts with
the first chunk. `delay` is how much later the worst of the players must have started to never run
dry; streams keep up where that stays below a fifth of a second.

All cases take turns, several times; of every figure the best and the median run are told, as other
programs of a shared machine only ever make a run slower.

    python benchmarks/stream_latency.py --output results.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wavernn_fast import LivePool, Vocoder, voices
from wavernn_fast.audio import read_mel
from wavernn_fast.files import write_atomic
from wavernn_fast.live import LiveStream
from wavernn_fast.machine import machine

KEEPS_UP = 0.2  # seconds of delay
BUFFER_SECONDS = 1.0
MOST_PULLED = 320  # streams x frames: threads that pull more make each other wait for minutes


def sentence(args: argparse.Namespace) -> Any:
    """The mel that all streams speak."""
    return read_mel(args.mel) if args.mel else voices.mel(voices.DEFAULT)


# --- company --------------------------------------------------------------------------------------


@contextlib.contextmanager
def pulling(voc: Vocoder, mel: Any, n: int, chunk: int) -> Iterator[None]:
    """Streams that are pulled without a pause, in a thread each."""
    stop = threading.Event()

    def work(seed: int) -> None:
        while not stop.is_set():
            for _ in voc.stream(mel, seed=seed, chunk_frames=chunk):
                if stop.is_set():
                    return

    threads = [threading.Thread(target=work, args=[i]) for i in range(n)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def drain(stream: LiveStream) -> int:
    """Read what is there; returns the number of samples."""
    count = 0
    while stream.ready:
        chunk = stream.read(0)
        count += 0 if chunk is None else len(chunk)
    return count


@contextlib.contextmanager
def pushing(pool: LivePool, mel: Any, n: int) -> Iterator[None]:
    """Streams of a pool that always have frames and are always read, all in one thread."""
    stop = threading.Event()
    streams = [pool.open(seed=i) for i in range(n)]

    def work() -> None:
        while not stop.wait(0.01):
            for stream in streams:
                wanted = stream.wanted
                if wanted > mel.shape[1] // 4:
                    stream.push(mel[:, :wanted])
                drain(stream)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for stream in streams:
            stream.cancel()


# --- first chunk ----------------------------------------------------------------------------------


def again(tries: int, seconds: float) -> Iterator[int]:
    """Numbers of tries, until so many have been made or the time is over; one at least."""
    end = time.perf_counter() + seconds
    for i in range(tries):
        yield i
        if time.perf_counter() > end:
            return


def first_pulled(voc: Vocoder, mel: Any, n: int, chunk: int, tries: Iterator[int]) -> list[float]:
    """Seconds until the first chunk of a stream beside n - 1 others."""
    found = []
    with pulling(voc, mel, n - 1, chunk):
        time.sleep(0.2)
        for i in tries:
            begun = time.perf_counter()
            next(voc.stream(mel, seed=1000 + i, chunk_frames=chunk))
            found.append(time.perf_counter() - begun)
    return found


def first_pushed(voc: Vocoder, mel: Any, n: int, chunk: int, tries: Iterator[int]) -> list[float]:
    """The same of a pool: until so many samples can be read."""
    found, size = [], chunk * voc.config.hop_length
    pool = LivePool(voc, chunk_frames=chunk, buffer_seconds=BUFFER_SECONDS)
    with pool, pushing(pool, mel, n - 1):
        time.sleep(0.3)
        for i in tries:
            begun, count = time.perf_counter(), 0
            with pool.open(seed=1000 + i) as stream:
                stream.push(mel)
                stream.finish()
                while count < size:
                    piece = stream.read(60.0)
                    assert piece is not None
                    count += len(piece)
                found.append(time.perf_counter() - begun)
    return found


def rtf_of(voc: Vocoder, mel: Any, chunk: int) -> float:
    """Seconds of work for a second of one pulled stream."""
    begun = time.perf_counter()
    samples = sum(len(part) for part in voc.stream(mel[:, :150], chunk_frames=chunk))
    return (time.perf_counter() - begun) * voc.sample_rate / samples


# --- real time ------------------------------------------------------------------------------------


class Player:
    """Reads a live stream and notes how late its sound is."""

    def __init__(self, stream: LiveStream, rate: int) -> None:
        self.stream, self.rate = stream, rate
        self.started: float | None = None
        self.samples, self.delay, self.first = 0, 0.0, 0.0

    def look(self, now: float, begun: float) -> None:
        """Take what is there."""
        count = drain(self.stream)
        if not count:
            return
        if self.started is None:
            self.started, self.first = now, now - begun
        self.delay = max(self.delay, now - self.started - self.samples / self.rate)
        self.samples += count

    def at_the_end(self, now: float, begun: float) -> float:
        """The delay, with that of the sound that has not come."""
        started = begun if self.started is None else self.started
        return max(self.delay, now - started - self.samples / self.rate)


def real_time(voc: Vocoder, mel: Any, n: int, chunk: int, seconds: float) -> dict[str, float]:
    """Frames of n streams at the speed of their sound; the worst delay and the first sound."""
    step = voc.config.hop_length / voc.sample_rate
    with LivePool(voc, chunk_frames=chunk, max_streams=n) as pool:
        players = [Player(pool.open(seed=i), voc.sample_rate) for i in range(n)]
        begun, pushed = time.perf_counter(), 0
        while (now := time.perf_counter()) - begun < seconds:
            due = int((now - begun) / step) + 1
            while pushed < due:
                frame = mel[:, pushed % mel.shape[1]]
                for player in players:
                    player.stream.push(frame)
                pushed += 1
            for player in players:
                player.look(time.perf_counter(), begun)
            time.sleep(0.002)
        delays = [player.at_the_end(time.perf_counter(), begun) for player in players]
    return {"delay": max(delays), "first": max(player.first for player in players)}


# --- table ----------------------------------------------------------------------------------------


def told(runs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Best and median run, each with the median and the 95th percentile of its tries."""
    medians = [statistics.median(run) for run in runs]
    tails = [float(np.percentile(run, 95)) for run in runs]
    best = int(np.argmin(medians))
    return {
        "tries": sum(map(len, runs)),
        "least": min(map(min, runs)),
        "best_median": medians[best],
        "best_p95": tails[best],
        "median_median": statistics.median(medians),
        "median_p95": statistics.median(tails),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, in turns."""
    voc, mel = Vocoder.from_pretrained(args.model, cpu_threads=args.threads), sentence(args)
    chunks = [int(n) for n in args.chunks.split(",")]
    streams = [int(n) for n in args.streams.split(",")]
    ways = {"pull": first_pulled, "push": first_pushed}
    cases = [
        (way, n, chunk)
        for n in streams
        for chunk in chunks
        for way in ways
        if way == "push" or n * chunk <= MOST_PULLED
    ]
    first: dict[Any, list[list[float]]] = {case: [] for case in cases}
    crowds = [int(n) for n in args.crowds.split(",")]
    live: dict[int, list[dict[str, float]]] = {n: [] for n in crowds}
    rtfs: dict[int, list[float]] = {chunk: [] for chunk in chunks}
    for turn in range(args.turns):
        for case in cases if turn % 2 == 0 else reversed(cases):
            way, n, chunk = case
            tries = again(args.tries, args.seconds)
            first[case].append(ways[way](voc, mel, n, chunk, tries))
        for chunk in chunks:
            rtfs[chunk].append(rtf_of(voc, mel, chunk))
        for n in crowds:
            live[n].append(real_time(voc, mel, n, voc.chunk_frames(None), args.seconds))
        print(f"turn {turn + 1} of {args.turns}, load {os.getloadavg()[0]}", file=sys.stderr)
    return {
        "vocoder": repr(voc),
        "facts": voc.stream_facts().to_dict(),
        "first_chunk_seconds": [
            {"way": way, "streams": n, "chunk_frames": chunk, **told(first[way, n, chunk])}
            for way, n, chunk in cases
        ],
        "pulled": [
            {
                "chunk_frames": chunk,
                "best_rtf": min(rtfs[chunk]),
                "median_rtf": statistics.median(rtfs[chunk]),
            }
            for chunk in chunks
        ],
        "real_time": [
            {
                "streams": n,
                "best_delay": min(run["delay"] for run in live[n]),
                "median_delay": statistics.median(run["delay"] for run in live[n]),
                "median_first": statistics.median(run["first"] for run in live[n]),
            }
            for n in crowds
        ],
        "keeps_up": {
            which: max((n for n in crowds if delay(live[n]) < KEEPS_UP), default=0)
            for which, delay in (("best", _best), ("median", _median))
        },
    }


def _best(runs: Sequence[dict[str, float]]) -> float:
    return min(run["delay"] for run in runs)


def _median(runs: Sequence[dict[str, float]]) -> float:
    return statistics.median(run["delay"] for run in runs)


def cell(row: dict[str, Any]) -> str:
    """One case, in milliseconds."""
    figures = ("least", "best_median", "best_p95", "median_median", "median_p95")
    ms = {name: f"{1000 * row[name]:.0f}" for name in figures}
    return (
        f"{ms['least']}, {ms['best_median']} / {ms['best_p95']} "
        f"({ms['median_median']} / {ms['median_p95']})"
    )


def table(report: dict[str, Any]) -> str:
    """Figures as Markdown, in milliseconds: the least, best run, median run (each median / p95)."""
    rows = report["first_chunk_seconds"]
    counts = list(dict.fromkeys(row["streams"] for row in rows))
    lines = ["| way | chunk | " + " | ".join(f"{n} streams" for n in counts) + " |"]
    lines.append("|---" * (len(counts) + 2) + "|")
    frame = report["facts"]["frame_ms"]
    for way, chunk in dict.fromkeys((row["way"], row["chunk_frames"]) for row in rows):
        cells = {
            row["streams"]: cell(row)
            for row in rows
            if (row["way"], row["chunk_frames"]) == (way, chunk)
        }
        shown = " | ".join(cells.get(n, "") for n in counts)
        lines.append(f"| {way} | {chunk} ({chunk * frame:.0f} ms) | {shown} |")
    lines += ["", "| chunk, one pulled stream | real-time factor, best run | median run |"]
    lines.append("|---" * 3 + "|")
    for row in report["pulled"]:
        lines.append(f"| {row['chunk_frames']} | {row['best_rtf']:.3f} | {row['median_rtf']:.3f} |")
    lines += [
        "",
        "| streams in real time | delay, best run | median run | first sound |",
        "|---" * 4 + "|",
    ]
    for row in report["real_time"]:
        lines.append(
            f"| {row['streams']} | {1000 * row['best_delay']:.0f} ms | "
            f"{1000 * row['median_delay']:.0f} ms | {1000 * row['median_first']:.0f} ms |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="kerstin")
    parser.add_argument("--mel", help="of the model; default: the sentence of the demo")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--chunks", default="1,2,5,10,20")
    parser.add_argument("--streams", default="1,8,64")
    parser.add_argument("--crowds", default="1,2,4,6,8,10,12,14,16")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tries", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--output")
    args = parser.parse_args()
    report = {"command": shlex.join(["python", *sys.argv]), "machine": machine()}
    report |= measure(args)
    print(table(report))
    print(f"keeps up: {report['keeps_up']}")
    if args.output:
        write_atomic(args.output, [(json.dumps(report, indent=2, sort_keys=True) + "\n").encode()])


if __name__ == "__main__":
    main()
