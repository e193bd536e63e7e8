"""Options of `wavernn-fast train`, and which part of a run each of them sets."""

from __future__ import annotations

import click

from . import common

PRUNE = {  # option -> field of PruneSettings
    "prune": "sparsity",
    "prune_block": "block",
    "prune_start": "start",
    "prune_length": "length",
    "prune_every": "every",
    "prune_gates": "gates",
    "prune_outputs": "outputs",
}
SIZES = (
    "preset", "hidden_size", "fc_size", "aux_size", "aux_channels", "aux_blocks", "aux_kernel",
    "conditioned", "subscale", "horizon", "subscale_channels", "subscale_blocks",
    "subscale_prediction",
)  # fmt: skip
# The paper's segment, and segments an update; one of a subscale model has so many columns, as the
# state of a row must come far enough.
SEGMENT, BATCH, COLUMNS = 960, 64, 240
SETTINGS = (
    "steps", "batch", "segment", "warmup", "lr", "lr_final", "lr_conditioning", "lr_output",
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
    click.option(
        "--subscale", default=1, show_default=True, type=int, metavar="B",
        help="Draw B interleaved rows of an utterance side by side; B divides the frame.",
    ),
    click.option(
        "--horizon", default=8, show_default=True, type=int, metavar="F",
        help="Columns (B samples each) that a row hears ahead of its own in the rows before it.",
    ),
    click.option(
        "--subscale-channels", default=64, show_default=True, type=int,
        help="Width of the network that hears the rows before.",
    ),
    click.option(
        "--subscale-blocks", type=int,
        help="Its residual blocks, dilated 1, 2, 4, ... [default: as many as F has room for]",
    ),
    click.option(
        "--subscale-prediction", type=int, metavar="R",
        help="Columns on each side from which the mel predicts a sample; 0: none. [default: 2, or "
        "F where it is less]",
    ),
)  # fmt: skip
learning_options = common.stack(
    click.option("--steps", default=100_000, show_default=True, type=int, help="Updates."),
    click.option(
        "--batch", type=int,
        help=f"Segments an update. [default: {BATCH}; subscale: as many as make "
        f"{BATCH * SEGMENT} samples, at least 1]",
    ),
    click.option(
        "--segment", type=int,
        help=f"Samples. [default: {SEGMENT}; subscale: {COLUMNS} columns, at least {SEGMENT}]",
    ),
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
    click.option(
        "--lr-output", default=1.0, show_default=True, type=float,
        help="Times the rate for the weights of the output layers.",
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
