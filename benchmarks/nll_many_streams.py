"""What the half-precision activations of the kernel for many streams cost in likelihood.

    python benchmarks/nll_many_streams.py CLIP... [--samples 2000] [--device emu] [-o rows.json]
    python benchmarks/nll_many_streams.py CLIP... --model FILE [--samples 2000]

Teacher-forced nats per sample of the packaged voice on the first samples of every recording, all of
them side by side: fp32 and fp16 on the CPU, then the kernel, on a GPU or in the emulator (the same
source; tensor cores may add in another order). And of the released sparse arrays in
../shared/data, whose weights reach 292, on samples that they drew themselves in fp32. With
`--model` of that checkpoint alone, which draws labels.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import lyra
import numpy as np

from wavernn_fast import _C, audio, checkpoints, features, voices
from wavernn_fast.conditioning import Conditioner
from wavernn_fast.files import write_atomic
from wavernn_fast.machine import machine
from wavernn_fast.samples import encode_targets
from wavernn_fast.scoring import negative_log_likelihood

# name -> options of the engine
ENGINES: dict[str, dict[str, Any]] = {
    "fp32, CPU": {"device": "cpu", "dtype": "fp32"},
    "fp16, CPU": {"device": "cpu", "dtype": "fp16"},
    "many streams": {"dtype": "fp16", "streams": 16},
    "many streams, split": {"dtype": "fp16", "streams": 16, "split": True},
}


def voice_work(
    clips: list[Path], samples: int, model: Path | None = None
) -> tuple[Any, Any, list, list, list]:
    """Configuration, tensors; rows of interp and hold, and targets, of every recording."""
    config, tensors = checkpoints.load(model or voices.resolve(voices.DEFAULT))
    assert config.mel is not None
    conditioner = Conditioner(config, tensors)
    interp, hold, targets = [], [], []
    for clip in clips:
        wave, _ = audio.read_wav(clip, config.sample_rate)
        mel = features.log_mel(wave, config.mel)
        n = min(samples, len(wave), mel.shape[1] * config.hop_length)
        rows = conditioner.window(mel, 0, -(-n // config.hop_length))
        interp.append(rows[0])
        hold.append(rows[1])
        targets.append(np.ascontiguousarray(encode_targets(wave, config)[:n], np.int32))
    return config, tensors, interp, hold, targets


def sparse_work(streams: int, samples: int) -> tuple[Any, Any, list, list, list]:
    config, tensors = lyra.CONFIG, dict(lyra.tensors())
    engine = _C.Engine(dataclasses.asdict(config), tensors, device="cpu", dtype="fp32")
    empty = [None] * streams
    drawn = engine.run([engine.open(i) for i in range(streams)], [samples] * streams, empty, empty)
    return config, tensors, empty, empty, [d[0] for d in drawn]


def measure(name: str, work: tuple[Any, Any, list, list, list], device: str) -> list[dict]:
    config, tensors, interp, hold, targets = work
    rows = []
    for engine_name, options in ENGINES.items():
        engine = _C.Engine(dataclasses.asdict(config), tensors, **({"device": device} | options))
        results = engine.run(
            [engine.open(0) for _ in targets],
            [len(t) for t in targets],
            interp,
            hold,
            forced=targets,
            return_logits=True,
        )
        nats = np.concatenate(
            [
                negative_log_likelihood(config, logits, target)
                for (_, logits), target in zip(results, targets, strict=True)
            ]
        )
        row = {
            "model": name,
            "engine": engine_name,
            "device": engine.device,
            "samples": len(nats),
            "nats_per_sample": float(nats.mean()),
        }
        row["change"] = row["nats_per_sample"] - (rows or [row])[0]["nats_per_sample"]
        rows.append(row)
        print(f"| {name} | {engine_name} | {row['nats_per_sample']:.5f} | {row['change']:+.5f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--samples", type=int, default=2000, help="of every recording")
    parser.add_argument("--sparse-samples", type=int, default=200, help="of the sparse arrays")
    parser.add_argument("--model", type=Path, help="a checkpoint in place of all models")
    parser.add_argument("--device", default="emu", choices=("emu", "cuda"))
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    print("| model | engine | nats per sample | change |")
    print("|---|---|---|---|")
    name = options.model.stem if options.model else voices.DEFAULT
    work = voice_work(options.clips, options.samples, options.model)
    rows = measure(name, work, options.device)
    if lyra.FOLDER.is_dir() and not options.model:
        rows += measure("sparse arrays", sparse_work(8, options.sparse_samples), options.device)
    if options.output:
        facts = {"machine": machine(), "clips": len(options.clips), "rows": rows}
        write_atomic(options.output, [(json.dumps(facts, indent=2) + "\n").encode()])


if __name__ == "__main__":
    main()
