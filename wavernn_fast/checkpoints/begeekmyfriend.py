"""begeekmyfriend/WaveRNN: fatchord's model with biases in all convolutions and filters.

The mel is padded with its floor instead of zeros, all frames sound, and there is no fade-out. The
biases are folded away: those of a convolution into the batch-norm after it, those of the filters,
which are constant inside an utterance, into the input layer.
"""

from __future__ import annotations

import re

from ..config import OutputConfig
from . import fatchord
from .layout import Converted, Dialect, State, solve

_BIAS = re.compile(r"upsample\.(resnet\.(conv_in|layers\.\d+\.conv[12])|up_layers\.\d+)\.bias$")
PAD_VALUE = -4.0  # the floor of its mels, which lie in [-4, 4]


def _variant(state: State) -> fatchord.Variant:
    return fatchord.variant_of(state)._replace(biases=True)


def _fits(state: State) -> bool:
    """More than half of the biases are there, which fatchord's own layout has not."""
    found = sum(1 for name in state if _BIAS.match(name))
    expected = sum(1 for name in fatchord.layout_of(_variant(state)) if _BIAS.match(name))
    return 2 * found > expected


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes, with fatchord's letters."""
    return solve(fatchord.layout_of(_variant(state)), state)


def convert(state: State) -> Converted:
    """Turn a state dict into canonical weights; see `fatchord.convert_variant`."""
    fields, tensors = fatchord.convert_variant(state, _variant(state), DIALECT.name)
    return Converted({**fields, "pad_value": PAD_VALUE}, tensors)


DIALECT = Dialect(
    name="begeekmyfriend",
    names=fatchord.NAMES,
    presets=(),  # its mels are those of several Tacotron 2 programs
    sizes=sizes_of,
    convert=convert,
    fits=_fits,
    output=OutputConfig(mu_law=True),
)
