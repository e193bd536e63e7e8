"""`wavernn-fast train`: recordings -> a dual-softmax WaveRNN, dense or pruned."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import InputError
from . import common
from .train_options import (
    BATCH,
    COLUMNS,
    PRUNE,
    SEGMENT,
    SETTINGS,
    SIZES,
    learning_options,
    prune_options,
    size_options,
)

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..train.processes import Processes
    from ..train.prune import PruneSettings
    from ..train.run import Data, Loaded
    from ..train.settings import TrainSettings
    from ..train.state import State

_PRUNE_LENGTH = 200_000  # the paper's, where there are steps enough


@click.command(
    "train",
    epilog=common.examples(
        "wavernn-fast train recordings/ -o runs/voice",
        "wavernn-fast train recordings/ -o runs/voice --resume",
        "wavernn-fast train lists/train.txt --valid lists/valid.txt -o runs/big --hidden 896",
        "wavernn-fast train recordings/ -o runs/sparse --hidden 512 --prune 0.9",
        "torchrun --nproc-per-node 4 -m wavernn_fast train recordings/ -o runs/four",
    ),
)
@click.argument("data", metavar="DATA")
@click.option("-o", "--output", required=True, metavar="RUN", help="Folder of the run.")
@click.option("--valid", metavar="DATA", help="Held-out recordings. [default: some of DATA]")
@click.option(
    "--held-out", type=click.IntRange(0), help="How many. [default: 4 %, at least 1, at most 16]"
)
@click.option("--resume", is_flag=True, help="Go on with the run in RUN, with its own options.")
@click.option(
    "--from", "start", metavar="MODEL", help="Start from a canonical model, a run or a voice."
)
@size_options
@learning_options
@prune_options
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of this process.")
@click.option("--log-every", default=20, show_default=True, type=click.IntRange(1))
@click.option("--valid-every", default=500, show_default=True, type=click.IntRange(1))
@click.option("--save-every", default=500, show_default=True, type=click.IntRange(1))
@click.option("--plot", is_flag=True, help="Draw RUN/curves.png at the end (needs matplotlib).")
@common.json_option
@common.quiet_option
@click.pass_context
def command(ctx: click.Context, /, data: str, **options: Any) -> None:
    """Train a conditioned 16-bit WaveRNN on recordings of one voice.

    DATA is a folder, a manifest (.txt, .csv, .jsonl: one path a line) or an audio file. What
    cannot be used is listed and left out. RUN gets state.pt (to go on from), model.safetensors
    (averaged weights, for every other command), log.jsonl and run.json. A killed run loses at
    most --save-every steps and goes on with --resume as if it had not been killed. Needs PyTorch:
    pip install "wavernn-fast[torch]".
    """
    from ..train import need_torch

    need_torch()
    from ..train import processes, run

    if not options["output"]:  # which would be the current folder
        raise InputError("The output is empty; give a folder for the run with -o.")

    here = processes.start(options["device"], options["threads"])
    try:
        folder = Path(options["output"])
        with run.prepared(folder, options["resume"]), run.alone(folder, here.rank):
            result = _train(ctx, data, options, here)
    finally:
        here.close()
    if options["as_json"] and here.rank == 0:
        common.print_json(result)


def _train(
    ctx: click.Context, data: str, options: dict[str, Any], here: Processes
) -> dict[str, Any]:
    from ..pictures import require_matplotlib
    from ..train import run, state

    if options["plot"]:
        require_matplotlib()
    if options["valid"] is not None and options["held_out"] is not None:
        raise click.UsageError(
            "--held-out takes recordings out of DATA; leave it out with --valid."
        )
    folder = Path(options["output"])
    saved = state.read(folder) if options["resume"] else None
    config, settings, tensors = _plan(ctx, options, saved)
    where = run.Data(
        train=Path(data),
        valid=None if options["valid"] is None else Path(options["valid"]),
        held_out=options["held_out"],
    )
    if saved is not None:
        where = run.same_data(saved, where)
    quiet = common.is_quiet(ctx, options) or here.rank != 0
    loaded = _load(where, config, settings, quiet)
    if saved is not None:
        run.check_same_data(saved, loaded)
    trainer = run.make_trainer(folder, config, settings, loaded, here)
    if saved is not None:
        trainer.resume(saved)
    elif tensors is not None:
        trainer.start_from(*tensors)
    facts = _facts(where, config, settings, loaded, here)
    if here.rank == 0:
        run.describe(folder, facts)
    last = _run(trainer, options, quiet)
    result = {**facts, "result": last, "model": str(folder / "model.safetensors")}
    if trainer.pruner:
        counts = list(trainer.pruner.counts())
        result["pruned"] = [count.to_dict() for count in counts]
        for count in counts if here.rank == 0 else ():
            click.echo(count.describe(), err=True)
    if here.rank == 0:
        click.echo(f"{folder / 'model.safetensors'}: {_sentence(last)}", err=True)
        if options["plot"]:
            from ..pictures import plot_curves, read_training_log

            log = read_training_log(folder / "log.jsonl")
            plot_curves(folder / "curves.png", log, title=str(folder))
    return result


def _plan(
    ctx: click.Context, options: dict[str, Any], saved: State | None
) -> tuple[ModelConfig, TrainSettings, Any]:
    """Configuration, settings and what to start from: new, resumed, or from another model."""
    from ..train import run
    from ..train.settings import TrainSettings

    given = {
        name: options[name]
        for name in (*SIZES, *SETTINGS, *PRUNE)
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    if saved is not None:
        if options["start"]:
            raise click.UsageError("--resume goes on with its own weights; leave --from out.")
        return _resumed(saved, given)
    tensors = None
    if options["start"] is None:
        config = _new_model(options, given)
    else:
        sizes = [name for name in SIZES if name in given]
        if sizes:
            raise click.UsageError(
                f"A model that is started from keeps its sizes; leave {', '.join(sizes)} out."
            )
        tensors = run.read_start(options["start"])
        config = dataclasses.replace(tensors[0], block_shape=None, pruned=())
    settings = TrainSettings(**_numbers(config, options), prune=_pruning(options, given))
    return config, settings, tensors


def _new_model(options: dict[str, Any], given: Mapping[str, Any]) -> ModelConfig:
    """Configuration of a model that begins with random weights."""
    from ..train import run

    idle = [name for name in SIZES if name.startswith(("horizon", "subscale_")) and name in given]
    if options["subscale"] == 1 and idle:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise click.UsageError(f"{names}: only with --subscale B, the number of rows.")
    return run.ModelSizes(**{name: options[name] for name in SIZES}).config()


def _numbers(config: ModelConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `SETTINGS`, with the segments that suit the model where none are given."""
    numbers = {name: options[name] for name in SETTINGS}
    rows = config.subscale_factor
    if numbers["segment"] is None:
        numbers["segment"] = max(SEGMENT, COLUMNS * rows)
    if numbers["batch"] is None:
        share = BATCH * SEGMENT // max(1, numbers["segment"])
        numbers["batch"] = BATCH if rows == 1 else max(1, share)
    return numbers


def _pruning(options: dict[str, Any], given: Mapping[str, Any]) -> PruneSettings | None:
    """What is to be pruned, if anything."""
    from ..train.prune import PruneSettings

    prune = None
    if options["prune"] is not None:
        steps = options["steps"]
        if options["prune_length"] is None:
            left = 2 * steps // 3 - options["prune_start"]
            options["prune_length"] = max(1, min(_PRUNE_LENGTH, left))
        prune = PruneSettings(**{field: options[name] for name, field in PRUNE.items()})
        _check_end(prune, steps, "lower --prune-start or --prune-length, or raise --steps")
    elif any(name.startswith("prune_") for name in given):
        raise click.UsageError("--prune-... options need --prune Z, the share that is pruned.")
    return prune


def _check_end(prune: PruneSettings, steps: int, way_out: str) -> None:
    if prune.start + prune.length > steps:
        raise InputError(
            f"Pruning would end at step {prune.start + prune.length}, after the last step {steps}, "
            f"and its share not be reached; {way_out}."
        )


def _resumed(saved: State, given: Mapping[str, Any]) -> tuple[ModelConfig, TrainSettings, None]:
    """Take the run's own numbers; what is given on the command line must not contradict them."""
    from ..train import run

    settings = {name: value for name, value in given.items() if name in SETTINGS}
    other = [name for name in given if name not in SETTINGS and name != "prune"]
    now = dataclasses.replace(saved.settings, **settings)
    if given.get("prune", saved.settings.prune and saved.settings.prune.sparsity) != (
        saved.settings.prune and saved.settings.prune.sparsity
    ):
        other.append("prune")
    if other:
        raise InputError(
            f"A resumed run keeps its sizes and its pruning; leave {', '.join(other)} out."
        )
    run.check_same(saved, saved.config, now)
    if now.prune is not None and now.steps < saved.settings.steps:
        _check_end(now.prune, now.steps, "raise --steps")
    return saved.config, now, None


def _load(where: Data, config: ModelConfig, settings: TrainSettings, quiet: bool) -> Loaded:
    from tqdm import tqdm

    from ..train import run

    def bar(paths: Iterable[Path]) -> Iterable[Path]:
        shown: Iterable[Path] = tqdm(
            paths, desc="reading", unit="file", file=sys.stderr, disable=quiet or None
        )
        return shown

    loaded = run.load(where, config, settings, bar)
    if not quiet:
        for one in loaded.skipped:
            click.echo(f"skipped: {one.path}: {one.reason}", err=True)
    return loaded


def _facts(
    where: Data, config: ModelConfig, settings: TrainSettings, loaded: Loaded, here: Processes
) -> dict[str, Any]:
    from .. import __version__

    def seconds(recordings: Iterable[Any]) -> float:
        return sum(len(r.samples) for r in recordings) / config.sample_rate

    return {
        "version": __version__,
        "data": str(where.train),
        "train": {"recordings": len(loaded.train), "seconds": seconds(loaded.train)},
        "held_out": {
            "recordings": len(loaded.valid),
            "seconds": seconds(loaded.valid),
            "names": [Path(r.name).name for r in loaded.valid],
        },
        "skipped": [dataclasses.asdict(one) for one in loaded.skipped],
        "config": dataclasses.asdict(config),
        "settings": dataclasses.asdict(settings),
        "processes": here.world,
        "device": str(here.device),
    }


def _run(trainer: Any, options: dict[str, Any], quiet: bool) -> dict[str, Any]:
    from tqdm import tqdm

    from ..train.loop import Every

    every = Every(options["log_every"], options["valid_every"], options["save_every"])
    total = trainer.settings.steps
    with tqdm(
        total=total, initial=trainer.step, unit="step", file=sys.stderr, disable=quiet or None
    ) as shown:

        def tell(line: dict[str, Any]) -> None:
            shown.set_postfix_str(_sentence(line), refresh=False)
            shown.update(line["step"] - shown.n)

        last: dict[str, Any] = trainer.run(every, tell)
        return last


def _sentence(line: Mapping[str, Any]) -> str:
    parts = [f"step {line['step']}"]
    if "loss" in line:
        parts.append(f"loss {line['loss']:.3f}")
    if "valid_nll" in line:
        parts.append(f"held-out {line['valid_nll']:.3f} nats a sample")
    if "samples_per_s" in line:
        parts.append(f"{line['samples_per_s']:,.0f} samples/s")
    return ", ".join(parts)
