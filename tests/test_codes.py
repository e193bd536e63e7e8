"""Models over codes: ZeroSpeech's decoder and VectorQuantizedCPC's vocoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import checkpoint_builders as builders
import numpy as np
import pytest
import reference
import torch
from test_embedded_checkpoints import _zerospeech
from torch.nn import functional as F
from voices import same_bits

from wavernn_fast import checkpoints, samples, weights
from wavernn_fast.compat import zerospeech
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import InputError, ModelError
from wavernn_fast.network_config import CodesConfig
from wavernn_fast.vocoder import Vocoder

CPC = {"codes": 12, "speakers": 4, "speaker": 3, "n_mels": 8}


def saved(tmp_path: Path, wrapper: str = "vocoder", **sizes: Any) -> tuple[Path, Any]:
    state = builders.zerospeech(**{**CPC, **sizes})
    return builders.save(tmp_path / f"model.ckpt-{wrapper}.pt", state, wrapper=wrapper), state


def their_features(state: Any, codes: list[int], speaker: int) -> np.ndarray:
    """[n_mels, 2 n] as the published `generate` makes them."""
    table = torch.from_numpy(state["code_embedding.weight"])
    z = F.interpolate(table[codes][None].transpose(1, 2), scale_factor=2).transpose(1, 2)
    who = torch.from_numpy(state["speaker_embedding.weight"])[[speaker]]
    return torch.cat((z, who[:, None].expand(-1, z.size(1), -1)), dim=-1)[0].T.numpy()


def test_features_are_those_of_the_published_program(tmp_path: Path) -> None:
    path, state = saved(tmp_path)
    voc = Vocoder.from_pretrained(path, device="cpu", cpu_threads=1)
    codes = [3, 3, 0, 11, 7]
    expected = their_features(state, codes, 2)
    for given in (np.array(codes), torch.tensor(codes), codes, np.array(codes, np.uint16)):
        assert same_bits(voc.features(given, 2), expected)
    vectors = state["code_embedding.weight"][codes].T
    assert same_bits(voc.features(vectors, np.int64(2)), expected)
    assert same_bits(voc.features(codes, state["speaker_embedding.weight"][2]), expected)
    assert voc.features([], 0).shape == (8, 0)


def test_the_same_draws_give_the_wave_of_the_published_loop(tmp_path: Path) -> None:
    path, state = saved(tmp_path)
    twin = _zerospeech(state, n_mels=8)
    player = zerospeech.Vocoder.from_checkpoint(path, device="cpu", cpu_threads=1, seed=7)
    codes = [5, 1, 9]
    words = reference.philox_words(7, 0, 6 * 160)[:, 0]
    labels, _ = twin.run(
        their_features(state, codes, 1),
        lambda i, logits: reference.categorical(logits, int(words[i]))[0],
    )
    assert len(np.unique(labels)) > 50
    expected = samples.decode_samples(labels.astype(np.int32), player.config)
    found = player.generate(torch.tensor([codes]), torch.tensor([1]))
    assert found.dtype == np.float64
    assert np.array_equal(found, expected)
    mu = 255.0
    x = 2.0 * labels / mu - 1.0  # the published decoding
    np.testing.assert_allclose(found, np.sign(x) / mu * ((1 + mu) ** np.abs(x) - 1), atol=1e-12)
    voc = player.vocoder
    whole = voc.generate(voc.features(codes, 1), seed=7)
    assert np.array_equal(whole, found.astype(np.float32))


@pytest.mark.parametrize("wrapper", ["decoder", "model", ""])
def test_a_decoder_alone_and_the_whole_model_are_found(tmp_path: Path, wrapper: str) -> None:
    decoder = builders.zerospeech(codes=0, n_mels=8)
    plain, tensors = checkpoints.load(builders.save(tmp_path / "d.pt", decoder, wrapper="decoder"))
    assert plain.codes == CodesConfig(count=0, size=5, speakers=4, speaker_size=3, repeat=2)
    rng = np.random.default_rng(0)
    book = rng.normal(size=(12, 5)).astype(np.float32)
    whole = {f"decoder.{name}": array for name, array in decoder.items()}
    whole |= {"encoder.encoder.0.weight": np.zeros((4, 8, 3), np.float32)}
    whole |= {"codebook.embedding": book, "codebook.ema_count": np.ones(12, np.float32)}
    if wrapper == "":  # a version that calls the embedding of labels otherwise
        whole["decoder.embedding.weight"] = whole.pop("decoder.mu_embedding.weight")
    path = builders.save(tmp_path / "w.pt", whole, wrapper=wrapper)
    config, found = checkpoints.load(path)
    assert config.codes == CodesConfig(count=12, size=5, speakers=4, speaker_size=3, repeat=2)
    assert np.array_equal(found.pop("codes.weight"), book)
    assert set(found) == set(tensors)
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_codebook_is_found_in_the_encoder_beside_the_decoder(
    tmp_path: Path, prefix: str
) -> None:
    """The last version of ZeroSpeech saves both, and the vectors of the codes with the encoder."""
    book = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    encoder = {"encoder.0.weight": np.zeros((4, 8, 3), np.float32), "codebook.embedding": book}
    encoder |= {"codebook.ema_count": np.ones(12, np.float32), "codebook.ema_weight": book}
    parts = {"decoder": builders.zerospeech(codes=0, n_mels=8), "encoder": encoder}
    named = {
        part: {prefix + name: tensor for name, tensor in builders.to_torch(state).items()}
        for part, state in parts.items()
    }
    torch.save({**named, "optimizer": {}, "step": 500000}, tmp_path / "both.pt")
    voc = Vocoder.from_pretrained(tmp_path / "both.pt", device="cpu")
    assert voc.config.codes is not None
    assert voc.config.codes.count == 12
    assert np.array_equal(voc.features([3, 7], 1)[:5, ::2].T, book[[3, 7]])


def test_the_published_size_is_that_of_the_paper(tmp_path: Path) -> None:
    sizes = {"hidden": 896, "fc": 256, "n_mels": 128, "speaker": 64, "speakers": 102}
    state = builders.zerospeech(**sizes, codes=512, embedding=256, conditioning=128)
    config, _ = checkpoints.load(builders.save(tmp_path / "m.pt", state, wrapper="vocoder"))
    assert (config.hidden_size, config.n_classes, config.sample_rate) == (896, 256, 16000)
    assert (config.hop_length, config.preset, config.first_label) == (160, "zerospeech", 128)
    assert config.n_samples(2 * 50) == 16000  # fifty codes are a second


def test_a_canonical_file_keeps_the_tables(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    config, tensors = checkpoints.load(path)
    weights.write(tmp_path / "m.safetensors", config, tensors)
    voc = Vocoder.from_pretrained(tmp_path / "m.safetensors", device="cpu")
    assert voc.config == config
    assert same_bits(
        voc.features([1, 2], 3), Vocoder.from_pretrained(path, device="cpu").features([1, 2], 3)
    )


@pytest.mark.parametrize(
    ("codes", "speaker", "words"),
    [
        ([1, 12], 0, "Code 1 is 12, expected 0 to 11"),
        ([-1], 0, "Code 0 is -1"),
        ([0.5], 0, "expected integers"),
        (np.zeros((4, 2), np.float32), 0, "floats .5, n."),
        (np.full((5, 2), np.nan, np.float32), 0, "not finite"),
        ([1], 4, "Speaker 4 does not exist; expected 0 to 3"),
        ([1], -1, "Speaker -1 does not exist"),
        ([1], np.zeros(2, np.float32), "a vector of 3 floats"),
        ([1], np.full(3, np.inf, np.float32), "not finite"),
        ([1], 0.5, "a number from 0 to 3"),
    ],
)
def test_codes_and_speakers_that_are_none_are_refused(
    tmp_path: Path, codes: Any, speaker: Any, words: str
) -> None:
    voc = Vocoder.from_pretrained(saved(tmp_path)[0], device="cpu")
    with pytest.raises(InputError, match=words):
        voc.features(codes, speaker)


def test_other_refusals_say_what_to_do(tmp_path: Path) -> None:
    bare = Vocoder.from_pretrained(saved(tmp_path, "decoder", codes=0)[0], device="cpu")
    with pytest.raises(InputError, match="holds no vectors of codes: give them"):
        bare.features([1], 0)
    config = cases.dual_config(32, 16)
    with pytest.raises(InputError, match="hears a mel, no codes"):
        Vocoder(config, cases.random_tensors(config)).features([1], 0)
    player = zerospeech.Vocoder(bare)
    with pytest.raises(InputError, match="a number from 0 to 3"):
        player.generate(np.zeros((1, 4, 5), np.float32), np.array([1.7]))
    with pytest.raises(InputError, match="one utterance"):
        player.generate(np.zeros((2, 4, 5), np.float32), [0])


def test_what_contradicts_itself_is_named(tmp_path: Path) -> None:
    config, _ = checkpoints.load(saved(tmp_path)[0])

    def changed(**fields: Any) -> ModelConfig:
        return ModelConfig(**{**vars(config), **fields})

    wrong = CodesConfig(count=-1, size=6, speakers=0, speaker_size=3, repeat=2)
    with pytest.raises(ModelError) as caught:
        changed(codes=wrong)
    assert len(caught.value.problems) == 3
    with pytest.raises(ModelError, match="a dual core has no codes"):
        cases.dual_config(32, 16, hop_length=3, n_mels=8, codes=config.codes)
    state = builders.zerospeech(**CPC)
    state["code_embedding.weight"] = np.zeros((12, 4), np.float32)
    with pytest.raises(ModelError, match="hears 8 features, expected 4 of a code and 3"):
        checkpoints.DIALECTS["zerospeech"].convert(state)
