"""What an output on the command line is: one file, a pipe or a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..audio import MEL_SUFFIXES, READ_SUFFIXES
from ..errors import InputError
from ..files import PIPE, check_target

# Endings by which no folder is meant.
_OF_FILES = {*READ_SUFFIXES, *MEL_SUFFIXES, ".pt", ".pth", ".m4a", ".aac"}


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
        raise InputError(
            f"The output {output!r} is not written by this command; give a file ending in "
            f"{', '.join(written)}, or a folder."
        )
    return ending in written


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
