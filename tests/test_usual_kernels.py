"""Which kernels a wheel carries: those of published checkpoints, without their compilation."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import test_embedded_plan
from fakes import Fake
from test_residual_plan import usual

from wavernn_fast import _C, kernels, nvrtc
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import DeviceError
from wavernn_fast.synthetic import random_model
from wavernn_fast.vocoder import Vocoder

MODELS: dict[str, tuple[int, ModelConfig]] = {
    "512/512/512": (2, usual(512, {"bits": 9})),
    "512/512/1024": (2, usual(512, {"bits": 10})),
    "512/512/256": (2, usual(512, {"bits": 8})),
    "512/512/30": (2, usual(512, {"mixtures": 10})),
    "512/512/2 gaussian": (2, usual(512, {"head": "gaussian", "n_classes": 2})),
    "512/512/2 beta": (2, usual(512, {"head": "beta", "n_classes": 2})),
    "512/512/512 4 bands": (2, usual(512, {"bits": 9, "bands": 4, "hop_length": 128})),
    "896/256/1024 embedded": (0, test_embedded_plan.usual(896, 256, 10)),
    "896/256/512 embedded": (0, test_embedded_plan.usual(896, 256, 9)),
    "896/256/256 embedded": (0, test_embedded_plan.usual(896, 256, 8)),
}


def test_usual_models_have_the_kernels_of_published_checkpoints() -> None:
    """Macros are all that a kernel depends on; hop length, levels and networks are no part."""
    others = [model for model in kernels.USUAL if model.outputs]
    assert len(others) == len(MODELS)
    for model, (name, (taps, config)) in zip(others, MODELS.items(), strict=True):
        assert kernels.title(model) == name
        ours = kernels.plan_config(*model)
        assert (ours["upsample_left"], ours["upsample_right"]) == (taps, taps)
        theirs = dataclasses.asdict(config)
        for gpu in _C.known_gpus():
            planned = kernels.planned(ours, gpu)
            assert planned is not None
            dtype, plan = planned
            assert plan["macros"] == _C.gpu_plan(theirs, gpu=gpu, dtype=dtype)["macros"]
            if dtype == "fp16":
                with pytest.raises(DeviceError, match="does not fit"):
                    _C.gpu_plan(theirs, gpu=gpu)


def test_gpus_with_the_same_plan_share_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def compile_plan(config: dict[str, Any], target: str, **how: Any) -> tuple[bytes, str]:
        made.append((how["gpu"], how.get("full", False)))
        return b"", "Used 1 registers, 0 bytes spill stores"

    monkeypatch.setattr(_C, "compile_plan", compile_plan)
    monkeypatch.setattr(nvrtc, "libraries", lambda: ["libnvrtc.so"])
    lines = kernels.compile_usual(str(tmp_path), [(160, 80, 0)])
    assert len(lines) == len(_C.known_gpus())
    assert [full for gpu, full in made if gpu in ("H100", "H200")] == [False, True]


def test_a_model_too_large_for_single_precision_has_a_kernel_in_half() -> None:
    config = kernels.plan_config(896, 256, 80, 1024, "embedded")
    found = {gpu: kernels.planned(config, gpu) for gpu in ("T4", "H200")}
    assert {gpu: plan[0] for gpu, plan in found.items() if plan} == {"T4": "fp16", "H200": "fp32"}
    huge = kernels.plan_config(8192, 4096, 0)
    assert kernels.planned(huge, "T4") is None


@pytest.mark.skipif(not nvrtc.libraries(), reason='pip install "wavernn-fast[cuda]" brings NVRTC')
def test_a_kernel_of_the_embedded_core_compiles_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_C, "known_gpus", lambda: ["H200"])
    [line] = kernels.compile_usual(str(tmp_path), [(48, 32, 7, 256, "embedded")])
    assert line.startswith("48/32/256 embedded, 7 mels, H200 (sm_90), fp32: ")
    assert line.endswith(" 0 bytes spilled")
    assert len(list(tmp_path.glob("*-sm_90-*.kernel"))) == 2  # plain and full


def test_sizes_without_a_kernel_and_without_a_compiler_are_said_to_be_so(fake: Fake) -> None:
    fake.script(run=1)
    fake.monkeypatch.setenv("WAVERNN_FAST_NVRTC", "/nowhere/libnvrtc.so")
    config, tensors = random_model("dual:192")
    with pytest.raises(
        DeviceError,
        match=r"(?s)kernel of its own sizes on device 0.*Neither the package nor the cache has "
        r"one, and there is no NVRTC.*wavernn-fast\[cuda\].*nowhere",
    ):
        _C.Engine(dataclasses.asdict(config), tensors, device="cuda", exact=False)


def test_a_kernel_that_had_to_be_compiled_is_told_once(
    fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    fake.script(run=1)
    fake.monkeypatch.setenv("WAVERNN_FAST_GPU_CHECK", "0")
    config, tensors = random_model("dual:160")
    assert not _C.Engine(dataclasses.asdict(config), tensors, device="emu").compiled
    with caplog.at_level(logging.INFO, "wavernn_fast"):
        Vocoder(config, tensors, device="cuda")
        Vocoder(config, tensors, device="cuda")  # the process has it
    [record] = caplog.records
    assert re.search(r"compiled for the sizes.*neither the package nor the", record.getMessage())
