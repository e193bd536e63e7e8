"""Log-mel spectrograms equal those of librosa and torchaudio; a wrong mel is refused by name."""

from __future__ import annotations

import dataclasses
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from golden.make_mel_golden import CASES, TINY, make_signal
from hypothesis import given, settings
from hypothesis import strategies as st

from wavernn_fast import features, presets
from wavernn_fast.config import MelConfig, ModelConfig
from wavernn_fast.errors import InputError
from wavernn_fast.features import MelRangeWarning, check_mel, log_mel, mel_filterbank, n_frames

GOLDEN = Path(__file__).resolve().parent / "golden"
SMALL = MelConfig(**TINY, f_min=50.0, f_max=4000.0, log="ln")


def golden(name: str) -> np.ndarray:
    with np.load(GOLDEN / f"mel_{name}.npz", allow_pickle=False) as archive:
        return archive["mel"]


def model(n_mels: int = 20, mel: MelConfig | None = SMALL) -> ModelConfig:
    return ModelConfig(
        core="residual",
        hidden_size=32,
        fc_size=32,
        head="softmax",
        n_classes=256,
        sample_rate=mel.sample_rate if mel else 8000,
        hop_length=mel.hop_length if mel else 64 if n_mels else 1,
        n_mels=n_mels,
        mel=mel,
    )


# --- the spectrogram ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_log_mel_equals_the_oracle(name: str) -> None:
    n_samples, config = CASES[name]
    expected = golden(name)
    found = log_mel(make_signal(n_samples, config.sample_rate), config)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    # log values: an absolute error of 1e-5 of the largest is a relative one of the magnitudes
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("case", "preset"),
    [
        ("fatchord", "fatchord-raw9"),
        ("fatchord", "fatchord-mol"),
        ("torchaudio", "torchaudio-ljspeech"),
        ("rtvc", "rtvc"),
        ("geneing", "geneing"),
        ("univoc", "univoc-v0.2"),
        ("univoc_first", "univoc-v0.1"),
    ],
)
def test_preset_is_the_convention_of_its_golden_vectors(case: str, preset: str) -> None:
    mel = presets.get_preset(preset).mel
    assert mel is not None
    assert dataclasses.replace(mel, preset="custom") == CASES[case][1]


def test_golden_vectors_are_not_flat() -> None:
    for name in CASES:
        assert golden(name).std() > 0.1, name


def test_float32_wave_gives_nearly_the_same_mel() -> None:
    n_samples, config = CASES["forwardtacotron"]
    wave = make_signal(n_samples, config.sample_rate)
    np.testing.assert_allclose(
        log_mel(wave.astype(np.float32), config), log_mel(wave, config), atol=1e-3
    )


@settings(max_examples=60, deadline=None)
@given(
    n_samples=st.integers(0, 700),
    center=st.booleans(),
    pad_mode=st.sampled_from(["reflect", "constant"]),
    n_fft=st.sampled_from([64, 63, 250]),
)
def test_frames_counted_are_frames_made(
    n_samples: int, center: bool, pad_mode: str, n_fft: int
) -> None:
    config = dataclasses.replace(
        SMALL, n_fft=n_fft, win_length=50, hop_length=30, center=center, pad_mode=pad_mode, n_mels=8
    )
    mel = log_mel(make_signal(n_samples, 8000), config)
    assert mel.shape == (8, n_frames(n_samples, config))
    assert np.isfinite(mel).all()


def test_an_empty_wave_has_no_frames() -> None:
    assert log_mel(np.zeros(0), SMALL).shape == (20, 0)
    assert n_frames(1, SMALL) == 1


@settings(max_examples=20, deadline=None)
@given(window=st.integers(1, 40))
def test_windows_of_frames_do_not_show(window: int) -> None:
    wave = make_signal(2000, 8000)
    config = dataclasses.replace(SMALL, preemphasis=0.9)
    whole = log_mel(wave, config)
    saved, features.FRAMES_PER_WINDOW = features.FRAMES_PER_WINDOW, window
    try:
        np.testing.assert_allclose(log_mel(wave, config), whole, rtol=1e-6, atol=1e-6)
    finally:
        features.FRAMES_PER_WINDOW = saved


def test_memory_does_not_grow_with_the_length() -> None:
    def peak(seconds: int) -> int:
        wave = np.zeros(8000 * seconds, dtype=np.float32)
        log_mel(wave[:8000], SMALL)
        tracemalloc.start()
        mel = log_mel(wave, SMALL)
        peak = tracemalloc.get_traced_memory()[1] - mel.nbytes
        tracemalloc.stop()
        return peak - wave.size  # one byte a sample: the search for NaN

    assert peak(240) < 1.5 * peak(30)


def test_filters_have_unit_area_or_unit_height() -> None:
    slaney = mel_filterbank(dataclasses.replace(SMALL, n_fft=4096))
    area = slaney.sum(axis=1) * SMALL.sample_rate / 4096
    np.testing.assert_allclose(area, 1.0, atol=0.02)
    plain = mel_filterbank(dataclasses.replace(SMALL, n_fft=4096, mel_norm="none"))
    assert (plain.max(axis=1) <= 1.0).all()
    assert (plain.max(axis=1) > 0.9).all()


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_mel_scale_and_its_inverse_agree(scale: str) -> None:
    hz = np.linspace(0.0, 11025.0, 300)
    np.testing.assert_allclose(
        features.mel_to_hz(features.hz_to_mel(hz, scale), scale), hz, atol=1e-8
    )


def test_a_model_that_tells_no_convention_makes_no_mel() -> None:
    with pytest.raises(InputError, match=r"convention is None, expected a MelConfig; .*preset="):
        log_mel(np.zeros(1000), None)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"win_length": 512}, "win_length"),
        ({"f_max": 4100.0}, "f_max"),
        ({"f_min": 4000.0}, "f_min"),
        ({"floor": 0.0}, "floor"),
        ({"hop_length": 0}, "hop_length"),
        ({"mel_scale": "HTK"}, "mel_scale is .HTK., not one of slaney, htk"),
        ({"mel_norm": None}, "mel_norm is None, not one of slaney, none, sum"),
        ({"log": "log"}, "log is .log., not one of db, ln, log10"),
        ({"pad_mode": "zeros"}, "pad_mode is .zeros., not one of reflect, constant"),
    ],
)
def test_contradicting_convention_is_refused_by_name(change: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        log_mel(np.zeros(1000), dataclasses.replace(SMALL, **change))


@pytest.mark.parametrize(
    ("wave", "word"),
    [
        (np.zeros((2, 100)), "one dimension"),
        (np.zeros(100, dtype=np.int16), "int16"),
        (np.array([0.0, np.nan, np.inf]), "2 values .* first at sample 1"),
    ],
)
def test_bad_wave_is_refused_with_the_reason(wave: np.ndarray, word: str) -> None:
    with pytest.raises(InputError, match=word):
        log_mel(wave, SMALL)


# --- the check of a mel ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("lead", [(), (1,)])
def test_good_mel_becomes_contiguous_float32(dtype: type, lead: tuple) -> None:
    values = np.linspace(-5.0, 0.0, 60).reshape(3, 20).T
    checked = check_mel(values.astype(dtype).reshape(*lead, 20, 3), model())
    assert checked.dtype == np.float32
    assert checked.shape == (20, 3)
    assert checked.flags.c_contiguous
    np.testing.assert_allclose(checked, values, atol=1e-2)


def test_mel_without_frames_is_allowed() -> None:
    assert check_mel(np.zeros((20, 0), np.float32), model()).shape == (20, 0)


def test_square_mel_is_taken_as_it_stands() -> None:
    values = np.linspace(-9.0, 0.0, 400, dtype=np.float32).reshape(20, 20)
    np.testing.assert_array_equal(check_mel(values, model()), values)


@pytest.mark.parametrize(
    ("mel", "words"),
    [
        (np.zeros((7, 20)), "looks transposed.*Pass mel.T"),
        (np.zeros((0, 20)), "looks transposed"),
        (np.zeros((80, 7)), "takes 20 bins"),
        (np.zeros((2, 20, 7)), "generate_batch"),
        (np.zeros(20), r"shape \(20,\)"),
        (np.float32(3.0), r"shape \(\)"),
        (np.zeros((20, 7), dtype=np.int32), "int32"),
        (np.zeros((20, 7), dtype=bool), "bool"),
        (np.zeros((20, 7), dtype=complex), "complex"),
        (np.full((20, 7), "a"), "dtype <U1"),
        (np.full((20, 7), None), "object"),
        ([[1.0, 2.0], [1.0]], "cannot be read as an array"),
    ],
)
def test_wrong_mel_is_refused_with_the_reason(mel: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_mel(mel, model())  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_mel_that_is_not_finite_is_located(value: float) -> None:
    mel = np.zeros((20, 9))
    mel[3, 4] = mel[12, 1] = value
    with pytest.raises(InputError, match=r"2 values .* first at bin 3, frame 4"):
        check_mel(mel, model())


def test_unconditioned_model_says_what_to_pass_instead() -> None:
    with pytest.raises(InputError, match="n_samples"):
        check_mel(np.zeros((20, 3)), model(n_mels=0, mel=None))


@pytest.mark.parametrize("made_for", ["fatchord-raw9", "rtvc", "geneing"])
@pytest.mark.parametrize("spoken_by", ["fatchord-raw9", "rtvc", "geneing"])
def test_mel_of_another_preset_warns_naming_it(made_for: str, spoken_by: str) -> None:
    ours, theirs = presets.get_preset(made_for).mel, presets.get_preset(spoken_by).mel
    assert ours is not None
    assert theirs is not None
    mel = log_mel(make_signal(ours.sample_rate, ours.sample_rate), ours)
    if made_for == spoken_by:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_mel(mel, model(80, theirs))
        return
    with pytest.warns(MelRangeWarning, match=made_for.split("-", maxsplit=1)[0]):
        check_mel(mel, model(80, theirs))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_mel(mel, model(80, theirs), check_range=False)


def test_custom_convention_warns_outside_of_what_audio_can_give() -> None:
    low, high = features.expected_range(SMALL)
    wave = make_signal(4000, 8000) * 100.0  # clipped to a square wave: as loud as audio gets
    loudest = log_mel(np.clip(wave, -1.0, 1.0), SMALL)
    assert low == pytest.approx(np.log(1e-5))
    assert loudest.max() < high
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_mel(loudest, model())
    with pytest.warns(MelRangeWarning, match="custom"):
        check_mel(loudest - 20.0, model())
    with pytest.warns(MelRangeWarning, match="custom"):
        check_mel(loudest + 20.0, model())


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(0, 30),
    columns=st.integers(0, 30),
    dtype=st.sampled_from(["f2", "f4", "f8", "i4", "U1", "O"]),
)
def test_any_matrix_is_checked_or_refused_never_reshaped(
    rows: int, columns: int, dtype: str
) -> None:
    mel = np.zeros((rows, columns), dtype=dtype)
    if rows == 20 and dtype.startswith("f"):
        assert check_mel(mel, model(), check_range=False).shape == (rows, columns)
    else:
        with pytest.raises(InputError):
            check_mel(mel, model(), check_range=False)
