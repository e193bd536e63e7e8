"""The single-GRU model of geneing/WaveRNN-Pytorch, as a PyTorch checkpoint and as model.bin."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import checkpoint_builders as builders
import checkpoint_twins as twins
import model_bin_writer
import numpy as np
import pytest
import reference

from wavernn_fast import checkpoints
from wavernn_fast.errors import ModelError
from wavernn_fast.vocoder import Vocoder

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SCALES = (2, 2, 3)


def logits(path: Path, twin: twins.Geneing) -> tuple[np.ndarray, np.ndarray]:
    """Ours, by the reference of the residual core, and those of the published equations."""
    config, tensors = checkpoints.load(path)
    rng = np.random.default_rng(5)
    mel = rng.uniform(0, 1, (config.n_mels, 7)).astype(np.float32)
    forced = rng.integers(0, config.n_classes, 7 * config.hop_length)
    ours = reference.run(config, tensors, mel, forced=forced)["logits"]
    fed = np.concatenate([[0.0], 2.0 * forced[:-1] / (config.n_classes - 1) - 1.0])
    return ours, twin.logits(mel, fed)


@pytest.mark.parametrize("drops", [True, False])
@pytest.mark.parametrize("wrapper", ["", "state_dict"])
def test_a_checkpoint_means_what_the_original_module_means(
    tmp_path: Path, drops: bool, wrapper: str
) -> None:
    state = builders.geneing(drops=drops)
    path = builders.save(tmp_path / "m.pth", state, wrapper=wrapper)
    assert checkpoints.load(path)[0].source == "geneing"
    ours, theirs = logits(path, twins.geneing(state, drops=drops))
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
        "drops": False,
    }
    state = builders.geneing(**sizes, seed=3)
    ours, theirs = logits(builders.save(tmp_path / "m.pth", state), twins.geneing(state, **sizes))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_engine_does_not_multiply_what_is_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = builders.save(tmp_path / "m.pth", builders.geneing(hidden=64, fc=64))
    with caplog.at_level("INFO", logger="wavernn_fast"):
        voc = Vocoder.from_pretrained(path, device="cpu", cpu_threads=1)
    assert "gru2_input 100.0 % zero" in caplog.text
    assert "gru2 100.0 % zero" in caplog.text
    mel = np.random.default_rng(1).uniform(0, 1, (8, 7)).astype(np.float32)
    wave = voc.generate(mel)
    assert wave.shape == (7 * 12,)
    assert np.isfinite(wave).all()


@pytest.mark.parametrize("tensor", sorted(builders.geneing()))
def test_a_missing_tensor_is_named(tensor: str) -> None:
    state = builders.geneing()
    del state[tensor]
    if tensor.endswith("num_batches_tracked"):
        checkpoints.DIALECTS["geneing"].convert(state)
        return
    with pytest.raises(ModelError) as found:
        checkpoints.DIALECTS["geneing"].convert(state)
    assert any(f"missing tensor {tensor}" in p for p in found.value.problems)


# --- model.bin ------------------------------------------------------------------------------------


def pruned_state(seed: int = 0) -> builders.State:
    """Half of all groups of four weights are zero, and one matrix is nothing but zeros."""
    state = builders.geneing(seed=seed)
    rng = np.random.default_rng(seed)
    for name in ("I.weight", "rnn1.weight_ih_l0", "rnn1.weight_hh_l0", "fc1.weight", "fc3.weight"):
        weight = state[name].reshape(len(state[name]), -1, 4)
        weight[rng.random(weight.shape[:2]) < 0.5] = 0.0
    state["rnn1.weight_hh_l0"][:16] = 0.0
    return {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}


@pytest.mark.parametrize("group", [1, 2, 4, 8])
def test_a_model_bin_is_the_checkpoint_it_was_made_of(tmp_path: Path, group: int) -> None:
    state = pruned_state()
    expected_config, expected = checkpoints.load(builders.save(tmp_path / "m.pth", state))
    path = model_bin_writer.write(tmp_path / "model.bin", state, SCALES, group)
    config, tensors = checkpoints.load(path)
    assert config == expected_config
    assert all(np.array_equal(tensors[name], expected[name]) for name in expected)
    facts = checkpoints.inspect(path)
    assert (facts["dialect"], facts["wrapper"]) == ("geneing", "model.bin")
    assert facts["problems"] == []


def test_a_model_bin_needs_no_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_bin_writer.write(tmp_path / "model.bin", pruned_state(), SCALES, 4)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert checkpoints.load(path)[0].n_classes == 512


def test_another_epsilon_of_the_normalisation_is_minded(tmp_path: Path) -> None:
    state = pruned_state()
    path = model_bin_writer.write(tmp_path / "model.bin", state, SCALES, 4, eps=1e-3)
    for name in state:
        if name.endswith("running_var"):
            state[name] = (state[name].astype(np.float64) + 1e-3 - 1e-5).astype(np.float32)
    _, expected = checkpoints.load(builders.save(tmp_path / "m.pth", state))
    _, tensors = checkpoints.load(path)
    for name in expected:
        np.testing.assert_allclose(tensors[name], expected[name], rtol=2e-6, atol=1e-7)


def test_a_model_bin_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = model_bin_writer.write(tmp_path / "model.bin", pruned_state(), SCALES, 4)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 61), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            checkpoints.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ModelError, match="more follows"):
        checkpoints.load(path)


@pytest.mark.slow
def test_an_altered_model_bin_is_refused_or_loaded(tmp_path: Path) -> None:
    """It has no checksum; but whatever its bytes say, no other error and no huge array comes."""
    path = model_bin_writer.write(tmp_path / "model.bin", pruned_state(), SCALES, 4)
    whole, rng = path.read_bytes(), np.random.default_rng(3)
    heads = [at for at in range(len(whole) - 6) if whole[at : at + 7] == b"Linear("]
    assert len(heads) == 3
    refused = 0
    for number in range(600):
        data = bytearray(whole)
        at = int(rng.choice(heads)) + 60 if number % 2 else int(rng.integers(len(data) - 4))
        at += int(rng.integers(16)) if number % 2 else 0
        data[at : at + 4] = struct.pack("<i", int(rng.integers(-(2**31), 2**31)))
        path.write_bytes(data)
        try:
            checkpoints.load(path)
        except ModelError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((0, 3), "layers.2.batch_norm1 is Stretch2d, expected BatchNorm1d"),
        ((8, 13), "says 13 samples a frame and 2 frames of padding, the layers 12 and 2"),
        ((12, 1), "says 12 samples a frame and 1 frames of padding, the layers 12 and 2"),
    ],
)
def test_a_head_that_contradicts_the_layers_is_refused(
    tmp_path: Path, change: tuple[int, int], words: str
) -> None:
    path = model_bin_writer.write(tmp_path / "model.bin", pruned_state(), SCALES, 4)
    data = bytearray(path.read_bytes())
    data[change[0] : change[0] + 4] = struct.pack("<i", change[1])
    path.write_bytes(data)
    with pytest.raises(ModelError, match=words):
        checkpoints.load(path)


def test_the_trained_model_is_the_same_as_model_bin(tmp_path: Path) -> None:
    """The weights at hand are this model, stored in fatchord's layout: take them out again."""
    import torch

    source = DATA / "weights" / "fatchord_raw9_h128.pyt"
    if not source.exists():
        pytest.skip(f"there is no {source}")
    loaded = torch.load(source, weights_only=True, map_location="cpu")
    state = {name: np.array(tensor.numpy()) for name, tensor in loaded.items()}
    aux = state["upsample.resnet.conv_out.bias"].size // 4
    for part in ("weight", "bias"):
        slices = np.split(state[f"upsample.resnet.conv_out.{part}"], 4)
        state[f"upsample.resnet.conv_out.{part}"] = np.concatenate([slices[0], slices[2]])
    dropped = {n for n in state if n.startswith(("rnn2.", "fc2.")) or n == "step"}
    state = {n: t for n, t in state.items() if n not in dropped}
    assert not state["I.weight"][:, -1].any()
    state["I.weight"] = np.ascontiguousarray(state["I.weight"][:, :-1])
    assert state["I.weight"].shape[1] == 80 + aux
    path = model_bin_writer.write(tmp_path / "model.bin", state, (4, 5, 10), 8)
    config, tensors = checkpoints.load(path)
    whole_config, whole = checkpoints.load(source)
    assert config.preset == whole_config.preset == "geneing"
    unheard = {"aux.conv_out.weight", "aux.conv_out.bias"}
    for name in set(whole) - unheard:
        assert np.array_equal(tensors[name], whole[name]), name
