"""What rows drawn side by side cost in quality, and what they bring in speed.

Trains the same cell at several numbers of rows on the same recordings, for the same number of
updates of as many samples, and judges each by held-out recordings with the engine: likelihood, by
row too, and copy synthesis. Then times one utterance of several lengths, beside the cell drawn one
sample after the other, in rounds that alternate. Training takes an hour or two on two cores; a run
that was interrupted goes on.

    python benchmarks/subscale.py train RECORDINGS -o runs/subscale
    python benchmarks/subscale.py judge RECORDINGS -o runs/subscale --output quality.json
    python benchmarks/subscale.py linear RECORDINGS
    python benchmarks/subscale.py speed --output speed.json
    python benchmarks/subscale.py predict --gpu H200
    python benchmarks/subscale.py draw quality.json speed.json -o docs/subscale-results.svg
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from mel_worth import FRAME, knowing_variance

from wavernn_fast import _C, Vocoder, audio, features, likelihood, weights
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import DeviceError, InputError
from wavernn_fast.evaluation import Evaluator, Settings
from wavernn_fast.files import write_atomic
from wavernn_fast.machine import machine
from wavernn_fast.models.subscale import autocorrelation, prediction_of
from wavernn_fast.subscale import Schedule
from wavernn_fast.subscale_network import SLICE_COLUMNS, cell_of
from wavernn_fast.synthetic import random_mel, random_model
from wavernn_fast.train import run as train_run
from wavernn_fast.train.settings import TrainSettings
from wavernn_fast.utterance import make_request

COLUMNS = 240  # of a segment; 960 samples where there are no rows
LAUNCH_SECONDS = 20e-6  # of a kernel, and of what happens between two: predicted, see docs


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


# --- speed ----------------------------------------------------------------------------------------


def alone(config: ModelConfig, tensors: Any) -> tuple[ModelConfig, Any]:
    """The same cell drawn one sample after the other: without the network of rows before."""
    plain = dataclasses.replace(config, subscale=None)
    kept = {name: array for name, array in tensors.items() if not name.startswith("subscale.")}
    heard = config.n_mels + config.aux_size
    kept["gru.w_conditioning"] = np.ascontiguousarray(kept["gru.w_conditioning"][:, :heard])
    return plain, kept


def time_cell(size: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Samples a second of one utterance of each length, with and without rows."""
    config, tensors = random_model(f"subscale:{size}")
    models = {"rows": (config, tensors), "one": alone(config, tensors)}
    rows = []
    for threads in args.threads:
        voices = {
            way: Vocoder(*model, device="cpu", dtype=args.dtype, cpu_threads=threads)
            for way, model in models.items()
        }
        for seconds in args.seconds:
            frames = max(1, round(seconds * config.sample_rate / config.hop_length))
            mel = random_mel(config, frames)
            found: dict[str, list[float]] = {"rows": [], "one": []}
            for number in range(args.rounds):
                for way in sorted(voices, reverse=bool(number % 2)):
                    started = time.perf_counter()
                    wave = voices[way].generate(mel, seed=number)
                    found[way].append(len(wave) / (time.perf_counter() - started))
            rows.append(_speed_row(config, size, threads, seconds, found, voices["rows"]))
    return rows


def _speed_row(
    config: ModelConfig,
    size: int,
    threads: int,
    seconds: float,
    found: dict[str, list[float]],
    voc: Vocoder,
) -> dict[str, Any]:
    assert config.subscale is not None
    count = round(seconds * config.sample_rate / config.hop_length) * config.hop_length
    factor, horizon = config.subscale.factor, config.subscale.horizon
    schedule = Schedule(count, factor, horizon, SLICE_COLUMNS["cpu"])
    ratios = [a / b for a, b in zip(found["rows"], found["one"], strict=True)]
    return {
        "hidden_size": size,
        "dtype": voc.dtype,
        "isa": voc.isa,
        "threads": threads,
        "seconds": seconds,
        "samples_per_step": schedule.samples_per_step,
        "samples_per_s": statistics.median(found["rows"]),
        "samples_per_s_one": statistics.median(found["one"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "lag_seconds": voc.lag_samples / voc.sample_rate,
    }


def clustered(cell: ModelConfig, gpu: str, streams: int) -> tuple[int, dict[str, Any]] | None:
    """The largest cluster of at most 8 blocks that a team can be, and its plan; None if none."""
    for cluster in range(8, 1, -1):
        with contextlib.suppress(DeviceError, InputError):
            config = dataclasses.asdict(cell)
            return cluster, _C.many_plan(config, gpu=gpu, streams=streams, cluster=cluster)
    return None


def predict(
    size: int, seconds: Sequence[float], gpu: str = "H200", clusters: bool = False
) -> list[dict[str, Any]]:
    """What a GPU should do with one utterance: the plan's latency model, a launch a slice.

    With `clusters`, of teams that are clusters; no rows if the model fits none.
    """
    config, tensors = random_model(f"subscale:{size}")
    assert config.subscale is not None
    factor, horizon, columns = 16, config.subscale.horizon, SLICE_COLUMNS["cuda"]
    cell, _ = cell_of(config, tensors)
    if clusters:
        found = clustered(cell, gpu, factor)
        if found is None:
            return []
        cluster, plan = found
    else:
        cluster, plan = 1, _C.many_plan(dataclasses.asdict(cell), gpu=gpu, streams=factor)
    step = 1.0 / plan["samples_per_s"]
    rows = []
    for length in seconds:
        count = round(length * config.sample_rate)
        schedule = Schedule(count, factor, horizon, columns)
        slices = -(-schedule.n_steps // columns)
        took = schedule.n_steps * step + slices * LAUNCH_SECONDS
        rows.append(
            {
                "gpu": gpu,
                "hidden_size": size,
                "cluster": cluster,
                "seconds": length,
                "predicted": True,
                "network_included": False,
                "samples_per_step": schedule.samples_per_step,
                "samples_per_s": count / took,
                "samples_per_s_without_lag": factor / step,
            }
        )
    return rows


# --- the picture ----------------------------------------------------------------------------------


def draw(quality: dict[str, Any], speed: dict[str, Any], path: str) -> None:
    """Held-out likelihood while training, by row at the end, and speed against length."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    curves, rows, lengths = figure.subplots(1, 3)
    for run in quality["rows"]:
        name = "B = 1" if run["subscale"] is None else f"B = {run['subscale']['factor']}"
        steps, nll = zip(*run["valid"], strict=True)
        [line] = curves.plot(steps, nll, label=name)
        if run["subscale"] is None:
            rows.axhline(run["nll"], color=line.get_color(), label=name)
        else:
            positions = np.arange(len(run["nll_by_row"])) / len(run["nll_by_row"])
            rows.plot(positions, run["nll_by_row"], marker="o", markersize=3, label=name)
    curves.set(xlabel="updates", ylabel="held-out nats per sample", ylim=(None, 6.5))
    curves.set_title("while training")
    rows.set(xlabel="row / B", ylabel="held-out nats per sample", title="by row, in the end")
    for size in sorted({row["hidden_size"] for row in speed["rows"]}):
        mine = [r for r in speed["rows"] if r["hidden_size"] == size and r["threads"] == 2]
        lengths.plot(
            [r["seconds"] for r in mine], [r["ratio"] for r in mine], marker="o",
            label=f"{size} units, two threads",
        )  # fmt: skip
    lengths.axhline(1.0, color="0.7", linewidth=1)
    lengths.set_ylim(0.0, 1.45 * max(row["ratio"] for row in speed["rows"]))  # room for the legend
    lengths.set(xlabel="seconds of the utterance", ylabel="times as fast as B = 1", xscale="log")
    shown = sorted({row["seconds"] for row in speed["rows"]})
    lengths.set_xticks(shown, [f"{seconds:g}" for seconds in shown])
    lengths.minorticks_off()
    lengths.set_title("speed of one utterance, B = 16")
    for axes in (curves, rows, lengths):
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def report(rows: list[dict[str, Any]], output: str | None, **more: Any) -> None:
    print(json.dumps(rows, indent=2))
    if output:
        command = shlex.join(["python", *sys.argv])
        found = {"command": command, "machine": machine(), "rows": rows, **more}
        write_atomic(output, [(json.dumps(found, indent=1) + "\n").encode()])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("train", "judge"):
        part = parts.add_parser(name)
        part.add_argument("data")
        part.add_argument("-o", dest="folder", required=True)
    parts.choices["train"].add_argument("--factors", default="16,1,8")
    for option, default in (("steps", 2400), ("hidden", 128), ("held-out", 12), ("jobs", 2)):
        parts.choices["train"].add_argument(f"--{option}", type=int, default=default)
    parts.choices["train"].add_argument("--horizon", type=int, default=8)
    parts.choices["train"].add_argument("--channels", type=int, default=64)
    parts.choices["train"].add_argument("--samples", type=int, default=64 * 960)
    parts.choices["judge"].add_argument("--clips", type=int)
    parts.choices["judge"].add_argument("--temperature", type=float, default=0.7)
    parts.choices["judge"].add_argument("--seed", type=int, default=1)
    bound = parts.add_parser("linear")
    bound.add_argument("data")
    bound.add_argument("--held-out", type=int, default=12)
    bound.add_argument("--factor", type=int, default=16)
    speed = parts.add_parser("speed")
    guess = parts.add_parser("predict")
    guess.add_argument("--gpu", default="H200")
    for part, sizes in ((speed, [128, 896]), (guess, [512, 896])):
        part.add_argument("--sizes", type=int, nargs="+", default=sizes)
        part.add_argument("--seconds", type=float, nargs="+", default=[0.5, 1, 3, 10])
    speed.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    speed.add_argument("--rounds", type=int, default=3)
    speed.add_argument("--dtype", default="fp32")
    picture = parts.add_parser("draw")
    picture.add_argument("quality")
    picture.add_argument("speed")
    picture.add_argument("-o", dest="output", required=True)
    for name in ("judge", "speed"):
        parts.choices[name].add_argument("--output")
    return parser.parse_args()


def main() -> None:
    args = _parse()
    if args.part == "train":
        Path(args.folder).mkdir(parents=True, exist_ok=True)
        factors = [int(factor) for factor in args.factors.split(",")]
        runs = [Run(factor, args.horizon, args.channels, args.samples) for factor in factors]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda run: train(run, args), runs))
    elif args.part == "judge":
        folders = sorted(path.parent for path in Path(args.folder).glob("*/model.safetensors"))
        how = Settings(with_torch=False, temperature=args.temperature, seed=args.seed)
        report([judge(f, Path(args.data), args.clips, how) for f in folders], args.output)
    elif args.part == "linear":
        nats = linear(Path(args.data), args.held_out, args.factor)
        print(
            json.dumps({"nll": statistics.fmean(nats), "nll_by_row": [round(n, 2) for n in nats]})
        )
    elif args.part == "speed":
        rows = [row for size in args.sizes for row in time_cell(size, args)]
        predicted = [row for size in args.sizes for row in predict(size, args.seconds)]
        report(rows, args.output, predicted=predicted)
    elif args.part == "predict":
        teams = [(size, clusters) for size in args.sizes for clusters in (False, True)]
        report([r for size, c in teams for r in predict(size, args.seconds, args.gpu, c)], None)
    else:
        both = (json.loads(Path(path).read_text()) for path in (args.quality, args.speed))
        draw(*both, args.output)


if __name__ == "__main__":
    main()
