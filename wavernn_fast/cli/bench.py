"""`wavernn-fast bench`: how fast, beside what it replaces and what the machine allows."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..files import write_atomic
from . import common

if TYPE_CHECKING:
    from ..benchmark import Row


def _numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Parse "1,2,8"."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,2,8.")
    return [int(part) for part in parts]


def _names(ctx: click.Context, parameter: click.Parameter, value: Sequence[str]) -> list[str]:
    """Join "--size a,b --size c" to a, b, c."""
    return [part.strip() for text in value for part in text.split(",")]


class _Bench(click.Command):
    """Keeps the arguments as they were given: a result names the command that made it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["command"] = shlex.join(["wavernn-fast", "bench", *args])
        return super().parse_args(ctx, args)


@click.command(
    "bench",
    cls=_Bench,
    epilog=common.examples(
        "wavernn-fast bench --size dual:896 --dtype fp32,int8 --threads 1,2",
        "wavernn-fast bench -m voice.safetensors --streams 1,8,32 --output results.json",
        "wavernn-fast bench --size dual:896,dual:896:16x1:95 --dtype fp16 --threads 1",
        "wavernn-fast bench --matvec --dtype fp32,fp16,int8 --threads 1,2",
        "wavernn-fast bench --size dual:896,residual:512 --rounds 9 --json > rows.json",
    ),
)
@click.option("-m", "--model", "models", multiple=True, metavar="FILE", help="Model to measure.")
@click.option(
    "--size", "sizes", multiple=True, metavar="KIND:SIZE,...", callback=_names,
    help="Random models: dual:896, dual-mel:896, subscale:896, residual:512, residual-mol:512 (or "
    "residual-gaussian, residual-beta), embedded:896; dual:896:16x1:95 has 95 % of its blocks of "
    "16x1 pruned. [default: dual:896]",
)  # fmt: skip
@click.option("--preset", help="Mel and output rules when a checkpoint does not say.")
@click.option(
    "--dtype", "dtypes", default="fp32", show_default=True, callback=common.dtype_list,
    help="Such as fp32,fp16,bf16,int8,int8-fast.",
)  # fmt: skip
@click.option("--threads", callback=_numbers, help="Such as 1,2. [default: all allowed here]")
@click.option("--streams", default="1", show_default=True, callback=_numbers)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 1000))
@click.option(
    "--seconds", default=0.5, show_default=True, type=click.FloatRange(0.01, 60),
    help="Length of one measurement; every round has one of each row and of each baseline.",
)  # fmt: skip
@click.option(
    "--matvec", is_flag=True,
    help="Instead: the paper's tables of pruned matrices and of a pruned model with 1024 units.",
)  # fmt: skip
@click.option("--no-baseline", is_flag=True, help="Leave eager PyTorch out.")
@click.option(
    "--output", type=click.Path(dir_okay=False), metavar="FILE",
    help="Also write machine, command, date and rows there, as JSON.",
)  # fmt: skip
@common.json_option
@common.quiet_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Measure samples per second for every combination of model, dtype, threads and streams.

    All of them, eager PyTorch with one stream and with as many (if installed), and the machine's
    read bandwidth and arithmetic peak take turns in rounds, so every figure stands beside what it
    replaces and what is possible here. Prints a Markdown table, or with --json the same as JSON.
    """
    from ..machine import machine

    output, quiet = options["output"], common.is_quiet(ctx, options)
    if options["matvec"] and (options["models"] or options["sizes"]):
        raise click.UsageError("--matvec has matrices of its own: leave --model and --size out.")
    if output:
        common.prepare_folders([common.Item("bench", output)])
    facts = machine()
    if options["matvec"]:
        found, table = _matvec(options, facts, quiet)
    else:
        found, table = _models_report(options, facts, quiet)
    report = {"command": ctx.meta["command"], "machine": facts, **found}
    if output:
        text = json.dumps(report, indent=2, sort_keys=True, allow_nan=False) + "\n"
        write_atomic(output, [text.encode()])
    if options["as_json"]:
        common.print_json(report)
    else:
        click.echo(table)


def _models_report(
    options: dict[str, Any], facts: dict[str, Any], quiet: bool
) -> tuple[dict[str, Any], str]:
    """Rows of models for a report, and as a table."""
    from ..benchmark import to_markdown

    rows = _rows(options, _models(options), quiet)
    report = {"isa": sorted({row.isa for row in rows}), "rows": [row.to_dict() for row in rows]}
    return report, to_markdown(rows, facts)


# Table 2 of the paper: samples/s of 1024 units, 95 % of all matrices pruned, on two big cores of a
# Snapdragon 808 and 835.
_PAPER_MODELS = {
    "dual:1024:4x4:95": "19,800 / 29,100",
    "dual:1024:16x1:95": "21,600 / 31,400",
    "dual:1024:8x4:95": "",
}


def _matvec(
    options: dict[str, Any], facts: dict[str, Any], quiet: bool
) -> tuple[dict[str, Any], str]:
    """Tables 4 and 2 of the paper: matrices, and a model made of them."""
    from .. import matvec
    from ..machine import allowed_cpus
    from ..synthetic import random_model

    threads, rounds = options["threads"] or [allowed_cpus()], options["rounds"]
    count = rounds * matvec.runs(options["dtypes"], threads)
    with common.Progress(count, quiet, unit="run") as progress:
        rows = matvec.measure(
            options["dtypes"],
            threads,
            rounds=rounds,
            seconds=options["seconds"],
            progress=progress.done,
        )
    models = {name: random_model(name) for name in _PAPER_MODELS}
    speeds = _rows({**options, "streams": [1], "no_baseline": True}, models, quiet)
    lines = [
        "| model | dtype | threads | samples/s | slowest tenth | paper, SD 808 / 835 |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.model} | {row.dtype} | {row.threads} | {row.samples_per_s:,.0f} | "
        f"{row.samples_per_s_p10:,.0f} | {_PAPER_MODELS[row.model]} |"
        for row in speeds
    ]
    report = {
        "isa": sorted({row.isa for row in rows}),
        "matrices": [row.to_dict() for row in rows],
        "rows": [row.to_dict() for row in speeds],
    }
    return report, "\n".join([matvec.to_markdown(rows, facts, rounds), "", *lines])


def _rows(options: dict[str, Any], models: dict[str, Any], quiet: bool) -> list[Row]:
    from ..benchmark import Case, measure, measurements
    from ..machine import allowed_cpus

    cases = [
        Case(name, dtype, threads, streams)
        for name, threads, streams, dtype in itertools.product(
            models,
            options["threads"] or [allowed_cpus()],
            options["streams"],
            options["dtypes"],
        )
    ]
    rounds, baseline = options["rounds"], not options["no_baseline"]
    with common.Progress(measurements(cases, rounds, baseline), quiet, unit="run") as progress:
        return measure(
            models,
            cases,
            rounds=rounds,
            seconds=options["seconds"],
            baseline=baseline,
            progress=progress.done,
        )


def _models(options: dict[str, Any]) -> dict[str, Any]:
    """Name -> (configuration, tensors)."""
    from .. import checkpoints
    from ..synthetic import random_model

    models = {name: checkpoints.load(name, preset=options["preset"]) for name in options["models"]}
    sizes = options["sizes"] or (() if models else ("dual:896",))
    return {**models, **{size: random_model(size) for size in sizes}}
