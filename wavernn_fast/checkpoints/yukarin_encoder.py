"""Convolutions over the features of yukarin_wavernn (network/local_encoder.py), of three kinds.

All begin with a dense layer ``pre`` and go on with residual blocks whose convolution of three
frames is dilated 1, 2, 4, ...: `SkipDilatedCNN` with that convolution alone,
`ResidualBottleneckDilatedCNN` with it between two dense layers of a quarter of the channels, both
with normalised weights; and `ResidualBottleneckDilatedCNNBN` with batch-norms in their place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..canonical import Tensors
from ..network_config import NetworkConfig
from .layout import Layout, State, batch_norm_counters, float32, fold_batch_norm

MODULE = "local_encoder"
Kind = Literal["skip", "bottleneck", "bottleneck_bn"]

_LISTS = re.compile(rf"{MODULE}\.(?:conv|bn)\d?_list\.(\d+)\.")
_NORM = ("weight", "bias", "running_mean", "running_var")
_MAX_LAYERS = 16
# convolution -> channels out and in, frames that it sees; D channels, Q in between
_SKIP = {"conv": ("D", "D", 3)}
_BOTTLENECK = {"conv1": ("Q", "D", 1), "conv2": ("Q", "Q", 3), "conv3": ("D", "Q", 1)}
_NORMED = {"bn1": "D", "bn2": "Q", "bn3": "Q"}  # bn1 stands before conv1, the others behind one


def present(state: State) -> bool:
    """Whether the model has such a network."""
    return any(name.startswith(f"{MODULE}.") for name in state)


def kind_of(state: State) -> Kind:
    """Which of the three it is, by the names of its lists."""
    if any(name.startswith(f"{MODULE}.bn") for name in state):
        return "bottleneck_bn"
    narrow = any(re.match(rf"{MODULE}\.conv\d_list\.", name) for name in state)
    return "bottleneck" if narrow else "skip"


def _layers(state: State) -> int:
    found = [int(match[1]) + 1 for match in map(_LISTS.match, state) if match]
    return min(max(found, default=1), _MAX_LAYERS)


def _convolutions(state: State) -> dict[str, tuple[str, str, int]]:
    return _SKIP if kind_of(state) == "skip" else _BOTTLENECK


def layout(state: State, inputs: str) -> Layout:
    """Every tensor; `inputs` are the channels that the first layer hears."""
    normed = kind_of(state) == "bottleneck_bn"
    found: Layout = {f"{MODULE}.pre.weight": f"D {inputs} 1", f"{MODULE}.pre.bias": "D"}
    for i in range(_layers(state)):
        for conv, (out, heard, kernel) in _convolutions(state).items():
            name = f"{MODULE}.{conv}_list.{i}"
            found[f"{name}.bias"] = out
            found[f"{name}.weight" if normed else f"{name}.weight_v"] = f"{out} {heard} {kernel}"
            if not normed:
                found[f"{name}.weight_g"] = f"{out} 1 1"
        for norm, channels in _NORMED.items() if normed else ():
            found |= {f"{MODULE}.{norm}_list.{i}.{part}": channels for part in _NORM}
    return found


def optional(state: State) -> list[str]:
    """Tensors that may be there and are of no use."""
    return batch_norm_counters(layout(state, "M"))


def problems(state: State, sizes: Mapping[str, int]) -> list[str]:
    """What keeps such a network from being one of ours."""
    narrow, wide = sizes.get("Q"), sizes.get("D", 0)
    if kind_of(state) != "skip" and narrow is not None and narrow != wide // 4:
        return [f"the narrow layers have {narrow} channels, expected a quarter of {wide}"]
    return []


def network(state: State, sizes: Mapping[str, int]) -> NetworkConfig:
    """What `tensors` are the weights of."""
    kind: Any = "dilated_conv" if kind_of(state) == "skip" else "bottleneck_conv"
    return NetworkConfig(kind=kind, layers=_layers(state), size=sizes["D"], kernel=3)


def tensors(state: State) -> Tensors:
    """Canonical weights; norms are folded in, but those before a block, which are its gain."""
    found: Tensors = {
        "network.pre.weight": float32(state[f"{MODULE}.pre.weight"][:, :, 0]),
        "network.pre.bias": float32(state[f"{MODULE}.pre.bias"]),
    }
    for i in range(_layers(state)):
        for conv, (_, _, kernel) in _convolutions(state).items():
            weight, bias = _weights(state, conv, i)
            name = f"network.{i}.{conv}"
            found[f"{name}.weight"] = float32(weight if kernel > 1 else weight[:, :, 0])
            found[f"{name}.bias"] = float32(bias)
        if kind_of(state) != "skip":
            found[f"network.{i}.gain"], found[f"network.{i}.shift"] = _gain(state, i)
    return found


def _norm(state: State, name: str, i: int) -> dict[str, NDArray[Any]]:
    return {part: state[f"{MODULE}.{name}_list.{i}.{part}"] for part in _NORM}


def _weights(state: State, conv: str, i: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weight [out, in, frames] and bias of a convolution, with its norm of either kind."""
    name = f"{MODULE}.{conv}_list.{i}"
    bias = state[f"{name}.bias"]
    if kind_of(state) == "bottleneck_bn":
        behind = {"conv1": "bn2", "conv2": "bn3"}.get(conv)
        if behind is None:
            return state[f"{name}.weight"], bias
        return fold_batch_norm(state[f"{name}.weight"], _norm(state, behind, i), bias)
    direction = state[f"{name}.weight_v"].astype(np.float64)
    length = np.sqrt((direction**2).sum(axis=(1, 2), keepdims=True))
    with np.errstate(divide="ignore"):  # of a row of zeros; the result is checked
        return state[f"{name}.weight_g"] * (direction / length), bias


def _gain(state: State, i: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a block multiplies its input with, and adds, before anything else: [D] each."""
    if kind_of(state) != "bottleneck_bn":
        size = len(state[f"{MODULE}.pre.bias"])
        return np.ones(size, np.float32), np.zeros(size, np.float32)
    ones = np.ones((len(state[f"{MODULE}.pre.bias"]), 1))
    gain, shift = fold_batch_norm(ones, _norm(state, "bn1", i))
    return float32(gain[:, 0]), shift
