"""Training hears a whitened mel; what it writes is the same function of the mel itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cases
import numpy as np
import pytest
import recordings
import torch
from test_wavernn_model import AUX, FRAMES, LOGITS, engine_logits, whole
from train_runs import PRUNE, finish, one_thread, resumed, settings, trainer, voice  # noqa: F401

from wavernn_fast import weights
from wavernn_fast.canonical import Tensors, expected_shapes
from wavernn_fast.config import ModelConfig
from wavernn_fast.models import wavernn
from wavernn_fast.models.mel_scale import RIDGE, MelScale, Whitening, fold, measure, unfold
from wavernn_fast.models.wavernn import WaveRNN
from wavernn_fast.train import run, state
from wavernn_fast.train.loop import MODEL

BINS = 20
DIRECT = cases.dual_config(64, 33, n_mels=BINS, hop_length=5)
STACK = cases.dual_config(64, 32, n_mels=BINS, hop_length=5, **AUX)
CONFIGS = [DIRECT, STACK, dataclasses.replace(STACK, first_input=0.5)]
HEARING = {"gru.w_conditioning", "gru.b_input", "aux.conv_in.weight", "aux.conv_in.bias"}


def speech_like(n_frames: int, seed: int = 0) -> np.ndarray:
    """Frames float32 [BINS, n_frames] around 0.5 whose bins differ little from their neighbours."""
    random = np.random.default_rng(seed)
    smooth = np.exp(-0.5 * (np.subtract.outer(np.arange(BINS), np.arange(BINS)) / 3.0) ** 2)
    rough = 0.01 * random.standard_normal((BINS, n_frames))
    mel = 0.5 + 0.06 * smooth @ random.standard_normal((BINS, n_frames)) + rough
    return np.clip(mel, 0.0, 1.0).astype(np.float32)


def whitening(seed: int = 1) -> Whitening:
    return measure([speech_like(300, seed), speech_like(200, seed + 100)])


def new_model(config: ModelConfig, seed: int = 0) -> WaveRNN:
    torch.manual_seed(seed)
    model = WaveRNN(config)
    model.mel.set(whitening())
    with torch.no_grad():
        model.gru.b_input.uniform_(-0.5, 0.5)
    return model


def raw_model(tensors: Tensors, config: ModelConfig) -> WaveRNN:
    """Model that hears the mel itself."""
    model = WaveRNN(config)
    model.load_canonical(tensors)
    return model


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Models of a test are the same whichever tests ran before it."""
    torch.manual_seed(1)


def logits_of(model: WaveRNN) -> np.ndarray:
    """Logits over a whole utterance: its first and last frames have zeros beside them."""
    config = model.config
    samples = cases.random_samples(config, FRAMES * config.hop_length)
    with torch.no_grad():
        logits, _ = model(whole(config, samples, speech_like(FRAMES, 9)))
    return logits[:, 0].double().numpy()


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, in units of what the comparisons allow."""
    return float(np.abs(found - expected).max() / (LOGITS * max(1.0, np.abs(expected).max())))


# --- statistics -------------------------------------------------------------------------------


def test_white_frames_are_centred_and_uncorrelated():
    mels = [speech_like(300, 1), speech_like(200, 101)]
    scale = MelScale(BINS)
    scale.set(measure(mels))
    frames = np.concatenate([scale(torch.from_numpy(mel)[None])[0].numpy() for mel in mels], axis=1)
    assert np.abs(frames.mean(axis=1)).max() < 1e-4
    spectrum = np.linalg.eigvalsh(np.cov(np.concatenate(mels, axis=1), bias=True))
    expected = np.diag(spectrum / (spectrum + RIDGE * spectrum.mean()))  # 1 but for the ridge
    assert np.allclose(np.cov(frames, bias=True), expected, atol=1e-3)
    assert np.diag(expected)[-1] > 0.99


@pytest.mark.parametrize("constant", [1, BINS], ids=["one-bin", "all-bins"])
def test_bins_that_never_move_do_no_harm(constant):
    mel = speech_like(50)
    mel[:constant] = 0.25
    found = measure([mel])
    gain = np.linalg.norm(found.matrix, 2)
    moving = mel.astype(np.float64).var(axis=1).mean()
    assert gain <= 1.001 / np.sqrt(RIDGE * moving + 1e-6)
    model = WaveRNN(STACK)
    model.mel.set(found)
    assert distance(logits_of(raw_model(model.canonical(), STACK)), logits_of(model)) < 1.0


def test_one_frame_is_enough():
    found = measure([speech_like(1)])
    assert np.isfinite(found.matrix).all()
    assert np.linalg.matrix_rank(found.matrix) == BINS


def test_the_mel_is_whitened_in_float32_while_products_run_in_bfloat16():
    scale, mel = MelScale(BINS), torch.from_numpy(speech_like(7))[None]
    scale.set(whitening())
    with torch.autocast("cpu", torch.bfloat16):
        low = scale(mel)
    assert low.dtype == torch.float32
    assert torch.equal(low, scale(mel))


# --- folding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS, ids=cases.case_id)
def test_the_canonical_model_is_the_same_function_of_the_mel_itself(config):
    model = new_model(config)
    assert distance(logits_of(raw_model(model.canonical(), config)), logits_of(model)) < 1.0


@pytest.mark.parametrize("config", CONFIGS, ids=cases.case_id)
def test_engines_give_the_logits_of_the_model_in_training(config):
    model = new_model(config)
    samples = cases.random_samples(config, FRAMES * config.hop_length)
    mel = speech_like(FRAMES, 9)
    logits = engine_logits(config, model.canonical(), samples, mel, "reference")
    assert distance(logits.astype(np.float64), logits_of(model)) < 1.0


def forget_bias(tensors: Tensors, found: Whitening) -> None:
    fold(tensors, found._replace(mean=0.0 * found.mean))


def turn_matrix(tensors: Tensors, found: Whitening) -> None:
    fold(tensors, found._replace(matrix=found.matrix.T))


def forget_stack(tensors: Tensors, found: Whitening) -> None:
    kept = {name: tensors[name].copy() for name in HEARING if name.startswith("aux.")}
    fold(tensors, found)
    tensors.update(kept)


def shift_one_tap(tensors: Tensors, found: Whitening) -> None:
    before = tensors["aux.conv_in.bias"].copy()
    fold(tensors, found)
    taps = tensors["aux.conv_in.weight"].shape[2]
    tensors["aux.conv_in.bias"] = before + (tensors["aux.conv_in.bias"] - before) / taps


@pytest.mark.parametrize("fault", [forget_bias, turn_matrix, forget_stack, shift_one_tap])
def test_a_fault_in_folding_would_be_seen(fault: Callable[..., None], monkeypatch):
    model = new_model(STACK)
    monkeypatch.setattr(wavernn, "fold", fault)
    assert distance(logits_of(raw_model(model.canonical(), STACK)), logits_of(model)) > 10.0


def test_frames_beyond_the_ends_are_whitened_like_all_others():
    """Zeros put beside the white frames instead would be another model at the edges, only there."""
    model, edge = new_model(STACK), STACK.aux_radius * STACK.hop_length
    expected = logits_of(model)

    def white_zeros(mel: torch.Tensor) -> torch.Tensor:
        white = MelScale.forward(model.mel, mel)
        white[..., : STACK.aux_radius] = 0.0
        white[..., -STACK.aux_radius :] = 0.0
        return white

    model.mel.forward = white_zeros  # type: ignore[method-assign]
    found = logits_of(model)
    assert distance(found[:edge], expected[:edge]) > 10.0
    assert distance(found[-edge:], expected[-edge:]) > 10.0


@pytest.mark.parametrize("config", CONFIGS, ids=cases.case_id)
def test_folding_and_unfolding_undo_each_other(config):
    model = new_model(config)
    tensors = model.canonical()
    again = WaveRNN(config)
    again.mel.set(whitening())
    again.load_canonical(tensors)
    for (name, found), expected in zip(again.named_parameters(), model.parameters(), strict=True):
        if name in HEARING:
            assert torch.allclose(found, expected, rtol=0, atol=2e-6), name
        else:
            assert torch.equal(found, expected), name
    once_more = again.canonical()
    for name, expected in tensors.items():
        size = np.abs(expected).max()
        assert np.allclose(once_more[name], expected, rtol=0, atol=2e-6 * size), name


def test_folding_changes_what_hears_the_mel_and_nothing_else():
    before = WaveRNN(STACK).canonical()
    after = {name: tensor.copy() for name, tensor in before.items()}
    fold(after, whitening())
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == HEARING
    columns = after["gru.w_conditioning"][:, BINS:]  # of the stack's outputs
    assert np.array_equal(columns, before["gru.w_conditioning"][:, BINS:])


def test_the_average_of_folded_models_is_the_folded_average():
    one, other = (new_model(STACK, seed).canonical() for seed in (1, 2))
    mixed = {name: 0.3 * one[name] + 0.7 * other[name] for name in one}
    for tensors in (one, other, mixed):
        unfold(tensors, whitening())
    for name in HEARING:
        expected = 0.3 * one[name] + 0.7 * other[name]
        assert np.allclose(mixed[name], expected, rtol=0, atol=5e-6), name


# --- runs -------------------------------------------------------------------------------------


def test_a_run_hears_the_white_mel_of_its_own_recordings(tmp_path):
    one = trainer(tmp_path, settings())
    expected = measure(r.mel for r in voice(recordings.config()).train)
    for model in (one.model, one.average):
        for found, values in zip(model.mel.whitening(), expected, strict=True):
            assert np.array_equal(found, values)


def test_the_file_of_a_run_is_the_averaged_model_whatever_was_pruned(tmp_path):
    one = trainer(tmp_path, settings(prune=PRUNE))
    finish(one)
    config, tensors = weights.read(tmp_path / MODEL)
    average = {name: tensor.numpy() for name, tensor in one.average.state_dict().items()}
    assert not HEARING & set(config.pruned)
    for name in expected_shapes(recordings.config()):
        if name not in HEARING | {"upsample.kernel", "gru.w_sample"}:
            assert np.array_equal(tensors[name], average[name]), name
    unfold(tensors, one.average.mel.whitening())
    for name in HEARING:
        assert np.allclose(tensors[name], average[name], rtol=0, atol=5e-6), name


def test_training_on_begins_with_the_same_function_under_other_recordings(tmp_path):
    first = trainer(tmp_path / "a", settings(steps=2))
    finish(first)
    config = recordings.config()
    louder = [dataclasses.replace(r, mel=0.5 * r.mel + 0.3) for r in voice(config).train]
    (tmp_path / "b").mkdir()
    second = run.make_trainer(
        tmp_path / "b", config, settings(seed=9), run.Loaded(louder, [], []), first._processes
    )
    second.start_from(*run.read_start(tmp_path / "a"))
    assert not torch.equal(second.model.mel.mean, first.model.mel.mean)
    batch = first._train.random(0, 0, 0, 4)
    with torch.no_grad():
        expected, _ = first.average(batch)
        for model in (second.model, second.average):
            found, _ = model(batch)
            assert distance(found.double().numpy(), expected.double().numpy()) < 1.0


def test_a_resumed_run_keeps_the_whitening_it_began_with(tmp_path):
    one = trainer(tmp_path, settings(steps=4))
    with torch.no_grad():
        for model in (one.model, one.average):
            model.mel.mean.add_(0.125)  # as if measured on other recordings
    finish(one)
    assert torch.equal(state.read(tmp_path).model["mel.mean"], one.model.mel.mean)
    again = resumed(tmp_path)
    for model in (again.model, again.average):
        assert torch.equal(model.mel.mean, one.model.mel.mean)
        assert torch.equal(model.mel.matrix, one.model.mel.matrix)


def test_models_without_a_mel_have_nothing_to_whiten():
    config = cases.dual_config(32, 16)
    model = WaveRNN(config)
    assert not hasattr(model, "mel")
    assert set(model.state_dict()) == set(expected_shapes(config)) - {"upsample.kernel"}
    state_, tensors = model.state_dict(), model.canonical()
    assert all(np.array_equal(tensors[n], state_[n].numpy()) for n in state_ if n != "gru.w_sample")
