"""Pictures of how long streams wait: for their first chunk, and in company at real time.

The rows are those of `benchmarks/stream_latency.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .bench_rows import Report
from .errors import InputError
from .files import PathLike
from .pictures import clip_title, new_figure, save_figure

FIRST, LIVE = "first_chunk_seconds", "real_time"  # names of the lists
KEEPS_UP = 0.2  # seconds of delay below which a stream is called in time
_LEAST = 1e-3  # seconds; less is drawn as this, as a logarithmic axis has no 0
_COLOURS, _DASHES = 10, ("-", "--", ":", "-.")


@dataclass(frozen=True)
class FirstChunk:
    """Seconds until a newcomer has its first chunk."""

    way: str  # "pull" or "push"
    streams: int  # side by side, with the newcomer
    chunk_frames: int
    median: float
    p95: float


@dataclass(frozen=True)
class Company:
    """Streams whose frames come at the speed of their sound."""

    streams: int
    delay: float  # seconds that the worst player must have started later
    first: float  # seconds until the worst player had something to play


def is_latency(report: Report) -> bool:
    """Whether a file is of this kind."""
    return FIRST in report.fields


def read_latency(report: Report) -> tuple[list[FirstChunk], list[Company]]:
    """Rows of a file of measurements; medians of its turns.

    Raises
    ------
    InputError
        If a list is missing, or a row lacks something or has it in an odd form.
    """
    first = [
        FirstChunk(
            way=row.word("way"),
            streams=row.count("streams"),
            chunk_frames=row.count("chunk_frames"),
            median=row.number("median_median"),
            p95=row.number("median_p95"),
        )
        for row in report.rows(FIRST)
    ]
    company = [
        Company(row.count("streams"), row.duration("median_delay"), row.duration("median_first"))
        for row in report.rows(LIVE)
    ]
    report.check()
    return first, company


def plot_latency(
    path: PathLike, first: Sequence[FirstChunk], company: Sequence[Company], *, title: str = ""
) -> None:
    """Draw the wait for the first chunk over its size, and the delay over the number of streams.

    Lines are medians; a thin line above reaches to the 95th percentile.

    Parameters
    ----------
    path : str or path
        .png or .svg, written atomically; "-" is standard output (PNG).
    first : sequence of FirstChunk, one or more
    company : sequence of Company, one or more
    title : str

    Raises
    ------
    InputError
        If there is nothing to draw.
    MissingDependencyError
        If matplotlib is not installed.
    AudioError
        If the file cannot be written.
    """
    if not first or not company:
        raise InputError("There is no measurement to draw.")
    figure = new_figure(width=12.0, height=5.0)
    left, right = figure.subplots(1, 2)
    _draw_first(left, first)
    _draw_company(right, company)
    for panel in (left, right):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(_steps())
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    if title:
        figure.suptitle(clip_title(title), parse_math=False)
    save_figure(figure, path)


# --- helpers ---


def _steps() -> Any:
    """Ticks of a logarithmic axis at 1, 2 and 5 times the powers of 10."""
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1.0, 2.0, 5.0))


def _draw_first(panel: Any, rows: Sequence[FirstChunk]) -> None:
    cases = list(dict.fromkeys((row.way, row.streams) for row in rows))
    counts = list(dict.fromkeys(streams for _, streams in cases))
    ways = list(dict.fromkeys(way for way, _ in cases))
    for way, streams in cases:
        points = [row for row in rows if (row.way, row.streams) == (way, streams)]
        points.sort(key=lambda row: row.chunk_frames)
        plural = "stream" if streams == 1 else "streams"
        panel.errorbar(
            [row.chunk_frames for row in points],
            [1000 * row.median for row in points],
            yerr=[[0.0] * len(points), [1000 * max(0.0, r.p95 - r.median) for r in points]],
            label=f"{clip_title(way)}, {streams} {plural}".replace("$", r"\$"),
            color=f"C{counts.index(streams) % _COLOURS}",
            linestyle=_DASHES[ways.index(way) % len(_DASHES)],
            marker="o",
            markersize=3,
            elinewidth=0.7,
        )
    sizes = sorted({row.chunk_frames for row in rows})
    panel.set_xscale("log")
    panel.set_xticks(sizes, [str(size) for size in sizes])
    panel.set_xlabel("frames of a chunk")
    panel.set_ylabel("ms until the first chunk (to the 95th percentile)")


def _draw_company(panel: Any, rows: Sequence[Company]) -> None:
    points = sorted(rows, key=lambda row: row.streams)
    counts = [row.streams for row in points]
    for name, style, waits in (
        ("worst delay", "o-", [row.delay for row in points]),
        ("first sound, worst", "o--", [row.first for row in points]),
    ):
        panel.plot(counts, [1000 * max(_LEAST, wait) for wait in waits], style, label=name)
    panel.axhline(1000 * KEEPS_UP, color="0.5", linestyle="--", linewidth=1)
    panel.text(counts[0], 1000 * KEEPS_UP, "in time below", color="0.4", va="bottom", fontsize=8)
    panel.set_xticks(counts, [str(count) for count in counts])
    panel.set_xlabel("streams in real time")
    panel.set_ylabel("ms")
