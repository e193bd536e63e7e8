"""The exceptions this package raises; every message says what, where and what to do next."""

from __future__ import annotations

from collections.abc import Sequence


class WaveRNNError(Exception):
    """Base of every error raised on purpose by wavernn_fast."""


class ModelError(WaveRNNError):
    """A model file cannot be used: unreadable, incomplete, misshapen or not finite.

    Parameters
    ----------
    message : str
        What is wrong, in one sentence, with the file named.
    problems : sequence of str
        Every single problem found (all are collected before raising).
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        self.problems = tuple(problems)
        if problems:
            message = "\n  - ".join([message, *problems])
        super().__init__(message)


class InputError(WaveRNNError, ValueError):
    """An argument is unusable: a mel of the wrong shape, a NaN, an unknown preset."""


class AudioError(WaveRNNError, OSError):
    """An audio or mel file cannot be read or written."""


class DeviceError(WaveRNNError, RuntimeError):
    """The requested device or instruction set is not available here."""


class EngineError(WaveRNNError, RuntimeError):
    """The engine stopped: a logit became NaN or infinite (the message names stream and step)."""


class MissingDependencyError(WaveRNNError, ImportError):
    """An optional dependency is needed; the message names the extra that installs it."""


class PoolFullError(WaveRNNError, RuntimeError):
    """There is no room now for one more live stream, or for more frames of one; try later."""
