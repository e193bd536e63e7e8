"""Tables of the report: rows of the committed JSON as Markdown, each with the number of its row.

A table is an entry of benchmarks/report.json: what kind it is, which file and which list of it, and
which of the rows. Measured and predicted values have columns of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report_cells import KINDS, Cells, Fields, Numbered

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = "docs/performance.md"  # where a table stands, unless its entry says otherwise


class ReportError(Exception):
    """The manifest, a result or a page is not as expected; the message says where."""


def load(name: str) -> dict[str, Any]:
    """A committed result.

    Raises
    ------
    ReportError
        If it is missing or no JSON object.
    """
    try:
        found = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"benchmarks/results/{name}: {error}") from error
    if not isinstance(found, dict):
        raise ReportError(f"benchmarks/results/{name} is not a JSON object.")
    return found


def matches(fields: Fields, wanted: Fields) -> bool:
    """Whether a row has all wanted values; a list stands for any of its values."""
    return all(
        fields.get(key) in value if isinstance(value, list) else fields.get(key) == value
        for key, value in wanted.items()
    )


def select(name: str, entry: Fields) -> list[Numbered]:
    """Rows of a table: all of its list, or those that match one of `only`.

    Raises
    ------
    ReportError
        If the list is missing, or nothing is selected: a typing error in the manifest.
    """
    found: Any = load(entry["file"])
    path = entry.get("list", KINDS[entry["kind"]].rows)
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, dict):
        found = list(found.values())
    if not isinstance(found, list):
        raise ReportError(f"{name}: benchmarks/results/{entry['file']} has no list {path}.")
    if reader := KINDS[entry["kind"]].read:
        found = reader(RESULTS / entry["file"])
    rows = [Numbered(i, row) for i, row in enumerate(found)]
    kept = [row for row in rows if KINDS[entry["kind"]].takes(row.fields)]
    if "only" in entry:
        kept = [row for row in kept if any(matches(row.fields, w) for w in entry["only"])]
        for wanted in entry["only"]:
            if not any(matches(row.fields, wanted) for row in kept):
                raise ReportError(f"{name}: no row of {entry['file']} has {json.dumps(wanted)}.")
    if not kept:
        raise ReportError(f"{name}: {entry['file']} has no row for this table.")
    return sorted(kept, key=KINDS[entry["kind"]].order)


def table(name: str, entry: Fields) -> str:
    """Command, rows with anchors, and where they come from.

    Raises
    ------
    ReportError
        If a row lacks what the table shows.
    """
    if is_awaited(entry):
        return f"Nothing is measured yet; it will be `benchmarks/results/{entry['file']}`."
    kind, report = KINDS[entry["kind"]], load(entry["file"])
    lines = []
    for row in select(name, entry):
        try:
            lines.append({"row": f'<a id="{name}-{row.index}"></a>{row.index}'} | kind.cells(row))
        except KeyError as error:
            raise ReportError(
                f"{name}: row {row.index} of {entry['file']} lacks {error}."
            ) from None
    path = entry.get("list", kind.rows)
    setting = report.get("machine", {}).get("environment", {})
    command = " ".join([*(f"{k}={v}" for k, v in sorted(setting.items())), report["command"]])
    source = origin(entry["file"], path, report, select(name, entry)[0].fields)
    picture = f"![{entry['alt']}]({entry['picture']})\n\n" if "picture" in entry else ""
    lacking = left_out(report) if entry["kind"] == "baselines" else ""
    return f"{picture}    {command}\n\n{markdown(lines)}\n\n{source}{lacking}"


def is_awaited(entry: Fields) -> bool:
    """Whether a table has its place but no measurement yet, and says so in the manifest."""
    return bool(entry.get("awaited")) and not (RESULTS / entry["file"]).exists()


def left_out(report: Fields) -> str:
    """What has no row, and why."""
    found = [*report.get("refused", ()), *report.get("left_out", ())]
    lines = dict.fromkeys(
        f"- {one['runner']}" + (f", {one['model']}" if one["model"] else "") + f": {one['reason']}"
        for one in found
    )
    return "\n\nWithout a row:\n\n" + "\n".join(lines) if lines else ""


def markdown(lines: Sequence[Cells]) -> str:
    """A table; columns that are empty in every line are left out."""
    heads = list(dict.fromkeys(head for line in lines for head in line))
    heads = [head for head in heads if any(line.get(head) for line in lines)]
    rows = [[line.get(head, "") for head in heads] for line in lines]
    return "\n".join(
        "| " + " | ".join(cells) + " |"
        for cells in (heads, ["---"] * len(heads), *rows)
    ).replace("| --- ", "|---").replace("|--- |", "|---|")  # fmt: skip


def origin(name: str, path: str, report: Fields, row: Fields) -> str:
    """File, list, machine, date and versions of a table, in one line; `row` is any of it."""
    machine = report.get("machine")
    parts = _cpu(machine, report) if machine else _gpu(report)
    if rounds := row.get("rounds") or row.get("repeats") or _length(row):
        parts.append(f"medians of {rounds} rounds")
    return f"`benchmarks/results/{name}`, list `{path}`: " + "; ".join(parts) + "."


def _length(row: Fields) -> int:
    """Rounds of a row that keeps each of them."""
    return len(row.get("rates") or row.get("ratios") or ())


def _cpu(machine: Fields, report: Fields) -> list[str]:
    isa = report.get("isa", [])
    packages = ("python", "numpy", "torch", "onnxruntime", "wavernn_fast")
    parts = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['cpus_allowed']} allowed"
        + (f", {', '.join(isa)}" if isa else ""),
        str(machine["system"]),
        f"{machine['date']}, load average {machine['load_average']:.1f} at the start",
        ", ".join(f"{p} {machine[p]}" for p in packages if machine.get(p)),
    ]
    if environment := machine.get("environment"):
        parts.append(", ".join(f"{key}={value}" for key, value in sorted(environment.items())))
    return parts


def _gpu(report: Fields) -> list[str]:
    driver, versions = report["driver"], report["versions"]
    return [
        f"{driver['name']}, {driver['multiprocessors']} multiprocessors, up to "
        f"{driver['clock_khz'] / 1000:,.0f} MHz, driver {report['nvidia_smi']['driver_version']}",
        str(report["system"]),
        str(report["date"]),
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"NVRTC {report['nvrtc']['version']}",
    ]
