"""How much likelihood each weight format costs: teacher-forced NLL of real speech.

    python benchmarks/nll_by_dtype.py MODEL CLIP... [-o benchmarks/results/nll.json]

Prints a Markdown table: nats per sample over all clips (weighted by length), the change against
fp32, and the mean log-mel correlation of copy synthesis (seed 0, unfolded).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from wavernn_fast import audio, features
from wavernn_fast.vocoder import Vocoder

DTYPES = ("fp32", "fp16", "bf16", "int8", "int8-fast")


def measure(model: Path, clips: list[Path], dtype: str) -> dict[str, float | str]:
    voice = Vocoder.from_pretrained(model, dtype=dtype)
    total = weight = 0.0
    correlations = []
    for clip in clips:
        wave, _ = audio.read_wav(clip, voice.sample_rate)
        mel = features.log_mel(wave, voice.config.mel)
        total += voice.score(mel, wave) * len(wave)
        weight += len(wave)
        again = features.log_mel(voice.generate(mel), voice.config.mel)
        n = min(again.shape[1], mel.shape[1])
        correlations.append(np.corrcoef(again[:, :n].ravel(), mel[:, :n].ravel())[0, 1])
    return {
        "dtype": dtype,
        "nats_per_sample": total / weight,
        "mel_correlation": float(np.mean(correlations)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    rows = [measure(options.model, options.clips, dtype) for dtype in DTYPES]
    base = float(rows[0]["nats_per_sample"])
    print("| dtype | nats per sample | change | log-mel correlation |")
    print("|---|---|---|---|")
    for row in rows:
        row["change"] = float(row["nats_per_sample"]) - base
        print(
            f"| {row['dtype']} | {row['nats_per_sample']:.4f} | {row['change']:+.4f} "
            f"| {row['mel_correlation']:.3f} |"
        )
    if options.output:
        facts = {"model": options.model.name, "clips": len(options.clips), "rows": rows}
        options.output.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
