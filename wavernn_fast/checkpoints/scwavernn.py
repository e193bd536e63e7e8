"""SC-WaveRNN: fatchord's model whose input layer hears a speaker's vector of 256 numbers too.

The vector is the same at every sample: `Vocoder.generate(mel, speaker=...)` takes it.
"""

from __future__ import annotations

from . import fatchord
from .layout import Converted, Dialect, State, solve

SPEAKER_SIZE = 256  # of the published speaker encoder


def _variant(state: State) -> fatchord.Variant:
    return fatchord.variant_of(state)._replace(speaker=SPEAKER_SIZE)


def _fits(state: State) -> bool:
    """The input layer has 256 columns more than x, mel and a1 need."""
    weight = state.get("I.weight")
    if weight is None or weight.ndim != 2:
        return False
    rest = fatchord.layout_of(fatchord.variant_of(state))
    del rest["I.weight"]
    sizes = solve(rest, state)
    heard = 1 + sizes.get("A", 0) + SPEAKER_SIZE
    return bool(weight.shape[1] == heard + sizes["M"] if "M" in sizes else weight.shape[1] > heard)


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes, with fatchord's letters."""
    return solve(fatchord.layout_of(_variant(state)), state)


def convert(state: State) -> Converted:
    """Turn a state dict into canonical weights; see `fatchord.convert_variant`."""
    return fatchord.convert_variant(state, _variant(state), DIALECT.name)


DIALECT = Dialect(
    name="scwavernn",
    names=fatchord.NAMES,
    presets=("fatchord-raw9", "fatchord-mol"),  # the first is that of labels
    sizes=sizes_of,
    convert=convert,
    fits=_fits,
)
