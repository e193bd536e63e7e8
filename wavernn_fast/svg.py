"""Small charts as SVG text, for a page that takes its colours from its own style sheet.

The elements have classes and no colours, so that a chart follows the page from light to dark.
Nothing is imported for it, and every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT = 380, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 40
_TICKS = 4


class Part(NamedTuple):
    """A part of a stacked bar."""

    name: str
    value: float
    kind: str  # class of its colour


def ticks(high: float, low: float = 0.0) -> list[float]:
    """Round numbers from `low` to `high` (above it), in steps of 1, 2 or 5 times a power of 10."""
    length = high - low
    step = 10.0 ** math.floor(math.log10(length / _TICKS))
    step *= next((m for m in (1, 2, 5, 10) if length / (step * m) <= _TICKS + 0.5), 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def short(value: float) -> str:
    """A number for an axis: 0.25, 12, 3.5k, 2M."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.3g}{letter}"
    return f"{value:.6g}"


def columns(
    values: Sequence[float],
    high_x: float,
    *,
    x_label: str,
    y_label: str,
    title: str,
    low_x: float = 0.0,
    marks: Sequence[float] = (),
) -> str:
    """Columns side by side over a linear axis from `low_x` to `high_x`.

    Parameters
    ----------
    values : sequence of float, one or more
        Heights, 0 or more; each column covers an equal share of the axis.
    high_x, low_x : float
        Ends of the axis.
    x_label, y_label, title : str
        `title` is what a screen reader says.
    marks : sequence of float
        Places of dashed vertical lines on the axis.

    Returns
    -------
    str
        An <svg> element.
    """
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    top = max(values) or 1.0
    y_ticks = ticks(top)
    if y_ticks[-1] < top:
        y_ticks.append(y_ticks[-1] + (y_ticks[1] if len(y_ticks) > 1 else top))
    top = y_ticks[-1]

    def x_of(x: float) -> float:
        return _LEFT + wide * (x - low_x) / (high_x - low_x)

    def y_of(y: float) -> float:
        return _TOP + tall * (1.0 - y / top)

    base, out = _TOP + tall, [_open(title, _HEIGHT)]
    for y in y_ticks:
        out.append(_line("grid", _LEFT, y_of(y), _WIDTH - _RIGHT, y_of(y)))
        out.append(_text(short(y), _LEFT - 5, y_of(y) + 4, "end"))
    width = wide / len(values)
    gap = min(1.0, 0.1 * width)
    for i, value in enumerate(values):
        if value > 0.0:
            out.append(
                f'<rect class="bar" x="{_LEFT + i * width + gap / 2:.1f}" y="{y_of(value):.1f}" '
                f'width="{width - gap:.1f}" height="{max(0.5, base - y_of(value)):.1f}">'
                f"<title>{_span(i, len(values), low_x, high_x)}: {short(round(value, 3))}</title>"
                "</rect>"
            )
    out.extend(_line("mark", x_of(x), _TOP, x_of(x), base) for x in marks)
    out.append(_line("axis", _LEFT, base, _WIDTH - _RIGHT, base))
    out.extend(_text(short(x), x_of(x), base + 14, "middle") for x in ticks(high_x, low_x))
    out.append(_text(x_label, _LEFT + wide / 2, _HEIGHT - 6, "middle"))
    middle = _TOP + tall / 2
    out.append(
        f'<text x="11" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 11 {middle})">{escape(y_label)}</text>'
    )
    return "".join([*out, "</svg>"])


def stacked(parts: Sequence[Part], title: str) -> str:
    """One bar of parts side by side, as wide as the page; parts of 0 are left out."""
    total = math.fsum(part.value for part in parts)
    out = [
        f'<svg class="stack" viewBox="0 0 1000 22" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}">'
    ]
    x = 0.0
    for part in parts:
        width = 1000.0 * part.value / total if total > 0.0 else 0.0
        if width > 0.0:
            out.append(
                f'<rect class="{part.kind}" x="{x:.2f}" y="0" width="{width:.2f}" height="22">'
                f"<title>{escape(part.name)}: {100.0 * part.value / total:.1f} %</title></rect>"
            )
        x += width
    return "".join([*out, "</svg>"])


# --- helpers ---


def _open(title: str, height: int) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'


def _span(i: int, count: int, low: float, high: float) -> str:
    """What column `i` of `count` covers."""
    ends = (low + (high - low) * share for share in (i / count, (i + 1) / count))
    return " to ".join(short(round(end, 3)) for end in ends)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(words: str, x: float, y: float, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
