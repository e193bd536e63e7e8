"""Samples a second of many streams side by side, beside what the planner predicts.

    python benchmarks/gpu_many.py --output out.json
    python benchmarks/gpu_many.py --device emu --hidden 64 --first-steps 4 --seconds 0.01

The 896 model in fp16: engines for few streams and for many, and the planner's choice; where the
ticks of a sample go; a job of clips of 0.1 to 10 s; a captured PyTorch graph of as many streams.
Smaller models whose teams fit a cluster of blocks, through L2 and through shared memory, by turns.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import statistics
import time
from pathlib import Path
from typing import Any

import cases
import gpu_models
import gpu_record
import gpu_sparse
import numpy as np

from wavernn_fast import _C

STREAMS = (1, 8, 32, 64, 128, 224, 256)
TORCH_STREAMS = (32, 224)
CLUSTERS = ((224, 7), (384, 6), (512, 8))  # hidden size, blocks of a team
TENSOR_TFLOPS = 790.0  # of a bf16 matrix product, measured on an H200
PREDICTED = re.compile(r"predicted: (\d+) cycles a sample, (\d+) samples/s a stream, (\d+) samples")
TEAMS = re.compile(r"(\d+) teams? of (\d+) blocks? of (\d+) warps, (\d+) streams a team")


def slots_of(engine: _C.Engine) -> int:
    found = TEAMS.search(engine.describe())
    assert found is not None
    return int(found[1]) * int(found[4])


def floor(engine: _C.Engine) -> float:
    """Samples a second of all streams if nothing but the products took time."""
    return TENSOR_TFLOPS * 1e12 / (2 * engine.macs_per_step)


def engine_of(
    options: argparse.Namespace, streams: int, hidden: int = 0, **asked: Any
) -> _C.Engine:
    config = gpu_models.dual(hidden or options.hidden)
    model = (config, cases.random_tensors(config))
    asked = {"dtype": "fp16", "streams": streams, "exact": False, **asked}
    if options.device == "emu":
        asked["isa"] = "fair/room:4"  # few teams
    return gpu_sparse.engine_of(model, options.device, **asked)


def speed(options: argparse.Namespace, wanted: int, count: int = 0) -> dict[str, Any]:
    """One engine made for `wanted` streams (0: the planner's choice) with `count` running."""
    # One stream has a plan of its own with streams=1; here it runs in the kernel for many.
    engine = engine_of(options, 8 if wanted == 1 else wanted)
    count = count or wanted or slots_of(engine)
    row: dict[str, Any] = {"wanted": wanted, "slots": slots_of(engine), "plan": engine.describe()}
    row |= gpu_sparse.measure(engine, count, options.seconds, options.first_steps)
    row["samples_per_s_of_a_stream"] = row["samples_per_s"] / count
    rounds = -(-count // slots_of(engine))  # in which the slots are filled
    row["us_per_step"] = row.pop("us_per_sample") / rounds
    row["tensor_floor"] = floor(engine)
    row["share_of_tensor_floor"] = row["samples_per_s"] / floor(engine)
    found = PREDICTED.search(engine.describe())
    if found:
        row["predicted_cycles"] = int(found[1])
        row["predicted_samples_per_s"] = count * int(found[2]) // rounds
        row["share_of_prediction"] = row["samples_per_s"] / row["predicted_samples_per_s"]
    return row


def transports(
    options: argparse.Namespace, hidden: int, cluster: int, streams: int
) -> dict[str, Any]:
    """Teams of so many blocks, as clusters and not; as many streams in all as clusters have slots.

    By turns, so that a clock that changes changes both; the medians.
    """
    asked = {"hidden": hidden, "warps": 8}
    pushed = engine_of(options, streams, cluster=cluster, **asked)
    engines = {"cluster": pushed, "L2": engine_of(options, streams, blocks=cluster, **asked)}
    count = min(slots_of(engine) for engine in engines.values())
    row: dict[str, Any] = {
        "hidden": hidden,
        "blocks": cluster,
        "wanted": streams,
        "streams": count,
    }
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(options.rounds):
        for name, engine in engines.items():
            measured = gpu_sparse.measure(engine, count, options.seconds / 5, options.first_steps)
            rates[name].append(measured["samples_per_s"])
    for name, engine in engines.items():
        found = PREDICTED.search(engine.describe())
        row[name] = {
            "plan": engine.describe(),
            "samples_per_s": statistics.median(rates[name]),
            "predicted_samples_per_s": count * int(found[2]) if found else 0,
        }
    row["ratio"] = row["cluster"]["samples_per_s"] / row["L2"]["samples_per_s"]
    return row


def stages(options: argparse.Namespace, streams: int) -> dict[str, Any]:
    engine = engine_of(options, streams, clocks=True)
    count, n = slots_of(engine), options.first_steps
    begun = [engine.open(seed) for seed in range(count)]
    gpu_sparse.seconds(engine, begun, n)
    before = dict(engine.stage_ticks())
    took = gpu_sparse.seconds(engine, begun, n)
    ticks = {k: (v - before[k]) / n for k, v in engine.stage_ticks()}
    total = sum(ticks.values())
    return {
        "wanted": streams,
        "streams": count,
        "ticks_per_step": total,
        "us_per_step_with_clocks": 1e6 * took / n,
        "stages": {k: {"ticks": v, "share": v / total if total else 0.0} for k, v in ticks.items()},
    }


def mixed(options: argparse.Namespace, clips: int) -> dict[str, Any]:
    """Clips of 0.1 to 10 s; how far the slots are filled, from the time that full ones take."""
    engine = engine_of(options, 0)
    slots, scale = slots_of(engine), options.first_steps / 2000
    lengths = np.random.default_rng(0).integers(2400, 240_001, clips) * scale
    steps = sorted((max(1, int(n)) for n in lengths), reverse=True)  # as the package does
    full = gpu_sparse.measure(engine, slots, options.seconds, options.first_steps)
    streams = [engine.open(seed) for seed in range(clips)]
    begin = time.perf_counter()
    engine.run(streams, steps, [None] * clips, [None] * clips)
    took = time.perf_counter() - begin
    loads = [sum(n for _, n in slot) for slot in _C.fill_slots(steps, slots, 1 << 62)]
    return {
        "clips": clips,
        "slots": slots,
        "samples": sum(steps),
        "seconds": took,
        "samples_per_s": sum(steps) / took,
        "samples_per_s_of_full_slots": full["samples_per_s"],
        "slot_occupancy": sum(steps) / took / full["samples_per_s"],  # the cost of changing in it
        "slot_occupancy_of_one_launch": sum(loads) / (slots * max(loads)),
    }


def torch_graph(options: argparse.Namespace, count: int) -> dict[str, Any]:
    baselines = importlib.import_module("gpu_baselines")
    device = "cuda" if options.device == "cuda" else "cpu"
    name = "torch CUDA graph"
    peer = baselines.make(name, device, count, options.hidden)
    found: dict[str, Any] = baselines.measure(name, peer, 5 * options.seconds)
    return found


def show(row: dict[str, Any]) -> None:
    print(
        f"MEASURED for {row['wanted'] or 'most'}: {row['streams']} streams "
        f"{row['samples_per_s']:.0f} samples/s, {row['samples_per_s_of_a_stream']:.0f} of each, "
        f"{row['us_per_step']:.2f} us a step, {100 * row['share_of_tensor_floor']:.1f} % of the "
        f"tensor floor, predicted {row.get('predicted_samples_per_s', '-')}",
        flush=True,
    )


def run(record: gpu_record.Record, options: argparse.Namespace) -> None:
    counts = STREAMS[: options.counts]
    for wanted in (*counts, 0):
        with record.attempt(f"{wanted or 'most'} streams"):
            row = speed(options, wanted)
            record["rows"].append(row)
            show(row)
        record.save()
    with record.attempt("mixed lengths"):
        record["mixed"] = mixed(options, options.clips)
        print(
            f"MEASURED {options.clips} clips: {record['mixed']['samples_per_s']:.0f} samples/s, "
            f"{100 * record['mixed']['slot_occupancy']:.1f} % of full slots",
            flush=True,
        )
    record.save()
    for wanted in (8, 64, 0):
        with record.attempt(f"stages, {wanted or 'most'} streams"):
            record["stages"].append(stages(options, wanted))
        record.save()
    for hidden, cluster in options.clusters:
        for streams in (128, 0):
            with record.attempt(
                f"cluster of {cluster}, {hidden} units, {streams or 'most'} streams"
            ):
                row = transports(options, hidden, cluster, streams)
                record["clusters"].append(row)
                print(
                    f"MEASURED {hidden} units, teams of {cluster}, {row['streams']} streams: "
                    f"{row['cluster']['samples_per_s']:.0f} samples/s as clusters, "
                    f"{row['L2']['samples_per_s']:.0f} through L2",
                    flush=True,
                )
            record.save()
    if importlib.util.find_spec("torch") is not None:
        for count in options.torch_streams:
            with record.attempt(f"torch CUDA graph, {count} streams"):
                row = torch_graph(options, count)
                record["baselines"].append(row)
                print(f"MEASURED torch CUDA graph: {count} streams {row['samples_per_s']:.0f}")
            record.save()
    best = max((r["samples_per_s"] for r in record["rows"]), default=0.0)
    record.result = f"most: {best:.0f} samples/s in all"
    for peer in record["baselines"]:
        same = [r for r in record["rows"] if r["streams"] >= peer["batch"]]
        if same:
            peer["ratio"] = same[0]["samples_per_s"] / peer["samples_per_s"]
            record.result += f"; {peer['ratio']:.1f} x torch of {peer['batch']} streams"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "emu"))
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a run")
    parser.add_argument("--first-steps", type=int, default=2000)
    parser.add_argument("--counts", type=int, default=len(STREAMS), help="of numbers of streams")
    parser.add_argument("--clips", type=int, default=600, help="of the job of mixed lengths")
    usual = [f"{hidden}:{cluster}" for hidden, cluster in CLUSTERS]
    parser.add_argument("--clusters", nargs="*", default=usual, help="hidden size:blocks of a team")
    parser.add_argument("--rounds", type=int, default=3, help="of each of two transports")
    parser.add_argument("--torch-streams", nargs="*", type=int, default=list(TORCH_STREAMS))
    options = parser.parse_args()
    options.clusters = [tuple(map(int, pair.split(":"))) for pair in options.clusters]
    if options.device == "cuda" and not gpu_models.has_clusters("cuda"):
        options.clusters = []
    lists: dict[str, Any] = {"rows": [], "stages": [], "baselines": [], "mixed": {}, "clusters": []}
    with gpu_record.Record("many", options.output, **lists) as record:
        run(record, options)


if __name__ == "__main__":
    main()
