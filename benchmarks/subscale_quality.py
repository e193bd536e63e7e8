"""What rows drawn side by side cost in quality: the same cell trained at several numbers of rows.

Used by subscale.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from mel_worth import FRAME, knowing_variance

from wavernn_fast import Vocoder, audio, features, likelihood, weights
from wavernn_fast.evaluation import Evaluator, Settings
from wavernn_fast.models.subscale import autocorrelation, prediction_of
from wavernn_fast.train import run as train_run
from wavernn_fast.train.settings import TrainSettings
from wavernn_fast.utterance import make_request

COLUMNS = 240  # of a segment; 960 samples where there are no rows


@dataclasses.dataclass(frozen=True)
class Run:
    """One model to train."""

    factor: int
    horizon: int = 8
    channels: int = 64
    samples: int = 64 * 960  # of an update

    @property
    def name(self) -> str:
        return "b1" if self.factor == 1 else f"b{self.factor}-f{self.horizon}-c{self.channels}"

    def options(self) -> list[str]:
        segment = max(960, COLUMNS * self.factor)
        found = ["--segment", str(segment), "--batch", str(self.samples // segment)]
        if self.factor > 1:
            found += ["--subscale", str(self.factor), "--horizon", str(self.horizon)]
            found += ["--subscale-channels", str(self.channels)]
        return found


def train(run: Run, args: argparse.Namespace) -> Path:
    """Train in a process of one thread; a run that was interrupted goes on."""
    folder = Path(args.folder) / run.name
    command = [sys.executable, "-m", "wavernn_fast", "train", args.data, "-o", str(folder)]
    command += ["--held-out", str(args.held_out), "--threads", "1", "--device", "cpu", "-q"]
    if (folder / "state.pt").exists():
        command += ["--resume"]
    else:
        command += ["--steps", str(args.steps), "--hidden", str(args.hidden)]
        command += ["--fc", str(args.hidden), *run.options(), "--lr", "1.5e-3"]
        command += ["--lr-warmup", "200", "--seed", "1"]
        command += ["--valid-every", "200", "--save-every", "200"]
    with (Path(args.folder) / f"{run.name}.txt").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return folder


def judge(folder: Path, data: Path, clips: int | None, settings: Settings) -> dict[str, Any]:
    """Likelihood and copy synthesis of the held-out recordings of one run."""
    config, tensors = weights.read(folder / "model.safetensors")
    facts = json.loads((folder / "run.json").read_text())
    evaluator = Evaluator(config, tensors, settings)
    rows, total, count = [], np.zeros(config.subscale_factor), 0
    for name in facts["held_out"]["names"][:clips]:
        wave, _ = audio.read_wav(next(data.rglob(name)), config.sample_rate)
        wave = wave[: len(wave) // config.hop_length * config.hop_length]
        rows.append(evaluator.evaluate(wave).to_dict())
        total += by_row(evaluator.voc, wave) * len(wave)
        count += len(wave)
    samples = np.array([row["seconds"] for row in rows])
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]

    def mean(key: str) -> float | None:
        known = [row[key] for row in rows if row[key] is not None]
        return statistics.fmean(known) if known else None

    return {
        "name": folder.name,
        "subscale": dataclasses.asdict(config.subscale) if config.subscale else None,
        "hidden_size": config.hidden_size,
        "weights": int(sum(tensor.size for tensor in tensors.values())),
        "steps": facts["settings"]["steps"],
        "clips": len(rows),
        "temperature": settings.temperature,
        "seed": settings.seed,
        "nll": float(np.average([row["nll"]["fp32"] for row in rows], weights=samples)),
        "nll_by_row": [round(float(value), 4) for value in total / count],
        "valid": [[line["step"], line["valid_nll"]] for line in log if "valid_nll" in line],
        **{key: mean(key) for key in ("mel_correlation", "lsd_db", "mcd_db", "stoi")},
    }


def by_row(voc: Vocoder, wave: Any) -> Any:
    """Nats per sample of each row, [factor]."""
    mel = features.log_mel(wave, voc.config.mel)[:, : len(wave) // voc.config.hop_length]
    request = make_request(voc.config, mel, None, 0)
    targets = likelihood.forced_targets(voc.config, request, wave)
    nats = np.zeros(len(targets))
    for numbers, part in likelihood.forced_nll(voc.voice(), request, targets):
        nats[numbers] = part
    return nats.reshape(-1, voc.config.subscale_factor).mean(axis=0)


def linear(data: Path, held_out: int, factor: int) -> list[float]:
    """Nats per sample of each row under the linear prediction that its network begins with.

    Of held-out recordings, as pre-emphasised and rounded as a model draws them. The error is taken
    as gaussian, with the variance it has in each frame of 240 samples: no model knows that
    beforehand, so this is what a fixed linear prediction could cost at best.
    """
    config = train_run.ModelSizes(subscale=factor, conditioned=False).config()
    where = train_run.Data(train=data, held_out=held_out)
    loaded = train_run.load(where, config, TrainSettings(steps=1))
    assert config.subscale is not None
    correlation = autocorrelation(config.subscale, (r.samples for r in loaded.train))
    weight = prediction_of(config.subscale, correlation).numpy()
    offset = factor * np.arange(-config.subscale.reach, config.subscale.reach + 1)
    found = []
    for row in range(factor):
        # at every sample, as if it were of this row: all of them tell more than every sixteenth
        at = (np.arange(factor)[:, None] - row + offset).reshape(-1)
        taps = np.zeros(2 * np.abs(at).max() + 1)
        taps[np.abs(at).max() + at] = weight[row].reshape(-1)
        nats = []
        for recording in loaded.valid:
            u = recording.samples.astype(np.float64) - 32768.0
            error = u - np.convolve(np.pad(u, len(taps) // 2), taps[::-1], mode="valid")
            nats.append(knowing_variance(error[: len(u) // FRAME * FRAME].reshape(-1, FRAME)))
        found.append(float(np.concatenate(nats).mean()))
    return found
