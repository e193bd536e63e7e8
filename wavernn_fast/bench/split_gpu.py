"""Stage clocks of the persistent kernel as c and d.

A stage of the kernel holds what it computes and, in some, the wait for an exchange between blocks;
its clock cannot tell them apart. What an exchange takes by itself, `benchmarks/exchange.py`
measures on the same GPU with as many blocks, and that much of a stage that waits for one counts as
overhead, never more than the stage took:

====================  ===================================  ====================================
stage                 computation                          waits for
====================  ===================================  ====================================
gates                 gates of all units                   none: words came a sample ago
y                     O1 or O3; R times the half           all of y, with four exchanges
logits                O2 or O4; with two exchanges R too   none
draw                  the draw                             all logits
====================  ===================================  ====================================

Part of an exchange hides behind R times the half, which is computed while it is under way; so c
here is the time that computing adds, not the time that it takes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from .split import Operation, Split

_BLOCKS = re.compile(r"(\d+) blocks?\b")
_EXCHANGES = re.compile(r"(\d+) exchanges a sample")
_CLUSTER = re.compile(r"clusters of (\d+)")
_NAMES = {"y": "O1, O3, R", "logits": "O2, O4"}  # of merged stages, in the paper's words


def operations_of_ticks(
    ticks: Mapping[str, float], total_us: float, plan: str, hop_us: float | None = None
) -> tuple[Operation, ...]:
    """Split the ticks of the stages of a sample into c and d.

    Parameters
    ----------
    ticks : stage -> ticks a sample
        As `_C.Engine.stage_ticks` names them; those of the halves of a dual core are added.
    total_us : float
        What all of them take, in microseconds: with the clocks.
    plan : str
        `_C.Engine.describe()`, for its number of exchanges.
    hop_us : float, optional
        What one exchange takes; None: not known, then all of "draw" counts as overhead, and
        nothing of the rest.

    Returns
    -------
    tuple of Operation
        Empty where no stage has ticks.
    """
    all_ticks = sum(ticks.values())
    merged: dict[str, list[float]] = {}
    for stage, count in ticks.items():
        name = stage.removeprefix("coarse ").removeprefix("fine ")
        merged.setdefault(name, []).append(total_us * count / all_ticks if all_ticks else 0.0)
    waiting = _waiting(plan)
    return tuple(
        _operation(name, times, hop_us if name in waiting else 0.0)
        for name, times in merged.items()
        if all_ticks
    )


def _operation(name: str, times: list[float], hop_us: float | None) -> Operation:
    if hop_us is None:
        overhead = sum(times) if name == "draw" else 0.0
    else:
        overhead = sum(min(hop_us, us) for us in times)
    return Operation(_NAMES.get(name, name), len(times), sum(times) - overhead, overhead)


def _waiting(plan: str) -> tuple[str, ...]:
    """Stages that wait for an exchange."""
    exchanges = _EXCHANGES.search(plan)
    return ("draw",) if exchanges is not None and exchanges[1] == "2" else ("y", "draw")


def split_from_gpu_json(path: str | os.PathLike[str]) -> list[Split]:
    """Splits of the rows of `benchmarks/gpu_check.sh` that were run with stage clocks.

    Parameters
    ----------
    path : path
        JSON of gpu_check.sh, with the parts "stages" and "exchange".

    Returns
    -------
    list of Split
        In the order of the rows; `total_us` is the time of the plan without clocks. Facts: the
        plan, `hop_us` and what it is of, `us_with_clocks`, `exchanges` of a sample.

    Raises
    ------
    InputError
        If the file has no such parts, or no exchange among the blocks of a row.
    """
    where = Path(path)
    try:
        found = json.loads(where.read_text(encoding="utf-8"))
        rows, exchange = found["parts"]["stages"]["rows"], found["parts"]["exchange"]["summary"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{where} is not JSON of gpu_check.sh with the parts stages and exchange ({error!r}); "
            "run `benchmarks/gpu_check.sh exchange stages`."
        ) from error
    return [_of_row(row, exchange, where) for row in rows]


def _of_row(row: Mapping[str, Any], exchange: Mapping[str, Any], where: Path) -> Split:
    plan = row["plan"]
    hop_us, of = _hop(plan, exchange, where)
    ticks = {stage: each["ticks"] for stage, each in row["stages"].items()}
    operations = operations_of_ticks(ticks, row["us_per_sample_with_clocks"], plan, hop_us)
    return Split(
        model=row["model"].replace(" ", ":", 1),
        runner="wavernn_fast",
        device="cuda",
        dtype=row["dtype"],
        threads=_number(_BLOCKS, plan),
        streams=1,
        sequential=5,
        operations=operations,
        total_us=row["us_per_sample"],
        method="stage clocks",
        facts={
            "plan": plan,
            "exact": row["exact"],
            "exchanges": 2 * len(_waiting(plan)),
            "hop_us": hop_us,
            "hop_of": of,
            "us_with_clocks": row["us_per_sample_with_clocks"],
        },
    )


def _hop(plan: str, exchange: Mapping[str, Any], where: Path) -> tuple[float, str]:
    """What an exchange of such a plan took by itself, in microseconds, and which that was."""
    blocks, cluster = _number(_BLOCKS, plan), _CLUSTER.search(plan)
    if cluster is not None:
        table, key = (
            "cluster_ns_step_448_words",
            f"counted {cluster[1]} x {blocks // int(cluster[1])}",
        )
    elif len(_waiting(plan)) == 1:
        table, key = "sums_hop_ns_by_blocks", str(blocks)
    else:
        table, key = "gather_hop_ns_by_blocks", str(blocks)
    try:
        return 1e-3 * float(exchange[table][key]), f"{table} {key}"
    except KeyError:
        raise InputError(
            f"{where} has no exchange {key!r} in {table}, which the plan {plan!r} needs; measure "
            "it with benchmarks/exchange.py."
        ) from None


def _number(pattern: re.Pattern[str], plan: str) -> int:
    found = pattern.search(plan)
    return int(found[1]) if found is not None else 0
