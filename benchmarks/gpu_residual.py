"""Samples a second of residual models, one utterance and many, beside the prediction.

    python benchmarks/gpu_residual.py --output out.json
    python benchmarks/gpu_residual.py --device emu --sizes 64 --first-steps 8 --seconds 0.01

512 units as people run them, with 512 labels and with ten logistics, and 128 units; both number
formats, fast and exact, the planner's choice and other numbers of blocks; ticks of every stage.
The first size for many streams side by side: 8 and the planner's choice.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cases
import gpu_models
import gpu_record

from wavernn_fast.config import ModelConfig

SIZES = (512, 128)
HEADS: dict[str, dict[str, Any]] = {"512 labels": {"bits": 9}, "10 logistics": {"mixtures": 10}}
BLOCKS = (32, 43, 64, 128)  # beside the planner's choice


def model(size: int, head: str) -> ModelConfig:
    """80 mels over five frames and an auxiliary network, 22,050 Hz."""
    fields = {"hop_length": 275, "n_mels": 80, "upsample_left": 2, "upsample_right": 2}
    aux = {"aux_size": 32, "aux_channels": 128, "aux_blocks": 10, "aux_kernel": 5}
    return cases.residual_config(size, size, **HEADS[head], **fields, **aux, sample_rate=22050)


def row_of(options: argparse.Namespace, size: int, head: str, **asked: Any) -> dict[str, Any]:
    voice = gpu_models.Voice(model(size, head), device=options.device, **asked)
    row: dict[str, Any] = {"model": f"residual {size}, {head}", **asked}
    row["plan"] = voice.engine.describe()
    return row | gpu_models.measure(voice, options.seconds, options.repeats, options.first_steps)


class Crowd(gpu_models.Voice):
    """As many streams as the engine has places, all under the same conditioning."""

    def run(self, n_steps: int, **options: Any) -> Any:
        interp, hold = self.conditioning(n_steps)
        count = self.engine.lanes
        if not hasattr(self, "streams"):
            self.streams = [self.engine.open(seed) for seed in range(count)]
        rows = [interp] * count, [hold] * count
        return self.engine.run(self.streams, [n_steps] * count, *rows, **options)[0]


def crowd_of(options: argparse.Namespace, size: int, head: str, streams: int) -> dict[str, Any]:
    asked: dict[str, Any] = {"dtype": "fp16", "exact": False, "streams": streams}
    room = {"isa": "fair/room:8"} if options.device == "emu" else {}  # few teams
    crowd = Crowd(model(size, head), device=options.device, **asked, **room)
    row: dict[str, Any] = {"model": f"residual {size}, {head}", "wanted": streams}
    row |= {"streams": crowd.engine.lanes, "plan": crowd.engine.describe()}
    row |= gpu_models.measure(crowd, options.seconds, options.repeats, options.first_steps)
    row["samples_per_s_in_all"] = row["streams"] * row["samples_per_s"]
    return row


def stages(options: argparse.Namespace, size: int, head: str) -> dict[str, Any]:
    voice = gpu_models.Voice(model(size, head), device=options.device, exact=False, clocks=True)
    n = options.first_steps
    voice.run(n)
    before = dict(voice.engine.stage_ticks())
    seconds = voice.seconds(n)
    ticks = {k: (v - before[k]) / n for k, v in voice.engine.stage_ticks()}
    return {
        "model": f"residual {size}, {head}",
        "stages": ticks,
        "ticks_per_sample": sum(ticks.values()),
        "us_per_sample_with_clocks": 1e6 * seconds / n,
    }


def wanted(options: argparse.Namespace) -> list[tuple[int, str, dict[str, Any]]]:
    """Size, head and what the engine is asked, of every row."""
    jobs: list[tuple[int, str, dict[str, Any]]] = []
    for size in options.sizes:
        for head in HEADS:
            for dtype in ("fp32", "fp16"):
                jobs.append((size, head, {"dtype": dtype, "exact": False}))
            jobs.append((size, head, {"dtype": "fp32", "exact": True}))
        jobs += [
            (size, "512 labels", {"dtype": "fp32", "exact": False, "blocks": blocks})
            for blocks in options.blocks
        ]
    return jobs


def run(record: gpu_record.Record, options: argparse.Namespace) -> None:
    for size, head, asked in wanted(options):
        with record.attempt(f"residual {size}, {head}, {asked}"):
            row = row_of(options, size, head, **asked)
            record["rows"].append(row)
            share = 100 * row.get("share_of_prediction", 0.0)
            print(
                f"MEASURED {row['model']} {asked}: {row['samples_per_s']:.0f} samples/s, "
                f"{share:.0f} % of the prediction",
                flush=True,
            )
        record.save()
    for size in options.sizes:
        with record.attempt(f"stages of {size}"):
            record["stages"].append(stages(options, size, "512 labels"))
        record.save()
    for head in HEADS if options.sizes else ():
        for streams in (8, 0):
            with record.attempt(f"{streams or 'most'} streams, {head}"):
                row = crowd_of(options, options.sizes[0], head, streams)
                record["many"].append(row)
                share = 100 * row.get("share_of_prediction", 0.0)
                print(
                    f"MEASURED {row['model']}: {row['streams']} streams, "
                    f"{row['samples_per_s_in_all']:.0f} samples/s, {share:.0f} % of the prediction",
                    flush=True,
                )
            record.save()
    if record["rows"]:
        first = record["rows"][0]
        record.result = f"{first['model']}, fp32: {first['samples_per_s']:.0f} samples/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "emu"))
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--blocks", nargs="*", type=int, default=list(BLOCKS))
    parser.add_argument("--seconds", type=float, default=0.5, help="of a run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--first-steps", type=int, default=2000)
    options = parser.parse_args()
    with gpu_record.Record("residual", options.output, rows=[], stages=[], many=[]) as record:
        run(record, options)


if __name__ == "__main__":
    main()
