"""`wavernn-fast bench --split`: where the time of a sample goes, T(u) = |u| sum(c + d)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from . import common

if TYPE_CHECKING:
    from ..bench.split import Split

# Without options, the paper's comparisons: N = 5 against 62, dense against sparse, B = 1 and 16.
FULL_SIZES = ("dual:896", "dual:896:16x1:95", "residual:512", "wavenet:512")
FULL_STREAMS = (1, 16)
_PARTS = ("models", "sizes", "dtypes", "threads", "streams")
_ROUNDS, _SECONDS = 3, 0.2


def check(options: dict[str, Any]) -> None:
    """Refuse options that do not go with it; choose the models where none are named."""
    if options["matvec"]:
        raise click.UsageError("--split and --matvec are tables of their own; give one of them.")
    if options["style"] in ("csv", "jsonl"):
        raise click.UsageError("--split has tables in tables: --format md or json holds them.")
    if not any(options[key] for key in _PARTS):
        options |= {"sizes": list(FULL_SIZES), "streams": list(FULL_STREAMS), "threads": [1]}


def report(
    options: dict[str, Any], models: dict[str, Any], facts: dict[str, Any], quiet: bool
) -> tuple[dict[str, Any], str]:
    """Measure, one after the other; as JSON and as text.

    Parameters
    ----------
    options : of the command
    models : name -> (configuration, tensors)
    facts : of the machine
    quiet : leave the progress bar out
    """
    from ..bench import split_tables

    tasks = _tasks(options, models)
    found: list[dict[str, Any]] = []
    with common.Progress(len(tasks), quiet, unit="split") as progress:
        for task in tasks:
            found.append(task().to_dict())
            progress.done(1)
    return {"splits": found}, split_tables.to_markdown(found, facts)


def _tasks(options: dict[str, Any], models: dict[str, Any]) -> list[Callable[[], Split]]:
    """What to measure, in the order of the table: of each model the engine, then the baselines."""
    from ..baselines import BASELINES
    from ..bench.peers import absent, choose
    from ..machine import allowed_cpus

    devices = set(options["devices"])
    names = [n for n in choose(options["baselines"]) if devices & set(BASELINES[n].devices)]
    left_out = absent(names)
    for one in left_out:
        click.echo(f"left out: {one.sentence()}", err=True)
    names = [name for name in names if name not in {one.runner for one in left_out}]
    threads = options["threads"] or [allowed_cpus()]
    tasks = []
    for model, device in itertools.product(models, options["devices"]):
        teams = threads if device == "cpu" else threads[:1]
        for team, streams in itertools.product(teams, options["streams"] or [1]):
            tasks += _of_case(options, models, names, (model, device, team, streams))
    return tasks


def _of_case(
    options: dict[str, Any],
    models: dict[str, Any],
    names: list[str],
    case: tuple[str, str, int, int],
) -> list[Callable[[], Split]]:
    """The engine in every dtype, and every baseline that runs the model on the device."""
    from ..baselines import BASELINES
    from ..config import ModelConfig

    model, device, _, _ = case
    config = models[model][0]
    tasks: list[Callable[[], Split]] = []
    if isinstance(config, ModelConfig):
        for dtype in options["dtypes"] or ["fp32"]:
            engine = functools.partial(_engine, gpu_cluster=options["gpu_cluster"])
            tasks.append(_task(engine, options, models[model], case, dtype))
    dense = model.rsplit(":", 2)[0] if model.count(":") == 3 else None
    if dense in models:  # its zeros are nothing to a baseline: the same figures again
        return tasks
    for name in names:
        kind = BASELINES[name]
        if kind.supports(config) and device in kind.devices:
            tasks.append(_task(_baseline, options, models[model], case, name))
    return tasks


def _task(
    measure: Callable[..., Split],
    options: dict[str, Any],
    model: Any,
    case: tuple[str, str, int, int],
    what: str,
) -> Callable[[], Split]:
    times = {
        "rounds": options["rounds"] or _ROUNDS,
        "seconds": options["seconds"] or _SECONDS,
    }
    return lambda: measure(model, case, what, times)


def _engine(
    model: Any,
    case: tuple[str, str, int, int],
    dtype: str,
    times: dict[str, Any],
    gpu_cluster: int,
) -> Split:
    from ..bench.split_engine import split_engine

    name, device, threads, streams = case
    return split_engine(
        *model,
        model=name,
        dtype=dtype,
        threads=threads,
        streams=streams,
        device=device,
        gpu_cluster=gpu_cluster,
        **times,
    )


def _baseline(
    model: Any, case: tuple[str, str, int, int], runner: str, times: dict[str, Any]
) -> Split:
    from ..baselines import make
    from ..bench.split_baselines import split_baseline

    name, device, threads, streams = case
    baseline = make(runner, *model, streams=streams, threads=threads, device=device)
    return split_baseline(baseline, model=name, **times)
