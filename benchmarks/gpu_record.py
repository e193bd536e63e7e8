"""What one part of the GPU check found: saved again and again, so that a part that is cut off or
fails keeps what it had."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any


class Record(dict[str, Any]):
    """Results of a part as a dictionary, with its failures; a context that saves itself.

    Parameters
    ----------
    part : name
    path : where it is saved; None: nowhere, for runs by hand
    fields : first content
    """

    def __init__(self, part: str, path: Path | None, **fields: Any) -> None:
        super().__init__(part=part, state="running", result="", failures=[], **fields)
        self.path, self.begin = path, time.perf_counter()

    @property
    def result(self) -> str:
        """One line for the table."""
        return str(self["result"])

    @result.setter
    def result(self, text: str) -> None:
        self["result"] = text

    def save(self) -> None:
        self["seconds"] = round(time.perf_counter() - self.begin, 2)
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(finite(self), indent=1) + "\n")
        os.replace(temporary, self.path)

    @contextmanager
    def attempt(self, label: str) -> Iterator[None]:
        """Keep a failure of the block beside what it was about, and go on."""
        try:
            yield
        except Exception as error:
            text = short(error)
            self["failures"].append({"what": label, "error": text})
            print(f"FAILED {label}: {text}", file=sys.stderr, flush=True)

    def __enter__(self) -> Record:
        self.save()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None:
            self["state"] = "failures" if self["failures"] else "done"
        else:
            traceback.print_exception(kind, error, trace)
            self["state"] = "failed"
            self["error"] = short(error)
        self.save()
        if isinstance(error, Exception):
            raise SystemExit(1)
        if error is None and self["failures"]:
            print(f"{len(self['failures'])} failed", file=sys.stderr)
            raise SystemExit(1)
        return False


def short(error: BaseException, most: int = 3000) -> str:
    """Kind and message; a message that repeats whole arrays is cut."""
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def finite(value: Any) -> Any:
    """The same for JSON: no NaN or infinity, no numpy scalars."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not (float("-inf") < value < float("inf")):
        return None
    return value
