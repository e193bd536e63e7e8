"""Audio and mel files: read, resample, and write so that a finished name is a finished file.

The path "-" means standard input or output. Bytes of audio files are made in `encoding`; reading
goes through soundfile.
"""

from __future__ import annotations

import io
import logging
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .encoding import AUDIO_SUFFIXES as AUDIO_SUFFIXES
from .encoding import Subtype as Subtype
from .encoding import check_rate, soundfile_module
from .encoding import encode as encode
from .encoding import quantize as quantize
from .encoding import wav_header as wav_header
from .errors import AudioError, InputError, MissingDependencyError
from .features import check_wave
from .files import PIPE, PathLike, check_target, label, number_of, open_source, write_atomic

MAX_MEL_BYTES = 2**31  # of one array in a file; a larger one is a mistake or an attack
_BLOCK = 2**18  # samples read at once

MEL_SUFFIXES = (".npy", ".npz", ".safetensors")  # read by read_mel
READ_SUFFIXES = (*AUDIO_SUFFIXES, ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf")

logger = logging.getLogger("wavernn_fast")


def read_wav(
    path: PathLike, sample_rate: int | None = None, *, channel: int | None = None
) -> tuple[NDArray[np.float32], int]:
    """Read an audio file as one channel.

    Parameters
    ----------
    path : str or path
        Any format soundfile reads; "-" reads standard input.
    sample_rate : int, optional
        Resample to this rate in Hz where the file has another (needs the extra ``[audio]``).
    channel : int, optional
        Take this channel, counted from 0; by default the mean of all.

    Returns
    -------
    wave : float32 array [n_samples]
        In [-1, 1]; float files may exceed that.
    sample_rate : int
        Hz.

    Raises
    ------
    AudioError
        If the file is missing, not audio, empty, or holds a NaN or an infinity.
    InputError
        If the sample rate asked for is none.
    MissingDependencyError
        If soundfile, or soxr for resampling, is not installed.
    """
    soundfile = soundfile_module()
    name = label(path)
    if sample_rate is not None:
        sample_rate = check_rate(sample_rate)
    try:
        with soundfile.SoundFile(open_source(path)) as file:
            if channel is not None and not 0 <= channel < file.channels:
                raise AudioError(f"{name} has {file.channels} channels, there is none {channel}.")
            if file.channels > 1 and channel is None:
                logger.info("%s has %d channels; taking their mean.", name, file.channels)
            parts = [_one_channel(block, channel) for block in _read_blocks(file)]
            rate = int(file.samplerate)
    except soundfile.SoundFileError as error:
        raise AudioError(f"{name} cannot be read as audio ({error}).") from error
    if not parts:
        raise AudioError(f"{name} holds no samples.")
    wave = np.concatenate(parts)
    try:
        check_wave(wave)
    except InputError as error:
        raise AudioError(f"{name} is damaged: {error}") from error
    if sample_rate is not None and sample_rate != rate:
        return resample(wave, rate, sample_rate), sample_rate
    return wave, rate


def rate_and_channels(path: PathLike) -> tuple[int, int]:
    """Sample rate in Hz and number of channels of an audio file, from its header alone.

    Raises
    ------
    AudioError
        If the file is missing or not audio.
    MissingDependencyError
        If soundfile is not installed.
    """
    soundfile = soundfile_module()
    try:
        facts = soundfile.info(open_source(path))
    except soundfile.SoundFileError as error:
        raise AudioError(f"{label(path)} cannot be read as audio ({error}).") from error
    return int(facts.samplerate), int(facts.channels)


def _read_blocks(file: Any) -> Iterator[NDArray[np.float32]]:
    """Blocks [n, channels] until they end: a length in a header may lie by many gigabytes."""
    while True:
        block: NDArray[np.float32] = file.read(_BLOCK, dtype="float32", always_2d=True)
        if not len(block):
            return
        yield block


def _one_channel(block: NDArray[np.float32], channel: int | None) -> NDArray[np.float32]:
    return block.mean(axis=1, dtype=np.float32) if channel is None else block[:, channel].copy()


def resample(wave: NDArray[np.float32], rate: int, new_rate: int) -> NDArray[np.float32]:
    """Resample float32 [n] from `rate` to `new_rate` Hz (soxr, high quality).

    Raises
    ------
    MissingDependencyError
        If soxr is not installed.
    """
    try:
        import soxr
    except ImportError as error:
        raise MissingDependencyError(
            f"Resampling from {rate} to {new_rate} Hz needs soxr:"
            ' pip install "wavernn-fast[audio]".'
        ) from error
    return np.asarray(soxr.resample(wave, rate, new_rate, quality="HQ"), dtype=np.float32)


def write_wav(
    path: PathLike, wave: ArrayLike, sample_rate: int, subtype: Subtype = "PCM_16"
) -> None:
    """Write a mono WAV (or, by its suffix, FLAC or Ogg Vorbis) file, atomically.

    The file gets its name only when complete and on disk; after a failure nothing is left behind.

    Parameters
    ----------
    path : str or path
        Ends in .wav, .wave, .flac, .ogg or has no suffix (WAV); "-" writes WAV to standard output.
    wave : float array [n_samples]
        In [-1, 1]; rounded and clipped as `quantize` says.
    sample_rate : int
        Hz.
    subtype : {"PCM_16", "PCM_24", "PCM_32", "FLOAT"}
        Sample format; FLAC has no FLOAT, Ogg none but its own.

    Raises
    ------
    InputError
        If wave, subtype, sample rate or suffix is unusable.
    AudioError
        If the file cannot be written; `errno` says why (such as ENOSPC).
    """
    write_atomic(path, _encoded(path, wave, sample_rate, subtype))


def _encoded(
    path: PathLike, wave: ArrayLike, sample_rate: int, subtype: Subtype
) -> Iterator[bytes]:
    suffix = "" if os.fspath(path) == PIPE else Path(path).suffix
    try:
        return encode(wave, sample_rate, suffix, subtype)
    except InputError as error:
        raise InputError(f"{label(path)}: {error}") from None


def check_wav(path: PathLike, sample_rate: int, subtype: Subtype = "PCM_16") -> None:
    """See that `write_wav` could write such a file, before minutes of work; nothing stays.

    Raises
    ------
    InputError
        If the ending, the sample rate or the subtype is unusable.
    AudioError
        If the folder is missing or cannot be written.
    """
    _encoded(path, np.zeros(1, np.float32), sample_rate, subtype)
    check_target(path)


def read_mel(path: PathLike) -> NDArray[Any]:
    """Read one mel array from a file, as stored; `features.check_mel` checks what is in it.

    Parameters
    ----------
    path : str or path
        .npy; .npz or .safetensors with a single array or one named "mel"; "-" reads .npy or .npz
        from standard input. Pickled objects are refused.

    Returns
    -------
    array
        Usually float32 [n_mels, n_frames].

    Raises
    ------
    AudioError
        If the file is missing, damaged, too large, of another kind, or ambiguous.
    """
    suffix = "" if os.fspath(path) == PIPE else Path(path).suffix.lower()
    if suffix in (".pt", ".pth", ".pyt"):
        raise AudioError(
            f"{label(path)} is a PyTorch file; mels are not read from those. Save it with"
            " numpy.save(path, mel.cpu().numpy()) and pass the .npy file."
        )
    source = open_source(path)
    try:
        if suffix == ".safetensors":
            return _pick(_read_safetensors(os.fspath(path)), path)
        return _read_numpy(source, path)
    except (AudioError, MissingDependencyError):
        raise
    except Exception as error:  # parsers raise nearly anything on damaged bytes
        raise AudioError(
            f"{label(path)} cannot be read as a mel ({type(error).__name__}: {error});"
            " expected .npy, .npz or .safetensors without pickled objects."
        ) from error


def read_speaker(source: str) -> Any:
    """A speaker's vector in a file, or the number that is given in place of one.

    Raises
    ------
    AudioError
        As `read_mel`.
    """
    number = number_of(source)
    return read_mel(source) if number is None else number


def _read_numpy(source: str | BinaryIO, path: PathLike) -> NDArray[Any]:
    file: BinaryIO = open(source, "rb") if isinstance(source, str) else source  # noqa: SIM115
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if not zipfile.is_zipfile(file):
            file.seek(0)
            return read_npy(file, size, path)
        with zipfile.ZipFile(file) as archive:
            members = {Path(m.filename).stem: m for m in archive.infolist()}
            name = _choose(list(members), path)
            with archive.open(members[name]) as member:
                return read_npy(member, members[name].file_size, path)


def read_npy(file: Any, size: int, path: PathLike) -> NDArray[Any]:
    """Read an .npy stream of `size` bytes, checking the header before anything is allocated."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0}
    header = readers.get(version, np.lib.format.read_array_header_2_0)
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise AudioError(f"{label(path)} holds pickled objects, which are never loaded.")
    wanted = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    if wanted > min(size, MAX_MEL_BYTES):
        raise AudioError(
            f"{label(path)} announces {wanted} bytes of data; it holds at most {size}, and"
            f" {MAX_MEL_BYTES} are allowed. It is damaged or not a mel."
        )
    data = file.read(wanted)
    if len(data) < wanted:
        raise AudioError(f"{label(path)} ends early: {len(data)} of {wanted} bytes are there.")
    array = np.frombuffer(data, dtype=dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _read_safetensors(path: str) -> dict[str, NDArray[Any]]:
    from safetensors import safe_open

    if os.path.getsize(path) > MAX_MEL_BYTES:
        raise AudioError(f"{path!r} is larger than the {MAX_MEL_BYTES} bytes allowed for a mel.")
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _choose(names: list[str], path: PathLike) -> str:
    """Name of the one array to take: "mel", or the only one."""
    if "mel" in names:
        return "mel"
    if len(names) != 1:
        raise AudioError(
            f"{label(path)} holds {len(names)} arrays ({', '.join(sorted(names)[:8])}); name one"
            " of them 'mel'."
        )
    return names[0]


def _pick(arrays: dict[str, NDArray[Any]], path: PathLike) -> NDArray[Any]:
    return arrays[_choose(list(arrays), path)]


def write_mel(path: PathLike, mel: ArrayLike) -> None:
    """Write a mel as float32 .npy, atomically; "-" is standard output.

    Raises
    ------
    InputError
        If the mel is not a float array [n_mels, n_frames].
    AudioError
        If the file cannot be written.
    """
    array = np.asarray(mel)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise InputError(
            f"The mel has shape {array.shape} and dtype {array.dtype}, expected floats"
            " [n_mels, n_frames]."
        )
    target = io.BytesIO()
    np.save(target, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)
    write_atomic(path, [target.getvalue()])
