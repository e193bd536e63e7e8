"""torchaudio.models.WaveRNN: fatchord's tensors under the names of nested Sequential modules.

The bundle's own pipeline feeds natural-log mels and converts them before the network; here the
network's input in [0, 1] is meant (preset ``torchaudio-ljspeech``).
"""

from __future__ import annotations

import re

from . import fatchord
from .layout import Converted, Dialect, State, batch_norm_counters, checked_sizes, solve

_SEQUENCE = "upsample.resnet.melresnet_model"
_BLOCK = re.compile(r"upsample\.resnet\.melresnet_model\.(\d+)\.resblock_model\.")
_FIRST_BLOCK = 3  # after convolution, batch-norm and ReLU
_IN_BLOCK = {"conv1": 0, "batch_norm1": 1, "conv2": 3, "batch_norm2": 4}
_MAX_BLOCKS = 256


def _counts(state: State) -> tuple[int, int]:
    """Numbers of residual blocks and of upsampling stages."""
    blocks = max(0, fatchord.last_index(_BLOCK, state) - _FIRST_BLOCK + 1)
    return min(blocks, _MAX_BLOCKS), fatchord.stages_of(state, "upsample.upsample_layers")


def _their_name(name: str, blocks: int) -> str:
    """Translate a name of the fatchord layout."""
    name = re.sub(r"^I\.", "fc.", name)
    name = name.replace("upsample.up_layers.", "upsample.upsample_layers.")
    fixed = {"conv_in": 0, "batch_norm": 1, "conv_out": _FIRST_BLOCK + blocks}
    for word, index in fixed.items():
        name = name.replace(f"upsample.resnet.{word}.", f"{_SEQUENCE}.{index}.")
    match = re.match(r"upsample\.resnet\.layers\.(\d+)\.(\w+)\.", name)
    if match:
        block = _FIRST_BLOCK + int(match[1])
        inner = f"{_SEQUENCE}.{block}.resblock_model.{_IN_BLOCK[match[2]]}."
        name = inner + name[match.end() :]
    return name


def _layout(state: State) -> dict[str, str]:
    blocks, stages = _counts(state)
    ours = fatchord.layout_for(blocks, stages)
    return {_their_name(name, blocks): words for name, words in ours.items()}


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes, with fatchord's letters."""
    return solve(_layout(state), state)


def convert(state: State) -> Converted:
    """Turn a torchaudio state dict into canonical weights.

    Raises
    ------
    ModelError
        Listing, under torchaudio's names, every missing, extra, misshapen or not finite tensor.
    """
    blocks, stages = _counts(state)
    layout = _layout(state)
    optional = [*batch_norm_counters(layout), "step"]
    sizes = checked_sizes("torchaudio", layout, optional, state, fatchord.size_problems)
    ours = fatchord.layout_for(blocks, stages)
    renamed = {name: state[_their_name(name, blocks)] for name in ours}
    return fatchord.convert_checked(renamed, sizes, DIALECT.name)


DIALECT = Dialect(
    name="torchaudio",
    names=re.compile(
        r"(fc|rnn[12]|fc[123]|upsample\.upsample_layers|upsample\.resnet\.melresnet_model)\.|step$"
    ),
    presets=("torchaudio-ljspeech", "fatchord-mol"),
    sizes=sizes_of,
    convert=convert,
)
