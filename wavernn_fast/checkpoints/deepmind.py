"""fatchord's deepmind_version: the paper's dual-softmax cell, unconditioned.

Gates are stored update, reset, candidate; their one bias stands outside the reset product:
e = tanh(r * (R_e h) + I_e x + b_e) (fatchord/WaveRNN, models/deepmind_version.py). It becomes
`b_input`, and `b_recurrent`, which the reset gate would multiply, is zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ..canonical import Tensors
from .layout import Converted, Dialect, Layout, State, checked_sizes, float32, solve

# D units in each half; the state has 2D
_LAYOUT: Layout = {
    "R.weight": "6D 2D",
    "I_coarse.weight": "3D 2",
    "I_fine.weight": "3D 3",
    "bias_u": "2D",
    "bias_r": "2D",
    "bias_e": "2D",
    "O1.weight": "D D",
    "O1.bias": "D",
    "O2.weight": "256 D",
    "O2.bias": "256",
    "O3.weight": "D D",
    "O3.bias": "D",
    "O4.weight": "256 D",
    "O4.bias": "256",
}
_THEIR_GATES = (1, 0, 2)  # where reset, update and candidate stand in u, r, e
_LAYERS = {"coarse_fc1": "O1", "coarse_fc2": "O2", "fine_fc1": "O3", "fine_fc2": "O4"}


def width_problems(sizes: Mapping[str, int]) -> list[str]:
    """The engine packs units of each half in sixteens."""
    units = 2 * sizes.get("D", 16)
    if units % 32:
        return [f"the GRU has {units} units, expected a multiple of 32"]
    return []


def _sample_weights(state: State, half: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Columns c_{t-1}, f_{t-1}, c_t; the coarse half has no weight for c_t and gets zero."""
    both = np.zeros((3, 2, half, 3), dtype=np.float32)  # gate, half, unit, column
    both[:, 0, :, :2] = state["I_coarse.weight"].reshape(3, half, 2)
    both[:, 1] = state["I_fine.weight"].reshape(3, half, 3)
    return both[list(_THEIR_GATES)].reshape(6 * half, 3)


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes: D, half of the hidden size."""
    return solve(_LAYOUT, state)


def convert(state: State) -> Converted:
    """Turn a deepmind_version state dict into canonical weights.

    Raises
    ------
    ModelError
        Listing every missing, extra, misshapen or not finite tensor.
    """
    half = checked_sizes("deepmind", _LAYOUT, ["step"], state, width_problems)["D"]
    size = 2 * half
    recurrent = state["R.weight"].reshape(3, size, size)[list(_THEIR_GATES)]
    tensors: Tensors = {
        "gru.w_recurrent": float32(recurrent.reshape(3 * size, size)),
        "gru.b_recurrent": np.zeros(3 * size, dtype=np.float32),
        "gru.b_input": float32(np.concatenate([state[f"bias_{gate}"] for gate in "rue"])),
        "gru.w_sample": float32(_sample_weights(state, half)),
    }
    for ours, theirs in _LAYERS.items():
        for part in ("weight", "bias"):
            tensors[f"{ours}.{part}"] = float32(state[f"{theirs}.{part}"])
    fields = {
        "core": "dual",
        "hidden_size": size,
        "fc_size": half,
        "head": "dual_softmax",
        "n_classes": 256,
        "hop_length": 1,
        "first_input": -1.0,  # generation starts from c = f = 0, scaled 0 / 127.5 - 1
        "source": DIALECT.name,
    }
    return Converted(fields, tensors)


DIALECT = Dialect(
    name="deepmind",
    names=re.compile(r"R\.weight$|I_(coarse|fine)\.weight$|O[1-4]\.|bias_[ure]$|step$"),
    presets=("deepmind",),
    sizes=sizes_of,
    convert=convert,
)
