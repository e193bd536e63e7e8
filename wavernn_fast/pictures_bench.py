"""Pictures of measured speed: bars beside the hardware floor and the baseline, and curves.

The rows are those of `wavernn-fast bench --json` and of `benchmarks/throughput.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bench_rows import Report, Row
from .errors import InputError
from .files import PathLike
from .pictures import clip_title, new_figure, save_figure

CHUNK_SECONDS = 0.05  # of the chunks of `Vocoder.stream`
_MOST_COLUMNS = 4  # numbers of streams that have bars of their own
_BASELINE_COLOUR = "0.6"
_ENGINE = "wavernn_fast"  # what rows without a runner are of


@dataclass(frozen=True)
class Speed:
    """One measured case; rates are of all streams together, None where nothing was measured."""

    model: str
    series: str  # dtype and threads: what a bar or a curve is called
    streams: int
    samples_per_s: float
    floor: float | None = None  # samples/s that the hardware allows
    baseline: float | None = None  # samples/s of eager PyTorch
    chunk_seconds: float | None = None  # until every stream has its next `CHUNK_SECONDS` of audio
    runner: str = _ENGINE  # or the name of a baseline that has a row of its own
    threads: int | None = None  # of a baseline on the CPU

    @property
    def is_baseline(self) -> bool:
        """Whether this is what the engines are compared with."""
        return self.runner != _ENGINE


def read_bench(report: Report) -> list[Speed]:
    """Rows of a file of measurements.

    Raises
    ------
    InputError
        If it has no rows, or a row lacks something or has it in an odd form; the first problems
        are listed, with the number of the row.
    """
    found = [_speed(row, str(report.fields.get("model", ""))) for row in report.rows("rows")]
    report.check()
    return found


def plot_bench(path: PathLike, rows: Sequence[Speed], *, title: str = "") -> None:
    """Draw bars for each model and number of streams, and below them curves over the streams.

    A bar ends with its share of the hardware floor, which a line marks; a diamond marks the
    baseline. Baselines with rows of their own have bars of another colour below, on the number of
    threads that was faster. Curves are drawn where engines were measured with two numbers of
    streams or more.

    Parameters
    ----------
    path : str or path
        .png or .svg, written atomically; "-" is standard output (PNG).
    rows : sequence of Speed, one or more
    title : str

    Raises
    ------
    InputError
        If there is no row.
    MissingDependencyError
        If matplotlib is not installed.
    AudioError
        If the file cannot be written.
    """
    if not rows:
        raise InputError("There is no measurement to draw.")
    models = list(dict.fromkeys(row.model for row in rows))
    streams = _columns(sorted({row.streams for row in rows}))
    bars = {model: _bars(rows, model) for model in models}
    parts = [sum(heights := [0.75 + 0.3 * len(names) for names in bars.values()]) + 0.5]
    engines = [row for row in rows if not row.is_baseline]
    if len({row.streams for row in engines}) > 1:
        parts.append(max(3.6, 0.6 + 0.17 * len(_names(engines))))
    figure = new_figure(width=max(9.0, 1.5 + 4.4 * len(streams)), height=0.6 + sum(parts))
    top, *below = figure.subfigures(len(parts), 1, height_ratios=parts, squeeze=False)[:, 0]
    panels = top.subplots(
        len(models), len(streams), squeeze=False, sharey="row", height_ratios=heights
    )
    for model, line in zip(models, panels, strict=True):
        for count, panel in zip(streams, line, strict=True):
            if not (group := _group(rows, model, count)):
                panel.axis("off")  # not every model was measured with every number of streams
                continue
            _draw_bars(panel, group, bars[model])
            plural = "stream" if count == 1 else "streams"
            words = f"{clip_title(model)}, {count} {plural}" if model else f"{count} {plural}"
            panel.set_title(words, parse_math=False, fontsize=10)
    _add_legend(top, rows)
    for part in below:
        _draw_curves(part, engines)
    if title:
        figure.suptitle(clip_title(title), parse_math=False)
    save_figure(figure, path)


# --- reading ---


def _speed(row: Row, model: str) -> Speed:
    streams = row.count("streams")
    runner = row.word("runner") if "runner" in row.fields else _ENGINE
    each = row.optional("x_realtime_stream")
    batch = row.optional("eager_batch_samples_per_s") if streams > 1 else None
    return Speed(
        model=row.word("model") if "model" in row.fields else model,
        series=_series(row, runner),
        streams=streams,
        samples_per_s=row.number("samples_per_s"),
        floor=row.optional("floor_samples_per_s"),
        baseline=batch or row.optional("eager_samples_per_s"),
        chunk_seconds=row.optional("chunk_seconds") or (CHUNK_SECONDS / each if each else None),
        runner=runner,
        threads=None if runner == _ENGINE or _device(row) != "cpu" else row.count("threads"),
    )


def _device(row: Row) -> object:
    return row.fields.get("device", "cpu")


def _series(row: Row, runner: str) -> str:
    """What a bar is called."""
    if runner != _ENGINE:
        return runner if _device(row) == "cpu" else f"{runner}, {_device(row)}"
    if _device(row) != "cpu":
        return f"{row.word('isa')}, {row.word('dtype')}"
    threads = row.count("threads")
    return f"{row.word('dtype')}, {threads} thread{'s' * (threads > 1)}"


# --- drawing ---


def _columns(streams: list[int]) -> list[int]:
    """Numbers of streams that have bars: all, or some from the first to the last."""
    if len(streams) <= _MOST_COLUMNS:
        return streams
    picks = np.linspace(0, len(streams) - 1, _MOST_COLUMNS).round().astype(int)
    return [streams[i] for i in picks]


def _group(rows: Sequence[Speed], model: str, streams: int) -> list[Speed]:
    """Bars of a panel: engines, and of every baseline the fastest row."""
    here = [row for row in rows if row.model == model and row.streams == streams]
    best: dict[str, Speed] = {}
    for row in here:
        if row.is_baseline and row.samples_per_s > getattr(
            best.get(row.series), "samples_per_s", 0
        ):
            best[row.series] = row
    return [row for row in here if not row.is_baseline] + list(best.values())


def _bars(rows: Sequence[Speed], model: str) -> list[str]:
    """Names of the bars of a model, engines first; a line of panels shares them."""
    here = sorted((row for row in rows if row.model == model), key=lambda row: row.is_baseline)
    return list(dict.fromkeys(row.series for row in here))


def _plain(text: str) -> str:
    """A label in which a dollar is a dollar."""
    return clip_title(text).replace("$", r"\$")


def _draw_bars(panel: Any, rows: Sequence[Speed], names: Sequence[str]) -> None:
    """The first name on top; beside each bar its share of the floor."""
    places = [names.index(row.series) for row in rows]
    colours = [_BASELINE_COLOUR if row.is_baseline else "C0" for row in rows]
    panel.barh(places, [row.samples_per_s for row in rows], color=colours, height=0.6)
    for place, row in zip(places, rows, strict=True):
        if row.floor is not None:
            panel.plot([row.floor] * 2, [place - 0.38, place + 0.38], color="black", linewidth=2)
        if row.baseline is not None and not row.is_baseline:
            panel.plot(
                row.baseline,
                place,
                "D",
                color="C1",
                markersize=6,
                markeredgecolor="white",
                zorder=3,
            )
        marked = (row.floor,) if row.is_baseline else (row.floor, row.baseline)
        farthest = max(row.samples_per_s, *(x or 0.0 for x in marked))
        panel.annotate(_words(row), (farthest, place), va="center", fontsize=8, xytext=(6, 0),
                       textcoords="offset points")  # fmt: skip
    panel.set_yticks(range(len(names)), [_plain(name) for name in names])
    panel.set_ylim(len(names) - 0.4, -0.6)
    highest = max((x for r in rows for x in (r.samples_per_s, r.floor, r.baseline) if x), default=1)
    panel.set_xlim(0.0, 1.55 * highest)  # room for words
    panel.set_xlabel("samples/s, all streams", fontsize=9)
    panel.xaxis.set_major_formatter(lambda value, _: _amount(value))
    panel.tick_params(labelsize=8)
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)


def _words(row: Speed) -> str:
    """Samples/s, and beside what is marked: "10.5k: 95 %, 8.4 x"."""
    shares = []
    if row.floor is not None:
        shares.append(f"{100 * row.samples_per_s / row.floor:.0f} %")
    if row.baseline is not None:
        shares.append(f"{row.samples_per_s / row.baseline:.3g} x")
    threads = f" ({row.threads} t)" if row.threads else ""
    return _amount(row.samples_per_s) + threads + (": " if shares else "") + ", ".join(shares)


def _amount(value: float) -> str:
    """1,234 or 12.3k or 4.56M."""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if value >= 1e4 else f"{value:,.0f}"


def _add_legend(figure: Any, rows: Sequence[Speed]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color="C0", linewidth=7, label="measured")]
    if any(row.is_baseline for row in rows):
        handles.append(Line2D([], [], color=_BASELINE_COLOUR, linewidth=7, label="baselines"))
    if any(row.floor is not None for row in rows):
        floor = Line2D([], [], color="black", marker="|", linestyle="", markersize=12)
        floor.set(markeredgewidth=2, label="hardware floor: share in %")
        handles.append(floor)
    if any(row.baseline is not None and not row.is_baseline for row in rows):
        words = "eager PyTorch: how many times as fast"
        handles.append(Line2D([], [], color="C1", marker="D", linestyle="", label=words))
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


def _draw_curves(figure: Any, rows: Sequence[Speed]) -> None:
    """Over the number of streams: samples/s, and milliseconds until all have their next chunk."""
    left, right = figure.subplots(1, 2)
    for i, name in enumerate(_names(rows)):
        points = sorted((r for r in rows if _name(r) == name), key=lambda r: r.streams)
        x = [row.streams for row in points]
        dashes = ("-", "--", ":", "-.")[i // 10 % 4]
        waits = [1000 * (row.chunk_seconds or math.nan) for row in points]
        left.plot(x, [row.samples_per_s for row in points], f"C{i % 10}o{dashes}", markersize=3)
        left.lines[-1].set_label(_plain(name))
        right.plot(x, waits, f"C{i % 10}o{dashes}", markersize=3)
    _finish_curves(left, right, sorted({row.streams for row in rows}))
    figure.legend(loc="outside right center", fontsize=7, frameon=False)


def _name(row: Speed) -> str:
    return f"{row.model}, {row.series}" if row.model else row.series


def _names(rows: Sequence[Speed]) -> list[str]:
    """Of the curves."""
    return list(dict.fromkeys(_name(row) for row in rows))


def _finish_curves(left: Any, right: Any, counts: Sequence[int]) -> None:
    real_time = 1000 * CHUNK_SECONDS
    right.axhline(real_time, color="0.5", linestyle="--", linewidth=1)
    right.text(counts[-1], real_time, "real time", color="0.4", ha="right", va="bottom", fontsize=8)
    left.set_ylabel("samples/s, all streams")
    right.set_ylabel(f"ms until all streams have {real_time:.0f} ms")
    for panel in (left, right):
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(counts, [str(n) for n in counts])
        panel.minorticks_off()
        panel.set_xlabel("streams side by side")
        panel.grid(alpha=0.3)
