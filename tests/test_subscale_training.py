"""Training of subscale models: their segments, warm-up, and a short run that learns and resumes."""

from __future__ import annotations

import dataclasses
from functools import cache

import cases
import numpy as np
import pytest
import recordings
import torch
from test_subscale_model import every_config, model_of, whole
from test_wavernn_model import assert_same, trained_weights
from train_runs import (
    OFTEN,
    finish,
    log,
    one_thread,  # noqa: F401
    resumed,
    settings,
    stop_at,
    trainer,
)

from wavernn_fast import weights
from wavernn_fast.config import ModelConfig
from wavernn_fast.models import subscale
from wavernn_fast.models.eager import make_eager
from wavernn_fast.models.wavernn import Batch, WaveRNN
from wavernn_fast.subscale_config import SubscaleConfig
from wavernn_fast.train import state
from wavernn_fast.train.corpus import Corpus, Recording
from wavernn_fast.train.loop import MODEL, cut, segment_frames
from wavernn_fast.train.run import total_frames

SUBSCALE = SubscaleConfig(factor=4, horizon=3, channels=5, blocks=1, prediction_reach=2)
CONFIG = recordings.config(subscale=SUBSCALE)
BARE = recordings.config(
    subscale=dataclasses.replace(SUBSCALE, prediction_reach=0),
    n_mels=0,
    mel=None,
    hop_length=1,
    aux_size=0,
    aux_channels=0,
    aux_blocks=0,
)
HOP, ROWS, BESIDE = CONFIG.hop_length, SUBSCALE.factor, SUBSCALE.factor * SUBSCALE.horizon
FRAMES = 2  # of a segment


def recording(frames: int, seed: int, hop: int = HOP, bins: int = 8) -> Recording:
    random = np.random.default_rng(seed)
    samples = random.integers(0, 65536, frames * hop).astype(np.uint16)
    return Recording(str(seed), samples, random.standard_normal((bins, frames), np.float32))


@cache
def corpus(frames: int = FRAMES) -> Corpus:
    return Corpus([recording(4, 1), recording(6, 2)], CONFIG, frames, CONFIG.aux_radius)


def assert_segment(batch: Batch, row: int, samples: np.ndarray, at: int, length: int) -> None:
    """Samples, those before and those around are slices of the recording; -1 beyond its ends."""
    padded = np.pad(samples.astype(np.int64), 1000, constant_values=-1)
    assert np.array_equal(batch.samples[row], samples[at : at + length])
    assert np.array_equal(batch.before[row], padded[1000 + at - ROWS : 1000 + at])
    around = padded[1000 + at - BESIDE : 1000 + at + length + BESIDE]
    assert np.array_equal(batch.around[row], around)


# --- segments ---------------------------------------------------------------------------------


def test_segments_are_slices_with_the_columns_around_them():
    batch = corpus().batch(np.arange(8))
    places = [(0, 0), (0, 1), (0, 2), *((1, i) for i in range(5))]
    assert [t.dtype for t in (batch.samples, batch.before, batch.around)] == [torch.int64] * 3
    assert batch.before.shape == (8, ROWS)
    assert batch.around.shape == (8, FRAMES * HOP + 2 * BESIDE)
    for row, (index, frame) in enumerate(places):
        assert_segment(batch, row, corpus().recordings[index].samples, frame * HOP, FRAMES * HOP)
    ends = batch.around[[0, 2, 3, 7]] < 0  # first and last of both recordings
    assert ends[0, :BESIDE].all()
    assert ends[1, -BESIDE:].all()
    assert ends[2, :BESIDE].all()
    assert ends[3, -BESIDE:].all()
    assert int(ends.sum()) == 4 * BESIDE
    assert (batch.before[[0, 3]] == -1).all()


def test_an_unconditioned_segment_may_start_at_any_sample():
    one = recording(50, 3, hop=1, bins=0)
    made = Corpus([one], BARE, 12, 0)
    assert made.n_segments == 39
    batch = made.batch(np.arange(39))
    for at in range(39):
        assert_segment(batch, at, one.samples, at, 12)
    assert (batch.before[2, :2] == -1).all()
    assert (batch.before[2, 2:] >= 0).all()


def test_a_horizon_of_none_needs_no_samples_around():
    none = SubscaleConfig(factor=4, horizon=0, channels=5, blocks=0)
    made = Corpus([recording(4, 1)], recordings.config(subscale=none), FRAMES, CONFIG.aux_radius)
    batch = made.batch(np.arange(3))
    assert torch.equal(batch.around, batch.samples)
    assert torch.equal(batch.before[1], batch.samples[0, HOP - ROWS : HOP])


def test_segments_are_whole_columns():
    assert [segment_frames(CONFIG, n) for n in (1, HOP, HOP + 1)] == [1, 1, 2]
    assert [segment_frames(BARE, n) for n in (1, 4, 5, 12)] == [4, 4, 8, 12]
    assert total_frames(BARE, settings(segment=9, warmup=3)) == 16


def test_cut_gives_both_parts_their_own_surroundings():
    batch = corpus(4).batch(np.array([0, 3]))
    first, rest = cut(batch, 1, CONFIG)
    assert first.samples.shape[1] == HOP
    assert torch.equal(torch.cat([first.samples, rest.samples], 1), batch.samples)
    assert torch.equal(first.before, batch.before)
    for row, (index, frame) in enumerate([(0, 0), (1, 2)]):
        samples, at = corpus(4).recordings[index].samples, frame * HOP
        assert_segment(first, row, samples, at, HOP)
        assert_segment(rest, row, samples, at + HOP, 3 * HOP)


@pytest.mark.parametrize("config", [CONFIG, BARE], ids=["conditioned", "bare"])
def test_a_segment_after_its_warm_up_goes_on_like_the_whole(config: ModelConfig):
    hop, frames = config.hop_length, 12 if config is BARE else 4
    one = recording(2 * frames, 4, hop=hop, bins=config.n_mels)
    batch = Corpus([one], config, 2 * frames, config.aux_radius).batch(np.array([0]))
    torch.manual_seed(2)
    model = WaveRNN(config)
    first, rest = cut(batch, frames, config)
    with torch.no_grad():
        expected, last = model(batch)
        found, h = model(first)
        more, end = model(rest, h)
    assert torch.allclose(torch.cat([found, more]), expected, atol=1e-4)
    assert torch.allclose(end, last, atol=1e-5)
    assert h.shape == (ROWS, config.hidden_size)


def test_segments_of_a_batch_do_not_mix():
    batch = corpus().batch(np.array([0, 2, 5]))
    torch.manual_seed(2)
    model = WaveRNN(CONFIG)
    with torch.no_grad():
        together, h = model(batch)
        for i in range(3):
            alone, state_alone = model(Batch(*(part[i : i + 1] for part in batch)))
            assert torch.allclose(together[:, i], alone[:, 0], atol=1e-4)
            assert torch.allclose(h[ROWS * i : ROWS * (i + 1)], state_alone, atol=1e-5)


def test_a_recording_as_one_segment_is_the_utterance():
    one = recording(5, 6, hop=1, bins=0)
    batch = Corpus([Recording("a", one.samples[:4], one.mel)], BARE, 4, 0).batch(np.array([0]))
    for mine, theirs in zip(batch, whole(BARE, one.samples[:4], None), strict=True):
        assert mine.numel() == theirs.numel() == 0 or torch.equal(mine, theirs)


# --- learning ---------------------------------------------------------------------------------


def test_masked_weights_of_the_first_layer_get_no_gradient():
    model = model_of(BARE)
    model.zero_grad()
    random = np.random.default_rng(1)
    losses, _ = model.losses(whole(BARE, random.integers(0, 65536, 64), None))
    (losses.coarse + losses.fine).backward()
    gradient = model.subscale.weight.grad
    assert gradient is not None
    before = torch.ones(ROWS, ROWS).tril(-1).bool()
    moved = (gradient != 0).any(dim=3).transpose(1, 2)  # [row, row seen, channels]
    assert not moved[~before].any()
    assert moved[before].any(dim=1).all()


@pytest.mark.slow
def test_a_short_run_lowers_the_loss_and_a_stopped_one_goes_on_to_the_same_bits(tmp_path):
    numbers = settings(steps=24, warmup=1, batch=8, lr=1e-2)
    finish(trainer(tmp_path / "whole", numbers, CONFIG))
    lines = log(tmp_path / "whole")
    assert lines[-1]["valid_nll"] < lines[2]["valid_nll"] - 0.7  # measured: 0.97
    assert np.mean([line["loss"] for line in lines[-4:]]) < lines[0]["loss"] - 0.7
    stop_at(trainer(tmp_path / "parts", numbers, CONFIG), 6)
    assert state.read(tmp_path / "parts").step == 4
    finish(resumed(tmp_path / "parts"))
    assert log(tmp_path / "parts") == lines
    ours, theirs = ((tmp_path / name / MODEL).read_bytes() for name in ("whole", "parts"))
    assert ours == theirs
    assert OFTEN.checkpoint == 4


def test_the_model_of_a_run_is_the_averaged_one(tmp_path):
    finish(trainer(tmp_path, settings(steps=2), CONFIG))
    config, tensors = weights.read(tmp_path / MODEL)
    assert config == CONFIG
    average = WaveRNN(CONFIG)
    average.load_state_dict(state.read(tmp_path).average)
    assert all(np.array_equal(tensors[n], t) for n, t in average.canonical().items())
    batch = corpus().batch(np.arange(4))
    read = WaveRNN(CONFIG)
    read.load_canonical(tensors)
    with torch.no_grad():
        assert torch.allclose(read(batch)[0], average(batch)[0], atol=1e-3)


# --- where it begins --------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "horizon", "blocks"), [(2, 0, 0), (4, 2, 1), (8, 3, 2)])
def test_the_first_channels_begin_as_the_best_linear_prediction(factor, horizon, blocks):
    """As good on the recording it was measured on as a least-squares fit to that recording."""
    config = cases.subscale_config(factor, horizon, blocks)
    samples = coloured(40_000)[20_000:]  # equally loud throughout
    model = WaveRNN(config)
    model.subscale.set_correlation(subscale.autocorrelation(config.subscale, [samples]))
    first = min(subscale.PREDICTIONS, config.subscale.channels)
    weight = model.subscale.input_weight.detach().double() / subscale.PREDICTION_GAIN
    assert torch.allclose(weight[:, :first], weight[:, :1].expand(-1, first, -1, -1), atol=1e-4)
    assert not weight[0].any()
    u = (samples.astype(np.float64) - 32768.0) / 32768.0
    columns = u[: len(u) // factor * factor].reshape(-1, factor)
    reach = config.subscale.reach
    windows = np.lib.stride_tricks.sliding_window_view(columns, 2 * reach + 1, axis=0)
    inner = columns[reach : len(columns) - reach]
    for row in range(1, factor):
        found = np.einsum("mzd,zd->m", windows, weight[row, 0].numpy())
        heard = windows[:, :row].reshape(len(windows), -1)
        best = heard @ np.linalg.lstsq(heard, inner[:, row], rcond=None)[0]
        error, least = (np.mean((inner[:, row] - p) ** 2) for p in (found, best))
        assert error < 1.03 * least
        assert least < 0.7 * np.mean(inner[:, row] ** 2)


def thermometers(size: int) -> tuple[slice, slice]:
    """Units of the coarse and of the fine half that begin as thermometers of the prediction."""
    return slice(0, size // 4), slice(size // 2, size // 2 + size * 5 // 16)


@pytest.mark.parametrize("mel", [True, False], ids=["conditioned", "bare"])
def test_most_units_begin_as_thermometers_of_the_prediction(mel):
    more = {"n_mels": 5, "hop_length": 16, "aux_size": 3, "aux_channels": 10, "aux_kernel": 3}
    config = cases.subscale_config(4, 1, 0, **(more if mel else {}))
    random = np.random.default_rng(3)
    samples = coloured(256)
    heard = random.standard_normal((5, 16), np.float32) if mel else None
    torch.manual_seed(1)
    model = WaveRNN(config)
    model.subscale.set_correlation(subscale.autocorrelation(config.subscale, [coloured(9_000)]))
    batch = whole(config, samples, heard)
    with torch.no_grad():
        states = model.hidden(batch)[0].double()  # [columns, rows, H]
        prediction = model._rows_before(batch)[:, :, :1].double() / subscale.PREDICTION_GAIN
    c = (torch.from_numpy(samples.astype(np.int64)) >> 8).view(-1, 4, 1) / 127.5 - 1.0
    candidate = 2 * config.hidden_size
    gain = model.gru.w_conditioning.detach().double()[candidate:, -config.subscale.channels :]
    gain = subscale.PREDICTION_GAIN * gain.sum(1)
    theta = -model.gru.b_input.detach().double()[candidate:] / gain
    for units, above in zip(
        thermometers(config.hidden_size), (prediction, prediction - c), strict=True
    ):
        expected = torch.tanh(gain[units] * (above - theta[units]))
        assert (states[:, :, units] - expected).abs().max() < 0.05  # of the state before, at most
        assert (theta[units].diff() > 0).all()
        assert (gain[units] > 1.0).all()
    reach = [128.0 * theta[units].abs().max() for units in thermometers(config.hidden_size)]
    assert reach == pytest.approx([30.0, 0.6])


# --- white samples --------------------------------------------------------------------------------


def coloured(count: int, seed: int = 0) -> np.ndarray:
    """Samples of noise whose neighbours are much alike, with a loud and a quiet half."""
    noise = np.random.default_rng(seed).normal(size=count)
    for i in range(1, count):
        noise[i] += 0.95 * noise[i - 1]
    noise[: count // 2] *= 0.05
    scaled = np.clip(noise * 2000.0 + 32768.0, 0, 65535)
    return scaled.astype(np.uint16)


@pytest.mark.parametrize(("factor", "horizon", "blocks"), [(2, 0, 0), (4, 2, 1), (8, 3, 2)])
def test_what_a_row_hears_is_white(factor, horizon, blocks):
    config = cases.subscale_config(factor, horizon, blocks).subscale
    recordings = [coloured(20_000), coloured(3_000, 1)]
    correlation = subscale.autocorrelation(config, recordings)
    assert correlation[0] == 1.0
    assert correlation[1] == pytest.approx(0.95, abs=0.02)  # loud or quiet
    whitening = subscale.whitening_of(config, correlation).double().numpy()
    columns = 2 * config.reach + 1
    place = (np.arange(factor)[:, None] + factor * np.arange(columns)).reshape(-1)
    covariance = correlation[np.abs(place[:, None] - place)]
    for row in range(factor):
        mine = np.repeat(np.arange(factor), columns) < row
        assert not whitening[row][~mine].any()
        assert not whitening[row][:, ~mine].any()
        own = whitening[row][np.ix_(mine, mine)]
        white = own @ covariance[np.ix_(mine, mine)] @ own
        off = white - np.diag(np.diag(white))
        assert np.abs(off).max(initial=0.0) < 0.05
        assert np.abs(np.diag(white) - 1.0).max(initial=0.0) < 0.05


@every_config
def test_a_model_of_white_samples_is_stored_and_taken_up_as_the_same_function(config):
    model = WaveRNN(config)
    model.subscale.set_correlation(subscale.autocorrelation(config.subscale, [coloured(20_000)]))
    model.load_canonical(trained_weights(config))
    for parameter in model.subscale.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    samples, mel = cases.random_samples(config, 64), cases.mel_for(config, 64)
    batch = whole(config, samples, mel)
    with torch.no_grad():
        logits = model(batch)[0][:, 0].numpy()
    tensors = model.canonical()
    eager = make_eager(config, tensors, "float64")
    assert_same(logits, eager.teacher_forced_logits(samples, mel))
    other = WaveRNN(config)
    other.subscale.set_correlation(subscale.autocorrelation(config.subscale, [coloured(9_000, 5)]))
    other.load_canonical(tensors)
    with torch.no_grad():
        assert_same(other(batch)[0][:, 0].numpy(), logits)


def test_training_measures_its_recordings(tmp_path):
    """The whitening is that of the recordings trained on, and a checkpoint keeps it."""
    one = trainer(tmp_path, settings(steps=1), CONFIG)
    expected = subscale.whitening_of(
        one.config.subscale,
        subscale.autocorrelation(one.config.subscale, [r.samples for r in one._train.recordings]),
    )
    assert torch.equal(one.model.subscale.whitening, expected)
    assert torch.equal(one.average.subscale.whitening, expected)
    assert "subscale.whitening" in one.model.state_dict()
