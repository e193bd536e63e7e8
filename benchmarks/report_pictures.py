"""Pictures of the report, drawn by the package from rows of the committed results.

An SVG ends with a comment: a digest of what was drawn. A picture is old when the digest of the
rows that it should show is another; its bytes are not compared, as they change with matplotlib.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from report_cells import short_plan
from report_tables import ReportError, is_awaited, load, select

DIGEST = re.compile(r"<!-- drawn from ([0-9a-f]{64}) -->\s*$")


def content(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a picture shows: a result with the selected rows only."""
    key = _DRAWINGS[entry["kind"]].rows
    rows = [dict(row.fields) for row in select(name, entry)]
    for row in rows:
        if plan := row.get("facts", {}).get("plan"):  # all of one runner otherwise
            row["runner"] = short_plan(plan, f", {row['dtype']}")
    report = load(entry["file"])
    kept = {k: report[k] for k in ("command", "machine", "isa") if k in report}
    return {**kept, key: rows}


def digest(name: str, entry: Mapping[str, Any]) -> str:
    """Of the rows and of how they are to be drawn."""
    shown = [entry["kind"], entry.get("title", ""), content(name, entry)]
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def is_old(path: Path, name: str, entry: Mapping[str, Any]) -> bool:
    """Whether a picture is missing or shows other rows."""
    found = DIGEST.search(path.read_text(encoding="utf-8")) if path.is_file() else None
    if is_awaited(entry):
        return False
    return found is None or found[1] != digest(name, entry)


def draw(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Write an SVG.

    Raises
    ------
    ReportError
        If the package or matplotlib is missing, or the rows cannot be drawn.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "rows.json"
            source.write_text(json.dumps(content(name, entry)), encoding="utf-8")
            _DRAWINGS[entry["kind"]].draw(path, source, entry.get("title", ""))
    except ImportError as error:
        raise ReportError(f"{name} needs the package and matplotlib: {error}") from error
    text = path.read_text(encoding="utf-8").rstrip()
    path.write_text(f"{text}\n<!-- drawn from {digest(name, entry)} -->\n", encoding="utf-8")


def _bars(path: Path, source: Path, title: str) -> None:
    from wavernn_fast.bench_rows import Report
    from wavernn_fast.pictures_bench import plot_bench, read_bench

    plot_bench(path, read_bench(Report(source)), title=title)


def _times(path: Path, source: Path, title: str) -> None:
    from wavernn_fast.bench_rows import Report
    from wavernn_fast.pictures_split import plot_splits, read_splits

    plot_splits(path, read_splits(Report(source)), title=title)


class _Drawing(NamedTuple):
    rows: str  # what the list is called in the files that `wavernn-fast plot` reads
    draw: Callable[[Path, Path, str], None]  # picture, file of measurements, title


_DRAWINGS = {
    "models": _Drawing("rows", _bars),
    "splits": _Drawing("splits", _times),
    "gpu-splits": _Drawing("splits", _times),
}
