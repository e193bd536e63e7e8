"""Conditioning rows of a whole mel, as the lanes of an utterance ask for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import places, upsampling
from .lanes import Rows
from .rows_ahead import RowsAhead

if TYPE_CHECKING:
    from .conditioning import Conditioner

_FRAMES_AHEAD = 32  # frames whose rows are made at once: some MB, and few blocks made twice


class MelRows:
    """Conditioning rows of a whole mel, made some frames ahead and kept until passed.

    In the host's memory the next ones are made while the engine draws (`rows_ahead`). They are
    asked of `window`, by default `conditioner.of(mel)`.

    The memory held does not grow with the length of the mel, but for what a network gives that
    hears all of it or all before a frame.
    """

    def __init__(
        self,
        conditioner: Conditioner,
        mel: Any,
        place: places.Place = places.HOST,
        threads: int = 1,
        window: Callable[[int, int], Rows] | None = None,
    ) -> None:
        self._config, self._window = conditioner.config, window or conditioner.of(mel)
        self._place = place
        self._total = conditioner.config.n_output_frames(mel.shape[1])
        self._first = self._end = 0  # frames whose rows are kept
        self._kept: Rows = (None, None)
        self._ahead: RowsAhead | None = None
        if place is places.HOST:
            context = conditioner.config.upsample_left + conditioner.config.upsample_right
            self._ahead = RowsAhead(self._window, self._total, context, threads)

    def ask(self, first_frame: int, n_frames: int) -> None:
        """Have these rows made by threads, if any; see `lanes.RowSource`."""
        if self._ahead is not None:
            self._ahead.ask(*self._needed(first_frame, n_frames))

    def _needed(self, first_frame: int, n_frames: int) -> tuple[int, int]:
        """Output frames, first and how many, that these rows are made of."""
        return first_frame, n_frames

    def rows(self, first_frame: int, n_frames: int) -> Rows:
        """Rows of output frames [first_frame, first_frame + n_frames); see `lanes.RowSource`."""
        with self._place.scope():
            return self._exported(*self._of_frames(first_frame, n_frames))

    def _of_frames(self, first_frame: int, n_frames: int) -> Rows:
        """Arrays of output frames [first_frame, first_frame + n_frames)."""
        if self._ahead is not None:
            return self._ahead.rows(first_frame, n_frames)
        end = first_frame + n_frames
        config = self._config
        context = config.upsample_left + config.upsample_right
        if first_frame < self._first or end > self._end:
            count = min(max(n_frames, _FRAMES_AHEAD), self._total - first_frame)
            self._kept = self._window(first_frame, count)
            self._first, self._end = first_frame, first_frame + count
        low, high = first_frame - self._first, end - self._first
        interp, hold = self._kept
        return (
            None if interp is None else interp[low : high + context],
            None if hold is None else hold[low:high],
        )

    def _exported(self, interp: Any, hold: Any) -> Rows:
        export = self._place.export
        return None if interp is None else export(interp), None if hold is None else export(hold)


class SampleRows(MelRows):
    """Rows of a model whose frames are interpolated linearly, one a sample (`upsampling`)."""

    def rows(self, first_frame: int, n_frames: int) -> Rows:
        """Rows of samples [first_frame, first_frame + n_frames): to the engine they are frames."""
        config, total, xp = self._config, self._total, self._place.xp
        samples = np.arange(first_frame, first_frame + n_frames)
        first, count = self._needed(first_frame, n_frames)
        with self._place.scope():
            interp, hold = self._of_frames(first, count)
            places = upsampling.mel_positions(config, total, samples)
            interp = upsampling.interpolate(interp, first - config.upsample_left, places, xp)
            if hold is not None:
                places = upsampling.aux_positions(config, total, samples)
                hold = upsampling.interpolate(hold, first, places, xp)
            return self._exported(interp, hold)

    def _needed(self, first_frame: int, n_frames: int) -> tuple[int, int]:
        """The mel's frames lie up to one frame to either side, those of `hold` too."""
        hop = self._config.hop_length
        first = max(first_frame // hop - 1, 0)
        return first, min((first_frame + n_frames - 1) // hop + 2, self._total) - first
