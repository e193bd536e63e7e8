"""Which part of a job is this process's, where several share one list of items."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol, TypeVar

from ..errors import InputError

AUTO = "auto"
# Number of this process, and how many there are, as launchers tell them; the first set counts.
_ARRAY = "SLURM_ARRAY_TASK_ID"
_RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


class Named(Protocol):
    """What can be dealt to shards: it has a name that every process sees alike."""

    @property
    def name(self) -> str:
        """Target below the output root, "/" between its parts."""
        ...


N = TypeVar("N", bound=Named)


class Shard(NamedTuple):
    """One of several parts of a job; every item belongs to exactly one of them.

    An item's part depends on its name and on `total` alone, not on its place in the list: all
    processes agree, also where one of them sees a file more than the others.
    """

    number: int = 0  # from 0
    total: int = 1

    @property
    def name(self) -> str:
        """Such as "0of3", for the names of locks, journals and lists."""
        return f"{self.number}of{self.total}"

    @property
    def whole(self) -> bool:
        """Whether it is all of the job."""
        return self.total == 1

    def owns(self, name: str) -> bool:
        """Whether the item of this name is one of this shard."""
        return part_of(name, self.total) == self.number

    def select(self, items: Iterable[N]) -> list[N]:
        """Items of this shard, in their order."""
        return [item for item in items if self.owns(item.name)]

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


def part_of(name: str, count: int) -> int:
    """Number of the shard that an item belongs to: its SHA-256, modulo the number of shards.

    Parameters
    ----------
    name : str
        Of the item; surrogates may be in it, as in names of files that are no UTF-8.
    count : int
        1 or more.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % count


def parse_shard(text: str, environ: Mapping[str, str] | None = None) -> Shard:
    """Read "i/n", i from 0, or "auto".

    Parameters
    ----------
    text : str
        "auto" reads SLURM_ARRAY_TASK_ID with SLURM_ARRAY_TASK_MIN, _COUNT and _STEP, else RANK and
        WORLD_SIZE (torchrun), else SLURM_PROCID and SLURM_NTASKS (srun).
    environ : mapping, optional
        By default `os.environ`.

    Raises
    ------
    InputError
        If it is neither, the number is not below the count, or nothing of these is set.
    """
    if text == AUTO:
        return _from_environment(os.environ if environ is None else environ)
    index, slash, count = text.partition("/")
    if not slash or not (_is_number(index) and _is_number(count)):
        raise InputError(f"Shard {text!r} is not understood; write i/n, such as 0/8, or auto.")
    return _checked(int(index), int(count), f"Shard {text!r}")


def _from_environment(environ: Mapping[str, str]) -> Shard:
    if environ.get(_ARRAY):
        task = _number(environ, _ARRAY)
        first = _number(environ, "SLURM_ARRAY_TASK_MIN")
        step = _number(environ, "SLURM_ARRAY_TASK_STEP") if _has_step(environ) else 1
        count = _number(environ, "SLURM_ARRAY_TASK_COUNT")
        index, rest = divmod(task - first, max(step, 1))
        if rest or index >= count:
            raise InputError(
                f"Task {task} of this SLURM array is none of {count} in steps of {step} from "
                f"{first}; --shard auto needs a regular one, such as --array=0-{count - 1}."
            )
        return _checked(index, count, f"Task {task} of the SLURM array")
    for rank, world in _RANKS:
        if environ.get(rank) and environ.get(world):
            return _checked(_number(environ, rank), _number(environ, world), f"{rank}/{world}")
    raise InputError(
        "--shard auto found none of SLURM_ARRAY_TASK_ID, RANK with WORLD_SIZE, SLURM_PROCID with "
        "SLURM_NTASKS; write i/n, such as --shard 0/8."
    )


def _checked(index: int, count: int, what: str) -> Shard:
    if not 0 <= index < count:
        raise InputError(
            f"{what}: number {index} of {count}; shards of {count} are numbered from 0 to "
            f"{max(count - 1, 0)}."
        )
    return Shard(index, count)


def _has_step(environ: Mapping[str, str]) -> bool:
    return bool(environ.get("SLURM_ARRAY_TASK_STEP"))


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not _is_number(text):
        raise InputError(f"--shard auto: {name} is {text!r}, which is no number.")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9
