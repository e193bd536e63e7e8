"""Items read and checked ahead of the engine, on threads of their own."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import arrays, audio, features
from ..checkpoints import mel_file
from ..errors import InputError
from ..files import label
from ..metrics import mel_correlation
from .identity import has_content, identity
from .items import Item
from .settings import Settings

if TYPE_CHECKING:
    from ..config import ModelConfig

logger = logging.getLogger("wavernn_fast")

_THREADS = 2  # the reading of one file may wait for a network; decoding takes little time
_BYTES_AHEAD = 1 << 28  # of files read and not yet taken


@dataclass(frozen=True)
class Ready:
    """An item that has been read and can be sounded."""

    item: Item
    mel: NDArray[np.float32]  # [n_mels, n_frames]
    seed: int
    speaker: NDArray[np.float64] | None  # [speaker_size]
    input: str  # what the source was: `identity.identity`
    settings: str  # digest of its settings
    seconds: float  # that the reading took


@dataclass(frozen=True)
class Unready:
    """An item that cannot be read, or not be sounded."""

    item: Item
    error: Exception
    seconds: float


def read_mel(path: str) -> NDArray[Any]:
    """One mel as stored in a file of any kind; raises as `audio.read_mel`."""
    if PurePath(path).suffix.lower() in mel_file.SUFFIXES:
        return mel_file.read_mel(path)
    return audio.read_mel(path)


class ItemReader:
    """Reads single items: a mel, or the mel of a recording, with the speaker that it names."""

    def __init__(self, settings: Settings, config: ModelConfig) -> None:
        if settings.reads == "recording" and config.mel is None:
            raise InputError(
                f"The model {settings.model!r} has no mel convention, so no mel can be made for "
                "it; name one with --preset ('wavernn-fast inspect' lists those that fit)."
            )
        self._settings, self._config = settings, config
        self._digests: dict[tuple[int | None, str | None], str] = {}
        self._speakers: dict[str | None, NDArray[np.float64] | None] = {}

    def __call__(self, item: Item) -> Ready | Unready:
        """Read and check one item; whatever is wrong with it is its own fault alone."""
        begun = time.perf_counter()
        try:
            settings = self._settings.of(item)
            digest = self.digest(item)
            speaker = self.speaker(settings.speaker)
            known = identity(item.source) if has_content(item.source) else ""
            mel = self._mel(item)
            seconds = time.perf_counter() - begun
            return Ready(item, mel, settings.seed, speaker, known, digest, seconds)
        except Exception as error:  # a damaged file can raise nearly anything in a library
            return Unready(item, error, time.perf_counter() - begun)

    def digest(self, item: Item) -> str:
        """`Settings.digest` of an item; the same for all that have no settings of their own."""
        key = item.seed, item.speaker
        if key not in self._digests:
            self._digests[key] = self._settings.of(item).digest()
        return self._digests[key]

    def speaker(self, path: str | None) -> NDArray[np.float64] | None:
        """The vector in a file, or a number, checked against the model; read once."""
        if path not in self._speakers:
            vector = None if path is None else audio.read_speaker(path)
            name = "--speaker" if path == self._settings.speaker else "the list's speaker"
            self._speakers[path] = arrays.to_speaker(vector, self._config, name)
        return self._speakers[path]

    def describe(self, ready: Ready, wave: NDArray[np.float32]) -> dict[str, Any]:
        """What is said about a result besides its length: of a copy, how close its mel is."""
        if self._settings.reads == "mel":
            return {}
        assert self._config.mel is not None  # checked above
        after = features.log_mel(wave, self._config.mel)
        return {"mel_correlation": mel_correlation(ready.mel, after)}

    def _mel(self, item: Item) -> NDArray[np.float32]:
        if self._settings.reads == "recording":
            assert self._config.mel is not None  # checked above
            wave, _ = audio.read_wav(item.source, self._config.mel.sample_rate)
            return features.log_mel(wave, self._config.mel)
        # Not `Vocoder.check_mel`: what it warns of goes through filters that threads share.
        stored = read_mel(item.source)
        mel: NDArray[np.float32] = features.check_mel(stored, self._config, check_range=False)
        problem = self._config.mel and features.range_problem(mel, self._config.mel, np)
        if problem:
            logger.warning("%s: %s", label(item.source), problem)
        return mel


class ReadAhead:
    """Results of `read` in the order of the items, read ahead on threads; an iterator.

    Parameters
    ----------
    read : callable
        Must not raise.
    items : iterable of Item
        Asked for by the thread that iterates.
    most : int
        Items read and not yet taken, at most; fewer where their files are large.
    """

    def __init__(
        self, read: Callable[[Item], Ready | Unready], items: Iterable[Item], most: int
    ) -> None:
        self._read, self._items, self._most = read, iter(items), most
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="wavernn-fast-read")
        self._ahead: deque[tuple[int, Future[Ready | Unready]]] = deque()
        self._bytes = 0
        self.seconds = 0.0  # that the threads spent reading
        self.waited = 0.0  # that the caller spent waiting for them

    def __iter__(self) -> Iterator[Ready | Unready]:
        return self

    def __next__(self) -> Ready | Unready:
        begun = time.perf_counter()
        self._fill()
        if not self._ahead:
            raise StopIteration
        size, future = self._ahead.popleft()
        self._bytes -= size
        result = future.result()
        self.seconds += result.seconds
        self._fill()
        self.waited += time.perf_counter() - begun
        return result

    def close(self) -> None:
        """Begin no further file; what is being read is let go."""
        self._items = iter(())
        self._ahead.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fill(self) -> None:
        while not self._ahead or (len(self._ahead) < self._most and self._bytes < _BYTES_AHEAD):
            item = next(self._items, None)
            if item is None:
                return
            size = _size(item.source)
            self._ahead.append((size, self._pool.submit(self._read, item)))
            self._bytes += size


def _size(source: str) -> int:
    try:
        return os.stat(source).st_size
    except (OSError, ValueError):  # the reader will say so
        return 0
