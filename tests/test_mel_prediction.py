"""What a mel predicts of samples: as good as the best linear prediction of a process can be.

That it is the normal equations of the contract's spectrum is tested where whole models are held
against the float64 reference (test_subscale_model.py, test_subscale_voice.py).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import cases
import numpy as np
import pytest

from wavernn_fast.config import MelConfig, ModelConfig, OutputConfig
from wavernn_fast.features import log_mel
from wavernn_fast.mel_prediction import ERROR_SCALE, MelPrediction
from wavernn_fast.subscale_config import SubscaleConfig

RATE, ROWS, REACH = 22050, 8, 2
MEL = MelConfig(
    sample_rate=RATE, n_fft=1024, hop_length=240, win_length=1024, n_mels=80, f_min=40.0,
    f_max=11025.0, scale=0.01, offset=1.0,
)  # fmt: skip
TELEPHONE = {"n_fft": 2048, "win_length": 900, "f_min": 0.0, "f_max": 9000.0, "mel_scale": "htk"}
CONVENTIONS = [
    MEL,
    dataclasses.replace(MEL, power=2.0, log="ln", mel_norm="none"),
    dataclasses.replace(MEL, log="log10", mel_norm="sum", scale=1.0, offset=-0.5, ref_db=0.2),
    dataclasses.replace(MEL, preemphasis=0.97, ref_db=20.0),
    dataclasses.replace(MEL, **TELEPHONE),
]


def config_of(mel: MelConfig, deemphasis: float = 0.0) -> ModelConfig:
    return cases.dual_config(
        32, 16, n_mels=mel.n_mels, hop_length=mel.hop_length, sample_rate=RATE, mel=mel,
        output=OutputConfig(deemphasis=deemphasis),
        subscale=SubscaleConfig(
            factor=ROWS, horizon=4, channels=4, blocks=2, prediction_reach=REACH
        ),
    )  # fmt: skip


def noise(pole: float, turn: float, size: float = 0.05, count: int = 60_000) -> Any:
    """Noise with one resonance: x[t] = e[t] + 2 pole cos(turn) x[t - 1] - pole^2 x[t - 2]."""
    white = np.random.default_rng(3).normal(0.0, 1.0, count)
    out = np.zeros(count)
    for t in range(2, count):
        out[t] = white[t] + 2 * pole * np.cos(turn) * out[t - 1] - pole**2 * out[t - 2]
    return size * out / out.std()


def neighbours(samples: Any, row: int) -> Any:
    """What row s hears, by the order of weights: [n, row heard * column heard]."""
    at = np.arange(ROWS)[:, None] - row + ROWS * np.arange(-REACH, REACH + 1)
    padded = np.pad(samples, 100)
    return padded[100 + np.arange(len(samples))[:, None] + at.reshape(-1)]


@pytest.mark.parametrize("mel", CONVENTIONS, ids=["db", "ln", "log10", "emphasis", "htk"])
@pytest.mark.parametrize("deemphasis", [0.0, 0.85])
def test_it_is_nearly_the_best_linear_prediction_and_knows_its_error(mel, deemphasis):
    """Of a stationary process, whose every frame tells the same but for chance."""
    wave = noise(0.9, 0.35)
    drawn = np.append(0.0, wave[1:] - deemphasis * wave[:-1]) * 32768.0
    values = log_mel(wave, mel).astype(np.float64).mean(axis=1)
    found = MelPrediction(config_of(mel, deemphasis)).of(values[None])
    inside = slice(1000, -1000)
    for row in range(ROWS):
        heard = neighbours(drawn, row)[inside, : row * (2 * REACH + 1)]
        target = drawn[inside]
        best, *_ = np.linalg.lstsq(heard, target, rcond=None)
        weights = found.weights[0, row]
        assert not weights[row * (2 * REACH + 1) :].any()
        least = np.std(target - heard @ best)
        error = np.std(target - heard @ weights[: heard.shape[1]])
        assert error <= 1.1 * least
        assert np.exp(found.error[0, row] / ERROR_SCALE) == pytest.approx(error, rel=0.15)


def test_every_frame_stands_for_itself():
    prediction = MelPrediction(config_of(MEL))
    frames = np.random.default_rng(0).uniform(0.1, 0.9, (40, 80))
    whole = prediction.of(frames)
    for first, count in ((0, 1), (3, 7), (39, 1)):
        part = prediction.of(frames[first : first + count])
        for ours, theirs in zip(part, whole, strict=True):
            assert np.array_equal(ours, theirs[first : first + count])
    assert all(len(array) == 0 for array in prediction.of(frames[:0]))


@pytest.mark.parametrize("value", [0.0, 1.0, -1e30, 1e30])
def test_any_numbers_give_numbers(value):
    """Silence, and what is no mel at all: an utterance may sound ill, its neighbours must not."""
    for mel in (MEL, dataclasses.replace(MEL, n_fft=256, win_length=256)):  # with empty filters
        found = MelPrediction(config_of(mel, 0.85)).of(np.full((2, 80), value))
        assert all(np.isfinite(array).all() for array in found)
    edge = np.zeros((1, 80))
    edge[0, 40:] = value
    assert all(np.isfinite(array).all() for array in MelPrediction(config_of(MEL)).of(edge))


def test_silence_is_known_to_a_fraction_of_a_step():
    found = MelPrediction(config_of(MEL)).of(np.zeros((1, 80)))
    assert np.abs(found.weights).max() < 0.1  # rounding is all there is, and nothing tells of it
    assert np.exp(found.error / ERROR_SCALE).max() < 1.0
