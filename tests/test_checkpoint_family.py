"""Checkpoints of fatchord's relatives: each means after loading what its own program makes of it.

The engine on every instruction set and the float64 reference are compared with the published
module in PyTorch, from a file in the published layout and wrapper.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import checkpoint_builders as builders
import family_twins as twins
import numpy as np
import pytest
import reference
import tolerances
from engine_work import ISAS
from hypothesis import given, settings
from hypothesis import strategies as st

from wavernn_fast import checkpoints, likelihood, weights
from wavernn_fast.checkpoints import coqui
from wavernn_fast.errors import InputError, ModelError
from wavernn_fast.presets import get_preset
from wavernn_fast.synthetic import random_mel
from wavernn_fast.utterance import make_request
from wavernn_fast.vocoder import Vocoder

PUBLISHED = {"n_mels": 80}  # what presets ask for
SPEAKER = np.random.default_rng(8).normal(0.0, 0.1, 256)

# file, its wrapper, the preset that must be named, and the switches of its module
FILES: dict[str, tuple[dict[str, np.ndarray], str, str | None, dict[str, Any]]] = {
    "coqui-mold": (builders.fatchord(classes=30), "model", None, {"classes": 30}),
    "coqui-linear": (
        builders.coqui(classes=30, **PUBLISHED),
        "model",
        "coqui",
        {"classes": 30, "linear": 256, **PUBLISHED},
    ),
    "coqui-linear-no-aux": (
        builders.coqui(classes=1024, use_aux_net=False, pad=3, **PUBLISHED),
        "model",
        "mozilla-libritts",
        {"classes": 1024, "linear": 256, "hears_aux": False, "pad": 3, **PUBLISHED},
    ),
    "erogol": (
        builders.coqui(classes=30, use_aux_net=False, **PUBLISHED),
        "model",
        "erogol-universal",
        {"classes": 30, "linear": 200, "hears_aux": False, **PUBLISHED},
    ),
    "coqui-gauss": (
        builders.fatchord(classes=2, scales=(4, 8, 8), **PUBLISHED),
        "model",
        None,
        {"classes": 2, "scales": (4, 8, 8), **PUBLISHED},
    ),
    "gwang-beta": (
        builders.fatchord(classes=2, scales=(4, 4, 16), **PUBLISHED),
        "state_dict",
        "gwang-beta",
        {"classes": 2, "scales": (4, 4, 16), **PUBLISHED},
    ),
    "begeekmyfriend": (
        builders.begeekmyfriend(),
        "",
        None,
        {"bias": True, "beyond": -4.0},
    ),
    "begeekmyfriend-mol": (
        builders.begeekmyfriend(classes=30, scales=(3, 2, 2), blocks=1, seed=4),
        "",
        None,
        {"classes": 30, "scales": (3, 2, 2), "blocks": 1, "bias": True, "beyond": -4.0},
    ),
    "scwavernn": (builders.scwavernn(classes=30), "", None, {"classes": 30, "speaker": 256}),
}


def load(name: str, folder: Path) -> tuple[Any, Any, twins.Relative]:
    state, wrapper, preset, switches = FILES[name]
    path = builders.save(folder / "m.pt", state, wrapper=wrapper)
    return *checkpoints.load(path, preset=preset), twins.relative(state, **switches)


def forced(config: Any, n_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A mel, outcomes to force, and the values that are fed back before each step."""
    rng = np.random.default_rng(5)
    mel = random_mel(config, n_frames)
    n = n_frames * config.hop_length
    if config.draws_values:
        samples = rng.uniform(-1, 1, n).astype(np.float32)
        scaled = samples.astype(np.float64)
    else:
        samples = rng.integers(0, config.n_classes, n).astype(np.int32)
        scaled = 2.0 * samples / (config.n_classes - 1) - 1.0
    return mel, samples, np.concatenate([[0.0], scaled[:-1]])


@pytest.mark.parametrize("name", FILES)
def test_a_file_means_what_its_own_module_means(name: str, tmp_path: Path) -> None:
    config, tensors, twin = load(name, tmp_path)
    speaker = SPEAKER if config.speaker_size else None
    for n_frames in (1, 4):
        mel, samples, fed = forced(config, n_frames)
        expected = twin.logits(mel, fed, speaker)
        found = reference.run(config, tensors, mel, forced=samples, speaker=speaker)["logits"]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", FILES)
def test_the_engine_says_what_the_module_says(
    name: str, isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAVERNN_FAST_ISA", isa)
    config, tensors, twin = load(name, tmp_path)
    speaker = SPEAKER if config.speaker_size else None
    mel, samples, fed = forced(config, 4)
    voc = Vocoder(config, tensors, device="cpu", cpu_threads=1)
    request = make_request(config, mel, None, 0, speaker=speaker)
    parts = [part for _, part in likelihood.teacher_forced_logits(voc.voice(), request, samples)]
    expected = twin.logits(mel, fed, speaker)
    error = tolerances.logit_error(np.concatenate(parts), expected)
    assert error < min(1e-4, tolerances.logit_limit(expected, "fp32"))


@pytest.mark.parametrize("name", FILES)
def test_a_converted_file_is_the_same_model(name: str, tmp_path: Path) -> None:
    config, tensors, _ = load(name, tmp_path)
    weights.write(tmp_path / "m.safetensors", config, tensors)
    again, stored = checkpoints.load(tmp_path / "m.safetensors")
    assert again == config
    assert all(np.array_equal(stored[name], tensors[name]) for name in tensors)


DIALECTS = {
    **dict.fromkeys(("coqui-linear", "coqui-linear-no-aux", "erogol"), "coqui"),
    **dict.fromkeys(("begeekmyfriend", "begeekmyfriend-mol"), "begeekmyfriend"),
    **dict.fromkeys(("coqui-mold", "coqui-gauss", "gwang-beta"), "fatchord"),
    "scwavernn": "scwavernn",
}


@pytest.mark.parametrize("name", FILES)
def test_the_dialect_is_recognised(name: str, tmp_path: Path) -> None:
    config, _, _ = load(name, tmp_path)
    assert checkpoints.detect(FILES[name][0]) == config.source == DIALECTS[name]


def test_what_tensors_tell_is_read_off_them(tmp_path: Path) -> None:
    config, tensors, _ = load("coqui-linear-no-aux", tmp_path)
    assert (config.upsample, config.upsample_pad, config.hop_length) == ("linear", 3, 256)
    assert (config.aux_size, config.sample_rate, config.preset) == (0, 24000, "mozilla-libritts")
    assert not any(name.startswith(("aux.", "upsample.")) for name in tensors)
    config, _, _ = load("begeekmyfriend", tmp_path)
    assert (config.pad_value, config.output.length, config.output.fade_out_frames) == (
        -4.0,
        "frames",
        0,
    )
    config, _, _ = load("scwavernn", tmp_path)
    assert config.speaker_size == 256


# ---------------------------------------------------------------- what must be told


@pytest.mark.parametrize(
    ("state", "wrapper", "words"),
    [
        (builders.coqui(**PUBLISHED), "model", ["interpolated linearly", "coqui"]),
        (
            builders.coqui(classes=30, **PUBLISHED),
            "model",
            ["samples of a frame are not in the file", "erogol-universal", "mozilla-libritts"],
        ),
        (
            builders.fatchord(classes=2, scales=(4, 8, 8), **PUBLISHED),
            "state_dict",
            ["gaussian or of a beta", "coqui", "gwang-gauss", "gwang-beta"],
        ),
        (
            builders.coqui(classes=2, **PUBLISHED),
            "",
            ["gaussian or of a beta", "interpolated linearly", "Presets that fit: coqui"],
        ),
    ],
)
def test_what_no_tensor_tells_must_be_told_and_all_of_it_is_named(
    state: dict[str, np.ndarray], wrapper: str, words: list[str], tmp_path: Path
) -> None:
    path = builders.save(tmp_path / "m.pt", state, wrapper=wrapper)
    with pytest.raises(ModelError) as caught:
        checkpoints.load(path)
    assert str(path) in str(caught.value)
    assert all(word in str(caught.value) for word in words)
    facts = checkpoints.inspect(path)
    assert facts["problems"] == list(caught.value.problems)
    assert "coqui" in facts["presets"]


@pytest.mark.parametrize(("preset", "head"), [("gwang-gauss", "gaussian"), ("gwang-beta", "beta")])
def test_a_preset_tells_gaussian_from_beta(preset: str, head: str, tmp_path: Path) -> None:
    state = builders.fatchord(classes=2, scales=(4, 8, 8), **PUBLISHED)
    path = builders.save(tmp_path / "m.pt", state, wrapper="state_dict")
    config, tensors = checkpoints.load(path, preset=preset)
    assert (config.head, config.preset) == (head, preset)
    weights.write(tmp_path / "m.safetensors", config, tensors)  # and the file keeps it
    assert checkpoints.load(tmp_path / "m.safetensors")[0].head == head
    with pytest.raises(InputError, match="preset is for"):
        checkpoints.load(tmp_path / "m.safetensors", preset="gwang-mol")


@pytest.mark.parametrize(
    ("preset", "words"),
    [("fatchord-mol", "two outputs"), ("rtvc", "two outputs"), ("nonsense", "no preset")],
)
def test_a_preset_that_cannot_be_is_refused(preset: str, words: str, tmp_path: Path) -> None:
    state = builders.fatchord(classes=2, scales=(5, 5, 11), **PUBLISHED)
    path = builders.save(tmp_path / "m.pt", state)
    with pytest.raises(InputError, match=words):
        checkpoints.load(path, preset=preset)


def _sized(scales: tuple[int, ...], **sizes: Any) -> dict[str, np.ndarray]:
    return builders.fatchord(scales=scales, **PUBLISHED, **sizes)


@pytest.mark.parametrize(
    ("state", "wrapper", "preset"),
    [
        (_sized((4, 8, 8)), "", "forwardtacotron"),
        (_sized((4, 8, 8), classes=30), "model", "coqui"),
        (_sized((4, 8, 8)), "model", "coqui"),
        (_sized((4, 8, 8), classes=2), "model", "coqui"),
        (_sized((4, 4, 16), classes=1024), "state_dict", "gwang-bits"),
        (_sized((4, 4, 16), classes=30), "state_dict", "gwang-mol"),
        (_sized((5, 5, 11), classes=1024), "", "tomiinek-raw10"),
        (_sized((5, 5, 11), classes=512), "", "fatchord-raw9"),
        (_sized((5, 5, 11), classes=256), "", "fatchord-raw9"),
        (_sized((5, 5, 8), classes=512), "", "rtvc"),
        (builders.scwavernn(classes=30, scales=(5, 5, 11), n_mels=80), "", "fatchord-mol"),
        (builders.begeekmyfriend(n_mels=80, scales=(4, 8, 8)), "", "custom"),
    ],
)
def test_wrapper_bits_and_sizes_choose_the_preset(
    state: dict[str, np.ndarray],
    wrapper: str,
    preset: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = builders.save(tmp_path / "m.pt", state, wrapper=wrapper)
    with caplog.at_level(logging.INFO, logger="wavernn_fast"):
        config, _ = checkpoints.load(path)
    assert config.preset == preset
    if preset == "custom":
        assert "no preset" in caplog.text
    else:
        assert config.sample_rate == get_preset(preset).sample_rate


@pytest.mark.parametrize(("classes", "mu_law"), [(512, True), (30, False)])
def test_labels_of_scwavernn_are_companded_where_no_preset_fits(
    tmp_path: Path, classes: int, mu_law: bool
) -> None:
    state = builders.scwavernn(classes=classes, scales=(4, 8, 8), n_mels=80)
    config, _ = checkpoints.load(builders.save(tmp_path / "m.pt", state))
    assert (config.preset, config.output.mu_law) == ("custom", mu_law)


# ---------------------------------------------------------------- faults


def test_a_lost_filter_is_missed_and_not_taken_for_linear_upsampling(tmp_path: Path) -> None:
    state = builders.fatchord()
    del state["upsample.up_layers.3.weight"]
    with pytest.raises(ModelError) as caught:
        checkpoints.load(builders.save(tmp_path / "m.pt", state))
    assert any("missing tensor upsample.up_layers.3.weight" in p for p in caught.value.problems)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_one_wrong_width_does_not_change_whether_the_auxiliary_network_is_heard(
    data: st.DataObject,
) -> None:
    hears = data.draw(st.booleans())
    state = builders.coqui(use_aux_net=hears)
    name = data.draw(st.sampled_from(["I.weight", "fc1.weight", "fc2.weight", "rnn2.weight_ih_l0"]))
    state[name] = state[name][:, :-1]
    assert coqui._variant(state).hears_aux == hears
    with pytest.raises(ModelError) as caught:
        coqui.convert(state)
    assert len(caught.value.problems) == 1
    # That the input layer and the first convolution hear the same bins is one word against another.
    either = (name, "upsample.resnet.conv_in.weight")[: 1 + (name == "I.weight")]
    assert any(f"{one} has shape" in caught.value.problems[0] for one in either)


def test_a_model_with_another_number_of_speaker_columns_is_refused(tmp_path: Path) -> None:
    state = builders.scwavernn()
    state["I.weight"] = state["I.weight"][:, :-1]
    with pytest.raises(ModelError, match=r"(I|conv_in)\.weight has shape"):
        checkpoints.load(builders.save(tmp_path / "m.pt", state))


def test_a_single_bias_does_not_make_a_model_of_biases(tmp_path: Path) -> None:
    state = builders.fatchord()
    state["upsample.resnet.conv_in.bias"] = np.zeros(12, np.float32)
    with pytest.raises(ModelError) as caught:
        checkpoints.load(builders.save(tmp_path / "m.pt", state))
    assert caught.value.problems == (
        "unexpected tensor upsample.resnet.conv_in.bias of shape [12]",
    )


def test_a_speaker_costs_nothing_where_samples_are_drawn(tmp_path: Path) -> None:
    """The engine of a model with a speaker multiplies what one without multiplies."""
    config, tensors, _ = load("scwavernn", tmp_path)
    state = builders.fatchord(classes=30)
    plain = Vocoder(*checkpoints.load(builders.save(tmp_path / "p.pt", state)))
    voc = Vocoder(config, tensors)
    assert voc.engine.macs_per_step == plain.engine.macs_per_step
    assert voc.engine.hold_size == plain.engine.hold_size
