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
    subscale, a speaker's vector, linear upsampling or a network over the mel.
    """
    if not isinstance(config, ModelConfig) or config.core not in ("dual", "residual"):
        return False
    return (
        config.head in ("dual_softmax", "softmax", "mol")
        and config.subscale is None
        and config.network is None
        and not config.speaker_size
        and config.upsample == "kernel"
    )


def half_rows(hidden_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the coarse and of the fine half of all three gates, [3 H / 2] each."""
    rows = np.arange(3 * hidden_size).reshape(3, 2, hidden_size // 2)
    return rows[:, 0].ravel(), rows[:, 1].ravel()


def loop_weights(config: ModelConfig, tensors: Tensors) -> Weights:
    """Matrices [in, out] and biases [out] ("<name>_b") of a step, float32.

    Matrices are transposed views of row-major ones, the layout that `torch.nn.Linear` hands to the
    BLAS. Biases that `conditions` puts into its rows are not among them.

    Dual: R [H, 3 H] with the three gates of the coarse half before those of the fine half,
    I_coarse [2, 3 H / 2], I_fine [3, 3 H / 2], O1 to O4.
    Residual: I [1, 4 H] (input layer, then its product with the first GRU's input matrix), R1, W2,
    R2 [H, 3 H], F1, F2, F3 without the columns of the auxiliary network.
    """
    return (_dual if config.core == "dual" else _residual)(config, tensors)


def _dual(config: ModelConfig, t: Tensors) -> Weights:
    coarse, fine = half_rows(config.hidden_size)
    both = np.concatenate([coarse, fine])
    weights = {
        "R": np.ascontiguousarray(t["gru.w_recurrent"][both]).T,
        "R_b": t["gru.b_recurrent"][both],
        "I_coarse": np.ascontiguousarray(t["gru.w_sample"][coarse, :2]).T,
        "I_fine": np.ascontiguousarray(t["gru.w_sample"][fine]).T,
    }
    for i, name in enumerate(("coarse_fc1", "coarse_fc2", "fine_fc1", "fine_fc2"), start=1):
        weights |= {f"O{i}": t[f"{name}.weight"].T, f"O{i}_b": t[f"{name}.bias"]}
    return weights


def _residual(config: ModelConfig, t: Tensors) -> Weights:
    units = config.hidden_size
    x_column = t["input.weight"][:, :1].astype(np.float64)
    through = t["gru1.w_input"].astype(np.float64) @ x_column
    weights = {
        "I": np.concatenate([x_column, through]).astype(np.float32).T,
        "R1": t["gru1.w_recurrent"].T,
        "R1_b": t["gru1.b_recurrent"],
        "W2": np.ascontiguousarray(t["gru2.w_input"][:, :units]).T,
        "R2": t["gru2.w_recurrent"].T,
        "R2_b": t["gru2.b_recurrent"],
        "F1": np.ascontiguousarray(t["fc1.weight"][:, :units]).T,
        "F2": np.ascontiguousarray(t["fc2.weight"][:, : config.fc_size]).T,
        "F3": t["fc3.weight"].T,
        "F3_b": t["fc3.bias"],
    }
    return weights
