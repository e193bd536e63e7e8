"""yanggeng1995's WaveRNN: mkotha's dual-softmax cell behind a network over frames.

Two padded convolutions with a tanh, the mel added, two dense layers with a tanh, LSTM layers in one
direction if the class was made with them (its default, though not that of the published training
program), every frame then repeated 200 times (yanggeng1995/WaveRNN, layers/modules.py and
models/model.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..canonical import Tensors
from ..errors import ModelError
from ..network_config import NetworkConfig
from . import embedded
from .deepmind import width_problems
from .layout import Converted, Dialect, Layout, State, checked_sizes, float32, solve
from .mkotha import dual_cell

_HOP_LENGTH = 200  # the product of their scales (5, 5, 8), which no tensor tells
_CONVOLUTIONS = {0: "frame_net.convs.0", 1: "frame_net.convs.2"}
_DENSE = {0: "frame_net.fc.0", 1: "frame_net.fc.2"}
_LSTM = "upsample.lstm_layer"
_TRANSPOSED = "upsample.upsamples."
_LAYERS = {
    "coarse_fc1": "fc_coarse.0",
    "coarse_fc2": "fc_coarse.2",
    "fine_fc1": "fc_fine.0",
    "fine_fc2": "fc_fine.2",
}


def _layout(state: State) -> Layout:
    """D units in each half, M mel bins, which is what the network gives too, F of the outputs."""
    layout: Layout = {}
    for name in _CONVOLUTIONS.values():
        layout |= {f"{name}.weight": "M M K", f"{name}.bias": "M"}
    for name in _DENSE.values():
        layout |= {f"{name}.weight": "M M", f"{name}.bias": "M"}
    for layer in range(embedded.gru_layers(_LSTM, state)):
        for part in ("weight_ih", "weight_hh"):
            layout[f"{_LSTM}.{part}_l{layer}"] = "4M M"
        for part in ("bias_ih", "bias_hh"):
            layout[f"{_LSTM}.{part}_l{layer}"] = "4M"
    layout["wavernn.gru.weight_ih_l0"] = "6D 3+M"
    layout["wavernn.gru.weight_hh_l0"] = "6D 2D"
    layout |= {"wavernn.gru.bias_ih_l0": "6D", "wavernn.gru.bias_hh_l0": "6D"}
    layout["wavernn.mask"] = "6D 3+M"
    for half in ("coarse", "fine"):
        layout |= {f"wavernn.fc_{half}.0.weight": "F D", f"wavernn.fc_{half}.0.bias": "F"}
        layout |= {f"wavernn.fc_{half}.2.weight": "256 F", f"wavernn.fc_{half}.2.bias": "256"}
    return layout


def _size_problems(sizes: Mapping[str, int]) -> list[str]:
    kernel = sizes.get("K", 3)
    if kernel != 3:
        return [*width_problems(sizes), f"the convolutions see {kernel} frames, expected 3"]
    return width_problems(sizes)


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes: D, M, F, K."""
    return solve(_layout(state), state)


def convert(state: State) -> Converted:
    """Turn a yanggeng1995 state dict into canonical weights.

    Raises
    ------
    ModelError
        Listing every missing, extra, misshapen or not finite tensor; or if the model has
        transposed convolutions behind its network.
    """
    if any(name.startswith(_TRANSPOSED) for name in state):
        raise ModelError(
            "This yanggeng1995 checkpoint has transposed convolutions (transposed_conv2d) before "
            "its cell. That is not supported: the published class cannot run them either."
        )
    sizes = checked_sizes("yanggeng1995", _layout(state), [], state, _size_problems)
    network = NetworkConfig(
        kind="residual_conv",
        layers=2,
        size=sizes["M"],
        kernel=sizes["K"],
        lstm_layers=embedded.gru_layers(_LSTM, state),
    )
    fields: dict[str, Any] = {
        "core": "dual",
        "hidden_size": 2 * sizes["D"],
        "fc_size": sizes["F"],
        "head": "dual_softmax",
        "n_classes": 256,
        "hop_length": _HOP_LENGTH,
        "n_mels": sizes["M"],
        "network": network,
        "first_input": 0.0,  # generation starts from the scaled values 0.0, not from labels 0
        "source": DIALECT.name,
    }
    tensors: Tensors = dual_cell(state, sizes["M"], 0.0, _LAYERS)
    for names, ours in ((_CONVOLUTIONS, "network."), (_DENSE, "network.dense")):
        for i, theirs in names.items():
            for part in ("weight", "bias"):
                tensors[f"{ours}{i}.{part}"] = float32(state[f"{theirs}.{part}"])
    return Converted(fields, tensors | _lstm(state))


def _lstm(state: State) -> Tensors:
    """The LSTM layers; PyTorch stacks gates i, f, g, o, as the canonical form does."""
    tensors: Tensors = {}
    for layer in range(embedded.gru_layers(_LSTM, state)):
        ih, hh = (state[f"{_LSTM}.bias_{end}_l{layer}"].astype(np.float64) for end in ("ih", "hh"))
        tensors[f"network.lstm{layer}.bias"] = float32(ih + hh)
        for theirs, ours in (("ih", "w_input"), ("hh", "w_recurrent")):
            weight = state[f"{_LSTM}.weight_{theirs}_l{layer}"]
            tensors[f"network.lstm{layer}.{ours}"] = float32(weight)
    return tensors


DIALECT = Dialect(
    name="yanggeng",
    names=re.compile(r"wavernn\.(gru\.|fc_(coarse|fine)\.|mask$)|frame_net\.|upsample\.\w*l"),
    presets=("yanggeng",),
    sizes=sizes_of,
    convert=convert,
)
