"""What the dialects of the embedded core share: layouts, sizes and tensors under other names.

The published models are one GRU over the embedding of the last label beside what a network makes of
the mel; they differ in names. All GRUs are PyTorch's, which stacks gates r, z, n: reset, update,
candidate, as the canonical form does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..canonical import Tensors
from ..network_config import NetworkConfig
from .layout import Converted, Layout, State, float32

_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_OURS = {
    "weight_ih": "w_input",
    "weight_hh": "w_recurrent",
    "bias_ih": "b_input",
    "bias_hh": "b_recurrent",
}
_MAX_LAYERS = 16


class Names(NamedTuple):
    """What a dialect calls its parts."""

    network: tuple[str, ...]  # modules of bidirectional GRUs, in order; empty: no mel
    embedding: str
    gru: str
    fc1: str
    fc2: str


def gru_layers(module: str, names: Iterable[str]) -> int:
    """Layers of a `torch.nn.GRU`, at least 1 where there is any tensor of it."""
    pattern = re.compile(re.escape(module) + r"\.\w+?_l(\d+)(_reverse)?$")
    found = [int(match[1]) + 1 for match in map(pattern.match, names) if match]
    return min(max(found, default=0), _MAX_LAYERS)


def core_layout(names: Names, inputs: str) -> Layout:
    """C labels, E values of an embedding, R units, F of the hidden output layer."""
    layout = {f"{names.embedding}.weight": "C E"}
    shapes = (f"3R {inputs}", "3R R", "3R", "3R")
    for part, shape in zip(_PARTS, shapes, strict=True):
        layout[f"{names.gru}.{part}_l0"] = shape
    layout |= {f"{names.fc1}.weight": "F R", f"{names.fc1}.bias": "F"}
    layout |= {f"{names.fc2}.weight": "C F", f"{names.fc2}.bias": "C"}
    return layout


def network_layout(names: Names, layers: Mapping[str, int], inputs: str = "M") -> Layout:
    """D units of each direction, M mel bins."""
    layout: Layout = {}
    for module in names.network:
        for layer in range(layers[module]):
            for end in ("", "_reverse"):
                shapes = (f"3D {inputs}", "3D D", "3D", "3D")
                for part, shape in zip(_PARTS, shapes, strict=True):
                    layout[f"{module}.{part}_l{layer}{end}"] = shape
            inputs = "2D"
    return layout


def size_problems(sizes: Mapping[str, int]) -> list[str]:
    """List sizes that the engine cannot do."""
    found = []
    classes = sizes.get("C", 2)
    if classes < 2 or classes & (classes - 1):
        found.append(f"there are {classes} labels, expected a power of two")
    for symbol, what in (("R", "GRU"), ("F", "hidden output layer")):
        if sizes.get(symbol, 16) % 16:
            found.append(f"the {what} has {sizes[symbol]} units, expected a multiple of 16")
    return found


def core_tensors(state: State, names: Names, size: int) -> Tensors:
    """The autoregressive part; the first `size` input columns belong to the embedding."""
    w_input = state[f"{names.gru}.weight_ih_l0"]
    tensors: Tensors = {
        "embedding.weight": float32(state[f"{names.embedding}.weight"]),
        "gru.w_label": float32(w_input[:, :size]),
        "gru.w_recurrent": float32(state[f"{names.gru}.weight_hh_l0"]),
        "gru.b_input": float32(state[f"{names.gru}.bias_ih_l0"]),
        "gru.b_recurrent": float32(state[f"{names.gru}.bias_hh_l0"]),
    }
    if w_input.shape[1] > size:
        tensors["gru.w_conditioning"] = float32(w_input[:, size:])
    for ours, theirs in (("fc1", names.fc1), ("fc2", names.fc2)):
        for part in ("weight", "bias"):
            tensors[f"{ours}.{part}"] = float32(state[f"{theirs}.{part}"])
    return tensors


def network_tensors(state: State, names: Names, layers: Mapping[str, int]) -> Tensors:
    """The bidirectional GRUs, their layers counted through."""
    tensors: Tensors = {}
    number = 0
    for module in names.network:
        for layer in range(layers[module]):
            for way, end in (("forward", ""), ("backward", "_reverse")):
                for theirs, ours in _OURS.items():
                    array = state[f"{module}.{theirs}_l{layer}{end}"]
                    tensors[f"network.{number}.{way}.{ours}"] = float32(array)
            number += 1
    return tensors


def converted(
    sizes: Mapping[str, int],
    tensors: Tensors,
    network: NetworkConfig | None,
    **fields: Any,
) -> Converted:
    """Put tensors and the fields that all dialects share together.

    `fields`: ``first_label``, ``hop_length``, ``source``, and what else is not read off the sizes.
    """
    shared = {
        "core": "embedded",
        "head": "softmax",
        "hidden_size": sizes["R"],
        "fc_size": sizes["F"],
        "n_classes": sizes["C"],
        "embedding_size": int(np.shape(tensors["embedding.weight"])[1]),
        "n_mels": sizes.get("M", 0),
        "network": network,
    }
    return Converted(shared | fields, tensors)
