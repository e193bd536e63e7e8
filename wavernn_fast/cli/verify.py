"""`wavernn-fast verify`: does the engine compute what PyTorch computes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from . import common

if TYPE_CHECKING:
    from ..verification import Comparison


@click.command(
    "verify",
    epilog=common.examples(
        "wavernn-fast verify voice.safetensors",
        "wavernn-fast verify voice.pt --dtype int8 --steps 5000 --mel mel.npy --json",
    ),
)
@click.argument("model", metavar="MODEL")
@click.option("--preset", help="Mel and output rules when the checkpoint does not say.")
@click.option("--steps", default=2000, show_default=True, type=click.IntRange(1, 200_000))
@click.option("--mel", "mel_file", metavar="FILE", help="Compare on this mel, not a random one.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**64 - 1))
@common.engine_options
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, model: str, **options: Any) -> None:
    """Compare the engine with the same model in PyTorch, float64, step by step.

    Both follow the same samples; the largest difference of a logit is printed with the tolerance
    of the dtype. Exit code 1 if it is beyond. Needs PyTorch: pip install "wavernn-fast[torch]".
    """
    from .. import audio, checkpoints
    from ..verification import compare
    from ..vocoder import Vocoder

    config, tensors = checkpoints.load(model, preset=options["preset"])
    voc = Vocoder(
        config,
        tensors,
        **common.engine_arguments(options),
    )
    mel = (
        None if options["mel_file"] is None else voc.check_mel(audio.read_mel(options["mel_file"]))
    )
    result = compare(voc, tensors, steps=options["steps"], mel=mel, seed=options["seed"])
    if options["as_json"]:
        facts = {"model": model, "isa": voc.isa, "passed": result.passed}
        common.print_json({**dataclasses.asdict(result), **facts})
    else:
        click.echo(f"{model}: {voc!r}")
        click.echo(describe(result))
    ctx.exit(0 if result.passed else 1)


def describe(result: Comparison) -> str:
    """The comparison in some lines."""
    verdict = "within" if result.passed else "BEYOND"
    single = ""
    if result.torch_float32 is not None:
        own = f"{result.torch_float32:.3g}"
        single = f"PyTorch's own float32 differs by {own}, so the tolerance is wider\n"
    change = result.engine_nll - result.torch_nll
    return (
        f"worst of {result.steps} steps: step {result.worst_step}, logit {result.worst_logit}: "
        f"engine {result.engine_logit:.7g}, PyTorch float64 {result.torch_logit:.7g}\n"
        f"difference {result.worst:.3g}, {verdict} the tolerance {result.tolerance:.3g} of "
        f"{result.dtype} (largest logit {result.largest:.3g})\n"
        f"{single}"
        f"nats per sample: engine {result.engine_nll:.6f}, PyTorch {result.torch_nll:.6f}, "
        f"change {change:+.2g}"
    )
