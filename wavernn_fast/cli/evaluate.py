"""`wavernn-fast eval`: how likely recordings are under a model, and how close its copies come."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import AudioError, MissingDependencyError, WaveRNNError
from ..files import write_atomic
from . import common, folding, speaker

if TYPE_CHECKING:
    from ..evaluation import Evaluation, Evaluator


@click.command(
    "eval",
    epilog=common.examples(
        "wavernn-fast eval speech.wav -m voice.safetensors",
        "wavernn-fast eval recordings/ -m voice.pt --preset fatchord-raw9 -o report/",
        "wavernn-fast eval recordings/ -m voice.safetensors --dtypes fp32,fp16,int8 --json",
    ),
)
@click.argument("recordings", nargs=-1, required=True, metavar="RECORDINGS...")
@click.option(
    "-o", "--output", metavar="FOLDER",
    help="Write report.json, report.md and, for every recording, copy synthesis and picture.",
)  # fmt: skip
@common.model_options
@common.sampling_options
@folding.options
@speaker.option
@click.option(
    "--dtypes", default="fp32", show_default=True, callback=common.dtype_list,
    help="Types to score the recordings with, such as fp32,fp16,int8; --dtype is that of the copy.",
)  # fmt: skip
@click.option(
    "--limit-seconds", type=click.FloatRange(0, min_open=True), metavar="S",
    help="Take the first S seconds of every recording.",
)  # fmt: skip
@click.option("--no-torch", is_flag=True, help="Leave the likelihood by PyTorch out: it is slow.")
@common.json_option
@common.quiet_option
@click.pass_context
def command(ctx: click.Context, /, recordings: Sequence[str], **options: Any) -> None:
    """Judge a model by recordings it should be able to say.

    RECORDINGS are files or folders, or '-' for one on stdin; other sample rates are resampled.
    For each: the negative log-likelihood of its samples in nats (teacher forced, by the engine,
    and by PyTorch where it is installed), and the copy that the model makes from its mel, compared
    with the original: log-mel correlation, log-spectral and mel-cepstral distance in dB, STOI
    (needs "wavernn-fast[eval]") and speed. Pictures need "wavernn-fast[plot]".

    Exit code 1 if a recording failed, or if engine and PyTorch differ by more than 1e-4 nats.
    """
    items = _items(recordings, options["output"])
    options["fold"] = folding.parse(options)
    evaluator = _evaluator(options)
    if options["output"]:
        common.prepare_folders([*items, common.Item("", str(Path(options["output"], "report.md")))])
    ctx.exit(_Job(evaluator, options, quiet=common.is_quiet(ctx, options)).run(items))


def _items(recordings: Sequence[str], output: str | None) -> list[common.Item]:
    """Recordings with the names of their copies; without a folder there are none."""
    if output is None:
        return [
            common.Item(source, "") for source, _ in common.expand(recordings, common.READ_AUDIO)
        ]
    if output == common.PIPE:
        raise click.UsageError("-o is a folder here; for a report on stdout leave it out.")
    return common.collect(recordings, output, reads=common.READ_AUDIO, writes=".wav", single=())


def _evaluator(options: dict[str, Any]) -> Evaluator:
    from .. import checkpoints
    from ..devices import resolve_device
    from ..evaluation import Evaluator, Settings

    device = options["device"]
    kind = resolve_device(device)  # before a long load
    config, tensors = checkpoints.load(options["model"], preset=options["preset"])
    names = ("dtypes", "dtype", "threads", "seed", "temperature", "greedy", "fold")
    settings = Settings(
        device=kind if device == "auto" else device,
        with_torch=not options["no_torch"],
        speaker=speaker.read(options["speaker"], config),
        **{name: options[name] for name in names},
    )
    return Evaluator(config, tensors, settings)


@dataclass
class _Job:
    """The recordings of one command; one that fails is noted and the others go on."""

    evaluator: Evaluator
    options: dict[str, Any]
    quiet: bool

    def run(self, items: Sequence[common.Item]) -> int:
        """Evaluate all items, print and write the report, and return the exit code."""
        from .jobs import FULL

        self.report = common.Report()
        self.notes = [*self.evaluator.notes]
        self.pictures = self._has_pictures()
        with common.Progress(len(items), self.quiet) as progress:
            for i, item in enumerate(items):
                try:
                    self.report.done.append(self._one(item, progress))
                except WaveRNNError as error:
                    self.report.fail(item, error)
                    if isinstance(error, AudioError) and error.errno in FULL:
                        self.report.stopped = "Nothing more can be written, so the job stops:"
                        self.report.left = [later.source for later in items[i + 1 :]]
                        break
                progress.done()
        return self._finish(progress)

    def _one(self, item: common.Item, progress: common.Progress) -> dict[str, Any]:
        from .. import audio

        rate, counted = self.evaluator.sample_rate, 0

        def count(samples: int) -> None:
            nonlocal counted
            progress.audio((samples - counted) / rate)
            counted = samples

        wave, _ = audio.read_wav(item.source, rate)
        limit = self.options["limit_seconds"]
        found = self.evaluator.evaluate(wave if limit is None else wave[: int(limit * rate)], count)
        if found.copy is None:
            progress.audio(found.seconds)
        entry = {"source": item.source, **found.to_dict()}
        return {**entry, **self._write(item, found)} if item.target else entry

    def _write(self, item: common.Item, found: Evaluation) -> dict[str, str]:
        """Write the copy and the picture, where there are any; their names."""
        from .. import audio

        if found.copy is None:
            return {}
        rate = self.evaluator.sample_rate
        audio.write_wav(item.target, found.copy, rate)
        names = {"target": item.target}
        if self.pictures:
            names["picture"] = str(Path(item.target).with_suffix(".png"))
            self._draw(names["picture"], item, found)
        return names

    def _draw(self, path: str, item: common.Item, found: Evaluation) -> None:
        """Recording and copy side by side, with their mels where the model says how."""
        from .. import pictures, pictures_mel

        rate, config = self.evaluator.sample_rate, self.evaluator.config.mel
        assert found.copy is not None
        pair = [
            pictures.Recording(Path(item.source).name, found.original, rate),
            pictures.Recording("copy synthesis", found.copy, rate),
        ]
        if config is None:
            pictures.plot_recordings(path, pair)
        else:
            pictures_mel.plot_columns(path, [pictures_mel.column_of(one, config) for one in pair])

    def _has_pictures(self) -> bool:
        from .. import pictures

        if not self.options["output"] or not self.evaluator.config.n_mels:
            return False
        try:
            pictures.require_matplotlib()
        except MissingDependencyError as error:
            self.notes.append(f"There will be no pictures. {error}")
            return False
        return True

    def _finish(self, progress: common.Progress) -> int:
        from ..evaluation import TORCH_TOLERANCE
        from ..evaluation_report import difference_line, largest_difference, to_table

        rows, as_json = self.report.done, self.options["as_json"]
        facts, largest = self._facts(), largest_difference(rows)
        if not as_json:
            click.echo(to_table(rows))
            if largest is not None:
                click.echo(difference_line(largest))
        for note in self.notes:
            click.echo(note, err=True)
        if self.options["output"]:
            self._write_reports(self.report.to_dict(progress, **facts))
        code = self.report.finish(progress, as_json, **facts)
        return max(code, int(largest is not None and largest > TORCH_TOLERANCE))

    def _facts(self) -> dict[str, Any]:
        """What the report says besides the rows."""
        from ..evaluation_report import largest_difference, mean_row

        rows, options = self.report.done, self.options
        names = ("model", "seed", "temperature", "greedy", "dtypes", "limit_seconds", "speaker")
        return {
            **{name: options[name] for name in names},
            "fold": folding.describe(options["fold"]),
            "dtype": self.evaluator.voc.dtype,
            "engine": repr(self.evaluator.voc),
            "mean": mean_row(rows) if rows else None,
            "largest_torch_difference": largest_difference(rows),
            "notes": self.notes,
        }

    def _write_reports(self, report: dict[str, Any]) -> None:
        from ..evaluation_report import to_markdown

        folder = Path(self.options["output"])
        text = json.dumps(report, indent=2, sort_keys=True, allow_nan=False) + "\n"
        write_atomic(folder / "report.json", [text.encode()])
        write_atomic(folder / "report.md", [to_markdown(report).encode()])
