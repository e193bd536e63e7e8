"""`wavernn-fast resynth`: recordings -> mel -> speech, to hear what a model can do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from . import common, folding


@click.command(
    "resynth",
    epilog=common.examples(
        "wavernn-fast resynth speech.wav",
        "wavernn-fast resynth speech.wav -m voice.safetensors -o again.wav --report",
        "wavernn-fast resynth recordings/ -m voice.pt --preset fatchord-raw9 -o again/ --json",
    ),
)
@click.argument("inputs", nargs=-1, required=True, metavar="AUDIO...")
@click.option(
    "-o", "--output", metavar="OUT",
    help="Folder, .wav file or '-'. [default for one recording: NAME.resynth.wav, in this folder]",
)  # fmt: skip
@click.option("--report", is_flag=True, help="Print the log-mel correlation of every file.")
@common.voice_options
@common.sampling_options
@folding.options
@common.speaker_option
@common.output_options
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
    from .jobs import ResynthesisJob

    output = _default_output(inputs) if output is None else output
    items = common.collect(
        inputs, output, reads=common.READ_AUDIO, writes=".wav", single=common.WRITTEN_AUDIO
    )
    common.check_outputs(items, options)
    options["fold"] = folding.parse(options)
    voc = common.load_vocoder(options)
    if voc.config.mel is None:
        raise InputError(
            f"The model {options['model']!r} has no mel convention, so no mel can be made for it; "
            "name one with --preset ('wavernn-fast inspect' lists those that fit)."
        )
    job = ResynthesisJob(voc, options, quiet=common.is_quiet(ctx, options))
    common.prepare_folders(items)
    code = job.run(items)
    if options["report"]:
        for entry in job.report.done:
            value = entry["mel_correlation"]
            shown = "none (silence)" if value is None else f"{value:.3f}"
            click.echo(f"{entry['source']}: log-mel correlation {shown}", err=True)
    ctx.exit(code)


def _default_output(inputs: Sequence[str]) -> str:
    """NAME.resynth.wav here for a single file; more need a folder."""
    if len(inputs) != 1 or inputs[0] == common.PIPE or os.path.isdir(inputs[0]):
        raise click.UsageError("Give -o: a folder for several recordings, or '-' for a pipe.")
    return f"{Path(inputs[0]).stem}.resynth.wav"
