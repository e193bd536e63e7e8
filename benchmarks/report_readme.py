"""Short tables of the report for the README: a figure is a link to its row in the long table."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from report_cells import Cells, Fields, Numbered, amount, fastest, percent, real_times, times
from report_tables import PAGE, ReportError, load, markdown, matches, select

Tables = Mapping[str, Any]


def find(where: str, wanted: Fields, tables: Tables) -> Numbered:
    """The one row of a long table that a short one quotes.

    Raises
    ------
    ReportError
        If no row or more than one matches, or the table does not show it.
    """
    if wanted["table"] not in tables:
        raise ReportError(f"{where}: there is no table {wanted['table']}.")
    rows = select(wanted["table"], tables[wanted["table"]])
    found = [row for row in rows if matches(row.fields, wanted["row"])]
    if len(found) != 1:
        raise ReportError(
            f"{where}: {len(found)} rows of {wanted['table']} have {wanted['row']}; one is wanted."
        )
    return found[0]


def summary(name: str, entry: Fields, tables: Tables, page: str) -> str:
    """A short table with links, and the machine it is from."""
    lines = []
    for line in entry["lines"]:
        row = find(f"{name}, {line['name']}", line, tables)
        where = _relative(tables[line["table"]].get("page", PAGE), page)
        link = f"{where}#{line['table']}-{row.index}"
        try:
            lines.append(SHAPES[entry["shape"]](line, row, link, tables))
        except KeyError as error:
            file = tables[line["table"]]["file"]
            raise ReportError(f"{name}: row {row.index} of {file} lacks {error}.") from None
    files = {tables[line["table"]]["file"]: None for line in entry["lines"]}
    return f"{markdown(lines)}\n\n{_origin(list(files), page)}"


def _relative(target: str, page: str) -> str:
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


def _origin(files: list[str], page: str) -> str:
    """Machine, days and files."""
    reports = [load(file) for file in files]
    machines = dict.fromkeys(_machine(report) for report in reports)
    links = ", ".join(f"[{f}]({_relative(f'benchmarks/results/{f}', page)})" for f in files)
    days = sorted({str(r.get("date") or r["machine"]["date"])[:10] for r in reports})
    return f"{'; '.join(machines)}; {', '.join(days)}. Data: {links}."


def _machine(report: Fields) -> str:
    if machine := report.get("machine"):
        isa = "".join(f", {isa}" for isa in report.get("isa", []))
        return f"{machine['cpu']}, {machine['cpus_allowed']} cores{isa}"
    return f"{report['driver']['name']}, driver {report['nvidia_smi']['driver_version']}"


def _on_cpu(line: Fields, row: Numbered, link: str, tables: Tables) -> Cells:
    r, other = row.fields, fastest(row.fields) if line.get("compare", True) else None
    cells = {
        "model": line["name"],
        "weights": r["dtype"],
        "streams": str(r["streams"]),
        "threads": str(r["threads"]),
        "samples/s": f"[{amount(r['samples_per_s'])}]({link})",
        "x real time": real_times(r["x_realtime"]),
        "of the floor": percent(r.get("share_of_floor")),
        "fastest other way, same session": "",
        "ratio": "",
    }
    if other:
        what, rate, threads, ratio = other
        cells["fastest other way, same session"] = f"{amount(rate)}: {what}"
        cells["fastest other way, same session"] += f", {threads} thread{'s' * (threads > 1)}"
        cells["ratio"] = f"{times(ratio)}x"
    return cells


def _on_gpu(line: Fields, row: Numbered, link: str, tables: Tables) -> Cells:
    """Ratio: the line it names with `of` over this one; 1 utterance beside as many as it says."""
    r = row.fields
    cells = {
        "": line["name"],
        "streams": str(r.get("streams", r.get("batch", 1))),
        "samples/s": f"[{amount(r['samples_per_s'])}]({link})",
        "x real time at 24 kHz": real_times(r["samples_per_s"] / 24000),
        "the kernel is": "",
    }
    if "of" in line:
        kernel = find(line["name"], line["of"], tables).fields["samples_per_s"]
        cells["the kernel is"] = f"{times(kernel / r['samples_per_s'])}x as fast"
    return cells


SHAPES = {"cpu": _on_cpu, "gpu": _on_gpu}
