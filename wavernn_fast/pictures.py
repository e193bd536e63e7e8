"""Pictures as PNG or SVG files: recordings side by side, and the curves of a training run.

matplotlib (extra ``[plot]``) is imported when a picture is drawn, and used through its canvas
objects only: there is no window, no global state, and nothing is printed.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import metrics
from .errors import InputError, MissingDependencyError
from .features import check_wave
from .files import PathLike, label, open_source, write_atomic
from .visible import visible

DYNAMIC_RANGE = 80.0  # dB of the colour scale, below the loudest bin of all recordings
_COLUMNS = 2000  # about as many frames of a spectrogram, and steps of a waveform, are drawn
_DPI = 100
_TITLE = 60  # characters

# key in a training log -> unit; curves of one unit share a panel
TRAINING_KEYS = {
    "loss": "nats per sample",
    "valid_nll": "nats per sample",
    "lr": "learning rate",
    "samples_per_s": "samples/s",
}


@dataclass(frozen=True)
class Recording:
    """A waveform to be drawn, and what to call it."""

    name: str
    wave: NDArray[np.float32]  # [n_samples]
    sample_rate: int  # Hz


@dataclass(frozen=True)
class Curve:
    """Points to be joined by a line."""

    name: str
    x: Sequence[float]  # [n]
    y: Sequence[float]  # [n]; NaN leaves a gap
    unit: str = ""  # curves of one unit share a panel


def require_matplotlib() -> tuple[Any, Any]:
    """Return matplotlib's Figure and FigureCanvasAgg.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            'Pictures need matplotlib: pip install "wavernn-fast[plot]".'
        ) from error
    return Figure, FigureCanvasAgg


def new_figure(*, width: float, height: float) -> Any:
    """Figure with a canvas of its own; sizes in inches."""
    figure_class, canvas_class = require_matplotlib()
    figure = figure_class(figsize=(width, height), dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    canvas_class(figure)
    return figure


def save_figure(figure: Any, path: PathLike) -> None:
    """Write a figure atomically: SVG if the name ends in .svg, else PNG; "-" is standard output.

    In an SVG texts stay texts, and an equal figure gives equal bytes.
    """
    import matplotlib

    target = io.BytesIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "wavernn_fast"}
    with warnings.catch_warnings(), matplotlib.rc_context(settings):
        # the font draws a box for a letter that it lacks; file names may be in any script
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        if Path(path).suffix.lower() == ".svg":
            figure.savefig(target, format="svg", dpi=_DPI, metadata={"Date": None})
        else:
            figure.savefig(target, format="png", dpi=_DPI)
    write_atomic(path, [target.getvalue()])


def clip_title(name: str) -> str:
    """A name that fits above one column, of a long path its end; nothing in it is hidden."""
    name = visible(name)
    return name if len(name) <= _TITLE else "..." + name[3 - _TITLE :]


def plot_recordings(path: PathLike, recordings: Sequence[Recording]) -> None:
    """Draw waveforms (above) and spectrograms (below) of recordings, side by side.

    All columns have the same axes and the same colours, so that they can be compared.

    Parameters
    ----------
    path : str or path
        .png or .svg, written atomically; "-" is standard output (PNG).
    recordings : sequence of Recording, one or more

    Raises
    ------
    InputError
        If there is no recording, or one is empty or not a vector of finite floats.
    MissingDependencyError
        If matplotlib is not installed.
    AudioError
        If the file cannot be written.
    """
    if not recordings:
        raise InputError("There is no recording to draw.")
    figure = new_figure(width=1.5 + 6.5 * len(recordings), height=7.0)
    axes = figure.subplots(2, len(recordings), squeeze=False, height_ratios=(1, 2))
    draw_recordings(figure, [(*pair, one) for pair, one in zip(axes.T, recordings, strict=True)])
    save_figure(figure, path)


def draw_recordings(figure: Any, panels: Sequence[tuple[Any, Any, Recording]]) -> None:
    """Draw into pairs of axes, waveform and spectrogram, that get the same limits and colours.

    Raises
    ------
    InputError
        If a recording is empty, or not a vector of finite floats.
    """
    recordings = [one for _, _, one in panels]
    for one in recordings:
        if not check_wave(one.wave).size:
            raise InputError(f"The recording {one.name!r} is empty; there is nothing to draw.")
    pictures = [_spectrogram(one) for one in recordings]
    loudest = max(float(decibels.max()) for decibels, _ in pictures)
    for (top, bottom, one), (decibels, edges) in zip(panels, pictures, strict=True):
        _draw_wave(top, one)
        image = bottom.imshow(
            decibels,
            origin="lower",
            aspect="auto",
            extent=(*edges, 0.0, one.sample_rate / 2000.0),
            vmin=loudest - DYNAMIC_RANGE,
            vmax=loudest,
            cmap="magma",
        )
        bottom.set_facecolor("black")
        bottom.set_xlabel("time, s")
        bottom.set_ylim(0.0, max(r.sample_rate for r in recordings) / 2000.0)
        for axes in (top, bottom):
            axes.set_xlim(0.0, max(len(r.wave) / r.sample_rate for r in recordings))
    limits = [top.get_ylim() for top, _, _ in panels]
    for top, _, _ in panels:
        top.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    panels[0][0].set_ylabel("amplitude")
    panels[0][1].set_ylabel("frequency, kHz")
    spectrograms = [bottom for _, bottom, _ in panels]
    figure.colorbar(image, ax=spectrograms, label="dB of a full-scale sine", pad=0.01)


def plot_curves(
    path: PathLike, curves: Sequence[Curve], *, title: str = "", x_label: str = "step"
) -> None:
    """Draw named curves over one linear x axis, one panel for each unit, with legends.

    Parameters
    ----------
    path : str or path
        .png or .svg, written atomically; "-" is standard output (PNG).
    curves : sequence of Curve, one or more
    title, x_label : str

    Raises
    ------
    InputError
        If there is no curve, or one has no point.
    MissingDependencyError
        If matplotlib is not installed.
    AudioError
        If the file cannot be written.
    """
    for curve in curves:
        if not len(curve.x) or len(curve.x) != len(curve.y):
            raise InputError(
                f"The curve {curve.name!r} has {len(curve.x)} x and {len(curve.y)} y values; "
                "there must be as many of both, and one at least."
            )
    if not curves:
        raise InputError("There is no curve to draw.")
    units = list(dict.fromkeys(curve.unit for curve in curves))
    figure = new_figure(width=9.0, height=1.0 + 3.2 * len(units))
    axes = figure.subplots(len(units), 1, sharex=True, squeeze=False)[:, 0]
    for i, curve in enumerate(curves):
        panel = axes[units.index(curve.unit)]
        few = "o" if len(curve.x) <= 50 else ""  # a single point draws no line
        panel.plot(curve.x, curve.y, label=curve.name, color=f"C{i}", marker=few, markersize=3)
    for panel, unit in zip(axes, units, strict=True):
        panel.set_ylabel(unit)
        panel.grid(alpha=0.3)
        panel.legend()
    axes[-1].set_xlabel(x_label)
    if title:
        figure.suptitle(clip_title(title), parse_math=False)
    save_figure(figure, path)


def read_training_log(path: PathLike) -> list[Curve]:
    """Curves in a training log: lines of JSON with "step" and any of `TRAINING_KEYS`.

    Other keys are ignored, and so are lines without a step. A step that was reached again, after
    a run was resumed, replaces what stood from there on. The last line may be cut off, as in the
    log of a run that is still going.

    Raises
    ------
    InputError
        If a line before the last is not JSON, or the file holds nothing to draw.
    AudioError
        If the file cannot be read.
    """
    points: dict[str, dict[float, float]] = {key: {} for key in TRAINING_KEYS}
    for entry in _log_lines(path):
        step = _number(entry.get("step"))
        if step is None or not math.isfinite(step):
            continue
        for key, curve in points.items():
            value = _number(entry.get(key))
            if value is None:
                continue
            if curve and step <= next(reversed(curve)):
                for later in [s for s in curve if s >= step]:
                    del curve[later]
            curve[step] = value
    curves = [
        Curve(key, list(curve), list(curve.values()), TRAINING_KEYS[key])
        for key, curve in points.items()
        if any(math.isfinite(value) for value in curve.values())
    ]
    if not curves:
        raise InputError(
            f'{label(path)} holds nothing to draw: no line of JSON has a "step" and a finite '
            f"number as one of {', '.join(TRAINING_KEYS)}."
        )
    return curves


# --- helpers ---


def _log_lines(path: PathLike) -> Iterator[dict[str, Any]]:
    source = open_source(path)
    data = Path(source).read_bytes() if isinstance(source, str) else source.read()
    lines = data.decode("utf-8", errors="replace").splitlines()
    for i, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            if i == len(lines):
                return
            raise InputError(
                f"Line {i} of {label(path)} is not JSON ({error}); a training log has one "
                "JSON object a line."
            ) from error
        if isinstance(entry, dict):
            yield entry


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _spectrogram(recording: Recording) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Decibels [bins, frames], and the seconds of the left and right edge of the picture.

    A frame is drawn around its middle. Long recordings have wider steps.
    """
    hop, rate = max(metrics.HOP, -(-len(recording.wave) // _COLUMNS)), recording.sample_rate
    decibels = metrics.spectrogram(recording.wave, hop)
    left = (metrics.N_FFT - hop) / 2 / rate
    return decibels, (left, left + decibels.shape[1] * hop / rate)


def _draw_wave(axes: Any, recording: Recording) -> None:
    """Every sample as a line, or of a long recording the range of each step as an area."""
    wave, rate = recording.wave, recording.sample_rate
    axes.set_title(clip_title(recording.name), parse_math=False)
    axes.grid(alpha=0.3)
    if len(wave) <= 2 * _COLUMNS:
        axes.plot(np.arange(len(wave)) / rate, wave, linewidth=0.6)
        return
    starts = np.linspace(0, len(wave), _COLUMNS, endpoint=False).astype(int)
    low, high = np.minimum.reduceat(wave, starts), np.maximum.reduceat(wave, starts)
    axes.fill_between(starts / rate, low, high, linewidth=0.4, edgecolor="C0")
