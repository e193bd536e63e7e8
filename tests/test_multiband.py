"""Multiband-WaveRNN: its files mean what its module means, and sound the same however they run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoint_builders as builders
import live_twins
import multiband_twin as twin
import numpy as np
import pytest
import tolerances
from engine_work import ISAS

from wavernn_fast import (
    accelerate,
    batch,
    checkpoints,
    lanes,
    likelihood,
    pqmf,
    samples,
    verification,
    weights,
)
from wavernn_fast.errors import InputError, ModelError
from wavernn_fast.fold import Folding
from wavernn_fast.live import LivePool
from wavernn_fast.models.eager import make_eager
from wavernn_fast.models.eager_residual import EagerBands
from wavernn_fast.models.eager_wave import resynthesise
from wavernn_fast.presets import get_preset
from wavernn_fast.utterance import Sampling, make_request
from wavernn_fast.vocoder import Vocoder

STATE = builders.multiband(scales=(2, 2, 2), seed=3)
HOP = 4 * 8
DRAWN = Sampling(1.0, False, None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = builders.save(tmp_path_factory.mktemp("multiband") / "m.pyt", STATE)
    return checkpoints.load(path)


@pytest.fixture(scope="module")
def voc(model: Any) -> Vocoder:
    return Vocoder(*model, device="cpu", cpu_threads=1)


def mel(n_frames: int, seed: int = 0, n_mels: int = 8) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(-5.0, 1.0, (n_mels, n_frames))
    return values.astype(np.float32)


def drawn(voc: Vocoder, frames: np.ndarray, seed: int) -> np.ndarray:
    request = make_request(voc.config, frames, None, seed)
    return likelihood.draw(voc.voice(), request, DRAWN, frames.shape[1] * HOP)


# --- what a file means ----------------------------------------------------------------------------


def test_the_sizes_are_read_off_the_shapes(model: Any) -> None:
    config, tensors = model
    assert (config.source, config.bands, config.hop_length) == ("multiband", 4, HOP)
    assert (config.head, config.n_classes, config.n_mels) == ("softmax", 512, 8)
    assert (config.pad, config.pad_value, config.output.length) == ("zeros", -5.0, "frames")
    assert tensors["fc3.weight"].shape == (4 * 512, 16)
    for band in range(4):
        part = tensors["fc3.bias"][512 * band : 512 * (band + 1)]
        assert np.array_equal(part, STATE[f"fc3{band}.bias"])


def test_published_sizes_get_the_preset(tmp_path: Path) -> None:
    path = builders.save(tmp_path / "m.pyt", builders.multiband(n_mels=80, scales=(4, 4, 2)))
    config, _ = checkpoints.load(path)
    assert config.preset == "multiband"
    assert (config.sample_rate, config.hop_length) == (24000, 128)
    assert config.mel == get_preset("multiband").mel
    assert config.output.mu_law
    facts = checkpoints.inspect(path)
    assert (facts["dialect"], facts["preset"], facts["problems"]) == ("multiband", "multiband", [])
    assert facts["presets"] == ["multiband"]


def test_other_sizes_keep_the_rules_of_the_family(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = builders.save(tmp_path / "m.pyt", builders.multiband(n_mels=80, scales=(3, 5, 5)))
    with caplog.at_level(logging.WARNING, "wavernn_fast"):
        config, _ = checkpoints.load(path)
    assert config.hop_length == 300
    assert config.output == get_preset("multiband").output
    assert "no preset has 300 samples a frame" in caplog.text


def test_the_preset_is_for_four_bands_alone(tmp_path: Path) -> None:
    path = builders.save(tmp_path / "m.pyt", builders.fatchord(n_mels=80, scales=(4, 4, 8)))
    with pytest.raises(InputError, match="draws one band, the preset is for 4 bands"):
        checkpoints.load(path, preset="multiband")


@pytest.mark.parametrize("classes", [2, 8, 30])
def test_heads_that_are_no_labels_are_refused(classes: int, tmp_path: Path) -> None:
    path = builders.save(tmp_path / "m.pyt", builders.multiband(classes=classes))
    with pytest.raises(ModelError, match=f"its heads have {classes} outputs each"):
        checkpoints.load(path)


def test_a_file_without_one_head_names_it(tmp_path: Path) -> None:
    state = {name: array for name, array in STATE.items() if not name.startswith("fc30")}
    with pytest.raises(ModelError) as caught:
        checkpoints.load(builders.save(tmp_path / "m.pyt", state))
    assert set(caught.value.problems) == {
        "missing tensor fc30.weight, expected shape [512, 16]",
        "missing tensor fc30.bias, expected shape [512]",
    }


def test_a_converted_file_is_the_same_model(model: Any, tmp_path: Path) -> None:
    weights.write(tmp_path / "m.safetensors", *model)
    config, tensors = checkpoints.load(tmp_path / "m.safetensors")
    assert config == model[0]
    assert all(np.array_equal(tensors[name], model[1][name]) for name in model[1])


def test_a_drop_in_is_refused_for_its_class() -> None:
    class WaveRNN(twin.Multiband):
        def generate(self, mels, save_path, batched, target, overlap, mu_law):  # type: ignore[no-untyped-def]
            raise NotImplementedError

    module = WaveRNN(scales=(2, 2, 2))
    with pytest.raises(ModelError, match="draws 4 bands a step"):
        accelerate(module)


# --- logits and draws -----------------------------------------------------------------------------


def forced(n_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A mel, labels to follow, and what the module says under them: [n, C]."""
    labels = np.random.default_rng(5).integers(0, 512, n_frames * HOP).astype(np.int32)
    frames = mel(n_frames)
    module = twin.multiband(STATE, scales=(2, 2, 2))
    return frames, labels, module.logits(frames, labels.reshape(-1, 4)).reshape(-1, 512)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("isa", ISAS)
def test_the_engine_says_what_the_module_says(
    model: Any, isa: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAVERNN_FAST_ISA", isa)
    frames, labels, expected = forced(4)
    voc = Vocoder(*model, device="cpu", cpu_threads=1, dtype=dtype)
    request = make_request(voc.config, frames, None, 0)
    parts = [part for _, part in likelihood.teacher_forced_logits(voc.voice(), request, labels)]
    error = tolerances.logit_error(np.concatenate(parts), expected)
    assert error < tolerances.logit_limit(expected, dtype)


def test_the_step_in_pytorch_says_it_too(model: Any) -> None:
    frames, labels, expected = forced(3)
    eager = make_eager(*model, "float64")
    assert isinstance(eager, EagerBands)
    found = eager.teacher_forced_logits(labels, frames)
    np.testing.assert_allclose(found, expected, atol=1e-6)  # the kernel is stored in float32
    made = eager.generate(mel=frames, seed=2, return_logits=True)
    assert made.logits is not None
    again = eager.teacher_forced_logits(made.samples[0], frames)
    np.testing.assert_allclose(again, made.logits[0], atol=1e-9)
    with pytest.raises(InputError, match="no whole steps of 4 bands"):
        eager.teacher_forced_logits(labels[:6], frames)


def test_verify_compares_whole_steps(voc: Vocoder, model: Any) -> None:
    found = verification.compare(voc, model[1], steps=201)
    assert found.passed
    assert found.steps == 204
    assert 0.0 < found.worst < 1e-4


# --- the waveform ---------------------------------------------------------------------------------


def test_the_waveform_is_that_of_the_published_pipe(voc: Vocoder) -> None:
    frames = mel(30)
    labels = drawn(voc, frames, 7)
    assert len(np.unique(labels)) > 100
    expected = twin.waveform(labels.reshape(-1, 4), 512)
    assert np.abs(expected).max() > 1.0  # so that the limit is seen
    wave = voc.generate(frames, seed=7)
    assert (wave.dtype, wave.shape) == (np.float32, (30 * HOP,))
    np.testing.assert_allclose(wave, np.clip(expected, -1.0, 1.0), atol=2e-7)


def test_folds_are_joined_band_by_band(voc: Vocoder) -> None:
    frames, (target, overlap) = mel(23), (64, 24)
    request = make_request(voc.config, frames, None, 3)
    sampling = Sampling(1.0, False, (target, overlap))
    [drawing] = batch.draw_batch(voc.voice(), [request], sampling)
    length = target + 2 * overlap
    folds = np.full((len(drawing.folds), length), 255.5)  # silence where nothing is drawn
    for row, labels in zip(folds, drawing.folds, strict=True):
        row[: len(labels)] = labels
    values = live_twins.expand(2.0 * folds / 511.0 - 1.0, 512)
    joined = [
        live_twins.unfold(values[:, k::4].copy(), overlap // 4, hole=False)[: 23 * 8]
        for k in range(4)
    ]
    expected = np.clip(twin.synthesis(np.stack(joined)), -1.0, 1.0)
    wave = voc.generate(frames, seed=3, fold=(target, overlap))
    assert len(drawing.folds) > 5
    np.testing.assert_allclose(wave, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fold", "words"),
    [
        ((66, 24), "target is 66 samples, but this model draws 4 of them a step; give a .* 68"),
        ((64, 23), "overlap is 23 samples"),
        (Folding(decode_before_crossfade=False), "decoded before folds are joined"),
    ],
)
def test_folds_between_steps_are_refused(voc: Vocoder, fold: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        voc.generate(mel(9), fold=fold)


def test_the_eager_pipe_makes_the_same_wave_of_the_same_labels(
    model: Any, voc: Vocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager, frames = make_eager(*model), mel(12)
    labels = drawn(voc, frames, 1)
    monkeypatch.setattr(eager, "generate", lambda **_: SimpleNamespace(samples=labels[None]))
    wave = np.clip(resynthesise(eager, frames), -1.0, 1.0)
    np.testing.assert_allclose(wave, voc.generate(frames, seed=1), atol=1e-6)


# --- however it runs ------------------------------------------------------------------------------


def same(found: Any, wave: np.ndarray) -> bool:
    return np.concatenate([np.zeros(0, np.float32), *found]).tobytes() == wave.tobytes()


@pytest.mark.parametrize("frames", [0, 1, 2, 7, 40])
def test_streams_are_the_whole_bit_for_bit(voc: Vocoder, frames: int) -> None:
    spectrum = mel(frames, 4)
    wave = voc.generate(spectrum, seed=9)
    for chunk in (1, 3, 50):
        chunks = list(voc.stream(spectrum, seed=9, chunk_frames=chunk))
        assert all(len(part) == chunk * HOP for part in chunks[:-1])
        assert same(chunks, wave)
        assert same(voc.stream(iter(spectrum.T), seed=9, chunk_frames=chunk), wave)
    sound = voc.open_stream(seed=9)
    parts = [sound.push(spectrum[:, i : i + 3]) for i in range(0, frames, 3)]
    assert same([*parts, sound.finish()], wave)


def test_a_stream_holds_back_what_the_filters_need(voc: Vocoder) -> None:
    facts = voc.stream_facts()
    assert facts.held_back_samples == pqmf.delay(4) == 32
    sound, got = voc.open_stream(seed=1), 0
    for i, column in enumerate(mel(9).T, 1):
        got += len(sound.push(column))
        assert got == max(0, (i - facts.lookahead_frames) * HOP - 32)
        assert (got > 0) == (i >= facts.first_frames)


def waves(voc: Vocoder, spectra: list[np.ndarray]) -> list[np.ndarray]:
    return [voc.generate(spectrum, seed=i) for i, spectrum in enumerate(spectra)]


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_and_live_streams_are_the_whole_bit_for_bit(
    voc: Vocoder, model: Any, threads: int
) -> None:
    spectra = [mel(n, n) for n in (3, 70, 0, 11, 25)]
    expected = waves(voc, spectra)
    other = Vocoder(*model, device="cpu", cpu_threads=threads)
    for streams in (1, 3):
        found = other.generate_batch(spectra, streams=streams)
        assert all(same([a], b) for a, b in zip(found, expected, strict=True))
    with LivePool(other, chunk_frames=2) as pool:
        sounds = [pool.open(seed=i) for i in range(len(spectra))]
        for sound, spectrum in zip(sounds, spectra, strict=True):
            if spectrum.shape[1]:
                sound.push(spectrum)
            sound.finish()
        assert all(same(sound, b) for sound, b in zip(sounds, expected, strict=True))
    folded = voc.generate(spectra[1], seed=1, fold=(400, 40))
    assert same([other.generate_batch(spectra[:2], fold=(400, 40))[1]], folded)


def test_the_kernel_draws_what_the_cpu_draws_however_it_runs(voc: Vocoder, model: Any) -> None:
    emulated = Vocoder(*model, device="emu", dtype="fp32")
    frames = mel(6)
    assert np.array_equal(drawn(emulated, frames, 7), drawn(voc, frames, 7))
    wave = voc.generate(frames, seed=7)
    assert same([emulated.generate(frames, seed=7)], wave)
    assert same(emulated.stream(frames, seed=7, chunk_frames=2), wave)
    assert same([emulated.generate_batch([mel(2), frames], seeds=[1, 7])[1]], wave)
    with LivePool(emulated, chunk_frames=2) as pool:
        sounds = [pool.open(seed=seed) for seed in (7, 1)]
        for sound in sounds:
            sound.push(frames)
            sound.finish()
        assert same(sounds[0], wave)


def test_the_kernel_passes_verification(model: Any) -> None:
    found = verification.compare(Vocoder(*model, device="emu"), model[1], steps=41)
    assert found.passed
    assert found.steps == 44
    assert 0.0 < found.worst < tolerances.KERNEL_EXACT[0]


def test_slices_that_the_clock_cuts_are_whole_steps(
    voc: Vocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    advance = lanes.advance

    def slow(engine: Any, pieces: Any, *rest: Any) -> float:
        counts.extend(piece.n_steps for piece in pieces)
        advance(engine, pieces, *rest)
        return lanes._SLICE_SECONDS * 256 / 301  # asks for a slice of 301 samples next

    expected = voc.generate(mel(70), seed=1)
    monkeypatch.setattr(lanes, "advance", slow)
    assert same([voc.generate(mel(70), seed=1)], expected)
    assert counts[:2] == [256, 300]
    assert not any(count % 4 for count in counts)


def test_a_fade_at_the_end_is_held_back_as_well(model: Any) -> None:
    output = dataclasses.replace(model[0].output, fade_out_frames=2, limit=0.0)
    voc = Vocoder(dataclasses.replace(model[0], output=output), model[1], device="cpu")
    spectrum = mel(9)
    wave, plain = voc.generate(spectrum), voc.generate(spectrum, fade_out=False)
    assert np.array_equal(wave[: -2 * HOP], plain[: -2 * HOP])
    faded = plain[-2 * HOP :] * np.linspace(1, 0, 2 * HOP)
    np.testing.assert_allclose(wave[-2 * HOP :], faded, rtol=1e-6)
    assert same(voc.stream(iter(spectrum.T), chunk_frames=2), wave)
    assert voc.stream_facts().held_back_samples == 32 + 2 * HOP


# --- likelihood -----------------------------------------------------------------------------------


def test_a_score_is_that_of_the_labels_of_the_sub_bands(voc: Vocoder) -> None:
    spectrum = mel(12)
    wave = np.random.default_rng(2).uniform(-0.4, 0.4, 12 * HOP + 7).astype(np.float32)
    bands = twin.analysis(wave.astype(np.float64)).T
    mu = 511.0
    companded = np.sign(bands) * np.log(1.0 + mu * np.abs(bands)) / np.log(1.0 + mu)
    labels = np.clip(np.floor((companded + 1.0) / 2.0 * mu + 0.5), 0, 511).astype(np.int64)
    labels = labels[: 12 * 8]
    logits = twin.multiband(STATE, scales=(2, 2, 2)).logits(spectrum, labels)
    shifted = np.exp(logits - logits.max(axis=2, keepdims=True))
    shares = np.take_along_axis(shifted, labels[:, :, None], 2)[:, :, 0] / shifted.sum(axis=2)
    assert voc.score(spectrum, wave) == pytest.approx(-np.log(shares).mean(), abs=1e-5)


def _pieces(labels: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    for size in sizes:
        yield labels[:size]
        labels = labels[size:]
    yield labels


def test_the_decoder_gives_what_is_complete(model: Any) -> None:
    config = model[0]
    labels = np.random.default_rng(6).integers(0, 512, 400).astype(np.int32)
    whole = samples.decode_all(labels, config)
    for total in (None, 400):
        decoder = samples.OutputDecoder(config, total)
        parts, pushed = [], 0
        for piece in _pieces(labels, [4, 0, 120, 28]):
            parts.append(decoder.push(piece))
            pushed += len(piece)
            ended = pushed == total
            assert sum(map(len, parts)) == (pushed if ended else max(0, pushed - decoder.delay))
        assert same([*parts, decoder.push(labels[:0]), decoder.finish()], whole)
