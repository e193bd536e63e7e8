"""Samples a second of embedded models, one utterance and many, beside the prediction.

    python benchmarks/gpu_embedded.py --output out.json
    python benchmarks/gpu_embedded.py --device emu --sizes 64,48 --labels 256 --first-steps 8

896 units and output layers of 256 with 1,024 labels (univoc 0.2), 512 (0.1) and 256 (ZeroSpeech),
in both number formats; the first of them exact as well, with other numbers of blocks, and with
ticks of every stage. All of them for many streams side by side: 8 and the planner's choice.
"""

from __future__ import annotations

import argparse
from typing import Any

import cases
import gpu_models
import gpu_record

from wavernn_fast.config import ModelConfig

SIZES = "896,256"
LABELS = (1024, 512, 256)
MANY = {"dtype": "fp16", "exact": False}  # of the rows that are measured with many streams too
BLOCKS = (28, 38, 84, 112)  # beside the planner's choice


def model(sizes: str, labels: int) -> ModelConfig:
    """80 mels, 16 kHz and 200 samples a frame, as univoc has."""
    hidden, fc = map(int, sizes.split(","))
    fields = {"sample_rate": 16000, "hop_length": 200, "n_mels": 80, "embedding_size": 256}
    return cases.embedded_config(hidden, fc, labels.bit_length() - 1, **fields)


def job(sizes: str, labels: int, **asked: Any) -> gpu_models.Job:
    name = f"embedded {sizes.split(',')[0]}, {labels} labels"
    return gpu_models.Job(name, model(sizes, labels), asked)


def wanted(options: argparse.Namespace) -> list[gpu_models.Job]:
    """Every row."""
    jobs = [
        job(options.sizes, labels, dtype=dtype, exact=False)
        for labels in options.labels
        for dtype in ("fp32", "fp16")
    ]
    first = options.labels[0]
    jobs.append(job(options.sizes, first, dtype="fp32", exact=True))
    jobs += [
        job(options.sizes, first, dtype="fp32", exact=False, blocks=blocks)
        for blocks in gpu_models.that_fit(options.blocks, options.device)
    ]
    return jobs


def run(record: gpu_record.Record, options: argparse.Namespace) -> None:
    jobs = wanted(options)
    rows = gpu_models.measure_jobs(record, jobs, options)
    gpu_models.add_stages(record, jobs[0].model, jobs[0].config, options)
    crowds = [(job.model, job.config) for job in jobs if job.asked == MANY]
    gpu_models.measure_crowds(
        record, [(*model, streams) for model in crowds for streams in (8, 0)], options
    )
    if rows:
        record.result = f"{rows[0]['model']}, fp32: {rows[0]['samples_per_s']:.0f} samples/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    gpu_models.add_options(parser)
    parser.add_argument("--sizes", default=SIZES, help="units, width of the output layers")
    parser.add_argument("--labels", nargs="+", type=int, default=list(LABELS))
    parser.add_argument("--blocks", nargs="*", type=int, default=list(BLOCKS))
    options = parser.parse_args()
    if options.compile:
        gpu_models.compile_share(wanted(options), options.compile, options.device)
        return
    with gpu_record.Record("embedded", options.output, rows=[], stages=[], many=[]) as record:
        run(record, options)


if __name__ == "__main__":
    main()
