"""Samples a second, and how long each stream waits, against the number of streams side by side.

From mels to waveforms, utterances of one length, as many as there are streams. All cases take turns
in rounds that alternate in order; figures are medians. Nothing is predicted here.

    python benchmarks/throughput.py --output results.json
    python benchmarks/throughput.py --device cuda --dtype fp16 --streams 1,16,64 --output gpu.json
    python benchmarks/throughput.py --draw throughput.svg results.json gpu.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wavernn_fast import Vocoder
from wavernn_fast.batch import BatchReport
from wavernn_fast.files import write_atomic
from wavernn_fast.machine import machine
from wavernn_fast.synthetic import random_mel, random_model
from wavernn_fast.vocoder import CHUNK_SECONDS

LEAST_FRAMES = 2


@dataclass
class Case:
    """One engine with some streams."""

    voc: Vocoder
    streams: int
    frames: int = LEAST_FRAMES + 1  # of each utterance
    reports: list[BatchReport] = field(default_factory=list)

    def run(self) -> BatchReport:
        """One batch."""
        mels = [random_mel(self.voc.config, self.frames, seed) for seed in range(self.streams)]
        found: list[BatchReport] = []
        self.voc.generate_batch(mels, streams=self.streams, report=found.append)
        return found[0]

    def calibrate(self, seconds: float) -> None:
        """Choose a length that takes about so long; warms up on the way."""
        while True:
            took = self.run().seconds
            if took > seconds / 3:
                break
            self.frames = max(self.frames + 1, int(self.frames * min(8.0, seconds / took)))
        self.frames = max(LEAST_FRAMES, int(self.frames * seconds / took))

    def row(self) -> dict[str, Any]:
        """What was measured, ready for JSON."""
        rates = [one.samples_per_s for one in self.reports]
        rate, voc = statistics.median(rates), self.voc
        return {
            "device": voc.device,
            "isa": voc.isa,
            "dtype": voc.dtype,
            "threads": voc.cpu_threads,
            "streams": self.streams,
            "frames": self.frames,
            "samples_per_s": rate,
            "rates": rates,
            "x_realtime": rate / voc.sample_rate,
            "x_realtime_stream": rate / voc.sample_rate / self.streams,
            # until every stream has its next chunk, as long as those of Vocoder.stream
            "chunk_seconds": CHUNK_SECONDS * voc.sample_rate * self.streams / rate,
            "engine_share": statistics.median(
                one.engine_seconds / one.seconds for one in self.reports
            ),
        }


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of all cases, measured in turns."""
    config, tensors = random_model(args.size)
    threads = [int(n) for n in args.threads.split(",")] if args.device == "cpu" else [None]
    cases = []
    for dtype in args.dtype.split(","):
        for n in threads:
            voc = Vocoder(config, tensors, device=args.device, dtype=dtype, cpu_threads=n)
            cases += [Case(voc, int(streams)) for streams in args.streams.split(",")]
    for case in cases:
        case.calibrate(args.seconds)
    for i in range(args.rounds):
        for case in cases if i % 2 == 0 else reversed(cases):
            case.reports.append(case.run())
    return [case.row() for case in cases]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = ["| device | dtype | threads | streams | samples/s | x real time | of each stream |"]
    lines[0] += " next 50 ms of all | in the engine |"
    lines.append("|---" * 9 + "|")
    for row in rows:
        lines.append(
            f"| {row['device']}, {row['isa']} | {row['dtype']} | {row['threads']} | "
            f"{row['streams']} | {row['samples_per_s']:,.0f} | {row['x_realtime']:.2f} | "
            f"{row['x_realtime_stream']:.3f} | {1000 * row['chunk_seconds']:,.0f} ms | "
            f"{row['engine_share']:.0%} |"
        )
    return "\n".join(lines)


def name_of(row: dict[str, Any]) -> str:
    """Of a curve."""
    if row["device"] != "cpu":
        return f"{row['isa']}, {row['dtype']}"
    return f"CPU, {row['dtype']}, {row['threads']} thread{'s' * (row['threads'] > 1)}"


def draw(target: str, rows: Sequence[dict[str, Any]]) -> None:
    """Two panels over the number of streams: samples/s, and milliseconds to the next chunk."""
    import io

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Texts stay texts and names of parts do not change, so that a new figure is a small difference.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "throughput"})
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    FigureCanvasSVG(figure)
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(map(name_of, rows)):
        points = sorted((r for r in rows if name_of(r) == name), key=lambda r: r["streams"])
        x = [row["streams"] for row in points]
        left.plot(x, [row["samples_per_s"] for row in points], "o-", markersize=3, label=name)
        milliseconds = [1000 * row["chunk_seconds"] for row in points]
        right.plot(x, milliseconds, "o-", markersize=3, label=name)
    right.axhline(1000 * CHUNK_SECONDS, color="0.5", linestyle="--", linewidth=1)
    left.set_ylabel("samples/s, all streams")
    right.set_ylabel("ms until every stream has its next 50 ms")
    counts = sorted({row["streams"] for row in rows})
    right.text(counts[-1], 1000 * CHUNK_SECONDS, "real time", color="0.4", ha="right", va="bottom")
    for panel in (left, right):
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(counts, [str(n) for n in counts])
        panel.set_xlabel("streams side by side")
        panel.grid(alpha=0.3, which="both")
    left.legend()
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    write_atomic(target, [out.getvalue()])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("results", nargs="*", help="JSON files to draw")
    parser.add_argument("--draw", metavar="SVG")
    parser.add_argument("--size", default="dual-mel:896")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32,int8")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--streams", default="1,2,4,8,16,32,64,128")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--output")
    args = parser.parse_args()
    if args.draw:
        reports = [json.loads(Path(name).read_text()) for name in args.results]
        draw(args.draw, [row for report in reports for row in report["rows"]])
        return
    rows = measure(args)
    print(table(rows))
    if args.output:
        command = shlex.join(["python", *sys.argv])
        report = {"command": command, "model": args.size, "machine": machine(), "rows": rows}
        text = json.dumps(report, indent=2, sort_keys=True) + "\n"
        write_atomic(args.output, [text.encode()])


if __name__ == "__main__":
    main()
