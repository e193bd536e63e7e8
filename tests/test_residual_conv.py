"""A dual core behind residual convolutions over frames: yanggeng1995's, and others of its kind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cases
import checkpoint_builders as builders
import checkpoint_twins as twins
import numpy as np
import pytest
import reference
import tolerances
from voices import joined, same_bits

from wavernn_fast import checkpoints, weights
from wavernn_fast.conditioning_network import make_conditioner
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import ModelError
from wavernn_fast.likelihood import teacher_forced_logits
from wavernn_fast.models.eager import make_eager
from wavernn_fast.utterance import make_request
from wavernn_fast.vocoder import Vocoder

SHAPES = [(2, 7, 3), (1, 16, 5), (3, 1, 1), (4, 9, 3)]  # layers, size, kernel


LSTMS = [*((*shape, 0) for shape in SHAPES), (2, 7, 3, 2), (1, 6, 5, 1)]  # and layers behind them


def config_of(layers: int, size: int, kernel: int, lstm: int = 0, **fields: object) -> ModelConfig:
    return cases.framed_config(32, 16, layers, size, kernel, lstm, **fields)


def engine_logits(voc: Vocoder, mel: np.ndarray, forced: np.ndarray) -> np.ndarray:
    request = make_request(voc.config, mel, None, 0)
    parts = teacher_forced_logits(voc.voice(), request, forced)
    return np.concatenate([logits for _, logits in parts])


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", LSTMS)
@pytest.mark.parametrize("n_frames", [1, 2, 7, 8, 9, 30])
def test_rows_are_those_of_the_float64_reference(shape: tuple, n_frames: int) -> None:
    config = config_of(*shape)
    tensors = cases.random_tensors(config)
    mel = cases.random_mel(config, n_frames)
    weight = {name: array.astype(np.float64) for name, array in tensors.items()}
    held = reference.network(config, weight, mel.astype(np.float64))
    interp, hold = make_conditioner(config, tensors).window(mel, 0, n_frames)
    assert hold is None
    np.testing.assert_allclose(interp, held @ weight["gru.w_conditioning"].T, atol=2e-6)


def test_a_convolution_hears_zeros_beside_the_utterance_not_what_is_made_of_zeros() -> None:
    """Padding the mel alone gives other numbers at the ends, and the test above would find it."""
    config = config_of(2, 7, 3)
    weight = {n: a.astype(np.float64) for n, a in cases.random_tensors(config).items()}
    mel = cases.random_mel(config, 12).astype(np.float64)
    right = reference.network(config, weight, mel)
    longer = reference.network(config, weight, np.pad(mel, ((0, 0), (4, 4))))[4:-4]
    assert np.abs(right - longer)[[0, -1]].max() > 1e-3
    np.testing.assert_allclose(right[2:-2], longer[2:-2])


@pytest.mark.parametrize("shape", LSTMS)
def test_windows_and_streams_give_the_rows_of_the_whole_bit_for_bit(shape: tuple) -> None:
    config = config_of(*shape)
    conditioner = make_conditioner(config, cases.random_tensors(config))
    mel = cases.random_mel(config, 41)
    whole, _ = conditioner.window(mel, 0, 41)
    for first, count in ((0, 1), (5, 9), (40, 1), (13, 28)):
        same = conditioner.window(mel, first, count)[0]
        assert same_bits(same, whole[first : first + count])
    for piece in (1, 3, 13):
        stream = conditioner.stream()
        done = 0
        for n in range(0, 41, piece):
            stream.push(mel[:, n : n + piece])
            assert stream.ready == max(0, min(41, n + piece) - config.lookahead_frames)
            while done < stream.ready:
                count = min(1 + n % 3, stream.ready - done)
                assert same_bits(stream.window(done, count)[0], whole[done : done + count])
                done += count
        stream.finish()
        assert same_bits(stream.window(done, 41 - done)[0], whole[done:])


def test_lstm_layers_hear_all_frames_before_and_none_after_the_convolutions() -> None:
    config = config_of(2, 7, 3, 2)
    conditioner = make_conditioner(config, cases.random_tensors(config))
    mel = cases.random_mel(config, 30)
    whole, _ = conditioner.window(mel, 0, 30)
    other = mel.copy()
    other[:, 10] += 1.0
    changed = np.abs(conditioner.window(other, 0, 30)[0] - whole).max(axis=1)
    assert not changed[:8].any()  # two convolutions of three frames look two frames ahead
    assert changed[8:].all()
    assert conditioner.window(mel[:, :20], 0, 18)[0].tobytes() == whole[:18].tobytes()


def test_lstm_layers_hear_a_whole_mel_no_farther_than_was_asked_for() -> None:
    config = config_of(2, 7, 3, 2)
    conditioner = make_conditioner(config, cases.random_tensors(config))
    mel = cases.random_mel(config, 41)
    whole, heard = conditioner.window(mel, 0, 41)[0], conditioner.of(mel)
    for first, count, so_far in ((3, 2, 8), (0, 8, 8), (30, 3, 40), (4, 9, 40), (40, 1, 41)):
        assert same_bits(heard(first, count)[0], whole[first : first + count])
        assert heard._count == so_far


def test_a_stream_keeps_few_frames_however_long_the_utterance() -> None:
    config = config_of(2, 7, 3, 1)
    stream = make_conditioner(config, cases.random_tensors(config)).stream()
    mel = cases.random_mel(config, 50)
    for n in range(50):
        stream.push(mel[:, n : n + 1])
        stream.window(max(0, stream.ready - 1), min(1, stream.ready))
    assert len(stream._cache) <= 1
    assert stream._frames._kept.shape[1] <= 16
    assert stream._heard._kept.shape[1] <= 8


# --- the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "emu"])
@pytest.mark.parametrize("shape", [*SHAPES[:2], (2, 7, 3, 2)])
def test_forced_logits_are_those_of_the_float64_reference(shape: tuple, device: str) -> None:
    config = config_of(*shape)
    tensors = cases.random_tensors(config)
    mel, n = cases.random_mel(config, 12), 12 * config.hop_length
    forced = cases.random_samples(config, n)
    expected = reference.run(config, tensors, mel, forced=forced)["logits"]
    found = engine_logits(Vocoder(config, tensors, device=device), mel, forced)
    assert tolerances.logit_error(found, expected) <= tolerances.logit_limit(expected, "fp32")
    eager = make_eager(config, tensors, "float64").teacher_forced_logits(forced, mel)
    np.testing.assert_allclose(eager, expected, atol=1e-9)


@pytest.mark.parametrize("lstm", [0, 2])
def test_a_stream_of_frames_sounds_as_generate_does(lstm: int) -> None:
    config = config_of(2, 7, 3, lstm)
    voc = Vocoder(config, cases.random_tensors(config))
    mel = cases.random_mel(config, 60)
    whole = voc.generate(mel, seed=4)
    assert same_bits(joined(voc.stream(iter(mel.T), seed=4)), whole)
    assert same_bits(voc.generate_batch([mel[:, :9], mel], seeds=[1, 4])[1], whole)


def test_the_configuration_survives_a_canonical_file(tmp_path: Path) -> None:
    config = config_of(2, 7, 3, 2)
    tensors = cases.random_tensors(config)
    weights.write(tmp_path / "m.safetensors", config, tensors)
    again, read = checkpoints.load(tmp_path / "m.safetensors")
    assert again == config
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"aux_size": 3, "aux_channels": 4, "aux_kernel": 5}, "in place of the auxiliary one"),
        ({"upsample_right": 1}, "in place of the auxiliary one"),
        ({"pad": "none"}, "pad their inputs with zeros"),
        ({"pad_value": -4.0}, "pad their inputs with zeros"),
        ({"embedding_size": 4}, "no embedding_size"),
        ({"n_mels": 0, "hop_length": 1}, "needs mel frames"),
        ({"lstm": 17}, "lstm_layers is 17, must be 0 to 16"),
    ],
)
def test_what_contradicts_itself_is_named(fields: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        config_of(2, 7, 3, **fields)


def test_other_cores_are_not_conditioned_by_it() -> None:
    network = config_of(2, 7, 3).network
    with pytest.raises(ModelError, match="a residual core is not conditioned by a network"):
        cases.residual_config(16, 16, bits=8, network=network)
    with pytest.raises(ModelError, match="conditions a dual core"):
        dataclasses.replace(cases.embedded_config(16, 16, 8), network=network)


# --- the checkpoints ------------------------------------------------------------------------------


def saved(tmp_path: Path, **sizes: int) -> tuple[Path, twins.Yanggeng]:
    state = builders.yanggeng(**sizes)
    shape = {name: size for name, size in sizes.items() if name != "seed"}
    path = builders.save(tmp_path / "model.ckpt-1000.pt", state, wrapper="model")
    return path, twins.yanggeng(state, **shape)


@pytest.mark.parametrize(("device", "lstm"), [("cpu", 0), ("cpu", 2), ("cpu", 3), ("emu", 2)])
def test_a_checkpoint_means_what_the_published_module_means(
    tmp_path: Path, device: str, lstm: int
) -> None:
    path, twin = saved(tmp_path, hidden=64, fc=48, n_mels=5, lstm=lstm, seed=3)
    voc = Vocoder.from_pretrained(path, device=device)
    config = voc.config
    assert (config.source, config.hop_length, config.first_input) == ("yanggeng", 200, 0.0)
    mel = np.random.default_rng(2).uniform(0, 1, (5, 4)).astype(np.float32)
    assert config.n_samples(4) == 800
    n = 800 if device == "cpu" else 250
    forced = np.random.default_rng(1).integers(0, 65536, n)
    theirs = twin.logits(mel, forced)
    ours = engine_logits(voc, mel, forced)
    assert tolerances.logit_error(ours, theirs) <= tolerances.logit_limit(theirs, "fp32")
    again = reference.run(*checkpoints.load(path), mel, n_steps=n, forced=forced)["logits"]
    np.testing.assert_allclose(again, theirs, atol=1e-5)


def test_a_mel_of_80_bins_has_the_preset_of_the_program(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, n_mels=80, lstm=2)
    config, _ = checkpoints.load(path)
    assert config.network is not None
    assert config.network.lstm_layers == 2
    assert (config.preset, config.sample_rate) == ("yanggeng", 16000)
    assert config.mel is not None
    assert (config.mel.hop_length, config.mel.win_length, config.mel.f_max) == (200, 800, 8000.0)


def test_an_unmasked_coarse_column_is_zeroed_as_generation_masks_it(tmp_path: Path) -> None:
    masked, bare = (builders.yanggeng(masked=masked) for masked in (True, False))
    assert not np.array_equal(masked["wavernn.gru.weight_ih_l0"], bare["wavernn.gru.weight_ih_l0"])
    found = [
        checkpoints.load(builders.save(tmp_path / f"{i}.pt", state))[1]
        for i, state in enumerate((masked, bare))
    ]
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_a_model_with_transposed_convolutions_is_refused_with_a_reason(tmp_path: Path) -> None:
    state = builders.yanggeng()
    state["upsample.upsamples.0.weight"] = np.zeros((1, 1, 3, 10), np.float32)
    with pytest.raises(ModelError, match=r"transposed convolutions.*cannot run them either"):
        checkpoints.load(builders.save(tmp_path / "m.pt", state))


LSTM_NAMES = [n for n in builders.yanggeng(lstm=2) if "lstm" in n]


@pytest.mark.parametrize("fault", ["missing", "renamed", "reshaped", "reverse"])
@pytest.mark.parametrize("name", LSTM_NAMES)
def test_a_fault_of_an_lstm_tensor_is_named(name: str, fault: str) -> None:
    state = builders.yanggeng(lstm=2)
    array = state[name]
    if fault in ("missing", "renamed"):
        del state[name]
    if fault == "renamed":
        state[f"{name}_x"] = array
    if fault == "reshaped":
        state[name] = array[:-1]
    if fault == "reverse":
        state[f"{name}_reverse"] = array
    assert checkpoints.detect(state) == "yanggeng"
    with pytest.raises(ModelError) as caught:
        checkpoints.DIALECTS["yanggeng"].convert(state)
    words = {"missing": f"missing tensor {name},", "renamed": f"unexpected tensor {name}_x"}
    words |= {"reshaped": f"{name} has shape", "reverse": f"unexpected tensor {name}_reverse"}
    assert any(words[fault] in problem for problem in caught.value.problems)


def test_the_faults_of_a_file_are_all_listed(tmp_path: Path) -> None:
    state = builders.yanggeng()
    del state["frame_net.fc.0.bias"]
    state["wavernn.fc_fine.2.weight"] = np.zeros((255, 16), np.float32)
    state["wavernn.fc_extra.0.weight"] = np.zeros((1, 1), np.float32)
    with pytest.raises(ModelError) as caught:
        checkpoints.load(builders.save(tmp_path / "m.pt", state))
    text = str(caught.value)
    for words in ("frame_net.fc.0.bias", "wavernn.fc_fine.2.weight", "wavernn.fc_extra.0.weight"):
        assert words in text
