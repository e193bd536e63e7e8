"""`wavernn-fast demo`: a first sound, with the voice that ships, without PyTorch."""

from __future__ import annotations

import time
from typing import Any

import click

from .. import voices
from . import common

_WARM_UP_FRAMES = 8
_NEXT = (
    "wavernn-fast resynth recording.wav -o again.wav",
    "wavernn-fast vocode mel.npy -m YOUR_CHECKPOINT -o speech.wav",
)


@click.command(
    "demo",
    epilog=common.examples(
        "wavernn-fast demo -o demo.wav",
        "wavernn-fast demo -o demo.wav --seconds 2 --dtype int8 --threads 1 --json",
    ),
)
@click.option(
    "-o", "--output", required=True, metavar="OUT", help="A .wav, .flac or .ogg file, or '-'."
)
@click.option(
    "--seconds", type=click.FloatRange(0.1, 600), help="Stop after so much. [default: all of it]"
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**64 - 1), help="Of the sound."
)
@click.option(
    "--temperature", type=float, callback=common.temperature,
    help="Above 0. [default: what the model card recommends]",
)  # fmt: skip
@common.engine_options
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, output: str, **options: Any) -> None:
    """Speak a sentence with the voice that ships in the package.

    The mel of a sentence that the voice has not been trained on is turned into sound. It shows that
    installation, engine and audio files work, and how fast this machine is. The same seed gives
    the same file on the same machine.
    """
    items = [common.Item("demo", output)]
    if output != common.PIPE and not output.lower().endswith(common.WRITTEN_AUDIO):
        endings = ", ".join(common.WRITTEN_AUDIO)
        raise click.UsageError(f"-o is {output!r}; the name must end in {endings}, or be '-'.")
    common.check_outputs(items, options)
    common.prepare_folders(items)
    facts = _sound(output, options)
    if options["as_json"]:
        common.print_json(facts)
    else:
        # with '-o -' the standard output is the sound
        click.echo("\n".join(_lines(facts)), err=output == common.PIPE)


def _sound(output: str, options: dict[str, Any]) -> dict[str, Any]:
    """Make the sound, write it and say what was done."""
    from .. import audio
    from ..vocoder import Vocoder

    voice = voices.facts(voices.DEFAULT)
    voc = Vocoder.from_pretrained(
        voices.DEFAULT,
        **common.engine_arguments(options),
    )
    mel = voices.mel(voices.DEFAULT)
    if options["seconds"] is not None:
        frames = max(1, round(options["seconds"] * voc.sample_rate / voc.config.hop_length))
        mel = mel[:, :frames]
    temperature = options["temperature"] or voice["temperature"]
    voc.generate(mel[:, :_WARM_UP_FRAMES], seed=0)
    started = time.perf_counter()
    wave = voc.generate(mel, seed=options["seed"], temperature=temperature)
    took = time.perf_counter() - started
    audio.write_wav(output, wave, voc.sample_rate)
    return {
        "output": output,
        "voice": voices.DEFAULT,
        "kind": voice["kind"],
        "about": voice["about"],
        "device": voc.device,
        "isa": voc.isa,
        "dtype": voc.dtype,
        "threads": voc.cpu_threads,
        "seed": options["seed"],
        "temperature": temperature,
        "sample_rate": voc.sample_rate,
        "samples": len(wave),
        "seconds": len(wave) / voc.sample_rate,
        "wall_seconds": took,
        "samples_per_s": len(wave) / took,
        "real_time_factor": took * voc.sample_rate / len(wave),
        "next": list(_NEXT),
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    rate = facts["sample_rate"] / 1000
    return [
        f"{facts['output']}: {facts['seconds']:.2f} s of speech at {rate:g} kHz by the "
        f"{facts['kind']} {facts['voice']!r}",
        facts["about"],
        f"device {facts['device']}, isa {facts['isa']}, dtype {facts['dtype']}, "
        f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}",
        f"{facts['samples_per_s']:,.0f} samples/s, real-time factor "
        f"{facts['real_time_factor']:.3f} (below 1 is faster than real time)",
        "",
        "Next, any recording through this voice, or mels through a checkpoint of your own:",
        *(f"  {line}" for line in facts["next"]),
    ]
