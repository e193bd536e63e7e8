"""Tables of the report: rows of the committed JSON as Markdown, each with the number of its row.

A table is an entry of benchmarks/report.json: what kind it is, which file and which list of it, and
which of the rows. Measured and predicted values have columns of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = "docs/performance.md"  # where a table stands, unless its entry says otherwise
Fields = Mapping[str, Any]
Cells = dict[str, str]  # heading -> text


class ReportError(Exception):
    """The manifest, a result or a page is not as expected; the message says where."""


class Numbered(NamedTuple):
    """One row of a list of a file."""

    index: int  # in the list of the file, from 0
    fields: Fields


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
    rows = [Numbered(i, row) for i, row in enumerate(found)]
    kept = [row for row in rows if KINDS[entry["kind"]].takes(row.fields)]
    if "only" in entry:
        kept = [row for row in kept if any(matches(row.fields, w) for w in entry["only"])]
        for wanted in entry["only"]:
            if not any(matches(row.fields, wanted) for row in kept):
                raise ReportError(f"{name}: no row of {entry['file']} has {json.dumps(wanted)}.")
    if not kept:
        raise ReportError(f"{name}: {entry['file']} has no row for this table.")
    return kept


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
    lacking = left_out(report) if entry["kind"] == "baselines" else ""
    return f"    {command}\n\n{markdown(lines)}\n\n{source}{lacking}"


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
    if rounds := row.get("rounds", row.get("repeats")):
        parts.append(f"medians of {rounds} rounds")
    return f"`benchmarks/results/{name}`, list `{path}`: " + "; ".join(parts) + "."


def _cpu(machine: Fields, report: Fields) -> list[str]:
    isa = report.get("isa", [])
    packages = ("python", "numpy", "torch", "onnxruntime", "wavernn_fast")
    parts = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['cpus_allowed']} allowed"
        + (f", {', '.join(isa)}" if isa else ""),
        str(machine["system"]),
        str(machine["date"]),
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


# --- cells ---


def amount(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def times(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def real_times(value: float) -> str:
    """Two digits at least: 0.028, 0.19, 2.2, 432."""
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def is_engine(row: Fields) -> bool:
    """Rows of this engine; files from before baselines had rows of their own have no others."""
    return row.get("runner", "wavernn_fast") == "wavernn_fast"


def fastest(row: Fields) -> tuple[str, float, int, float] | None:
    """(name, samples/s, threads, ratio) of what a row is compared with; None if it is not.

    The fastest baseline where the session had some; in older files PyTorch's best batch for a row
    of several streams, and eager PyTorch for one stream.
    """
    if row.get("fastest_baseline"):
        batch = row.get("fastest_baseline_streams") or 1
        return (
            row["fastest_baseline"] + (f", batch of {batch}" if batch > 1 else ""),
            row["fastest_baseline_samples_per_s"],
            row["fastest_baseline_threads"],
            row["ratio_to_fastest"],
        )
    kind = "eager_batch" if row["streams"] > 1 else "eager"
    if row.get(f"{kind}_samples_per_s") is None:
        return None
    title = "torch-eager"
    if row["streams"] > 1:
        title += f", batch of {row['eager_batch_streams']}"
    ratio = row["ratio_to_eager_batch" if row["streams"] > 1 else "ratio_to_eager"]
    return title, row[f"{kind}_samples_per_s"], row[f"{kind}_threads"], ratio


def _model(row: Numbered) -> Cells:
    r, device = row.fields, row.fields.get("device", "cpu")
    eager, batch = r.get("eager_samples_per_s"), r.get("eager_batch_samples_per_s")
    cells = {
        "model": r["model"],
        "device": "" if device == "cpu" else device,
        "dtype": r["dtype"],
        "threads": str(r["threads"]),
        "streams": str(r["streams"]),
        "samples/s": amount(r["samples_per_s"]),
        "slowest tenth": amount(r["samples_per_s_p10"]),
        "best": amount(r["samples_per_s_best"]),
        "x real time": f"{r['x_realtime']:.2f}",
        "floor": f"{r['floor']} {amount(r['floor_samples_per_s'])}" if r.get("floor") else "",
        "of the floor": percent(r.get("share_of_floor")),
        "of read": percent(r.get("share_of_read")),
        "eager, 1 stream": f"{amount(eager)} ({r['eager_threads']} t)" if eager else "",
        "times eager": times(r.get("ratio_to_eager")),
    }
    if batch:
        where = f"B = {r['eager_batch_streams']}, {r['eager_batch_threads']} t"
        cells["eager, best batch"] = f"{amount(batch)} ({where})"
        cells["times batch"] = times(r["ratio_to_eager_batch"])
    if r.get("fastest_baseline"):
        name, rate, threads, ratio = fastest(r) or ("", 0.0, 0, 0.0)
        cells["fastest baseline"] = f"{name} {amount(rate)} ({threads} t)"
        cells["times fastest"] = times(ratio)
    return cells


def _baseline(row: Numbered) -> Cells:
    r, spread, error = row.fields, row.fields.get("spread"), row.fields.get("logit_error")
    return {
        "model": r["model"],
        "baseline": r["runner"],
        "device": r.get("device", "cpu"),
        "threads": str(r["threads"]),
        "streams": str(r["streams"]),
        "samples/s": amount(r["samples_per_s"]),
        "spread": "" if spread is None else f"{100 * spread:.1f} %",
        "x real time": f"{r['x_realtime']:.2f}",
        "fp32 floor": f"{r['floor']} {amount(r['floor_samples_per_s'])}" if r.get("floor") else "",
        "of the floor": percent(r.get("share_of_floor")),
        "times eager": times(r.get("ratio_to_eager")),
        "logits off by": "" if error is None else f"{error:.1e}",
    }


def _matrix(row: Numbered) -> Cells:
    r = row.fields
    cost = r["cost_of_dense"]
    return {
        "size": str(r["size"]),
        "zero": f"{100 * r['sparsity']:g} %" if r["block"] else "",
        "blocks": r["block"] or "dense",
        "dtype": r["dtype"],
        "threads": str(r["threads"]),
        "products/s": amount(r["products_per_s"]),
        "Gflop/s": f"{r['gflops']:.1f}",
        "ns a weight": f"{r['ns_per_weight']:.4f}",
        "of dense": "" if cost is None else f"{cost:.2f}",
        "of peak": percent(r["share_of_peak"]),
        "of read": percent(r["share_of_read"]),
        "paper, SD 808 / 835": " / ".join(amount(n) for n in r["paper_products_per_s"] or ()),
    }


def _kernel(row: Numbered) -> Cells:
    r = row.fields
    return {
        "model": r["model"] + (", 95 % pruned" if "sparse" in r else ""),
        "dtype": r["dtype"],
        "arithmetic": "exact" if r["exact"] else "fast",
        "plan": _plan(r),
        "streams": str(r.get("streams", 1)),
        "samples/s": amount(r["samples_per_s"]),
        "slowest": amount(r["samples_per_s_worst"]),
        "best": amount(r["samples_per_s_best"]),
        "x real time at 24 kHz": f"{r['samples_per_s'] / 24000:.1f}",
        "predicted": amount(r["predicted_samples_per_s"]),
    }


def _plan(r: Fields) -> str:
    """ "56 blocks, four exchanges": what follows the name of the GPU in a plan, shortened."""
    if "sparse" in r:
        return f"teams of {r['cluster']}" if r["cluster"] else "chosen"
    words = r["plan"].partition(": ")[2]
    drop = (" of 8 warps", f", {r['dtype']}", ", exact", " a sample")
    for part in drop:
        words = words.replace(part, "")
    return words + (" (chosen)" if r["chosen"] and not r["cluster"] else "")


def _part(row: Numbered) -> Cells:
    r = row.fields
    return {
        "part": f"`{r['part']}`",
        "state": r["state"],
        "seconds": amount(r["seconds"]),
        "result": r["result"] or r.get("error", ""),
    }


def _gpu_baseline(row: Numbered) -> Cells:
    r = row.fields
    return {
        "baseline": r["name"],
        "streams": str(r["batch"]),
        "samples/s": amount(r["samples_per_s"]),
        "slowest": amount(r["samples_per_s_worst"]),
        "best": amount(r["samples_per_s_best"]),
        "logits off by": f"{r['logit_error']:.1e}",
    }


def _split(row: Numbered) -> Cells:
    r = row.fields
    c, d = r["computation_us"], r["overhead_us"]
    return {
        "model": r["model"],
        "run by": r["runner"],
        "device": r["device"],
        "dtype": r["dtype"],
        "blocks" if r["device"] == "cuda" else "threads": str(r["threads"]),
        "streams": str(r["streams"]),
        "N": str(r["sequential"]),
        "T(u), us a sample": microseconds(r["total_us"]),
        "sum of c": microseconds(c),
        "sum of d": microseconds(d),
        "d of both": percent(d / (c + d)) if c + d else "",
        "c by operation": _by_operation(r, "computation_us"),
        "d by operation": _by_operation(r, "overhead_us"),
        "by": r["method"],
    }


def microseconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _by_operation(row: Fields, key: str) -> str:
    """ "R 150, O1 21.5": the operations that have any, in their order."""
    found = [(o["name"], o[key]) for o in row["operations"] if o[key] > 0]
    return ", ".join(f"{name} {microseconds(us)}" for name, us in found)


class Kind(NamedTuple):
    """How the rows of a kind of table are found and shown."""

    rows: str  # where its list stands in a file, unless the entry says otherwise
    cells: Callable[[Numbered], Cells]
    takes: Callable[[Fields], bool] = lambda row: True


KINDS = {
    "models": Kind("rows", _model, is_engine),
    "baselines": Kind("rows", _baseline, lambda row: not is_engine(row)),
    "matrices": Kind("matrices", _matrix),
    "kernel": Kind("parts.speed.rows", _kernel),
    "splits": Kind("splits", _split),
    "parts": Kind("parts", _part),
    "gpu-baselines": Kind("parts.baselines.rows", _gpu_baseline),
}
