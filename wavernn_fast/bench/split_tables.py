"""T(u) as Markdown: N, c and d of every way to run a model, what changes them, and by operation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..pictures_split import place
from .split_handles import pairs, per_sample
from .tables import table

Fields = Mapping[str, Any]  # `Split.to_dict`

_HEADS = (
    "model", "runner", "device", "dtype", "threads", "B", "N", "us a step", "c, us", "d, us",
    "d / (c + d)", "c / N, us", "d / N, us", "samples/s",
)  # fmt: skip


def to_markdown(splits: Sequence[Fields], facts: Fields | None = None) -> str:
    """A table of sums, one of operations for each model, and notes.

    Parameters
    ----------
    splits : sequence of dict
        Each as `Split.to_dict` makes it.
    facts : dict, optional
        Of the machine (`wavernn_fast.machine`).
    """
    parts = [sums(splits), operations(splits), "\n".join(f"- {note}" for note in notes(splits))]
    if found := handles(splits):
        parts.insert(1, found)
    if facts is not None:
        parts.append(
            f"{facts['cpu']}, {facts['cores']} cores, {facts['cpus_allowed']} allowed; torch "
            f"{facts['torch']}, wavernn_fast {facts['wavernn_fast']}, {facts['date']}."
        )
    return "\n\n".join(parts)


def sums(splits: Sequence[Fields]) -> str:
    """T(u) in one line each; blank where only messages were counted."""
    return table(_HEADS, (_sum_cells(split) for split in splits))


def handles(splits: Sequence[Fields]) -> str:
    """What each handle of T(u) changes, for one sample of one stream; empty without a pair."""
    heads = (
        "handle", "from", "to", "N", "c a sample, us", "d a sample, us", "us a sample", "times",
    )  # fmt: skip
    rows = []
    for handle, before, after in pairs(splits):
        both = before, after
        us = [per_sample(split, "total_us") for split in both]
        rows.append(
            [
                handle.replace("|", "&#124;"),
                *(f"{split['model']}, {_name(split)}" for split in both),
                _change(f"{split['sequential']}" for split in both),
                _change(f"{per_sample(split, 'computation_us'):,.1f}" for split in both),
                _change(f"{per_sample(split, 'overhead_us'):,.1f}" for split in both),
                _change(f"{each:,.1f}" for each in us),
                f"{us[0] / us[1]:.3g}",
            ]
        )
    return table(heads, rows) if rows else ""


def operations(splits: Sequence[Fields]) -> str:
    """For each model a table of c + d by operation, in microseconds of a step."""
    parts = []
    for model in dict.fromkeys(split["model"] for split in splits):
        ours = [split for split in splits if split["model"] == model]
        names = list(dict.fromkeys(o["name"] for s in ours for o in s["operations"]))
        rows = ([_name(split), *(_cell(split, name) for name in names)] for split in ours)
        parts.append(table((model, *names), rows))
    return "\n\n".join(parts)


def notes(splits: Sequence[Fields]) -> list[str]:
    """What the figures do not say themselves."""
    found = [
        "c is computation, d overhead (calls, launches, exchanges, meetings), both of one step of "
        "all B streams; N products of it must follow each other. By operation: c + d, and in "
        "brackets how often it comes."
    ]
    methods = {split["method"] for split in splits}
    if "empty twin" in methods:
        found.append(
            "Baselines: d is the time of the same loop over a model of the smallest widths, c what "
            "the model takes longer; the draw, over as many classes, is in d."
        )
    if "stage clocks" in methods:
        found.append("wavernn_fast: by clocks in the engine; the draw and the gates are in c.")
    if "counted" in methods:
        found.append("emu has no time: its operations are counted, messages in a row.")
    for split in splits:
        if hops := split["facts"].get("hops_per_step"):
            found.append(f"{_name(split)} on {split['model']}: {hops:,.3g} messages in a row.")
        if below := split["facts"].get("below_twin_us"):
            listed = ", ".join(f"{name} by {us:,.1f} us" for name, us in below.items())
            found.append(
                f"{_name(split)} on {split['model']}: faster than the twin, and so c = 0: {listed}."
            )
    return found


# --- cells ----------------------------------------------------------------------------------------


def _change(values: Iterable[str]) -> str:
    return " to ".join(values)


def _sum_cells(split: Fields) -> list[str]:
    c, d, total = split["computation_us"], split["overhead_us"], split["total_us"]
    n = split["sequential"]
    cells = [
        split["model"], split["runner"], split["device"], split["dtype"], str(split["threads"]),
        str(split["streams"]), str(n),
    ]  # fmt: skip
    if not total or not c + d:
        return [*cells, *[""] * (len(_HEADS) - len(cells))]
    return [
        *cells, f"{total:,.1f}", f"{c:,.1f}", f"{d:,.1f}", f"{100 * d / (c + d):.0f} %",
        f"{c / n:,.2f}", f"{d / n:,.2f}", f"{1e6 * split['streams'] / total:,.0f}",
    ]  # fmt: skip


def _name(split: Fields) -> str:
    """What tells a split from the others of its model."""
    where = place(split["device"], split["threads"], split["facts"])
    return f"{split['runner']}, {split['dtype']}, {where}, B = {split['streams']}"


def _cell(split: Fields, name: str) -> str:
    found = [o for o in split["operations"] if o["name"] == name]
    if not found:
        return ""
    [operation] = found
    times = {0: " (< 1)", 1: ""}.get(operation["count"], f" ({operation['count']})")
    if split["method"] == "counted":
        return f"{operation['count']} in a row"
    return f"{operation['computation_us']:,.1f} + {operation['overhead_us']:,.1f}{times}"
