"""`wavernn-fast prune`: drop the weakest blocks of a finished model, at once."""

from __future__ import annotations

from typing import Any

import click

from ..errors import ModelError
from . import common
from .outputs import model_file
from .train_options import block_options


@click.command(
    "prune",
    epilog=common.examples(
        "wavernn-fast prune voice.safetensors -o sparse.safetensors --sparsity 0.5",
        "wavernn-fast prune voice.safetensors -o s.safetensors --sparsity 0.9 --prune-block 4x4",
    ),
)
@click.argument("model", metavar="MODEL")
@click.option("-o", "--output", required=True, metavar="OUT.safetensors")
@click.option("--sparsity", required=True, type=float, help="Share of blocks that becomes zero.")
@block_options
@click.option("--preset", help="Mel and output rules to store, when the checkpoint does not say.")
@click.option(
    "--dtype", default="fp32", show_default=True, type=click.Choice(["fp32", "fp16", "bf16"]),
    help="How the weights are stored.",
)  # fmt: skip
@common.json_option
def command(model: str, output: str, **options: Any) -> None:
    """Set the weakest blocks of a dual-softmax model to zero, without training.

    Quality falls with every block: measure it with 'eval', or train the result on with
    'train --from OUT --prune Z', which is what a high sparsity needs. Needs PyTorch.
    """
    from ..train import need_torch

    need_torch()
    from .. import checkpoints, weights
    from ..train.prune import PruneSettings, prune_once

    target = model_file(output, model)
    config, tensors = checkpoints.load(model, preset=options["preset"])
    if config.core != "dual":
        raise ModelError(f"Only the dual core can be pruned; {model} is {config.core}.")
    settings = PruneSettings(
        sparsity=options["sparsity"],
        block=options["prune_block"],
        gates=options["prune_gates"],
        outputs=options["prune_outputs"],
    )
    config, tensors, counts = prune_once(config, tensors, settings)
    weights.write(target, config, tensors, options["dtype"])
    if options["as_json"]:
        pruned = [count.to_dict() for count in counts]
        common.print_json({"source": model, "target": output, "pruned": pruned})
        return
    for count in counts:
        click.echo(count.describe(), err=True)
