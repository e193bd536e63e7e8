"""`wavernn-fast mel`: recordings -> mel spectrograms."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError, WaveRNNError
from . import common

if TYPE_CHECKING:
    from ..config import MelConfig


@click.command(
    "mel",
    epilog=common.examples(
        "wavernn-fast mel speech.wav -o speech.npy --preset fatchord-raw9",
        "wavernn-fast mel recordings/ -o mels/ -m voice.safetensors",
    ),
)
@click.argument("inputs", nargs=-1, required=True, metavar="AUDIO...")
@click.option("-o", "--output", required=True, metavar="OUT", help="Folder, .npy file or '-'.")
@click.option("--preset", help="Convention by name.")
@click.option("-m", "--model", metavar="FILE", help="Convention of this model.")
@click.option("--skip-existing", is_flag=True, help="Leave finished outputs as they are.")
@common.json_option
@common.quiet_option
@click.pass_context
def command(ctx: click.Context, /, inputs: Sequence[str], output: str, **options: Any) -> None:
    """Turn recordings into mel spectrograms, float32 .npy [n_mels, n_frames].

    AUDIO are files or folders of recordings, or '-' for one on stdin; other sample rates are
    resampled. The convention is that of --preset or of --model.
    """
    items = common.collect(inputs, output, reads=common.READ_AUDIO, writes=".npy", single=(".npy",))
    common.check_outputs(items, options)
    config = convention(options["preset"], options["model"])
    common.prepare_folders(items)
    ctx.exit(_run(items, config, options, common.is_quiet(ctx, options)))


def _run(
    items: Sequence[common.Item], config: MelConfig, options: dict[str, Any], quiet: bool
) -> int:
    from .. import audio, features

    report = common.Report()
    with common.Progress(len(items), quiet) as progress:
        for item in items:
            if options["skip_existing"] and os.path.exists(item.target):
                report.skipped.append(item.target)
                progress.done()
                continue
            try:
                wave, rate = audio.read_wav(item.source, config.sample_rate)
                mel = features.log_mel(wave, config)
                audio.write_mel(item.target, mel)
            except WaveRNNError as error:
                report.fail(item, error)
            else:
                progress.audio(len(wave) / rate)
                report.done.append(
                    {"source": item.source, "target": item.target, "frames": mel.shape[1]}
                )
            progress.done()
    return report.finish(progress, options["as_json"], preset=config.preset)


def convention(preset: str | None, model: str | None) -> MelConfig:
    """Mel convention of a preset or of a model; exactly one of them is given."""
    if (preset is None) == (model is None):
        raise click.UsageError("Give the convention: either --preset NAME or --model FILE.")
    if preset is not None:
        from ..presets import get_preset

        found = get_preset(preset).mel
        name = f"The preset {preset!r}"
    else:
        from .. import checkpoints

        assert model is not None
        config, _ = checkpoints.load(model)
        found, name = config.mel, f"The model {model!r}"
    if found is None:
        raise InputError(f"{name} has no mel convention; give a --preset that has one.")
    return found
