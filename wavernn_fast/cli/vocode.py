"""`wavernn-fast vocode`: mel files in, audio files out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from . import common, folding, jobs, speaker


@click.command(
    "vocode",
    epilog=common.examples(
        "wavernn-fast vocode mel.npy -m voice.pt -o speech.wav",
        "wavernn-fast vocode mels/ -m voice.safetensors -o wavs/ --streams 16",
        "wavernn-fast vocode mels/ -m voice.safetensors -o wavs/ --resume",
        "wavernn-fast vocode list.jsonl -m voice.safetensors -o speech/ --format flac",
        "cat mel.npy | wavernn-fast vocode - -m voice.safetensors -o - > speech.wav",
    ),
)
@click.argument("inputs", nargs=-1, metavar="MELS...")
@click.option(
    "-o", "--output", required=True, metavar="OUT", help="Folder, .wav, .flac or .ogg file, or '-'."
)
@common.model_options
@common.sampling_options
@folding.options
@speaker.option
@common.output_options
@jobs.options
@common.json_option
@common.quiet_option
@click.pass_context
def command(ctx: click.Context, /, inputs: Sequence[str], output: str, **options: Any) -> None:
    """Turn mel spectrograms into speech.

    MELS are .npy, .npz, .safetensors or .pt files holding one array [n_mels, n_frames], folders of
    them, lists (.jsonl, .csv, .scp), or '-' for one .npy on stdin. A file that fails is listed and
    the others go on. The audio of a file depends on the model, the mel and the seed alone.

    With a folder as OUT this is a job: it can be killed at any moment and goes on with --resume
    (docs/jobs.md).
    """
    quiet = common.is_quiet(ctx, options)
    ctx.exit(jobs.Synthesis(inputs, output, options, quiet=quiet).run())
