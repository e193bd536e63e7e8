"""Proof: a job that is killed with -9 at random moments ends with the bytes of one that is not.

A job of many short mels, cut from the mel of a voice of the package, is run once to its end. The
same job in another folder is killed and resumed again and again. After every kill, before it is
resumed, each file that bears a final name is compared with that of the undisturbed job; at the end
the sets are compared.

    python benchmarks/job_kills.py --output benchmarks/results/job_kills.json
    python benchmarks/job_kills.py --items 60 --kills 4
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wavernn_fast import voices
from wavernn_fast.files import write_atomic
from wavernn_fast.jobs import journal
from wavernn_fast.machine import machine


@dataclass
class Kill:
    """What was found after one kill."""

    seconds: float  # from the start of the process
    during: str  # "start" (no item begun), "work", or "end" (the job was over before)
    finished: int  # files with a final name, all of them whole
    parts: int  # files in the making that were left
    torn_lines: int  # last lines of journals that were cut


@dataclass
class Proof:
    """The job, and what became of it."""

    job: str
    items: int
    kills: list[Kill] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # files that are not those of the undisturbed


def make_mels(folder: Path, count: int, voice: str, seed: int) -> None:
    """Mels of 2 to 8 frames from all over the sentence."""
    mel, rng = voices.mel(voice), np.random.default_rng(seed)
    for i in range(count):
        frames = int(rng.integers(2, 9))
        begin = int(rng.integers(0, mel.shape[1] - frames))
        path = folder / f"{i % 10}" / f"{i:05}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, mel[:, begin : begin + frames])


def hashes(out: Path) -> dict[str, str]:
    """SHA-256 of every file with a final name."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*.wav")
    }


def killed_after(command: list[str], out: Path, wait: float, first: str) -> tuple[float, str]:
    """Start the job and kill it: `wait` seconds after its "start", "begin" or first file "done"."""
    begun = time.perf_counter()
    lines, files = journal_bytes(out), len(hashes(out))
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    reached = {
        "start": lambda: True,
        "begin": lambda: journal_bytes(out) > lines,
        "done": lambda: sum(1 for _ in out.rglob("*.wav")) > files,
    }[first]
    while process.poll() is None and not reached():
        time.sleep(0.002)
    time.sleep(wait)
    during = "work" if journal_bytes(out) > lines else "start"
    if process.poll() is not None:
        during = "end"
    process.kill()
    process.wait()
    return time.perf_counter() - begun, during


def journal_bytes(out: Path) -> int:
    """Size of all journals, which grows when a worker begins."""
    return sum(path.stat().st_size for path in journal.journals(out))


def torn(out: Path) -> int:
    """How many journals end within a line."""
    ends = [path.read_bytes()[-1:] for path in journal.journals(out)]
    return sum(1 for end in ends if end not in (b"", b"\n"))


def prove(args: argparse.Namespace, work: Path) -> tuple[Proof, dict[str, Any]]:
    """Run both jobs; see the module."""
    make_mels(work / "mels", args.items, args.voice, args.seed)
    command = [sys.executable, "-m", "wavernn_fast", "-q", "vocode", str(work / "mels")]
    command += ["-m", args.voice, "--device", "cpu", "--streams", str(args.streams), "-o"]
    begun = time.perf_counter()
    subprocess.run([*command, str(work / "whole")], check=True)
    undisturbed = time.perf_counter() - begun
    expected, out = hashes(work / "whole"), work / "killed"
    assert len(expected) == args.items
    options = f"-m {args.voice} --device cpu --streams {args.streams}"
    proof = Proof(f"wavernn-fast -q vocode mels/ {options} -o out/ --resume", args.items)
    resume, rng = [*command, str(out), "--resume"], random.Random(args.seed)
    while len(proof.kills) < args.kills:
        first = rng.choices(("start", "begin", "done"), (1, 4, 5))[0]
        most = 1.0 if first == "start" else args.share * undisturbed / args.kills
        seconds, during = killed_after(resume, out, rng.uniform(0, most), first)
        found = hashes(out)
        proof.wrong += [name for name, digest in found.items() if expected.get(name) != digest]
        parts = sum(1 for path in out.rglob(".*") if ".part-" in path.name)
        proof.kills.append(Kill(round(seconds, 3), during, len(found), parts, torn(out)))
        print(len(proof.kills), proof.kills[-1], file=sys.stderr)
    last = subprocess.run(resume, check=False).returncode
    final = hashes(out)
    proof.wrong += [name for name in expected if final.get(name) != expected[name]]
    times = Counter(line["name"] for path in journal.journals(out) for line in journal.lines(path)
                    if line["state"] == "done")  # fmt: skip
    return proof, {
        "exit_code": last,
        "identical": final == expected,
        "parts_left": sum(1 for path in out.rglob(".*") if ".part-" in path.name),
        "undisturbed_seconds": round(undisturbed, 2),
        "kills_during_work": sum(1 for kill in proof.kills if kill.during == "work"),
        "items_made_twice": sum(1 for count in times.values() if count > 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--voice", default=voices.DEFAULT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--streams", type=int, default=8, help="few: an item often ends")
    parser.add_argument("--share", type=float, default=1.3, help="of the work between two kills")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        proof, end = prove(args, Path(folder))
    result = {
        "benchmark": "job_kills",
        "command": "python " + shlex.join(sys.argv),
        "machine": machine(),
        **end,
        **dataclasses.asdict(proof),
    }
    text = json.dumps(result, indent=1) + "\n"
    if args.output is not None:
        write_atomic(args.output, [text.encode()])
    print(json.dumps({**end, "kills": len(proof.kills), "wrong": len(proof.wrong)}))
    return 0 if end["identical"] and not proof.wrong and end["exit_code"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
