"""univoc: van Niekerk's universal vocoder, a GRU over labels and two bidirectional GRUs.

bshall/UniversalVocoding, univoc/model.py (0.2: ``rnn1`` of two layers, ``rnn2``) and model.py
before it (0.1: the same layers and 9 bits; another one has ``rnn1`` and ``rnn2`` of one layer each,
and ``rnn3``). Not told by the tensors, and taken from a preset: samples a frame, sample rate, mel
settings, the meaning of a label.
"""

from __future__ import annotations

import re

from ..network_config import NetworkConfig
from ..presets import get_preset
from . import embedded
from .layout import Converted, Dialect, Layout, State, checked_sizes, solve

_NOW = embedded.Names(("rnn1",), "embedding", "rnn2", "fc1", "fc2")
_FIRST = embedded.Names(("rnn1", "rnn2"), "embedding", "rnn3", "fc1", "fc2")


def _is_first(state: State) -> bool:
    """Whether its layers are those of models before 0.2 alone, with a third GRU over labels."""
    return any(name.startswith("rnn3.") for name in state)


def _names(state: State) -> tuple[embedded.Names, dict[str, int]]:
    """The names of the version, and the layers of each module of the network."""
    if _is_first(state):
        return _FIRST, {"rnn1": 1, "rnn2": 1}
    return _NOW, {"rnn1": max(2, embedded.gru_layers("rnn1", state))}


def _layout(state: State) -> Layout:
    names, layers = _names(state)
    return embedded.network_layout(names, layers) | embedded.core_layout(names, "E+2D")


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes: C, E, R, F, D, M."""
    return solve(_layout(state), state)


def convert(state: State) -> Converted:
    """Turn a univoc state dict into canonical weights.

    Raises
    ------
    ModelError
        Listing every missing, extra, misshapen or not finite tensor and every unusable size.
    """
    sizes = checked_sizes("univoc", _layout(state), (), state, embedded.size_problems)
    names, layers = _names(state)
    return embedded.converted(
        sizes,
        embedded.core_tensors(state, names, sizes["E"])
        | embedded.network_tensors(state, names, layers),
        NetworkConfig(kind="gru", layers=sum(layers.values()), size=sizes["D"]),
        first_label=sizes["C"] // 2,
        hop_length=get_preset("univoc-v0.2").hop_length,
        source=DIALECT.name,
    )


def _presets(state: State) -> tuple[str, ...]:
    """Versions differ in mel and meaning of a label; 0.1 and 0.2 have the same layers.

    Of such, 9 bits are those of 0.1.
    """
    labels = solve(_layout(state), state).get("C")
    return ("univoc-v0.1",) if _is_first(state) or labels == 512 else ("univoc-v0.2",)


DIALECT = Dialect(
    name="univoc",
    names=re.compile(r"(rnn[123]|embedding|fc[12])\."),
    presets=("univoc-v0.2", "univoc-v0.1"),
    sizes=sizes_of,
    convert=convert,
    presets_of=_presets,
)
