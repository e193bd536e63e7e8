"""The state of a job as one HTML page that needs nothing else: no script, no file, no network.

What the page shows comes from file names and messages of other programs, so every text is escaped,
and a policy in the page forbids scripts and everything that would be loaded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import svg
from .files import PathLike, write_atomic
from .job_history import Failure, History, Run, number
from .job_style import STYLE
from .visible import visible
from .words import ago, byte_size, counted, date_time, duration, time_unit

MOST_FAILURES = 1000  # rows of the table; all are counted
MOST_RUNS = 200
_WINDOWS = 60  # of the time axis
_BUCKETS = 30  # of a distribution
_CELL = 300  # characters of one cell
_INSIDE = ("engine", "conditioning", "waiting")  # parts of the wall, one after the other
_BESIDE = {"read": "reading", "write": "writing", "journal": "journal"}  # on other threads
_FACTS = {  # of the first line of a run, in this order, and others behind them
    "version": "wavernn_fast",
    "model_path": "model",
    "model": "SHA-256 of the model",
    "settings": "SHA-256 of the settings",
    "device": "device",
    "isa": "instruction set",
    "dtype": "weights as",
    "streams": "streams",
}
_NOT_FACTS = frozenset(("state", "at", "items"))


def write_report(path: PathLike, history: History, now: float) -> None:
    """Write the page of a job, atomically; "-" is standard output.

    Parameters
    ----------
    path : str or path
    history : History
        See `job_history.read_history`.
    now : float
        Unix seconds, for "made at" and for how long ago the last line was written.

    Raises
    ------
    AudioError
        If the file cannot be written.
    """
    write_atomic(path, [render(history, now).encode("utf-8")])


def render(history: History, now: float) -> str:
    """The page as text; see `write_report`."""
    name = visible(history.folder, 80)
    speeds = _Speeds.of(history)
    sections = [
        _head(history, name, now),
        _tiles(history, speeds),
        _charts(history, speeds),
        _times(history.runs),
        _failures(list(history.failed.values())),
        _runs(history.runs),
        _facts(history.runs),
        _foot(history, now),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(name)}: job report</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(filter(None, sections))
        + "\n</main></body></html>\n"
    )


class _Speeds(NamedTuple):
    """Speed over the time at work: the pauses between runs are left out."""

    at_work: float  # seconds
    windows: NDArray[np.float64]  # [n] seconds of audio a second, in n equal parts of the time
    resumed: list[float]  # seconds at work when a run began after a pause

    @property
    def x_realtime(self) -> float:
        """Of the whole time at work."""
        return float(self.windows.mean()) if len(self.windows) else 0.0

    @classmethod
    def of(cls, history: History) -> _Speeds:
        periods = history.periods()
        lengths = [stop - start for start, stop in periods]
        total = math.fsum(lengths)
        at, seconds = np.array(history.finished_at), np.array(history.finished_seconds)
        if not len(at) or total <= 0.0:
            return cls(total, np.zeros(0), [])
        before = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])  # [periods] time at work so far
        starts = np.array([start for start, _ in periods])
        which = np.maximum(0, np.searchsorted(starts, at, side="right") - 1)
        place = before[which] + np.minimum(at - starts[which], np.array(lengths)[which])
        count = max(1, min(_WINDOWS, int(total), len(at) // 8))
        sums, _ = np.histogram(place, bins=count, range=(0.0, total), weights=seconds)
        return cls(total, sums * count / total, [float(x) for x in before[1:]])


# --- sections ---


def _head(history: History, name: str, now: float) -> str:
    done, failed, left = len(history.done), len(history.failed), history.left
    state, kind = _state(history, now)
    bar = svg.stacked(
        [
            svg.Part("done", done, "good"),
            svg.Part("failed", failed, "bad"),
            svg.Part("left", left or 0, "rest"),
        ],
        f"{done} done, {failed} failed, {counted(left)} left",
    )
    return (
        f'<header><h1>{escape(name)}</h1><p class="state {kind}">{escape(state)}</p>{bar}'
        f"{_legend((('good', 'done'), ('bad', 'failed'), ('rest', 'left')))}</header>"
    )


def _state(history: History, now: float) -> tuple[str, str]:
    """One sentence about the job, and its class."""
    failed, left = len(history.failed), history.left
    if history.is_open:
        last = max((run.last for run in history.open_runs if run.last is not None), default=None)
        words = "" if last is None else f"; last line written {ago(now - last)}"
        return f"Not ended: at work, or killed{words}.{_estimate(history)}", "open"
    if left:
        reason = f" {visible(history.reason, _CELL)}" if history.reason else ""
        return f"Stopped with {left:,} left; with --resume it goes on.{reason}", "open"
    if failed:
        return f"Finished; {failed:,} failed.", "bad"
    return "Finished.", "good"


def _estimate(history: History) -> str:
    """How long the workers that are open take for what is left."""
    runs = history.open_runs
    rate = sum((run.done + run.failed) / run.seconds for run in runs if run.seconds > 0.0)
    if not rate or not history.left:
        return ""
    return f" About {duration(history.left / rate)} left at this pace."


def _tiles(history: History, speeds: _Speeds) -> str:
    x = speeds.x_realtime
    items = len(history.done) / speeds.at_work if speeds.at_work > 0.0 else 0.0
    per, unit = (items, "second") if items >= 1.0 else (60.0 * items, "minute")
    tiles = [
        (f"{len(history.done):,}", "items done", byte_size(history.bytes_written)),
        (f"{len(history.failed):,}", "failed", ""),
        (counted(history.left), "left", ""),
        (duration(history.audio_seconds), "audio made", ""),
        (f"{x:,.3g} x", "real time", f"real-time factor {1.0 / x:.3g}" if x else ""),
        (f"{per:,.3g}", f"items a {unit}", f"{duration(speeds.at_work)} at work"),
    ]
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        + (f"<dd class=note>{escape(note)}</dd>" if note else "")
        + "</div>"
        for value, name, note in tiles
    )
    return f"<dl class=tiles>{cells}</dl>"


def _charts(history: History, speeds: _Speeds) -> str:
    charts = []
    if len(speeds.windows):
        unit, scale = time_unit(speeds.at_work)
        window = duration(speeds.at_work / len(speeds.windows))
        charts = [
            _figure(
                "Throughput",
                svg.columns(
                    speeds.windows.tolist(),
                    speeds.at_work / scale,
                    x_label=f"time at work, {unit}",
                    y_label="audio s / s",
                    title="Seconds of audio made in a second, over the time at work",
                    marks=[x / scale for x in speeds.resumed],
                ),
                f"Means of {window}; pauses are left out"
                + ("; dashed: a run began after one." if speeds.resumed else "."),
            ),
            _distribution(
                speeds.windows,
                ("Speed", "x real time", "windows"),
                f"How often which speed was reached, in windows of {window}.",
            ),
        ]
    made = np.fromiter(history.done.values(), float, len(history.done))
    if len(made):
        median, longest = float(np.median(made)), float(made.max())
        words = f"Median {duration(median)}, longest {duration(longest)}."
        labels = ("Durations", "seconds of audio of an item", "items")
        charts.append(_distribution(made, labels, words))
    close = np.array([history.correlations[n] for n in history.done if n in history.correlations])
    if len(close):
        words = f"Mean {close.mean():.4f}, lowest {close.min():.4f}: recordings and their copies."
        charts.append(_distribution(close, ("Copies", "log-mel correlation", "items"), words))
    return f"<section class=charts>{''.join(charts)}</section>" if charts else ""


def _distribution(values: NDArray[np.float64], labels: tuple[str, str, str], words: str) -> str:
    name, x_label, y_label = labels
    low, high = float(values.min()), float(values.max()) or 1.0
    low = low if 0.5 * high < low < 0.999 * high else 0.0  # where 0 is far away, it is left out
    counts, _ = np.histogram(values, bins=min(_BUCKETS, len(values)), range=(low, high))
    title = f"{name}: distribution"
    chart = svg.columns(
        counts.tolist(), high, x_label=x_label, y_label=y_label, title=title, low_x=low
    )
    return _figure(name, chart, words)


def _times(runs: Sequence[Run]) -> str:
    """Where the time of the runs that ended went: in the engine's thread, and beside it."""
    ended = [end for run in runs for end in run.ends]
    wall = _sum(ended, "wall_seconds")
    if not wall:
        words = "No run has ended yet; its times come with its end."
        return f"<section><h2>Time</h2><p>{words}</p></section>"
    inside = {name: _sum(ended, f"{name}_seconds") for name in _INSIDE}
    inside["other"] = max(0.0, wall - math.fsum(inside.values()))
    whole = math.fsum(inside.values())
    beside = {name: _sum(ended, f"{key}_seconds") for key, name in _BESIDE.items()}
    bar = svg.stacked([svg.Part(n, value, n) for n, value in inside.items()], "time of the runs")
    rows = [
        [name, duration(value), f"{100.0 * value / whole:.1f} %"]
        for name, value in (*inside.items(), *beside.items())
    ]
    heads = ("part", "time", "of the whole")
    table = _table(heads, rows, numbers=(1, 2), tight=(0,), swatches=[*inside, *("",) * 3])
    known = sum(bool(run.ends) for run in runs)
    outside = max(0.0, 1.0 - inside["engine"] / wall)
    words = (
        f"Of {known} of {len(runs)} runs; one that was killed leaves no times. Reading, writing "
        "and the journal have threads of their own and overlap with the engine. Outside the "
        f"engine: {100.0 * outside:.1f} %."
    )
    return f"<section class=time><h2>Time</h2>{bar}{table}<p class=note>{words}</p></section>"


def _sum(ends: Sequence[dict[str, object]], key: str) -> float:
    return math.fsum(number(end.get(key)) or 0.0 for end in ends)


def _failures(failures: Sequence[Failure]) -> str:
    if not failures:
        return "<section><h2>Failures</h2><p>None.</p></section>"
    kinds = Counter(failure.kind or "unknown" for failure in failures)
    summary = ", ".join(f"{visible(kind, 60)}: {count:,}" for kind, count in kinds.most_common(20))
    shown = sorted(failures, key=lambda f: (f.kind, f.name))[:MOST_FAILURES]
    rows = [[f.name, f.error, f.kind, f.source] for f in shown]
    more = len(failures) - len(shown)
    words = f"<p class=note>{more:,} more are in failed.jsonl.</p>" if more else ""
    return (
        f"<section class=failures><h2>Failures</h2><p>{escape(summary)}</p>"
        f"{_table(('item', 'reason', 'kind', 'source'), rows, tight=(2,))}{words}</section>"
    )


def _runs(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs[-MOST_RUNS:]:
        seconds = run.seconds
        rows.append(
            [
                run.worker,
                date_time(run.first),
                duration(seconds),
                f"{run.done:,}",
                f"{run.failed:,}",
                "" if run.left is None else f"{run.left:,}",
                duration(run.audio_seconds),
                f"{run.audio_seconds / seconds:,.3g}" if seconds > 0.0 else "",
                "no end written" if run.is_open else "yes",
            ]
        )
    more = len(runs) - len(rows)
    words = f"<p class=note>The last {len(rows)} of {len(runs):,} runs.</p>" if more else ""
    heads = ("worker", "began", "took", "done", "failed", "left", "audio", "x real time", "ended")
    workers = len({run.worker for run in runs})
    title = f"{len(runs):,} run{'s' * (len(runs) != 1)} of {workers:,} worker{'s' * (workers != 1)}"
    table = _table(heads, rows, numbers=range(2, 8), tight=(0, 1, 8))
    return f"<section><h2>{title}</h2>{table}{words}</section>"


def _facts(runs: Sequence[Run]) -> str:
    """What the first lines of the runs say; a value that differs between runs is listed."""
    keys = dict.fromkeys([*_FACTS, *(key for run in runs for key in run.begin)])
    rows = []
    for key in keys:
        values = list(
            dict.fromkeys(str(run.begin[key]) for run in runs if run.begin.get(key) is not None)
        )
        if values and key not in _NOT_FACTS:
            more = f" and {len(values) - 5} more" if len(values) > 5 else ""
            rows.append([_FACTS.get(key, key), "; ".join(values[:5]) + more])
    if not rows:
        return ""
    return f"<section><h2>Model, device, settings</h2>{_table((), rows, tight=(0,))}</section>"


def _foot(history: History, now: float) -> str:
    words = f"Made {date_time(now)} from the journals of the folder."
    if history.ignored:
        lines = "line was" if history.ignored == 1 else "lines were"
        words += f" {history.ignored:,} {lines} no JSON and left out: a killed run tears its last."
    return f"<footer>{escape(words)}</footer>"


# --- parts ---


def _figure(name: str, chart: str, words: str) -> str:
    return (
        f"<figure><h2>{escape(name)}</h2>{chart}<figcaption>{escape(words)}</figcaption></figure>"
    )


def _legend(parts: Iterable[tuple[str, str]]) -> str:
    items = "".join(f'<li><i class="{kind}"></i>{escape(name)}</li>' for kind, name in parts)
    return f"<ul class=legend>{items}</ul>"


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Iterable[int] = (),
    tight: Iterable[int] = (),
    swatches: Sequence[str] = (),
) -> str:
    """Texts are escaped here; columns: `numbers` are set to the right, `tight` are not broken."""
    kinds = {**dict.fromkeys(tight, " class=t"), **dict.fromkeys(numbers, " class=n")}

    def cell(tag: str, i: int, words: str, mark: str = "") -> str:
        kind = kinds.get(i, "")
        return f"<{tag}{kind}>{mark}{escape(visible(words, _CELL))}</{tag}>"

    head = "".join(cell("th", i, words) for i, words in enumerate(heads))
    body = []
    for i, row in enumerate(rows):
        mark = f'<i class="{swatches[i]}"></i>' if swatches else ""
        cells = "".join(cell("td", j, words, "" if j else mark) for j, words in enumerate(row))
        body.append(f"<tr>{cells}</tr>")
    top = f"<thead><tr>{head}</tr></thead>" if heads else ""
    return f"<div class=wide><table>{top}<tbody>{''.join(body)}</tbody></table></div>"
