"""A GPU engine is compared with the CPU engine before anybody hears it.

A kernel depends on a compiler, a driver and a chip that nobody has tried together before. Sixteen
samples cost milliseconds and tell.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig
from .errors import DeviceError, EngineError

if TYPE_CHECKING:
    from . import _C

STEPS = 16
OFF = "WAVERNN_FAST_GPU_CHECK"  # "0": use a GPU engine unchecked
# Logits of two engines with other orders of summation, as a share of the largest; a kernel that
# goes wrong is off by whole units.
SHARE, LEAST = 1e-3, 1e-3
MANY_SHARE = 1e-2  # of the kernel for many streams, which rounds activations to fp16


def problem(engine: _C.Engine, twin: _C.Engine, config: ModelConfig, share: float = SHARE) -> str:
    """Say in which way an engine differs from its twin on another device; empty if it does not.

    Both draw 16 samples from one seed. Where a draw differs, which a rounding can do, logits under
    the same forced samples decide. A model that the twin itself cannot run tells nothing.

    Parameters
    ----------
    engine, twin : Engine
        With the same weights in the same dtype.
    config : ModelConfig
    share : float
        Of the largest logit, that logits may differ by.

    Returns
    -------
    str
        A sentence without a full stop.
    """
    if os.environ.get(OFF) == "0":
        return ""
    rows = _conditioning(engine, config)
    try:
        expected = _run(twin, rows)[0]
    except EngineError:
        return ""
    try:
        if np.array_equal(_run(engine, rows)[0], expected):
            return ""
        logits = _run(engine, rows, expected)[1]
    except (DeviceError, EngineError) as error:
        return f"it failed ({str(error).rstrip('.')})"
    return _difference(logits, _run(twin, rows, expected)[1], share)


def _run(
    engine: _C.Engine, rows: tuple[Any, Any], forced: NDArray[Any] | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Samples, and with forced ones also logits."""
    given = None if forced is None else [forced]
    [(labels, logits)] = engine.run(
        [engine.open(1)],
        [STEPS],
        [rows[0]],
        [rows[1]],
        forced=given,
        return_logits=given is not None,
    )
    return np.asarray(labels), np.asarray(logits)


def _difference(got: NDArray[np.float32], wanted: NDArray[np.float32], share: float) -> str:
    error = np.abs(got - wanted).max(axis=1)
    limit = LEAST + share * float(np.abs(wanted).max())
    wrong = np.flatnonzero(~(error <= limit))
    if not len(wrong):
        return ""
    return (
        f"its logits differ from the CPU's by {error[wrong[0]]:.3g} at sample {wrong[0]}, where "
        f"{limit:.3g} is allowed"
    )


def _conditioning(
    engine: _C.Engine, config: ModelConfig
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Random rows for the frames of the samples that are drawn."""
    random = np.random.default_rng(0)
    frames = -(-STEPS // config.hop_length)
    taps = config.upsample_left + 1 + config.upsample_right

    def rows(count: int, size: int) -> NDArray[np.float32] | None:
        return random.normal(size=(count, size)).astype(np.float32) if size else None

    return rows(frames + taps - 1, engine.interp_size), rows(frames, engine.hold_size)
