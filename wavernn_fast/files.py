"""Files: a name for a message, a source that can be read, a write that is whole or not at all.

The path "-" means standard input or output.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import AudioError

PathLike = str | os.PathLike[str]
PIPE = "-"
PARTS = ".????????.part-*"  # what `write_atomic` leaves of a file when its process is killed


def label(path: PathLike) -> str:
    """Path for a message; control characters and undecodable bytes are escaped."""
    return "standard input or output" if os.fspath(path) == PIPE else repr(os.fspath(path))


def standard_input() -> BinaryIO:
    """Standard input as bytes; Python has none where it was closed before the program began.

    Raises
    ------
    AudioError
        If it is closed.
    """
    if sys.stdin is None:
        raise AudioError("The standard input is closed; name a file in place of '-'.")
    return sys.stdin.buffer


def standard_output() -> BinaryIO:
    """Standard output for bytes; raises as `standard_input`."""
    if sys.stdout is None:
        raise AudioError("The standard output is closed; write to a file with -o.")
    return sys.stdout.buffer


def open_source(path: PathLike) -> str | BinaryIO:
    """Path of a readable file, or the bytes of standard input; says what is wrong if neither."""
    if os.fspath(path) == PIPE:
        data = standard_input().read()
        if not data:
            raise AudioError("The standard input is empty.")
        return io.BytesIO(data)
    name = os.fspath(path)
    if os.path.isdir(name):
        raise AudioError(f"{name!r} is a folder, expected a file.")
    try:
        with open(name, "rb") as file:
            if not os.path.isfile(name):  # a pipe can be read once only
                return io.BytesIO(file.read())
            empty = not file.read(1)
    except OSError as error:
        failure = AudioError(f"{name!r} cannot be opened ({error.strerror or error}).")
        failure.errno = error.errno
        raise failure from error
    if empty:
        raise AudioError(f"{name!r} is empty.")
    return name


def write_atomic(path: PathLike, blocks: Iterable[bytes]) -> None:
    """Write blocks of bytes to `path` so that the name never holds a part.

    Writes a temporary file in the same folder, flushes it to the disk, and renames it. Devices
    and pipes are written straight; "-" is standard output.

    Raises
    ------
    AudioError
        If writing fails; the temporary file is removed, `errno` is kept.
    """
    target = Path(path)
    try:
        if os.fspath(path) == PIPE:
            file = standard_output()
            file.writelines(blocks)
            file.flush()
        elif target.exists() and not target.is_file():
            with target.open("wb") as special:  # a folder fails here, a device is as good as done
                special.writelines(blocks)
        else:
            _replace(target, blocks)
    except AudioError:
        raise
    except OSError as error:
        name = "The standard output" if os.fspath(path) == PIPE else label(path)
        failure = AudioError(f"{name} cannot be written ({error.strerror or error}).")
        failure.errno = error.errno
        raise failure from error


def check_target(path: PathLike) -> None:
    """See that `write_atomic` could write a file here, before the work that it is for.

    Raises
    ------
    AudioError
        Saying why it could not.
    """
    target = Path(path)
    if os.fspath(path) == PIPE:
        standard_output()
        return
    try:
        if target.is_dir():
            raise AudioError(f"{label(path)} is a folder; give the name of a file in it.")
        if target.exists() and not target.is_file():
            if not os.access(target, os.W_OK):  # opening a pipe would wait for its reader
                raise AudioError(f"{label(path)} cannot be written (permission denied).")
            return
        if not target.parent.is_dir():
            raise AudioError(
                f"{label(path)} cannot be written: there is no folder {str(target.parent)!r}. Make "
                "it first."
            )
        part = _part(target)
        part.open("xb").close()
        part.unlink()
    except OSError as error:
        failure = AudioError(f"{label(path)} cannot be written ({error.strerror or error}).")
        failure.errno = error.errno
        raise failure from error


def _part(target: Path) -> Path:
    return target.with_name(f".{secrets.token_hex(4)}.part-{os.getpid()}")


def _replace(target: Path, blocks: Iterable[bytes]) -> None:
    with replacing(target) as file:
        file.writelines(blocks)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Open a file that gets the name `target` at the end, when it is complete and on the disk.

    Raises
    ------
    OSError
        Whatever opening, writing or renaming raises; nothing is left behind.
    """
    part = _part(target)
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:  # an interrupt too must leave nothing behind
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def number_of(text: str) -> int | None:
    """The number that is given where a file may be named; None for what is, or may be, a file."""
    if not (text.isascii() and text.isdigit()) or os.path.exists(text):
        return None
    return int(text)
