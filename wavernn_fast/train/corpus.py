"""Recordings to segments: reading, checking, the held-out part, and batches by number.

A corpus keeps the 16-bit targets and the mel frames of all its recordings in memory (2 bytes a
sample, 4 bytes a mel bin). A batch is a pure function of (seed, step, rank), so a run that was
stopped goes on with the very segments it would have drawn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .. import audio, features, samples
from ..config import ModelConfig
from ..errors import AudioError, InputError
from ..models.wavernn import Batch

MANIFESTS = (".txt", ".lst", ".csv", ".jsonl")
_PATH_KEYS = ("audio_filepath", "audio", "path", "wav")  # of a .jsonl manifest


@dataclass(frozen=True)
class Recording:
    """One recording, ready to be cut."""

    name: str
    samples: NDArray[np.uint16]  # [n_frames * hop_length] targets, 256 coarse + fine
    mel: NDArray[np.float32]  # [n_mels, n_frames]; [0, n_frames] unconditioned


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    path: str
    reason: str


def find_recordings(data: str | Path) -> list[Path]:
    """Audio files of a folder (searched through), of a manifest, or the one file given.

    Parameters
    ----------
    data : path
        A folder; a manifest ending in .txt, .lst or .csv (a path first on every line, up to a
        ``|``, tab or comma; ``#`` starts a comment) or .jsonl (an object a line with the path
        under "audio_filepath", "audio", "path" or "wav"), paths relative to the manifest; or an
        audio file.

    Raises
    ------
    InputError
        If it does not exist, holds no audio file, or a line of a manifest names none.
    """
    path = Path(data)
    if os.path.isdir(path):
        named = (p for p in path.rglob("*") if p.suffix.lower() in audio.READ_SUFFIXES)
        files = sorted(p for p in named if p.is_file())
        if not files:
            endings = ", ".join(audio.READ_SUFFIXES)
            raise InputError(f"The folder {str(path)!r} holds no audio file ({endings}).")
        return files
    if not os.path.exists(path):
        raise InputError(f"The folder, list or recording {str(path)!r} does not exist.")
    if path.suffix.lower() in MANIFESTS:
        return _manifest(path)
    return [path]


def _manifest(path: Path) -> list[Path]:
    found = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # of Windows: a mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The manifest {str(path)!r} cannot be read ({error}).") from error
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name = _json_path(line) if path.suffix.lower() == ".jsonl" else _text_path(line)
        if not name:
            raise InputError(f"Line {number} of {str(path)!r} names no audio file: {line[:60]!r}.")
        found.append(path.parent / name)
    if not found:
        raise InputError(f"The manifest {str(path)!r} names no audio file.")
    return found


def _text_path(line: str) -> str:
    for separator in ("|", "\t", ","):
        line = line.partition(separator)[0]
    return line.strip()


def _json_path(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return ""
    names = [entry.get(key) for key in _PATH_KEYS] if isinstance(entry, dict) else []
    return next((name for name in names if isinstance(name, str) and name), "")


def read_recording(path: Path, config: ModelConfig, min_frames: int) -> Recording:
    """Read one recording as training wants it.

    Raises
    ------
    AudioError
        If it cannot be read, is empty, holds a NaN, has several channels, a sample rate below the
        model's, fewer frames than `min_frames`, or no sound at all.
    MissingDependencyError
        If it must be resampled and soxr is not installed.
    """
    rate, channels = audio.rate_and_channels(path)
    if channels != 1:
        raise AudioError(f"has {channels} channels; mix it down to one, or choose one, first")
    if rate < config.sample_rate:
        raise AudioError(
            f"has {rate} Hz, less than the model's {config.sample_rate} Hz: its upper "
            "band would be empty"
        )
    wave, _ = audio.read_wav(path, config.sample_rate)
    n_frames = len(wave) // config.hop_length
    if n_frames < min_frames:
        raise AudioError(
            f"has {len(wave)} samples ({n_frames} frames); a segment needs {min_frames} frames"
        )
    if not np.any(wave):
        raise AudioError("is silent from beginning to end")
    wave = wave[: n_frames * config.hop_length]
    targets = samples.encode_targets(wave, config).astype(np.uint16)
    mel = np.zeros((0, n_frames), dtype=np.float32)
    if config.n_mels and config.mel is not None:
        mel = features.log_mel(wave, config.mel)[:, :n_frames]
    return Recording(str(path), targets, np.ascontiguousarray(mel))


def read_recordings(
    paths: Sequence[Path],
    config: ModelConfig,
    min_frames: int,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
) -> tuple[list[Recording], list[Skipped]]:
    """Read all recordings that can be used; the others are listed with the reason."""
    good: list[Recording] = []
    skipped: list[Skipped] = []
    for path in progress(paths):
        try:
            good.append(read_recording(path, config, min_frames))
        except (AudioError, InputError) as error:
            skipped.append(Skipped(str(path), str(error)))
    return good, skipped


def split(paths: Sequence[Path], held_out: int) -> tuple[list[Path], list[Path]]:
    """(training, held-out) recordings: `held_out` of them, spread evenly over the names in order.

    Raises
    ------
    InputError
        If nothing would be left to train on.
    """
    if held_out >= len(paths):
        raise InputError(
            f"{len(paths)} recordings cannot give {held_out} held-out ones and leave some to train "
            "on; lower --held-out or add recordings."
        )
    chosen = {round((i + 0.5) * len(paths) / held_out - 0.5) for i in range(held_out)}
    return (
        [path for i, path in enumerate(paths) if i not in chosen],
        [path for i, path in enumerate(paths) if i in chosen],
    )


class Corpus:
    """Recordings that give batches of segments.

    Parameters
    ----------
    recordings : sequence of Recording
        At least one, each of at least `segment_frames` frames.
    config : ModelConfig
    segment_frames : int
        Frames of a segment.
    context : int
        Mel frames wanted on each side of it (zeros beyond the ends of a recording).
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        config: ModelConfig,
        segment_frames: int,
        context: int,
    ) -> None:
        self.recordings = list(recordings)
        self._hop, self._frames, self._context = config.hop_length, segment_frames, context
        self._rows, self._reach = config.subscale_factor, config.horizon_samples
        self._with_rows = config.subscale is not None
        starts = [len(r.samples) // self._hop - segment_frames + 1 for r in self.recordings]
        self._ends = np.cumsum(starts)  # [recordings] segments that start in this one or before

    @property
    def n_samples(self) -> int:
        """Samples of all recordings."""
        return sum(len(r.samples) for r in self.recordings)

    @property
    def n_segments(self) -> int:
        """Different segments: one for every frame that can begin one."""
        return int(self._ends[-1])

    def random(self, seed: int, step: int, rank: int, count: int) -> Batch:
        """Draw the batch of one step: `count` segments, chosen by (seed, step, rank) alone."""
        # The generator counts up in the lowest word: the step belongs in the highest, or batches
        # of following steps would be the same numbers shifted.
        philox = np.random.Philox(key=[seed, rank], counter=[0, 0, 0, step])
        generator = np.random.Generator(philox)
        return self.batch(generator.integers(0, self.n_segments, count))

    def spread(self, count: int) -> Batch:
        """Give `count` segments spread evenly over the corpus, the same every time."""
        count = min(count, self.n_segments)
        return self.batch(np.arange(count) * self.n_segments // count)

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        """Segments by number, 0 .. n_segments - 1."""
        pieces = [self._segment(int(number)) for number in numbers]
        around, mels = (np.stack(parts) for parts in zip(*pieces, strict=True))
        beside, rows, reach = self._beside, self._rows, self._reach
        samples = around[:, beside : around.shape[1] - beside]
        before = torch.from_numpy(around[:, beside - rows : beside].copy())
        first, last = beside - reach, beside + samples.shape[1] + reach
        return Batch(
            torch.from_numpy(samples.copy()),
            before if rows > 1 else before[:, 0],
            torch.from_numpy(mels),
            *([torch.from_numpy(around[:, first:last].copy())] if self._with_rows else []),
        )

    @property
    def _beside(self) -> int:
        """Samples wanted on each side of a segment."""
        return max(self._rows, self._reach)

    def _segment(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Samples and those beside them (-1: none), mel with context [n_mels, F + 2 context]."""
        index = int(np.searchsorted(self._ends, number, side="right"))
        recording = self.recordings[index]
        frame = number - (int(self._ends[index - 1]) if index else 0)
        beside = self._beside
        around = np.full(self._frames * self._hop + 2 * beside, -1, dtype=np.int64)
        first = frame * self._hop - beside
        low, high = max(first, 0), min(first + len(around), len(recording.samples))
        around[low - first : high - first] = recording.samples[low:high]
        width = self._frames + 2 * self._context
        mel = np.zeros((len(recording.mel), width), dtype=np.float32)
        left = frame - self._context
        low, high = max(left, 0), min(left + width, recording.mel.shape[1])
        mel[:, low - left : high - left] = recording.mel[:, low:high]
        return around, mel
