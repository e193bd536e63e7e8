"""Samples a second of a pruned model, one stream and many, beside what the planner predicts.

    python benchmarks/gpu_sparse.py --output out.json

1,024 units, 95 % of every matrix zero: the real model where its arrays are at hand, else random
masks. The planner's choice first, then every size of a team, then the dense plan of the model.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
import statistics
import time
from pathlib import Path
from typing import Any

import gpu_models
import gpu_record
import pruned_models

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError

STREAMS = (1, 8, 15, 64, 66, 132)
TEAM = re.compile(r"(\d+) teams of (\d+) blocks?")
PREDICTED = re.compile(r"predicted: (\d+) cycles a sample, (\d+) samples/s; (\d+) samples/s")


def models() -> dict[str, tuple[Any, Any]]:
    config = gpu_models.dual(1024)
    found = {
        f"random {tile[0]}x{tile[1]}": (config, pruned_models.pruned(config, tile, 0.05))
        for tile in ((4, 4), (16, 1))
    }
    if pruned_models.LYRA.is_dir():
        found = {"real 4x4": (pruned_models.LYRA_CONFIG, pruned_models.lyra()), **found}
    return found


def engine_of(model: tuple[Any, Any], device: str, **options: Any) -> _C.Engine:
    if device == "cuda":
        options["nvrtc"] = importlib.import_module("wavernn_fast.nvrtc").libraries()
    return _C.Engine(dataclasses.asdict(model[0]), model[1], device=device, **options)


def seconds(engine: _C.Engine, streams: list[_C.Stream], n: int) -> float:
    count = len(streams)
    begin = time.perf_counter()
    engine.run(streams, [n] * count, [None] * count, [None] * count)
    return time.perf_counter() - begin


def measure(engine: _C.Engine, count: int, target: float, first_steps: int) -> dict[str, Any]:
    """All streams together, of runs that last about `target` seconds: median, best and worst."""
    streams, n = [engine.open(seed) for seed in range(count)], first_steps
    seconds(engine, streams, n)
    n = max(first_steps, int(n * target / seconds(engine, streams, n)))
    times = [seconds(engine, streams, n) for _ in range(5)]
    middle = statistics.median(times)
    return {
        "streams": count,
        "samples_per_s": count * n / middle,
        "samples_per_s_best": count * n / min(times),
        "samples_per_s_worst": count * n / max(times),
        "us_per_sample": 1e6 * middle / n,  # of each stream
        "n_steps": n,
    }


def predicted(engine: _C.Engine, count: int) -> int:
    """Of so many streams at once, by the plan that they take."""
    text = engine.describe()
    plans = [
        (int(t[0]), int(p[1]))
        for t, p in zip(TEAM.findall(text), PREDICTED.findall(text), strict=True)
    ]
    if not plans:  # dense: one stream after the other
        found = gpu_models.PREDICTED.search(text)
        return int(found[2]) if found else 0
    teams, speed = plans[0] if count <= plans[0][0] else plans[-1]
    return min(count, teams) * speed


def run(record: gpu_record.Record, options: argparse.Namespace) -> None:
    clusters = (0, 1, 2, 4, 8) if gpu_models.has_clusters(options.device) else (0,)
    ways = [{"sparse": "on", "cluster": c, "exact": False} for c in clusters]
    ways.append({"sparse": "off", "exact": False})
    for name, model in list(models().items())[: options.models]:
        for dtype in ("fp16", "fp32"):
            for way in ways:
                with record.attempt(f"{name} {dtype} {way}"):
                    try:
                        engine = engine_of(model, options.device, dtype=dtype, **way)
                    except DeviceError as error:
                        if "does not fit" not in str(error):
                            raise
                        refused = {"model": name, "dtype": dtype, **way, "reason": str(error)}
                        record["refused"].append(refused)
                        continue
                    dense = way["sparse"] == "off"
                    for count in STREAMS[: 1 if dense else options.counts]:
                        row = {"model": name, "dtype": dtype, **way, "plan": engine.describe()}
                        row |= measure(engine, count, options.seconds, options.first_steps)
                        row["predicted_samples_per_s"] = predicted(engine, count)
                        record["rows"].append(row)
                        record.save()
                        print(
                            f"MEASURED {name} {dtype} {way['sparse']} {way.get('cluster', 0)}: "
                            f"{count} streams {row['samples_per_s']:.0f} samples/s, predicted "
                            f"{row['predicted_samples_per_s']}",
                            flush=True,
                        )
    for count, word in ((1, "one stream"), (64, "64 streams")):
        best = max((r["samples_per_s"] for r in record["rows"] if r["streams"] == count), default=0)
        record.result += f"{'; ' * bool(record.result)}{word}: {best:.0f} samples/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "emu"))
    parser.add_argument("--seconds", type=float, default=0.2, help="of a run")
    parser.add_argument("--first-steps", type=int, default=2000)
    parser.add_argument("--models", type=int, default=3, help="so many of the models")
    parser.add_argument("--counts", type=int, default=len(STREAMS), help="of numbers of streams")
    options = parser.parse_args()
    with gpu_record.Record("sparse", options.output, rows=[], refused=[]) as record:
        run(record, options)


if __name__ == "__main__":
    main()
