"""PyTorch checkpoints: each dialect means the same after loading, under the right preset."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoint_builders as builders
import checkpoint_twins as twins
import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavernn_fast import checkpoints, weights
from wavernn_fast.checkpoints import fatchord, fir
from wavernn_fast.errors import InputError, ModelError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# ---------------------------------------------------------------- meaning


def _fed_back(config: Any, forced: np.ndarray) -> np.ndarray:
    """Values fed back before each step: 0, then what was forced, scaled."""
    scaled = forced if config.draws_values else 2.0 * forced / (config.n_classes - 1) - 1.0
    return np.concatenate([[0.0], scaled[:-1]])


def _residual_logits(
    path: Path, twin: twins.Fatchord, n_frames: int = 7
) -> tuple[np.ndarray, np.ndarray]:
    config, tensors = checkpoints.load(path)
    rng = np.random.default_rng(5)
    mel = rng.uniform(0, 1, (config.n_mels, n_frames)).astype(np.float32)
    n = n_frames * config.hop_length
    values = config.draws_values
    forced: Any = rng.uniform(-1, 1, n) if values else rng.integers(0, config.n_classes, n)
    ours = reference.run(config, tensors, mel, forced=forced)["logits"]
    return ours, twin.logits(mel, _fed_back(config, forced))


@pytest.mark.parametrize("classes", [512, 30])
@pytest.mark.parametrize("wrapper", ["", "model_state", "state_dict", "model"])
def test_a_fatchord_checkpoint_means_what_the_original_module_means(
    tmp_path: Path, classes: int, wrapper: str
) -> None:
    state = builders.fatchord(classes=classes)
    path = builders.save(tmp_path / "m.pyt", state, wrapper=wrapper)
    ours, theirs = _residual_logits(path, twins.fatchord(state, classes=classes))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_unequal_sizes_are_not_mixed_up(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "hidden": 48,
        "fc": 32,
        "classes": 64,
        "n_mels": 5,
        "aux": 3,
        "channels": 7,
        "blocks": 3,
        "pad": 3,
        "scales": (3, 2, 4),
    }
    state = builders.fatchord(**sizes, seed=3)
    path = builders.save(tmp_path / "m.pyt", state)
    ours, theirs = _residual_logits(path, twins.fatchord(state, **sizes))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_model_without_auxiliary_network_means_the_same(tmp_path: Path) -> None:
    state = builders.without_aux(builders.fatchord(), aux=4)
    path = builders.save(tmp_path / "m.pyt", state)
    assert checkpoints.load(path)[0].aux_size == 0
    ours, theirs = _residual_logits(path, twins.fatchord(state, aux=0))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_torchaudio_checkpoint_means_what_the_fatchord_one_means(tmp_path: Path) -> None:
    state = builders.fatchord(classes=256, seed=4)
    path = builders.save(tmp_path / "m.pth", builders.torchaudio(classes=256, seed=4))
    ours, theirs = _residual_logits(path, twins.fatchord(state, classes=256))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert checkpoints.load(path)[0].source == "torchaudio"


def test_a_deepmind_checkpoint_means_what_the_original_module_means(tmp_path: Path) -> None:
    state = builders.deepmind(hidden=64)
    config, tensors = checkpoints.load(builders.save(tmp_path / "m.pyt", state))
    forced = np.random.default_rng(1).integers(0, 65536, 50)
    ours = reference.run(config, tensors, n_steps=50, forced=forced)["logits"]
    np.testing.assert_allclose(ours, twins.deepmind(state, 64).logits(forced), atol=1e-5)
    assert (config.first_input, config.preset, config.sample_rate) == (-1.0, "deepmind", 24000)


@pytest.mark.parametrize("scales", [(2, 2, 3), (4, 4, 4), (5, 3, 2)])
def test_an_mkotha_checkpoint_means_what_the_original_module_means(
    tmp_path: Path, scales: tuple[int, ...]
) -> None:
    state = builders.mkotha(hidden=64, scales=scales)
    config, tensors = checkpoints.load(builders.save(tmp_path / "m.pyt", state))
    mel = np.random.default_rng(2).uniform(0, 1, (8, 6)).astype(np.float32)
    n = (6 - 2) * int(np.prod(scales))
    assert config.n_samples(6) == n
    assert config.pad == "none"
    assert config.first_input == 0.0
    forced = np.random.default_rng(1).integers(0, 65536, n)
    ours = reference.run(config, tensors, mel, forced=forced)["logits"]
    theirs = twins.mkotha(state, hidden=64, scales=scales).logits(mel, forced)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_an_unmasked_coarse_column_is_zeroed_as_training_masks_it(tmp_path: Path) -> None:
    state = builders.mkotha()
    state["wavernn.gru.weight_ih_l0"][:, -1] = 1.0
    config, tensors = checkpoints.load(builders.save(tmp_path / "m.pyt", state))
    column = tensors["gru.w_sample"].reshape(3, 2, config.hidden_size // 2, 3)[..., 2]
    assert not column[:, 0].any()
    assert column[:, 1].all()


def test_old_mkotha_keys_are_renamed(tmp_path: Path) -> None:
    state = builders.mkotha()
    old = {k.replace("wavernn.gru", "rnn").replace("wavernn.", ""): v for k, v in state.items()}
    old["mask"] = np.ones((96, 11), np.float32)
    now = checkpoints.load(builders.save(tmp_path / "new.pyt", state))
    then = checkpoints.load(builders.save(tmp_path / "old.pyt", old))
    assert now[0] == then[0]
    assert all(np.array_equal(now[1][name], then[1][name]) for name in now[1])


def test_the_first_mkotha_version_is_refused_with_a_reason(tmp_path: Path) -> None:
    state = builders.mkotha()
    state["upsample.resnet.conv_in.weight"] = np.zeros((4, 8, 5), np.float32)
    with pytest.raises(ModelError, match="auxiliary network"):
        checkpoints.load(builders.save(tmp_path / "m.pyt", state))


_PUBLISHED: dict[str, Any] = {
    "hidden": 512,
    "fc": 512,
    "n_mels": 80,
    "aux": 32,
    "channels": 128,
    "blocks": 10,
    "scales": (5, 5, 11),
}


@pytest.mark.parametrize(
    ("dialect", "sizes", "entries", "trainable"),
    [
        ("fatchord", {**_PUBLISHED, "classes": 512}, 148, 4_480_941),
        ("torchaudio", {**_PUBLISHED, "classes": 256}, 147, 4_349_613),
        ("deepmind", {"hidden": 896}, 14, 3_050_048),
    ],
)
def test_models_of_the_published_sizes_load(
    tmp_path: Path, dialect: str, sizes: dict[str, Any], entries: int, trainable: int
) -> None:
    state = builders.BUILDERS[dialect](**sizes)
    kept = ("running_mean", "running_var", "num_batches_tracked", "step")
    assert len(state) == entries
    assert sum(a.size for name, a in state.items() if not name.endswith(kept)) == trainable
    config, _ = checkpoints.load(builders.save(tmp_path / "m.pyt", state))
    assert (config.source, config.hidden_size) == (dialect, sizes["hidden"])
    assert config.preset != "custom"


# ---------------------------------------------------------------- upsampling


def _by_stages(mel: np.ndarray, scales: list[int], firs: list[np.ndarray], pad: int) -> np.ndarray:
    """fatchord's upsampling of one bin, stage by stage: zero-pad, stretch, filter, cut."""
    signal = np.pad(mel, pad)
    for scale, taps in zip(scales, firs, strict=True):
        stretched = np.pad(np.repeat(signal, scale), scale)
        signal = np.array(
            [stretched[i : i + len(taps)] @ taps for i in range(len(stretched) - 2 * scale)]
        )
    cut = pad * int(np.prod(scales))
    return signal[cut : len(signal) - cut]


@settings(max_examples=60, deadline=None)
@given(
    scales=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    frames=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_composite_kernel_is_the_stages_exactly(
    scales: list[int], frames: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    firs = [rng.normal(size=2 * s + 1) for s in scales]
    hop = int(np.prod(scales))
    radius = fir.radius_in_samples(scales, scales)
    pad = -(-radius // hop)  # fewest frames with pad * hop >= radius
    mel = rng.normal(size=frames)
    up = fir.compose(scales, firs)
    padded = np.pad(mel, (up.left, up.right))
    taps = up.left + 1 + up.right
    ours = np.concatenate([up.kernel @ padded[n : n + taps] for n in range(frames)])
    np.testing.assert_allclose(ours, _by_stages(mel, scales, firs, pad), rtol=1e-10, atol=1e-10)


def test_the_reach_of_the_kernel_is_exact() -> None:
    # All-positive taps leave no tap zero that the stages can reach: the ends must be used.
    for scales in ([5, 5, 11], [4, 5, 10], [5, 5, 8], [4, 8, 8], [2, 2, 2]):
        up = fir.compose(scales, [np.ones(2 * s + 1) for s in scales])
        assert up.kernel.shape == (int(np.prod(scales)), up.left + 1 + up.right)
        assert up.kernel[:, 0].any()
        assert up.kernel[:, -1].any()
    assert (up.left, up.right) == (2, 2)


def test_padding_shorter_than_the_filters_is_refused(tmp_path: Path) -> None:
    path = builders.save(tmp_path / "m.pyt", builders.fatchord(pad=1))
    with pytest.raises(ModelError, match="reach 21 samples"):
        checkpoints.load(path)


# ---------------------------------------------------------------- presets and facts


def _published(**changes: Any) -> dict[str, np.ndarray]:
    """A model of the published bins and hop, but few units."""
    sizes: dict[str, Any] = {"n_mels": 80, "scales": (5, 5, 11)}
    return builders.fatchord(**{**sizes, **changes})


@pytest.mark.parametrize(
    ("state", "wrapper", "preset"),
    [
        (_published(), "", "fatchord-raw9"),
        (_published(classes=30), "", "fatchord-mol"),
        (_published(scales=(5, 5, 8)), "model_state", "rtvc"),
        (_published(scales=(5, 5, 8)), "", "rtvc"),
        (_published(scales=(5, 7, 11)), "", "custom"),
        (_published(n_mels=8), "", "custom"),
        (builders.torchaudio(n_mels=80, scales=(5, 5, 11)), "", "torchaudio-ljspeech"),
        (builders.torchaudio(n_mels=80, scales=(5, 5, 11), classes=30), "", "fatchord-mol"),
        (builders.mkotha(n_mels=80, scales=(4, 4, 4)), "", "mkotha"),
        (builders.mkotha(), "", "custom"),
        (builders.deepmind(), "", "deepmind"),
    ],
)
def test_the_most_likely_preset_is_assumed_and_logged(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    state: dict[str, np.ndarray],
    wrapper: str,
    preset: str,
) -> None:
    path = builders.save(tmp_path / "m.pyt", state, wrapper=wrapper)
    with caplog.at_level(logging.INFO, logger="wavernn_fast"):
        config, _ = checkpoints.load(path)
    assert config.preset == preset
    assert ("no preset has" if preset == "custom" else preset) in caplog.text
    assert (config.mel is None) == (preset in ("custom", "deepmind"))


def test_a_single_gru_model_in_this_layout_is_taken_for_the_one_it_came_from(
    tmp_path: Path,
) -> None:
    state = _published(scales=(4, 5, 10))
    for part in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        state[f"rnn2.{part}"] = np.zeros_like(state[f"rnn2.{part}"])
    assert checkpoints.load(builders.save(tmp_path / "m.pyt", state))[0].preset == "geneing"


def test_a_preset_that_is_asked_for_wins(tmp_path: Path) -> None:
    path = builders.save(tmp_path / "m.pyt", _published(scales=(5, 5, 8)))
    config, tensors = checkpoints.load(path, preset="geneing")
    assert (config.preset, config.output.mu_law) == ("geneing", False)
    weights.write(tmp_path / "m.safetensors", config, tensors)
    again, _ = checkpoints.load(tmp_path / "m.safetensors", preset="rtvc")
    assert (again.preset, again.output.mu_law) == ("rtvc", True)


@pytest.mark.parametrize("preset", ["nonsense", "mkotha", "fatchord-raw9"])
def test_a_preset_that_does_not_fit_is_refused(tmp_path: Path, preset: str) -> None:
    path = builders.save(tmp_path / "m.pyt", _published(scales=(5, 5, 8)))
    with pytest.raises(InputError):
        checkpoints.load(path, preset=preset)


def test_inspect_tells_the_facts_of_a_good_checkpoint(tmp_path: Path) -> None:
    state = _published(scales=(5, 5, 8))
    path = builders.save(tmp_path / "m.pt", state, wrapper="model_state", dtype="float16")
    facts = checkpoints.inspect(path)
    assert (facts["kind"], facts["dialect"]) == ("checkpoint", "fatchord")
    assert (facts["wrapper"], facts["preset"]) == ("model_state", "rtvc")
    assert facts["presets"] == ["rtvc", "geneing"]
    assert facts["problems"] == []
    assert facts["config"]["hop_length"] == 200
    assert {t["name"] for t in facts["tensors"]} == set(state)
    assert {t["dtype"] for t in facts["tensors"]} == {"float16", "int64"}
    assert facts["parameters"] == sum(a.size for a in state.values())
    json.dumps(facts)


def test_inspect_lists_the_problems_of_a_bad_checkpoint(tmp_path: Path) -> None:
    state = _published()
    del state["fc3.bias"]
    facts = checkpoints.inspect(builders.save(tmp_path / "m.pt", state))
    assert facts["dialect"] == "fatchord"
    assert facts["config"] is None
    assert facts["problems"] == ["missing tensor fc3.bias, expected shape [512]"]
    assert facts["sizes"]["C"] == 512
    json.dumps(facts)


def test_inspect_tells_of_an_unknown_layout(tmp_path: Path) -> None:
    path = builders.save(tmp_path / "m.pt", {"a.weight": np.zeros((2, 3), np.float32)})
    facts = checkpoints.inspect(path)
    assert facts["dialect"] is None
    assert "no known layout" in facts["problems"][0]


def test_a_canonical_file_is_loaded_and_inspected_without_torch(tmp_path: Path) -> None:
    config, tensors = checkpoints.load(builders.save(tmp_path / "m.pyt", _published()))
    path = tmp_path / "m.safetensors"
    weights.write(path, config, tensors)
    assert checkpoints.inspect(path)["preset"] == "fatchord-raw9"
    code = (
        "import sys; from wavernn_fast import checkpoints\n"
        f"config, tensors = checkpoints.load({str(path)!r})\n"
        f"facts = checkpoints.inspect({str(path)!r})\n"
        "assert facts['kind'] == 'canonical' and len(tensors) == len(facts['tensors'])\n"
        "assert 'torch' not in sys.modules\n"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_converting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    source = builders.save(tmp_path / "m.pyt", builders.fatchord())
    for name in ("a", "b"):
        weights.write(tmp_path / name, *checkpoints.load(source))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# ---------------------------------------------------------------- real weights


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs trained weights in {DATA}")
def test_the_trained_fatchord_model_loads_and_means_the_same() -> None:
    path = DATA / "weights" / "fatchord_raw9_h128.pyt"
    config, tensors = checkpoints.load(path)
    facts = json.loads(path.with_suffix(".json").read_text())
    assert (config.hidden_size, config.fc_size) == (facts["rnn_dims"], facts["fc_dims"])
    assert config.n_classes == 2 ** facts["bits"]
    assert config.hop_length == facts["hop_length"]
    assert (config.preset, config.sample_rate) == ("geneing", facts["sample_rate"])
    state = {k: v.numpy() for k, v in torch.load(path, weights_only=True).items()}
    twin = twins.fatchord(
        state,
        hidden=128,
        fc=128,
        n_mels=80,
        aux=32,
        channels=64,
        blocks=3,
        scales=facts["upsample_factors"],
    )
    rng = np.random.default_rng(0)
    mel = rng.uniform(-4, 4, (80, 3)).astype(np.float32)
    forced = rng.integers(0, 512, 600)
    ours = reference.run(config, tensors, mel, forced=forced)["logits"]
    theirs = twin.logits(mel, _fed_back(config, forced))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)  # logits of up to 20, weights of up to 9


def test_sizes_are_solved_from_the_shapes() -> None:
    sizes = fatchord.sizes_of(builders.fatchord(hidden=24, fc=20, aux=5, blocks=1))
    assert (sizes["R"], sizes["K"], sizes["A"], sizes["C"], sizes["M"]) == (24, 20, 5, 512, 8)
