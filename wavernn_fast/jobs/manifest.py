"""Lists of what is to be done: JSON lines, CSV with a header, Kaldi's scp.

    {"mel": "a.npy", "out": "speech/a.wav", "seed": 3, "speaker": "anna.npy"}      .jsonl
    mel,out,seed,speaker                                                           .csv
    utt-001 mels/001.npy                                                           .scp

Only the mel must be given; in scp the name of the output is the id. Relative paths start in the
folder of the list. Other fields are left alone. Of a list for `resynth` the field is "audio".
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from ..encoding import AUDIO_SUFFIXES
from ..errors import InputError
from ..files import PIPE, label, number_of, open_source
from . import names
from .items import Found

ENDINGS = (".jsonl", ".csv", ".scp")
_MAX_SEED = 2**64 - 1

Rows = Iterator[tuple[int, Mapping[str, Any]]]  # (number of the line, fields)


def read_manifest(path: str, *, format: str = "wav", field: str = "mel") -> list[Found]:
    """Read a list of items; nothing that it names is opened.

    Parameters
    ----------
    path : str
        Ends in .jsonl, .csv or .scp; "-" reads JSON lines from standard input, relative to the
        current folder.
    format : str
        Ending of outputs that have none.
    field : str
        Name of the source: "mel" or "audio".

    Raises
    ------
    InputError
        If it is of another kind, holds nothing, or lines are unusable (all are listed).
    AudioError
        If it cannot be read.
    """
    ending = ".jsonl" if path == PIPE else PurePath(path).suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"{label(path)} is no list; those end in {', '.join(ENDINGS)}.")
    rows = {".jsonl": _json_rows, ".csv": _csv_rows, ".scp": _scp_rows}[ending]
    top = "" if path == PIPE else os.path.dirname(path)
    found: list[Found] = []
    problems: list[str] = []
    for number, row in rows(_text(path), field, problems.append):
        try:
            found.append(_found(row, top, format, field))
        except InputError as error:
            problems.append(f"line {number}: {error}")
    names.refuse(f"{label(path)} cannot be used:", problems, "Nothing was done.")
    if not found:
        raise InputError(f"{label(path)} names nothing to do.")
    return found


def _text(path: str) -> str:
    source = open_source(path)  # refuses what is missing, empty or a folder
    if isinstance(source, str):
        with open(source, "rb") as file:
            data = file.read()
    else:
        data = source.read()
    return data.decode("utf-8-sig", "surrogateescape")


def _json_rows(text: str, field: str, problem: Callable[[str], None]) -> Rows:
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem(f"line {number}: no JSON ({error})")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            problem(f"line {number}: is {type(row).__name__}, expected an object")


def _csv_rows(text: str, field: str, problem: Callable[[str], None]) -> Rows:
    # People write "mel, out, seed": a column of the name " seed" would be left alone, unseen.
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        if field not in columns:
            problem(f"line 1: the header has no column {field!r}: {columns}")
            return
        reader.fieldnames = columns
        for row in reader:
            if row.get(None) is not None:
                problem(f"line {reader.line_num}: has more values than the header has columns")
                continue
            yield reader.line_num, {name: value for name, value in row.items() if value}
    except csv.Error as error:
        problem(f"line {reader.line_num}: no CSV ({error})")


def _scp_rows(text: str, field: str, problem: Callable[[str], None]) -> Rows:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        name, *rest = line.split(maxsplit=1)
        path = rest[0].strip() if rest else ""
        if not path:
            problem(f"line {number}: {line.strip()!r} is no 'id path'")
        elif path.endswith("|") or path.startswith("|"):
            problem(f"line {number}: {path!r} is a command; commands are never run")
        elif re.search(r"\.ark(:\d+)?(\[.*\])?$", path):
            problem(f"line {number}: {path!r} is a Kaldi archive; store each mel as .npy")
        else:
            yield number, {field: path, "out": name}


def _found(row: Mapping[str, Any], top: str, format: str, field: str) -> Found:
    source = _path(row, field, top)
    if source is None:
        raise InputError(f"has no {field!r}")
    out = row.get("out")
    if out is None:
        out = PurePath(source).stem
    elif not isinstance(out, str) or not out or not _can_be_named(out):
        raise InputError(f"'out' is {out!r}, expected a name")
    if PurePath(out).suffix.lower() not in AUDIO_SUFFIXES:
        out = f"{out}.{format}"
    return Found(source, out, _seed(row.get("seed")), _speaker(row, top))


def _path(row: Mapping[str, Any], field: str, top: str) -> str | None:
    value = row.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value or not _can_be_named(value):
        raise InputError(f"{field!r} is {value!r}, expected a path")
    if value == PIPE:
        raise InputError(f"{field!r} is '-', which no list may name")
    return os.path.join(top, value)


def _can_be_named(text: str) -> bool:
    """Whether a file can have this name: half of a pair, as JSON may hold one, has no bytes."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _speaker(row: Mapping[str, Any], top: str) -> str | None:
    """A file relative to the list, or a number of one of the model's speakers."""
    value = row.get("speaker")
    text = str(value) if type(value) in (int, str) else ""
    if number_of(text) is not None and not os.path.exists(os.path.join(top, text)):
        return text
    return _path(row, "speaker", top)


def _seed(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    if type(value) is not int or not 0 <= value <= _MAX_SEED:
        raise InputError(f"'seed' is {value!r}, expected 0 to 2**64 - 1")
    return value
