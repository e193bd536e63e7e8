"""Files of subscale models: configurations and tensors that fit, and sentences about others."""

from __future__ import annotations

import dataclasses
import json

import cases
import numpy as np
import pytest
from test_subscale_model import CONFIGS, every_config, model_of, trained_weights

from wavernn_fast import weights
from wavernn_fast.canonical import expected_shapes, validate
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import ModelError
from wavernn_fast.models.wavernn import WaveRNN
from wavernn_fast.subscale_config import SubscaleConfig

CONFIG = CONFIGS[3]  # 4 rows, horizon 4, 6 channels, 1 block


# --- tensors ----------------------------------------------------------------------------------


def test_the_shapes_are_those_of_the_contract():
    added = {n: s for n, s in expected_shapes(CONFIG).items() if n.startswith("subscale")}
    assert added == {
        "subscale.input.weight": (4, 6, 4, 7),
        "subscale.input.bias": (4, 6),
        "subscale.blocks.0.conv1.weight": (6, 6, 3),
        "subscale.blocks.0.conv1.bias": (6,),
        "subscale.blocks.0.conv2.weight": (6, 6),
        "subscale.blocks.0.conv2.bias": (6,),
    }
    assert expected_shapes(CONFIG)["gru.w_conditioning"] == (96, 5 + 3 + 6)
    assert expected_shapes(CONFIGS[0])["gru.w_conditioning"] == (96, 6)


@every_config
def test_canonical_weights_come_back(config):
    """Bit for bit, but for the first layer, which is divided by gains and multiplied again."""
    tensors = trained_weights(config)
    found = model_of(config).canonical()
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        if name == "subscale.input.weight":
            assert np.allclose(found[name], tensor, rtol=1e-6, atol=0)
        else:
            assert np.array_equal(found[name], tensor), name
    again = WaveRNN(config)
    again.load_canonical(found)
    for one, other in zip(again.parameters(), model_of(config).parameters(), strict=True):
        assert np.allclose(one.detach(), other.detach(), rtol=1e-6, atol=0)


def test_masked_weights_are_exported_as_zero_whatever_they_hold():
    model = WaveRNN(CONFIG)
    model.subscale.weight.data.fill_(2.0)
    exported = model.canonical()
    validate(CONFIG, exported)
    weight = exported["subscale.input.weight"]
    before = np.tri(4, k=-1, dtype=bool)[:, None, :, None]
    assert np.array_equal(weight != 0, np.broadcast_to(before, weight.shape))


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_a_stored_model_is_read_back(tmp_path, dtype):
    path, tensors = tmp_path / "model.safetensors", trained_weights(CONFIG)
    weights.write(path, CONFIG, tensors, dtype)
    config, found = weights.read(path)
    assert config == CONFIG
    exact = dtype == "fp32"
    for name, tensor in tensors.items():
        same = np.array_equal if exact else lambda a, b: np.allclose(a, b, rtol=5e-3, atol=1e-6)
        assert same(found[name], tensor), name


def test_all_problems_of_the_tensors_are_listed_at_once():
    tensors = {name: value.copy() for name, value in trained_weights(CONFIG).items()}
    tensors["subscale.input.weight"][2, 5, 2, 0] = 1.0  # itself
    tensors["subscale.input.weight"][1, 0, 3, 6] = -1.0  # a row after it
    tensors["subscale.blocks.0.conv1.weight"] = tensors["subscale.blocks.0.conv1.weight"][:, :, 0]
    tensors["subscale.blocks.1.conv2.bias"] = np.zeros(6, np.float32)
    tensors["gru.w_conditioning"] = tensors["gru.w_conditioning"][:, :8]
    del tensors["subscale.input.bias"]
    with pytest.raises(ModelError) as caught:
        validate(CONFIG, tensors)
    assert set(caught.value.problems) == {
        "subscale.input.weight has 2 non-zero values where a row would see itself or one after "
        "it, expected 0: those samples are drawn later",
        "subscale.blocks.0.conv1.weight has shape [6, 6], expected [6, 6, 3]",
        "unexpected tensor subscale.blocks.1.conv2.bias of shape [6]",
        "gru.w_conditioning has shape [96, 8], expected [96, 14]",
        "missing tensor subscale.input.bias, expected shape [4, 6]",
    }
    wrong = dict(trained_weights(CONFIG))
    wrong["subscale.input.weight"] = wrong["subscale.input.weight"][:, :, :3]
    with pytest.raises(ModelError, match=r"weight has shape \[4, 6, 3, 7\], expected \[4, 6, 4, 7"):
        validate(CONFIG, wrong)


def test_a_weight_that_sees_any_row_that_is_not_before_is_refused():
    tensors = trained_weights(CONFIG)
    for row in range(4):
        for seen in range(4):
            changed = {**tensors, "subscale.input.weight": tensors["subscale.input.weight"].copy()}
            changed["subscale.input.weight"][row, 0, seen, 3] = 1.0
            if seen < row:
                validate(CONFIG, changed)
                continue
            with pytest.raises(ModelError, match="1 non-zero values where a row would see itself"):
                validate(CONFIG, changed)


# --- configurations ---------------------------------------------------------------------------


def test_the_configuration_survives_its_text():
    for config in (*CONFIGS, cases.dual_config(32, 16), cases.small_configs()[-1]):
        assert ModelConfig.from_json(config.to_json()) == config
    raw = json.loads(cases.dual_config(32, 16).to_json())
    assert raw.pop("subscale") is None
    assert ModelConfig.from_json(json.dumps(raw)) == cases.dual_config(32, 16)  # older files
    raw = json.loads(CONFIG.to_json())
    assert raw["subscale"].pop("prediction_reach") == 0
    assert ModelConfig.from_json(json.dumps(raw)) == CONFIG  # likewise


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factor": 0}, "subscale factor is 0, must be 1 to 64"),
        ({"factor": 65}, "subscale factor is 65, must be 1 to 64"),
        ({"factor": 3}, "hop_length 16 is not a multiple of the subscale factor 3"),
        ({"horizon": -1}, "horizon is -1, must be 0 to 4096"),
        ({"horizon": 4097}, "horizon is 4097, must be 0 to 4096"),
        ({"channels": 0}, "subscale channels is 0, must be positive"),
        ({"blocks": -1}, "subscale blocks is -1, must be 0 to 12"),
        ({"blocks": 13, "horizon": 4096}, "subscale blocks is 13, must be 0 to 12"),
        ({"blocks": 3}, r"3 subscale blocks reach 2\*\*3 - 1 columns, more than the horizon of 4"),
        ({"prediction_reach": 5}, "prediction_reach is 5, must be 0 to the horizon of 4"),
        ({"prediction_reach": 1}, "a mel of no known convention predicts nothing"),
    ],
)
def test_impossible_rows_and_networks_are_refused(changes, words):
    assert CONFIG.subscale is not None
    with pytest.raises(ModelError, match=words):
        dataclasses.replace(CONFIG, subscale=dataclasses.replace(CONFIG.subscale, **changes))


def test_all_that_is_impossible_about_rows_is_listed_at_once():
    with pytest.raises(ModelError) as caught:
        dataclasses.replace(
            CONFIG, subscale=SubscaleConfig(factor=65, horizon=-1, channels=0, blocks=-1)
        )
    assert len(caught.value.problems) == 5


def test_subscale_goes_with_a_dual_core_and_a_mel_that_is_held():
    subscale = SubscaleConfig(factor=2, horizon=1, channels=4, blocks=1)
    with pytest.raises(ModelError, match="a residual core has no subscale form"):
        cases.residual_config(32, 16, bits=9, subscale=subscale)
    for fields in ({"upsample_left": 1}, {"upsample_right": 1}, {"pad": "none"}):
        with pytest.raises(ModelError, match="constant over a frame and padded with zeros"):
            cases.dual_config(32, 16, n_mels=4, hop_length=4, subscale=subscale, **fields)
    cases.dual_config(32, 16, subscale=dataclasses.replace(subscale, factor=3))  # no frames


@pytest.mark.parametrize(
    ("subscale", "words"),
    [
        ([4, 4, 6, 1], "SubscaleConfig is stored as list"),
        ({"factor": 4, "horizon": 4, "channels": 6}, "missing field 'blocks'"),
        ({"factor": "4", "horizon": 4, "channels": 6, "blocks": 1}, "factor is '4', expected int"),
        ({"factor": 4, "horizon": 4, "channels": 6, "blocks": 1, "F": 1}, "unknown field 'F'"),
    ],
)
def test_an_unusable_stored_form_is_refused(subscale, words):
    raw = json.loads(CONFIG.to_json()) | {"subscale": subscale}
    with pytest.raises(ModelError, match=words):
        ModelConfig.from_json(json.dumps(raw))


def test_reach_and_blocks_make_the_horizon():
    for horizon, blocks, reach, dilations in (
        (8, 3, 1, (1, 2, 4)), (8, 0, 8, ()), (7, 3, 0, (1, 2, 4)), (0, 0, 0, ()),
    ):  # fmt: skip
        made = SubscaleConfig(factor=4, horizon=horizon, channels=2, blocks=blocks)
        assert (made.reach, made.dilations) == (reach, dilations)
        assert made.reach + sum(made.dilations) == horizon
    assert (CONFIG.subscale_factor, cases.dual_config(32, 16).subscale_factor) == (4, 1)
    assert CONFIG.conditioning_size == 5 + 3 + 6
