"""What an output on the command line is: one file, a pipe or a folder."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable
from pathlib import Path

import click

from ..audio import MEL_SUFFIXES, READ_SUFFIXES
from ..errors import InputError
from ..files import PIPE, check_target

# Endings by which no folder is meant.
_REPORTS = {".md", ".html", ".json", ".jsonl", ".csv", ".txt", ".png", ".svg"}
_OF_FILES = {*READ_SUFFIXES, *MEL_SUFFIXES, *_REPORTS, ".pt", ".pth", ".m4a", ".aac"}


def is_file(output: str, endings: Iterable[str]) -> bool:
    """Whether an output is one file, as its ending says, or a pipe; anything else is a folder.

    Raises
    ------
    InputError
        If it is empty, or named like a file that is not written here: a folder of that name would
        be a surprise.
    """
    if not output:
        raise InputError("The output is empty; give a file, a folder or '-' with -o.")
    if output == PIPE or os.path.isdir(output):
        return output == PIPE
    written, ending = tuple(endings), Path(output).suffix.lower()
    if ending in _OF_FILES and ending not in written:
        file = f"a file ending in {', '.join(written)}, or " if written else ""
        raise InputError(
            f"The output {output!r} is not written by this command; give {file}a folder."
        )
    return ending in written


def make_folders(targets: Iterable[str]) -> None:
    """Make the folders of outputs and check that they can be written, before any work.

    What is empty when the command ends, as it failed, goes again.

    Raises
    ------
    InputError
        Naming the folder and the system's reason.
    AudioError
        If a single target cannot be written; of many, each says so itself.
    """
    from ..jobs.plan import check_folder

    files = [*targets]
    context = click.get_current_context(silent=True)
    for folder in sorted({Path(target).parent for target in files}):
        new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
        if context is not None:
            context.call_on_close(functools.partial(_remove_empty, new))
        check_folder(folder)
    if len(files) == 1:
        check_target(files[0])


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, each below the next, as far as they are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):  # holds something by now, or was never made
            folder.rmdir()


def model_file(output: str, source: str) -> Path:
    """The canonical file that a command makes of a model; refused before the work.

    Raises
    ------
    InputError
        If it has another ending, is a folder or the model itself.
    AudioError
        If it cannot be written.
    """
    target = Path(output)
    if target.suffix != ".safetensors":
        raise InputError(f"The output {output!r} must end in .safetensors.")
    if target.is_dir():
        raise InputError(f"The output {output!r} is a folder, expected a file.")
    if target.resolve() == Path(source).resolve():
        raise InputError(f"The output {output!r} is the input; choose another name.")
    check_target(target)
    return target
