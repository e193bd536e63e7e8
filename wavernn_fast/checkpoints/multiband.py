"""Rongjiehuang/Multiband-WaveRNN: fatchord's model that draws four sub-bands a step.

The input layer hears the last sample of every band, four heads `fc30` to `fc33` come after `fc2`,
and the upsampling leads to a step, of four samples. The waveform is made by a synthesis filter bank
(`wavernn_fast.pqmf`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from . import fatchord
from .layout import Converted, Dialect, State, solve

BANDS = 4
PAD_VALUE = -5.0  # the floor of its mels, by which they are continued
_HEAD = re.compile(r"fc3[0-3]\.(weight|bias)$")


def _variant(state: State) -> fatchord.Variant:
    return fatchord.variant_of(state)._replace(bands=BANDS)


def _fits(state: State) -> bool:
    """Most of the tensors of its heads are there, which no other layout has."""
    return sum(1 for name in state if _HEAD.match(name)) >= BANDS


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes, with fatchord's letters."""
    return solve(fatchord.layout_of(_variant(state)), state)


def _size_problems(sizes: Mapping[str, int]) -> list[str]:
    classes = sizes.get("C", 512)
    found = fatchord.size_problems({**sizes, "C": 512})
    if fatchord.head_of(classes) != "softmax" or classes < 16:
        found.append(
            f"its heads have {classes} outputs each, expected a power of two from 16 up (softmax): "
            "its program draws nothing but labels (mode RAW)"
        )
    return found


def convert(state: State) -> Converted:
    """Turn a state dict into canonical weights; see `fatchord.convert_variant`."""
    fields, tensors = fatchord.convert_variant(state, _variant(state), DIALECT.name, _size_problems)
    return Converted({**fields, "pad_value": PAD_VALUE}, tensors)


DIALECT = Dialect(
    name="multiband",
    names=re.compile(rf"{fatchord.NAMES.pattern}|{_HEAD.pattern}"),
    presets=("multiband",),
    sizes=sizes_of,
    convert=convert,
    fits=_fits,
)
