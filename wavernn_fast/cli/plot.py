"""`wavernn-fast plot`: pictures of recordings, of training runs and of the Subscale scheme."""

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
        "wavernn-fast plot --subscale 8 4 -o scheme.png",
    ),
)
@click.argument("inputs", nargs=-1, metavar="[FILE...]")
@click.option("-o", "--output", required=True, metavar="PNG", help="Picture, .png, or '-'.")
@click.option(
    "--subscale",
    nargs=2,
    type=int,
    metavar="B F",
    help="Instead of a FILE: the rows of the Subscale scheme for a factor B (1 to 64) and a "
    "horizon F (0 to 16).",
)
def command(inputs: Sequence[str], output: str, subscale: tuple[int, int] | None) -> None:
    """Draw recordings, the curves of a training run, or the Subscale scheme.

    One or two recordings: waveform and spectrogram, side by side on the same scales. A training
    log (.jsonl, lines of JSON with "step" and any of loss, valid_nll, lr, samples_per_s): one
    curve each over the steps. --subscale: which samples the rows hold, what one of them sees, and
    what is made in the same step. Needs matplotlib: pip install "wavernn-fast[plot]".
    """
    if output != common.PIPE and Path(output).suffix.lower() != ".png":
        raise click.UsageError(f"The picture {output!r} must end in .png.")
    if subscale is not None:
        if inputs:
            raise click.UsageError(f"--subscale is drawn alone; leave {inputs[0]!r} out.")
        _draw_scheme(output, *subscale)
        return
    if not inputs:
        raise click.UsageError("There is nothing to draw; give a FILE, or --subscale B F.")
    _draw_files(inputs, output)


def _draw_scheme(output: str, factor: int, horizon: int) -> None:
    from .. import pictures, pictures_subscale

    scheme = pictures_subscale.scheme_of(factor, horizon)
    pictures.require_matplotlib()
    common.prepare_folders([common.Item("", output)])
    pictures_subscale.plot_scheme(output, scheme)


def _draw_files(inputs: Sequence[str], output: str) -> None:
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
