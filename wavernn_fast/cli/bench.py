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
    from ..bench.rows import Case, Result

_DEVICES = ("cpu", "cuda", "emu")
# Without options: what people ask first, in less than three minutes on two cores.
_FULL_SIZES = ("dual:896", "residual:512", _WAVENET := "wavenet:512")
_FULL_DTYPES = ("fp32", "fp16", "int8")
_FULL_STREAMS = (1, 32)
_FULL_SECONDS = 0.15


def _numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Parse "1,2,8"."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,2,8.")
    return [int(part) for part in parts]


def _names(ctx: click.Context, parameter: click.Parameter, value: Sequence[str]) -> list[str]:
    """Join "--size a,b --size c" to a, b, c."""
    return [part.strip() for text in value for part in text.split(",")]


def _dtypes(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else common.dtype_list(ctx, parameter, value)


def _devices(ctx: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    """Parse "cpu,cuda"."""
    parts = list(dict.fromkeys(part.strip() for part in value.split(",")))
    for part in parts:
        if part not in _DEVICES:
            raise click.BadParameter(f"{part!r} is none of {', '.join(_DEVICES)}.")
    return parts


class _Bench(click.Command):
    """Keeps the arguments as they were given: a result names the command that made it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["command"] = shlex.join(["wavernn-fast", "bench", *args])
        return super().parse_args(ctx, args)


@click.command(
    "bench",
    cls=_Bench,
    epilog=common.examples(
        "wavernn-fast bench",
        "wavernn-fast bench --size dual:896 --dtype fp32,int8 --threads 1,2",
        "wavernn-fast bench -m voice.safetensors --streams 1,8,32 --output results.json",
        "wavernn-fast bench --size dual:896 --baselines numpy,torch-eager -r 9 -o csv",
        "wavernn-fast bench --size dual:896,dual:896:16x1:95 --dtype fp16 --threads 1",
        "wavernn-fast bench --matvec --dtype fp32,fp16,int8 --threads 1,2",
        "wavernn-fast bench --split --output split.json",
    ),
)
@click.option(
    "-m", "--model", "models", multiple=True, metavar="FILE|VOICE", help="Model to measure."
)
@click.option(
    "--size", "sizes", multiple=True, metavar="KIND:SIZE,...", callback=_names,
    help="Random models: dual:896, dual-mel:896, subscale:896, residual:512, residual-mol:512 (or "
    "residual-gaussian, residual-beta), embedded:896; dual:896:16x1:95 has 95 % of its blocks of "
    "16x1 pruned; wavenet:512 is for baselines alone. [default: dual:896]",
)  # fmt: skip
@click.option("--preset", help="Mel and output rules when a checkpoint does not say.")
@click.option(
    "--device", "devices", default="cpu", show_default=True, callback=_devices,
    help="Such as cpu,cuda; emu is a GPU's kernel on the processor, to try and not to time.",
)  # fmt: skip
@click.option(
    "--dtype", "dtypes", callback=_dtypes,
    help="Such as fp32,fp16,bf16,int8,int8-fast. [default: fp32]",
)  # fmt: skip
@click.option("--threads", callback=_numbers, help="Such as 1,2. [default: all allowed here]")
@click.option("--streams", callback=_numbers, help="Such as 1,8,32. [default: 1]")
@common.gpu_cluster_option
@click.option(
    "-r", "--rounds", "--repetitions", "rounds", type=click.IntRange(1, 1000),
    help="How often everything is measured. [default: 5]",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0.01, 60),
    help="Length of one measurement; every round has one of each row and of each baseline. "
    f"[default: 0.5; {_FULL_SECONDS} for the whole table]",
)  # fmt: skip
@click.option(
    "--matvec", is_flag=True,
    help="Instead: the paper's tables of pruned matrices and of a pruned model with 1024 units.",
)  # fmt: skip
@click.option(
    "--split", is_flag=True,
    help="Instead: where the time of a sample goes, computation and overhead by operation.",
)  # fmt: skip
@click.option(
    "--baselines", metavar="default|all|none|NAME,...",
    help="What to compare with (docs/baselines.md); default: all but those that compile for "
    "minutes. [default: default]",
)  # fmt: skip
@click.option("--no-baseline", is_flag=True, help="The same as --baselines none.")
@click.option(
    "-o", "--format", "style", type=click.Choice(("md", "csv", "json", "jsonl")),
    help="Of what is printed. [default: md]",
)  # fmt: skip
@click.option(
    "--output", type=click.Path(dir_okay=False), metavar="FILE",
    help="Also write machine, command, date and rows there, as JSON.",
)  # fmt: skip
@common.json_option
@common.quiet_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Measure samples per second for every combination of model, dtype, threads and streams.

    All of them, the baselines (numpy, PyTorch in several forms, ONNX Runtime; with one stream and
    with as many), and the machine's read bandwidth and arithmetic peak take turns in rounds, so
    every figure stands beside what it replaces and what is possible here. A baseline whose logits
    are not those of the model is refused.

    Without --model, --size, --dtype, --threads and --streams: the whole table of this processor.
    """
    from ..machine import machine

    output, quiet = options["output"], common.is_quiet(ctx, options)
    _settle(options)
    if output:
        common.prepare_folders([common.Item("bench", output)])
    facts = machine()
    if options["split"]:
        from . import bench_split

        bench_split.check(options)
        found, text = bench_split.report(options, _models(options, False), facts, quiet)
    elif options["matvec"]:
        from . import bench_matvec

        bench_matvec.check(options)
        found, text = bench_matvec.report(options, facts, quiet)
    else:
        from ..bench import tables

        result = _measure(options, quiet)
        found, text = (
            result.to_dict(),
            tables.text(result, options["style"], ctx.meta["command"], facts),
        )
    report = {"command": ctx.meta["command"], "machine": facts, **found}
    if output:
        whole = json.dumps(report, indent=2, sort_keys=True, allow_nan=False) + "\n"
        write_atomic(output, [whole.encode()])
    if options["style"] == "json":
        common.print_json(report)
    else:
        click.echo(text)


def _settle(options: dict[str, Any]) -> None:
    """Give options that depend on each other one value."""
    if options["as_json"] and options["style"] not in (None, "json"):
        raise click.UsageError(f"--json and --format {options['style']} differ; give one of them.")
    options["style"] = "json" if options["as_json"] else options["style"] or "md"
    if options["no_baseline"] and options["baselines"] not in (None, "none"):
        raise click.UsageError("--no-baseline and --baselines differ; give one of them.")
    options["baselines"] = "none" if options["no_baseline"] else options["baselines"] or "default"


def _measure(options: dict[str, Any], quiet: bool) -> Result:
    from ..bench.session import Session

    full = not any(options[key] for key in ("models", "sizes", "dtypes", "threads", "streams"))
    models = _models(options, full)
    cases = _cases(models, options, full)
    session = Session(models, cases, options["baselines"], options["gpu_cluster"])
    rounds = options["rounds"] or 5
    seconds = options["seconds"] or (_FULL_SECONDS if full else 0.5)
    with common.Progress(session.measurements(rounds), quiet, unit="run") as progress:
        result = session.measure(rounds, seconds, progress.done)
    for word, left in (("refused", result.refused), ("left out", result.left_out)):
        for sentence in dict.fromkeys(one.sentence() for one in left):
            click.echo(f"{word}: {sentence}", err=True)
    return result


def _models(options: dict[str, Any], full: bool) -> dict[str, Any]:
    """Name -> (configuration, tensors)."""
    from .. import checkpoints

    models = {name: checkpoints.load(name, preset=options["preset"]) for name in options["models"]}
    sizes = options["sizes"] or (() if models else ("dual:896",))
    if full:
        sizes = _FULL_SIZES
    return {**models, **{size: _random(size) for size in sizes}}


def _random(size: str) -> Any:
    if size.startswith("wavenet:"):
        from ..baselines.wavenet import random_wavenet

        return random_wavenet(size)
    from ..synthetic import random_model

    return random_model(size)


def _cases(models: dict[str, Any], options: dict[str, Any], full: bool) -> list[Case]:
    """Every combination; the threads of a GPU are its own, so it has one row for all of them."""
    from ..bench.rows import Case
    from ..machine import allowed_cpus

    everything = allowed_cpus()
    threads = options["threads"] or (sorted({1, everything}) if full else [everything])
    streams = options["streams"] or (_FULL_STREAMS if full else (1,))
    dtypes = options["dtypes"] or (_FULL_DTYPES if full else ("fp32",))
    found = []
    for device in options["devices"]:
        teams = threads if device == "cpu" else threads[:1]
        found += [
            Case(name, dtype, team, count, device)
            for name, team, count, dtype in itertools.product(models, teams, streams, dtypes)
            if not (full and name == _WAVENET and count > 1)  # for scale, one utterance is enough
        ]
    return found
