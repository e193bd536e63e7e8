"""Weights laid out for loops that make few calls a step: what several baselines share.

Whatever does not depend on the last sample is hoisted out of the loop, as the engine does: gates
lie side by side, the input layer of a residual model is multiplied into its first GRU, and biases
and conditioning come as one row a sample (`conditions`). So a baseline loses by how it runs the
step, not by having more to compute.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from .base import Tensors

Weights = dict[str, NDArray[np.float32]]


def fused(config: Any) -> bool:
    """Whether the fused loops run models of this configuration.

    The dual core, and the residual core that draws labels or from a mixture of logistics; without
    subscale, a speaker's vector, mu-law feedback, several bands, linear upsampling or a network
    over the mel.
    """
    if not isinstance(config, ModelConfig) or config.core not in ("dual", "residual"):
        return False
    return (
        config.head in ("dual_softmax", "softmax", "mol")
        and config.subscale is None
        and config.network is None
        and not config.speaker_size
        and config.feedback == "linear"
        and config.bands == 1
        and config.upsample == "kernel"
    )


def half_rows(hidden_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the coarse and of the fine half of all three gates, [3 H / 2] each."""
    rows = np.arange(3 * hidden_size).reshape(3, 2, hidden_size // 2)
    return rows[:, 0].ravel(), rows[:, 1].ravel()


def loop_weights(config: ModelConfig, tensors: Tensors) -> Weights:
    """Matrices [out, in], row-major, and biases [out, 1] ("<name>_b") of a step, float32.

    The state of a loop is [in, B]: products W h were faster that way round than h W^T in numpy and
    in PyTorch, and gates then are cut along rows. Biases that `conditions` puts into its rows are
    not among them.

    Dual: R [3 H, H] with the three gates of the coarse half before those of the fine half,
    I [3 H, 2] of the last coarse and fine, I_now [3 H / 2, 1] of the coarse one just drawn,
    O1 to O4.
    Residual: I [4 H, 1] (input layer, then its product with the first GRU's input matrix), R1, W2,
    R2 [3 H, H], F1, F2, F3 without the columns of the auxiliary network.
    """
    weights = (_dual if config.core == "dual" else _residual)(config, tensors)
    return {
        name: np.ascontiguousarray(w[:, None] if w.ndim == 1 else w, np.float32)
        for name, w in weights.items()
    }


def _dual(config: ModelConfig, t: Tensors) -> dict[str, Any]:
    coarse, fine = half_rows(config.hidden_size)
    both = np.concatenate([coarse, fine])
    weights = {
        "R": t["gru.w_recurrent"][both],
        "R_b": t["gru.b_recurrent"][both],
        "I": t["gru.w_sample"][both, :2],
        "I_now": t["gru.w_sample"][fine, 2],
    }
    for i, name in enumerate(("coarse_fc1", "coarse_fc2", "fine_fc1", "fine_fc2"), start=1):
        weights |= {f"O{i}": t[f"{name}.weight"], f"O{i}_b": t[f"{name}.bias"]}
    return weights


def _residual(config: ModelConfig, t: Tensors) -> dict[str, Any]:
    units = config.hidden_size
    x_column = t["input.weight"][:, 0].astype(np.float64)
    return {
        "I": np.concatenate([x_column, t["gru1.w_input"].astype(np.float64) @ x_column]),
        "R1": t["gru1.w_recurrent"],
        "R1_b": t["gru1.b_recurrent"],
        "W2": t["gru2.w_input"][:, :units],
        "R2": t["gru2.w_recurrent"],
        "R2_b": t["gru2.b_recurrent"],
        "F1": t["fc1.weight"][:, :units],
        "F2": t["fc2.weight"][:, : config.fc_size],
        "F3": t["fc3.weight"],
        "F3_b": t["fc3.bias"],
    }
