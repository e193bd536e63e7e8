"""`wavernn-fast demo`: a first sound, without a model file and without PyTorch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from . import common

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..vocoder import Vocoder

SIZE = "dual-mel:256"  # 22.05 kHz, 16 bits; about 400,000 weights
_WARM_UP_FRAMES = 8
_GAIN = 0.1  # white noise at full scale hurts the ears
_WARNING = (
    "THE WEIGHTS ARE RANDOM: what you hear is NOISE, not speech. "
    "No trained voice ships with this version."
)
_NEXT = "wavernn-fast vocode mel.npy -m YOUR_CHECKPOINT -o speech.wav"


@click.command(
    "demo",
    epilog=common.examples(
        "wavernn-fast demo -o demo.wav",
        "wavernn-fast demo -o demo.wav --seconds 10 --dtype int8 --threads 1 --json",
    ),
)
@click.option("-o", "--output", required=True, metavar="OUT", help="A .wav or .flac file.")
@click.option(
    "--seconds", default=2.0, show_default=True, type=click.FloatRange(0.1, 600),
    help="Length of the sound, about.",
)  # fmt: skip
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**64 - 1),
    help="Of the weights, the mel and the sound.",
)  # fmt: skip
@common.engine_options
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, output: str, **options: Any) -> None:
    """Make a sound with a small model of RANDOM weights: noise, until a trained voice ships.

    It shows that installation, engine and audio files work, and how fast this machine is. The
    same seed gives the same file on the same machine.
    """
    items = [common.Item("demo", output)]
    if output != common.PIPE and not output.lower().endswith(common.WRITTEN_AUDIO):
        raise click.UsageError(f"-o is {output!r}; the name must end in .wav, .wave or .flac.")
    common.check_outputs(items, options)
    common.prepare_folders(items)
    facts = _sound(output, options)
    click.echo(f"wavernn-fast: {_WARNING}", err=True)
    if options["as_json"]:
        common.print_json(facts)
    else:
        # with '-o -' the standard output is the sound
        click.echo("\n".join(_lines(facts)), err=output == common.PIPE)


def _sound(output: str, options: dict[str, Any]) -> dict[str, Any]:
    """Make the sound, write it and say what was done."""
    from .. import audio

    voc, mel = _model_and_mel(options)
    voc.generate(mel[:, :_WARM_UP_FRAMES], seed=0)
    started = time.perf_counter()
    wave = voc.generate(mel, seed=options["seed"])
    took = time.perf_counter() - started
    audio.write_wav(output, _GAIN * wave, voc.sample_rate)
    return {
        "output": output,
        "warning": _WARNING,
        "random_weights": True,
        "model": SIZE,
        "device": voc.device,
        "isa": voc.isa,
        "dtype": voc.dtype,
        "threads": voc.cpu_threads,
        "seed": options["seed"],
        "gain": _GAIN,
        "sample_rate": voc.sample_rate,
        "samples": len(wave),
        "seconds": len(wave) / voc.sample_rate,
        "wall_seconds": took,
        "samples_per_s": len(wave) / took,
        "real_time_factor": took * voc.sample_rate / len(wave),
        "next": _NEXT,
    }


def _model_and_mel(options: dict[str, Any]) -> tuple[Vocoder, NDArray[np.float32]]:
    from ..synthetic import gliding_mel, random_model
    from ..vocoder import Vocoder

    seed = options["seed"]
    config, tensors = random_model(SIZE, seed)
    voc = Vocoder(
        config,
        tensors,
        device=options["device"],
        dtype=options["dtype"],
        cpu_threads=options["threads"],
    )
    frames = max(1, round(options["seconds"] * config.sample_rate / config.hop_length))
    return voc, gliding_mel(config, frames, seed)


def _lines(facts: dict[str, Any]) -> list[str]:
    rate = facts["sample_rate"] / 1000
    return [
        f"{facts['output']}: {facts['seconds']:.2f} s of NOISE at {rate:g} kHz (random weights: "
        "no trained voice ships with this version)",
        f"device {facts['device']}, isa {facts['isa']}, dtype {facts['dtype']}, "
        f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}",
        f"{facts['samples_per_s']:,.0f} samples/s, real-time factor "
        f"{facts['real_time_factor']:.3f} (below 1 is faster than real time)",
        "",
        "Next, with a WaveRNN checkpoint of your own:",
        f"  {facts['next']}",
    ]
