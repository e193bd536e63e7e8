"""A file in the making has another name: the final name never holds a part.

    .<8 hexadecimal digits>.part-<worker>      beside its target

It is written, brought to the disk, renamed, and the folder is brought to the disk. A worker that is
killed leaves at most such a part, and whoever holds the lock of its shard may delete it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import AudioError
from ..files import label

# No later file can be written either. (EFBIG: the limit of `ulimit -f`, which is for all files.)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
_NAME = re.compile(r"\.[0-9a-f]{8}\.part-(.+)")


class Written(NamedTuple):
    """A file that has its final name."""

    bytes: int
    sha256: str  # hexadecimal


def write(target: Path, blocks: Iterable[bytes], worker: str) -> Written:
    """Write blocks of bytes to `target`: whole and on the disk, or not at all.

    Raises
    ------
    AudioError
        If writing fails; the part is removed, `errno` is kept.
    """
    part = target.with_name(f".{secrets.token_hex(4)}.part-{worker}")
    try:
        make_folder(target.parent)
        try:
            written = _write_part(part, blocks)
            os.replace(part, target)
        except BaseException:  # an interrupt too must leave nothing behind
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
        sync_folder(target.parent)
    except AudioError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        failure = AudioError(f"{label(target)} cannot be written ({reason}).")
        failure.errno = getattr(error, "errno", None)
        raise failure from error
    return written


def _write_part(part: Path, blocks: Iterable[bytes]) -> Written:
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    size, total = 0, hashlib.sha256()
    try:
        for block in blocks:
            rest = memoryview(block)
            while len(rest):  # a call may take a part only
                rest = rest[os.write(file, rest) :]
            size += len(block)
            total.update(block)
        os.fsync(file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(file)
        raise
    os.close(file)  # may say at last that the disk is full
    return Written(size, total.hexdigest())


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing, for good.

    Raises
    ------
    OSError
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folder, and keeps names by itself
        if os.name == "nt":
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # no such thing on this file system
            raise
    finally:
        os.close(handle)


def remove_stale(folders: Iterable[Path], is_mine: Callable[[str], bool]) -> int:
    """Delete the parts of workers whose name `is_mine` allows; returns how many there were."""
    removed = 0
    for folder in folders:
        try:
            names = [entry.name for entry in os.scandir(folder)]
        except OSError:  # not there yet, no folder, unreadable: an item in it will say so
            continue
        for name in names:
            match = _NAME.fullmatch(name)
            if match is not None and is_mine(match[1]):
                with contextlib.suppress(OSError):
                    os.unlink(folder / name)
                    removed += 1
    return removed
