"""`wavernn-fast bench`: how fast, beside what it replaces and what the machine allows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from . import common

if TYPE_CHECKING:
    from ..benchmark import Case, Row


def _numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Parse "1,2,8"."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,2,8.")
    return [int(part) for part in parts]


def _dtypes(ctx: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    parts = [part.strip() for part in value.split(",")]
    for part in parts:
        if part not in common.DTYPES[1:]:
            raise click.BadParameter(f"{part!r} is none of {', '.join(common.DTYPES[1:])}.")
    return parts


@click.command(
    "bench",
    epilog=common.examples(
        "wavernn-fast bench --size dual:896 --dtype fp32,int8 --threads 1,2",
        "wavernn-fast bench -m voice.safetensors --streams 1,8,32 --output md",
        "wavernn-fast bench --size residual:512 --json > row.json",
    ),
)
@click.option("-m", "--model", "models", multiple=True, metavar="FILE", help="Model to measure.")
@click.option(
    "--size", "sizes", multiple=True, metavar="KIND:SIZE",
    help="Random model: dual:896, residual:512, residual-mol:512. [default: dual:896]",
)  # fmt: skip
@click.option("--preset", help="Mel and output rules when a checkpoint does not say.")
@click.option("--dtype", "dtypes", default="fp32", show_default=True, callback=_dtypes)
@click.option("--threads", callback=_numbers, help="Such as 1,2. [default: all allowed here]")
@click.option("--streams", default="1", show_default=True, callback=_numbers)
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1, 1000))
@click.option(
    "--seconds", default=0.5, show_default=True, type=click.FloatRange(0.01, 60),
    help="Length of one measurement; every round has two of them and two probes.",
)  # fmt: skip
@click.option("--no-baseline", is_flag=True, help="Leave eager PyTorch out.")
@click.option("--output", type=click.Choice(["md", "json"]), default="md", show_default=True)
@common.json_option
@common.quiet_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Measure samples per second for every combination of model, dtype, threads and streams.

    Eager PyTorch runs the same model in the same rounds (if installed), and the machine's read
    bandwidth or arithmetic peak is measured before and after each, so every figure stands beside
    what it replaces and what is possible here.
    """
    from ..benchmark import machine, to_markdown

    facts = machine()
    rows = _rows(options, common.is_quiet(ctx, options))
    if options["as_json"] or options["output"] == "json":
        common.print_json({"machine": facts, "rows": [row.to_dict() for row in rows]})
    else:
        click.echo(to_markdown(rows, facts))


def _rows(options: dict[str, Any], quiet: bool) -> list[Row]:
    from ..benchmark import measure

    plans = _plans(options)
    rows = []
    with common.Progress(len(plans), quiet, unit="case") as progress:
        for case, config, tensors in plans:
            rows.append(
                measure(
                    case,
                    config,
                    tensors,
                    rounds=options["rounds"],
                    seconds=options["seconds"],
                    baseline=not options["no_baseline"],
                )
            )
            progress.done()
    return rows


def _plans(options: dict[str, Any]) -> Sequence[tuple[Case, Any, Any]]:
    from .. import checkpoints
    from ..benchmark import Case, allowed_cpus
    from ..synthetic import random_model

    models = [
        (name, checkpoints.load(name, preset=options["preset"])) for name in options["models"]
    ]
    sizes = options["sizes"] or (() if models else ("dual:896",))
    models += [(size, random_model(size)) for size in sizes]
    threads = options["threads"] or [allowed_cpus()]
    return [
        (Case(name, dtype, count, streams), config, tensors)
        for (name, (config, tensors)), dtype, count, streams in itertools.product(
            models, options["dtypes"], threads, options["streams"]
        )
    ]
