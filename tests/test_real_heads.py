"""Heads that draw a value from two outputs: a gaussian and a beta, by inversion of one word."""

from __future__ import annotations

import math

import cases
import numpy as np
import pytest
import reference
from engine_work import ISAS, make
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import first_is_quick

from wavernn_fast import _C
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import EngineError
from wavernn_fast.models.eager_residual import _betas, _gaussians
from wavernn_fast.scoring import beta_nll, gaussian_nll

HEADS = ("gaussian", "beta")
WORDS = np.random.default_rng(3).integers(0, 2**32, 400, dtype=np.uint32)
WORDS[:6] = 0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1
ROUNDING = 1.2e-7  # of a float32 in [-1, 1], twice


def drawn(head: str, outputs: tuple[float, float], words: np.ndarray = WORDS, **how) -> np.ndarray:
    rows = np.tile(np.float32(outputs), (len(words), 1))
    return _C.draw_real(head, rows, words, **how).astype(np.float64)


def model(head: str, **fields) -> ModelConfig:
    aux = {"aux_size": 3, "aux_channels": 8, "aux_blocks": 1, "aux_kernel": 3}
    return cases.residual_config(32, 16, head=head, n_classes=2, **(aux | fields))


# --- one draw -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("outputs", [(0.0, -3.0), (0.4, -7.5), (-0.9, -0.5), (0.1, 3.0)])
def test_a_gaussian_draw_is_the_inverse_of_the_error_function(outputs, temperature):
    found = drawn("gaussian", outputs, temperature=temperature)
    mean, log_std = (float(np.float32(o)) for o in outputs)
    expected = [reference.gaussian(mean, log_std, int(w), temperature) for w in WORDS]
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)


# Logarithms of alpha and beta: bells, slopes, two poles, a coin, a needle, far off-centre.
BETAS = [
    *((2.0, 2.0), (0.0, 0.0), (5.0, 1.0), (-1.0, -2.0), (-0.7, -0.7), (-4.0, 3.0), (3.0, -6.0)),
    *((8.0, 8.5), (12.0, 11.0), (12.0, 0.0), (0.3, -9.0), (-8.0, -8.0), (14.0, 14.0)),
]


@pytest.mark.parametrize("temperature", first_is_quick([1.0, 0.3, 2.5]))
@pytest.mark.parametrize("outputs", BETAS)
def test_a_beta_draw_is_the_inverse_of_the_incomplete_beta_function(outputs, temperature):
    found = drawn("beta", outputs, temperature=temperature)
    a, b = (math.exp(float(np.float32(o))) / temperature**2 for o in outputs)
    for x, word in zip(found[:60], WORDS[:60].tolist(), strict=True):
        v = (word + 0.5) / 2**32
        low = reference.beta_quantile(max(v - 1e-6, 0.9 * v), a, b)
        high = reference.beta_quantile(min(v + 1e-6, 1.0 - 0.9 * (1.0 - v)), a, b)
        assert low - ROUNDING <= x <= high + ROUNDING


@pytest.mark.parametrize("outputs", [(-18.9, 22.0), (-20.0, 46.5), (-12.0, 88.0)])
def test_a_beta_with_all_its_mass_at_one_end_draws_that_end(outputs):
    """One parameter is less than the rounding of their sum."""
    assert (drawn("beta", outputs) == -1.0).all()
    assert (drawn("beta", outputs[::-1]) == 1.0).all()


def test_the_oracle_of_beta_integrates_the_density():
    """The continued fraction of reference.py against a sum over the density, both by hand."""
    for a, b in ((2.0, 3.5), (1.0, 1.0), (30.0, 4.0)):
        y = (np.arange(200_000) + 0.5) / 200_000
        density = y ** (a - 1) * (1 - y) ** (b - 1)
        cumulative = np.cumsum(density) / density.sum()
        for edge in (10_000, 100_000, 170_000):
            t = math.log(edge / (200_000 - edge))
            assert reference.beta_cdf(t, a, b) == pytest.approx(cumulative[edge - 1], abs=1e-8)


@pytest.mark.parametrize("outputs", [(2.0, 1.0), (0.0, 0.0), (-1.0, -0.5), (6.0, 5.0)])
def test_beta_draws_have_the_quantiles_of_a_large_sample(outputs):
    """numpy draws betas by rejection: nothing is shared with an inversion."""
    n = 200_000
    words = np.random.default_rng(1).integers(0, 2**32, 20_000, dtype=np.uint32)
    found = np.sort(drawn("beta", outputs, words))
    sample = 2.0 * np.random.default_rng(2).beta(*np.exp(outputs), n) - 1.0
    ranks = np.searchsorted(np.sort(sample), found) / n
    gap = np.abs(ranks - (np.arange(len(found)) + 0.5) / len(found)).max()
    assert gap < 1.95 * math.sqrt(1 / len(found) + 1 / n)  # Kolmogorov-Smirnov, one in a thousand
    shifted = np.searchsorted(np.sort(sample), found + 0.1) / n
    assert np.abs(shifted - (np.arange(len(found)) + 0.5) / len(found)).max() > 0.02  # it can tell


@settings(max_examples=150, deadline=None)
@given(
    log_a=st.floats(-90, 90, width=32),
    log_b=st.floats(-90, 90, width=32),
    temperature=st.floats(1e-30, 1e30),
)
def test_a_beta_draw_rises_with_the_word_and_stays_in_range(log_a, log_b, temperature):
    words = np.sort(WORDS[:40])
    found = drawn("beta", (log_a, log_b), words, temperature=temperature)
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 1.0
    assert (np.diff(found) >= -ROUNDING).all()


@pytest.mark.parametrize("head", HEADS)
def test_a_cold_draw_is_the_greedy_one_to_the_bit(head):
    for outputs in ((0.3, -2.0), (1.0, 4.0), (-3.0, 2.0)):
        greedy = drawn(head, outputs, greedy=True)
        assert np.array_equal(drawn(head, outputs, temperature=1e-38), greedy)
        assert np.ptp(drawn(head, outputs)) > 0.0 == np.ptp(greedy)


def test_the_temperature_multiplies_the_deviation():
    words = np.random.default_rng(5).integers(0, 2**32, 20_000, dtype=np.uint32)
    for head, outputs in (("gaussian", (0.1, -4.0)), ("beta", (6.0, 5.0))):
        one, half = (drawn(head, outputs, words, temperature=t) for t in (1.0, 0.5))
        assert half.std() / one.std() == pytest.approx(0.5, rel=0.02)
        assert half.mean() == pytest.approx(one.mean(), abs=0.02 * one.std())


# --- in the engine --------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("head", HEADS)
def test_the_engine_draws_what_the_reference_draws(head, isa):
    """Free running: values are fed back, so both follow the same samples up to rounding."""
    config, n = model(head), 60
    tensors, frames = cases.random_tensors(config), cases.mel_for(config, n)
    free = reference.run(config, tensors, frames, n_steps=n, seed=8)
    from wavernn_fast.conditioning import Conditioner

    interp, hold = Conditioner(config, tensors).window(frames, 0, frames.shape[1])
    engine = make(config, tensors, isa=isa)
    assert engine.draws_per_step == config.draws_per_step == 1
    samples = engine.run([engine.open(8)], [n], [interp], [hold])[0][0]
    assert samples.dtype == np.float32
    assert np.abs(samples - free["samples"]).max() < 1e-3  # 1e-6 at first, and chaos after it
    assert np.abs(samples - free["samples"])[:20].max() < 2e-5
    assert samples.std() > 0.05


@pytest.mark.parametrize("head", HEADS)
def test_a_logit_that_is_not_finite_is_named(head):
    config = model(head, aux_size=0, n_mels=0, hop_length=1)
    tensors = cases.random_tensors(config)
    tensors = {k: v * np.float32(1e30) if "fc" in k else v for k, v in tensors.items()}
    engine = make(config, tensors)
    with pytest.raises(EngineError, match="stream 0 is not finite at step 0"):
        engine.run([engine.open(0)], [3], [None], [None])


def test_two_outputs_are_asked_for():
    with pytest.raises(Exception, match="a beta head has 2 outputs, not 30"):
        cases.residual_config(32, 16, head="beta", n_classes=30)


# --- PyTorch twin and scores ----------------------------------------------------------------------


@pytest.mark.parametrize(("head", "outputs"), [("gaussian", (0.2, -1.0)), ("beta", (1.0, 0.5))])
def test_the_pytorch_twin_draws_the_same_distribution(head, outputs):
    import torch

    n = 20_000
    words = np.random.default_rng(7).integers(0, 2**32, n, dtype=np.uint32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        draw = _gaussians if head == "gaussian" else _betas
        theirs = np.sort(draw(torch.tensor([outputs]).expand(n, -1)).numpy())
    ours = np.sort(drawn(head, outputs, words))
    ranks = np.searchsorted(theirs, ours) / n
    inside = np.abs(ours) < 1.0
    assert np.abs(ranks - (np.arange(n) + 0.5) / n)[inside].max() < 1.95 * math.sqrt(2 / n)


EVERY_BIN = np.arange(65536) / 32767.5 - 1.0


@pytest.mark.parametrize(
    ("nll", "outputs"),
    [
        *((gaussian_nll, o) for o in ((0.1, -3.0), (0.999, -2.0), (0.3, -9.0), (-1.5, -1.0))),
        *first_is_quick((beta_nll, o) for o in (*BETAS, (40.0, 39.0), (25.0, 25.0))),
    ],
)
def test_the_probabilities_of_all_16_bit_values_sum_to_one(nll, outputs):
    rows = np.tile(np.array(outputs, np.float64), (65536, 1))
    assert np.exp(-nll(rows, EVERY_BIN)).sum() == pytest.approx(1.0, abs=3e-6)


@pytest.mark.parametrize("outputs", [(2.0, 2.0), (-1.0, -2.0), (5.0, 0.5), (8.0, 8.3)])
def test_a_beta_score_is_a_difference_of_its_distribution_function(outputs):
    a, b = np.exp(outputs)
    for x in (EVERY_BIN[0], EVERY_BIN[1], 0.1, 0.6, EVERY_BIN[-1]):
        low, high = (min(max(0.5 * (1 + x + side / 65535), 0.0), 1.0) for side in (-1, 1))
        ends = [
            math.log(y / (1 - y)) if 0 < y < 1 else math.copysign(700, y - 0.5) for y in (low, high)
        ]
        mass = reference.beta_cdf(ends[1], a, b) - reference.beta_cdf(ends[0], a, b)
        if mass < 1e-8:
            continue  # the difference has lost its digits
        found = beta_nll(np.array([outputs]), np.array([x]))[0]
        assert found == pytest.approx(-math.log(mass), abs=1e-6)


def test_samples_are_as_likely_as_the_outputs_promise():
    """The mean surprise of draws is the entropy of the bins, for both heads."""
    words = np.random.default_rng(9).integers(0, 2**32, 20_000, dtype=np.uint32)
    for head, nll, outputs in (
        ("gaussian", gaussian_nll, (0.1, -2.0)),
        ("beta", beta_nll, (1.0, 0.7)),
    ):
        rows = np.tile(np.array(outputs), (65536, 1))
        bits = nll(rows, EVERY_BIN)
        entropy = float((np.exp(-bits) * bits).sum())
        surprise = nll(rows[: len(words)], drawn(head, outputs, words))
        assert abs(surprise.mean() - entropy) < 4 * surprise.std() / math.sqrt(len(words))
