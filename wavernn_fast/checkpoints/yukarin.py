"""Hiroshiba/yukarin_wavernn (network/wave_rnn.py): a GRU over labels and local features.

The features are what a user trained on, at `local_scale` samples a frame, through bidirectional
GRUs (``local_gru``) or convolutions (``local_encoder``), with a speaker's vector behind every frame
in models of several speakers; a model without features is unconditioned. Trained with masked
waves, the embedding has one row more, for a label that generation never feeds back.
"""

from __future__ import annotations

import re
from typing import Any

from ..canonical import show_shape
from ..errors import ModelError
from ..network_config import NetworkConfig
from ..presets import get_preset
from . import embedded, yukarin_encoder
from .layout import Converted, Dialect, Layout, State, checked_sizes, float32, solve

_LOCAL = "local_gru"
_EMBEDDING = "x_embedder.weight"
_SPEAKERS = "speaker_embedder.weight"


def _names(state: State) -> embedded.Names:
    heard = any(name.startswith(f"{_LOCAL}.") for name in state)
    return embedded.Names((_LOCAL,) if heard else (), "x_embedder", "gru", "O1", "O2")


def _layout(state: State) -> Layout:
    """M features; P speakers of S numbers each, if there are any."""
    names, layers = _names(state), {_LOCAL: embedded.gru_layers(_LOCAL, state)}
    convolved = yukarin_encoder.present(state)
    heard = "M+S" if _SPEAKERS in state else "M"
    inputs = "E+2D" if names.network else "E+D" if convolved else "E"
    core = embedded.core_layout(names, inputs)
    core[_EMBEDDING] = "X E"  # X: the labels, or one more
    if _SPEAKERS in state and (names.network or convolved):
        core[_SPEAKERS] = "P S"
    if convolved:
        core |= yukarin_encoder.layout(state, heard)
    return embedded.network_layout(names, layers, heard) | core


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes: C, X, E, R, F; D and M with features, P and S with speakers."""
    return solve(_layout(state), state)


def _refuse_speaker_alone(state: State) -> None:
    """A model without features, whose network hears the same vector in every frame."""
    table = state.get(_SPEAKERS)
    for name in (f"{_LOCAL}.weight_ih_l0", f"{yukarin_encoder.MODULE}.pre.weight"):
        matrix = state.get(name)
        if table is None or matrix is None or table.ndim != 2 or matrix.ndim < 2:
            continue
        if matrix.shape[1] == table.shape[1]:
            raise ModelError(
                "This yukarin_wavernn model hears a speaker and no features: it is not supported."
            )


def _problems(state: State, sizes: dict[str, int]) -> list[str]:
    found = embedded.size_problems(sizes)
    if yukarin_encoder.present(state):
        found += yukarin_encoder.problems(state, sizes)
    rows, classes = sizes.get("X"), sizes.get("C", 0)
    if rows is not None and rows not in (classes, classes + 1):
        shape = show_shape(state[_EMBEDDING].shape)
        found.append(f"{_EMBEDDING} has shape {shape}, expected {classes} rows or one more")
    return found


def convert(state: State) -> Converted:
    """Turn a yukarin_wavernn state dict into canonical weights.

    Raises
    ------
    ModelError
        Listing every missing, extra, misshapen or not finite tensor and every unusable size; or if
        the model hears a speaker and no features.
    """
    _refuse_speaker_alone(state)
    convolved = yukarin_encoder.present(state)
    optional = yukarin_encoder.optional(state) if convolved else []
    sizes = checked_sizes(
        "yukarin", _layout(state), optional, state, lambda found: _problems(state, found)
    )
    names, layers = _names(state), {_LOCAL: embedded.gru_layers(_LOCAL, state)}
    tensors = embedded.core_tensors(state, names, sizes["E"])
    tensors["embedding.weight"] = tensors["embedding.weight"][: sizes["C"]].copy()
    network: NetworkConfig | None = None
    fields: dict[str, Any] = {}
    if names.network:
        tensors |= embedded.network_tensors(state, names, layers)
        network = NetworkConfig(kind="gru", layers=layers[_LOCAL], size=sizes["D"])
    elif convolved:
        tensors |= yukarin_encoder.tensors(state)
        network = yukarin_encoder.network(state, sizes)
    if _SPEAKERS in state:
        tensors["speakers.weight"] = float32(state[_SPEAKERS])
        fields = {"speakers": sizes["P"], "speaker_size": sizes["S"]}
    return embedded.converted(
        sizes,
        tensors,
        network,
        first_label=sizes["C"] // 2,
        hop_length=get_preset("yukarin").hop_length if network else 1,
        source=DIALECT.name,
        **fields,
    )


DIALECT = Dialect(
    name="yukarin",
    names=re.compile(r"(x_embedder|local_gru|local_encoder|speaker_embedder|gru|O[12])\."),
    presets=("yukarin", "yukarin-linear"),
    sizes=sizes_of,
    convert=convert,
)
