"""Numbers of the caller's, checked: seeds, counts, temperatures."""

from __future__ import annotations

import math
import operator
from typing import Any

from .errors import InputError


def to_seed(value: Any) -> int:
    """Check a seed: any integer from 0 to 2**64 - 1.

    Raises
    ------
    InputError
        If it is no integer or out of range.
    """
    try:
        seed = operator.index(value)
    except TypeError:
        raise InputError(f"The seed is {value!r}, expected an integer.") from None
    if isinstance(value, bool) or not 0 <= seed < 2**64:
        raise InputError(f"The seed is {value!r}, expected an integer from 0 to 2**64 - 1.")
    return seed


def to_count(value: Any, what: str, least: int = 0, most: int | None = None) -> int:
    """Check a number of things: an integer of at least `least`, at most `most` if that is given.

    Raises
    ------
    InputError
        If it is none.
    """
    try:
        count = operator.index(value)
    except TypeError:
        raise InputError(f"{what} is {value!r}, expected an integer.") from None
    if isinstance(value, bool) or count < least:
        raise InputError(f"{what} is {value!r}, expected an integer of at least {least}.")
    if most is not None and count > most:
        raise InputError(f"{what} is {value!r}, expected at most {most}.")
    return count


def to_temperature(value: Any, greedy: str = "greedy=True") -> float:
    """Check a temperature: a finite number above 0; `greedy` is what messages call its limit."""
    try:
        temperature = float(value)
    except (TypeError, ValueError):
        raise InputError(f"The temperature is {value!r}, expected a number.") from None
    if not (math.isfinite(temperature) and temperature > 0.0):
        way_out = f" (for no chance at all use {greedy})" if greedy else ""
        raise InputError(
            f"The temperature is {value!r}, expected a finite number above 0{way_out}."
        )
    return temperature
