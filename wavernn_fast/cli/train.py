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

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..train.processes import Processes
    from ..train.run import Data, Loaded
    from ..train.settings import TrainSettings
    from ..train.state import State

_PRUNE = {  # option -> field of PruneSettings
    "prune": "sparsity",
    "prune_block": "block",
    "prune_start": "start",
    "prune_length": "length",
    "prune_every": "every",
    "prune_gates": "gates",
    "prune_outputs": "outputs",
}
_PRUNE_LENGTH = 200_000  # the paper's, where there are steps enough
_SIZES = (
    "preset", "hidden_size", "fc_size", "aux_size", "aux_channels", "aux_blocks", "aux_kernel",
    "conditioned",
)  # fmt: skip
_SETTINGS = (
    "steps", "batch", "segment", "warmup", "lr", "lr_final", "lr_conditioning",
    "lr_warmup", "clip", "ema", "seed",
    "precision",
)  # fmt: skip


def parse_block(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    """Read "16x1": rows (outputs) x columns (inputs) of a block."""
    parts = value.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{value!r} is not a block; write 16x1, 4x4 or 1x1.")
    return int(parts[0]), int(parts[1])


block_options = common.stack(
    click.option(
        "--prune-block", default="16x1", show_default=True, callback=parse_block, metavar="RxC",
        help="Rows (outputs) x columns (inputs) of a block.",
    ),
    click.option(
        "--prune-gates", default="separate", show_default=True,
        type=click.Choice(["separate", "stacked"]),
        help="One threshold for each gate of the recurrent matrix, or one for all three.",
    ),
    click.option(
        "--prune-outputs/--no-prune-outputs", default=True, show_default=True,
        help="Prune the four output layers too.",
    ),
)  # fmt: skip
size_options = common.stack(
    click.option(
        "--preset", default="native-22k", show_default=True,
        help="Sample rate, frames and mel of a new model.",
    ),
    click.option("--hidden", "hidden_size", default=256, show_default=True, type=int),
    click.option("--fc", "fc_size", type=int, help="Width of the output layers. [default: hidden]"),
    click.option(
        "--aux-size", default=128, show_default=True, type=int,
        help="Outputs of the convolutional stack over the mel; 0: the mel alone.",
    ),
    click.option("--aux-channels", default=192, show_default=True, type=int),
    click.option("--aux-blocks", default=3, show_default=True, type=int),
    click.option("--aux-kernel", default=5, show_default=True, type=int, help="Frames it sees."),
    click.option(
        "--unconditioned", "conditioned", flag_value=False, default=True,
        help="No mel: babble, for comparison.",
    ),
)  # fmt: skip
learning_options = common.stack(
    click.option("--steps", default=100_000, show_default=True, type=int, help="Updates."),
    click.option("--batch", default=64, show_default=True, type=int, help="Segments an update."),
    click.option("--segment", default=960, show_default=True, type=int, help="Samples."),
    click.option(
        "--warmup", default=0, show_default=True, type=int,
        help="Samples run before a segment to fill the state.",
    ),
    click.option("--lr", default=1e-3, show_default=True, type=float, help="Highest rate."),
    click.option("--lr-final", default=1e-5, show_default=True, type=float),
    click.option(
        "--lr-conditioning", default=1.0, show_default=True, type=float,
        help="Share of the rate for the weights that hear the mel.",
    ),
    click.option("--lr-warmup", default=500, show_default=True, type=int, help="Steps."),
    click.option("--clip", default=1.0, show_default=True, type=float, help="Gradient norm."),
    click.option("--ema", default=0.999, show_default=True, type=float, help="Of the weights."),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1)),
    click.option(
        "--precision", default="auto", show_default=True,
        type=click.Choice(["auto", "fp32", "bf16"]),
        help="Of large products; auto is bf16 where the hardware has units for it.",
    ),
)  # fmt: skip
prune_options = common.stack(
    click.option(
        "--prune", type=float, metavar="Z", help="Share of blocks that is zero in the end."
    ),
    click.option("--prune-start", default=1000, show_default=True, type=int, help="Step t0."),
    click.option(
        "--prune-length",
        type=int,
        help="Steps S. [default: up to two thirds of all steps, at most 200000]",
    ),
    click.option("--prune-every", default=500, show_default=True, type=int, help="Steps."),
    block_options,
)


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
    pip install "wavernn_fast[torch]".
    """
    from ..train import need_torch

    need_torch()
    from ..train import processes, run

    here = processes.start(options["device"], options["threads"])
    try:
        with run.prepared(Path(options["output"]), options["resume"]):
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
    folder = Path(options["output"])
    saved = state.read(folder) if options["resume"] else None
    config, settings, tensors = _plan(ctx, options, saved)
    where = run.Data(
        train=Path(data),
        valid=None if options["valid"] is None else Path(options["valid"]),
        held_out=options["held_out"],
    )
    quiet = common.is_quiet(ctx, options) or here.rank != 0
    loaded = _load(where, config, settings, quiet)
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
    from ..train.prune import PruneSettings
    from ..train.settings import TrainSettings

    given = {
        name: options[name]
        for name in (*_SIZES, *_SETTINGS, *_PRUNE)
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    if saved is not None:
        if options["start"]:
            raise click.UsageError("--resume goes on with its own weights; leave --from out.")
        return _resumed(saved, given)
    tensors = None
    if options["start"] is None:
        config = run.ModelSizes(**{name: options[name] for name in _SIZES}).config()
    else:
        sizes = [name for name in _SIZES if name in given]
        if sizes:
            raise click.UsageError(
                f"A model that is started from keeps its sizes; leave {', '.join(sizes)} out."
            )
        tensors = run.read_start(Path(options["start"]))
        config = dataclasses.replace(tensors[0], block_shape=None, pruned=())
    prune = None
    if options["prune"] is not None:
        steps = options["steps"]
        if options["prune_length"] is None:
            left = 2 * steps // 3 - options["prune_start"]
            options["prune_length"] = max(1, min(_PRUNE_LENGTH, left))
        prune = PruneSettings(**{field: options[name] for name, field in _PRUNE.items()})
        if prune.start + prune.length > steps:
            raise InputError(
                f"Pruning would end at step {prune.start + prune.length}, after the last step "
                f"{steps}, and its share not be reached; lower --prune-start or --prune-length, "
                "or raise --steps."
            )
    elif any(name.startswith("prune_") for name in given):
        raise click.UsageError("--prune-... options need --prune Z, the share that is pruned.")
    settings = TrainSettings(**{name: options[name] for name in _SETTINGS}, prune=prune)
    return config, settings, tensors


def _resumed(saved: State, given: Mapping[str, Any]) -> tuple[ModelConfig, TrainSettings, None]:
    """Take the run's own numbers; what is given on the command line must not contradict them."""
    from ..train import run

    settings = {name: value for name, value in given.items() if name in _SETTINGS}
    other = [name for name in given if name not in _SETTINGS and name != "prune"]
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
