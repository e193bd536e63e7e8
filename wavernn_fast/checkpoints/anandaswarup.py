"""anandaswarup/waveRNN (model.py): the model of univoc 0.2 under other names, at 22.05 kHz."""

from __future__ import annotations

import re

from ..network_config import NetworkConfig
from ..presets import get_preset
from . import embedded
from .layout import Converted, Dialect, Layout, State, checked_sizes, solve

_NETWORK = "conditioning_network"
_NAMES = embedded.Names(
    (_NETWORK,), "quantized_audio_embedding", "rnn", "linear_layer", "output_layer"
)


def _layers(state: State) -> dict[str, int]:
    return {_NETWORK: max(2, embedded.gru_layers(_NETWORK, state))}


def _layout(state: State) -> Layout:
    network = embedded.network_layout(_NAMES, _layers(state))
    return network | embedded.core_layout(_NAMES, "E+2D")


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes: C, E, R, F, D, M."""
    return solve(_layout(state), state)


def convert(state: State) -> Converted:
    """Turn an anandaswarup state dict into canonical weights.

    Raises
    ------
    ModelError
        Listing every missing, extra, misshapen or not finite tensor and every unusable size.
    """
    sizes = checked_sizes("anandaswarup", _layout(state), (), state, embedded.size_problems)
    layers = _layers(state)
    return embedded.converted(
        sizes,
        embedded.core_tensors(state, _NAMES, sizes["E"])
        | embedded.network_tensors(state, _NAMES, layers),
        NetworkConfig(kind="gru", layers=layers[_NETWORK], size=sizes["D"]),
        first_label=sizes["C"] // 2,
        hop_length=get_preset("anandaswarup").hop_length,
        source=DIALECT.name,
    )


DIALECT = Dialect(
    name="anandaswarup",
    names=re.compile(
        r"(conditioning_network|quantized_audio_embedding|rnn|linear_layer|output_layer)\."
    ),
    presets=("anandaswarup",),
    sizes=sizes_of,
    convert=convert,
)
