"""What a job is to do: its items, found in files, folders and manifests, each with its output."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from .. import files
from ..encoding import AUDIO_SUFFIXES
from ..errors import InputError
from . import names

PIPE = files.PIPE


@dataclass(frozen=True)
class Item:
    """One thing to do."""

    source: str  # file, or "-" for standard input
    target: str  # file
    name: str  # of the target below the output root, "/" between parts: the key everywhere
    seed: int | None = None  # None: that of the job
    speaker: str | None = None  # file with its vector, or its number; None: that of the job


@dataclass(frozen=True)
class Found:
    """A source, and the name that its output shall have before it is normalised."""

    source: str
    out: str  # relative, with its ending
    seed: int | None = None
    speaker: str | None = None


def collect(
    inputs: Sequence[str], root: str, *, reads: Iterable[str], format: str = "wav"
) -> list[Item]:
    """Pair every input with its output below `root`; nothing is read or written.

    Parameters
    ----------
    inputs : sequence of str
        Files, folders (searched through; their layout is kept), or "-".
    root : str
        The output root; audio in it is no input where it lies below one of the folders.
    reads : iterable of str
        Endings looked for in folders, such as ".npy".
    format : str
        Ending of outputs without the dot.

    Raises
    ------
    InputError
        For a missing input, a folder that is empty or cannot be read, names that are unusable or
        clash (all listed), or an output that is also an input.
    """
    endings = {ending.lower() for ending in reads}
    return pair([one for name in inputs for one in expand(name, endings, format, root)], root)


def expand(name: str, endings: set[str], format: str, root: str) -> list[Found]:
    """Every file of one input; see `collect`."""
    if name == PIPE:
        return [Found(PIPE, f"stdin.{format}")]
    if os.path.isdir(name):
        is_made = _Made(name, root)
        found = [
            Found(os.path.join(folder, file), _below(name, folder, file, format))
            for folder, file in walk(name, endings)
            if not is_made(folder, file)
        ]
        if not found:
            raise InputError(
                f"The folder {name!r} holds no file ending in {', '.join(sorted(endings))}."
            )
        return sorted(found, key=lambda one: one.source)
    if not os.path.exists(name):
        raise InputError(f"The input {name!r} does not exist.")
    return [Found(name, f"{PurePath(name).stem}.{format}")]


def walk(top: str, endings: set[str]) -> Iterator[tuple[str, str]]:
    """Folder and name of every file below `top` with one of these endings, in order.

    Raises
    ------
    InputError
        If a folder cannot be read: what is in it must not be left out unseen.
    """

    def refuse(error: OSError) -> None:
        raise InputError(
            f"The folder {error.filename!r} cannot be read ({error.strerror}). Nothing was done."
        ) from error

    for folder, below, files_here in os.walk(top, onerror=refuse):
        below.sort()  # which `os.walk` then follows
        for file in sorted(files_here):
            if PurePath(file).suffix.lower() in endings and os.path.isfile(f"{folder}/{file}"):
                yield folder, file


class _Made:
    """Whether a file below an input folder lies where outputs go, and so is no input.

    Recordings are copied into a folder below their own, and the next run must not take the copies
    for recordings.
    """

    def __init__(self, top: str, root: str) -> None:
        self._root = PurePath(os.path.realpath(root))
        outer = PurePath(os.path.realpath(top))
        self._folders: dict[str, bool] = {}
        self._possible = self._root != outer and self._root.is_relative_to(outer)

    def __call__(self, folder: str, file: str) -> bool:
        if not self._possible or PurePath(file).suffix.lower() not in AUDIO_SUFFIXES:
            return False
        if folder not in self._folders:
            here = PurePath(os.path.realpath(folder))
            self._folders[folder] = here.is_relative_to(self._root)
        return self._folders[folder]


def _below(top: str, folder: str, file: str, format: str) -> str:
    below = PurePath(os.path.relpath(folder, top), file)
    return below.with_suffix(f".{format}").as_posix()


def pair(found: Iterable[Found], root: str) -> list[Item]:
    """Give every source its output; raises as `collect`."""
    items: list[Item] = []
    problems: list[str] = []
    for one in found:
        try:
            name = names.normalize(one.out)
        except InputError as error:
            problems.append(f"{one.source!r}: {error}")
            continue
        target = os.path.join(root, *name.split("/"))
        items.append(Item(one.source, target, name, one.seed, one.speaker))
    names.refuse("These outputs cannot be named:", problems, "Nothing was done.")
    _refuse_clashes(items)
    outside = [f"{name!r}" for name in names.leads_out(Path(root), (i.name for i in items))]
    names.refuse(
        f"A symbolic link leads these out of the output folder {root!r}:",
        outside,
        "Remove the link, or choose another folder with -o. Nothing was done.",
    )
    return items


def _refuse_clashes(items: Sequence[Item]) -> None:
    """No two items with one output, also where upper and lower case are the same; no input lost."""
    taken: dict[str, Item] = {}
    problems: list[str] = []
    for item in items:
        other = taken.setdefault(names.key(item.name), item)
        if other is not item:
            problems.append(
                f"{other.source!r} and {item.source!r} would both be written to {item.name!r}"
            )
    real = _RealPaths()
    sources = {real(item.source) for item in items if item.source != PIPE}
    problems += [
        f"the output {item.target!r} is also an input"
        for item in items
        if real(item.target) in sources
    ]
    names.refuse(
        "Outputs clash:", problems, "Rename them, or use another -o or two runs. Nothing was done."
    )


class _RealPaths:
    """`os.path.realpath`, but every folder is looked at once only."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        if os.path.islink(path):
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], name)
