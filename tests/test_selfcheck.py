"""A GPU engine is compared with the CPU before use: what passes, and what is caught.

The emulator runs the kernel of a GPU, so it stands for one.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from wavernn_fast import _C, selfcheck
from wavernn_fast.errors import EngineError
from wavernn_fast.synthetic import random_model


def engines(model: str, dtype: str = "fp32", schedule: str = "fair", scale: float = 1.0):
    """Return a configuration, the emulator's engine of it, and the CPU's of scaled weights."""
    config, tensors = random_model(model)
    fields = dataclasses.asdict(config)
    launch = {"blocks": 2, "warps": 4 if config.core == "dual" else 16}
    emu = _C.Engine(fields, tensors, device="emu", dtype=dtype, isa=schedule, **launch)
    last = {"dual": "fine_fc2.weight", "residual": "fc3.weight"}.get(config.core, "fc2.weight")
    other = {**tensors, last: tensors[last] * np.float32(scale)}
    return config, emu, _C.Engine(fields, other, device="cpu", dtype=dtype)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "model", ["dual:64", "dual-mel:64", "residual:32", "residual-mol:32", "embedded:32"]
)
def test_a_kernel_that_computes_the_same_passes(model: str, dtype: str) -> None:
    config, emu, cpu = engines(model, dtype)
    assert selfcheck.problem(emu, cpu, config) == ""


@pytest.mark.parametrize("model", ["dual:64", "residual:32", "residual-mol:32", "embedded:32"])
def test_other_weights_are_noticed(model: str) -> None:
    config, emu, cpu = engines(model, scale=-1.0)
    assert "its logits differ from the CPU's by" in selfcheck.problem(emu, cpu, config)


@pytest.mark.parametrize("fault", ["lose:barrier:2", "lose:tag"])
def test_a_fault_of_synchronisation_is_noticed(fault: str) -> None:
    config, emu, cpu = engines("dual:64", schedule=f"random:3/{fault}")
    assert selfcheck.problem(emu, cpu, config).startswith(("its logits differ", "it failed"))


def test_a_draw_at_a_tie_is_no_fault() -> None:
    config, emu, cpu = engines("dual:64", scale=1.0 + 1e-6)
    assert selfcheck.problem(emu, cpu, config) == ""


def test_a_model_that_the_cpu_cannot_run_tells_nothing_of_the_kernel() -> None:
    config, tensors = random_model("dual:64")
    for name in ("coarse_fc1.weight", "coarse_fc2.weight"):
        tensors[name] = tensors[name] * np.float32(1e30)
    fields = dataclasses.asdict(config)
    emu, cpu = (_C.Engine(fields, tensors, device=device) for device in ("emu", "cpu"))
    with pytest.raises(EngineError, match="not finite"):
        cpu.run([cpu.open(1)], [selfcheck.STEPS], [None], [None])
    assert selfcheck.problem(emu, cpu, config) == ""


def test_the_check_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    config, emu, cpu = engines("dual:64", scale=-1.0)
    monkeypatch.setenv(selfcheck.OFF, "0")
    assert selfcheck.problem(emu, cpu, config) == ""
