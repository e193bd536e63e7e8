"""Samples a second of residual models, one utterance and many, beside the prediction.

    python benchmarks/gpu_residual.py --output out.json
    python benchmarks/gpu_residual.py --device emu --sizes 64 --first-steps 8 --seconds 0.01

512 units as people run them, with 512 labels and with ten logistics, and 128 units; both number
formats, fast and exact, by the planner's choice; ticks of every stage. The first size with every
other head as well (a gaussian, a beta, four bands, labels heard with mu-law undone), with other
numbers of blocks, and for many streams side by side: 8 and the planner's choice, of a gaussian,
a beta and four bands that alone.
"""

from __future__ import annotations

import argparse
from typing import Any

import cases
import gpu_models
import gpu_record

from wavernn_fast.config import ModelConfig

SIZES = (512, 128)
USUAL: dict[str, dict[str, Any]] = {"512 labels": {"bits": 9}, "10 logistics": {"mixtures": 10}}
HEADS: dict[str, dict[str, Any]] = {
    **USUAL,
    "gaussian": {"head": "gaussian", "n_classes": 2},
    "beta": {"head": "beta", "n_classes": 2},
    # 24 kHz and 128 samples a frame, as Multiband-WaveRNN has.
    "4 bands of 512 labels": {"bits": 9, "bands": 4, "hop_length": 128, "sample_rate": 24000},
    "512 labels, mu-law undone": {"bits": 9, "feedback": "mu_law"},
}
BLOCKS = (32, 43, 64, 128)  # beside the planner's choice


def model(size: int, head: str) -> ModelConfig:
    """80 mels over five frames and an auxiliary network; 22,050 Hz but for bands."""
    fields = {"hop_length": 275, "n_mels": 80, "upsample_left": 2, "upsample_right": 2}
    aux = {"aux_size": 32, "aux_channels": 128, "aux_blocks": 10, "aux_kernel": 5}
    return cases.residual_config(
        size, size, **(fields | aux | {"sample_rate": 22050} | HEADS[head])
    )


def job(size: int, head: str, **asked: Any) -> gpu_models.Job:
    return gpu_models.Job(f"residual {size}, {head}", model(size, head), asked)


def wanted(options: argparse.Namespace) -> list[gpu_models.Job]:
    """Every row of one utterance."""
    jobs = []
    for size in options.sizes:
        for head in USUAL:
            jobs += [job(size, head, dtype=dtype, exact=False) for dtype in ("fp32", "fp16")]
            jobs.append(job(size, head, dtype="fp32", exact=True))
    for size in options.sizes[:1]:
        for head in HEADS:
            if head not in USUAL:
                jobs += [job(size, head, dtype=dtype, exact=False) for dtype in ("fp32", "fp16")]
        jobs += [
            job(size, "512 labels", dtype="fp32", exact=False, blocks=blocks)
            for blocks in gpu_models.that_fit(options.blocks, options.device)
        ]
    return jobs


def run(record: gpu_record.Record, options: argparse.Namespace) -> None:
    rows = gpu_models.measure_jobs(record, wanted(options), options)
    for size in options.sizes:
        head = "512 labels"
        gpu_models.add_stages(record, f"residual {size}, {head}", model(size, head), options)
    if options.sizes:
        size = options.sizes[0]
        crowds = [(head, n) for head in USUAL for n in (8, 0)]
        crowds += [("gaussian", 0), ("beta", 0)]
        if size >= 512:  # a smaller model has too few blocks for all its rows
            crowds.append(("4 bands of 512 labels", 0))
        models = [(f"residual {size}, {head}", model(size, head), n) for head, n in crowds]
        gpu_models.measure_crowds(record, models, options)
    if rows:
        record.result = f"{rows[0]['model']}, fp32: {rows[0]['samples_per_s']:.0f} samples/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    gpu_models.add_options(parser)
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--blocks", nargs="*", type=int, default=list(BLOCKS))
    options = parser.parse_args()
    if options.compile:
        gpu_models.compile_share(wanted(options), options.compile, options.device)
        return
    with gpu_record.Record("residual", options.output, rows=[], stages=[], many=[]) as record:
        run(record, options)


if __name__ == "__main__":
    main()
