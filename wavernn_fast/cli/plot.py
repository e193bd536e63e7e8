"""`wavernn-fast plot`: pictures of recordings, mels, speeds, training runs, and reports of jobs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import common

if TYPE_CHECKING:
    from ..config import MelConfig
    from ..pictures_mel import Column

_LOG, _BENCH, _REPORT = ".jsonl", ".json", ".html"
_PICTURES = (".png", ".svg")


@click.command(
    "plot",
    epilog=common.examples(
        "wavernn-fast plot speech.wav again.wav -o both.png",
        "wavernn-fast plot speech.wav again.wav --preset fatchord-raw9 -o mels.svg",
        "wavernn-fast plot speech.wav predicted.npy -m voice.safetensors -o mels.png",
        "wavernn-fast plot bench.json -o speed.svg",
        "wavernn-fast plot split.json -o split.svg",
        "wavernn-fast plot wavs/ -o report.html",
        "wavernn-fast plot run/log.jsonl -o curves.png",
        "wavernn-fast plot --subscale 8 4 -o scheme.png",
    ),
)
@click.argument("inputs", nargs=-1, metavar="[FILE...|FOLDER]")
@click.option(
    "-o", "--output", required=True, metavar="OUT",
    help="Picture (.png, .svg), report (.html), or '-'.",
)  # fmt: skip
@click.option("--preset", help="Also draw mels, by the convention of this name.")
@click.option("-m", "--model", metavar="FILE", help="Also draw mels, by the convention of a model.")
@click.option(
    "--subscale",
    nargs=2,
    type=int,
    metavar="B F",
    help="Instead of a FILE: the rows of the Subscale scheme for a factor B (1 to 64) and a "
    "horizon F (0 to 16).",
)
def command(inputs: Sequence[str], output: str, **options: Any) -> None:
    """Draw recordings, mels, speeds, training curves or the Subscale scheme, or report on a job.

    One or two recordings or mels (.npy, .npz, .safetensors): side by side on the same scales; with
    --preset or --model mels as well, and below two of them what they differ by.

    The JSON of 'bench', and of the benchmarks of throughput and stream latency: samples/s beside
    the hardware floor and PyTorch, and how long streams wait. Of 'bench --split': computation and
    overhead of a sample by operation.

    The output folder of a job, while it runs or after: one page with progress, speed and failures,
    which needs nothing else, not even the network.

    A training log (.jsonl, lines of JSON with "step" and any of loss, valid_nll, lr,
    samples_per_s): one curve each over the steps.

    --subscale: which samples the rows hold, what one of them sees, what is made in one step.

    Pictures need matplotlib: pip install "wavernn-fast[plot]"; reports need no extra.
    """
    if options["subscale"] is not None:
        if inputs:
            raise click.UsageError(f"--subscale is drawn alone; leave {inputs[0]!r} out.")
        _check_ending(output, _PICTURES)
        _draw_scheme(output, *options["subscale"])
        return
    if not inputs:
        raise click.UsageError("There is nothing to draw; give a FILE, or --subscale B F.")
    if any(os.path.isdir(name) for name in inputs) or Path(output).suffix.lower() == _REPORT:
        _report(inputs, output)
        return
    _check_ending(output, _PICTURES)
    _draw_files(inputs, output, options["preset"], options["model"])


def _check_ending(output: str, endings: Sequence[str]) -> None:
    if output != common.PIPE and Path(output).suffix.lower() not in endings:
        raise click.UsageError(f"The output {output!r} must end in {' or '.join(endings)}.")


def _report(inputs: Sequence[str], output: str) -> None:
    """The page of a job."""
    if len(inputs) > 1:
        raise click.UsageError("A report is of one folder alone; give the outputs of one job.")
    if not os.path.isdir(inputs[0]):
        raise click.UsageError(f"A report is made of the folder of a job; {inputs[0]!r} is none.")
    _check_ending(output, (_REPORT,))
    from .. import job_history, job_report

    history = job_history.read_history(inputs[0])
    common.prepare_folders([common.Item(inputs[0], output)])
    job_report.write_report(output, history, time.time())


def _draw_scheme(output: str, factor: int, horizon: int) -> None:
    from .. import pictures, pictures_subscale

    scheme = pictures_subscale.scheme_of(factor, horizon)
    pictures.require_matplotlib()
    common.prepare_folders([common.Item("", output)])
    pictures_subscale.plot_scheme(output, scheme)


def _draw_files(inputs: Sequence[str], output: str, preset: str | None, model: str | None) -> None:
    endings = {Path(name).suffix.lower() for name in inputs}
    if endings & {_LOG, _BENCH} and len(inputs) > 1:
        raise click.UsageError("A training log, or a file of speeds, is drawn alone; give one.")
    if len(inputs) > 2:
        raise click.UsageError(f"{len(inputs)} recordings do not fit a picture; give one or two.")
    from .. import pictures

    pictures.require_matplotlib()
    title, target = inputs[0], common.Item(inputs[0], output)
    if _LOG in endings:
        curves = pictures.read_training_log(title)
        common.prepare_folders([target])
        pictures.plot_curves(output, curves, title=title)
    elif _BENCH in endings:
        _draw_bench(title, output)
    else:
        columns = _columns(inputs, preset, model)
        common.prepare_folders([target])
        _draw_columns(output, columns)


def _draw_bench(name: str, output: str) -> None:
    """Speeds, waits, or where a sample's time goes, as the file has them."""
    from .. import bench_rows, pictures_bench, pictures_latency, pictures_split

    report = bench_rows.Report(name)
    if pictures_split.is_split(report):
        bars = pictures_split.read_splits(report)
        common.prepare_folders([common.Item(name, output)])
        pictures_split.plot_splits(output, bars, title=name)
        return
    if pictures_latency.is_latency(report):
        first, company = pictures_latency.read_latency(report)
        common.prepare_folders([common.Item(name, output)])
        pictures_latency.plot_latency(output, first, company, title=name)
        return
    rows = pictures_bench.read_bench(report)
    common.prepare_folders([common.Item(name, output)])
    pictures_bench.plot_bench(output, rows, title=name)


def _columns(inputs: Sequence[str], preset: str | None, model: str | None) -> list[Column]:
    from .mel import convention

    config = None if preset is None and model is None else convention(preset, model)
    mels = [Path(name).suffix.lower() in common.MEL_ENDINGS for name in inputs]
    if any(mels) and not all(mels) and config is None:
        raise click.UsageError(
            "Beside a recording a mel needs its convention: --preset NAME or --model FILE."
        )
    return [_column(name, is_mel, config) for name, is_mel in zip(inputs, mels, strict=True)]


def _column(name: str, is_mel: bool, config: MelConfig | None) -> Column:
    from .. import audio, pictures, pictures_mel

    if is_mel:
        mel = pictures_mel.mel_of(name, audio.read_mel(name), config)
        return pictures_mel.Column(mel=mel)
    recording = pictures.Recording(name, *audio.read_wav(name))
    if config is None:
        return pictures_mel.Column(recording)
    return pictures_mel.column_of(recording, config)


def _draw_columns(output: str, columns: Sequence[Column]) -> None:
    from .. import pictures, pictures_mel

    recordings = [c.recording for c in columns if c.recording is not None]
    if any(column.mel is not None for column in columns):
        pictures_mel.plot_columns(output, columns)
    else:
        pictures.plot_recordings(output, recordings)
