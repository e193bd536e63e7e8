"""What one machine does to a job beside its engine: the inputs of `scale_model.py`.

Processor time of one thread for a second of audio (conditioning, decoding) and for an item
(reading, encoding, a line of the journal). Wall time of the rest: files a second that are written,
brought to the disk and renamed; items a second that a process can deal out to children; what a
resume costs.
Every figure is the best of several rounds: on a machine that others use as well, that is the one
that tells of the program.

    python benchmarks/scale_inputs.py --output benchmarks/results/scale_inputs.json
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from wavernn_fast import audio
from wavernn_fast.conditioning_network import make_conditioner
from wavernn_fast.files import write_atomic
from wavernn_fast.jobs import journal, parts
from wavernn_fast.jobs.child import ChildWorker
from wavernn_fast.jobs.identity import identity, model_hash
from wavernn_fast.jobs.items import Item
from wavernn_fast.jobs.plan import RESUME, make_plan
from wavernn_fast.jobs.settings import Settings
from wavernn_fast.jobs.stop import Stop
from wavernn_fast.jobs.work import Outcome
from wavernn_fast.machine import machine
from wavernn_fast.rows_ahead import FRAMES
from wavernn_fast.samples import OutputDecoder
from wavernn_fast.synthetic import random_mel, random_model
from wavernn_fast.weights import write as write_model

MODELS = ("dual-mel:896", "residual:512", "embedded:896")
SECONDS = 5.0  # of an item
FIELDS = {
    "input": "1",
    "model": "2" * 64,
    "settings": "3" * 64,
    "samples": 110_000,
    "sha256": "4" * 64,
}


def best(
    rounds: int, work: Callable[[], int], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one piece of work of those that a call does; the best call."""
    each = []
    for _ in range(rounds):
        begun = clock()
        count = work()
        each.append((clock() - begun) / count)
    return min(each)


def processor_time(spec: str, rounds: int) -> dict[str, float]:
    """Seconds of one thread for a second of audio, of what the engine does not do."""
    config, tensors = random_model(spec)
    frames = round(SECONDS * config.sample_rate / config.hop_length)
    mel = random_mel(config, frames)
    conditioner = make_conditioner(config, tensors)
    samples = np.random.default_rng(0).integers(0, 256, frames * config.hop_length, np.int32)
    step = FRAMES  # as the engine asks

    def condition() -> int:
        rows = conditioner.of(mel)
        for first in range(0, frames, step):
            rows(first, min(step, frames - first))
        return 1

    def decode() -> int:
        decoder = OutputDecoder(config, len(samples))
        for first in range(0, len(samples), 4096):
            decoder.push(samples[first : first + 4096])
        return 1

    audio_seconds = len(samples) / config.sample_rate
    return {
        "sample_rate": config.sample_rate,
        "mel_bytes_per_audio_s": 4 * config.n_mels * config.sample_rate / config.hop_length,
        "wav_bytes_per_audio_s": 2 * config.sample_rate,
        "conditioning_s_per_audio_s": best(rounds, condition, time.thread_time) / audio_seconds,
        "decoding_s_per_audio_s": best(rounds, decode, time.thread_time) / audio_seconds,
    }


def files(folder: Path, rounds: int, count: int) -> dict[str, float]:
    """Reading a mel, encoding and writing a wave, one line of a journal."""
    mel = np.random.default_rng(0).random((80, 400), dtype=np.float32)
    wave = np.random.default_rng(1).uniform(-0.5, 0.5, 110_000).astype(np.float32)  # 5 s
    np.save(folder / "mel.npy", mel)
    data = b"".join(audio.encode(wave, 22050, ".wav", "PCM_16"))

    def read() -> int:
        for _ in range(50):
            identity(folder / "mel.npy")
            audio.read_mel(folder / "mel.npy")
        return 50

    def encode() -> int:
        for _ in range(20):
            b"".join(audio.encode(wave, 22050, ".wav", "PCM_16"))
        return 20

    def write(threads: int) -> Callable[[], int]:
        def one(number: int) -> None:
            parts.write(folder / f"{number}.wav", [data], "0of1")

        def many() -> int:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(one, range(count)))
            return count

        return many

    book = journal.Journal(folder, "0of1")

    def note() -> int:
        for i in range(1000):
            book.write("done", name=f"{i:06}.wav", source="mels/x.npy", bytes=1, **FIELDS)
        return 1000

    result = {
        "wav_bytes": len(data),
        "read_s": best(rounds, read, time.thread_time),
        "encode_s": best(rounds, encode, time.thread_time),
        "write_s_1_thread": best(rounds, write(1)),
        "write_s_4_threads": best(rounds, write(4)),
        "write_s_16_threads": best(rounds, write(16)),
        "journal_line_s": best(rounds, note, time.thread_time),
    }
    book.close()
    result["journal_line_bytes"] = book.path.stat().st_size / (1000 * rounds)
    return result


def resuming(folder: Path, count: int) -> dict[str, float]:
    """Seconds of a resume for an item that is done: its line, its file's length, its input."""
    config, tensors = random_model("residual:32")
    write_model(folder / "voice.safetensors", config, tensors)
    settings = Settings(str(folder / "voice.safetensors"))
    mel = np.zeros((80, 400), np.float32)
    items, book = [], journal.Journal(folder, "0of1")
    fields = {**FIELDS, "model": model_hash(settings.model), "settings": settings.digest()}
    for i in range(count):
        item = Item(str(folder / f"{i}.npy"), str(folder / f"{i}.wav"), f"{i}.wav")
        np.save(item.source, mel)
        Path(item.target).write_bytes(b"123")
        fields["input"] = identity(item.source)
        book.write("done", name=item.name, source=item.source, bytes=3, **fields)
        items.append(item)
    book.close()

    def plan() -> int:
        found = make_plan(items, settings, folder, RESUME, Stop())
        assert len(found.skipped) == count
        return count

    def read() -> int:
        assert len(journal.finished(folder)) == count
        return count

    return {"resume_s_per_item": best(3, plan), "of_these_journal_s": best(3, read)}


class Nothing:
    """A worker in a child that does nothing: what remains is the dealing out."""

    def __init__(self, settings: Settings, root: str, worker: str, **how: object) -> None:
        pass

    def run(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """Every item is done at once."""
        for item in items:
            yield Outcome(item.name, "done", {"source": item.source, **FIELDS})


def dealing(folder: Path, children: int, count: int) -> float:
    """Items a second that one process deals out to children and hears of."""
    items = [Item(f"mels/{i:07}.npy", f"out/{i:07}.wav", f"{i:07}.wav") for i in range(count)]
    worker = ChildWorker(
        Settings("voice"), str(folder), "0of1", devices=("cpu",) * children, make=Nothing
    )
    outcomes = worker.run(items)
    next(outcomes)
    begun = time.perf_counter()
    heard = sum(1 for _ in outcomes)
    return heard / (time.perf_counter() - begun)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="On the file system to be measured.")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        for below in ("files", "resume", "deal"):
            (folder / below).mkdir()
        result: dict[str, Any] = {
            "benchmark": "scale_inputs",
            "command": "python " + shlex.join(sys.argv),
            "machine": machine(),
            "models": {spec: processor_time(spec, args.rounds) for spec in MODELS},
            "files": files(folder / "files", args.rounds, args.files),
            "resume": resuming(folder / "resume", 2000),
            "dealing_items_per_s": {
                str(n): max(dealing(folder / "deal", n, 4000) for _ in range(3)) for n in (1, 2, 8)
            },
        }
        facts = os.statvfs(folder)
        result["file_system_block"] = facts.f_bsize
    if args.output is not None:
        write_atomic(args.output, [(json.dumps(result, indent=1) + "\n").encode()])
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    # Children find `Nothing` by the name of this module.
    import scale_inputs

    sys.exit(scale_inputs.main())
