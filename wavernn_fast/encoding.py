"""Bytes of audio files: WAV, FLAC and Ogg Vorbis; the same audio always gives the same.

WAV files are made here, byte by byte, so that they can be written block by block and a full disk is
reported with its own error number. FLAC and Ogg come from libsndfile.
"""

from __future__ import annotations

import io
import operator
import struct
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import AudioError, InputError, MissingDependencyError
from .features import check_wave

Subtype = Literal["PCM_16", "PCM_24", "PCM_32", "FLOAT"]

AUDIO_SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga")  # that `encode` makes
_WAV = ("", ".wav", ".wave")
_OGG = (".ogg", ".oga")
_BLOCK = 2**18  # samples of a block
_OGG_BLOCK = 2**14  # given to libvorbis at once: it has them on its stack
_MAX_WAV_BYTES = 2**32 - 2**12  # sizes in a WAV file are 32-bit
_MAX_RATE = 2**29  # Hz: bytes a second are 32-bit, too, and a sample has 4 at most
_MAX_OGG_RATE = 200_000  # Hz: libvorbis crashes beyond
_SAMPLE_BYTES: dict[str, int] = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}


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
        ".wav", ".wave" or none: WAV; ".flac"; ".ogg" or ".oga": Vorbis at libsndfile's quality 0.4.
    subtype : {"PCM_16", "PCM_24", "PCM_32", "FLOAT"}
        Sample format; FLAC has 16 and 24 bits, Ogg none: leave PCM_16. FLAC holds a sample at
        least, Ogg 200 kHz at most.

    Raises
    ------
    InputError
        If wave, sample rate, suffix or subtype is unusable; before the first block.
    """
    samples, sample_rate = check_wave(wave), check_rate(sample_rate)
    kind = suffix.lower()
    if kind == ".flac":
        return iter([_encode_flac(samples, sample_rate, subtype)])
    if kind in _OGG:
        return iter([_encode_ogg(samples, sample_rate, subtype)])
    if kind not in _WAV:
        raise InputError(f"Cannot write {suffix} files; use .wav, .flac or .ogg.")
    if subtype not in _SAMPLE_BYTES:
        raise InputError(f"Unknown subtype {subtype!r}; expected {', '.join(_SAMPLE_BYTES)}.")
    return _wav_blocks(samples, sample_rate, cast(Subtype, subtype))


def check_rate(sample_rate: Any) -> int:
    """Return a sample rate in Hz as an int.

    Raises
    ------
    InputError
        If it is no integer, or not from 1 Hz to the most that a WAV file can tell.
    """
    try:
        rate = operator.index(sample_rate)
    except TypeError:
        raise InputError(
            f"The sample rate is {sample_rate!r}, expected an integer in Hz."
        ) from None
    if not 0 < rate <= _MAX_RATE:
        raise InputError(f"The sample rate is {rate} Hz, must be positive and at most {_MAX_RATE}.")
    return rate


def _wav_blocks(wave: NDArray[Any], sample_rate: int, subtype: Subtype) -> Iterator[bytes]:
    yield wav_header(wave.size, sample_rate, subtype)
    for start in range(0, wave.size, _BLOCK):
        yield quantize(wave[start : start + _BLOCK], subtype)
    if wave.size * _SAMPLE_BYTES[subtype] % 2:
        yield b"\0"  # chunks of a RIFF file have an even length


def _encode_flac(wave: NDArray[Any], sample_rate: int, subtype: str) -> bytes:
    if subtype not in ("PCM_16", "PCM_24"):
        raise InputError(f"FLAC files hold PCM_16 or PCM_24, not {subtype}; use .wav for that.")
    if not wave.size:  # libsndfile would make a file of no bytes, and reads no other kind
        raise InputError("A FLAC file holds one sample at least, and there is none; use .wav.")
    bits = 8 * _SAMPLE_BYTES[subtype]
    integers = _to_integers(wave, bits) << (32 - bits)  # soundfile takes the high bits
    soundfile, target = soundfile_module(), io.BytesIO()
    try:
        soundfile.write(target, integers, sample_rate, format="FLAC", subtype=subtype)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(f"This audio cannot be written as FLAC ({error}).") from error
    return target.getvalue()


def _encode_ogg(wave: NDArray[Any], sample_rate: int, subtype: str) -> bytes:
    if subtype != "PCM_16":
        raise InputError(f"Ogg files hold Vorbis, not {subtype}; leave the subtype out.")
    if sample_rate > _MAX_OGG_RATE:
        raise InputError(f"Vorbis has {_MAX_OGG_RATE} Hz at most, not {sample_rate}; use .wav.")
    soundfile, target = soundfile_module(), io.BytesIO()
    clipped = np.clip(wave, -1.0, 1.0).astype(np.float32)
    try:
        with soundfile.SoundFile(
            target, "w", sample_rate, 1, subtype="VORBIS", format="OGG"
        ) as file:
            for start in range(0, clipped.size, _OGG_BLOCK):
                file.write(clipped[start : start + _OGG_BLOCK])
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(f"This audio cannot be written as Ogg Vorbis ({error}).") from error
    return with_serial(target.getvalue(), zlib.crc32(clipped.tobytes()))


# Ogg's checksum is zlib's polynomial with the bits of every byte the other way round.
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")


def with_serial(ogg: bytes, serial: int) -> bytes:
    """Give the one stream of an Ogg file another serial number.

    libsndfile draws it at random, so that no two files would be alike. Every page is given the
    number and its checksum anew (RFC 3533, section 6).

    Parameters
    ----------
    ogg : bytes
        The whole file.
    serial : int
        0 to 2**32 - 1.

    Raises
    ------
    AudioError
        If these are not the pages of an Ogg file.
    """
    pages, at = [], 0
    while at < len(ogg):
        table = at + 27
        body = table + ogg[at + 26] if table <= len(ogg) else len(ogg) + 1
        end = body + sum(ogg[table:body])
        if ogg[at : at + 5] != b"OggS\0" or end > len(ogg):
            raise AudioError("These are not the pages of an Ogg file; please report this.")
        page = bytearray(ogg[at:end])
        page[14:18] = struct.pack("<I", serial)
        page[22:26] = bytes(4)
        page[22:26] = struct.pack("<I", _ogg_checksum(bytes(page)))
        pages.append(bytes(page))
        at = end
    return b"".join(pages)


def soundfile_module() -> ModuleType:
    """soundfile, imported when it is needed.

    Raises
    ------
    MissingDependencyError
        If it, or its native library, is not installed.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: its native library is missing
        raise MissingDependencyError(
            f"Reading audio needs soundfile with libsndfile ({error}): pip install soundfile."
        ) from error
    module: ModuleType = soundfile
    return module
