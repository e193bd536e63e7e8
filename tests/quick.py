"""Which cases of a test are quick: the others are marked `slow`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def first_is_quick(cases: Iterable[Any]) -> list[Any]:
    """Parameters of a test, all but the first marked `slow`."""
    first, *others = cases
    return [first, *(slow(values) for values in others)]


def quick_where(quick: Callable[[Any], bool], cases: Iterable[Any]) -> list[Any]:
    """Parameters of a test; those for which `quick` is not true are marked `slow`."""
    return [values if quick(values) else slow(values) for values in cases]


def slow(values: Any) -> Any:
    """One case, a value or a tuple of several parameters' values, marked `slow`."""
    return pytest.param(
        *(values if isinstance(values, tuple) else (values,)), marks=pytest.mark.slow
    )
