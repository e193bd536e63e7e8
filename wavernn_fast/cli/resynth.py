"""`wavernn-fast resynth`: recordings -> mel -> speech, to hear what a model can do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from . import common, folding, jobs, speaker


@click.command(
    "resynth",
    epilog=common.examples(
        "wavernn-fast resynth speech.wav",
        "wavernn-fast resynth speech.wav -m voice.safetensors -o again.wav --report",
        "wavernn-fast resynth recordings/ -m voice.pt --preset fatchord-raw9 -o again/ --json",
    ),
)
@click.argument("inputs", nargs=-1, metavar="AUDIO...")
@click.option(
    "-o", "--output", metavar="OUT",
    help="Folder, .wav file or '-'. [default for one recording: NAME.resynth.wav, in this folder]",
)  # fmt: skip
@click.option("--report", is_flag=True, help="Print the log-mel correlation of every file.")
@common.voice_options
@common.sampling_options
@folding.options
@speaker.option
@common.output_options
@jobs.options
@common.json_option
@common.quiet_option
@click.pass_context
def command(
    ctx: click.Context, /, inputs: Sequence[str], output: str | None, **options: Any
) -> None:
    """Turn recordings into mels and back into speech.

    AUDIO are files or folders of recordings, or '-' for one on stdin; other sample rates are
    resampled. The mel is made by the model's own convention. --report and --json give, for every
    file, the Pearson correlation between the mels of the recording and of the result over all
    bins and frames.
    """
    output = _default_output(inputs) if output is None else output
    quiet = common.is_quiet(ctx, options)
    synthesis = jobs.Synthesis(inputs, output, options, reads="recording", quiet=quiet)
    code = synthesis.run()
    if options["report"]:
        for entry in synthesis.report.done:
            value = entry["mel_correlation"]
            shown = "none (silence)" if value is None else f"{value:.3f}"
            click.echo(f"{entry['source']}: log-mel correlation {shown}", err=True)
    ctx.exit(code)


def _default_output(inputs: Sequence[str]) -> str:
    """NAME.resynth.wav here for a single file; more need a folder."""
    if len(inputs) != 1 or inputs[0] == common.PIPE or os.path.isdir(inputs[0]):
        raise click.UsageError("Give -o: a folder for several recordings, or '-' for a pipe.")
    return f"{Path(inputs[0]).stem}.resynth.wav"
