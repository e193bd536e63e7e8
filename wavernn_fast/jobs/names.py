"""Names of outputs: one spelling for each, none that leads out of the output root.

A name is the path of an output below the root, "/" between its parts. It is the key of an item
everywhere: in journals, in `failed.jsonl`, in reports.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from .journal import FOLDER

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]")  # and what Windows takes for "/"
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.I | re.S)
_SHOWN = 20  # problems of one message


def normalize(path: str) -> str:
    """The name that an output asked for as `path` gets.

    Unicode is brought to NFC, so that a name typed on one system finds its file on another; a
    control character or a backslash becomes "_", and a name that Windows keeps for a device gets
    one in front. Bytes that are no UTF-8 stay as they are (`surrogateescape`).

    Parameters
    ----------
    path : str
        Relative, "/" between its parts.

    Raises
    ------
    InputError
        If it is empty or absolute, leads up (".."), or into the folder of the journals.
    """
    if path.startswith("/") or re.match(r"[A-Za-z]:[/\\]", path):
        raise InputError(f"the name {path!r} is absolute; give it relative to the output folder")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts:
        raise InputError(f"the name {path!r} is empty")
    if ".." in parts:
        raise InputError(f"the name {path!r} leads out of the output folder ('..')")
    parts = [_part(part) for part in parts]
    if parts[0].casefold() == FOLDER:
        raise InputError(f"the name {path!r} lies in {FOLDER}, where the job keeps its journals")
    return "/".join(parts)


def _part(part: str) -> str:
    part = _CONTROL.sub("_", unicodedata.normalize("NFC", part))
    return f"_{part}" if _RESERVED.fullmatch(part) else part


def key(name: str) -> str:
    """What two names that are one file on some system have in common: case and spelling."""
    return unicodedata.normalize("NFC", name.casefold())


def refuse(what: str, problems: list[str], advice: str) -> None:
    """Raise an `InputError` that lists all problems (many of them by their number); none: pass."""
    if not problems:
        return
    shown = "".join(f"\n  - {problem}" for problem in problems[:_SHOWN])
    more = len(problems) - _SHOWN
    rest = f"\n  and {more} more" if more > 0 else ""
    raise InputError(f"{what}{shown}{rest}\n{advice}")


def leads_out(root: Path, names: Iterable[str]) -> list[str]:
    """The names whose folder is a symbolic link, or below one, that leads out of the root."""
    top = os.path.realpath(root)
    found: list[str] = []
    inside: dict[str, bool] = {"": True}
    for name in names:
        folder = name.rpartition("/")[0]
        if folder not in inside:
            real = os.path.realpath(os.path.join(top, folder))
            inside[folder] = os.path.commonpath([top, real]) == top
        if not inside[folder]:
            found.append(name)
    return found
