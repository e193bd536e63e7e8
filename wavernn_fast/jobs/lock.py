"""One job on a folder: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Any

from ..errors import InputError
from .journal import FOLDER

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Shard = tuple[int, int]  # (index from 0, count)
WHOLE: Shard = (0, 1)

_WORKER = re.compile(r"(\d+)of(\d+)(?:-.*)?")
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def shard_name(shard: Shard) -> str:
    """Such as "0of1": names locks, journals and parts."""
    return f"{shard[0]}of{shard[1]}"


class Lock:
    """Holds the lock of one shard of a job on a folder; a context manager.

    It is `flock` on ``.wavernn-fast/lock-<i>of<n>``, which the system frees when the process is
    gone. Where a file system has none, a file ``.pid`` beside it stands for it, which a killed
    process leaves behind; it counts no more when no process of its number lives on this machine.
    A job that is cut into another number of shards is another job, and refused as well.

    Raises
    ------
    InputError
        On entry, if another job works on the folder, saying which process on which machine.
    OSError
        If the lock's file cannot be made.
    """

    def __init__(self, root: str | os.PathLike[str], shard: Shard = WHOLE) -> None:
        self._folder, self._shard = Path(root) / FOLDER, shard
        self._handle: int | None = None
        self._pid_file: Path | None = None

    def __enter__(self) -> Lock:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"lock-{shard_name(self._shard)}"
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if not _flock(self._handle):
                raise _taken(os.pread(self._handle, 200, 0))
            self._take_file(path)
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, _owner(), 0)
            self._refuse_other_counts()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pid_file is not None:
            with contextlib.suppress(OSError):
                self._pid_file.unlink()
            self._pid_file = None
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def owns_parts_of(self, worker: str) -> bool:
        """Whether the parts of a worker are of a job that is dead, now that this lock is held."""
        match = _WORKER.fullmatch(worker)
        if match is None:
            return False
        theirs = int(match[1]), int(match[2])
        return theirs == self._shard or theirs[1] != self._shard[1]

    def _take_file(self, path: Path) -> None:
        """The file that stands for a lock, where there is no `flock`; see the class."""
        if fcntl is not None and _has_flock(self._handle):
            return
        file = path.with_name(f"{path.name}.pid")
        if not _claim(file):
            if _lives(_read(file)):
                raise _taken(_read(file), file)
            _replace_dead(file)
        self._pid_file = file

    def _refuse_other_counts(self) -> None:
        mine = f"of{self._shard[1]}"
        for path in self._folder.glob("lock-*of*"):
            name, _, ending = path.name.partition(".")
            if name.endswith(mine):
                continue
            if ending == "pid":
                if _lives(_read(path)):
                    raise _taken(_read(path), path)
                continue
            handle = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
            try:
                # Shared: shards that begin together look at the same old lock, and must not take
                # each other's look for its holder.
                if not _flock(handle, shared=True):
                    raise _taken(os.pread(handle, 200, 0))
            finally:
                os.close(handle)


def _flock(handle: int, *, shared: bool = False) -> bool:
    """Lock a file; False if another process has it. True also where there is no such lock."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return True


def _has_flock(handle: Any) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _claim(file: Path) -> bool:
    """Make a file with the name of this process, all at once; False if it is there already."""
    own = file.with_name(f".{secrets.token_hex(4)}-{file.name}")
    own.write_bytes(_owner())
    try:
        os.link(own, file)
    except FileExistsError:
        return False
    except OSError:  # no such links here: for a moment the file has no name in it
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        os.write(handle, _owner())
        os.close(handle)
    finally:
        own.unlink()
    return True


def _replace_dead(file: Path) -> None:
    """Put a file of this process in the place of a dead one's, as one of many that try at once.

    Whoever has the turn may remove the file: any other could remove that of a living process, which
    has come into the place of the one that was found dead.
    """
    turn = file.with_name(f".turn-{file.name}")
    if not _claim(turn):
        owner = _read(turn)
        if not _lives(owner):  # killed in its turn; the next try finds the way free
            turn.unlink(missing_ok=True)
        raise _taken(owner, turn)
    try:
        if _lives(_read(file)):
            raise _taken(_read(file), file)
        file.unlink(missing_ok=True)
        if not _claim(file):
            raise _taken(_read(file), file)
    finally:
        turn.unlink(missing_ok=True)


def _owner() -> bytes:
    return f"{os.getpid()} {socket.gethostname()}\n".encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()[:200]
    except OSError:
        return b""


def _parse(owner: bytes) -> tuple[int, str] | None:
    pid, _, host = owner.decode("utf-8", "replace").strip().partition(" ")
    return (int(pid), host) if pid.isascii() and pid.isdigit() and int(pid) > 0 else None


def _lives(owner: bytes) -> bool:
    """Whether the owner of a file may be alive: of another machine, that cannot be known."""
    found = _parse(owner)
    if found is None:  # killed before it wrote its name
        return False
    pid, host = found
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _taken(owner: bytes, file: Path | None = None) -> InputError:
    found = _parse(owner)
    who = f"process {found[0]} on {found[1]!r}" if found else "another process"
    gone = f" If it is gone for good, delete {str(file)!r}." if file is not None else ""
    return InputError(
        f"Another job works on this output folder: {who}. Wait for it, choose another folder with "
        f"-o, or give each its part with --shard.{gone}"
    )
