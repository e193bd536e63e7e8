"""Classes to waveform and back: exact grids, any chunking the same bits, the ends as published."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavernn_fast import samples as s
from wavernn_fast.config import ModelConfig, OutputConfig
from wavernn_fast.errors import InputError

HOP = 10


def model(head: str = "softmax", n_classes: int = 512, **output: object) -> ModelConfig:
    dual = head == "dual_softmax"
    return ModelConfig(
        core="dual" if dual else "residual",
        hidden_size=32,
        fc_size=32,
        head=head,  # type: ignore[arg-type]
        n_classes=256 if dual else 30 if head == "mol" else n_classes,
        sample_rate=8000,
        hop_length=HOP,
        n_mels=20,
        output=OutputConfig(**output),  # type: ignore[arg-type]
    )


MODELS = {
    "raw": model(),
    "mu_law": model(mu_law=True, length="frames_minus_one", fade_out_frames=4),
    "deemphasis": model(mu_law=True, deemphasis=0.97, length="frames_minus_one", fade_out_frames=3),
    "torchaudio": model(n_classes=256, mu_law=True, label_decode="torchaudio"),
    "univoc": model(n_classes=1024, mu_law=True, label_decode="univoc"),
    "gibiansky": model(
        n_classes=256, mu_law=True, label_decode="gibiansky", deemphasis=0.9, limit=0.9999
    ),
    "yukarin": model(n_classes=1024, mu_law=True, label_decode="yukarin"),
    "mol": model("mol", length="frames_minus_one", fade_out_frames=2),
    "dual": model("dual_softmax"),
    "dual_symmetric": model("dual_softmax", dual_scale="symmetric", fade_out_frames=1),
}
every_model = pytest.mark.parametrize("name", MODELS)


def draw(config: ModelConfig, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if config.head == "mol":
        return rng.uniform(-1.0, 1.0, count).astype(np.float32)
    top = 65536 if config.core == "dual" else config.n_classes
    return rng.integers(0, top, count).astype(np.int32)


# --- grids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [256, 512, 1024, 65536])
def test_every_label_survives_its_value(n_classes: int) -> None:
    labels = np.arange(n_classes)
    values = s.label_to_value(labels, n_classes)
    assert values[0] == -1.0
    assert values[-1] == 1.0
    np.testing.assert_array_equal(s.value_to_label(values, n_classes), labels)


@pytest.mark.parametrize("n_classes", [256, 512, 1024])
def test_every_label_survives_mu_law(n_classes: int) -> None:
    labels = np.arange(n_classes)
    wave = s.mu_law_decode(labels, n_classes)
    assert (np.diff(wave) > 0).all()
    assert wave[0] == pytest.approx(-1.0)
    np.testing.assert_allclose(wave, -wave[::-1], atol=1e-12)
    np.testing.assert_array_equal(s.mu_law_encode(wave, n_classes), labels)


def test_mu_law_decode_is_the_published_formula() -> None:
    mu, labels = 511.0, np.arange(512)
    x = 2.0 * labels / mu - 1.0
    expected = np.sign(x) / mu * ((1.0 + mu) ** np.abs(x) - 1.0)
    np.testing.assert_allclose(s.mu_law_decode(labels, 512), expected, rtol=1e-15)
    assert s.mu_law_decode([511, 0], 512).tolist() == [1.0, -1.0]


def test_mu_law_encode_takes_the_label_nearest_in_the_companded_domain() -> None:
    wave = np.linspace(-1.2, 1.2, 4001)
    companded = s.mu_law_compress(wave, 256)
    error = s.label_to_value(s.mu_law_encode(wave, 256), 256) - companded
    assert np.abs(error).max() <= 1.0 / 255.0 + 1e-12


def test_truncating_decode_lowers_sixty_three_labels_as_torch_does() -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle of float32 truncation")
    labels = np.arange(256)
    value = 2 * torch.arange(256).float() / (2**8 - 1.0) - 1.0
    scaled = (torch.clamp(value, -1, 1) + 1.0) * (2**8 - 1) / 2
    expected = torch.clamp(scaled, 0, 2**8 - 1).int().numpy()
    found = s.truncate_labels(labels, 256)
    np.testing.assert_array_equal(found, expected)
    assert ((labels - found) == 1).sum() == 63
    assert ((labels - found) == 0).sum() == 193


def test_truncating_decode_emits_the_value_of_the_lowered_label() -> None:
    labels = np.arange(256, dtype=np.int32)
    found = s.decode_samples(labels, MODELS["torchaudio"])
    expected = s.mu_law_decode(s.truncate_labels(labels, 256), 256)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("classes", [256, 512, 1024])
def test_float32_values_are_those_of_torch_bit_for_bit(classes: int) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle of float32 rounding")
    expected = (2 * torch.arange(classes).float() / (classes - 1.0) - 1.0).numpy()
    assert s.label_to_value_float32(np.arange(classes), classes).tobytes() == expected.tobytes()
    config = dataclasses.replace(
        MODELS["torchaudio"], n_classes=classes, output=OutputConfig(label_decode="float32")
    )
    found = s.decode_samples(np.arange(classes, dtype=np.int32), config)
    np.testing.assert_array_equal(found, expected.astype(np.float64))
    assert np.abs(found - s.label_to_value(np.arange(classes), classes)).max() > 0


def _waves() -> np.ndarray:
    """Loud and quiet samples, with both ends and silence."""
    rng = np.random.default_rng(2)
    waves = rng.uniform(-1.0, 1.0, 3000) * 10.0 ** rng.uniform(-4.0, 0.0, 3000)
    return np.concatenate([waves, [-1.0, 0.0, 1.0]])


def _companded(wave: np.ndarray, mu: int) -> np.ndarray:
    return np.sign(wave) * np.log1p(mu * np.abs(wave)) / np.log1p(mu)


def test_univoc_labels_are_those_of_librosa() -> None:
    """librosa 0.8: mu_compress is np.digitize on 1 + mu edges, mu_expand a grid of 2 / (1 + mu)."""
    config, wave = MODELS["univoc"], _waves()
    edges = np.linspace(-1.0, 1.0, 1024)
    expected = np.digitize(_companded(wave, 1023), edges, right=True)
    assert np.array_equal(s.encode_targets(wave, config), expected)
    labels = np.arange(1024)
    x = (labels - 512) * (2.0 / (1 + 1023))
    values = np.sign(x) / 1023 * (np.power(1 + 1023, np.abs(x)) - 1)
    assert np.array_equal(s.decode_samples(labels.astype(np.int32), config), values)
    assert s.encode_targets(np.zeros(1), config)[0] == 512
    assert s.decode_samples(np.array([512], np.int32), config)[0] == 0.0


def test_gibiansky_labels_are_rounded_down_and_mean_the_middle() -> None:
    config, wave = MODELS["gibiansky"], _waves()
    plain = dataclasses.replace(config, output=dataclasses.replace(config.output, deemphasis=0.0))
    expected = ((_companded(wave, 255) + 1) / 2 * 255).astype(np.int64)
    assert np.array_equal(s.encode_targets(wave, plain), expected)
    labels = np.arange(256)
    x = ((labels + 0.5) / 255) * 2 - 1.0
    values = np.sign(x) * (np.exp(np.abs(x) * np.log1p(255.0)) - 1.0) / 255.0
    np.testing.assert_allclose(
        s.decode_samples(labels.astype(np.int32), plain), values, rtol=1e-12, atol=1e-15
    )
    assert s.encode_targets(np.zeros(1), plain)[0] == 127
    assert s.decode_samples(np.array([127], np.int32), plain)[0] == 0.0


def test_a_limit_clips_what_is_heard_after_deemphasis() -> None:
    config = MODELS["gibiansky"]
    loud = np.full(5 * HOP, 255, np.int32)
    assert s.decode_samples(loud, config)[0] > 1.02
    assert (s.decode_all(loud, config) == np.float32(0.9999)).all()
    assert (s.decode_all(0 * loud, config) == np.float32(-0.9999)).sum() == 5 * HOP - 1


def test_yukarin_labels_are_equal_steps_decoded_on_the_usual_grid() -> None:
    config, wave = MODELS["yukarin"], _waves()
    expected = ((_companded(wave, 1023) + 1) * 512).astype(np.int64)
    expected[expected == 1024] = 1023
    assert np.array_equal(s.encode_targets(wave, config), expected)
    labels = np.arange(1024, dtype=np.int32)
    assert np.array_equal(s.decode_samples(labels, config), s.mu_law_decode(labels, 1024))


def test_coarse_and_fine_join_to_the_sample_they_came_from() -> None:
    everything = np.arange(65536)
    coarse, fine = s.split_sample(everything)
    assert (coarse.min(), coarse.max(), fine.min(), fine.max()) == (0, 255, 0, 255)
    np.testing.assert_array_equal(s.join_sample(coarse, fine), everything)


def test_dual_scales_are_the_two_published_ones() -> None:
    k = np.array([0, 32767, 32768, 65535], dtype=np.int32)
    np.testing.assert_array_equal(
        s.decode_samples(k, MODELS["dual"]), [-1.0, -1 / 32768, 0.0, 32767 / 32768]
    )
    np.testing.assert_array_equal(
        s.decode_samples(k, MODELS["dual_symmetric"]),
        [-1.0, 32767 / 32767.5 - 1, 32768 / 32767.5 - 1, 1.0],
    )


# --- targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["raw", "mu_law", "mol", "dual", "dual_symmetric"])
def test_targets_of_a_decoded_wave_are_the_classes_it_came_from(name: str) -> None:
    config = MODELS[name]
    drawn = draw(config, 5000)
    wave = s.decode_samples(drawn, config)
    targets = s.encode_targets(wave, config)
    assert targets.dtype == (np.float32 if name == "mol" else np.int32)
    np.testing.assert_array_equal(targets, drawn)


def test_targets_undo_deemphasis() -> None:
    config = MODELS["deemphasis"]
    drawn = np.clip(draw(config, 3000), 150, 360)  # quiet, so that nothing is clipped
    wave, _ = s.deemphasize(s.decode_samples(drawn, config), 0.97)
    np.testing.assert_array_equal(s.encode_targets(wave, config), drawn)


def test_targets_of_a_torchaudio_model_are_exact_labels() -> None:
    wave = s.mu_law_decode(np.arange(256), 256)
    np.testing.assert_array_equal(s.encode_targets(wave, MODELS["torchaudio"]), np.arange(256))


@every_model
def test_targets_outside_of_the_range_are_clipped(name: str) -> None:
    config = dataclasses.replace(
        MODELS[name], output=dataclasses.replace(MODELS[name].output, deemphasis=0.0)
    )
    low, high = s.encode_targets(np.array([-7.0, 7.0]), config).tolist()
    top = {"mol": 1, "dual_softmax": 65535}.get(config.head, config.n_classes - 1)
    assert (low, high) == (-1 if config.head == "mol" else 0, top)


def test_targets_of_a_wave_that_is_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="sample 1"):
        s.encode_targets(np.array([0.0, np.nan]), MODELS["raw"])


# --- the end of the pipe --------------------------------------------------------------------------


def test_deemphasis_is_the_recursion_and_inverts_preemphasis() -> None:
    wave = np.random.default_rng(0).normal(size=300)
    emphasised = wave.copy()
    emphasised[1:] -= 0.9 * wave[:-1]
    found, last = s.deemphasize(emphasised, 0.9)
    np.testing.assert_allclose(found, wave, atol=1e-12)
    assert last == found[-1]
    assert s.deemphasize(np.zeros(0), 0.9, 0.25)[1] == 0.25


def test_deemphasis_without_the_extension_gives_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wave = np.random.default_rng(1).normal(size=500)
    found, last = s.deemphasize(wave, 0.97, 0.125)
    monkeypatch.setitem(__import__("sys").modules, "wavernn_fast._C", None)
    monkeypatch.delattr("wavernn_fast._C", raising=False)
    slow, slow_last = s.deemphasize(wave, 0.97, 0.125)
    np.testing.assert_array_equal(slow, found)
    assert slow_last == last


def test_end_is_cut_then_faded_linearly_to_zero() -> None:
    config = model(length="frames_minus_one", fade_out_frames=4)
    wave = s.finish(np.ones(12 * HOP), config)
    assert wave.dtype == np.float32
    assert wave.size == config.n_samples(12) == 11 * HOP
    np.testing.assert_array_equal(wave[: 7 * HOP], 1.0)
    np.testing.assert_array_equal(
        wave[7 * HOP :], np.linspace(1.0, 0.0, 4 * HOP).astype(np.float32)
    )


@pytest.mark.parametrize(("frames", "faded"), [(4, False), (5, True), (6, True)])
def test_wave_shorter_than_the_ramp_is_not_faded(frames: int, faded: bool) -> None:
    config = model(length="frames_minus_one", fade_out_frames=4)
    wave = s.finish(np.ones(frames * HOP), config)
    assert bool(wave[-1] == 0.0) is faded
    assert wave.size == (frames - 1) * HOP


@every_model
@pytest.mark.parametrize("frames", [0, 1])
def test_shortest_utterances_have_the_length_of_the_rule(name: str, frames: int) -> None:
    config = MODELS[name]
    drawn = draw(config, frames * HOP)
    decoder = s.OutputDecoder(config)
    wave = np.concatenate([decoder.push(drawn), decoder.finish()])
    assert wave.size == s.decode_all(drawn, config).size == config.n_samples(frames)


@every_model
@pytest.mark.parametrize("total_known", [True, False])
@settings(max_examples=30, deadline=None)
@given(frames=st.integers(0, 14), data=st.data())
def test_any_chunking_gives_the_same_bits(
    name: str, total_known: bool, frames: int, data: st.DataObject
) -> None:
    config = MODELS[name]
    drawn = draw(config, frames * HOP, seed=frames)
    whole = s.decode_all(drawn, config)
    decoder = s.OutputDecoder(config, drawn.size if total_known else None)
    cuts = sorted(data.draw(st.lists(st.integers(0, drawn.size), max_size=8)))
    parts = []
    for start, sent in zip([0, *cuts], [*cuts, drawn.size], strict=True):
        parts.append(decoder.push(drawn[start:sent]))
        ready = min(max(0, sent - decoder.delay), whole.size)
        assert sum(part.size for part in parts) == ready  # nothing more is held back
    parts.append(decoder.finish())
    found = np.concatenate(parts)
    assert found.dtype == np.float32
    assert found.tobytes() == whole.tobytes()


def test_decoder_refuses_another_length_than_announced() -> None:
    decoder = s.OutputDecoder(MODELS["raw"], 20)
    decoder.push(draw(MODELS["raw"], 15))
    with pytest.raises(InputError, match="15 samples came, but 20"):
        decoder.finish()
    with pytest.raises(InputError, match="25 samples came, but 20"):
        decoder.push(draw(MODELS["raw"], 10))


def test_unconditioned_model_keeps_every_sample() -> None:
    config = ModelConfig(
        core="dual",
        hidden_size=32,
        fc_size=16,
        head="dual_softmax",
        n_classes=256,
        sample_rate=24000,
        hop_length=1,
        output=OutputConfig(length="frames_minus_one"),
    )
    assert s.decode_all(np.zeros(100, dtype=np.int32), config).size == 100
