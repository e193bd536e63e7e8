"""Time the package's baselines alone, one line each, after a check against the float64 reference.

    python benchmarks/baselines.py --peers torch-inference onnx-scan --batch 32 --threads 2
    python benchmarks/baselines.py --model residual:512 --seconds 5

`wavernn-fast bench` times them beside the engine in one interleaved session; this program is for
trying one, and what the GPU programs take `check` from.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "tests")]

import reference  # noqa: E402

from wavernn_fast.baselines import BASELINES, Baseline, make  # noqa: E402
from wavernn_fast.config import ModelConfig  # noqa: E402
from wavernn_fast.synthetic import random_mel, random_model  # noqa: E402

CHECK_STEPS = 48  # long enough for every weight to have acted through the recurrence
CHUNK_STEPS = 200  # steps between two looks at the clock, divided by the batch, at least 20


def mel_of(config: ModelConfig, n_steps: int) -> NDArray[np.float32] | None:
    """Frames that cover `n_steps` samples; None for a model without conditioning."""
    if not config.n_mels:
        return None
    around = config.lookback_frames + config.lookahead_frames if config.pad == "none" else 0
    return random_mel(config, -(-n_steps // config.hop_length) + around)


def check(baseline: Baseline) -> float:
    """Return the largest |logit - reference| of the first and last stream's own samples.

    Raises
    ------
    RuntimeError
        If a logit is not finite or the streams all drew the same samples.
    """
    config, name = baseline.config, baseline.name
    mel = mel_of(config, CHECK_STEPS)
    samples, logits = baseline.sample(CHECK_STEPS, mel, keep_logits=True)
    if logits is None or not np.isfinite(logits).all():
        raise RuntimeError(f"{name}: a logit is not finite.")
    if baseline.streams > 1 and (samples[0] == samples[-1]).all():
        raise RuntimeError(f"{name}: every stream drew the same samples.")
    worst = 0.0
    for b in {0, baseline.streams - 1}:
        expected = reference.run(
            config, baseline.tensors, mel, n_steps=CHECK_STEPS, forced=samples[b]
        )["logits"]
        worst = max(worst, float(np.abs(logits[b] - expected).max()))
    return worst


def run(baseline: Baseline, n_steps: int) -> int:
    """Sample `n_steps` steps of every stream; returns the number of samples made."""
    samples = baseline.sample(n_steps, mel_of(baseline.config, n_steps)).samples
    if samples.shape != (baseline.streams, n_steps):
        wanted = (baseline.streams, n_steps)
        raise RuntimeError(f"{baseline.name} made {samples.shape}, not {wanted}.")
    return int(samples.size)


def samples_per_s(baseline: Baseline, seconds: float) -> float:
    """Samples a second of all streams together, over at least `seconds` after a warm-up."""
    steps = max(20, CHUNK_STEPS // baseline.streams)
    run(baseline, steps)
    made, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not made:
        made += run(baseline, steps)
    return made / elapsed


def main() -> None:
    """Check and time every baseline at the given batches; one line each."""
    on_cpu = [name for name, baseline in BASELINES.items() if "cpu" in baseline.devices]
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--peers", nargs="+", choices=on_cpu, help="default: all of the model")
    parser.add_argument("--model", default="dual:896", help="as for `wavernn-fast bench --size`")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    config, tensors = random_model(options.model)
    names = options.peers or [name for name in on_cpu if BASELINES[name].supports(config)]
    print(f"{'baseline':18s} {'batch':>5s} {'threads':>7s} {'logit error':>12s} {'samples/s':>10s}")
    for name in names:
        for batch in options.batch:
            baseline = make(name, config, tensors, streams=batch, threads=options.threads)
            error, rate = check(baseline), samples_per_s(baseline, options.seconds)
            print(f"{name:18s} {batch:5d} {options.threads:7d} {error:12.1e} {rate:10.0f}")


if __name__ == "__main__":
    main()
