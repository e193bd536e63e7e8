"""Mel frames by number: of a mel that is there in full, and of one that comes piece by piece."""

from __future__ import annotations

from typing import Any, Protocol

from .errors import InputError


class Frames(Protocol):
    """A source of mel frames by number."""

    n_frames: int  # known so far, those dropped included

    def take(self, first: int, count: int) -> Any:
        """Mel frames [count, n_mels] from `first` on, padding where there are none, float64."""


class WholeMel:
    """Frames of a mel that is there in full; `beyond` is the value of those outside it."""

    def __init__(self, mel: Any, xp: Any, beyond: float) -> None:
        self._mel, self._xp, self._beyond = mel, xp, beyond
        self.n_frames = int(mel.shape[1])

    def take(self, first: int, count: int) -> Any:
        """Mel frames [count, n_mels] from `first` on, float64."""
        out = self._xp.zeros((count, self._mel.shape[0]), dtype=self._xp.float64)
        if self._beyond:
            out += self._beyond
        low, high = max(first, 0), min(first + count, self.n_frames)
        if low < high:
            out[low - first : high - first] = self._mel[:, low:high].T
        return out


class StreamedMel:
    """Frames that came so far, less those dropped."""

    def __init__(self, n_mels: int, xp: Any, beyond: float) -> None:
        self._xp, self._beyond = xp, beyond
        self._first = 0  # number of the first frame kept
        self._room = xp.zeros((max(1, n_mels), 0), dtype=xp.float32)
        self._begin = self._end = 0  # columns of the room that hold the frames kept
        self.n_frames = 0

    def push(self, frames: Any) -> None:
        """Add frames [n_mels, n]."""
        count = int(frames.shape[1])
        if self._end + count > self._room.shape[1]:
            self._make_room(count)
        self._room[:, self._end : self._end + count] = self._xp.asarray(frames)
        self._end += count
        self.n_frames += count

    def _make_room(self, count: int) -> None:
        """Move to room for `count` more, and as much again: a frame is moved a few times in all."""
        kept, size = self._kept, self._end - self._begin
        shape = (kept.shape[0], 2 * (size + count))
        self._room = self._xp.zeros(shape, dtype=self._xp.float32)
        self._room[:, :size] = kept
        self._begin, self._end = 0, size

    def drop(self, before: int) -> None:
        """Forget the frames before that number."""
        count = min(max(0, before - self._first), self._end - self._begin)
        self._begin += count
        self._first += count

    def take(self, first: int, count: int) -> Any:
        """Mel frames [count, n_mels] from `first` on, float64."""
        return WholeMel(self._kept, self._xp, self._beyond).take(first - self._first, count)

    @property
    def _kept(self) -> Any:
        """Frames [n_mels, n] from number `_first` on."""
        return self._room[:, self._begin : self._end]


def check_window(first: int, count: int, available: int) -> None:
    """Raise an `InputError` if a window does not lie within the output frames."""
    if first < 0 or count < 0 or first + count > available:
        raise InputError(
            f"Output frames {first} to {first + count} were asked for, but there are {available}."
        )
