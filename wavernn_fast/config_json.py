"""Configurations from JSON: every unknown, missing or mistyped field is named."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .errors import ModelError

_KINDS: dict[type, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    bool: (bool,),
    str: (str,),
}


def _is_range(value: object) -> bool:
    """Accept null, or a list of two finite numbers in rising order."""
    if value is None:
        return True
    if not isinstance(value, list) or len(value) != 2:
        return False
    numbers = all(isinstance(n, (int, float)) and math.isfinite(n) for n in value)
    return numbers and value[0] < value[1]


def _is_block_shape(value: object) -> bool:
    """Accept null, or a list of two integers."""
    return value is None or (
        isinstance(value, list) and len(value) == 2 and all(type(n) is int for n in value)
    )


def _is_names(value: object) -> bool:
    """Accept a list of strings."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


# fields stored as lists -> what they must hold, in words and as a check
_LISTS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "clip": ("null or two numbers, lowest first", _is_range),
    "block_shape": ("null or two integers", _is_block_shape),
    "pruned": ("a list of names", _is_names),
}


def build(cls: type[Any], raw: object, **given: Any) -> Any:
    """Make dataclass `cls` from a JSON object; fields `given` are no part of it.

    Raises
    ------
    ModelError
        Listing every unknown, missing or mistyped field.
    """
    if not isinstance(raw, dict):
        raise ModelError(f"{cls.__name__} is stored as {type(raw).__name__}, expected an object.")
    fields, types = {f.name: f for f in dataclasses.fields(cls)}, get_type_hints(cls)
    problems = [f"unknown field {name!r}" for name in raw if name not in fields]
    for name, value in raw.items():
        expected = _expected(name, value, types[name]) if name in fields else None
        if expected is not None:
            problems.append(f"{name} is {value!r}, expected {expected}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in raw and name not in given:
            problems.append(f"missing field {name!r}")
    if problems:
        raise ModelError(f"{cls.__name__} in the model file is not usable:", problems)
    values = {n: tuple(v) if n in _LISTS and v is not None else v for n, v in raw.items()}
    return cls(**values, **given)


def _expected(name: str, value: object, kind: Any) -> str | None:
    """Say what a field must be; None if `value` is that."""
    if get_origin(kind) is Literal:
        allowed = get_args(kind)
        return None if value in allowed else f"one of {', '.join(allowed)}"
    if name in _LISTS:
        words, holds = _LISTS[name]
        return None if holds(value) else words
    kinds = _KINDS.get(kind, ())
    if kinds and (not isinstance(value, kinds) or (bool not in kinds and type(value) is bool)):
        return str(kind.__name__)
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    return None
