"""Mels or recordings to speech: one file by the short way, a folder of them as a job."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from .. import audio
from ..batch import BatchReport, total
from ..errors import DeviceError, WaveRNNError
from ..features import MelRangeWarning
from ..files import label
from ..jobs import items as job_items
from ..jobs import manifest, plan
from ..jobs.items import Found, Item
from ..jobs.job import (
    Job,
    Policy,
    Summary,
    WorkerFactory,
    failures_name,
    local_worker,
    megabytes,
)
from ..jobs.parts import FULL
from ..jobs.reading import ItemReader, Ready
from ..jobs.settings import Settings
from ..jobs.work import Outcome
from ..utterance import fold_sizes
from . import common, engines, folding
from .outputs import is_file

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..vocoder import Vocoder

__all__ = ["FULL", "Synthesis", "options"]

_SHOWN = 20  # failures printed; the list in the folder has them all
_FORMATS = ("wav", "flac", "ogg")
_WIDTHS = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}  # bytes of a sample

options = common.stack(
    click.option(
        "--format",
        type=click.Choice(_FORMATS),
        help="Format of the files in an output folder. [default: wav]",
    ),
    click.option(
        "--manifest",
        "manifests",
        multiple=True,
        metavar="LIST",
        help="Items from a .jsonl, .csv or .scp, as among the inputs; '-' reads JSON lines from "
        "stdin.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on with the job in this folder: redo what is missing, or was made of another "
        "mel, model or settings.",
    ),
    click.option("--overwrite", is_flag=True, help="Make outputs that exist again."),
    click.option(
        "--max-failures",
        type=click.IntRange(1),
        metavar="N",
        help="Stop when N items have failed. [default: go on to the end]",
    ),
    engines.options,
)


class Synthesis:
    """One command: what is asked for, refused before anything is loaded where that can be.

    Parameters
    ----------
    inputs, output
        As given.
    options : dict
        Values of the command's options.
    reads : {"mel", "recording"}
        What the inputs are.
    quiet : bool
        No progress bar.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        output: str,
        options: dict[str, Any],
        *,
        reads: str = "mel",
        quiet: bool = False,
    ) -> None:
        self.inputs, self.output = inputs, output
        self.options, self.quiet = options, quiet
        self.report = common.Report()
        self.single = is_file(output, common.WRITTEN_AUDIO)
        self.shard = engines.shard_of(options)
        if not inputs and not options["manifests"]:
            raise click.UsageError("Nothing to do: name files, folders or a --manifest.")
        if [*inputs, *options["manifests"]].count(common.PIPE) > 1:
            raise click.UsageError("Standard input ('-') can be read once only.")
        self.policy = self._policy()
        self.items = self._collect(reads)
        common.check_outputs(self.items, options)
        if not self.single:
            plan.refuse_existing(self.items, output, self.policy.existing)
        self.settings = settings_of(options, reads)

    def run(self) -> int:
        """Load the model, do all items and return the exit code."""
        away = None if self.single else engines.away(self.options, self.settings, self.items)
        voc = self.settings.load() if away is None else None
        config = self.settings.config() if voc is None else voc.config
        fold_sizes(config, self.settings.folding())  # what no item could be made with
        reader = ItemReader(self.settings, config)
        if self.settings.speaker or not all(getattr(i, "speaker", None) for i in self.items):
            reader.speaker(self.settings.speaker)  # refused here, once, and not for every file
        if self.single:
            assert voc is not None
            return _Single(self, voc, reader).run()
        return self._run_job(config, away or functools.partial(local_worker, voc))

    def _collect(self, reads: str) -> list[Any]:
        endings = common.MEL_ENDINGS if reads == "mel" else common.READ_AUDIO
        if self.single:
            return common.collect(
                self.inputs, self.output, reads=endings, writes=".wav", single=common.WRITTEN_AUDIO
            )
        return self._collect_many(endings, "mel" if reads == "mel" else "audio")

    def _collect_many(self, endings: Sequence[str], field: str) -> list[Any]:
        """Items of files, folders and lists, in the order in which they are named."""
        format = self.options["format"] or _FORMATS[0]
        known, found = {ending.lower() for ending in endings}, list[Found]()
        for name in self.inputs:
            if _is_list(name):
                found += manifest.read_manifest(name, format=format, field=field)
            else:
                found += job_items.expand(name, known, format, self.output)
        for name in self.options["manifests"]:
            found += manifest.read_manifest(name, format=format, field=field)
        # Clashes are looked for among the items of all shards.
        return self.shard.select(job_items.pair(found, self.output))

    def _policy(self) -> Policy:
        chosen = [n for n in ("resume", "skip_existing", "overwrite") if self.options[n]]
        names = ["--" + name.replace("_", "-") for name in chosen]
        if len(chosen) > 1:
            raise click.UsageError(f"{' and '.join(names)} exclude each other.")
        if self.single:
            self._refuse_options_of_jobs()
        ways = {"resume": plan.RESUME, "skip_existing": plan.SKIP, "overwrite": plan.OVERWRITE}
        existing = ways[chosen[0]] if chosen else plan.REFUSE
        return Policy(existing, self.options["max_failures"], self.shard)

    def _refuse_options_of_jobs(self) -> None:
        engines.refuse_for_one_file(self.options, self.output)
        given = {
            "--resume": self.options["resume"],
            "--max-failures": self.options["max_failures"],
            "--format": self.options["format"],
            "A list": self.options["manifests"] or any(map(_is_list, self.inputs)),
        }
        for name, value in given.items():
            if value:
                raise click.UsageError(
                    f"{name} is for a folder of outputs; {self.output!r} is one file."
                )

    def _run_job(
        self, config: ModelConfig, make: Callable[[Callable[[int], None]], WorkerFactory]
    ) -> int:
        policy = replace(self.policy, growth=_growth(config, self.settings))
        targets = {item.name: item.target for item in self.items}
        with common.Progress(len(self.items), self.quiet) as progress:

            def note(outcome: Outcome) -> None:
                if outcome.state == "done":
                    self.report.done.append(_entry(outcome, targets[outcome.name]))
                if outcome.state != "left":
                    progress.done()

            factory = make(lambda samples: progress.audio(samples / config.sample_rate))
            job = Job(self.items, self.settings, self.output, policy, worker_factory=factory)
            with engines.apart_from_prints(self.options):
                summary = job.run(note, progress.done)
            wall = progress.elapsed
        self._say(summary)
        if self.options["as_json"]:
            common.print_json(self._to_dict(summary, wall))
        return summary.exit_code

    def _say(self, summary: Summary) -> None:
        """What people want to know of the end of a job, on stderr."""
        for outcome in summary.failed[:_SHOWN]:
            source = label(outcome.fields["source"])
            common.tell(f"failed: {source}: {outcome.fields['error']}")
        tried = summary.done + len(summary.failed)
        if summary.failed:
            common.tell(
                f"{len(summary.failed)} of {tried} items failed; the reasons are in "
                f"{str(Path(self.output) / failures_name(self.shard))!r}."
            )
        if summary.left:
            space = ""
            if summary.signal is None and summary.needed is not None:
                space = f", need about {megabytes(summary.needed)}"
            common.tell(
                f"wavernn-fast: {summary.reason} {summary.done} done, {len(summary.left)} left"
                f"{space}. Run the command again with --resume to go on."
            )

    def _to_dict(self, summary: Summary, wall: float) -> dict[str, Any]:
        times = summary.times
        return {
            "done": self.report.done,
            "failed": [{"name": o.name, **o.fields} for o in summary.failed],
            "skipped": [item.target for item in summary.skipped],
            "left": [item.source for item in summary.left],
            "reason": summary.reason,
            "audio_seconds": summary.audio_seconds,
            "wall_seconds": wall,
            "x_realtime": summary.audio_seconds / wall if wall > 0 else 0.0,
            "model": self.options["model"],
            "batch": asdict(total(summary.batches)) if summary.batches else None,
            "time": {**asdict(times), "overhead": times.overhead},
            **_mean_correlation(self.settings, self.report.done),
        }


class _Single:
    """One item to one file or pipe: no folder, no journal."""

    def __init__(self, owner: Synthesis, voc: Vocoder, reader: ItemReader) -> None:
        [pair] = owner.items
        self._item = Item(pair.source, pair.target, "")
        self._owner, self._voc, self._reader = owner, voc, reader
        self._batches: list[BatchReport] = []

    def run(self) -> int:
        owner, item = self._owner, self._item
        common.prepare_folders(owner.items)
        report = owner.report
        with common.Progress(1, owner.quiet) as progress:
            if owner.options["skip_existing"] and os.path.exists(item.target):
                report.skipped = [item.target]
            else:
                try:
                    report.done.append(self._make(progress))
                except DeviceError:  # no fault of the item: exit code 3, as of a job
                    raise
                except WaveRNNError as error:
                    report.fail(owner.items[0], error)
            progress.done()
        return report.finish(
            progress,
            owner.options["as_json"],
            model=owner.options["model"],
            batch=asdict(total(self._batches)) if self._batches else None,
            **_mean_correlation(owner.settings, report.done),
        )

    def _make(self, progress: common.Progress) -> dict[str, Any]:
        found = self._reader(self._item)
        if not isinstance(found, Ready):
            raise found.error
        how, voc = self._owner.settings, self._voc
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MelRangeWarning)  # said when the file was read
            [wave] = voc.generate_batch(
                [found.mel],
                [found.seed],
                speakers=[found.speaker],
                streams=how.streams,
                temperature=how.temperature,
                greedy=how.greedy,
                fold=how.folding(),
                progress=_deltas(lambda samples: progress.audio(samples / voc.sample_rate)),
                report=self._batches.append,
            )
        audio.write_wav(self._item.target, wave, voc.sample_rate, subtype=how.subtype)  # type: ignore[arg-type]
        return {
            "source": self._item.source,
            "target": self._item.target,
            "seconds": len(wave) / voc.sample_rate,
            **self._reader.describe(found, wave),
        }


def settings_of(options: dict[str, Any], reads: str) -> Settings:
    """The settings that options of a command mean."""
    names = (
        "model preset device dtype threads gpu_streams gpu_cluster conditioning streams seed "
        "temperature greedy"
    )
    return Settings(
        **{name: options[name] for name in [*names.split(), "speaker", "subtype"]},
        fold=folding.describe(folding.parse(options)),
        format=options["format"] or _FORMATS[0],
        reads=reads,
    )


def _is_list(name: str) -> bool:
    return Path(name).suffix.lower() in manifest.ENDINGS and not os.path.isdir(name)


def _growth(config: ModelConfig, settings: Settings) -> float | None:
    """Bytes written for a byte read, about."""
    width = _WIDTHS[settings.subtype]
    if settings.reads == "recording":
        return width / 2  # of 16-bit ones
    if not config.n_mels:
        return None
    return width * config.hop_length / (4 * config.n_mels)


def _entry(outcome: Outcome, target: str) -> dict[str, Any]:
    kept = ("source", "seconds", "mel_correlation")
    fields = {name: outcome.fields[name] for name in kept if name in outcome.fields}
    return {"name": outcome.name, "target": target, **fields}


def _mean_correlation(settings: Settings, done: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean correlation over the copies that have one."""
    if settings.reads != "recording":
        return {}
    values = [entry["mel_correlation"] for entry in done]
    known = [value for value in values if value is not None]
    return {"mean_mel_correlation": float(np.mean(known)) if known else None}


def _deltas(tell: Callable[[int], None]) -> Callable[[int], None]:
    """From counts since the start to what was added to them."""
    before = 0

    def count(samples: int) -> None:
        nonlocal before
        tell(samples - before)
        before = samples

    return count
