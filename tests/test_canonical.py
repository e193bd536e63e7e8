"""Canonical names and shapes: as the contract has them, and nothing else passes."""

from __future__ import annotations

import numpy as np
import pytest
from canonical_models import BARE, CONFIGS, DUAL, RESIDUAL, Tensors, make_tensors

from wavernn_fast import weights
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import ModelError


def _problems(config: ModelConfig, tensors: Tensors) -> tuple[str, ...]:
    with pytest.raises(ModelError) as caught:
        weights.validate(config, tensors)
    return caught.value.problems


# ---------------------------------------------------------------- names and shapes


def test_the_shapes_of_the_dual_core_are_those_of_the_contract() -> None:
    assert weights.expected_shapes(DUAL) == {
        "gru.w_recurrent": (96, 32),
        "gru.b_recurrent": (96,),
        "gru.b_input": (96,),
        "gru.w_sample": (96, 3),
        "gru.w_conditioning": (96, 5),
        "coarse_fc1.weight": (8, 16),
        "coarse_fc1.bias": (8,),
        "coarse_fc2.weight": (256, 8),
        "coarse_fc2.bias": (256,),
        "fine_fc1.weight": (8, 16),
        "fine_fc1.bias": (8,),
        "fine_fc2.weight": (256, 8),
        "fine_fc2.bias": (256,),
        "upsample.kernel": (6, 4),
    }
    assert "gru.w_conditioning" not in weights.expected_shapes(BARE)


def test_the_shapes_of_the_residual_core_are_those_of_the_contract() -> None:
    shapes = weights.expected_shapes(RESIDUAL)
    assert shapes["input.weight"] == (16, 1 + 5 + 3)
    assert shapes["gru1.w_input"] == (48, 16)
    assert shapes["gru2.w_input"] == (48, 19)
    assert shapes["gru2.w_recurrent"] == (48, 16)
    assert shapes["gru2.b_input"] == (48,)
    assert shapes["fc1.weight"] == (32, 19)
    assert shapes["fc2.weight"] == (32, 35)
    assert shapes["fc3.weight"] == (30, 32)
    assert shapes["fc3.bias"] == (30,)
    assert shapes["upsample.kernel"] == (4, 5)
    assert shapes["aux.conv_in.weight"] == (7, 5, 5)
    assert shapes["aux.blocks.1.conv2.weight"] == (7, 7)
    assert shapes["aux.conv_out.weight"] == (12, 7)
    assert len(shapes) == 29


# ---------------------------------------------------------------- validation


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_whole_weights_pass(config: ModelConfig) -> None:
    weights.validate(config, make_tensors(config))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_lost_renamed_or_longer_tensor_is_named(config: ModelConfig) -> None:
    for name, shape in weights.expected_shapes(config).items():
        lost, renamed, longer = make_tensors(config), make_tensors(config), make_tensors(config)
        del lost[name]
        text = ", ".join(str(n) for n in shape)
        assert _problems(config, lost) == (f"missing tensor {name}, expected shape [{text}]",)
        renamed[f"{name}s"] = renamed.pop(name)
        assert len(_problems(config, renamed)) == 2
        longer[name] = np.concatenate([longer[name], longer[name][:1]])
        (problem,) = _problems(config, longer)
        assert problem.startswith(f"{name} has shape")
        assert f"expected [{text}]" in problem


def test_all_problems_are_listed_at_once() -> None:
    tensors = make_tensors(DUAL)
    del tensors["coarse_fc1.bias"]
    tensors["spare"] = np.zeros((2, 2), np.float32)
    tensors["gru.b_input"] = tensors["gru.b_input"].astype(np.float64)
    tensors["gru.w_recurrent"][3, 4] = np.nan
    tensors["gru.w_recurrent"][5, 6] = -np.inf
    tensors["gru.w_sample"][0, 2] = 0.5
    tensors["fine_fc2.weight"] = tensors["fine_fc2.weight"].T
    assert set(_problems(DUAL, tensors)) == {
        "missing tensor coarse_fc1.bias, expected shape [8]",
        "unexpected tensor spare of shape [2, 2]",
        "gru.b_input has dtype float64, expected float32",
        "gru.w_recurrent has 2 values not finite; the first is NaN at index [3, 4]",
        (
            "gru.w_sample column 2 (c_t) has 1 non-zero values in the rows of the coarse half, "
            "expected 0: coarse units cannot see the coarse sample being drawn"
        ),
        "fine_fc2.weight has shape [8, 256], expected [256, 8]",
    }
