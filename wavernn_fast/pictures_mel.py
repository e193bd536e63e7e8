"""Pictures of mels: below the recordings they belong to, and what two of them differ by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import MelConfig
from .errors import InputError
from .features import log_mel
from .files import PathLike
from .metrics import mel_correlation
from .pictures import Recording, clip_title, draw_recordings, new_figure, save_figure

_ROWS = {"wave": 1.0, "spectrogram": 2.0, "mel": 1.6, "difference": 1.6}  # relative heights
_INCHES = 2.1  # of a row of height 1


@dataclass(frozen=True)
class Mel:
    """A mel to be drawn, and what to call it."""

    name: str
    values: NDArray[np.float32]  # [n_mels, n_frames]
    config: MelConfig | None = None  # None: drawn over frames instead of seconds

    @property
    def edges(self) -> tuple[float, float]:
        """Left end of the first frame and right end of the last: seconds, or frames."""
        if self.config is None:
            return -0.5, self.values.shape[1] - 0.5
        hop = self.config.hop_length / self.config.sample_rate
        first = 0.0 if self.config.center else self.config.n_fft / 2 / self.config.sample_rate
        return first - hop / 2, first + hop * (self.values.shape[1] - 0.5)


@dataclass(frozen=True)
class Column:
    """What stands in one column: a recording, a mel, or both."""

    recording: Recording | None = None
    mel: Mel | None = None


def mel_of(name: str, values: NDArray[Any], config: MelConfig | None = None) -> Mel:
    """Check an array from a file; see `Mel`.

    Parameters
    ----------
    name : str
        For messages and the title.
    values : float array [n_mels, n_frames] or [1, n_mels, n_frames]
    config : MelConfig, optional
        The convention it was made by.

    Raises
    ------
    InputError
        For another shape or dtype, no frames, a NaN or an infinity.
    """
    array = values[0] if values.ndim == 3 and values.shape[0] == 1 else values
    if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
        raise InputError(
            f"{name!r} has shape {values.shape} and dtype {values.dtype}; a mel to be drawn is"
            " of floats [n_mels, n_frames] with one frame at least."
        )
    if config is not None and array.shape[0] != config.n_mels:
        hint = "; it looks transposed" if array.shape[1] == config.n_mels else ""
        raise InputError(
            f"{name!r} has shape {values.shape}, but the convention {config.preset!r} has"
            f" {config.n_mels} bins: [{config.n_mels}, n_frames]{hint}."
        )
    if not np.isfinite(array).all():
        raise InputError(f"{name!r} holds a NaN or an infinity; it cannot be drawn.")
    return Mel(name, array.astype(np.float32), config)


def column_of(recording: Recording, config: MelConfig) -> Column:
    """A recording above its mel by a convention; other sample rates are resampled for the mel.

    Raises
    ------
    MissingDependencyError
        If resampling is needed and soxr is not installed.
    """
    from .audio import resample

    wave = recording.wave
    if recording.sample_rate != config.sample_rate:
        wave = resample(wave, recording.sample_rate, config.sample_rate)
    return Column(recording, mel_of(recording.name, log_mel(wave, config), config))


def plot_columns(path: PathLike, columns: Sequence[Column]) -> None:
    """Draw columns of waveform, spectrogram and mel, and below two mels what they differ by.

    Panels of a kind have the same axes and colours. The difference is the second mel less the
    first, over the frames that both have; it is left out where they differ in bins or convention.

    Parameters
    ----------
    path : str or path
        .png or .svg, written atomically; "-" is standard output (PNG).
    columns : sequence of Column, one or more

    Raises
    ------
    InputError
        If there is nothing in a column, or some mels have a convention and others have none.
    MissingDependencyError
        If matplotlib is not installed.
    AudioError
        If the file cannot be written.
    """
    if not columns or any(c.recording is None and c.mel is None for c in columns):
        raise InputError("There is nothing to draw.")
    mels = [column.mel for column in columns if column.mel is not None]
    if any((column.mel is None) != (mels == []) for column in columns):
        raise InputError("Either all columns have a mel or none; give the convention of the mels.")
    recordings = any(column.recording is not None for column in columns)
    if recordings and any(mel.config is None for mel in mels):
        raise InputError("Beside a recording a mel needs its convention, to have a time axis.")
    pair = _difference(mels)
    names = ["wave", "spectrogram"] * recordings + ["mel"] * bool(mels)
    names += ["difference"] * (pair is not None)
    ratios = [_ROWS[name] for name in names]
    figure = new_figure(width=1.5 + 6.5 * len(columns), height=0.6 + _INCHES * sum(ratios))
    grid = figure.add_gridspec(len(names), len(columns), height_ratios=ratios)
    for i, name in enumerate(names):
        if name == "mel":
            _draw_mels(figure, [figure.add_subplot(grid[i, j]) for j in range(len(mels))], mels)
        elif name == "difference" and pair is not None:
            _draw_difference(figure, figure.add_subplot(grid[i, :]), *pair)
    if recordings:
        panels = [
            (figure.add_subplot(grid[0, j]), figure.add_subplot(grid[1, j]), column.recording)
            for j, column in enumerate(columns)
            if column.recording is not None
        ]
        draw_recordings(figure, panels)
    save_figure(figure, path)


# --- helpers ---


def _difference(mels: Sequence[Mel]) -> tuple[Mel, str] | None:
    """Second less first with a caption, where the two can be compared."""
    if len(mels) != 2 or mels[0].config != mels[1].config:
        return None
    first, second = (mel.values for mel in mels)
    frames = min(first.shape[1], second.shape[1])
    if len(first) != len(second):
        return None
    values = second[:, :frames] - first[:, :frames]
    close = mel_correlation(first, second)
    words = f"second less first: mean of sizes {np.abs(values).mean():.3g}"
    words += "" if close is None else f", correlation {close:.4f}"
    return Mel("difference", values, mels[0].config), words


def _draw_mels(figure: Any, panels: Sequence[Any], mels: Sequence[Mel]) -> None:
    low = min(float(mel.values.min()) for mel in mels)
    high = max(float(mel.values.max()) for mel in mels)
    for panel, mel in zip(panels, mels, strict=True):
        image = _draw(panel, mel, "magma", low, high)
        panel.set_title(f"mel: {clip_title(mel.name)}", parse_math=False, fontsize=10)
        panel.set_xlim(min(m.edges[0] for m in mels), max(m.edges[1] for m in mels))
    figure.colorbar(image, ax=list(panels), label="value of the mel", pad=0.01)


def _draw_difference(figure: Any, panel: Any, mel: Mel, words: str) -> None:
    size = float(np.abs(mel.values).max()) or 1.0
    image = _draw(panel, mel, "RdBu_r", -size, size)
    panel.set_title(words, fontsize=10)
    figure.colorbar(image, ax=panel, label="difference", pad=0.01)


def _draw(panel: Any, mel: Mel, colours: str, low: float, high: float) -> Any:
    panel.set_xlabel("frame" if mel.config is None else "time, s")
    panel.set_ylabel("mel bin")
    return panel.imshow(
        mel.values,
        origin="lower",
        aspect="auto",
        extent=(*mel.edges, -0.5, len(mel.values) - 0.5),
        vmin=low,
        vmax=high,
        cmap=colours,
    )
