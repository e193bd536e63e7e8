"""What a job says of itself beside the journals of its workers: how much there is to do, its end.

Workers that are handed items one by one cannot know how many there are; a report of the job can,
from these lines. Nothing else reads them, so where none can be written the job goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from .journal import FOLDER


def note(root: str | os.PathLike[str], shard: str, state: str, **fields: Any) -> None:
    """Append one line to ``.wavernn-fast/job-<shard>.jsonl``: `state`, the time, `fields`.

    Parameters
    ----------
    root : path
        The output root; `FOLDER` is there.
    shard : str
        Such as "0of1".
    state : str
        "job" with ``items``, how many it will try; "over" with ``done``, ``failed``, ``left`` and
        ``reason``, why items are left.
    """
    line = {"state": state, "at": round(time.time(), 3), **fields}
    path = Path(root) / FOLDER / f"job-{shard}.jsonl"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
    # It begins with a line end: where a killed job has torn its last line, this one is whole.
    data = b"\n" + json.dumps(line).encode("ascii") + b"\n"
    with contextlib.suppress(OSError):
        file = os.open(path, flags, 0o666)
        try:
            os.write(file, data)
        finally:
            os.close(file)
