"""What rows drawn side by side cost in quality, and what they bring in speed.

Trains the same cell at several numbers of rows on the same recordings, for the same number of
updates of as many samples, and judges each by held-out recordings with the engine: likelihood, by
row too, and copy synthesis, at a temperature chosen on recordings of the training. Then times one
utterance of several lengths, beside the cell drawn one sample after the other, in rounds that
alternate. Training takes an hour or two on two cores; a run that was interrupted, or is to have
more updates than it had, goes on.

    python benchmarks/subscale.py train RECORDINGS -o runs/subscale
    python benchmarks/subscale.py judge RECORDINGS -o runs/subscale --output quality.json
    python benchmarks/subscale.py linear RECORDINGS
    python benchmarks/subscale.py loudness RECORDINGS runs/subscale/b16-f8-c64 --row 15
    python benchmarks/subscale.py speed --output speed.json
    python benchmarks/subscale.py prediction --sizes 128 512
    python benchmarks/subscale.py between --columns 96
    python benchmarks/subscale.py predict --gpu H200
    python benchmarks/subscale.py draw quality.json speed.json -o docs/subscale-results.svg
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from subscale_quality import Run, by_loudness, judge, linear, train
from subscale_speed import between, cost_of_prediction, predict, time_cell

from wavernn_fast.files import write_atomic
from wavernn_fast.machine import machine


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
            style = {"marker": "o", "markersize": 3, "color": line.get_color()}
            rows.plot(positions, run["nll_by_row"], label=name, **style)
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
    parts.choices["judge"].add_argument(
        "--temperatures", type=float, nargs="+", default=[1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    )
    loud = parts.add_parser("loudness")
    loud.add_argument("data")
    loud.add_argument("run", help="folder of one run, such as runs/subscale/b16-f8-c64")
    loud.add_argument("--row", type=int, default=15)
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
    parts.add_parser("between").add_argument("--columns", type=int, default=96)
    cost = parts.add_parser("prediction")
    cost.add_argument("--sizes", type=int, nargs="+", default=[128, 512])
    for option, default in (("threads", 2), ("rounds", 4)):
        cost.add_argument(f"--{option}", type=int, default=default)
    cost.add_argument("--seconds", type=float, default=3.0)
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
        data = Path(args.data)
        report([judge(f, data, args.clips, args.temperatures) for f in folders], args.output)
    elif args.part == "loudness":
        for one in by_loudness(Path(args.run), Path(args.data), args.row):
            print(json.dumps({name: round(value, 2) for name, value in one.items()}))
    elif args.part == "linear":
        for name, nats in linear(Path(args.data), args.held_out, args.factor).items():
            by_row = [round(n, 2) for n in nats]
            print(json.dumps({"of": name, "nll": statistics.fmean(nats), "nll_by_row": by_row}))
    elif args.part == "speed":
        rows = [row for size in args.sizes for row in time_cell(size, args)]
        predicted = [row for size in args.sizes for row in predict(size, args.seconds)]
        report(rows, args.output, predicted=predicted)
    elif args.part == "prediction":
        for size in args.sizes:
            row = cost_of_prediction(size, args.threads, args.seconds, args.rounds)
            print(json.dumps({name: round(value, 3) for name, value in row.items()}))
    elif args.part == "between":
        print(json.dumps({name: round(us) for name, us in between(args.columns).items()}))
    elif args.part == "predict":
        teams = [(size, clusters) for size in args.sizes for clusters in (False, True)]
        report([r for size, c in teams for r in predict(size, args.seconds, args.gpu, c)], None)
    else:
        both = (json.loads(Path(path).read_text()) for path in (args.quality, args.speed))
        draw(*both, args.output)


if __name__ == "__main__":
    main()
