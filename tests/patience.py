"""Bounds on seconds that hold on a busy machine too, and still find what is slow by itself.

Others may take the processor while a test looks at the clock. They do not every time: what is asked
for within a second is tried again, and a fault makes every try late.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

TRIES = 4


class Late(AssertionError):
    """Something was right, but came late."""


def within(seconds: float, began: float, ended: float | None = None) -> None:
    """Check that `seconds` at most passed from `began` to `ended` or now, by `time.monotonic`."""
    passed = (time.monotonic() if ended is None else ended) - began
    if passed > seconds:
        raise Late(f"after {passed:.2f} s, not within {seconds} s")


def soon(test: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a test that calls `within`: it may be late all but once of `TRIES` times.

    Every try has a `tmp_path` of its own. Any other failure counts at once.
    """

    @functools.wraps(test)
    def tried(*arguments: Any, **fixtures: Any) -> Any:
        folder = fixtures.get("tmp_path")
        for number in range(1, TRIES + 1):
            if folder is not None:
                fixtures["tmp_path"] = folder / f"try-{number}"
                fixtures["tmp_path"].mkdir()
            try:
                return test(*arguments, **fixtures)
            except Late:
                if number == TRIES:
                    raise

    return tried
