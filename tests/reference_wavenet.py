"""The meaning of WaveNet in float64: one sample at a time, each from the whole past, no queue.

[O16] van den Oord et al., WaveNet: a generative model for raw audio, 2016, sections 2.1 to 2.4

`x[i][t]` is the input of block i at time t; what lies before time 0 is zero, as the padding of a
causal convolution. Nothing is shared with wavernn_fast/baselines but the names of the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def logits(
    tensors: Mapping[str, NDArray[Any]], samples: Sequence[int], dilations: Sequence[int]
) -> Array:
    """Logits [n, classes] before each of the samples, given those before it."""
    w = {name: np.asarray(value).astype(np.float64) for name, value in tensors.items()}
    classes = len(w["embedding.weight"])
    heard = [classes // 2, *samples[:-1]]  # silence before the first
    x: list[list[Array]] = [[] for _ in dilations]
    found = []
    for t, label in enumerate(heard):
        now, skip = w["embedding.weight"][label], 0.0
        for i, dilation in enumerate(dilations):
            x[i].append(now)
            before = x[i][t - dilation] if t >= dilation else np.zeros_like(now)
            gated = _gated(w, i, before, now)
            skip = skip + w[f"blocks.{i}.skip.weight"] @ gated + w[f"blocks.{i}.skip.bias"]
            if i + 1 < len(dilations):  # [O16] figure 4: the residual connection
                now = now + w[f"blocks.{i}.residual.weight"] @ gated
                now = now + w[f"blocks.{i}.residual.bias"]
        hidden = w["output1.weight"] @ np.maximum(skip, 0.0) + w["output1.bias"]
        found.append(w["output2.weight"] @ np.maximum(hidden, 0.0) + w["output2.bias"])
    return np.stack(found)


def _gated(w: Mapping[str, Array], i: int, before: Array, now: Array) -> Array:
    """[O16] equation 2: tanh(W_f * x) . sigmoid(W_g * x); the first half of the rows is W_f."""
    a = w[f"blocks.{i}.old.weight"] @ before + w[f"blocks.{i}.new.weight"] @ now
    a = a + w[f"blocks.{i}.bias"]
    half = len(a) // 2
    return np.tanh(a[:half]) * (1.0 / (1.0 + np.exp(-a[half:])))
