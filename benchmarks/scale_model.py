"""What limits a job on 1, 8 and 1,000 GPUs: arithmetic over what was measured on single machines.

Inputs: `results/scale_inputs.json` (what a processor and a file system do for an item; measured by
`scale_inputs.py`) and `results/gpu_h200.json` (samples a second of an NVIDIA H200). Where a row
rests on a prediction, it says so. Prints the tables of docs/scale.md.

    python benchmarks/scale_model.py
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
MODEL = "dual-mel:896"  # whose conditioning is counted
NETWORK = 10e9 / 8  # bytes a second of a machine or a file server: an assumption
MACHINE = 8  # GPUs at most in one machine
MANY_PREDICTED = 17.3e6  # dual 896, 224 streams, fp16, H200: docs/many-streams.md


@dataclass(frozen=True)
class Gpu:
    """How fast a GPU draws samples."""

    name: str
    samples_per_s: float
    measured: bool


@dataclass(frozen=True)
class Costs:
    """Beside the GPU; seconds and bytes for a second of audio, and for an item."""

    sample_rate: int
    mel_bytes: float  # for a second of audio
    wav_bytes: float
    conditioning: float
    decoding: float
    reading: float  # for an item
    encoding: float
    journal_bytes: float
    files_per_s: float  # written, synchronised and renamed, that one machine's disk took
    deal_per_s: float  # items that one process gave to children
    resume: float  # seconds for an item that is done


@dataclass(frozen=True)
class Load:
    """A job on some GPUs."""

    gpus: int
    x_realtime: float  # of all together
    waiting: float  # share of the time in which a GPU waits for conditioning, in [0, 1]
    items_per_s: float
    bytes_in_per_s: float
    bytes_out_per_s: float
    cores_per_gpu: float
    file_servers: float  # machines like the measured one whose disks would be busy
    dealing: float  # share of what the parent of one machine's GPUs can deal out
    limit: str


def read_costs(data: dict[str, Any]) -> Costs:
    """Costs from the JSON of `scale_inputs.py`."""
    model, files = data["models"][MODEL], data["files"]
    return Costs(
        sample_rate=model["sample_rate"],
        mel_bytes=model["mel_bytes_per_audio_s"],
        wav_bytes=model["wav_bytes_per_audio_s"],
        conditioning=model["conditioning_s_per_audio_s"],
        decoding=model["decoding_s_per_audio_s"],
        reading=files["read_s"],
        encoding=files["encode_s"],
        journal_bytes=files["journal_line_bytes"],
        files_per_s=1.0 / min(files[f"write_s_{n}_thread{'s' * (n > 1)}"] for n in (1, 4, 16)),
        deal_per_s=data["dealing_items_per_s"][str(MACHINE)],
        resume=data["resume"]["resume_s_per_item"],
    )


def read_gpus(data: dict[str, Any]) -> list[Gpu]:
    """Two measured speeds of an H200 and a predicted one."""
    one = next(
        row["samples_per_s"]
        for row in data["parts"]["speed"]["rows"]
        if row["model"] == "dual 896 conditioned" and row["dtype"] == "fp32" and row["chosen"]
    )
    pruned = max(row.get("samples_per_s", 0.0) for row in data["parts"]["sparse"]["rows"])
    return [
        Gpu("dense 896, one after another, fp32", one, True),
        Gpu("pruned 1,024, 132 side by side, fp16", pruned, True),
        Gpu("dense 896, 224 side by side, fp16", MANY_PREDICTED, False),
    ]


def load(gpu: Gpu, costs: Costs, gpus: int, seconds: float, *, condition: bool = True) -> Load:
    """Work out one row.

    The process of a GPU decodes between the launches of its kernel and conditions on one thread
    beside them (`rows_ahead`), so the longer of the two decides; reading, encoding and writing have
    threads of their own.

    Parameters
    ----------
    gpus : int
        1 or more.
    seconds : float
        Of audio in an item.
    condition : bool
        False: as if conditioning took no time, as on several threads or on the GPU.
    """
    conditioning = costs.conditioning if condition else 0.0
    drawing = costs.sample_rate / gpu.samples_per_s
    own = drawing + costs.decoding
    each = 1.0 / max(own, conditioning)  # seconds of audio a second
    audio, items = gpus * each, gpus * each / seconds
    waiting = max(0.0, 1.0 - own * each)
    beside = each * (conditioning + costs.decoding)
    beside += each / seconds * (costs.reading + costs.encoding)
    bytes_out = audio * costs.wav_bytes + items * costs.journal_bytes
    servers = items / costs.files_per_s
    dealing = items / gpus * min(gpus, MACHINE) / costs.deal_per_s
    limits = {
        "dealing out": dealing,
        "files a second": servers,
        "bytes a second": max(audio * costs.mel_bytes, bytes_out) / NETWORK,
    }
    over = [f"{name} ({share:.1f} machines)" for name, share in limits.items() if share > 1]
    first = "conditioning" if waiting > 0 else "the GPU"
    return Load(
        gpus, audio, waiting, items, audio * costs.mel_bytes, bytes_out, beside, servers, dealing,
        ", ".join([first, *over]),
    )  # fmt: skip


def table(cases: Sequence[Gpu], costs: Costs, counts: Sequence[int], seconds: float) -> str:
    """Both tables of docs/scale.md: as it is, and as if conditioning took no time."""
    head = (
        "| GPU | GPUs | x real time | GPU waits | items/s | MB/s in | MB/s out | cores a GPU "
        "| disks | dealing | what limits |"
    )
    blocks = []
    for condition in (True, False):
        lines = [head, "|---|---|---|---|---|---|---|---|---|---|---|"]
        for gpu in cases:
            for count in counts:
                row = load(gpu, costs, count, seconds, condition=condition)
                name = gpu.name + ("" if gpu.measured else ", **predicted**")
                lines.append(
                    f"| {name} | {count:,} | {row.x_realtime:,.0f} | {row.waiting:.0%} "
                    f"| {row.items_per_s:,.1f} | {row.bytes_in_per_s / 1e6:,.1f} "
                    f"| {row.bytes_out_per_s / 1e6:,.1f} | {row.cores_per_gpu:.2f} "
                    f"| {row.file_servers:.2f} | {row.dealing:.1%} | {row.limit} |"
                )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=Path, default=RESULTS / "scale_inputs.json")
    parser.add_argument("--gpu", type=Path, default=RESULTS / "gpu_h200.json")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 1000])
    parser.add_argument("--seconds", type=float, default=5.0, help="Of audio in an item.")
    args = parser.parse_args()
    costs = read_costs(json.loads(args.inputs.read_text()))
    print(table(read_gpus(json.loads(args.gpu.read_text())), costs, args.gpus, args.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
