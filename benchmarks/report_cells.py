"""One row of a result as the cells of a table: heading -> text, "" where it has nothing to say.

A value that was measured and one that was predicted have headings of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Fields = Mapping[str, Any]
Cells = dict[str, str]  # heading -> text


class Numbered(NamedTuple):
    """One row of a list of a file."""

    index: int  # in the list of the file, from 0
    fields: Fields


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
        "x real time": f"{r['x_realtime']:.3f}",
        "fp32 floor": f"{r['floor']} {amount(r['floor_samples_per_s'])}" if r.get("floor") else "",
        "of the floor": percent(r.get("share_of_floor")),
        "times eager": times(r.get("ratio_to_eager")),
        "logits off by": "" if error is None else f"{error:.1e}",
    }


def _side_by_side(row: Numbered) -> Any:
    """What is compared stands together."""
    r = row.fields
    return r["model"], r.get("device", "cpu"), r["streams"], r["threads"], row.index


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
    return short_plan(r["plan"], ", exact", f", {r['dtype']}") + (
        " (chosen)" if r["chosen"] and not r["cluster"] else ""
    )


def _many(row: Numbered) -> Cells:
    """One number of streams, from mel to sound."""
    r = row.fields
    return {
        "device": f"{r['device']}, {r['isa']}",
        "dtype": r["dtype"],
        "threads": str(r["threads"]),
        "streams": str(r["streams"]),
        "samples/s": amount(r["samples_per_s"]),
        "x real time": f"{r['x_realtime']:.2f}",
        "of each stream": f"{r['x_realtime_stream']:.3f}",
        "next 50 ms of all": f"{1000 * r['chunk_seconds']:,.0f} ms",
        "in the engine": f"{r['engine_share']:.0%}",
    }


def _mixed(row: Numbered) -> Cells:
    """Utterances of many lengths beside those of one."""
    r, mixed = row.fields, row.fields["mixed"]
    return {
        "dtype": r["dtype"],
        "threads": str(r["threads"]),
        "equal": amount(r["equal"]["samples_per_s"]),
        "mixed": amount(mixed["samples_per_s"]),
        "of equal": f"{r['ratio']:.1%}",
        "occupancy": f"{mixed['occupancy']:.1%}",
        "in the engine": f"{mixed['engine_share']:.1%}",
    }


def short_plan(plan: str, *drop: str) -> str:
    """What a plan says behind the name of the GPU, without what it always says."""
    words = plan.partition(": ")[2]
    for part in (" of 8 warps", " a sample", *drop):
        words = words.replace(part, "")
    return words


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
        "plan": r["facts"].get("plan", "").partition(": ")[2],
        "threads": "" if r["device"] == "cuda" else str(r["threads"]),
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


def _gpu_splits(path: Path) -> list[dict[str, Any]]:
    """Stage clocks of a GPU as c and d, which the package tells apart; in the order of the rows."""
    from wavernn_fast.bench.split_gpu import split_from_gpu_json

    return [split.to_dict() for split in split_from_gpu_json(path)]


def microseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _by_operation(row: Fields, key: str) -> str:
    """R 150; O1, O3 21.5: the operations that have any, in their order."""
    found = [(o["name"], o[key]) for o in row["operations"] if o[key] > 0]
    return "; ".join(f"{name} {microseconds(us)}" for name, us in found)


class Kind(NamedTuple):
    """How the rows of a kind of table are found and shown."""

    rows: str  # where its list stands in a file, unless the entry says otherwise
    cells: Callable[[Numbered], Cells]
    takes: Callable[[Fields], bool] = lambda row: True
    order: Callable[[Numbered], Any] = lambda row: row.index
    read: Callable[[Path], list[dict[str, Any]]] | None = None  # in place of the list as it stands


KINDS = {
    "models": Kind("rows", _model, is_engine),
    "baselines": Kind("rows", _baseline, lambda row: not is_engine(row), order=_side_by_side),
    "matrices": Kind("matrices", _matrix),
    "kernel": Kind("parts.speed.rows", _kernel),
    "splits": Kind("splits", _split),
    "gpu-splits": Kind("parts.stages.rows", _split, read=_gpu_splits),
    "many": Kind("rows", _many),
    "mixed": Kind("rows", _mixed),
    "parts": Kind("parts", _part),
    "gpu-baselines": Kind("parts.baselines.rows", _gpu_baseline),
}
