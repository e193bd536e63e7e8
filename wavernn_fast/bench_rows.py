"""Files of measurements, read with distrust: everything that is odd is named, with its row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import PathLike, label, open_source

MOST_ROWS = 400  # of one list; more do not fit a picture
EXPECTED = (
    "expected the JSON of 'wavernn-fast bench --json', or of benchmarks/throughput.py or "
    "stream_latency.py"
)
_MOST = 1e30  # beyond it a figure is a mistake
_PROBLEMS = 5  # of a file, in one message


class Row:
    """Fields of one row; what is wrong is noted, and a value that does no harm returned."""

    def __init__(self, fields: object, name: str, problems: list[str]) -> None:
        self.fields: dict[str, Any] = fields if isinstance(fields, dict) else {}
        self.name, self.problems = name, problems

    def number(self, key: str) -> float:
        """A positive number that must be there."""
        if self.fields.get(key) is None:
            self.problems.append(f'{self.name} has no "{key}"')
            return 1.0
        return self.optional(key) or 1.0

    def duration(self, key: str) -> float:
        """Seconds, which may be 0."""
        zero = self.fields.get(key) == 0 and not isinstance(self.fields[key], bool)
        return 0.0 if zero else self.number(key)

    def optional(self, key: str) -> float | None:
        """A positive number, or None where there is none."""
        value = self.fields.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.problems.append(f'{self.name}: "{key}" is {_shown(value)}, no number')
            return None
        if not 0.0 < value < _MOST:
            self.problems.append(f'{self.name}: "{key}" is {_shown(value)}, not above 0 and finite')
            return None
        return float(value)

    def count(self, key: str) -> int:
        """A whole number, 1 or more."""
        value = self.number(key)
        if value != int(value):
            self.problems.append(f'{self.name}: "{key}" is {value}, no whole number')
        return int(value)

    def word(self, key: str) -> str:
        """A string that must be there."""
        value = self.fields.get(key)
        if not isinstance(value, str):
            self.problems.append(f'{self.name} has no "{key}"')
            return ""
        return value


class Report:
    """A file of measurements; "-" is standard input.

    Raises
    ------
    InputError
        If the file is no JSON object.
    AudioError
        If the file cannot be read.
    """

    def __init__(self, path: PathLike) -> None:
        self._label, self._problems = label(path), list[str]()
        source = open_source(path)
        data = Path(source).read_bytes() if isinstance(source, str) else source.read()
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:  # bytes that are no text are a ValueError too
            raise InputError(f"{self._label} is not JSON ({error}); {EXPECTED}.") from error
        self.fields: dict[str, Any] = found if isinstance(found, dict) else {}

    def rows(self, key: str) -> list[Row]:
        """The list of that name; call `check` when all of it has been read.

        Raises
        ------
        InputError
            If there is no such list, or it is empty or too long.
        """
        rows = self.fields.get(key)
        if not isinstance(rows, list) or not rows:
            raise InputError(f'{self._label} has no list "{key}" with anything in it; {EXPECTED}.')
        if len(rows) > MOST_ROWS:
            raise InputError(
                f"{self._label} has {len(rows)} rows; more than {MOST_ROWS} do not fit a picture."
            )
        name = "row" if key == "rows" else f"{key}: row"
        return [Row(row, f"{name} {i}", self._problems) for i, row in enumerate(rows, start=1)]

    def check(self) -> None:
        """Raise an `InputError` that names the first problems of the rows, if there are any."""
        count = len(self._problems)
        if not count:
            return
        more = f"\n  - and {count - _PROBLEMS} more" if count > _PROBLEMS else ""
        listed = "".join(f"\n  - {problem}" for problem in self._problems[:_PROBLEMS])
        raise InputError(f"{self._label} cannot be drawn; {EXPECTED}:{listed}{more}")


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 30 else text[:27] + "..."
