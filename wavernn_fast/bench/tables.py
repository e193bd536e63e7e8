"""A result as text: Markdown for people, JSON for the report, CSV and lines of JSON for tools."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .rows import FIELDS, MACHINE_FIELDS, Left, Result, Row, flat

FORMATS = ("md", "csv", "json", "jsonl")
Facts = Mapping[str, Any]  # of `machine.machine`


def text(result: Result, style: str, command: str, facts: Facts) -> str:
    """The result in one of `FORMATS`, without a line break at its end.

    Parameters
    ----------
    result : Result
    style : str
    command : what was run, for who wants to run it again
    facts : of `machine.machine`
    """
    if style == "md":
        return to_markdown(result, facts)
    if style == "csv":
        return to_csv(result.rows, command, facts)
    if style == "jsonl":
        return to_lines(result.rows, command, facts)
    whole = report(result, command, facts)
    return json.dumps(whole, indent=2, sort_keys=True, allow_nan=False)


def report(result: Result, command: str, facts: Facts) -> dict[str, Any]:
    """All of it, ready for JSON."""
    return {"command": command, "machine": dict(facts), **result.to_dict()}


def to_csv(rows: Sequence[Row], command: str, facts: Facts) -> str:
    """Heads and one line a row, each of which says what it was measured on; "" is None.

    Lists are words with spaces between them: "4410 4420" for `rates`, "read=2.9e10" for `probes`.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, (*FIELDS, *MACHINE_FIELDS, "command"), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = flat(row, command, facts)
        cells["rates"] = " ".join(f"{rate:.6g}" for rate in row.rates)
        cells["probes"] = " ".join(f"{kind}={rate:.6g}" for kind, rate in row.probes.items())
        writer.writerow(cells)
    return out.getvalue().rstrip("\n")


def to_lines(rows: Sequence[Row], command: str, facts: Facts) -> str:
    """One JSON object a line and row, each of which says what it was measured on."""
    lines = (flat(row, command, facts) for row in rows)
    return "\n".join(json.dumps(line, sort_keys=True, allow_nan=False) for line in lines)


# --- Markdown -------------------------------------------------------------------------------------


def to_markdown(result: Result, facts: Facts) -> str:
    """Tables of engines and of baselines, what has no row, and a line about the machine."""
    engines = [row for row in result.rows if not row.is_baseline]
    peers = sorted(
        (row for row in result.rows if row.is_baseline),
        key=lambda row: (row.model, row.device, row.streams, row.threads),
    )
    parts = []
    if engines:
        parts.append(table(_ENGINE_HEADS, [_engine_cells(row) for row in engines]))
    if peers:
        parts.append(table(_PEER_HEADS, [_peer_cells(row) for row in peers]))
    if result.refused:
        parts.append("Refused:\n" + _list(result.refused))
    if result.left_out:
        parts.append("Left out:\n" + _list(result.left_out))
    return "\n\n".join([*parts, _machine_line(result, facts)])


_ENGINE_HEADS = (
    "model", "device", "dtype", "threads", "streams", "samples/s", "slowest tenth", "best",
    "x real time", "floor", "share of floor", "of read", "eager, 1 stream", "ratio",
    "eager, best batch", "ratio", "fastest baseline", "ratio",
)  # fmt: skip
_PEER_HEADS = (
    "model", "baseline", "device", "threads", "streams", "samples/s", "slowest tenth", "best",
    "x real time", "fp32 floor", "share of floor", "ratio to eager", "logit error",
)  # fmt: skip


def _engine_cells(row: Row) -> list[str]:
    eager, ratio = "not measured", ""
    if row.eager_samples_per_s is not None:
        eager = f"{row.eager_samples_per_s:,.0f} ({row.eager_threads} t)"
        ratio = f"{row.ratio_to_eager:.1f}"
    batch, batch_ratio = "", ""
    if row.eager_batch_samples_per_s is not None:
        where = f"(B = {row.eager_batch_streams}, {row.eager_batch_threads} t)"
        batch = f"{row.eager_batch_samples_per_s:,.0f} {where}"
        batch_ratio = f"{row.ratio_to_eager_batch:.1f}"
    best, best_ratio = "", ""
    if row.fastest_baseline_samples_per_s is not None:
        where = f"B = {row.fastest_baseline_streams}, " if row.streams > 1 else ""
        where = f"({row.fastest_baseline}, {where}{row.fastest_baseline_threads} t)"
        best = f"{row.fastest_baseline_samples_per_s:,.0f} {where}"
        best_ratio = f"{row.ratio_to_fastest:.1f}"
    return [
        row.model, row.device, row.dtype, str(row.threads), str(row.streams), *_speed_cells(row),
        _percent(row.share_of_read), eager, ratio, batch, batch_ratio, best, best_ratio,
    ]  # fmt: skip


def _peer_cells(row: Row) -> list[str]:
    return [
        row.model, row.runner, row.device, str(row.threads), str(row.streams), *_speed_cells(row),
        "" if row.ratio_to_eager is None else f"{row.ratio_to_eager:.2f}",
        "" if row.logit_error is None else f"{row.logit_error:.0e}",
    ]  # fmt: skip


def _speed_cells(row: Row) -> list[str]:
    floor = "" if row.floor is None else f"{row.floor} {row.floor_samples_per_s:,.0f}"
    return [
        f"{row.samples_per_s:,.0f}", f"{row.samples_per_s_p10:,.0f}",
        f"{row.samples_per_s_best:,.0f}", f"{row.x_realtime:.2f}", floor,
        _percent(row.share_of_floor),
    ]  # fmt: skip


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rule = "|" + "---|" * len(heads)
    return "\n".join([_line(heads), rule, *(_line(cells) for cells in lines)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _list(left: Sequence[Left]) -> str:
    return "\n".join(f"- {sentence}" for sentence in dict.fromkeys(one.sentence() for one in left))


def _machine_line(result: Result, facts: Facts) -> str:
    isa = ", ".join(sorted({row.isa for row in result.rows}))
    rounds = result.rows[0].rounds if result.rows else 0
    versions = ", ".join(
        f"{name} {facts[name]}"
        for name in ("torch", "onnxruntime", "numpy", "wavernn_fast")
        if facts.get(name)
    )
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['cpus_allowed']} allowed, {isa}; medians "
        f"of {rounds} rounds; {versions}, {facts['date']}. Samples/s count all streams together; "
        "(n t) is on n threads, (B = n) a batch. A row is compared with what has no more threads."
    )
