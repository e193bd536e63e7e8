"""Pruned models for the tests, uneven as trained ones are, and what each number format keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cases
import numpy as np
from engine_work import DTYPES
from hypothesis import strategies as st

from wavernn_fast.config import ModelConfig

Tensors = dict[str, np.ndarray]

BLOCKS = {"16x1": (16, 1), "4x4": (4, 4), "8x4": (8, 4), "1x1": (1, 1)}
LAYOUTS = {
    dtype: ("16x1", "4x4", "8x4") if dtype.startswith("int8") else ("16x1", "4x4", "1x1")
    for dtype in DTYPES
}
PAIRS = [(dtype, layout) for dtype in DTYPES for layout in LAYOUTS[dtype]]
PAIRS_AND_AUTO = [*PAIRS, *((dtype, "auto") for dtype in DTYPES)]

# Matrices that a plan keeps: name there, and canonical name.
KEPT = {
    "dual": {
        "gru": "gru.w_recurrent",
        "coarse_fc1": "coarse_fc1.weight",
        "coarse_fc2": "coarse_fc2.weight",
        "fine_fc1": "fine_fc1.weight",
        "fine_fc2": "fine_fc2.weight",
    },
    "residual": {
        "gru1": "gru1.w_recurrent",
        "gru2_input": "gru2.w_input",
        "gru2": "gru2.w_recurrent",
        "fc1": "fc1.weight",
        "fc2": "fc2.weight",
        "fc3": "fc3.weight",
    },
    "embedded": {
        "gru": "gru.w_recurrent",
        "fc1": "fc1.weight",
        "fc2": "fc2.weight",
    },
}


def kept_columns(config: ModelConfig, name: str) -> int:
    """Columns of matrix `name` of a plan; those of auxiliary channels are multiplied elsewhere."""
    if name.startswith("gru") or (config.core != "dual" and name == "fc1"):
        return config.hidden_size
    return config.hidden_size // 2 if name.endswith("_fc1") else config.fc_size


# --- masks ------------------------------------------------------------------------------------

# What a matrix may look like. "uneven": rows of blocks without any, with all, and in between.
KINDS = ("uneven", "uneven", "uneven", "last", "none", "all")


def mask(shape: tuple[int, int], block: tuple[int, int], kind: str, random) -> np.ndarray:
    """Of 0 and 1, one a weight; the last block row and column may be cut by the edge."""
    rows, columns = (-(-n // b) for n, b in zip(shape, block, strict=True))
    if kind == "all":
        kept = np.ones((rows, columns), bool)
    elif kind == "none":
        kept = np.zeros((rows, columns), bool)
    elif kind == "last":  # one block a row, at the end, and here and there one at the begin
        kept = np.zeros((rows, columns), bool)
        kept[:, -1] = True
        kept[::3, 0] = True
    else:
        share = random.choice([0.0, 0.05, 0.2, 0.5], rows)
        kept = random.random((rows, columns)) < share[:, None]
        kept[random.integers(rows)] = True
    wide = np.repeat(np.repeat(kept, block[0], 0), block[1], 1)
    return wide[: shape[0], : shape[1]].astype(np.float32)


def prune(tensors: Tensors, names: dict[str, str], block: tuple[int, int], seed: int) -> Tensors:
    """Zeros in matrices `names` {name: kind}; what is left in a row grows, so that sums do not."""
    pruned = dict(tensors)
    random = np.random.default_rng(seed)
    for name, kind in names.items():
        weight = tensors[name]
        kept = mask(weight.shape, block, kind, random)
        share = np.maximum(kept.mean(1, keepdims=True), 1 / weight.shape[1])
        pruned[name] = (weight * kept / np.sqrt(share)).astype(np.float32)
    return pruned


@dataclass(frozen=True)
class Case:
    """A model shape, and how its matrices are pruned."""

    config: ModelConfig
    block: str
    kinds: tuple[str, ...]
    seed: int

    def tensors(self) -> Tensors:
        whole = cases.random_tensors(self.config, self.seed)
        names = KEPT[self.config.core].values()
        kinds = dict(zip(names, self.kinds, strict=False))
        return prune(whole, kinds, BLOCKS[self.block], self.seed)


AUX: dict[str, Any] = {"aux_size": 3, "aux_channels": 6, "aux_blocks": 1, "aux_kernel": 3}


@st.composite
def configs(draw) -> ModelConfig:
    core = draw(st.sampled_from(tuple(KEPT)))
    if core == "dual":
        hidden = draw(st.sampled_from([32, 64, 96, 160]))
        more = draw(st.sampled_from([{}, {"n_mels": 5, "hop_length": 3}]))
        return cases.dual_config(hidden, draw(st.integers(3, 70)), **more)
    hidden, fc = (16 * draw(st.integers(low, 10 if low == 2 else 5)) for low in (2, 1))
    if core == "embedded":
        more = draw(st.sampled_from([{}, {"n_mels": 0, "hop_length": 1}]))
        return cases.embedded_config(hidden, fc, draw(st.sampled_from([3, 8, 9])), **more)
    bits = draw(st.sampled_from([None, 8, 9]))
    mixtures = draw(st.sampled_from([1, 10]))
    more = draw(st.sampled_from([{}, AUX]))
    return cases.residual_config(hidden, fc, bits=bits, mixtures=mixtures, hop_length=2, **more)


@st.composite
def models(draw, layout: str) -> Case:
    """Pruned in the blocks of a layout; for "auto" in any."""
    blocks = st.sampled_from(tuple(BLOCKS)) if layout == "auto" else st.just(layout)
    kinds = st.tuples(*[st.sampled_from(KINDS)] * 6)
    return Case(draw(configs()), draw(blocks), draw(kinds), draw(st.integers(0, 999)))


# --- number formats ---------------------------------------------------------------------------


def levels(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(integers, scale of each row [rows, 1]) of int8: 127 levels of the largest of a row."""
    scale = np.abs(weight).max(1, keepdims=True) / np.float32(127)
    quotient = np.divide(weight, scale, out=np.zeros_like(weight), where=scale > 0)
    return np.rint(quotient).clip(-127, 127).astype(np.int64), scale.astype(np.float32)


def rounded(weight: np.ndarray, dtype: str) -> np.ndarray:
    """Weights as an engine of this dtype keeps them."""
    weight = np.ascontiguousarray(weight, np.float32)
    if dtype == "fp16":
        return weight.astype(np.float16).astype(np.float32)
    if dtype == "bf16":
        bits = weight.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view("<f4")
    if dtype.startswith("int8"):
        integers, scale = levels(weight)
        return scale * integers.astype(np.float32)
    return weight


def rounded_tensors(config: ModelConfig, tensors: Tensors, dtype: str) -> Tensors:
    """The model that an engine of this dtype is meant to compute, had it exact arithmetic."""
    result = dict(tensors)
    for kept, name in KEPT[config.core].items():
        columns = kept_columns(config, kept)
        result[name] = result[name].copy()
        result[name][:, :columns] = rounded(result[name][:, :columns], dtype)
    return result
