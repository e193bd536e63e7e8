"""Hiroshiba/yukarin_wavernn (network/wave_rnn.py): a GRU over labels and local features.

The features are what a user trained on, at `local_scale` samples a frame, through bidirectional
GRUs (``local_gru``); a model without them is unconditioned. Trained with masked waves, the
embedding has one row more, for a label that generation never feeds back. Models with a speaker
embedding or with convolutions over the features (``local_encoder``) are refused.
"""

from __future__ import annotations

import re

from ..canonical import show_shape
from ..errors import ModelError
from ..network_config import NetworkConfig
from ..presets import get_preset
from . import embedded
from .layout import Converted, Dialect, Layout, State, checked_sizes, solve

_LOCAL = "local_gru"
_EMBEDDING = "x_embedder.weight"
_REFUSED = (
    ("speaker_embedder.", "a speaker embedding, which no caller could choose here"),
    ("local_encoder.", "convolutions over its features"),
)


def _names(state: State) -> embedded.Names:
    heard = any(name.startswith(f"{_LOCAL}.") for name in state)
    return embedded.Names((_LOCAL,) if heard else (), "x_embedder", "gru", "O1", "O2")


def _layout(state: State) -> Layout:
    names, layers = _names(state), {_LOCAL: embedded.gru_layers(_LOCAL, state)}
    core = embedded.core_layout(names, "E+2D" if names.network else "E")
    core[_EMBEDDING] = "X E"  # X: the labels, or one more
    return embedded.network_layout(names, layers) | core


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes: C, X, E, R, F, and D and M of a model that hears features."""
    return solve(_layout(state), state)


def convert(state: State) -> Converted:
    """Turn a yukarin_wavernn state dict into canonical weights.

    Raises
    ------
    ModelError
        Listing every missing, extra, misshapen or not finite tensor and every unusable size; or if
        the model has a part that is not supported.
    """
    for prefix, what in _REFUSED:
        if any(name.startswith(prefix) for name in state):
            raise ModelError(f"This yukarin_wavernn model has {what}: it is not supported.")

    def problems(sizes: dict[str, int]) -> list[str]:
        found = embedded.size_problems(sizes)
        rows, classes = sizes.get("X"), sizes.get("C", 0)
        if rows is not None and rows not in (classes, classes + 1):
            shape = show_shape(state[_EMBEDDING].shape)
            found.append(f"{_EMBEDDING} has shape {shape}, expected {classes} rows or one more")
        return found

    sizes = checked_sizes("yukarin", _layout(state), (), state, problems)
    names, layers = _names(state), {_LOCAL: embedded.gru_layers(_LOCAL, state)}
    tensors = embedded.core_tensors(state, names, sizes["E"])
    tensors["embedding.weight"] = tensors["embedding.weight"][: sizes["C"]].copy()
    network = None
    if names.network:
        tensors |= embedded.network_tensors(state, names, layers)
        network = NetworkConfig(kind="gru", layers=layers[_LOCAL], size=sizes["D"])
    return embedded.converted(
        sizes,
        tensors,
        network,
        first_label=sizes["C"] // 2,
        hop_length=get_preset("yukarin").hop_length if network else 1,
        source=DIALECT.name,
    )


DIALECT = Dialect(
    name="yukarin",
    names=re.compile(r"(x_embedder|local_gru|local_encoder|speaker_embedder|gru|O[12])\."),
    presets=("yukarin",),
    sizes=sizes_of,
    convert=convert,
)
