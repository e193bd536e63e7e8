"""Picture of the Subscale scheme: the numbered rows of the paper's figure.

Kalchbrenner et al. 2018, section 4.1. One sample is drawn in orange, what it may see in blue, and
what is made in the same step in yellow. Samples are numbered from 1, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .files import PathLike
from .pictures import new_figure, save_figure
from .subscale import Schedule, dependencies, fold

MAX_FACTOR = 64  # rows and columns ahead beyond which numbers would be too many to read
MAX_HORIZON = 16
_COLUMNS = 16  # of the paper's figure; a larger horizon has more
_CELL = (0.5, 0.36)  # inches


class _Kind(NamedTuple):
    """What a sample is to the one in orange, and how it is drawn."""

    label: str
    fill: str
    ink: str = "black"
    weight: str = "normal"


# colours that differ in lightness too, for readers who do not tell hues apart
_LATER, _UNSEEN, _EARLIER, _OWN, _SAME, _FOCUS = range(6)
_KINDS = (
    _Kind("not drawn yet", "#ffffff", "#8a8a8a"),
    _Kind("drawn before, not seen", "#dddddd", "#555555"),
    _Kind("rows above, to column {reach}", "#b8dcf2"),
    _Kind("its own row before it", "#2f7fb8", "white"),
    _Kind("made in the same step", "#ffe08a", "black", "bold"),
    _Kind("sample {number}: row {row}, column {column}", "#e8590c", "white", "bold"),
)


@dataclass(frozen=True)
class Scheme:
    """What the picture shows."""

    schedule: Schedule
    focus: int  # number of the sample in orange, from 0
    kinds: NDArray[np.int64]  # [factor, columns] index into the list of kinds


def scheme_of(factor: int, horizon: int) -> Scheme:
    """Choose a sample in the middle and say what every other one is to it.

    There are 16 columns, or as many as show the samples of the same step on both sides of it.
    For 8 rows and a horizon of 4 these are the paper's 128 numbers, and its sample 76.

    Raises
    ------
    InputError
        If there are more rows or columns ahead than a reader could make out, or too few.
    """
    if not 1 <= factor <= MAX_FACTOR or not 0 <= horizon <= MAX_HORIZON:
        raise InputError(
            f"A scheme of {factor} rows and {horizon} columns ahead cannot be drawn; give 1 to"
            f" {MAX_FACTOR} rows and 0 to {MAX_HORIZON} columns, such as 8 and 4."
        )
    stride = horizon + 1
    columns = max(_COLUMNS, 3 * stride + 1)
    row = min(factor - 1, max(1, (factor - 1) // 2))  # not the first, which sees no other
    focus = factor * (columns - 2 - stride) + row
    schedule = Schedule(factor * columns, factor, horizon)
    steps = schedule.steps()  # [n_samples], and so the kinds until they are folded
    seen = dependencies(focus, factor, horizon, schedule.n_samples)
    kinds = np.where(steps < steps[focus], _UNSEEN, _LATER)
    kinds[seen] = np.where(seen % factor == row, _OWN, _EARLIER)
    kinds[steps == steps[focus]] = _SAME
    kinds[focus] = _FOCUS
    return Scheme(schedule, focus, fold(kinds, factor))


def plot_scheme(path: PathLike, scheme: Scheme) -> None:
    """Draw the rows of the Subscale scheme, and what one sample sees of them.

    Parameters
    ----------
    path : str or path
        .png or .svg, written atomically; "-" is standard output (PNG).
    scheme : Scheme
        See `scheme_of`.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    AudioError
        If the file cannot be written.
    """
    factor, columns = scheme.kinds.shape
    figure = new_figure(width=1.2 + _CELL[0] * columns, height=1.9 + _CELL[1] * factor)
    axes = figure.subplots()
    _draw_cells(axes, scheme)
    axes.set_xlabel("column i")
    axes.set_ylabel("row s")
    axes.set_title(_caption(scheme.schedule), fontsize=11)
    _add_legend(figure, scheme)
    save_figure(figure, path)


# --- helpers ---


def _draw_cells(axes: Any, scheme: Scheme) -> None:
    """A coloured cell for every sample, with its number from 1."""
    from matplotlib.colors import ListedColormap

    factor, columns = scheme.kinds.shape
    axes.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(factor + 1) - 0.5,
        scheme.kinds,
        cmap=ListedColormap([kind.fill for kind in _KINDS]),
        vmin=-0.5,
        vmax=len(_KINDS) - 0.5,
        edgecolors="#b0b0b0",
        linewidth=0.6,
    )
    for (row, column), index in np.ndenumerate(scheme.kinds):
        kind = _KINDS[index]
        axes.text(
            column,
            row,
            str(factor * column + row + 1),
            color=kind.ink,
            weight=kind.weight,
            ha="center",
            va="center",
            fontsize=9,
        )
    axes.invert_yaxis()
    axes.set_xticks(range(columns))
    axes.set_yticks(range(factor))
    axes.tick_params(length=0, labelsize=8, colors="#555555")


def _add_legend(figure: Any, scheme: Scheme) -> None:
    """Below the axes: the kinds that occur, the sample itself first."""
    from matplotlib.patches import Patch

    column, row = divmod(scheme.focus, scheme.schedule.factor)
    words = {
        "number": scheme.focus + 1,
        "row": row,
        "column": column,
        "reach": column + scheme.schedule.horizon,
    }
    handles = [
        Patch(facecolor=kind.fill, edgecolor="#b0b0b0", label=kind.label.format(**words))
        for index, kind in reversed(list(enumerate(_KINDS)))
        if index in scheme.kinds and not (index == _SAME and scheme.schedule.factor == 1)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)


def _caption(schedule: Schedule) -> str:
    rows = "row" if schedule.factor == 1 else "rows"
    plural = "column" if schedule.lag == 1 else "columns"
    lag = f"a lag of {schedule.lag} {plural} a row; " if schedule.lag else ""
    return (
        f"{schedule.factor} {rows}, horizon {schedule.horizon}: {lag}"
        f"{schedule.n_samples} samples in {schedule.n_steps} steps, "
        f"{schedule.samples_per_step:.1f} a step"
    )
