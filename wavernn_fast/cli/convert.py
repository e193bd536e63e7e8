"""`wavernn-fast convert`: any supported checkpoint -> one canonical file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Literal

import click

from ..errors import ModelError
from . import common
from .outputs import model_file


@click.command(
    "convert",
    epilog=common.examples(
        "wavernn-fast convert latest_weights.pyt -o voice.safetensors --verify",
        "wavernn-fast convert vocoder.pt -o voice.safetensors --preset rtvc --dtype fp16",
    ),
)
@click.argument("source", metavar="IN")
@click.option("-o", "--output", required=True, metavar="OUT.safetensors")
@click.option("--preset", help="Mel and output rules to store in the file.")
@click.option(
    "--dtype",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "fp16", "bf16"]),
    help="How the weights are stored.",
)
@click.option("--verify", is_flag=True, help="Compare the file with PyTorch before it is kept.")
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, source: str, output: str, **options: Any) -> None:
    """Write a checkpoint as one .safetensors file that needs no PyTorch and no --preset.

    The file holds the weights in one fixed layout, the configuration and a checksum. With
    --verify it is read back and its logits compared with PyTorch's on the original weights
    (needs PyTorch); a file that fails is not kept.
    """
    from .. import checkpoints, weights

    target = model_file(output, source)
    config, tensors = checkpoints.load(source, preset=options["preset"])
    dtype: Literal["fp32", "fp16", "bf16"] = options["dtype"]
    facts: dict[str, Any] = {"source": source, "target": output, "dtype": dtype}
    if options["verify"]:
        part = target.with_name(f".{target.name}.verify-{os.getpid()}")
        try:
            weights.write(part, config, tensors, dtype)
            facts["verified"] = _verify(part, tensors, dtype)
            os.replace(part, target)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
    else:
        weights.write(target, config, tensors, dtype)
    facts["bytes"] = target.stat().st_size
    facts["preset"] = config.preset
    if options["as_json"]:
        common.print_json(facts)
    else:
        click.echo(
            f"{output}: {facts['bytes'] / 1e6:.1f} MB, {dtype}, preset {config.preset}", err=True
        )


def _verify(part: Path, tensors: Any, dtype: str) -> dict[str, float]:
    """Compare the written file with the original weights; raise `ModelError` if it differs."""
    from .. import weights
    from ..verification import compare
    from ..vocoder import Vocoder
    from .verify import describe

    config, stored = weights.read(part)
    result = compare(Vocoder(config, stored), tensors, stored=dtype)
    if not result.passed:
        raise ModelError(
            f"The converted model differs from the original, so it was not kept:\n"
            f"{describe(result)}"
        )
    return {"difference": result.worst, "tolerance": result.tolerance}
