"""Pruned models: random masks of any unevenness, and a real one where it is at hand."""

from __future__ import annotations

import cases
import lyra as lyra_arrays
import numpy as np
import reference
from numpy.typing import NDArray

from wavernn_fast.config import ModelConfig

LYRA = lyra_arrays.FOLDER
LYRA_CONFIG = cases.dual_config(1024, 512, sample_rate=16000)
NO_LYRA = lyra_arrays.MISSING
PRUNED = ("gru.w_recurrent", "coarse_fc1.weight", "coarse_fc2.weight")
PRUNED += ("fine_fc1.weight", "fine_fc2.weight")
Tile = tuple[int, int]


def block_mask(shape: tuple[int, int], tile: Tile, density: float, seed: int) -> NDArray[np.bool_]:
    """Blocks kept by the project's own generator, so that no NumPy version changes a table."""
    rows, cols = -(-shape[0] // tile[0]), -(-shape[1] // tile[1])
    words = reference.philox_words(seed, 0, -(-rows * cols // 4)).ravel()[: rows * cols]
    kept = (words < density * 2.0**32).reshape(rows, cols)
    return expand(kept, tile, shape)


def expand(kept: NDArray[np.bool_], tile: Tile, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """From one value a block to one a weight."""
    return np.kron(kept, np.ones(tile, bool)).astype(bool)[: shape[0], : shape[1]]


def apply(tensors: cases.Tensors, masks: dict[str, NDArray[np.bool_]]) -> cases.Tensors:
    """Masked tensors, larger by as much as keeps a row's sum about as large."""
    result = dict(tensors)
    for name, mask in masks.items():
        scale = min(4.0, 1.0 / np.sqrt(max(mask.mean(), 1e-3)))
        result[name] = (tensors[name] * mask * scale).astype(np.float32)
    return result


def pruned(config: ModelConfig, tile: Tile, density: float, seed: int = 0) -> cases.Tensors:
    """Random tensors of which every matrix keeps about so many of its blocks."""
    tensors = cases.random_tensors(config, seed=seed)
    masks = {
        name: block_mask(tensors[name].shape, tile, density, seed + i)
        for i, name in enumerate(PRUNED)
    }
    return apply(tensors, masks)


def uneven_masks(
    tensors: cases.Tensors, tile: Tile, unevenness: int, seed: int
) -> dict[str, NDArray[np.bool_]]:
    """A density of its own for every block row; one block row is empty and one is full."""
    random = np.random.default_rng(seed)
    masks = {}
    for name in PRUNED:
        rows, cols = tensors[name].shape
        kept = random.random((-(-rows // tile[0]), -(-cols // tile[1])))
        kept = kept < random.random((len(kept), 1)) ** unevenness
        for fill in (False, True):
            kept[random.integers(len(kept))] = fill
        masks[name] = expand(kept, tile, (rows, cols))
    return masks


def lyra() -> cases.Tensors:
    """1,024 units, 95 % of all five matrices zero in 4x4 blocks, very uneven, weights up to 292."""
    return dict(lyra_arrays.tensors())


def rounded(tensors: cases.Tensors) -> cases.Tensors:
    """The matrices that fp16 stores in two bytes, rounded; the rest as it is."""
    return tensors | {n: tensors[n].astype(np.float16).astype(np.float32) for n in PRUNED}
