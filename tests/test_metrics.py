"""Distances between recordings against exact values and independent computations."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.fft
from voices import preset_mel

from wavernn_fast import features, metrics
from wavernn_fast.config import MelConfig
from wavernn_fast.errors import InputError, MissingDependencyError

RATE = 16000


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).normal(size=int(seconds * rate))


def speechlike(seconds: float, rate: int = RATE) -> np.ndarray:
    """Noise in syllables."""
    t = np.arange(int(seconds * rate)) / rate
    return noise(seconds, 1, rate) * (0.55 - 0.45 * np.cos(2 * np.pi * 4 * t))


# --- correlation ----------------------------------------------------------------------------------


def test_the_correlation_of_a_mel_with_itself_is_one_and_of_silence_none():
    frames = preset_mel(9)
    assert metrics.mel_correlation(frames, frames[:, :7]) == pytest.approx(1.0)
    assert metrics.mel_correlation(frames, 1.0 - frames) == pytest.approx(-1.0)
    assert metrics.mel_correlation(frames, np.zeros_like(frames)) is None
    assert metrics.mel_correlation(frames, frames[:, :0]) is None


# --- log-spectral distance ------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [0.5, 2.0, -0.1])
def test_a_scaled_copy_is_as_far_away_as_its_gain_in_decibels(gain):
    wave = 1000 * noise(1.0)  # no bin comes near the floor
    assert metrics.log_spectral_distance(wave, wave) == 0.0
    expected = abs(20 * np.log10(abs(gain)))
    assert metrics.log_spectral_distance(wave, gain * wave) == pytest.approx(expected, abs=1e-6)


def test_the_log_spectral_distance_is_its_formula_frame_by_frame():
    x, y = noise(0.5, 1), noise(0.4, 2)
    window = np.hanning(1025)[:-1]
    frames = []
    for start in range(0, len(y) - 1023, 256):
        a, b = (abs(np.fft.rfft(w[start : start + 1024] * window)) for w in (x, y))
        frames.append(np.sqrt(np.mean((20 * np.log10(a / b)) ** 2)))
    assert metrics.log_spectral_distance(x, y) == pytest.approx(np.mean(frames))
    assert metrics.log_spectral_distance(y, x) == pytest.approx(np.mean(frames))


def test_silence_counts_as_100_decibels_below_full_scale():
    silence = np.zeros(4096)
    assert metrics.log_spectral_distance(silence, silence) == 0.0
    t = np.arange(8192)
    sine = np.sin(2 * np.pi * 100 * t / 1024)
    picture = metrics.spectrogram(sine)
    assert picture.shape == (513, 29)
    assert picture[100] == pytest.approx(0.0, abs=1e-5)
    assert picture[300] == pytest.approx(-100.0)
    # one bin at 0 dB and its neighbours at -6 dB, against a floor at -100 dB, of 513 bins
    expected = np.sqrt((100.0**2 + 2 * (100 - 20 * np.log10(2)) ** 2) / 513)
    assert metrics.log_spectral_distance(sine, 0 * sine) == pytest.approx(expected, rel=1e-4)


def test_a_signal_shorter_than_a_frame_is_filled_up():
    short = noise(0.01)
    assert len(short) < metrics.N_FFT
    assert metrics.log_spectral_distance(short, short) == 0.0
    padded = np.pad(short, (0, metrics.N_FFT - len(short)))
    assert np.array_equal(metrics.spectrogram(short), metrics.spectrogram(padded))


def test_memory_blocks_do_not_change_a_distance(monkeypatch):
    x, y = noise(1.0, 1), noise(1.0, 2)
    found = []
    for block in (3, 10_000):
        monkeypatch.setattr(metrics, "_FRAMES_AT_ONCE", block)
        found.append(
            (
                metrics.log_spectral_distance(x, y),
                metrics.mel_cepstral_distortion(x, y, RATE),
            )
        )
    assert found[0] == pytest.approx(found[1], rel=1e-12)


# --- mel-cepstral distortion ----------------------------------------------------------------------


def test_equal_and_scaled_recordings_have_no_mel_cepstral_distortion():
    wave = noise(0.5)
    assert metrics.mel_cepstral_distortion(wave, wave, RATE) == 0.0
    assert metrics.mel_cepstral_distortion(wave, 0.3 * wave, RATE) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("rate", [16000, 22050])
def test_the_mel_cepstral_distortion_is_that_of_a_library_dct_of_our_log_mels(rate):
    x, y = noise(0.5, 4, rate), speechlike(0.5, rate)
    convention = MelConfig(
        sample_rate=rate,
        n_fft=1024,
        hop_length=256,
        win_length=1024,
        n_mels=80,
        f_min=0.0,
        f_max=rate / 2,
        power=2.0,
        mel_norm="none",
        center=False,
        log="ln",
        floor=(1e-5 * 256) ** 2,  # log_mel does not divide by half the sum of the window
    )
    cepstra = [
        scipy.fft.dct(features.log_mel(w, convention).astype(np.float64), type=2, axis=0) / 160
        for w in (x, y)
    ]
    difference = (cepstra[0] - cepstra[1])[1:14]
    expected = (10 / np.log(10) * np.sqrt(2 * (difference**2).sum(axis=0))).mean()
    assert expected > 0.5
    assert metrics.mel_cepstral_distortion(x, y, rate) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("order", "share"), [(1, 1.0), (5, 1.0), (13, 1.0), (20, 0.0)])
def test_a_ripple_on_the_mel_scale_distorts_by_its_rms_in_decibels(order, share):
    """A spectrum whose level in dB follows a cosine over the mel scale; above c_13 none counts."""
    random = np.random.default_rng(3)
    spectrum = np.exp(2j * np.pi * random.random(513))
    mels = features.hz_to_mel(np.arange(513) * RATE / 1024)
    band = mels / mels[-1] * 81 - 1 + 0.5  # m + 1/2 of the band centred there
    decibels = 3.0 * np.cos(np.pi * order * band / 80)
    waves = [np.tile(np.fft.irfft(s), 6) for s in (spectrum, spectrum * 10 ** (decibels / 20))]
    found = metrics.mel_cepstral_distortion(*waves, RATE)
    assert found == pytest.approx(share * 3.0 / np.sqrt(2), rel=0.12, abs=0.15)


# --- STOI -----------------------------------------------------------------------------------------


def test_stoi_is_one_for_the_same_speech_and_falls_with_noise():
    speech = speechlike(2.0)
    assert metrics.stoi(speech, speech, RATE) == pytest.approx(1.0)
    values = [metrics.stoi(speech, speech + g * noise(2.0, 5), RATE) for g in (0.3, 1.0, 3.0)]
    assert 1.0 > values[0] > values[1] > values[2] > 0.0


@pytest.mark.parametrize("seconds", [0.001, 0.1, 0.3])
def test_too_little_speech_has_no_stoi_and_no_warning(seconds, recwarn):
    speech = noise(2.0)
    speech[int(seconds * RATE) :] = 0.0
    assert metrics.stoi(speech, speech, RATE) is None
    cut = speech[: int(seconds * RATE)]
    assert metrics.stoi(cut, cut, RATE) is None
    assert metrics.stoi(np.zeros(2 * RATE), speech, RATE) is None
    assert not recwarn.list


def test_without_pystoi_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pystoi", None)
    with pytest.raises(MissingDependencyError, match=r"wavernn-fast\[eval\]"):
        metrics.stoi(noise(1.0), noise(1.0), RATE)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "measure",
    [
        metrics.log_spectral_distance,
        lambda x, y: metrics.mel_cepstral_distortion(x, y, RATE),
        lambda x, y: metrics.stoi(x, y, RATE),
    ],
)
def test_what_is_no_waveform_is_refused(measure):
    wave = noise(0.1)
    for bad in (wave[:0], np.full(2000, np.nan), np.zeros((2, 100)), np.zeros(100, np.int16)):
        for pair in ((wave, bad), (bad, wave)):
            with pytest.raises(InputError):
                measure(*pair)
