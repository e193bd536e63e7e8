"""Numbers as words for people: durations, sizes, dates."""

from __future__ import annotations

import math
from datetime import datetime, timezone


def counted(value: int | None) -> str:
    """A number of things: "12,345", or "unknown"."""
    return "unknown" if value is None else f"{value:,}"


def time_unit(seconds: float) -> tuple[str, float]:
    """Name and length in seconds of a unit for an axis."""
    if seconds < 300.0:
        return "s", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600.0 else ("hours", 3600.0)


def duration(seconds: float) -> str:
    """Such as "1.5 s", "2 min 3 s", "4 h 5 min", "678 h"."""
    if seconds < 60.0:
        return f"{seconds:.3g} s"
    minutes, hours = seconds / 60.0, seconds / 3600.0
    if hours < 1.0:
        return f"{int(minutes)} min {int(seconds % 60.0)} s"
    return f"{hours:,.0f} h" if hours >= 100.0 else f"{int(hours)} h {int(minutes % 60.0)} min"


def ago(seconds: float) -> str:
    """How long ago something was."""
    return f"{duration(seconds)} ago" if seconds >= 1.0 else "just now"


def byte_size(count: int) -> str:
    """Three digits and a unit."""
    for limit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.3g} {name}"
    return f"{count} bytes"


def date_time(at: float | None) -> str:
    """Unix seconds as date and time, UTC."""
    try:
        moment = datetime.fromtimestamp(at or math.nan, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return "?"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
