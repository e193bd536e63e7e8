"""Three small configurations and random canonical weights for them."""

from __future__ import annotations

import numpy as np

from wavernn_fast import weights
from wavernn_fast.config import ModelConfig

Tensors = dict[str, np.ndarray]

DUAL = ModelConfig(
    core="dual",
    hidden_size=32,
    fc_size=8,
    head="dual_softmax",
    n_classes=256,
    sample_rate=24000,
    hop_length=6,
    n_mels=5,
    upsample_left=1,
    upsample_right=2,
)
RESIDUAL = ModelConfig(
    core="residual",
    hidden_size=16,
    fc_size=32,
    head="mol",
    n_classes=30,
    sample_rate=22050,
    hop_length=4,
    n_mels=5,
    aux_size=3,
    aux_channels=7,
    aux_blocks=2,
    aux_kernel=5,
    upsample_left=2,
    upsample_right=2,
)
BARE = ModelConfig(
    core="dual",
    hidden_size=32,
    fc_size=16,
    head="dual_softmax",
    n_classes=256,
    sample_rate=24000,
    hop_length=1,
)
CONFIGS = {"dual": DUAL, "residual": RESIDUAL, "unconditioned": BARE}


def make_tensors(config: ModelConfig, seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in weights.expected_shapes(config).items()
    }
    if config.core == "dual":
        half = config.hidden_size // 2
        tensors["gru.w_sample"].reshape(3, 2, half, 3)[:, 0, :, 2] = 0.0
    return tensors
