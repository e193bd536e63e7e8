"""Model configurations: consistent, explained when not, and unchanged by their stored form."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from wavernn_fast.config import ModelConfig, OutputConfig
from wavernn_fast.errors import ModelError
from wavernn_fast.presets import PRESETS, get_preset

_FIELDS: dict[str, Any] = {
    "core": "residual",
    "hidden_size": 64,
    "fc_size": 32,
    "head": "softmax",
    "n_classes": 512,
    "sample_rate": 16000,
    "hop_length": 200,
    "n_mels": 80,
}


def _config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{**_FIELDS, **changes})


def _raw(**changes: Any) -> str:
    return json.dumps({**_FIELDS, **changes})


def _dual(**changes: Any) -> ModelConfig:
    fields = {"core": "dual", "head": "dual_softmax", "n_classes": 256}
    return _config(**{**fields, **changes})


def test_configurations_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _config().hidden_size = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_stored_form_gives_the_same_configuration(name: str) -> None:
    preset = get_preset(name)
    outputs = {"dual_softmax": 256, "softmax": 512, "mol": 30, "gaussian": 2, "beta": 2}
    config = ModelConfig(
        core="dual" if "dual_softmax" in preset.heads else "residual",
        hidden_size=64,
        fc_size=32,
        head=preset.heads[0],
        n_classes=outputs[preset.heads[0]],
        sample_rate=preset.sample_rate,
        hop_length=preset.hop_length if preset.mel else 1,
        n_mels=80 if preset.mel else 0,
        mel=preset.mel,
        output=preset.output,
        preset=name,
    )
    assert ModelConfig.from_json(config.to_json()) == config


def test_optional_fields_may_be_absent_from_the_stored_form() -> None:
    assert ModelConfig.from_json(_raw()) == _config()
    assert ModelConfig.from_json(_raw(output={"mu_law": True})).output == OutputConfig(mu_law=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"core": "triple"}, "core is 'triple'"),
        ({"hidden_size": 0}, "hidden_size is 0, must be positive"),
        ({"n_classes": 1}, "one label is no choice"),
        ({"n_mels": -1}, "n_mels is -1, must not be negative"),
        ({"head": "dual_softmax"}, "a residual core has no head"),
        ({"hidden_size": 40}, "hidden_size is 40, not a multiple of 16"),
        ({"head": "mol"}, "mol needs 3 outputs a mixture"),
        ({"n_mels": 0}, "an unconditioned model has hop_length 1"),
        ({"n_mels": 0, "hop_length": 1, "aux_size": 4, "aux_kernel": 5}, "needs mel frames"),
        ({"aux_size": 4, "aux_kernel": 4, "aux_channels": 8}, "aux_kernel 4 must be odd"),
        ({"aux_size": 4, "aux_kernel": 5}, "aux_channels is 0, must be positive"),
        ({"aux_blocks": 10**9}, "aux_blocks is 1000000000, limit 256"),
        ({"first_input": 2.0}, "first_input is 2.0"),
        ({"pad": "reflect"}, "pad is 'reflect', not one of zeros, none"),
        ({"upsample": "nearest"}, "upsample is 'nearest', not one of kernel, linear"),
        ({"output": OutputConfig(length="all")}, "length is 'all', not one of frames"),
        ({"output": OutputConfig(deemphasis=1.0)}, "deemphasis is 1.0"),
        ({"output": OutputConfig(deemphasis=math.nan)}, "deemphasis is nan"),
        ({"output": OutputConfig(fade_out_frames=-1)}, "fade_out_frames is -1"),
        ({"output": OutputConfig(limit=-0.5)}, "limit is -0.5"),
        ({"output": OutputConfig(fold_target=5, fold_overlap=9)}, "folds of 5 samples"),
        ({"output": OutputConfig(fold_overlap=-1)}, "folds of 11000 samples"),
        ({"mel": get_preset("fatchord-raw9").mel}, "hop_length is 200 but the mel preset has 275"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        _config(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": "softmax"}, "a dual core has head dual_softmax"),
        ({"hidden_size": 48}, "hidden_size 48 not divisible by 32"),
        ({"n_classes": 512}, "256 classes a half, not 512"),
    ],
)
def test_contradictions_of_the_dual_core_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        _dual(**changes)


def test_all_contradictions_are_listed_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        _dual(hidden_size=48, n_classes=10, fc_size=-1)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("[1, 2]", "not a JSON object"),
        ("{}", "missing field 'core'"),
        (_raw(colour="red"), "unknown field 'colour'"),
        (_raw(hidden_size="64"), "hidden_size is '64', expected int"),
        (_raw(hidden_size=64.5), "hidden_size is 64.5, expected int"),
        (_raw(hidden_size=True), "hidden_size is True, expected int"),
        (_raw(core=3), "core is 3"),
        (_raw(pad="mirror"), "pad is 'mirror', expected one of zeros, none"),
        (_raw(first_input=float("nan")), "expected a finite number"),
        (_raw(output={"mu_law": 1}), "mu_law is 1, expected bool"),
        (_raw(upsample_left=False), "upsample_left is False, expected int"),
        (_raw(output={"crossfade": "none"}), "crossfade is 'none', expected one of"),
        (_raw(output={"label_decode": "near"}), "label_decode is 'near', expected one of"),
        (_raw(output={"length": "all"}), "expected one of frames, frames_minus_one"),
        (_raw(output=[1]), "OutputConfig is stored as list"),
        (_raw(mel={"n_fft": 800}), "missing field 'sample_rate'"),
    ],
)
def test_an_unusable_stored_form_is_refused(text: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        ModelConfig.from_json(text)


@pytest.mark.parametrize("clip", ["low", [0], [0, 1, 2], [1, 0], [0, "x"], [0, float("inf")], 4])
def test_a_stored_clip_is_two_rising_numbers(clip: Any) -> None:
    mel = dataclasses.asdict(get_preset("rtvc").mel) | {"clip": clip}  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="clip is"):
        ModelConfig.from_json(_raw(mel=mel))


def test_all_faults_of_the_stored_form_are_listed_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        ModelConfig.from_json(_raw(colour=1, hidden_size="x", pad=7))
    assert len(caught.value.problems) == 3


def test_draws_and_logits_follow_the_head() -> None:
    softmax, mol = _config(), _config(head="mol", n_classes=30)
    assert (softmax.draws_per_step, softmax.logits_size) == (1, 512)
    assert (mol.draws_per_step, mol.logits_size) == (2, 30)
    assert (_dual().draws_per_step, _dual().logits_size) == (2, 512)


def test_context_is_the_wider_of_upsampling_and_auxiliary_network() -> None:
    config = _config(aux_size=4, aux_channels=8, aux_kernel=7, upsample_left=1, upsample_right=4)
    assert (config.lookback_frames, config.lookahead_frames) == (3, 4)
    bare = _config(upsample_left=1, upsample_right=2)
    assert (bare.lookback_frames, bare.lookahead_frames) == (1, 2)


def test_lengths_follow_padding_and_length_rule() -> None:
    assert _config().n_samples(10) == 2000
    minus_one = _config(output=OutputConfig(length="frames_minus_one"))
    assert [minus_one.n_samples(n) for n in (0, 1, 10)] == [0, 0, 1800]
    valid = _config(pad="none", upsample_left=1, upsample_right=1)
    assert [valid.n_samples(n) for n in (0, 2, 3)] == [0, 0, 200]
