"""Audio and mel files: read, resample, and write so that a finished name is a finished file.

The path "-" means standard input or output. WAV files are written here, byte by byte, so that a
full disk is reported with its own error number; reading, and FLAC, go through soundfile.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import AudioError, InputError, MissingDependencyError
from .features import check_wave
from .files import PIPE, PathLike, label, open_source, write_atomic

Subtype = Literal["PCM_16", "PCM_24", "PCM_32", "FLOAT"]

MAX_MEL_BYTES = 2**31  # of one array in a file; a larger one is a mistake or an attack
_BLOCK = 2**18  # samples read or written at once
_MAX_WAV_BYTES = 2**32 - 2**12  # sizes in a WAV file are 32-bit
_SAMPLE_BYTES: dict[str, int] = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}

MEL_SUFFIXES = (".npy", ".npz", ".safetensors")  # read by read_mel
AUDIO_SUFFIXES = (".wav", ".wave", ".flac")  # written by write_wav
READ_SUFFIXES = (*AUDIO_SUFFIXES, ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf")

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
    MissingDependencyError
        If soundfile, or soxr for resampling, is not installed.
    """
    soundfile = _soundfile()
    name = label(path)
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
    soundfile = _soundfile()
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


def quantize(wave: ArrayLike, subtype: Subtype) -> bytes:
    """Little-endian sample bytes of a waveform: round to nearest (ties to even), then clip.

    Parameters
    ----------
    wave : float array [n_samples]
        1.0 is 2^(bits - 1) and so clips to one below; FLOAT keeps values.
    subtype : {"PCM_16", "PCM_24", "PCM_32", "FLOAT"}
        Sample format.

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        If the wave is not a vector of finite floats or the subtype is unknown.
    """
    if subtype not in _SAMPLE_BYTES:
        raise InputError(f"Unknown subtype {subtype!r}; expected {', '.join(_SAMPLE_BYTES)}.")
    wave = check_wave(wave)
    if subtype == "FLOAT":
        return wave.astype("<f4").tobytes()
    if subtype == "PCM_16":
        return _to_integers(wave, 16).astype("<i2").tobytes()
    bits = 8 * _SAMPLE_BYTES[subtype]
    words = _to_integers(wave, bits).astype("<i4").view(np.uint8).reshape(-1, 4)
    return words[:, : bits // 8].tobytes()


def _to_integers(wave: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Round to nearest and clip to [-2^(bits-1), 2^(bits-1) - 1]: the one place that does."""
    top = float(2 ** (bits - 1))
    return np.clip(np.rint(wave.astype(np.float64) * top), -top, top - 1).astype(np.int32)


def wav_header(n_samples: int | None, sample_rate: int, subtype: Subtype = "PCM_16") -> bytes:
    """Header of a mono WAV file, up to the first sample.

    Parameters
    ----------
    n_samples : int, optional
        None where it is not known yet (a stream); readers then go on to the end of the data.
    sample_rate : int
        Hz.
    subtype : {"PCM_16", "PCM_24", "PCM_32", "FLOAT"}
        Sample format.

    Returns
    -------
    bytes

    Raises
    ------
    AudioError
        If the file would exceed the 4 GiB that a WAV file can have.
    """
    width = _SAMPLE_BYTES[subtype]
    is_float = subtype == "FLOAT"
    data = 0xFFFFFFFF if n_samples is None else n_samples * width
    if n_samples is not None and data > _MAX_WAV_BYTES:
        raise AudioError(
            f"{n_samples} samples do not fit a WAV file (4 GiB); write .flac, or shorter pieces."
        )
    kind = 3 if is_float else 1
    fmt = struct.pack("<HHIIHH", kind, 1, sample_rate, sample_rate * width, width, 8 * width)
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt
    if is_float:
        chunks += b"fact" + struct.pack("<II", 4, min(data // width, 0xFFFFFFFF))
    total = min(4 + len(chunks) + 8 + data + data % 2, 0xFFFFFFFF)
    return b"RIFF" + struct.pack("<I", total) + b"WAVE" + chunks + b"data" + struct.pack("<I", data)


def write_wav(
    path: PathLike, wave: ArrayLike, sample_rate: int, subtype: Subtype = "PCM_16"
) -> None:
    """Write a mono WAV (or, by its suffix, FLAC) file, atomically.

    The file gets its name only when complete and on disk; after a failure nothing is left behind.

    Parameters
    ----------
    path : str or path
        Ends in .wav, .wave, .flac or has no suffix (WAV); "-" writes WAV to standard output.
    wave : float array [n_samples]
        In [-1, 1]; rounded and clipped as `quantize` says.
    sample_rate : int
        Hz.
    subtype : {"PCM_16", "PCM_24", "PCM_32", "FLOAT"}
        Sample format; FLAC has no FLOAT.

    Raises
    ------
    InputError
        If wave, subtype, sample rate or suffix is unusable.
    AudioError
        If the file cannot be written; `errno` says why (such as ENOSPC).
    """
    suffix = "" if os.fspath(path) == PIPE else Path(path).suffix
    try:
        blocks = encode(wave, sample_rate, suffix, subtype)
    except InputError as error:
        raise InputError(f"{label(path)}: {error}") from None
    write_atomic(path, blocks)


def encode(
    wave: ArrayLike, sample_rate: int, suffix: str = ".wav", subtype: str = "PCM_16"
) -> Iterator[bytes]:
    """Bytes of a mono audio file, block by block; the same audio always gives the same.

    Parameters
    ----------
    wave : float array [n_samples]
        In [-1, 1]; rounded and clipped as `quantize` says.
    sample_rate : int
        Hz.
    suffix : str
        ".wav", ".wave" or none: WAV; ".flac".
    subtype : {"PCM_16", "PCM_24", "PCM_32", "FLOAT"}
        Sample format; FLAC has 16 and 24 bits.

    Raises
    ------
    InputError
        If wave, sample rate, suffix or subtype is unusable; before the first block.
    """
    samples = check_wave(wave)
    if sample_rate <= 0:
        raise InputError(f"The sample rate is {sample_rate} Hz, must be positive.")
    kind = suffix.lower()
    if kind == ".flac":
        return iter([_encode_flac(samples, sample_rate, subtype)])
    if kind not in ("", *AUDIO_SUFFIXES):
        raise InputError(f"Cannot write {suffix} files; use .wav or .flac.")
    if subtype not in _SAMPLE_BYTES:
        raise InputError(f"Unknown subtype {subtype!r}; expected {', '.join(_SAMPLE_BYTES)}.")
    return _wav_blocks(samples, sample_rate, cast(Subtype, subtype))


def _wav_blocks(wave: NDArray[Any], sample_rate: int, subtype: Subtype) -> Iterator[bytes]:
    yield wav_header(wave.size, sample_rate, subtype)
    for start in range(0, wave.size, _BLOCK):
        yield quantize(wave[start : start + _BLOCK], subtype)
    if wave.size * _SAMPLE_BYTES[subtype] % 2:
        yield b"\0"  # chunks of a RIFF file have an even length


def _encode_flac(wave: NDArray[Any], sample_rate: int, subtype: str) -> bytes:
    if subtype not in ("PCM_16", "PCM_24"):
        raise InputError(f"FLAC files hold PCM_16 or PCM_24, not {subtype}; use .wav for that.")
    bits = 8 * _SAMPLE_BYTES[subtype]
    integers = _to_integers(wave, bits) << (32 - bits)  # soundfile takes the high bits
    target = io.BytesIO()
    _soundfile().write(target, integers, sample_rate, format="FLAC", subtype=subtype)
    return target.getvalue()


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


def _read_numpy(source: str | BinaryIO, path: PathLike) -> NDArray[Any]:
    file: BinaryIO = open(source, "rb") if isinstance(source, str) else source  # noqa: SIM115
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if not zipfile.is_zipfile(file):
            file.seek(0)
            return _read_npy(file, size, path)
        with zipfile.ZipFile(file) as archive:
            members = {Path(m.filename).stem: m for m in archive.infolist()}
            name = _choose(list(members), path)
            with archive.open(members[name]) as member:
                return _read_npy(member, members[name].file_size, path)


def _read_npy(file: Any, size: int, path: PathLike) -> NDArray[Any]:
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


def _soundfile() -> ModuleType:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: its native library is missing
        raise MissingDependencyError(
            f"Reading audio needs soundfile with libsndfile ({error}): pip install soundfile."
        ) from error
    module: ModuleType = soundfile
    return module
