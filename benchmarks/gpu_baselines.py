"""Other ways to sample a dual-softmax WaveRNN on a GPU, to set the persistent kernel beside.

    python benchmarks/gpu_baselines.py --output out.json
    python benchmarks/gpu_baselines.py --device cpu --hidden 64 --seconds 0.2   # the same code here

They are the baselines of the package (docs/baselines.md). Each must first agree with the float64
reference on its own samples (`baselines.check`). On a CPU nothing is captured: the step that a
graph would replay is called instead.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import baselines
import cases
import gpu_record
import torch

from wavernn_fast.baselines import BASELINES, Baseline
from wavernn_fast.baselines.cuda_graph import STEPS_A_REPLAY

WORST_LOGIT_ERROR = 1e-3  # of a row that may be shown; fp32 gives about 1e-5

# name in the tables -> of the package
PEERS = {
    "torch eager": "torch-eager",
    "torch fused": "torch-inference",
    "torch.compile": "torch-compile",
    "cupy": "cupy",
    "torch CUDA graph": "cuda-graph",
    "torch.compile, CUDA graph": "cuda-graph-compiled",
}
USUAL = [name for name in PEERS if name != "torch.compile"]  # compiles long, captured it is faster


def make(name: str, device: str, batch: int, hidden: int) -> Baseline:
    """Build a baseline with its weights on the device; on a CPU, what stands for it there."""
    config = cases.dual_config(hidden, hidden // 2, sample_rate=24000)
    found = BASELINES[PEERS[name]]
    if device == "cpu" and "cpu" not in found.devices:
        found = BASELINES["numpy"] if name == "cupy" else found
        found = type(name, (found,), {"devices": ("cpu",), "__doc__": found.__doc__})
    return found(config, cases.random_tensors(config, 0), streams=batch, device=device)


def measure(name: str, peer: Baseline, seconds: float) -> dict[str, Any]:
    """Check, then time: samples a second of all streams, the median of five runs of a fifth."""
    error = baselines.check(peer)
    if not error < WORST_LOGIT_ERROR:
        raise RuntimeError(f"{name}: logits are off by {error}, at most {WORST_LOGIT_ERROR}")
    n, took = STEPS_A_REPLAY, 0.0
    timed(peer, n)
    while (took := timed(peer, n)) < seconds / 20 and n < 1 << 20:
        n *= 2
    n = max(STEPS_A_REPLAY, round(n * seconds / 5 / took / STEPS_A_REPLAY) * STEPS_A_REPLAY)
    times = sorted(timed(peer, n) for _ in range(5))
    made = n * peer.streams
    return {
        "name": name,
        "batch": peer.streams,
        "samples_per_s": made / times[2],
        "samples_per_s_best": made / times[0],
        "samples_per_s_worst": made / times[-1],
        "logit_error": error,
        "n_steps": n,
    }


def timed(peer: Baseline, n_steps: int) -> float:
    """Seconds for `n_steps`; the samples have arrived on the host when they end."""
    begin = time.perf_counter()
    baselines.run(peer, n_steps)
    return time.perf_counter() - begin


def run(record: gpu_record.Record, options: argparse.Namespace) -> None:
    for batch in options.batch:
        for name in options.peers:
            with record.attempt(f"{name}, batch {batch}"):
                peer = make(name, options.device, batch, options.hidden)
                row = measure(name, peer, options.seconds)
                record["rows"].append(row)
                print(
                    f"{name:26s} batch {batch:3d} {row['samples_per_s']:10.0f} samples/s, "
                    f"largest logit error {row['logit_error']:.1e}",
                    flush=True,
                )
            record.save()
    best = max(record["rows"], key=lambda r: r["samples_per_s"] * (r["batch"] == 1), default=None)
    if best:
        record.result = f"fastest of batch 1: {best['name']}, {best['samples_per_s']:.0f} samples/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--peers", nargs="+", default=USUAL, choices=list(PEERS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one peer")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    with gpu_record.Record("baselines", options.output, rows=[]) as record:
        run(record, options)


if __name__ == "__main__":
    main()
