"""univoc and its kin: a checkpoint means what the published class means, and speaks as it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoint_builders as builders
import embedded_twins as twins
import numpy as np
import pytest
import reference
import tolerances
from quick import quick_where

from wavernn_fast import _C, checkpoints, samples, weights
from wavernn_fast.errors import ModelError
from wavernn_fast.likelihood import teacher_forced_logits
from wavernn_fast.utterance import make_request
from wavernn_fast.vocoder import Vocoder


def _anandaswarup(state: dict[str, np.ndarray], **sizes: Any) -> twins.Univoc:
    """Their module is univoc's under other names."""
    names = {
        "conditioning_network": "rnn1",
        "quantized_audio_embedding": "embedding",
        "rnn": "rnn2",
        "linear_layer": "fc1",
        "output_layer": "fc2",
    }
    renamed = {}
    for name, array in state.items():
        first, _, rest = name.partition(".")
        renamed[f"{names[first]}.{rest}"] = array
    return twins.univoc(renamed, hop=275, **sizes)


def _zerospeech(state: dict[str, np.ndarray], **sizes: Any) -> twins.Univoc:
    """Univoc's as well, over the features that `codes` makes; its tables make those."""
    renamed = {
        name.replace("mu_embedding", "embedding"): array
        for name, array in state.items()
        if not name.startswith(("speaker_embedding", "code_embedding"))
    }
    return twins.univoc(renamed, hop=160, **{"classes": 256, **sizes})


def _univoc_first(state: dict[str, np.ndarray], **sizes: Any) -> twins.Univoc:
    return twins.univoc(state, **{"classes": 512, "first_version": True, **sizes})


# file -> builder, twin, wrapper as published, label before the first, frames that make no sound
FAMILIES: dict[str, Any] = {
    "univoc": (builders.univoc, twins.univoc, "model", 512, 0),
    "univoc_first": (builders.univoc_first, _univoc_first, "model", 256, 0),
    "anandaswarup": (builders.anandaswarup, _anandaswarup, "model", 512, 0),
    "gibiansky": (builders.gibiansky, twins.gibiansky, "state_dict", 127, 12),
    "yukarin": (builders.yukarin, twins.yukarin, "", 512, 0),
    "zerospeech": (builders.zerospeech, _zerospeech, "decoder", 128, 0),
}
UNEQUAL = {"hidden": 48, "fc": 80, "n_mels": 5, "seed": 3}  # and other sizes than the default


def _mel(n_mels: int, n_frames: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(-1, 1, (n_mels, n_frames)).astype(np.float32)


def _saved(tmp_path: Path, family: str, **sizes: Any) -> tuple[Path, Any]:
    build, twin, wrapper, _, _ = FAMILIES[family]
    state = build(**sizes)
    seedless = {name: size for name, size in sizes.items() if name != "seed"}
    return builders.save(tmp_path / "m.pt", state, wrapper=wrapper), twin(state, **seedless)


@pytest.mark.parametrize("sizes", [{}, UNEQUAL], ids=["default", "unequal"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_means_what_the_original_module_means(
    tmp_path: Path, family: str, sizes: dict[str, int]
) -> None:
    path, twin = _saved(tmp_path, family, **sizes)
    config, tensors = checkpoints.load(path)
    mel = _mel(config.n_mels, 4 + FAMILIES[family][4])
    n = config.n_samples(mel.shape[1])
    assert n == 4 * twin.hop
    assert config.first_label == FAMILIES[family][3]
    forced = np.random.default_rng(1).integers(0, config.n_classes, n)
    ours = reference.run(config, tensors, mel, forced=forced)["logits"]
    np.testing.assert_allclose(ours, twin.logits(mel, forced), atol=1e-5)


ENGINES = [("cpu", isa) for isa in _C.available_isas()]
ENGINES += [("reference", "auto"), ("emu", "auto")]  # emu: the GPU's kernel on the host


@pytest.mark.parametrize(
    ("device", "isa"),
    quick_where(lambda engine: engine != ("cpu", "scalar"), ENGINES),
    ids=lambda v: v,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_follows_the_original_module(
    tmp_path: Path, family: str, device: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conditioning network, hoisting, table and recurrence, from a mel to logits."""
    path, twin = _saved(tmp_path, family)
    monkeypatch.setenv("WAVERNN_FAST_ISA", isa)
    voc = Vocoder.from_pretrained(
        path, device="emu" if device == "emu" else "cpu", dtype="fp32", cpu_threads=2
    )
    assert voc.isa == isa or device != "cpu"
    if device == "reference":
        _run_on_the_readable_engine(voc, path)
    frames = 1 if device == "emu" else 3
    mel = _mel(voc.config.n_mels, frames + FAMILIES[family][4])
    n = voc.config.n_samples(mel.shape[1])
    forced = np.random.default_rng(1).integers(0, voc.config.n_classes, n).astype(np.int32)
    request = make_request(voc.config, mel, None, 0)
    parts = teacher_forced_logits(voc.voice(), request, forced)
    ours = np.concatenate([logits for _, logits in parts])
    theirs = twin.logits(mel, forced)
    assert tolerances.logit_error(ours, theirs) <= tolerances.logit_limit(theirs, "fp32")


def _run_on_the_readable_engine(voc: Vocoder, path: Path) -> None:
    import dataclasses

    config, tensors = checkpoints.load(path)
    engine = _C.Engine(dataclasses.asdict(config), tensors, device="reference")
    voc._devices = [voc._devices[0]._replace(engine=engine)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_draws_give_the_labels_of_the_original_loop(tmp_path: Path, family: str) -> None:
    """Some hundred samples run freely, each of them fed back."""
    path, twin = _saved(tmp_path, family)
    voc = Vocoder.from_pretrained(path, device="cpu", cpu_threads=2)
    mel = _mel(voc.config.n_mels, 2 + FAMILIES[family][4])
    words = reference.philox_words(7, 0, 2 * twin.hop)[:, 0]
    labels, _ = twin.run(mel, lambda i, logits: reference.categorical(logits, int(words[i]))[0])
    expected = samples.decode_all(labels.astype(np.int32), voc.config)
    assert len(np.unique(labels)) > 100
    assert np.array_equal(voc.generate(mel, seed=7), expected)


def test_each_family_is_given_its_preset_and_output_rule(tmp_path: Path) -> None:
    for family, preset in (
        ("univoc", "univoc-v0.2"),
        ("univoc_first", "univoc-v0.1"),
        ("anandaswarup", "anandaswarup"),
        ("gibiansky", "gibiansky"),
        ("yukarin", "yukarin"),
        ("zerospeech", "zerospeech"),
    ):
        path, _ = _saved(tmp_path, family, n_mels=80)
        config, _ = checkpoints.load(path)
        assert (config.preset, config.core) == (preset, "embedded")
        assert (config.mel is None) == (family in ("yukarin", "zerospeech"))
        assert checkpoints.load(path, preset=preset)[0] == config
        assert checkpoints.inspect(path)["preset"] == preset


def test_a_univoc_checkpoint_of_the_published_size_is_the_one_that_was_published() -> None:
    sizes = {"hidden": 896, "fc": 1024, "n_mels": 80, "embedding": 256, "conditioning": 128}
    state = builders.univoc(**sizes)
    assert len(state) == 25
    assert sum(array.size for array in state.values()) == 6_478_080
    fields, tensors = checkpoints.DIALECTS["univoc"].convert(state)
    assert sum(array.size for array in tensors.values()) == 6_478_080
    assert (fields["hidden_size"], fields["fc_size"], fields["n_classes"]) == (896, 1024, 1024)
    assert (fields["hop_length"], fields["first_label"]) == (200, 512)


def test_a_model_of_other_bins_still_knows_its_labels(tmp_path: Path) -> None:
    path, _ = _saved(tmp_path, "univoc")
    config, _ = checkpoints.load(path)
    assert (config.preset, config.mel) == ("custom", None)
    assert (config.output.label_decode, config.sample_rate, config.hop_length) == (
        "univoc",
        16000,
        200,
    )


def test_a_preset_that_is_asked_for_brings_its_hop_length(tmp_path: Path) -> None:
    path, _ = _saved(tmp_path, "univoc", n_mels=80)
    config, tensors = checkpoints.load(path, preset="anandaswarup")
    assert (config.hop_length, config.sample_rate) == (275, 22050)
    weights.write(tmp_path / "m.safetensors", config, tensors)
    again, _ = checkpoints.load(tmp_path / "m.safetensors")
    assert again == config


@pytest.mark.parametrize("n_mels", [80, 8])
def test_the_version_of_univoc_is_told_by_its_layers_and_else_by_its_bits(
    tmp_path: Path, n_mels: int
) -> None:
    """The versions mean other values by a label: with the other's rule a model makes noise.

    0.1 has the layers of 0.2 and 9 bits, or layers of its own.
    """
    for family, classes, preset, grid in (
        ("univoc_first", 1024, "univoc-v0.1", "exact"),
        ("univoc_first", 256, "univoc-v0.1", "exact"),
        ("univoc", 512, "univoc-v0.1", "exact"),
        ("univoc", 256, "univoc-v0.2", "univoc"),
    ):
        path, _ = _saved(tmp_path, family, n_mels=n_mels, classes=classes)
        config, _ = checkpoints.load(path)
        assert config.output.label_decode == grid
        assert config.preset == (preset if n_mels == 80 else "custom")
        assert checkpoints.inspect(path)["preset"] == (preset if n_mels == 80 else None)


@pytest.mark.parametrize("name", builders.univoc_first())
def test_a_tensor_missing_from_the_first_version_is_named(name: str) -> None:
    state = builders.univoc_first()
    del state[name]
    assert checkpoints.detect(state) == "univoc"
    with pytest.raises(ModelError) as caught:
        checkpoints.DIALECTS["univoc"].convert(state)
    assert any(f"missing tensor {name}," in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    "dialect", ["univoc", "anandaswarup", "gibiansky", "yukarin", "zerospeech"]
)
def test_sizes_that_the_engine_cannot_do_are_named(dialect: str) -> None:
    with pytest.raises(ModelError) as caught:
        checkpoints.DIALECTS[dialect].convert(
            builders.BUILDERS[dialect](hidden=24, fc=20, classes=100)
        )
    assert set(caught.value.problems) == {
        "there are 100 labels, expected a power of two",
        "the GRU has 24 units, expected a multiple of 16",
        "the hidden output layer has 20 units, expected a multiple of 16",
    }


@pytest.mark.parametrize(("layers", "masked"), [(1, True), (3, False)])
def test_yukarin_models_have_any_number_of_layers_and_may_have_a_masked_label(
    tmp_path: Path, layers: int, masked: bool
) -> None:
    path, twin = _saved(tmp_path, "yukarin", masked=masked, layers=layers)
    config, tensors = checkpoints.load(path)
    assert tensors["embedding.weight"].shape == (1024, 6)
    mel, forced = _mel(8, 2), np.random.default_rng(1).integers(0, 1024, 480)
    ours = reference.run(config, tensors, mel, forced=forced)["logits"]
    np.testing.assert_allclose(ours, twin.logits(mel, forced), atol=1e-5)


def test_a_yukarin_model_without_features_is_unconditioned(tmp_path: Path) -> None:
    path, twin = _saved(tmp_path, "yukarin", n_mels=0)
    config, tensors = checkpoints.load(path)
    assert (config.n_mels, config.hop_length, config.network) == (0, 1, None)
    assert config.preset == "yukarin"
    forced = np.random.default_rng(1).integers(0, 1024, 200)
    ours = reference.run(config, tensors, n_steps=200, forced=forced)["logits"]
    twin.hop = 1
    theirs = twin.logits(np.zeros((0, 200), np.float32), forced)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert len(Vocoder.from_pretrained(path, device="cpu").generate(n_samples=50)) == 50


def test_an_embedding_of_too_many_rows_is_refused() -> None:
    state = builders.yukarin()
    state["x_embedder.weight"] = np.zeros((1030, 6), np.float32)
    with pytest.raises(ModelError, match=r"has shape \[1030, 6\], expected 1024 rows"):
        checkpoints.DIALECTS["yukarin"].convert(state)


def test_a_range_of_the_mel_that_was_never_set_is_refused() -> None:
    state = builders.gibiansky()
    state["conditioner.input_range"] = np.zeros(2, np.float32)
    with pytest.raises(ModelError, match="input_range is"):
        checkpoints.DIALECTS["gibiansky"].convert(state)


def test_convolutions_of_an_even_width_are_refused() -> None:
    with pytest.raises(ModelError, match="see 4 frames, expected an odd number"):
        checkpoints.DIALECTS["gibiansky"].convert(builders.gibiansky(width=4))
