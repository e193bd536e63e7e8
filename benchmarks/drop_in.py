"""Copy synthesis through the drop-in classes beside the eager PyTorch step, under the same draws.

    python benchmarks/drop_in.py MODEL CLIP... [--preset NAME] [--group 8] [-o FILE]

Every clip is sounded whole and in folds, by two rules for its length: (n - 1) * hop with a ramp at
the end, by `compat.fatchord`, and n * hop, whole by `compat.torchaudio` and folded by a flavour of
`compat.fatchord`. PyTorch draws from its own probabilities with the engine's random words; where
rounding makes a first label differ the two go on apart, as nothing is forced. Printed: mean log-mel
correlation with the recording of both, how many clips have the same labels throughout, and after
how many samples the others part.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
from eager_draws import eager_labels, eager_wave

from wavernn_fast import audio, checkpoints, features
from wavernn_fast.compat import fatchord, torchaudio
from wavernn_fast.config import OutputConfig
from wavernn_fast.metrics import mel_correlation
from wavernn_fast.models.eager import make_eager
from wavernn_fast.samples import mu_law_expand
from wavernn_fast.vocoder import Vocoder

SEED = 0
RULES = {
    "(n - 1) * hop, ramp": fatchord.FLAVOURS["fatchord"],
    "n * hop": OutputConfig(length="frames", fade_out_frames=0),
}


def drop_in_wave(voc: Vocoder, rule: str, mel: np.ndarray, sizes: Any) -> np.ndarray:
    """Waveform by the class that has this rule."""
    if RULES[rule].length == "frames" and sizes is None:
        values = torchaudio.WaveRNN(voc, seed=SEED).infer(mel[None])[0][0, 0]
        mu_law = voc.config.output.mu_law
        return mu_law_expand(values, voc.config.n_classes) if mu_law else values
    player = fatchord.WaveRNN(voc, flavour=RULES[rule], seed=SEED)
    return player.generate(mel, None, sizes is not None, *(sizes or (0, 0)))


def parted(ours: list[np.ndarray], theirs: np.ndarray) -> int | None:
    """First sample at which the labels of a clip differ, over its folds; None if none does."""
    first = [
        int(np.flatnonzero(a != b[: len(a)])[0])
        for a, b in zip(ours, theirs, strict=True)
        if not np.array_equal(a, b[: len(a)])
    ]
    return min(first, default=None)


def measure(voc: Vocoder, eager: Any, mels: list[np.ndarray], sizes: Any) -> list[dict[str, Any]]:
    """A row a clip and rule."""
    labels, _ = eager_labels(eager, mels, sizes, SEED)
    player, rows = fatchord.WaveRNN(voc, seed=SEED), []
    for mel, theirs in zip(mels, labels, strict=True):
        [drawing] = player.draw([mel], sizes)
        for name, rule in RULES.items():
            output = dataclasses.replace(rule, mu_law=voc.config.output.mu_law)
            config = dataclasses.replace(voc.config, output=output)
            waves = drop_in_wave(voc, name, mel, sizes), eager_wave(config, theirs, mel, sizes)
            assert len(waves[0]) == len(waves[1]) == config.n_samples(mel.shape[1])
            ours, eagers = (
                mel_correlation(mel, features.log_mel(wave, config.mel)) for wave in waves
            )
            rows.append(
                {"folded": sizes is not None, "rule": name, "ours": ours, "eager": eagers,
                 "parted": parted(drawing.folds, theirs), "samples": len(waves[0])}
            )  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| folds | length | drop-in | eager PyTorch | difference of means | largest of a clip "
        "| clips with the same labels | others part after (median) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for folded in (False, True):
        for rule in RULES:
            some = [r for r in rows if r["folded"] is folded and r["rule"] == rule]
            ours, eager = (np.array([r[k] for r in some]) for k in ("ours", "eager"))
            apart = [r["parted"] for r in some if r["parted"] is not None]
            lines.append(
                f"| {'yes' if folded else 'no'} | {rule} | {ours.mean():.4f} | {eager.mean():.4f} "
                f"| {ours.mean() - eager.mean():+.4f} | {np.abs(ours - eager).max():.4f} "
                f"| {len(some) - len(apart)} of {len(some)} "
                f"| {f'{np.median(apart):.0f} samples' if apart else '-'} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--preset")
    parser.add_argument("--group", type=int, default=8, help="clips that PyTorch draws at once")
    parser.add_argument("--seconds", type=float, default=1e9, help="of each clip at most")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    config, tensors = checkpoints.load(options.model, preset=options.preset)
    voc, eager = Vocoder(config, tensors), make_eager(config, tensors)
    mels = []
    for clip in options.clips:
        wave, rate = audio.read_wav(clip, voc.sample_rate)
        mels.append(features.log_mel(wave[: int(options.seconds * rate)], config.mel))
    mels.sort(key=lambda mel: mel.shape[1])
    sizes, rows = (config.output.fold_target, config.output.fold_overlap), []
    begun = time.perf_counter()
    for fold in (sizes, None):
        for i in range(0, len(mels), options.group):
            rows += measure(voc, eager, mels[i : i + options.group], fold)
            done = min(i + options.group, len(mels))
            print(f"{done} of {len(mels)}, fold {fold}, {time.perf_counter() - begun:.0f} s",
                  file=sys.stderr, flush=True)  # fmt: skip
    print(table(rows))
    if options.output:
        facts = {"model": options.model.name, "preset": config.preset, "fold": sizes, "rows": rows}
        options.output.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
