"""Speed of a released sparse WaveRNN: 1024 units, 95 % of all matrices pruned in blocks of 4x4.

    python benchmarks/lyra_sparse.py --dtype fp32,fp16,int8 --threads 1,2 --output rows.json

The weights are those of google/lyra v0.0.2, from ../shared/data: blocks lie as unevenly as training
left them. Measured like any model by `wavernn_fast.bench`, beside eager PyTorch, which
multiplies the zeros, and printed beside what the paper (table 2) reports for such a model on two
big cores of a phone.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import lyra

from wavernn_fast.bench import tables
from wavernn_fast.bench.rows import Case
from wavernn_fast.bench.session import measure
from wavernn_fast.files import write_atomic
from wavernn_fast.machine import machine

PAPER = "19,800 samples/s on a Snapdragon 808, 29,100 on a Snapdragon 835"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="fp32,fp16,bf16,int8,int8-fast")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--streams", default="1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--output")
    args = parser.parse_args()
    if not lyra.FOLDER.is_dir():
        raise SystemExit(f"{lyra.MISSING}.")
    model = {"lyra 1024": (lyra.CONFIG, {**lyra.tensors(), **lyra.block_masks()})}
    cases = [
        Case("lyra 1024", dtype, int(threads), int(streams))
        for threads in args.threads.split(",")
        for streams in args.streams.split(",")
        for dtype in args.dtype.split(",")
    ]
    facts = machine()
    result = measure(
        model,
        cases,
        rounds=args.rounds,
        seconds=args.seconds,
        baselines="none" if args.no_baseline else "torch-eager",
    )
    print(tables.to_markdown(result, facts))
    print(f"\nThe paper, one stream, float32: {PAPER}.")
    if args.output:
        text = tables.text(result, "json", shlex.join(["python", *sys.argv]), facts)
        write_atomic(args.output, [f"{text}\n".encode()])


if __name__ == "__main__":
    main()
