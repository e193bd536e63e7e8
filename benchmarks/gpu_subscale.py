"""Samples a second of one utterance of a subscale model, beside what the planner predicts.

    python benchmarks/gpu_subscale.py --output out.json
    python benchmarks/gpu_subscale.py --device emu --models 32,64:2 --seconds 0.1

The mel comes from the host, and then the network between the slices runs there; or it lies on the
GPU (PyTorch's or CuPy's), and the network runs there too. The engine alone, its rows all there, is
what is left without either. A model is a hidden size, or one whose teams are clusters of so many
blocks, 512:8.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from pathlib import Path
from typing import Any

import gpu_record
import numpy as np
import subscale_speed

from wavernn_fast import Vocoder
from wavernn_fast.lanes import let_signals_in
from wavernn_fast.subscale_network import slices_of
from wavernn_fast.synthetic import random_mel, random_model


def place(kind: str, mel: Any, device: str) -> Any:
    """Bring a mel to where the network is to run."""
    if kind == "host":
        return mel
    library = importlib.import_module(kind)
    if kind == "cupy":
        return library.asarray(mel)
    return library.from_numpy(mel).to("cuda" if device == "cuda" else "cpu")


def measure(options: argparse.Namespace, voc: Vocoder, kind: str) -> dict[str, Any]:
    """One utterance, again and again."""
    frames = max(1, round(options.seconds * voc.sample_rate / voc.config.hop_length))
    mel = place(kind, random_mel(voc.config, frames), options.device)
    voc.generate(mel, seed=0)  # compiles, brings weights over
    rates = []
    for number in range(options.rounds):
        begun = time.perf_counter()
        wave = voc.generate(mel, seed=number)
        rates.append(len(wave) / (time.perf_counter() - begun))
    return {"network": kind, "seconds": options.seconds, "samples_per_s": statistics.median(rates)}


def engine_alone(options: argparse.Namespace, voc: Vocoder, cluster: int) -> dict[str, Any]:
    """Slices of all rows with conditioning that is there already, on the host."""
    rows, columns = voc.config.subscale_factor, slices_of(voc.device, cluster).columns
    streams = [voc.engine.open(0, fold=row) for row in range(rows)]
    width = voc.engine.interp_size
    given = [np.zeros((columns, width), np.float32) for _ in range(rows)]
    took = []
    for _ in range(options.rounds + 1):
        begun = time.perf_counter()
        voc.engine.run(
            streams, [columns] * rows, given, [None] * rows, lanes=rows, interrupt=let_signals_in
        )
        took.append(time.perf_counter() - begun)
    seconds = statistics.median(took[1:])
    return {
        "columns": columns,
        "slice_us": 1e6 * seconds,
        "samples_per_s": rows * columns / seconds,
    }


def measured(
    record: gpu_record.Record, options: argparse.Namespace, size: int, cluster: int
) -> None:
    """One model, made once: its engine alone, and an utterance with the network in each place."""
    facts = {"hidden_size": size, "cluster": cluster}
    model = random_model(f"subscale:{size}")
    voc = Vocoder(*model, device=options.device, gpu_cluster=cluster)
    record["models"].append(
        {
            **facts,
            "plan": voc.engine.describe(),
            "lag_seconds": voc.lag_samples / voc.sample_rate,
            "predicted": subscale_speed.predict(size, [options.seconds], clusters=cluster > 1),
            "engine": engine_alone(options, voc, cluster),
        }
    )
    name = f"{size} units{f', clusters of {cluster}' if cluster else ''}"
    for kind in options.places.split(","):
        with record.attempt(f"{name}, network by {kind}"):
            row = {**facts, **measure(options, voc, kind)}
            record["rows"].append(row)
            record.result = f"{record.result} {size}:{cluster} {kind} {row['samples_per_s']:.0f}"
            record.save()
            print(
                f"MEASURED one utterance of {options.seconds} s, {name}, network by "
                f"{kind}: {row['samples_per_s']:.0f} samples/s",
                flush=True,
            )


def run(record: gpu_record.Record, options: argparse.Namespace) -> None:
    for model in options.models.split(","):
        size, _, cluster = model.partition(":")
        with record.attempt(model):
            measured(record, options, int(size), int(cluster or 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "emu"))
    parser.add_argument("--models", default="896,512,512:8", help="hidden size[:cluster]")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the utterance")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--places", default="host,torch,cupy")
    options = parser.parse_args()
    with gpu_record.Record("subscale", options.output, rows=[], models=[]) as record:
        run(record, options)


if __name__ == "__main__":
    main()
