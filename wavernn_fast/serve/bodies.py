"""Bytes from a stranger to a mel: what they claim is checked before it is believed.

Nothing here names a file. Lengths in headers are not trusted: of an array the bytes that are there
are compared with the shape before anything is allocated, a recording is decoded in blocks and
given up as soon as it is longer than allowed, whatever its header says and however well it was
compressed.
"""

from __future__ import annotations

import io
import threading
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import audio
from ..config import ModelConfig
from ..errors import InputError, MissingDependencyError
from ..features import MelRangeWarning, check_mel, check_wave, log_mel
from .limits import Limits
from .problems import Problem

KINDS = {  # media type -> kind; None: look
    "application/x-npy": "npy",
    "application/npy": "npy",
    "audio/wav": "wav",
    "audio/wave": "wav",
    "audio/x-wav": "wav",
    "audio/vnd.wave": "wav",
    "audio/flac": "flac",
    "audio/x-flac": "flac",
    "application/octet-stream": None,
    "": None,
}
_NAMES = {"npy": ".npy", "wav": "WAV", "flac": "FLAC"}
_BLOCK = 2**15  # frames decoded at once
_RATES = (4000, 192000)  # Hz
_MAX_CHANNELS = 8

_warnings_lock = threading.Lock()  # catch_warnings changes a list of the whole process


@dataclass(frozen=True)
class Input:
    """A mel that the model can sound, and what there is to say about it.

    Parameters
    ----------
    mel : float32 array [n_mels, n_frames]
    warning : str
        Where the values do not look like the model's convention.
    """

    mel: NDArray[np.float32]
    warning: str = ""


def media_kind(content_type: str) -> str | None:
    """Kind that a Content-Type promises; None where it promises nothing.

    Raises
    ------
    Problem
        415 for a type that is not taken.
    """
    plain = content_type.partition(";")[0].strip().lower()
    if plain not in KINDS:
        raise Problem(
            415,
            "This content type is not taken; send audio/wav, audio/flac, application/x-npy, or"
            " application/octet-stream with one of those in it.",
        )
    return KINDS[plain]


def sniff(data: bytes) -> str | None:
    """Kind that the first bytes show: "npy", "wav", "flac" or None."""
    if data.startswith(b"\x93NUMPY"):
        return "npy"
    if data[:4] in (b"RIFF", b"RIFX", b"RF64") and data[8:12] == b"WAVE":
        return "wav"
    return "flac" if data.startswith(b"fLaC") else None


def read_input(data: bytes, kind: str | None, config: ModelConfig, limits: Limits) -> Input:
    """Turn a body into a mel of the model; blocks, so it runs in a thread.

    Parameters
    ----------
    data : bytes
        A .npy array or a recording.
    kind : str, optional
        What the client said it is (`media_kind`).
    config : ModelConfig
        The model.
    limits : Limits
        `max_seconds` bounds the recording and the audio.

    Raises
    ------
    Problem
        400, 413, 415 or 422 with a sentence.
    """
    found = sniff(data)
    if not data:
        raise Problem(400, "The body is empty; send a mel (.npy) or a recording (WAV, FLAC).")
    if found is None:
        raise Problem(415, "The body is neither a .npy array nor a WAV or FLAC recording.")
    if kind not in (None, found):
        raise Problem(415, f"The content type says {_NAMES[str(kind)]}, but the body is another.")
    if found == "npy":
        return checked(_read_npy(data), config, limits)
    return Input(_mel_of_recording(data, found, config, limits))


def checked(
    mel: Any, config: ModelConfig, limits: Limits, seconds_before: float | None = None
) -> Input:
    """Check a mel, or some frames of one after `seconds_before` seconds of it.

    The values of a whole mel are compared with the model's convention; some frames say little.

    Raises
    ------
    Problem
        422 for a mel that the model cannot sound, 413 where it is too long.
    """
    frames = mel.shape[-1] if getattr(mel, "ndim", 0) else 0
    seconds = (seconds_before or 0.0) + frames * config.hop_length / config.sample_rate
    _refuse_length(seconds, limits)
    try:
        with _warnings_lock, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = check_mel(mel, config, check_range=seconds_before is None)
    except InputError as error:
        raise Problem(422, str(error)) from error
    said = [str(w.message) for w in caught if issubclass(w.category, MelRangeWarning)]
    return Input(result, said[0] if said else "")


def frames_of(data: bytes, n_mels: int) -> NDArray[np.float32]:
    """Frames of a WebSocket message, float32 little-endian [n, n_mels], as [n_mels, n].

    Raises
    ------
    Problem
        422 where the bytes are no whole frames.
    """
    if not data or len(data) % (4 * n_mels):
        raise Problem(
            422,
            f"A message of {len(data)} bytes holds no whole frames; a frame of this model is"
            f" {n_mels} float32 values, {4 * n_mels} bytes.",
        )
    return np.frombuffer(data, dtype="<f4").reshape(-1, n_mels).T.astype(np.float32)


# --- helpers ---


def _refuse_length(seconds: float, limits: Limits) -> None:
    if seconds > limits.max_seconds:
        raise Problem(
            413,
            f"This is longer than the {limits.max_seconds:g} s of audio that are taken at a time;"
            " send shorter pieces.",
        )


def _read_npy(data: bytes) -> NDArray[Any]:
    try:
        return audio.read_npy(io.BytesIO(data), len(data), "body")
    except Exception as error:  # the parser of a header raises nearly anything
        raise Problem(
            422,
            "The body cannot be read as one .npy array of numbers: its header is damaged, it is"
            " shorter than the header says, or it holds pickled objects, which are never loaded.",
        ) from error


def _mel_of_recording(
    data: bytes, kind: str, config: ModelConfig, limits: Limits
) -> NDArray[np.float32]:
    if config.mel is None:
        raise Problem(
            415, "The model of this service has no mel convention; send a mel instead of audio."
        )
    wave, rate = _decode(data, kind, limits)
    if rate != config.mel.sample_rate:
        try:
            wave = audio.resample(wave, rate, config.mel.sample_rate)
        except MissingDependencyError as error:
            raise Problem(
                415, f"This service cannot resample; send {config.mel.sample_rate} Hz."
            ) from error
    mel = log_mel(wave, config.mel)
    if not mel.shape[1]:
        raise Problem(422, "The recording is shorter than one frame of the model.")
    return mel


def _decode(data: bytes, kind: str, limits: Limits) -> tuple[NDArray[np.float32], int]:
    """Mean of all channels, float32 [n_samples], and the sample rate in Hz."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = int(file.samplerate)
            _check_header(file, rate)
            wave = _blocks(file, rate, limits)
    except Problem:
        raise
    except Exception as error:  # libsndfile's own words name objects of this process
        raise Problem(422, f"The body cannot be read as {_NAMES[kind]}; it is damaged.") from error
    if not wave.size:
        raise Problem(422, "The recording holds no samples.")
    try:
        check_wave(wave)
    except InputError as error:
        raise Problem(422, "The recording holds NaN or infinite values.") from error
    return wave, rate


def _check_header(file: Any, rate: int) -> None:
    if not (_RATES[0] <= rate <= _RATES[1] and 1 <= file.channels <= _MAX_CHANNELS):
        raise Problem(
            422,
            f"Recordings of {_RATES[0]} to {_RATES[1]} Hz with 1 to {_MAX_CHANNELS} channels are"
            " taken.",
        )


def _blocks(file: Any, rate: int, limits: Limits) -> NDArray[np.float32]:
    parts: list[NDArray[np.float32]] = []
    total = 0
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        total += len(block)
        _refuse_length(total / rate, limits)
        parts.append(block.mean(axis=1, dtype=np.float32))
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
