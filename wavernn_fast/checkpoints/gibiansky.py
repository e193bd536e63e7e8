"""gibiansky/wavernn (src/wavernn/model.py): a GRU over the sum of embedding and conditioning.

The conditioning is a stack of convolutions with tanh over the mel; nothing is padded, so the first
and last frames serve as context only. W_ih multiplies the sum of embedding and conditioning, so it
stands in both of the canonical matrices. The mel is normalised as (mel + centre) / scale, with the
sign of the source, which trained models have learned with.
"""

from __future__ import annotations

import re

import numpy as np

from ..canonical import Tensors
from ..network_config import NetworkConfig
from ..presets import get_preset
from . import embedded
from .fatchord import last_index
from .layout import Converted, Dialect, Layout, State, checked_sizes, float32, solve

_CONV = re.compile(r"conditioner\.model\.(\d+)\.")
_LAYERS = 3  # of the published configuration; a file with fewer has lost some
_NAMES = embedded.Names(
    (), "domain.embedding", "autoregressive.gru", "autoregressive.post_gru", "domain.linear"
)
_FIRST_LABEL = 127  # of silence: 0.5 * 255, rounded down


def _layers(state: State) -> int:
    """Convolutions stand at even places, a tanh after each."""
    return max(_LAYERS, min(last_index(_CONV, state) // 2 + 1, 16))


def _layout(state: State) -> Layout:
    """E channels of the convolutions and of an embedding, K frames that one sees, M mel bins."""
    layout = {"conditioner.input_range": "2"}
    for i in range(_layers(state)):
        layout[f"conditioner.model.{2 * i}.weight"] = f"E {'E' if i else 'M'} K"
        layout[f"conditioner.model.{2 * i}.bias"] = "E"
    return layout | embedded.core_layout(_NAMES, "E")


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes: C, E, R, F, K, M."""
    return solve(_layout(state), state)


def convert(state: State) -> Converted:
    """Turn a gibiansky state dict into canonical weights.

    Raises
    ------
    ModelError
        Listing every missing, extra, misshapen or not finite tensor and every unusable size, such
        as a range of the mel that is empty because it was never set.
    """

    def problems(sizes: dict[str, int]) -> list[str]:
        found = embedded.size_problems(sizes)
        if sizes.get("K", 1) % 2 == 0:
            found.append(f"the convolutions see {sizes['K']} frames, expected an odd number")
        limits = state.get("conditioner.input_range")
        if limits is not None and limits.shape == (2,) and not limits[0] < limits[1]:
            found.append(
                f"conditioner.input_range is {limits.tolist()}, expected the lowest and the "
                "highest value of the training mels"
            )
        return found

    sizes = checked_sizes("gibiansky", _layout(state), (), state, problems)
    tensors = embedded.core_tensors(state, _NAMES, sizes["E"])
    tensors["gru.w_conditioning"] = tensors["gru.w_label"].copy()
    return embedded.converted(
        sizes,
        tensors | _convolutions(state),
        NetworkConfig(kind="conv", layers=_layers(state), size=sizes["E"], kernel=sizes["K"]),
        pad="none",
        first_label=_FIRST_LABEL if sizes["C"] == 256 else (sizes["C"] - 1) // 2,
        hop_length=get_preset("gibiansky").hop_length,
        source=DIALECT.name,
    )


def _convolutions(state: State) -> Tensors:
    """The first takes the normalisation in: W (mel + centre) / scale + b."""
    low, high = (float(value) for value in state["conditioner.input_range"])
    centre, scale = (low + high) / 2, (high - low) / 2
    tensors: Tensors = {}
    for i in range(_layers(state)):
        weight = state[f"conditioner.model.{2 * i}.weight"].astype(np.float64)
        bias = state[f"conditioner.model.{2 * i}.bias"].astype(np.float64)
        if i == 0:
            bias = bias + centre / scale * weight.sum(axis=(1, 2))
            weight = weight / scale
        tensors[f"network.{i}.weight"] = float32(weight)
        tensors[f"network.{i}.bias"] = float32(bias)
    return tensors


DIALECT = Dialect(
    name="gibiansky",
    names=re.compile(r"(conditioner|autoregressive|domain)\."),
    presets=("gibiansky",),
    sizes=sizes_of,
    convert=convert,
)
