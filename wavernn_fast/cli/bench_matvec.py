"""`wavernn-fast bench --matvec`: tables 4 and 2 of the paper, on this machine."""

from __future__ import annotations

from typing import Any

import click

from . import common

# Table 2 of the paper: samples/s of 1024 units, 95 % of all matrices pruned, on two big cores of a
# Snapdragon 808 and 835.
_PAPER_MODELS = {
    "dual:1024:4x4:95": "19,800 / 29,100",
    "dual:1024:16x1:95": "21,600 / 31,400",
    "dual:1024:8x4:95": "",
}


def check(options: dict[str, Any]) -> None:
    """Refuse options that say what to measure instead."""
    if options["models"] or options["sizes"]:
        raise click.UsageError("--matvec has matrices of its own: leave --model and --size out.")
    if options["style"] in ("csv", "jsonl"):
        raise click.UsageError("--matvec has two tables: --format md or json holds them.")


def report(
    options: dict[str, Any], facts: dict[str, Any], quiet: bool
) -> tuple[dict[str, Any], str]:
    """Tables 4 and 2 of the paper: matrices, and a model made of them; as JSON and as text."""
    from .. import matvec
    from ..bench.rows import Case
    from ..bench.session import Session
    from ..machine import allowed_cpus
    from ..synthetic import random_model

    threads, rounds = options["threads"] or [allowed_cpus()], options["rounds"] or 5
    dtypes, seconds = options["dtypes"] or ["fp32"], options["seconds"] or 0.5
    with common.Progress(rounds * matvec.runs(dtypes, threads), quiet, unit="run") as progress:
        rows = matvec.measure(
            dtypes, threads, rounds=rounds, seconds=seconds, progress=progress.done
        )
    models = {name: random_model(name) for name in _PAPER_MODELS}
    cases = [Case(name, dtype, t, 1) for name in models for t in threads for dtype in dtypes]
    session = Session(models, cases, "none")
    with common.Progress(session.measurements(rounds), quiet, unit="run") as progress:
        speeds = session.measure(rounds, seconds, progress.done).rows
    lines = [
        "| model | dtype | threads | samples/s | slowest tenth | paper, SD 808 / 835 |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.model} | {row.dtype} | {row.threads} | {row.samples_per_s:,.0f} | "
        f"{row.samples_per_s_p10:,.0f} | {_PAPER_MODELS[row.model]} |"
        for row in speeds
    ]
    found = {
        "isa": sorted({row.isa for row in rows}),
        "matrices": [row.to_dict() for row in rows],
        "rows": [row.to_dict() for row in speeds],
    }
    return found, "\n".join([matvec.to_markdown(rows, facts, rounds), "", *lines])
