"""Jobs of many files: read in pools, generated as batches, written one by one."""

from __future__ import annotations

import errno
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import audio
from ..arrays import to_speaker
from ..batch import BatchReport, total
from ..errors import AudioError, WaveRNNError
from ..features import MelRangeWarning
from ..metrics import mel_correlation
from ..utterance import fold_sizes
from . import common

if TYPE_CHECKING:
    from ..vocoder import Vocoder

logger = logging.getLogger("wavernn_fast")

_POOL = 4  # mels held in memory at once, in units of the streams side by side
_MOST_MELS = 1024  # but no more, where a machine runs very many streams
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})  # no later file can be written


@dataclass
class Ready:
    """An item that has been read."""

    item: common.Item
    mel: NDArray[np.float32]  # [n_mels, n_frames]


class SynthesisJob:
    """The files of one `vocode` command; one that fails is noted and the others go on."""

    def __init__(self, voc: Vocoder, options: dict[str, Any], *, quiet: bool) -> None:
        fold_sizes(voc.config, options["fold"])  # what no item could be made with is said at once
        path = options["speaker"]
        # Refused here, once, and not for every file.
        self.speaker = to_speaker(None if path is None else audio.read_mel(path), voc.config)
        self.voc = voc
        self.options = options
        self.quiet = quiet
        self.report = common.Report()
        self.batches: list[BatchReport] = []

    def run(self, items: Sequence[common.Item]) -> int:
        """Do all items and return the exit code."""
        if self.options["skip_existing"]:
            self.report.skipped = [i.target for i in items if os.path.exists(i.target)]
            items = [i for i in items if i.target not in set(self.report.skipped)]
        each = self.options["streams"]
        streams = each * len(self.voc.devices) if each else self.voc.streams
        size = max(streams, min(_POOL * streams, _MOST_MELS))
        with common.Progress(len(items), self.quiet) as progress:
            for first in range(0, len(items), size):
                self._pool(items[first : first + size], progress)
                if self.report.stopped:
                    self._note_what_is_left(items)
                    break
        return self.report.finish(
            progress,
            self.options["as_json"],
            model=self.options["model"],
            batch=asdict(total(self.batches)) if self.batches else None,
            **self.summary(),
        )

    def _note_what_is_left(self, items: Sequence[common.Item]) -> None:
        tried = {entry["source"] for entry in [*self.report.done, *self.report.failed]}
        self.report.left = [item.source for item in items if item.source not in tried]

    def read(self, item: common.Item) -> Ready:
        """Read and check what is to be sounded."""
        return Ready(item, self.check_mel(item, audio.read_mel(item.source)))

    def describe(self, ready: Ready, wave: NDArray[np.float32]) -> dict[str, Any]:
        """What the report says about a finished item, besides names and length."""
        return {}

    def summary(self) -> dict[str, Any]:
        """What the report says about all items."""
        return {}

    def check_mel(self, item: common.Item, mel: NDArray[Any]) -> NDArray[np.float32]:
        """`Vocoder.check_mel`, its warnings logged with the name of the file."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            checked = self.voc.check_mel(mel)
        for warning in caught:
            logger.warning("%s: %s", item.source, warning.message)
        return checked

    def _pool(self, items: Sequence[common.Item], progress: common.Progress) -> None:
        ready = []
        for item in items:
            try:
                ready.append(self.read(item))
            except WaveRNNError as error:
                self._failed(item, error, progress)
        for one, wave in self._generate(ready, progress):
            try:
                self._write(one, wave)
            except WaveRNNError as error:
                self._failed(one.item, error, progress)
                if isinstance(error, AudioError) and error.errno in FULL:
                    self.report.stopped = "Nothing more can be written, so the job stops:"
                    return
            else:
                progress.done()

    def _generate(
        self, ready: Sequence[Ready], progress: common.Progress
    ) -> Iterator[tuple[Ready, NDArray[np.float32]]]:
        """Waves of a pool; if the batch stops, one by one, to find the file at fault."""
        if not ready:
            return
        try:
            waves = self._batch([one.mel for one in ready], progress)
        except WaveRNNError as error:
            if len(ready) == 1:
                self._failed(ready[0].item, error, progress)
                return
            for one in ready:
                yield from self._generate([one], progress)
            return
        yield from zip(ready, waves, strict=True)

    def _batch(
        self, mels: Sequence[NDArray[np.float32]], progress: common.Progress
    ) -> list[NDArray[np.float32]]:
        rate, counted = self.voc.sample_rate, 0

        def count(samples: int) -> None:
            nonlocal counted
            progress.audio((samples - counted) / rate)
            counted = samples

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MelRangeWarning)  # said when the file was read
            return self.voc.generate_batch(
                mels,
                seeds=[self.options["seed"]] * len(mels),
                speakers=[self.speaker] * len(mels),
                streams=self.options["streams"],
                temperature=self.options["temperature"],
                greedy=self.options["greedy"],
                fold=self.options["fold"],
                progress=count,
                report=self.batches.append,
            )

    def _write(self, one: Ready, wave: NDArray[np.float32]) -> None:
        item, rate = one.item, self.voc.sample_rate
        audio.write_wav(item.target, wave, rate, subtype=self.options["subtype"])
        entry = {"source": item.source, "target": item.target, "seconds": len(wave) / rate}
        self.report.done.append({**entry, **self.describe(one, wave)})

    def _failed(self, item: common.Item, error: Exception, progress: common.Progress) -> None:
        self.report.fail(item, error)
        progress.done()


class ResynthesisJob(SynthesisJob):
    """The files of one `resynth` command: the mel of a recording is sounded again."""

    def read(self, item: common.Item) -> Ready:
        """Recording -> mel by the model's convention."""
        from .. import features

        wave, _ = audio.read_wav(item.source, self.mel_config.sample_rate)
        return Ready(item, features.log_mel(wave, self.mel_config))

    @property
    def mel_config(self) -> Any:
        """The model's mel convention (the command has checked that there is one)."""
        return self.voc.config.mel

    def describe(self, ready: Ready, wave: NDArray[np.float32]) -> dict[str, Any]:
        """Correlation of the mels before and after."""
        from .. import features

        value = mel_correlation(ready.mel, features.log_mel(wave, self.mel_config))
        return {"mel_correlation": value}

    def summary(self) -> dict[str, Any]:
        """Mean correlation over the files that have one."""
        values = [e["mel_correlation"] for e in self.report.done]
        known = [value for value in values if value is not None]
        return {"mean_mel_correlation": float(np.mean(known)) if known else None}
