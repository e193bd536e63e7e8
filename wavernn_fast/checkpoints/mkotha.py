"""mkotha's WaveRNN: the dual-softmax cell conditioned on a mel upsampled by small filters.

Inputs of the GRU are mel, c_{t-1}, f_{t-1}, c_t. Each upsampling stage repeats values s times and
runs 2s - 1 taps and a bias without padding; one sample is cut at each end after the last, so n
frames give hop * (n - 2) samples (mkotha/WaveRNN, layers/upsample.py and layers/wavernn.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..canonical import Tensors
from ..errors import ModelError
from . import fir
from .deepmind import width_problems
from .fatchord import last_index
from .layout import Converted, Dialect, Layout, State, checked_sizes, float32, solve

_STAGE = re.compile(r"upsample\.up_layers\.(\d+)\.(?:weight|bias)$")
_LAYERS = {"coarse_fc1": "fc1", "coarse_fc2": "fc2", "fine_fc1": "fc3", "fine_fc2": "fc4"}


def upgraded(state: State) -> dict[str, NDArray[Any]]:
    """Give the keys of older files (``rnn.*``, ``gru.*``, ``fc1.*``, ``mask``) their prefix."""
    renamed = {}
    for name, array in state.items():
        new = re.sub(r"^(rnn|gru)\.", "wavernn.gru.", name)
        new = re.sub(r"^(fc[1-4]\.|mask$)", r"wavernn.\1", new)
        renamed[new] = array
    return renamed


def _layout(state: State) -> Layout:
    """D units in each half, M mel bins, F units of the output layers, S0.. taps."""
    layout = {
        "wavernn.gru.weight_ih_l0": "6D 3+M",
        "wavernn.gru.weight_hh_l0": "6D 2D",
        "wavernn.gru.bias_ih_l0": "6D",
        "wavernn.gru.bias_hh_l0": "6D",
    }
    for first, second in (("fc1", "fc2"), ("fc3", "fc4")):
        layout[f"wavernn.{first}.weight"] = "F D"
        layout[f"wavernn.{first}.bias"] = "F"
        layout[f"wavernn.{second}.weight"] = "256 F"
        layout[f"wavernn.{second}.bias"] = "256"
    names = [
        f"upsample.up_layers.{k}.weight"
        for k in range(min(last_index(_STAGE, state) + 1, fir.MAX_STAGES))
    ]
    scales = [(state[n].size + 1) // 2 if n in state else 0 for n in names]
    for k in range(fir.expected_stages(scales)):
        layout[f"upsample.up_layers.{k}.weight"] = f"1 1 1 S{k}"
        layout[f"upsample.up_layers.{k}.bias"] = "1"
    return layout


def _size_problems(sizes: Mapping[str, int]) -> list[str]:
    found = width_problems(sizes)
    taps = fir.taps_of(sizes)
    if any(n % 2 == 0 or n < 3 for n in taps):
        found.append(f"upsampling filters have {taps} taps, expected odd numbers 2s - 1 from 3 up")
    scales = [(n + 1) // 2 for n in taps]
    found += fir.few_problems(scales)
    hop = math.prod(scales)
    if hop > fir.MAX_HOP:
        found.append(f"the filters imply {hop} samples a frame, limit {fir.MAX_HOP}")
    return found


def _constant(filters: Sequence[NDArray[Any]], biases: Sequence[NDArray[Any]]) -> float:
    """What the biases of the stages add to every upsampled value: nothing is padded."""
    total = 0.0
    for taps, bias in zip(filters, biases, strict=True):
        total = total * float(taps.sum(dtype=np.float64)) + float(bias[0])
    return total


def _sample_weights(w_input: NDArray[Any], n_mels: int) -> NDArray[np.float32]:
    """Columns c_{t-1}, f_{t-1}, c_t; training masks c_t for the coarse half, so it is zero."""
    w_sample = float32(w_input[:, n_mels:])
    half = len(w_sample) // 6
    w_sample.reshape(3, 2, half, 3)[:, 0, :, 2] = 0.0
    return w_sample


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes: D, M, F and the taps S0, S1, ..."""
    state = upgraded(state)
    return solve(_layout(state), state)


def convert(state: State) -> Converted:
    """Turn an mkotha state dict into canonical weights.

    Raises
    ------
    ModelError
        Listing every missing, extra, misshapen or not finite tensor; or if the model has an
        auxiliary network, as the first version of 2018 had.
    """
    state = upgraded(state)
    if any(name.startswith("upsample.resnet.") for name in state):
        raise ModelError(
            "This mkotha checkpoint has an auxiliary network (upsample.resnet) that feeds the "
            "output layers. That version is not supported; the one with filters alone is."
        )
    sizes = checked_sizes("mkotha", _layout(state), ["wavernn.mask", "step"], state, _size_problems)
    upsampler, constant = _upsampling(state)
    fields = {
        "core": "dual",
        "hidden_size": 2 * sizes["D"],
        "fc_size": sizes["F"],
        "head": "dual_softmax",
        "n_classes": 256,
        "hop_length": len(upsampler.kernel),
        "n_mels": sizes["M"],
        "upsample_left": upsampler.left,
        "upsample_right": upsampler.right,
        "pad": "none",
        "first_input": 0.0,  # generation starts from the scaled values 0.0, not from labels 0
        "source": DIALECT.name,
    }
    tensors = dual_cell(state, sizes["M"], constant, _LAYERS)
    tensors["upsample.kernel"] = float32(upsampler.kernel)
    return Converted(fields, tensors)


def _upsampling(state: State) -> tuple[fir.Upsampler, float]:
    """Compose the kernel of all stages, and what their biases add to every value."""
    stages = range(last_index(_STAGE, state) + 1)
    filters = [state[f"upsample.up_layers.{k}.weight"].reshape(-1) for k in stages]
    biases = [state[f"upsample.up_layers.{k}.bias"] for k in stages]
    upsampler = fir.compose([(len(taps) + 1) // 2 for taps in filters], filters)
    return upsampler, _constant(filters, biases)


def dual_cell(state: State, n_mels: int, constant: float, layers: Mapping[str, str]) -> Tensors:
    """Split the input matrix; mel bins that are all `constant` higher are a bias.

    `layers` names the output layers below ``wavernn.``, ours first.
    """
    w_input = state["wavernn.gru.weight_ih_l0"]
    shift = constant * w_input[:, :n_mels].sum(axis=1, dtype=np.float64)
    tensors: Tensors = {
        "gru.w_recurrent": float32(state["wavernn.gru.weight_hh_l0"]),
        "gru.b_recurrent": float32(state["wavernn.gru.bias_hh_l0"]),
        "gru.b_input": float32(state["wavernn.gru.bias_ih_l0"] + shift),
        "gru.w_sample": _sample_weights(w_input, n_mels),
        "gru.w_conditioning": float32(w_input[:, :n_mels]),
    }
    for ours, theirs in layers.items():
        for part in ("weight", "bias"):
            tensors[f"{ours}.{part}"] = float32(state[f"wavernn.{theirs}.{part}"])
    return tensors


DIALECT = Dialect(
    name="mkotha",
    names=re.compile(
        r"(wavernn\.)?(gru\.|rnn\.|fc[1-4]\.|mask$)|upsample\.(up_layers|resnet)\.|step$"
    ),
    presets=("mkotha",),
    sizes=sizes_of,
    convert=convert,
)
