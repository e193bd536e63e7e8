"""What the planners of one utterance of all cores promise, and what their tests share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cases
import numpy as np
import pytest
from gpu_chips import SHARED_LIMIT
from hypothesis import reject

from wavernn_fast import _C
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import DeviceError

PLACES = "RSL"  # registers, shared memory, L2
Request = tuple[ModelConfig, dict[str, Any]]  # a model and the options of a launch


def plan_of(config: ModelConfig, **options: Any) -> dict[str, Any]:
    return _C.gpu_plan(dataclasses.asdict(config), **options)


def planned(plan: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """For a property: what does not fit is no example of it."""
    try:
        return plan()
    except DeviceError:
        reject()


def fitting(request: Request) -> tuple[ModelConfig, dict[str, Any], dict[str, Any]]:
    """The plan of a request; one that does not fit is drawn again, if they are not too many."""
    config, options = request
    return config, options, planned(lambda: plan_of(config, **options))


def check_within_the_chip(plan: dict[str, Any], options: dict[str, Any], working: int) -> None:
    """Memory and registers, of which a thread works with `working`, and what was asked for."""
    s = plan["shape"]
    assert plan["shared_bytes"] <= SHARED_LIMIT[plan["arch"]]
    assert plan["weight_registers"] <= 255 - working
    assert s["threads"] == 32 * s["warps"] <= 512
    assert plan["weight_registers"] * s["threads"] <= 65536
    for name in {"exchanges", "blocks", "warps"} & set(options):
        assert not options[name] or s[name] == options[name]


def check_refusal(config: ModelConfig, weights: int) -> None:
    """A T4 has no room for so many in fp32: the sentence has the numbers and a way out."""
    with pytest.raises(DeviceError) as refusal:
        plan_of(config, gpu="T4")
    for part in (f"{weights} weights in fp32", f"{4 * weights} bytes", "40 multiprocessors", "L2"):
        assert part in str(refusal.value)
    assert 'dtype="fp16"' in str(refusal.value)


def tensors_without_zeros(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """For packed places, which start as zero."""
    return {
        name: np.where(x == 0, np.float32(0.5), x)
        for name, x in cases.random_tensors(config, seed=seed).items()
    }


def kept(weight: np.ndarray, dtype: str) -> np.ndarray:
    """As the format keeps it."""
    return weight.astype(np.float16).astype(np.float32) if dtype == "fp16" else weight
