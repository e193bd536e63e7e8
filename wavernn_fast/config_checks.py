"""What is impossible about a configuration whatever the model: choices that are none, ranges."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from .config import OutputConfig


def choice_problems(config: Any) -> list[str]:
    """Fields of a dataclass whose value is none of those they may have, a sentence each."""
    return [
        f"{name} is {getattr(config, name)!r}, not one of {', '.join(allowed)}"
        for name, allowed in _choices(config.__class__).items()
        if getattr(config, name) not in allowed
    ]


@cache
def _choices(cls: type[Any]) -> dict[str, tuple[str, ...]]:
    """Fields that may have some values only, and which."""
    hints = get_type_hints(cls)
    return {
        field.name: get_args(hints[field.name])
        for field in dataclasses.fields(cls)
        if get_origin(hints[field.name]) is Literal
    }


def output_problems(output: OutputConfig) -> list[str]:
    """What is impossible about an output rule, a sentence each."""
    target, overlap = output.fold_target, output.fold_overlap
    need = (
        (0 <= overlap < target, f"folds of {target} samples do not overlap by {overlap}"),
        (
            -1.0 < output.deemphasis < 1.0,
            f"deemphasis is {output.deemphasis}, must be between -1 and 1",
        ),
        (
            output.fade_out_frames >= 0,
            f"fade_out_frames is {output.fade_out_frames}, must not be negative",
        ),
        (
            0.0 <= output.limit < math.inf,
            f"limit is {output.limit}, must not be negative and must be finite",
        ),
    )
    return choice_problems(output) + [sentence for ok, sentence in need if not ok]
