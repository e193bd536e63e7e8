"""The paper's claim at small scale: at the same number of weights, large and sparse beats small.

Trains one small dense model, larger ones pruned to its number of weights in blocks of several
shapes, and the small one without a mel, all on the same segments for the same number of updates,
and scores each on the held-out recordings with the engine. Takes about an hour on two cores.

    python benchmarks/sparsity.py RECORDINGS -o runs/sparsity --output results.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wavernn_fast import Vocoder, audio, features, weights
from wavernn_fast.canonical import mask_name, without_masks
from wavernn_fast.files import write_atomic
from wavernn_fast.machine import machine

SMALL = 64  # hidden size of the dense model that the others are pruned to
LARGE = (128, 224)
BLOCKS = ("1x1", "4x4", "16x1")
COUNTED = (
    "gru.w_recurrent",
    *(f"{half}_{layer}.weight" for half in ("coarse", "fine") for layer in ("fc1", "fc2")),
)


@dataclass(frozen=True)
class Run:
    """One model to train."""

    name: str
    hidden: int
    sparsity: float = 0.0
    block: str = ""
    conditioned: bool = True


def core_weights(hidden: int) -> int:
    """Weights of R and O1 to O4 when the output layers are half as wide as the state."""
    half = hidden // 2
    return 3 * hidden * hidden + 2 * (half * half + half * 256)


def plan() -> list[Run]:
    """All runs, the long ones first so that two at a time end together."""
    target = core_weights(SMALL)
    sparse = [
        Run(f"{size} in {block}", size, round(1.0 - target / core_weights(size), 4), block)
        for size in sorted(LARGE, reverse=True)
        for block in BLOCKS
    ]
    dense = [Run(f"{SMALL} dense", SMALL), Run(f"{SMALL} unconditioned", SMALL, conditioned=False)]
    return sparse + dense


def train(run: Run, args: argparse.Namespace) -> Path:
    """Train in a process of one thread; a run that was interrupted goes on."""
    folder = Path(args.folder) / run.name.replace(" ", "-")
    command = [sys.executable, "-m", "wavernn_fast", "train", args.data, "-o", str(folder)]
    command += ["--held-out", str(args.held_out), "--threads", "1", "--device", "cpu", "-q"]
    if (folder / "state.pt").exists():
        command += ["--resume"]
    else:
        command += ["--steps", str(args.steps), "--batch", str(args.batch)]
        command += ["--hidden", str(run.hidden), "--fc", str(run.hidden // 2)]
        command += ["--lr", "2e-3", "--lr-warmup", "100", "--ema", "0.99"]
        if run.sparsity:
            command += ["--prune", str(run.sparsity), "--prune-block", run.block]
            command += ["--prune-start", str(args.steps // 10)]
            command += ["--prune-length", str(args.steps // 2), "--prune-every", "20"]
        if not run.conditioned:
            command += ["--unconditioned"]
    with (Path(args.folder) / f"{folder.name}.txt").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return folder


def judge(run: Run, folder: Path, data: Path) -> dict[str, Any]:
    """Held-out NLL by the engine, and the weights that are really there."""
    config, tensors = weights.read(folder / "model.safetensors")
    voc = Vocoder(config, tensors, cpu_threads=1)
    facts = json.loads((folder / "run.json").read_text())
    total = samples = 0.0
    for name in facts["held_out"]["names"]:
        wave, _ = audio.read_wav(next(data.rglob(name)), config.sample_rate)
        wave = wave[: len(wave) // 240 * 240]
        mel = features.log_mel(wave, config.mel)[:, : len(wave) // 240] if config.mel else None
        total += voc.score(mel, wave) * len(wave)
        samples += len(wave)
    plain = without_masks(tensors)
    kept = sum(
        int(np.count_nonzero(plain[name]))
        if mask_name(name) not in tensors
        else int(tensors[mask_name(name)].sum()) * int(np.prod(config.block_shape or (1, 1)))
        for name in COUNTED
    )
    return {
        "name": run.name,
        "hidden_size": run.hidden,
        "block": run.block,
        "sparsity": run.sparsity,
        "weights": kept,
        "nll": total / samples,
        "steps": facts["settings"]["steps"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("-o", dest="folder", required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--held-out", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output")
    args = parser.parse_args()
    Path(args.folder).mkdir(parents=True, exist_ok=True)
    runs = plan()
    with ThreadPoolExecutor(args.jobs) as pool:
        folders = list(pool.map(lambda run: train(run, args), runs))
    rows = [judge(run, folder, Path(args.data)) for run, folder in zip(runs, folders, strict=True)]
    rows.sort(key=lambda row: (row["hidden_size"], row["block"]))
    print("| model | block | pruned | weights | held-out nats a sample |\n|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['name']} | {row['block']} | {row['sparsity']:.1%} | {row['weights']:,} | "
            f"{row['nll']:.4f} |"
        )
    if args.output:
        command = " ".join(["python", *sys.argv])
        report = {"command": command, "machine": machine(), "rows": rows}
        write_atomic(args.output, [(json.dumps(report, indent=2) + "\n").encode()])


if __name__ == "__main__":
    main()
