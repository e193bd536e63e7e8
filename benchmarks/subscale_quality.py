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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mel_worth import FRAME, knowing_variance

from wavernn_fast import Vocoder, audio, features, likelihood, metrics, weights
from wavernn_fast.evaluation import Evaluator, Settings
from wavernn_fast.mel_prediction import ERROR_SCALE, MelPrediction
from wavernn_fast.models.subscale import autocorrelation, prediction_of
from wavernn_fast.train import corpus
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
    command += ["--steps", str(args.steps)]
    if (folder / "state.pt").exists():
        command += ["--resume"]
    else:
        command += ["--hidden", str(args.hidden)]
        command += ["--fc", str(args.hidden), *run.options(), "--lr", "1.5e-3"]
        command += ["--lr-warmup", "200", "--seed", "1"]
        command += ["--valid-every", "200", "--save-every", "200"]
    with (Path(args.folder) / f"{run.name}.txt").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return folder


@dataclasses.dataclass
class Judge:
    """A trained run, ready to be heard beside recordings."""

    folder: Path
    data: Path
    seeds: Sequence[int] = (1, 2)

    def __post_init__(self) -> None:
        self.model = weights.read(self.folder / "model.safetensors")
        self.facts = json.loads((self.folder / "run.json").read_text())
        self.voc = Vocoder(*self.model, device="cpu")

    def waves(self, names: Sequence[str]) -> Iterator[Any]:
        """Recordings, in whole frames."""
        config, _ = self.model
        for name in names:
            wave, _ = audio.read_wav(next(self.data.rglob(name)), config.sample_rate)
            yield wave[: len(wave) // config.hop_length * config.hop_length]

    def trained_on(self, count: int) -> list[str]:
        """Names of so many recordings of the training, evenly among all."""
        held_out = set(self.facts["held_out"]["names"])
        names = sorted(
            path.name for path in corpus.find_recordings(self.data) if path.name not in held_out
        )
        return names[:: max(1, len(names) // count)][:count]

    def correlation(self, names: Sequence[str], temperature: float) -> float:
        """Mean log-mel correlation of copies of recordings, one seed."""
        (config, _), found = self.model, []
        for wave in self.waves(names):
            mel = features.log_mel(wave, config.mel)[:, : len(wave) // config.hop_length]
            copy = self.voc.generate(mel, seed=self.seeds[0], temperature=temperature)
            both = (features.log_mel(one, config.mel) for one in (wave, copy))
            found.append(metrics.mel_correlation(*both))
        return statistics.fmean(found)

    def judged(self, names: Sequence[str], temperature: float) -> dict[str, Any]:
        """Likelihood, and copy synthesis at a temperature, of recordings."""
        config, tensors = self.model
        waves = list(self.waves(names))
        rows = []
        for seed in self.seeds:
            dtypes = () if rows else ("fp32",)  # a likelihood has no seed
            how = Settings(dtypes, with_torch=False, temperature=temperature, seed=seed)
            evaluator = Evaluator(config, tensors, how)
            rows += [evaluator.evaluate(wave).to_dict() for wave in waves]
        lengths = np.array([len(wave) for wave in waves])
        nats = np.stack([by_row(self.voc, wave) for wave in waves])
        log = (self.folder / "log.jsonl").read_text().splitlines()
        lines = [json.loads(line) for line in log]

        def mean(key: str) -> float | None:
            known = [row[key] for row in rows if row[key] is not None]
            return statistics.fmean(known) if known else None

        first = rows[: len(waves)]
        return {
            "name": self.folder.name,
            "subscale": dataclasses.asdict(config.subscale) if config.subscale else None,
            "hidden_size": config.hidden_size,
            "weights": int(sum(tensor.size for tensor in tensors.values())),
            "steps": self.facts["settings"]["steps"],
            "clips": len(waves),
            "temperature": temperature,
            "seeds": list(self.seeds),
            "nll": float(np.average([row["nll"]["fp32"] for row in first], weights=lengths)),
            "nll_by_row": np.average(nats, axis=0, weights=lengths).round(4).tolist(),
            "valid": [[line["step"], line["valid_nll"]] for line in lines if "valid_nll" in line],
            **{key: mean(key) for key in ("mel_correlation", "lsd_db", "mcd_db", "stoi")},
        }


def judge(
    folder: Path, data: Path, clips: int | None, temperatures: Sequence[float]
) -> dict[str, Any]:
    """Likelihood and copy synthesis of the held-out recordings of one run.

    At the temperature, of those given, at which copies of as many recordings that the run was
    trained on have the highest log-mel correlation: what is judged has no part in the choice.
    """
    run = Judge(folder, data)
    judged = run.facts["held_out"]["names"][:clips]
    names = run.trained_on(len(judged))
    tried = [[t, run.correlation(names, t)] for t in temperatures]
    best, _ = max(tried, key=lambda one: one[1])
    return {**run.judged(judged, best), "tried": tried, "chosen_on": len(names)}


def by_row(voc: Vocoder, wave: Any) -> Any:
    """Nats per sample of each row, [factor]."""
    return _nats(voc, wave).reshape(-1, voc.config.subscale_factor).mean(axis=0)


def _nats(voc: Vocoder, wave: Any) -> Any:
    """Nats of every sample of a recording of whole frames."""
    mel = features.log_mel(wave, voc.config.mel)[:, : len(wave) // voc.config.hop_length]
    request = make_request(voc.config, mel, None, 0)
    targets = likelihood.forced_targets(voc.config, request, wave)
    nats = np.zeros(len(targets))
    for numbers, part in likelihood.forced_nll(voc.voice(), request, targets):
        nats[numbers] = part
    return nats


class Linear:
    """Linear predictions of each row of held-out recordings.

    From what the first layer of the network of a model of so many rows hears, the same in every
    frame; and what the mel predicts, which is another one in every frame.
    """

    def __init__(self, data: Path, held_out: int, factor: int) -> None:
        config = self.config = train_run.ModelSizes(subscale=factor).config()
        where = train_run.Data(train=data, held_out=held_out)
        loaded = train_run.load(where, config, TrainSettings(steps=1))
        assert config.subscale is not None
        correlation = autocorrelation(config.subscale, (r.samples for r in loaded.train))
        self.recordings = loaded.valid
        self._weight = prediction_of(config.subscale, correlation).numpy()
        reach = config.subscale.reach
        self._offset = factor * np.arange(-reach, reach + 1)

    def errors(self, samples: Any, row: int) -> Any:
        """Of every sample 256 c + f, predicted as if it were of this row."""
        rows = len(self._weight)
        at = (np.arange(rows)[:, None] - row + self._offset).reshape(-1)
        taps = np.zeros(2 * np.abs(at).max() + 1)
        taps[np.abs(at).max() + at] = self._weight[row].reshape(-1)
        u = samples.astype(np.float64) - 32768.0
        return u - np.convolve(np.pad(u, len(taps) // 2), taps[::-1], mode="valid")

    def mel_errors(self, recording: Any) -> tuple[Any, Any]:
        """Of every sample, predicted from the mel: [row, frames, hop length].

        And how large the mel says that they are, [row, frames, 1].
        """
        sub, hop = self.config.subscale, self.config.hop_length
        assert sub is not None
        weights, error = MelPrediction(self.config).of(recording.mel.T.astype(np.float64))
        u = recording.samples.astype(np.float64) - 32768.0
        near = (sub.prediction_reach + 1) * sub.factor
        columns = sub.factor * np.arange(-sub.prediction_reach, sub.prediction_reach + 1)
        place = (np.arange(sub.factor)[:, None] + columns).reshape(-1)
        at = near + np.arange(len(u)).reshape(-1, hop, 1)
        padded = np.pad(u, near)
        predicted = [
            (padded[at + place - row] @ weights[:, row, :, None])[:, :, 0]
            for row in range(sub.factor)
        ]
        sizes = np.exp(error.T / ERROR_SCALE)[:, :, None]
        return u.reshape(-1, hop) - np.stack(predicted), sizes


def linear(data: Path, held_out: int, factor: int) -> dict[str, list[float]]:
    """Nats per sample of each row under linear predictions.

    Of held-out recordings, as pre-emphasised and rounded as a model draws them; all samples are
    taken as of each row: they tell more than every sixteenth. The error is taken as gaussian, with
    the variance it has in each frame, in `fixed` under one prediction for all sounds, in `mel`
    under that from the mel; no model knows it beforehand, so this is the least that either could
    cost. In `mel_alone` the mel has to say the variance too.
    """
    prediction = Linear(data, held_out, factor)
    nats: dict[str, list[Any]] = {"fixed": [], "mel": [], "mel_alone": []}
    for recording in prediction.recordings:
        fixed = [prediction.errors(recording.samples, row) for row in range(factor)]
        errors, sizes = prediction.mel_errors(recording)
        every = {"fixed": np.stack(fixed), "mel": errors}
        for name, found in every.items():
            frames = found.reshape(-1, errors.shape[2])
            nats[name].append(knowing_variance(frames).reshape(errors.shape[:2]))
        alone = 0.5 * np.log(2.0 * np.pi * sizes**2) + errors**2 / (2.0 * sizes**2)
        nats["mel_alone"].append(alone.mean(axis=2))
    return {
        name: np.concatenate(every, axis=1).mean(axis=1).tolist() for name, every in nats.items()
    }


def by_loudness(folder: Path, data: Path, row: int, parts: int = 8) -> list[dict[str, float]]:
    """What a row of a run costs beside `linear`, by how well the latter knows it.

    Of held-out recordings, in frames of 240 samples; parts of equal size, the best known first.
    `sigma` is the error of the linear prediction, in steps of 65,536, a geometric mean.
    """
    run = Judge(folder, data)
    names = run.facts["held_out"]["names"]
    factor = run.model[0].subscale_factor
    prediction = Linear(data, len(names), factor)
    each, nats, least = FRAME // factor, [], []
    for wave, recording in zip(run.waves(names), prediction.recordings, strict=True):
        own = _nats(run.voc, wave).reshape(-1, factor)[:, row]
        count = len(own) // each
        error = prediction.errors(recording.samples, row)[row::factor][: count * each]
        nats.append(own[: count * each].reshape(count, each).mean(axis=1))
        least.append(knowing_variance(error.reshape(count, each)))
    model, known = np.concatenate(nats), np.concatenate(least)
    return [
        {
            "sigma": float(np.exp(known[part].mean()) / np.sqrt(2.0 * np.pi * np.e)),
            "model": float(model[part].mean()),
            "linear": float(known[part].mean()),
        }
        for part in np.array_split(np.argsort(known), parts)
    ]
