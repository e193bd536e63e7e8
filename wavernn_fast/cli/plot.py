"""`wavernn-fast plot`: pictures of recordings and of training runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from . import common

_LOG = ".jsonl"


@click.command(
    "plot",
    epilog=common.examples(
        "wavernn-fast plot speech.wav -o speech.png",
        "wavernn-fast plot speech.wav again.wav -o both.png",
        "wavernn-fast plot run/log.jsonl -o curves.png",
    ),
)
@click.argument("inputs", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", required=True, metavar="PNG", help="Picture, .png, or '-'.")
def command(inputs: Sequence[str], output: str) -> None:
    """Draw recordings, or the curves of a training run.

    One or two recordings: waveform and spectrogram, side by side on the same scales. A training
    log (.jsonl, lines of JSON with "step" and any of loss, valid_nll, lr, samples_per_s): one
    curve each over the steps. Needs matplotlib: pip install "wavernn-fast[plot]".
    """
    if output != common.PIPE and Path(output).suffix.lower() != ".png":
        raise click.UsageError(f"The picture {output!r} must end in .png.")
    logs = [name for name in inputs if Path(name).suffix.lower() == _LOG]
    if logs and len(inputs) > 1:
        raise click.UsageError("A training log is drawn alone; give one .jsonl file.")
    if len(inputs) > 2:
        raise click.UsageError(f"{len(inputs)} recordings do not fit a picture; give one or two.")
    from .. import pictures

    pictures.require_matplotlib()
    if logs:
        curves = pictures.read_training_log(logs[0])
        common.prepare_folders([common.Item(logs[0], output)])
        pictures.plot_curves(output, curves, title=logs[0])
        return
    from .. import audio

    recordings = [pictures.Recording(name, *audio.read_wav(name)) for name in inputs]
    common.prepare_folders([common.Item(inputs[0], output)])
    pictures.plot_recordings(output, recordings)
