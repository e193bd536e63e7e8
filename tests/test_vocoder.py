"""`Vocoder`: the same samples however they are asked for, of the right length and kind."""

from __future__ import annotations

import copy
import logging
import pickle
import signal
import threading
import time
import tracemalloc

import cases
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import soon, within
from voices import (
    CONDITIONED,
    DTYPES,
    DUAL,
    LABELS,
    LOGISTICS,
    UNCONDITIONED,
    mel,
    same_bits,
    voice,
)

from wavernn_fast import _C
from wavernn_fast.devices import THREADS
from wavernn_fast.errors import InputError
from wavernn_fast.fold import fold_plan, join_folds
from wavernn_fast.lanes import SLICE_STEPS
from wavernn_fast.mel_rows import MelRows
from wavernn_fast.samples import encode_targets
from wavernn_fast.scoring import mixture_nll, negative_log_likelihood
from wavernn_fast.synthetic import random_model
from wavernn_fast.vocoder import Vocoder

every_core = pytest.mark.parametrize("config", CONDITIONED.values(), ids=CONDITIONED.keys())


# --- packing --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    config=st.sampled_from(list(CONDITIONED.values())),
    lengths=st.lists(st.integers(0, 24), min_size=1, max_size=20),
    streams=st.integers(1, 20),
    threads=st.sampled_from([1, 2]),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_a_batch_item_equals_generate_whatever_it_is_packed_with(
    config, lengths, streams, threads, dtype, data
):
    seeds = data.draw(
        st.lists(st.integers(0, 2**64 - 1), min_size=len(lengths), max_size=len(lengths))
    )
    mels = [mel(config, n, i) for i, n in enumerate(lengths)]
    batch = voice(config, threads, dtype).generate_batch(mels, seeds, streams=streams)
    one = voice(config, 1, dtype)
    alone = [one.generate(m, seed=s) for m, s in zip(mels, seeds, strict=True)]
    assert all(same_bits(a, b) for a, b in zip(batch, alone, strict=True))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"seeds": 3}, "seeds is 3, expected a sequence with one for each mel"),
        ({"seeds": iter([3])}, "seeds is .*, expected a sequence"),
        ({"seeds": [3, 4]}, "There are 2 seeds for 1 mels"),
        ({"speakers": 3}, "speakers is 3, expected a sequence"),
    ],
)
def test_what_is_no_sequence_of_seeds_is_refused_in_a_sentence(given, words):
    with pytest.raises(InputError, match=words):
        voice(LABELS).generate_batch([mel(LABELS, 3)], **given)


@pytest.mark.parametrize("name", ["mels", "seeds", "speakers"])
def test_what_cannot_be_gone_through_is_refused_in_a_sentence(name):
    given = {"mels": [mel(LABELS, 3)], name: 3}
    with pytest.raises(InputError, match=f"{name} is 3, expected one for each utterance"):
        [*voice(LABELS).generate_each(**given)]
    if name == "mels":
        with pytest.raises(InputError, match="mels is None, expected one for each utterance"):
            voice(LABELS).generate_batch(None)


@every_core
def test_batch_seeds_count_from_zero_by_default(config):
    mels = [mel(config, 9, 5)] * 3
    batch = voice(config).generate_batch(mels)
    for i, wave in enumerate(batch):
        assert same_bits(wave, voice(config).generate(mels[i], seed=i))
    assert not np.array_equal(batch[0], batch[1])


@every_core
def test_folds_run_side_by_side_or_alone_give_the_same_samples(config):
    mels = [mel(config, n, n) for n in (3, 40, 25)]
    batch = voice(config).generate_batch(mels, [7, 7, 7], fold=(20, 6), streams=2)
    for m, wave in zip(mels, batch, strict=True):
        assert same_bits(wave, voice(config).generate(m, seed=7, fold=(20, 6)))


@every_core
def test_a_fold_is_a_fresh_stream_at_its_place_in_the_utterance(config):
    voc, frames = voice(config), mel(config, 30)
    n_drawn = config.n_output_frames(30) * config.hop_length
    plan = fold_plan(n_drawn, 20, 6)
    assert plan.num_folds > 2
    rows = MelRows(voc.conditioner, frames)
    folds = []
    for i in range(plan.num_folds):
        first, count, _ = plan.frames(i, config.hop_length)
        stream = voc.engine.open(3, fold=i, start=plan.starts[i])
        interp, hold = rows.rows(first, count)
        [(drawn, _)] = voc.engine.run([stream], [plan.lengths[i]], [interp], [hold])
        folds.append(drawn)
    expected = join_folds(folds, plan, config)
    assert same_bits(voc.generate(frames, seed=3, fold=(20, 6)), expected)


def test_fold_true_takes_the_sizes_of_the_preset():
    voc, frames = voice(LABELS), mel(LABELS, 30)
    sizes = (LABELS.output.fold_target, LABELS.output.fold_overlap)
    assert same_bits(voc.generate(frames, fold=True), voc.generate(frames, fold=sizes))
    assert not np.array_equal(voc.generate(frames, fold=True), voc.generate(frames))


def test_slices_do_not_show_in_the_samples():
    config = cases.residual_config(16, 16, bits=8, hop_length=100, upsample_right=1)
    frames = mel(config, SLICE_STEPS // 100 * 2 + 5)
    whole = voice(config).generate(frames, seed=4)
    assert len(whole) > 2 * SLICE_STEPS
    assert same_bits(whole, np.concatenate(list(voice(config).stream(frames, seed=4))))


def test_python_threads_may_share_a_vocoder():
    voc, frames = voice(LABELS, 2), mel(LABELS, 60)
    expected = [voc.generate(frames, seed=s) for s in range(4)]
    found: dict[int, np.ndarray] = {}

    def work(seed):
        found[seed] = voc.generate(frames, seed=seed)

    workers = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(same_bits(found[s], expected[s]) for s in range(4))


# --- length and kind ------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_what_would_need_a_second_engine_is_refused_in_a_sentence(duplicate):
    with pytest.raises(TypeError, match="call from_pretrained in each process"):
        duplicate(voice(DUAL))


@every_core
@pytest.mark.parametrize("n_frames", [0, 1, 2, 3, 4, 5, 17])
def test_the_length_follows_the_rule_of_the_model(config, n_frames):
    wave = voice(config).generate(mel(config, n_frames))
    assert wave.dtype == np.float32
    assert wave.shape == (config.n_samples(n_frames),)


@every_core
def test_samples_lie_in_the_unit_range_where_nothing_is_filtered(config):
    wave = voice(DUAL).generate(mel(DUAL, 40))
    assert np.isfinite(wave).all()
    assert np.abs(wave).max() <= 1.0
    assert wave.std() > 0.0


def test_an_unconditioned_model_takes_a_number_of_samples():
    voc = voice(UNCONDITIONED)
    long = voc.generate(n_samples=300, seed=2)
    assert long.shape == (300,)
    assert same_bits(voc.generate(n_samples=120, seed=2), long[:120])
    assert voc.generate(n_samples=0).shape == (0,)


def test_other_kinds_of_mel_give_the_same_samples():
    voc, frames = voice(LABELS), mel(LABELS, 8)
    expected = voc.generate(frames)
    for other in (
        frames.astype(np.float64),
        np.asfortranarray(frames),
        frames[None],
        frames[:, ::-1][:, ::-1],
        frames.tolist(),
    ):
        assert same_bits(voc.generate(other), expected)


def test_torch_in_gives_torch_out():
    import torch

    voc, frames = voice(LABELS), mel(LABELS, 8)
    tensor = torch.from_numpy(frames).requires_grad_()
    found = voc.generate(tensor)
    assert isinstance(found, torch.Tensor)
    assert same_bits(found.numpy(), voc.generate(frames))
    [batch] = voc.generate_batch([tensor], seeds=[0])
    assert isinstance(batch, torch.Tensor)
    for chunks in (voc.stream(tensor), voc.stream(iter(tensor.T))):
        parts = list(chunks)
        assert all(isinstance(part, torch.Tensor) for part in parts)
        assert same_bits(torch.cat(parts).numpy(), voc.generate(frames))
    half = tensor.detach().to(torch.bfloat16)
    assert same_bits(voc.generate(half).numpy(), voc.generate(half.float().numpy()))


# --- chance ---------------------------------------------------------------------------------------


@every_core
def test_every_bit_of_the_seed_counts(config):
    frames = mel(config, 12)
    waves = {
        voice(config).generate(frames, seed=s).tobytes() for s in (0, 1, 2**32, 2**63, 2**64 - 1)
    }
    assert len(waves) == 5


@every_core
def test_greedy_needs_no_seed(config):
    frames = mel(config, 12)
    voc = voice(config)
    first = voc.generate(frames, seed=1, greedy=True)
    assert same_bits(first, voc.generate(frames, seed=2, greedy=True, temperature=3.0))
    assert not np.array_equal(first, voc.generate(frames, seed=1))


@pytest.mark.parametrize(("device", "parallel"), [("cpu", "threads"), ("emu", "blocks")])
def test_its_text_says_where_it_runs_and_on_how_much(device, parallel):
    voc = Vocoder(*random_model("dual:32"), device=device)
    assert voc.device == device
    expected = f"{device}/{voc.isa}/fp32, {voc.cpu_threads} {parallel})"
    assert repr(voc).endswith(expected)
    assert device == "cpu" or voc.cpu_threads == 1  # one block holds it, and more are slower


def test_the_environment_says_how_many_threads_work_where_nobody_does(monkeypatch):
    parts = random_model("dual:32")
    monkeypatch.setenv(THREADS, "3")
    assert Vocoder(*parts, device="cpu").cpu_threads == 3
    assert Vocoder(*parts, device="cpu", cpu_threads=2).cpu_threads == 2
    for unset in (lambda: monkeypatch.setenv(THREADS, ""), lambda: monkeypatch.delenv(THREADS)):
        unset()
        assert Vocoder(*parts, device="cpu").cpu_threads == _C.available_threads()
    for bad in ("0", "-1", "two", "1.5", "\u0663"):
        monkeypatch.setenv(THREADS, bad)
        with pytest.raises(InputError, match=rf"{THREADS} is '{bad}'; set it to .* 1 or more"):
            Vocoder(*parts, device="cpu")
    assert Vocoder(*parts, device="cpu", cpu_threads=2).cpu_threads == 2


def test_a_very_low_temperature_is_greedy():
    frames = mel(LABELS, 12)
    cold = voice(LABELS).generate(frames, temperature=1e-6)
    assert same_bits(cold, voice(LABELS).generate(frames, greedy=True))


# --- score ----------------------------------------------------------------------------------------


@every_core
def test_score_is_the_likelihood_of_the_float64_reference(config):
    n_frames = 9
    frames = mel(config, n_frames)
    wave = np.random.default_rng(1).uniform(-0.7, 0.7, n_frames * config.hop_length)
    offset = config.lookback_frames * config.hop_length if config.pad == "none" else 0
    n = config.n_output_frames(n_frames) * config.hop_length
    targets = encode_targets(wave, config)[offset : offset + n]
    logits = reference.run(config, cases.random_tensors(config), frames, forced=targets)["logits"]
    expected = negative_log_likelihood(config, logits, targets).mean()
    assert voice(config).score(frames, wave) == pytest.approx(expected, rel=1e-4)


def test_score_of_an_unconditioned_model_takes_any_wave():
    wave = np.random.default_rng(1).uniform(-0.5, 0.5, 3000).astype(np.float32)
    targets = encode_targets(wave, UNCONDITIONED)
    logits = reference.run(
        UNCONDITIONED, cases.random_tensors(UNCONDITIONED), n_steps=3000, forced=targets
    )["logits"]
    expected = negative_log_likelihood(UNCONDITIONED, logits, targets).mean()
    assert voice(UNCONDITIONED).score(None, wave) == pytest.approx(expected, rel=1e-4)


def test_a_wave_to_score_may_have_a_channel_of_its_own():
    wave = np.random.default_rng(1).uniform(-0.5, 0.5, 60).astype(np.float32)
    voc, frames = voice(DUAL), mel(DUAL, 20)
    bare = voice(UNCONDITIONED)
    assert bare.score(None, wave[None]) == bare.score(None, wave)
    assert voc.score(frames, wave[None]) == voc.score(frames, wave)
    with pytest.raises(InputError, match="one dimension"):
        bare.score(None, np.stack([wave, wave]))
    with pytest.raises(InputError, match="This model is conditioned: give a mel"):
        voc.score(None, wave)


def test_score_goes_on_over_the_slices_of_a_long_recording():
    config = cases.residual_config(16, 16, bits=8, hop_length=100, upsample_right=1)
    frames = mel(config, SLICE_STEPS // 100 + 5)
    wave = np.random.default_rng(2).uniform(-0.5, 0.5, frames.shape[1] * 100)
    assert len(wave) > SLICE_STEPS
    targets = encode_targets(wave, config)
    logits = reference.run(config, cases.random_tensors(config), frames, forced=targets)["logits"]
    expected = negative_log_likelihood(config, logits, targets).mean()
    assert voice(config).score(frames, wave) == pytest.approx(expected, rel=1e-4)


def test_the_likelihood_of_a_class_is_its_share_of_the_exponentials():
    random = np.random.default_rng(3)
    logits = random.normal(0, 4, (50, 512))
    targets = random.integers(0, 65536, 50)
    shares = np.exp(logits.reshape(50, 2, 256))
    shares /= shares.sum(axis=2, keepdims=True)
    expected = [
        -np.log(shares[i, 0, t // 256] * shares[i, 1, t % 256]) for i, t in enumerate(targets)
    ]
    assert negative_log_likelihood(DUAL, logits, targets) == pytest.approx(np.array(expected))
    shares = np.exp(logits[:, :256])
    labels = targets % 256
    expected = -np.log(shares[np.arange(50), labels] / shares.sum(axis=1))
    assert negative_log_likelihood(LABELS, logits[:, :256], labels) == pytest.approx(expected)


def test_a_model_likes_its_own_samples_better_than_noise():
    frames = mel(LOGISTICS, 200)
    plain = LOGISTICS.output.deemphasis
    assert plain  # encode_targets undoes it
    own = voice(LOGISTICS).generate(frames, fade_out=False)
    own = np.pad(own, (0, LOGISTICS.hop_length))
    noise = np.random.default_rng(0).uniform(-1, 1, len(own))
    assert voice(LOGISTICS).score(frames, own) < voice(LOGISTICS).score(frames, noise)


def test_the_probabilities_of_all_16_bit_values_sum_to_one():
    values = 2.0 * np.arange(65536) / 65535.0 - 1.0
    for logits in ([0.3, -0.2, -0.4, 0.5, -3.0, -5.0], [1.0, 0.0, 0.2, -0.6, -9.0, -4.0]):
        rows = np.broadcast_to(np.array(logits), (65536, 6))
        assert np.exp(-mixture_nll(rows, values)).sum() == pytest.approx(1.0, abs=2e-3)


# --- what it says about itself --------------------------------------------------------------------


def test_properties_say_what_runs():
    voc = voice(LABELS, 2)
    assert (voc.device, voc.dtype, voc.cpu_threads) == ("cpu", "fp32", 2)
    assert voc.sample_rate == LABELS.sample_rate
    assert voc.config == LABELS
    assert "residual 16" in repr(voc)


def test_device_auto_says_in_one_line_why_it_is_the_cpu(caplog, monkeypatch):
    monkeypatch.setenv("WAVERNN_FAST_LIBCUDA", "/nowhere/libcuda.so")
    with caplog.at_level(logging.INFO, logger="wavernn_fast"):
        Vocoder(LABELS, cases.random_tensors(LABELS))
    lines = [r.getMessage() for r in caplog.records if "CPU" in r.getMessage()]
    assert len(lines) == 1
    assert "no NVIDIA driver" in lines[0]


def test_progress_counts_up_to_what_was_drawn():
    frames = [mel(LABELS, n) for n in (5, 600, 30)]
    seen: list[int] = []
    waves = voice(LABELS).generate_batch(frames, progress=seen.append, streams=2)
    assert seen == sorted(seen)
    assert len(seen) > 2
    assert seen[-1] == sum(map(len, waves))


def test_memory_does_not_grow_with_the_length_of_the_mel():
    config = cases.residual_config(64, 16, bits=8, hop_length=1, upsample_right=1)
    row_bytes = 4 * 4 * config.hidden_size
    voc = voice(config)

    def peak(n_frames):
        frames = mel(config, n_frames)
        tracemalloc.start()
        try:
            wave = voc.generate(frames)
            return tracemalloc.get_traced_memory()[1] - 4 * wave.nbytes
        finally:
            tracemalloc.stop()

    peak(10)  # imports and caches
    limit = 4 * SLICE_STEPS * row_bytes  # rows of a slice: old, new, their blocks, and small change
    assert limit < 30_000 * row_bytes
    assert peak(30_000) < limit


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where the tests run as a background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@soon
def test_ctrl_c_stops_a_long_run_at_once():
    config = cases.dual_config(896, 448)
    voc = Vocoder(config, cases.random_tensors(config))
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    began = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        voc.generate(n_samples=500_000)
    within(1.3, began)
