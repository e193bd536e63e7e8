"""A subscale voice on a real GPU against the float64 reference, its network on the host and there.

Skipped where there is no GPU; `WAVERNN_FAST_TEST_GPU=emu` as in test_cuda_gpu.py.
"""

from __future__ import annotations

import functools

import cases
import numpy as np
import pytest
import torch
from reference_subscale import run_subscale
from test_cuda_gpu import DEVICE
from test_cuda_gpu import pytestmark as pytestmark  # the same GPU, or the same reason for none
from test_subscale_model import AUX, trained_weights
from test_subscale_voice import forced_logits

from wavernn_fast import Vocoder

CONFIGS = [
    cases.subscale_config(4, 5, 2, n_mels=5, hop_length=16, **AUX),
    cases.subscale_config(16, 3, 1),
    cases.predicted_config(4, 5, 2, 2, hop_length=16, **AUX),
]
SOUNDING = CONFIGS[-1]


@functools.cache
def voice(config):
    return Vocoder(config, trained_weights(config), device=DEVICE)


@pytest.mark.parametrize("config", CONFIGS, ids=cases.case_id)
def test_logits_are_near_those_of_the_reference(config):
    count = 160
    samples, mel = cases.random_samples(config, count), cases.mel_for(config, count)
    expected = run_subscale(config, trained_weights(config), mel, count, forced=samples)["logits"]
    found = forced_logits(voice(config), mel, samples)
    assert np.abs(found - expected).max() <= 2e-2 * np.abs(expected).max()


def test_the_same_seed_gives_the_same_samples_however_asked_for():
    voc, mel = voice(SOUNDING), cases.random_mel(SOUNDING, 40)
    wave = voc.generate(mel, seed=5)
    assert np.array_equal(np.concatenate(list(voc.stream(mel, seed=5))), wave)
    others = [cases.random_mel(SOUNDING, n, seed=n) for n in (3, 17)]
    batch = voc.generate_batch([others[0], mel, others[1]], [1, 5, 2])
    assert np.array_equal(batch[1], wave)


def test_a_mel_on_the_gpu_is_heard_there():
    """Products on a GPU round in another way, so likelihoods are compared, not samples."""
    voc, mel = voice(SOUNDING), cases.random_mel(SOUNDING, 40)
    theirs = torch.from_numpy(mel).to("cuda" if DEVICE == "cuda" else "cpu")
    wave = voc.generate(theirs, seed=5)
    assert wave.device == theirs.device
    target = np.random.default_rng(0).uniform(-0.5, 0.5, len(wave)).astype(np.float32)
    assert voc.score(theirs, target) == pytest.approx(voc.score(mel, target), abs=1e-3)
