"""Samples a second of the persistent kernel, one utterance, beside what the planner predicts.

    python benchmarks/gpu_speed.py --output out.json

First every accepted plan (clusters, exchanges, blocks, warps) of the unconditioned model, in short
runs; then the planner's choice and the best of the sweep in long ones, for both number formats,
both kinds of arithmetic, with and without conditioning; then other sizes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gpu_models
import gpu_record
import gpu_report

from wavernn_fast import _C
from wavernn_fast.errors import WaveRNNError

BLOCKS = (28, 38, 56, 64, 84, 112)
WARPS = (8, 16)
CLUSTER, CLUSTER_BLOCKS = 8, (16, 32, 56, 112, 120)
EXCHANGES = (2, 4)  # a sample: csrc/cuda/kernels/persistent.cuh
OTHER_SIZES = (224, 384, 512, 1024)
DTYPES = ("fp32", "fp16")


@dataclass(frozen=True)
class Job:
    """One row to measure."""

    hidden: int
    dtype: str = "fp32"
    conditioned: bool = False
    exact: bool = False
    exchanges: int = 0  # 0: the planner's choice, here and below
    blocks: int = 0
    warps: int = 0
    cluster: int = 0  # 0: none

    def asked(self) -> dict[str, int]:
        """What the planner is asked."""
        return {
            "exchanges": self.exchanges,
            "blocks": self.blocks,
            "warps": self.warps,
            "cluster": self.cluster,
        }

    def voice(self, device: str) -> gpu_models.Voice:
        return gpu_models.Voice(
            gpu_models.dual(self.hidden, self.conditioned),
            device=device,
            dtype=self.dtype,
            exact=self.exact,
            **self.asked(),
        )


def sweep(hidden: int, multiprocessors: int, clusters: bool) -> list[Job]:
    """Clusters first: they are the newest."""
    jobs = []
    if clusters:
        blocks = [b for b in CLUSTER_BLOCKS if b <= multiprocessors]
        jobs += [
            Job(hidden, dtype, blocks=b, warps=w, cluster=CLUSTER)
            for dtype, b, w in itertools.product(DTYPES, blocks, WARPS)
        ]
    blocks = sorted({b for b in (*BLOCKS, multiprocessors) if b <= multiprocessors})
    jobs += [
        Job(hidden, dtype, exchanges=e, blocks=b, warps=w)
        for dtype, e, b, w in itertools.product(DTYPES, EXCHANGES, blocks, WARPS)
    ]
    return jobs


def finals(hidden: int, best: dict[str, dict[str, int]]) -> list[Job]:
    """The planner's choice and the best of the sweep, every variant."""
    jobs = []
    for conditioned, dtype, exact in itertools.product((False, True), DTYPES, (False, True)):
        jobs.append(Job(hidden, dtype, conditioned, exact))
        if dtype in best:
            jobs.append(Job(hidden, dtype, conditioned, exact, **best[dtype]))
    return jobs


def others(clusters: bool) -> list[Job]:
    ways = (0, CLUSTER) if clusters else (0,)
    return [
        Job(hidden, dtype, cluster=cluster)
        for hidden, dtype, cluster in itertools.product(OTHER_SIZES, DTYPES, ways)
    ]


# --- compiling ahead ------------------------------------------------------------------------------


def compile_ahead(jobs: Iterable[Job], device: str) -> None:
    """Fill the kernel cache by processes side by side; what fails here fails again, and is kept."""
    jobs, workers = list(jobs), gpu_models.workers()
    shares = [json.dumps([asdict(job) for job in jobs[i::workers]]) for i in range(workers)]
    gpu_models.side_by_side(
        [sys.executable, __file__, "--compile", share, "--device", device] for share in shares
    )


def compile_share(text: str, device: str) -> None:
    for fields in json.loads(text):
        try:
            Job(**fields).voice(device)
        except WaveRNNError as error:
            print(error, file=sys.stderr)


# --- measuring ------------------------------------------------------------------------------------


def row_of(job: Job, device: str, seconds: float, repeats: int, first_steps: int) -> dict[str, Any]:
    voice = job.voice(device)
    shown = voice.engine.describe().splitlines()
    row: dict[str, Any] = {"model": gpu_models.name_of(voice.config), **asdict(job)}
    row["chosen"] = not job.blocks
    row["plan"] = shown[1] if len(shown) > 1 else ""
    row["weights"] = shown[3] if len(shown) > 3 else ""
    row |= gpu_models.measure(voice, seconds, repeats, first_steps)
    return row


def show(row: dict[str, Any]) -> str:
    predicted = row.get("predicted_samples_per_s", 0)
    share = f"{100 * row['share_of_prediction']:.0f} %" if predicted else "-"
    return (
        f"{row['model']:20s} {row['dtype']} {'exact' if row['exact'] else 'fast ':5s} "
        f"{row['samples_per_s']:9.0f} samples/s ({row['samples_per_s_worst']:.0f} to "
        f"{row['samples_per_s_best']:.0f}), predicted {predicted}, {share}; {row['plan']}"
    )


def measure_all(
    record: gpu_record.Record, jobs: list[Job], into: str, device: str, **options: Any
) -> list[dict[str, Any]]:
    """Measure in processes: a kernel that breaks its context must not cost the others."""
    compile_ahead(jobs, device)
    left = list(jobs)
    while left:
        command = [sys.executable, __file__, "--device", device, "--measure"]
        command.append(json.dumps([[asdict(job) for job in left], options]))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        begun = len(left)
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            found = json.loads(line)
            job = left.pop(0)
            if "error" in found:
                record["failures"].append({"what": str(asdict(job)), "error": found["error"]})
                print(f"FAILED {asdict(job)}: {found['error']}", flush=True)
            else:
                record[into].append(found)
                print(show(found), flush=True)
            record.save()
        process.wait()
        if len(left) == begun:  # it died without a word
            job = left.pop(0)
            what = {"what": str(asdict(job)), "error": f"exit code {process.returncode}"}
            record["failures"].append(what)
            print(f"FAILED {what['what']}: {what['error']}", flush=True)
    return list(record[into])


def measure_share(text: str, device: str) -> None:
    """One line a job, until one fails: it may have broken the context."""
    jobs, options = json.loads(text)
    for fields in jobs:
        try:
            row = row_of(Job(**fields), device, **options)
        except Exception as error:
            print(json.dumps({"error": gpu_record.short(error)}), flush=True)
            return
        print(json.dumps(gpu_record.finite(row)), flush=True)


def accepted(record: gpu_record.Record, jobs: list[Job]) -> list[Job]:
    """Without the jobs that the planner refuses, which are kept as such."""
    kept = []
    for job in jobs:
        try:
            _C.gpu_plan(
                asdict(gpu_models.dual(job.hidden)),
                gpu=record["planned_as"],
                dtype=job.dtype,
                **job.asked(),
            )
            kept.append(job)
        except WaveRNNError as error:
            record["refused"].append(asdict(job) | {"reason": str(error)})
    return kept


def best_plans(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """What to ask for the fastest of each dtype."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["samples_per_s"] > best.get(row["dtype"], {"samples_per_s": 0.0})["samples_per_s"]:
            best[row["dtype"]] = row
    names = ("exchanges", "blocks", "warps", "cluster")
    return {dtype: {name: row[name] for name in names} for dtype, row in best.items()}


def planned_as(name: str) -> str:
    """The planner's name of a device, as near as it comes: the longest that occurs in `name`."""
    words = name.upper().replace("-", " ")
    known = [k for k in _C.known_gpus() if k.upper() in words]
    return max(known, key=len, default="H200")


def device_facts(device: str) -> tuple[str, int]:
    if device != "cuda":
        return "H200", 132
    found = _C.cuda_devices()[0]
    return str(found["name"]), int(found["multiprocessors"])


def run(record: gpu_record.Record, options: argparse.Namespace) -> None:
    name, multiprocessors = device_facts(options.device)
    record["planned_as"] = planned_as(name)
    common = {"device": options.device, "first_steps": options.first_steps}
    clusters = gpu_models.has_clusters(options.device)
    plans = accepted(record, sweep(options.hidden, multiprocessors, clusters))
    short = measure_all(record, plans, "sweep", seconds=options.seconds / 5, repeats=3, **common)
    long = {"seconds": options.seconds, "repeats": 5} | common
    rows = measure_all(record, finals(options.hidden, best_plans(short)), "rows", **long)
    if not options.only_hidden:
        measure_all(record, accepted(record, others(clusters)), "rows", **long)
    with contextlib.suppress(RuntimeError):  # clocks and temperature just after the load
        record["nvidia_smi_after"] = gpu_report.smi()
    best = max((r["samples_per_s"] for r in rows), default=0.0)
    record.result = f"best of dual {options.hidden}: {best:.0f} samples/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "emu"))
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--only-hidden", action="store_true", help="leave the other sizes out")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a long run")
    parser.add_argument("--first-steps", type=int, default=2000)
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile:
        compile_share(options.compile, options.device)
        return
    if options.measure:
        measure_share(options.measure, options.device)
        return
    lists: dict[str, Any] = {"rows": [], "sweep": [], "refused": []}
    with gpu_record.Record("speed", options.output, **lists) as record:
        run(record, options)


if __name__ == "__main__":
    main()
