"""A trained sparse WaveRNN, from the arrays of google/lyra v0.0.2 (../shared/data), as canonical.

Kalchbrenner's dual softmax with a state of 1024 units, all five matrices pruned to 95 % in blocks
of 4x4. It has no conditioning network, so it does not speak; it shows how unevenly blocks lie in a
trained model and how large weights get.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

import numpy as np

from wavernn_fast.config import ModelConfig

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "weights" / "lyra_sparse_wavernn"
MISSING = f"the arrays of a trained sparse model are not at {FOLDER}"
BLOCK = 4
HIDDEN, FC = 1024, 512
# canonical name: (name of the arrays, shape, weights that are kept)
MATRICES = {
    "gru.w_recurrent": ("wavernn_gru", (3 * HIDDEN, HIDDEN), 155_552),
    "coarse_fc1.weight": ("coarseproj", (FC, HIDDEN // 2), 12_976),
    "coarse_fc2.weight": ("coarselogit", (256, FC), 6_544),
    "fine_fc1.weight": ("fineproj", (FC, HIDDEN // 2), 12_432),
    "fine_fc2.weight": ("finelogit", (256, FC), 6_448),
}
CONFIG = ModelConfig(
    core="dual",
    head="dual_softmax",
    n_classes=256,
    hidden_size=HIDDEN,
    fc_size=FC,
    sample_rate=24000,
    hop_length=1,
    block_shape=(BLOCK, BLOCK),
    pruned=tuple(sorted(MATRICES)),
)


def array(name: str, *shape: int) -> np.ndarray:
    data = gzip.decompress((FOLDER / f"768_512_95_4x4_{name}.raw.gz").read_bytes())
    return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)


@cache
def masks() -> dict[str, np.ndarray]:
    """One value a weight, as the arrays have them."""
    return {key: array(f"{name}_mask", *shape) for key, (name, shape, _) in MATRICES.items()}


@cache
def tensors() -> dict[str, np.ndarray]:
    """Canonical weights, without masks.

    The one bias of the gates is added to the recurrent product, which the reset gate multiplies:
    it belongs to the layer of these weights (its mean is 0.9 to 1.0 in all three gates alike).
    """
    found = {key: array(f"{name}_weights", *shape) for key, (name, shape, _) in MATRICES.items()}
    for key, (name, shape, _) in list(MATRICES.items())[1:]:
        found[key.replace("weight", "bias")] = array(f"{name}_bias", shape[0])
    found["gru.b_recurrent"] = array("wavernn_gru_bias", 3 * HIDDEN)
    found["gru.b_input"] = np.zeros(3 * HIDDEN, np.float32)
    w_sample = np.zeros((3, HIDDEN, 3), np.float32)
    w_sample[:, :, :2] = array("QRhat_weights", 3, HIDDEN, 2)  # c and f of the last sample
    w_sample[:, HIDDEN // 2 :, 2] = array("What_weights", 3, HIDDEN // 2)
    found["gru.w_sample"] = w_sample.reshape(3 * HIDDEN, 3)
    return found


def block_masks() -> dict[str, np.ndarray]:
    """Canonical masks: one value a block."""
    return {f"{key}.mask": mask[::BLOCK, ::BLOCK].copy() for key, mask in masks().items()}
