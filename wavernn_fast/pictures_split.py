"""Pictures of T(u): a bar for every way to run a model, of computation and then overhead.

The rows are those of `wavernn-fast bench --split --json`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .bench_rows import Report, Row
from .errors import InputError
from .files import PathLike
from .pictures import clip_title, new_figure, save_figure
from .visible import visible

HATCH = "////"  # of overhead
_LABEL = 80  # characters
# Operations in the order of a sample; one that is not listed comes after them.
_ORDER = (
    "conditioning", "numbers", "frames", "prepare", "inputs", "old taps", "R", "R1", "I2", "R2",
    "GRU", "GRU 1", "GRU 2", "dilated", "gates", "residual", "skip", "O1", "O2", "O3", "O4", "relu",
    "draw", "meetings", "slices", "call", "rest", "loop",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """An operation of a bar; microseconds of a step of all streams."""

    name: str
    computation: float
    overhead: float


@dataclass(frozen=True)
class Bar:
    """One way to run one model."""

    model: str
    label: str
    sequential: int  # N
    parts: tuple[Part, ...]

    @property
    def computation(self) -> float:
        """Sum of c."""
        return sum(part.computation for part in self.parts)

    @property
    def total(self) -> float:
        """Sum of c and d."""
        return self.computation + sum(part.overhead for part in self.parts)


def is_split(report: Report) -> bool:
    """Whether a file of measurements holds T(u)."""
    return "splits" in report.fields


def read_splits(report: Report) -> list[Bar]:
    """Bars of a file; what has no time, since it was counted, has none.

    Raises
    ------
    InputError
        If it has no rows, nothing with a time, or a row lacks something or has it in an odd form;
        the first problems are listed, with the number of the row.
    """
    found = [_bar(row) for row in report.rows("splits")]
    report.check()
    bars = [bar for bar in found if bar.total > 0.0]
    if not bars:
        raise InputError("No row has a time; the emulator's are counted and cannot be drawn.")
    return bars


def plot_splits(path: PathLike, bars: Sequence[Bar], *, title: str = "") -> None:
    """Draw for each model its bars, on the left in microseconds, on the right as shares.

    Of a bar the computation comes first, in full colours, then the overhead, hatched.

    Parameters
    ----------
    path : str or path
        .png or .svg, written atomically; "-" is standard output (PNG).
    bars : sequence of Bar, one or more
    title : str

    Raises
    ------
    InputError
        If there is no bar.
    MissingDependencyError
        If matplotlib is not installed.
    AudioError
        If the file cannot be written.
    """
    if not bars:
        raise InputError("There is no measurement to draw.")
    models = list(dict.fromkeys(bar.model for bar in bars))
    groups = [[bar for bar in bars if bar.model == model] for model in models]
    heights = [0.95 + 0.32 * len(group) for group in groups]
    colours = _colours(bars)
    figure = new_figure(width=13.0, height=1.2 + sum(heights))
    panels = figure.subplots(
        len(groups), 2, squeeze=False, height_ratios=heights, width_ratios=(1.35, 1.0)
    )
    for group, (left, right) in zip(groups, panels, strict=True):
        _draw(left, group, colours, [1.0] * len(group))
        _draw(right, group, colours, [100.0 / bar.total for bar in group])
        _finish(left, right, group)
    _add_legend(figure, colours)
    if title:
        figure.suptitle(clip_title(title), parse_math=False)
    save_figure(figure, path)


def place(device: str, threads: int, facts: object) -> str:
    """Where something ran: "2 t", or "cuda, 56 blocks, 4 exchanges" where facts have the plan."""
    if device == "cpu":
        return f"{threads} t"
    plan = facts.get("plan") if isinstance(facts, dict) else None
    if not isinstance(plan, str) or ": " not in plan:
        return device
    # "NVIDIA H200: 56 blocks of 8 warps, fp32, 4 exchanges a sample": what is said elsewhere goes,
    # and so do the lines that follow it
    line = plan.partition(": ")[2].partition("\n")[0]
    words = re.sub(r" of \d+ warps|, (fp32|fp16|bf16)\b| a sample", "", line)
    return f"{device}, {words}"


# --- reading --------------------------------------------------------------------------------------


def _bar(row: Row) -> Bar:
    where = place(row.word("device"), row.count("threads"), row.fields.get("facts"))
    label = f"{row.word('runner')}, {row.word('dtype')}, {where}, B = {row.count('streams')}"
    operations = row.fields.get("operations")
    if not isinstance(operations, list):
        row.problems.append(f'{row.name} has no list "operations"')
        operations = []
    parts = [_part(Row(each, f"{row.name}, operation", row.problems)) for each in operations]
    return Bar(row.word("model"), label, row.count("sequential"), tuple(parts))


def _part(row: Row) -> Part:
    return Part(row.word("name"), row.duration("computation_us"), row.duration("overhead_us"))


# --- drawing --------------------------------------------------------------------------------------


def _colours(bars: Sequence[Bar]) -> dict[str, Any]:
    """Operation -> colour, in the order of a sample."""
    import matplotlib

    names = {part.name for bar in bars for part in bar.parts}
    ordered = [name for name in _ORDER if name in names]
    ordered += sorted(names - set(ordered))
    maps = [matplotlib.colormaps[name] for name in ("tab20", "tab20b")]
    palette = [maps[0](i) for i in (*range(0, 20, 2), *range(1, 20, 2))]
    palette += [maps[1](i) for i in range(20)]
    return {name: palette[i % len(palette)] for i, name in enumerate(ordered)}


def _draw(
    panel: Any, group: Sequence[Bar], colours: dict[str, Any], scales: Sequence[float]
) -> None:
    """Bars from top to bottom: c of all operations, then d."""
    for place, (bar, scale) in enumerate(zip(group, scales, strict=True)):
        parts = sorted(bar.parts, key=lambda part: list(colours).index(part.name))
        at = 0.0
        for hatch in ("", HATCH):
            for part in parts:
                width = scale * (part.overhead if hatch else part.computation)
                panel.barh(
                    place, width, left=at, height=0.66, color=colours[part.name], hatch=hatch,
                    edgecolor="white", linewidth=0.3,
                )  # fmt: skip
                at += width
        border = scale * bar.computation
        panel.plot([border] * 2, [place - 0.42, place + 0.42], color="black", linewidth=1.4)


def _finish(left: Any, right: Any, group: Sequence[Bar]) -> None:
    names = [visible(bar.label)[:_LABEL].replace("$", r"\$") for bar in group]
    left.set_yticks(range(len(group)), names)
    right.set_yticks([])
    for place, bar in enumerate(group):
        share = 100.0 * (1.0 - bar.computation / bar.total)
        left.annotate(
            f"{_amount(bar.total)}, d {share:.0f} %", (bar.total, place), va="center", fontsize=8,
            xytext=(5, 0), textcoords="offset points",
        )  # fmt: skip
    left.set_xlim(0.0, 1.25 * max(bar.total for bar in group))  # room for words
    right.set_xlim(0.0, 100.0)
    counts = sorted({bar.sequential for bar in group})
    words = f"{clip_title(group[0].model)}: N = {' or '.join(str(n) for n in counts)}"
    left.set_title(words, parse_math=False, fontsize=10, loc="left")
    left.xaxis.set_major_formatter(lambda us, _: _amount(us) if us else "0")
    left.set_xlabel("time of a step of all B streams", fontsize=9)
    right.set_xlabel("share of the step, %", fontsize=9)
    for panel in (left, right):
        panel.set_ylim(len(group) - 0.4, -0.6)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", alpha=0.3)
        panel.set_axisbelow(True)


def _amount(us: float) -> str:
    """12.3 us, or 4.56 ms."""
    return f"{us:.3g} us" if us < 1000.0 else f"{us / 1000.0:.3g} ms"


def _add_legend(figure: Any, colours: dict[str, Any]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    handles += [
        Patch(facecolor="0.6", label="full: computation c"),
        Patch(facecolor="0.6", edgecolor="white", hatch=HATCH, label="hatched: overhead d"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=9, frameon=False, fontsize=8)
