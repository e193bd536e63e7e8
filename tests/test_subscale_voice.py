"""Subscale models sound: the engine with the network between its slices is the float64 reference.

Whatever the slices, threads, chunks and fellows of a batch, an utterance has the same bits; and
what is drawn is what the slow references draw.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import threading
from functools import cache
from typing import Any

import cases
import fake_cupy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_subscale import run_subscale
from test_subscale_model import AUX, ByTheEngine, model_of, trained_weights, whole

from wavernn_fast import Vocoder, likelihood
from wavernn_fast.batch import BatchReport
from wavernn_fast.config import ModelConfig, OutputConfig
from wavernn_fast.errors import InputError
from wavernn_fast.samples import decode_all
from wavernn_fast.subscale import Schedule
from wavernn_fast.subscale_network import SLICES, Slices, SubscaleNetwork
from wavernn_fast.utterance import Sampling, make_request

CONFIGS = [
    cases.subscale_config(1, 2, 1),
    cases.subscale_config(2, 0, 0, n_mels=3, hop_length=8),
    cases.subscale_config(4, 5, 2, n_mels=5, hop_length=16, **AUX),
    cases.subscale_config(8, 1, 1, first_input=0.5),
    cases.subscale_config(16, 8, 3, n_mels=5, hop_length=32, **AUX),
    cases.subscale_config(16, 3, 1),
    cases.predicted_config(4, 5, 2, 2, hop_length=16, log="db", scale=0.1),
    cases.predicted_config(16, 8, 3, 2, hop_length=32, **AUX),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=cases.case_id)
SOUNDING = CONFIGS[-1]
WIDER = [  # which clusters of two blocks can hold
    dataclasses.replace(config, hidden_size=64, fc_size=32)
    for config in (CONFIGS[2], CONFIGS[4], *CONFIGS[-2:])
]
FREE = [config for config in CONFIGS if not config.n_mels]


@cache
def voice_of(config: ModelConfig, device: str = "cpu", threads: int = 1) -> Vocoder:
    return Vocoder(config, trained_weights(config), device=device, cpu_threads=threads)


@cache
def clustered(config: ModelConfig) -> Vocoder:
    """In the emulator, teams of clusters: there the network hears a slice ahead."""
    return Vocoder(config, trained_weights(config), device="emu", gpu_cluster=2)


def mel_of(config: ModelConfig, count: int) -> Any:
    return cases.mel_for(config, count) if config.n_mels else None


def classes(
    voc: Vocoder,
    mel: Any,
    count: int,
    seed: int = 0,
    greedy: bool = False,
    temperature: float = 1.0,
) -> Any:
    request = make_request(voc.config, mel, count if mel is None else None, seed)
    return likelihood.draw(voc.voice(), request, Sampling(temperature, greedy, None), count)


def forced_logits(voc: Vocoder, mel: Any, samples: Any) -> Any:
    request = make_request(voc.config, mel, len(samples) if mel is None else None, 0)
    found = np.full((len(samples), 512), np.nan, np.float32)
    for numbers, logits in likelihood.teacher_forced_logits(voc.voice(), request, samples):
        assert np.isnan(found[numbers]).all(), "a sample came twice"
        found[numbers] = logits
    return found


# --- the function ---------------------------------------------------------------------------------


@every_config
@pytest.mark.parametrize("count", [1, 5, 96, 160])
def test_logits_are_those_of_the_float64_reference(config, count):
    samples, mel = cases.random_samples(config, count), mel_of(config, count)
    expected = run_subscale(config, trained_weights(config), mel, count, forced=samples)["logits"]
    found = forced_logits(voice_of(config), mel, samples)
    assert np.abs(found - expected).max() <= 1e-4


@every_config
def test_logits_over_many_slices_are_those_of_the_trainable_model(config):
    count = 4096
    samples, mel = cases.random_samples(config, count), mel_of(config, count)
    with torch.no_grad():
        expected, _ = model_of(config)(whole(config, samples, mel))
    found = forced_logits(voice_of(config), mel, samples)
    assert np.abs(found - expected[:, 0].numpy()).max() <= 1e-4


@every_config
def test_samples_drawn_are_those_of_the_reference(config):
    count = 96
    mel = mel_of(config, count)
    expected = run_subscale(config, trained_weights(config), mel, count, seed=7)
    assert np.array_equal(classes(voice_of(config), mel, count, seed=7), expected["samples"])


@every_config
@pytest.mark.parametrize("temperature", [0.5, 1.25])
def test_every_row_has_a_temperature_of_its_own(config, temperature):
    count = 96
    mel, tensors = mel_of(config, count), trained_weights(config)
    expected = run_subscale(config, tensors, mel, count, seed=7, temperature=temperature)
    found = classes(voice_of(config), mel, count, seed=7, temperature=temperature)
    assert np.array_equal(found, expected["samples"])


@every_config
def test_samples_drawn_are_those_of_pytorch_under_the_same_uniforms(config):
    count = 96
    mel = mel_of(config, count)
    slow = ByTheEngine(config, trained_weights(config), "float64")
    slow.seed = 7
    expected = slow.generate(count, mel).samples[0]
    assert np.array_equal(classes(voice_of(config), mel, count, seed=7), expected)


@every_config
def test_the_emulated_kernel_draws_what_the_reference_draws(config):
    """Its weights and activations are fp16, so it follows the reference in likelihood only."""
    count = 96
    mel, samples = mel_of(config, count), cases.random_samples(config, count)
    voc = voice_of(config, "emu")
    assert voc.dtype == ("fp32" if config.subscale_factor == 1 else "fp16")
    expected = run_subscale(config, trained_weights(config), mel, count, forced=samples)["logits"]
    found = forced_logits(voc, mel, samples)
    assert np.abs(found - expected).max() <= 2e-2 * np.abs(expected).max()
    drawn = classes(voc, mel, count, seed=3)
    assert np.array_equal(drawn, classes(voc, mel, count, seed=3))
    assert len(np.unique(drawn)) > count // 2


@pytest.mark.parametrize("config", WIDER, ids=cases.case_id)
def test_clusters_hear_a_slice_ahead_and_draw_the_same_function(config):
    """A lag longer by a slice changes when rows are drawn, not what they hear."""
    voc, plain = clustered(config), voice_of(config, "emu")
    sub = config.subscale
    assert voc.lag_samples == (sub.factor - 1) * (sub.horizon + 64) * sub.factor
    count = 30 * config.hop_length
    mel, samples = mel_of(config, count), cases.random_samples(config, count)
    expected = forced_logits(plain, mel, samples)
    assert np.abs(forced_logits(voc, mel, samples) - expected).max() <= 1e-4
    wave = voc.generate(mel, seed=4)
    assert len(wave) == count
    for frames in (1, 7, 30):
        pieces = (mel[:, i : i + frames] for i in range(0, mel.shape[1], frames))
        assert np.array_equal(np.concatenate(list(voc.stream(pieces, seed=4))), wave)
    batch = voc.generate_batch([mel[:, :1], mel, mel[:, :9]], [1, 4, 2])
    assert np.array_equal(batch[1], wave)
    assert np.array_equal(batch[0], voc.generate(mel[:, :1], seed=1))
    assert voc.generate(mel[:, :0]).shape == (0,)


def test_what_is_heard_ahead_is_heard_while_the_engine_draws(monkeypatch):
    """All slices but the first, and on another thread."""
    voc, mel = clustered(WIDER[-1]), cases.random_mel(WIDER[-1], 40)
    where = list[tuple[int, bool]]()
    hear = SubscaleNetwork.hear

    def watched(self: SubscaleNetwork, *given: Any, ahead: int) -> None:
        where.append((ahead, threading.current_thread() is threading.main_thread()))
        hear(self, *given, ahead=ahead)

    monkeypatch.setattr(SubscaleNetwork, "hear", watched)
    voc.generate(mel, seed=1)
    assert where[0] == (0, True)
    assert set(where[1:]) == {(1, False)}


def test_greedy_takes_the_best_class_of_every_row():
    config, count = FREE[1], 64
    expected = run_subscale(config, trained_weights(config), None, count, greedy=True)["samples"]
    assert np.array_equal(classes(voice_of(config), None, count, greedy=True), expected)


def test_the_score_is_the_mean_of_all_samples():
    config, count = SOUNDING, 320
    mel, wave = mel_of(config, count), np.random.default_rng(0).uniform(-1, 1, count)
    voc = voice_of(config)
    request = make_request(config, mel, None, 0)
    targets = likelihood.forced_targets(config, request, wave)
    logits = run_subscale(config, trained_weights(config), mel, count, forced=targets)["logits"]
    expected = 0.0
    for first, labels in ((0, targets >> 8), (256, targets & 255)):
        part = logits[:, first : first + 256]
        top = part.max(axis=1)
        spread = top + np.log(np.exp(part - top[:, None]).sum(axis=1))
        expected += float((spread - part[np.arange(count), labels]).mean())
    assert voc.score(mel, wave) == pytest.approx(expected, abs=1e-5)


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 5, 32])
@pytest.mark.parametrize("config", CONFIGS[1:5], ids=cases.case_id)
def test_the_network_in_slices_is_the_network_of_the_whole(config, columns):
    """With any slice; rows lag behind each other as the schedule says."""
    sub, total = config.subscale, 70
    network = SubscaleNetwork(config, trained_weights(config), Slices(columns))
    rows = np.random.default_rng(1).normal(0, 0.3, (sub.factor, total)).astype(np.float32)
    around = np.pad(rows, ((0, 0), (sub.horizon, sub.horizon))).T.reshape(1, -1)
    weight = trained_weights(config)["gru.w_conditioning"][:, -sub.channels :]
    with torch.no_grad():
        heard = model_of(config).subscale(torch.from_numpy(np.ascontiguousarray(around)))[0]
    expected = heard.numpy() @ weight.T  # [total, factor, 3H]
    state = network.start()
    out = np.zeros((sub.factor, columns, network.size), np.float32)
    checked = 0
    for step in range(0, total + sub.factor * network.lag, columns):
        network.hear(state, out)
        drawn = np.zeros((sub.factor, columns), np.float32)
        for row in range(sub.factor):
            for j in range(columns):
                column = step - row * network.lag + j
                if 0 <= column < total:
                    assert np.abs(out[row, j] - expected[column, row]).max() <= 1e-4
                    drawn[row, j] = rows[row, column]
                    checked += 1
        state.push(network, drawn)
    assert checked == sub.factor * total


# --- any way to ask for it has the same bits ------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS[1:], ids=cases.case_id)
def test_two_threads_draw_the_samples_of_one(config):
    count = 2048
    mel = mel_of(config, count)
    one, two = (classes(voice_of(config, threads=n), mel, count, seed=1) for n in (1, 2))
    assert np.array_equal(one, two)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    streams=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_an_item_of_a_batch_is_the_same_alone(lengths, streams, seed):
    voc = voice_of(SOUNDING)
    mels = [cases.random_mel(SOUNDING, n, seed=i) for i, n in enumerate(lengths)]
    seeds = [seed + i for i in range(len(mels))]
    found = voc.generate_batch(mels, seeds, streams=streams)
    for mel, own, wave in zip(mels, seeds, found, strict=True):
        assert np.array_equal(wave, voc.generate(mel, seed=own))


@pytest.mark.slow
@given(
    pieces=st.lists(st.integers(0, 9), min_size=0, max_size=8),
    chunk_frames=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)
def test_chunks_join_to_the_whole(pieces, chunk_frames, seed):
    voc, ends = voice_of(SOUNDING), np.cumsum([0, *pieces])
    mel = cases.random_mel(SOUNDING, int(ends[-1]), seed=2)
    whole_wave = voc.generate(mel, seed=seed)
    size = chunk_frames * SOUNDING.hop_length
    frames = iter([mel[:, first:end] for first, end in itertools.pairwise(ends)])
    for source in (mel, frames):
        chunks = list(voc.stream(source, seed=seed, chunk_frames=chunk_frames))
        joined = np.concatenate([np.zeros(0, np.float32), *chunks])
        assert np.array_equal(joined, whole_wave)
        assert all(len(chunk) == size for chunk in chunks[:-1])


@pytest.mark.parametrize("config", FREE, ids=cases.case_id)
@pytest.mark.parametrize("count", [0, 1, 3, 7, 16, 17, 45, 333])
def test_lengths_that_rows_do_not_divide(config, count):
    voc = voice_of(config)
    wave = voc.generate(n_samples=count, seed=2)
    assert wave.shape == (count,)
    assert wave.dtype == np.float32
    if count:
        assert np.array_equal(wave, decode_all(classes(voc, None, count, seed=2), config))
    chunks = list(voc.stream(n_samples=count, seed=2))
    assert np.array_equal(np.concatenate([np.zeros(0, np.float32), *chunks]), wave)


def test_the_bits_do_not_hang_on_when_frames_come_ready_in_slices_of_any_device(monkeypatch):
    """Other slices give other roundings of the network, and so nearly, not exactly, the same."""
    config, count = SOUNDING, 640
    samples, mel = cases.random_samples(config, count), mel_of(config, count)
    expected = forced_logits(voice_of(config), mel, samples)
    monkeypatch.setitem(SLICES, "cpu", Slices(7))
    other = Vocoder(config, trained_weights(config), device="cpu", cpu_threads=1)
    assert other.lag_samples < voice_of(config).lag_samples
    assert np.abs(forced_logits(other, mel, samples) - expected).max() <= 1e-4


# --- streaming: how long the first chunk takes ---------------------------------------------------


def test_the_first_chunk_takes_the_frames_that_the_lag_says():
    voc, config = voice_of(SOUNDING), SOUNDING
    pulled = 0

    def frames() -> Any:
        nonlocal pulled
        for i in range(10_000):
            pulled += 1
            yield cases.random_mel(config, 1, seed=i)[:, 0]

    first = next(voc.stream(frames(), chunk_frames=1))
    assert len(first) == config.hop_length
    columns = (voc.lag_samples + config.hop_length) // 16  # of row 0, in whole slices
    whole_slices = -(-columns // SLICES["cpu"].columns)
    columns = whole_slices * SLICES["cpu"].columns
    assert pulled == -(-columns * 16 // config.hop_length) + config.lookahead_frames


def test_the_lag_is_that_of_the_schedule():
    voc, sub = voice_of(SOUNDING), SOUNDING.subscale
    schedule = Schedule(10_000, sub.factor, sub.horizon, SLICES["cpu"].columns)
    assert voc.lag_samples == (sub.factor - 1) * schedule.lag * sub.factor
    plain = cases.dual_config(32, 16)
    assert Vocoder(plain, cases.random_tensors(plain), device="cpu").lag_samples == 0


# --- in the memory of a device --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cupy", "torch"])
@pytest.mark.parametrize("config", [CONFIGS[2], CONFIGS[-2], WIDER[2]], ids=cases.case_id)
def test_a_mel_on_the_device_of_the_engine_stays_there(config, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module())
    voc = clustered(config) if config in WIDER else voice_of(config, "emu")
    mel = cases.random_mel(config, 30)
    expected = voc.generate(mel, seed=4)
    theirs = fake_cupy.Array(mel) if kind == "cupy" else torch.from_numpy(mel)
    found = voc.generate(theirs, seed=4)
    values = found.values if kind == "cupy" else found.numpy()
    if kind == "cupy":  # which computes what numpy computes
        assert np.array_equal(values, expected)
    assert values.shape == expected.shape
    assert voc.score(theirs, values) == pytest.approx(voc.score(mel, values), abs=1e-4)
    streamed = list(voc.stream(theirs, seed=4))
    joined = [chunk.values if kind == "cupy" else chunk.numpy() for chunk in streamed]
    assert np.array_equal(np.concatenate(joined), values)


# --- reports and refusals -------------------------------------------------------------------------


def test_a_batch_reports_its_rows():
    voc, reports = voice_of(SOUNDING), list[BatchReport]()
    mels = [cases.random_mel(SOUNDING, n) for n in (40, 40, 10)]
    counted = list[int]()
    voc.generate_batch(mels, streams=2, report=reports.append, progress=counted.append)
    [report] = reports
    assert report.samples == 90 * SOUNDING.hop_length == counted[-1]
    assert report.slots == 2 * 16
    assert 0.0 < report.occupancy < 1.0


def test_several_devices_share_the_utterances():
    config = SOUNDING
    mels = [cases.random_mel(config, n, seed=n) for n in (9, 3, 0, 6)]
    one, two = (
        Vocoder(config, trained_weights(config), device=device) for device in ("emu", "emu:0,1")
    )
    for found, expected in zip(two.generate_batch(mels), one.generate_batch(mels), strict=True):
        assert np.array_equal(found, expected)


def test_rows_in_teams_that_are_clusters_give_the_samples_of_teams_that_are_not():
    config = dataclasses.replace(SOUNDING, hidden_size=64, fc_size=32)
    tensors, mel = trained_weights(config), cases.random_mel(config, 9)
    how = {"device": "emu", "gpu_streams": 2}
    clustered = Vocoder(config, tensors, gpu_cluster=2, **how)
    assert "every team a cluster" in clustered.engine.describe()
    assert np.array_equal(clustered.generate(mel), Vocoder(config, tensors, **how).generate(mel))


@pytest.mark.parametrize("streams", ["4", 1.5, -1, None])
def test_a_number_of_gpu_streams_that_is_none_is_refused(streams):
    with pytest.raises(InputError, match="gpu_streams"):
        Vocoder(SOUNDING, trained_weights(SOUNDING), device="cpu", gpu_streams=streams)


def test_folding_is_refused_with_the_reason():
    with pytest.raises(InputError, match="16 samples of an utterance side by side already"):
        voice_of(SOUNDING).generate(cases.random_mel(SOUNDING, 5), fold=True)


def test_a_length_rule_that_looks_ahead_is_refused():
    output = OutputConfig(length="frames_minus_one")
    with pytest.raises(Exception, match="length"):
        dataclasses.replace(SOUNDING, output=output)
