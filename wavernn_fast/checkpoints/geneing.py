"""The single-GRU model of geneing/WaveRNN-Pytorch and its copies (turian, tiberiu44, ZDisket).

fatchord's model without the second GRU and the middle layer (reference: geneing/WaveRNN-Pytorch,
model.py and library/src/net_impl.cpp): with u = I [x; mel; a1] and h = GRU(u), the outputs are
fc3 relu(fc1 [u + h; a2]). It is the residual core with a second GRU of zeros, whose state stays
zero, and a second layer that is the identity, which after a relu changes nothing. The engine finds
the zeros and does not multiply them.

The auxiliary network has two slices, a1 and a2. The later programs cut the last channel of a1 off
so that I has a multiple of 8 columns for their groups of pruned weights.

A model comes as a PyTorch checkpoint or as the file ``model.bin`` that their `convert_model.py`
writes (`model_bin`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import fatchord
from .layout import Converted, Dialect, Layout, State, batch_norm_counters, checked_sizes, solve

_MAX_WIDTH = 1 << 13  # of fc1; its square is what the identity behind it takes
_AUX = "upsample.resnet.conv_out"


def _layout(state: State) -> Layout:
    """As fatchord's, A channels of one of two slices; I hears all of the first or all but one."""
    layout = fatchord.layout_of(fatchord.variant_of(state))
    for part in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        del layout[f"rnn2.{part}"]
    for part in ("weight", "bias"):
        del layout[f"fc2.{part}"]
    layout |= {f"{_AUX}.weight": "2A W 1", f"{_AUX}.bias": "2A"}
    if _drops_a_channel(solve({k: v for k, v in layout.items() if k != "I.weight"}, state), state):
        layout["I.weight"] = "R M+A"
    return layout


def _drops_a_channel(sizes: Mapping[str, int], state: State) -> bool:
    columns = getattr(state.get("I.weight"), "shape", ())[1:]
    return columns == (sizes.get("M", 0) + sizes.get("A", 0),)


def _first_and_third(slices: NDArray[Any], size: int) -> NDArray[Any]:
    """Two slices [2A, ...] where four [4A, ...] are expected; nobody hears the others."""
    nothing = np.zeros_like(slices[:size])
    return np.concatenate([slices[:size], nothing, slices[size:], nothing])


def embedded(state: State, sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Write the model as one of fatchord's layout."""
    units, width, aux = sizes["R"], sizes["K"], sizes["A"]
    whole = dict(state)
    for part in ("weight", "bias"):
        whole[f"{_AUX}.{part}"] = _first_and_third(state[f"{_AUX}.{part}"], aux)
    weight = np.zeros((units, 1 + sizes["M"] + aux), dtype=np.float32)
    weight[:, : state["I.weight"].shape[1]] = state["I.weight"]
    whole["I.weight"] = weight
    whole["rnn2.weight_ih_l0"] = np.zeros((3 * units, units + aux), dtype=np.float32)
    whole["rnn2.weight_hh_l0"] = np.zeros((3 * units, units), dtype=np.float32)
    for side in ("ih", "hh"):
        whole[f"rnn2.bias_{side}_l0"] = np.zeros(3 * units, dtype=np.float32)
    whole["fc2.weight"] = np.eye(width, width + aux, dtype=np.float32)
    whole["fc2.bias"] = np.zeros(width, dtype=np.float32)
    return whole


def _size_problems(sizes: Mapping[str, int]) -> list[str]:
    found = fatchord.size_problems(sizes)
    if sizes.get("K", 0) > _MAX_WIDTH:
        found.append(f"fc1 has {sizes['K']} units, limit {_MAX_WIDTH}")
    return found


def _fits(state: State) -> bool:
    """Nothing of a second GRU or a middle layer."""
    return not any(name.startswith(("rnn2.", "fc2.")) for name in state)


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes: R, K, M, A, C, W, T and the taps S0, S1, ..."""
    return solve(_layout(state), state)


def convert(state: State) -> Converted:
    """Turn a state dict of the single-GRU model into canonical weights.

    Raises
    ------
    ModelError
        Listing every missing, extra, misshapen or not finite tensor and every unusable size.
    """
    layout = _layout(state)
    optional = [*batch_norm_counters(layout), "step"]
    sizes = checked_sizes("geneing", layout, optional, state, _size_problems)
    return fatchord.convert_checked(embedded(state, sizes), sizes, DIALECT.name)


DIALECT = Dialect(
    name="geneing",
    names=re.compile(
        r"(I|rnn1|fc[13]|upsample\.up_layers|"
        r"upsample\.resnet\.(conv_in|batch_norm|layers|conv_out))\.|step$"
    ),
    presets=("geneing",),
    sizes=sizes_of,
    convert=convert,
    fits=_fits,
)
