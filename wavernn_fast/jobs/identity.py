"""What a file is, by its content: no clock and no date of a file decides anything."""

from __future__ import annotations

import hashlib
import os
import stat

from .. import voices
from ..errors import AudioError
from ..files import PIPE, PathLike, label

_EDGE = 1 << 20  # bytes hashed at either end


def has_content(source: str) -> bool:
    """Whether a source has content of its own: not "-", nor a pipe, which can be read once only."""
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError):  # whoever opens it will say so
        return source != PIPE
    return source != PIPE and not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode))


def identity(path: PathLike) -> str:
    """Name the content of a file: "<bytes>:<sha256 of its first and last MiB>".

    Up to 2 MiB, the usual size of a mel, every byte counts.

    Raises
    ------
    AudioError
        If the file cannot be read; `errno` is kept.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            total = hashlib.sha256(file.read(_EDGE))
            if size > _EDGE:
                file.seek(max(_EDGE, size - _EDGE))
                total.update(file.read(_EDGE))
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        failure = AudioError(
            f"{label(path)} cannot be opened ({getattr(error, 'strerror', None) or error})."
        )
        failure.errno = getattr(error, "errno", None)
        raise failure from error
    return f"{size}:{total.hexdigest()}"


def model_hash(path_or_name: PathLike) -> str:
    """SHA-256 (hexadecimal) of a whole model file, or of that of a voice of the package.

    Raises
    ------
    AudioError
        If the file cannot be read.
    """
    return file_hash(voices.resolve(path_or_name))


def file_hash(path: PathLike) -> str:
    """SHA-256 (hexadecimal) of a whole file; raises as `model_hash`."""
    total = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_EDGE):
                total.update(block)
    except OSError as error:
        raise AudioError(f"{label(path)} cannot be read ({error.strerror or error}).") from error
    return total.hexdigest()
