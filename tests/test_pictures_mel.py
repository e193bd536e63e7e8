"""Pictures of mels: axes, differences, and what the command makes of recordings and arrays."""

from __future__ import annotations

import numpy as np
import pytest
from cli_runner import refused, run
from matplotlib.image import imread
from quick import first_is_quick
from voices import preset_mel, save_speech, save_voice

from wavernn_fast import audio, features, pictures_mel
from wavernn_fast.errors import InputError
from wavernn_fast.pictures import Recording
from wavernn_fast.pictures_mel import Column, column_of, mel_of, plot_columns
from wavernn_fast.presets import get_preset

CONFIG = get_preset("fatchord-raw9").mel
RATE = CONFIG.sample_rate


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been written."""
    found = []
    monkeypatch.setattr(pictures_mel, "save_figure", lambda figure, path: found.append(figure))
    return found


def tone(hz: float, seconds: float = 0.5, gain: float = 0.5) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    return (gain * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def images(figure) -> dict[str, np.ndarray]:
    """Title of a panel -> its image."""
    return {a.get_title(): a.images[0] for a in figure.axes if a.images and a.get_title()}


def test_below_two_recordings_stand_their_mels_and_what_they_differ_by(figures, tmp_path):
    pair = [Recording("a", tone(500), RATE), Recording("b", tone(500, gain=0.25), RATE)]
    plot_columns(tmp_path / "x.png", [column_of(one, CONFIG) for one in pair])
    shown = images(figures[0])
    mels = [features.log_mel(one.wave, CONFIG) for one in pair]
    for name, mel in zip("ab", mels, strict=True):
        np.testing.assert_array_equal(np.asarray(shown[f"mel: {name}"].get_array()), mel)
    assert shown["mel: a"].get_clim() == shown["mel: b"].get_clim()
    [words] = [title for title in shown if title.startswith("second less first")]
    difference = np.asarray(shown[words].get_array())
    np.testing.assert_array_equal(difference, mels[1] - mels[0])
    low, high = shown[words].get_clim()
    assert low == -high == -np.abs(difference).max()
    assert f"{np.abs(difference).mean():.3g}" in words
    assert "correlation" in words


def test_a_mel_lies_in_time_where_its_recording_does(figures, tmp_path):
    click = np.zeros(RATE, np.float32)
    click[RATE // 2] = 1.0
    plot_columns(tmp_path / "x.png", [column_of(Recording("a", click, RATE), CONFIG)])
    image = images(figures[0])["mel: a"]
    left, right, *_ = image.get_extent()
    values = np.asarray(image.get_array())
    frames = np.flatnonzero(values.mean(axis=0) > values.mean())
    seconds = left + (frames + 0.5) / values.shape[1] * (right - left)
    assert seconds.mean() == pytest.approx(0.5, abs=CONFIG.hop_length / RATE)


def test_mels_without_a_convention_are_drawn_over_frames(figures, tmp_path):
    mels = [mel_of(name, preset_mel(n)) for name, n in (("a", 7), ("b", 9))]
    plot_columns(tmp_path / "x.png", [Column(mel=mel) for mel in mels])
    axes = [a for a in figures[0].axes if a.get_xlabel()]
    assert {a.get_xlabel() for a in axes} == {"frame"}
    [difference] = [i for title, i in images(figures[0]).items() if "second" in title]
    assert np.asarray(difference.get_array()).shape == (80, 7)


def test_mels_that_cannot_be_compared_have_no_difference(figures, tmp_path):
    wide = mel_of("b", np.ones((40, 9), np.float32))
    plot_columns(tmp_path / "x.png", [Column(mel=mel_of("a", preset_mel(7))), Column(mel=wide)])
    assert not [title for title in images(figures[0]) if "second" in title]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((80, 0), np.float32), "one frame at least"),
        (np.zeros(80, np.float32), "shape"),
        (np.zeros((80, 3), np.int16), "int16"),
        (np.full((80, 3), np.nan, np.float32), "NaN"),
        (np.zeros((3, 80), np.float32), "transposed"),
        (np.zeros((40, 3), np.float32), "80 bins"),
    ],
)
def test_an_array_that_is_no_mel_is_refused(values, words):
    with pytest.raises(InputError, match=words):
        mel_of("x.npy", values, CONFIG)


def test_a_mel_beside_a_recording_needs_a_convention(tmp_path):
    recording = Recording("a", tone(500), RATE)
    for columns in (
        [],
        [Column()],
        [Column(recording), Column(mel=mel_of("b", preset_mel(3), CONFIG))],
        [Column(recording, mel_of("a", preset_mel(3)))],
    ):
        with pytest.raises(InputError):
            plot_columns(tmp_path / "x.png", columns)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("ending", first_is_quick(["png", "svg"]))
def test_plot_draws_mels_of_recordings_and_of_files(ending, tmp_path):
    speech, voice = save_speech(tmp_path), save_voice(tmp_path)
    np.save(tmp_path / "mel.npy", preset_mel(40))
    drawn = []
    for inputs in (
        (speech, speech, "--preset", "fatchord-raw9"),
        (speech, tmp_path / "mel.npy", "-m", voice),
        (tmp_path / "mel.npy",),
    ):
        out = tmp_path / "made" / f"{len(drawn)}.{ending}"
        result = run("plot", *inputs, "-o", out)
        assert (result.exit_code, result.stdout) == (0, ""), result.stderr
        drawn.append(out)
    if ending == "png":
        shapes = [imread(path).shape for path in drawn]
        assert shapes[0][0] > 900
        assert shapes[0][1] > shapes[2][1]
    else:
        assert all(path.read_bytes().startswith(b"<?xml") for path in drawn)
        again = tmp_path / "again.svg"
        assert run("plot", tmp_path / "mel.npy", "-o", again).exit_code == 0
        assert again.read_bytes() == drawn[2].read_bytes()


def test_plot_refuses_mels_that_it_cannot_draw(tmp_path):
    speech = save_speech(tmp_path)
    np.save(tmp_path / "mel.npy", preset_mel(4))
    np.save(tmp_path / "other.npy", np.ones((5, 6), np.float32))
    out, preset = ("-o", tmp_path / "out.png"), ("--preset", "fatchord-raw9")
    refused(run("plot", speech, tmp_path / "mel.npy", *out), tmp_path, "--preset NAME")
    refused(run("plot", speech, *preset, "-m", "x", *out), tmp_path, "either")
    refused(run("plot", tmp_path / "other.npy", *preset, *out), tmp_path, "other.npy", "80 bins")
    refused(run("plot", speech, "--preset", "none", *out), tmp_path, "none")
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY and then nothing")
    refused(run("plot", tmp_path / "bad.npy", *out), tmp_path, "bad.npy")
    assert not (tmp_path / "out.png").exists()


def test_other_sample_rates_are_resampled_for_the_mel_alone():
    pytest.importorskip("soxr")
    column = column_of(Recording("a", tone(500), 16000), CONFIG)
    assert column.recording.sample_rate == 16000
    wave = audio.resample(tone(500), 16000, RATE)
    np.testing.assert_array_equal(column.mel.values, features.log_mel(wave, CONFIG))
