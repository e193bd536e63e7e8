"""Where the time of a sample goes: the kernel with its own clocks, ticks and share of each stage.

    python benchmarks/gpu_stages.py --output out.json

The clocks are those of one thread of block 0; reading them costs a few ticks a stage, so the sum is
shown beside the time of the same plan without clocks.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gpu_models
import gpu_record

# Number format, exact arithmetic, and what the planner is asked.
VARIANTS: tuple[tuple[str, bool, dict[str, int]], ...] = (
    ("fp32", False, {}),
    ("fp32", False, {"cluster": 8}),
    ("fp16", False, {"cluster": 8}),
    ("fp32", False, {"exchanges": 2}),
    ("fp32", False, {"exchanges": 4}),
    ("fp32", True, {}),
    ("fp16", False, {}),
)


def stages(
    hidden: int, device: str, dtype: str, exact: bool, asked: dict[str, int], n_steps: int
) -> dict[str, Any]:
    config = gpu_models.dual(hidden)
    common: dict[str, Any] = {"device": device, "dtype": dtype, "exact": exact, **asked}
    clocked = gpu_models.Voice(config, clocks=True, **common)
    clocked.run(min(n_steps, 1000))
    before = dict(clocked.engine.stage_ticks())
    seconds = clocked.seconds(n_steps)
    ticks = {k: (v - before[k]) / n_steps for k, v in clocked.engine.stage_ticks()}
    total = sum(ticks.values())
    plain = gpu_models.Voice(config, **common)
    plain.run(min(n_steps, 1000))
    without = plain.seconds(n_steps)
    row: dict[str, Any] = {
        "model": gpu_models.name_of(config),
        "dtype": dtype,
        "exact": exact,
        "asked": asked,
        "plan": clocked.engine.describe().splitlines()[1],
        "ticks_per_sample": total,
        "stages": {k: {"ticks": v, "share": v / total if total else 0.0} for k, v in ticks.items()},
        "us_per_sample_with_clocks": 1e6 * seconds / n_steps,
        "us_per_sample": 1e6 * without / n_steps,
        "clock_mhz": total / (1e6 * seconds / n_steps),
    }
    predicted = clocked.predicted()
    if predicted:
        row["predicted_cycles"] = predicted[0]
    return row


def show(row: dict[str, Any]) -> None:
    print(f"{row['model']} {row['dtype']} {'exact' if row['exact'] else 'fast'}; {row['plan']}")
    for name, stage in row["stages"].items():
        print(f"  {name:32s} {stage['ticks']:8.1f} ticks {100 * stage['share']:5.1f} %")
    print(
        f"  {'sum':32s} {row['ticks_per_sample']:8.1f} ticks, predicted "
        f"{row.get('predicted_cycles', '-')}; {row['us_per_sample_with_clocks']:.3f} us a sample, "
        f"{row['us_per_sample']:.3f} without clocks\n",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "emu"))
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--steps", type=int, default=100000)
    options = parser.parse_args()
    with gpu_record.Record("stages", options.output, rows=[]) as record:
        for variant in VARIANTS:
            if "cluster" in variant[2] and not gpu_models.has_clusters(options.device):
                continue
            with record.attempt(str(variant)):
                row = stages(options.hidden, options.device, *variant, options.steps)
                record["rows"].append(row)
                show(row)
            record.save()
        if record["rows"]:
            record.result = f"{record['rows'][0]['ticks_per_sample']:.0f} ticks a sample, fp32 fast"


if __name__ == "__main__":
    main()
