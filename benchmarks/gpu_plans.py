"""Table of plans of the persistent kernel in docs/kernel.md; all figures are predictions.

python benchmarks/gpu_plans.py                  # predictions, from the planner alone
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "tests")]

import cases  # noqa: E402

from wavernn_fast import _C  # noqa: E402

PLACES = ("registers", "shared", "L2")


def model(hidden: int) -> dict[str, Any]:
    return vars(cases.dual_config(hidden, hidden // 2))


def plan(config: dict[str, Any], gpu: str, dtype: str) -> dict[str, Any] | str:
    try:
        return _C.gpu_plan(config, gpu=gpu, dtype=dtype)
    except Exception as error:
        return str(error)


def plan_row(gpu: str, dtype: str, p: dict[str, Any] | str) -> str:
    if isinstance(p, str):
        return f"| {gpu} | {dtype} | does not fit | | | | | | |"
    s = p["shape"]
    places = [PLACES[s[f"{name}_place"]] for name in ("gru", "fc1", "coarse_fc2", "fine_fc2")]
    shown = places[:2] + ([places[2]] if places[2] == places[3] else places[2:])
    return (
        f"| {gpu} | {dtype} | {s['exchanges']} | {s['blocks']} x {s['warps']} | {', '.join(shown)} "
        f"| {p['weight_registers']} | {p['shared_bytes']:,} | {p['cycles']:,} "
        f"| {round(p['samples_per_s'], -3):,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=896)
    arguments = parser.parse_args()
    config = model(arguments.hidden)
    print(
        "| GPU | dtype | exchanges | blocks x warps | R, fc1, fc2 in | weights a thread, registers "
        "| shared memory a block, bytes | cycles a sample, predicted | samples/s, predicted |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for gpu in _C.known_gpus():
        for dtype in ("fp32", "fp16"):
            print(plan_row(gpu, dtype, plan(config, gpu, dtype)))


if __name__ == "__main__":
    main()
