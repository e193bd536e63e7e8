"""Pictures: PNG files with something in them, and the command that draws them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runner import refused, run
from matplotlib.image import imread
from picture_colours import count_colours
from quick import first_is_quick
from voices import save_speech

from wavernn_fast import audio, pictures
from wavernn_fast.errors import InputError, MissingDependencyError
from wavernn_fast.pictures import Curve, Recording

RATE = 16000


def tone(seconds: float, hz: float = 2000.0, gain: float = 0.5) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    return (gain * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def colours(path: Path) -> np.ndarray:
    """Pixels [height, width, 3] of a picture."""
    assert path.read_bytes().startswith(b"\x89PNG")
    return imread(path)[..., :3]


def varied(pixels: np.ndarray) -> bool:
    return count_colours(pixels) > 10


# --- recordings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", first_is_quick([0.01, 0.5, 30.0]))
def test_two_recordings_stand_side_by_side(seconds, tmp_path):
    pair = [Recording("a", tone(seconds), RATE), Recording("b", tone(seconds, 500), RATE)]
    pictures.plot_recordings(tmp_path / "two.png", pair)
    pictures.plot_recordings(tmp_path / "one.png", pair[:1])
    two, one = colours(tmp_path / "two.png"), colours(tmp_path / "one.png")
    assert two.shape[1] > one.shape[1] > 300
    half = two.shape[1] // 2
    for pixels in (one, two[:, :half], two[:, half:]):
        assert varied(pixels)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["one.png", "two.png"]


def test_the_spectrogram_shows_a_tone_at_its_frequency_and_both_in_one_scale(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: figures.append(figure))
    pair = [Recording("loud", tone(1.0), RATE), Recording("soft", tone(2.0, gain=0.005), 8000)]
    pictures.plot_recordings(tmp_path / "x.png", pair)
    images = [axes.images[0] for axes in figures[0].axes if axes.images]
    assert len(images) == 2
    assert images[0].get_clim() == images[1].get_clim()
    for image, rate, level in zip(images, (16000, 8000), (-6.0, -46.0), strict=True):
        left, right, low, high = image.get_extent()
        values = np.asarray(image.get_array())
        kilohertz = low + values.mean(axis=1).argmax() / (len(values) - 1) * (high - low)
        assert kilohertz == pytest.approx(2.0 * rate / RATE, abs=0.02)
        assert values.max() == pytest.approx(level, abs=0.1)
        assert 0.0 <= left < 0.1
        seconds = len(pair[0].wave if rate == 16000 else pair[1].wave) / rate
        assert right == pytest.approx(seconds, abs=0.1)


@pytest.mark.slow
def test_odd_names_are_drawn_as_they_are(tmp_path, recwarn):
    for name in ("$a_{b$.wav", "x" * 500, "語.wav", "_hidden"):
        pictures.plot_recordings(tmp_path / "odd.png", [Recording(name, tone(0.1), RATE)])
    assert not recwarn.list
    assert pictures.clip_title("/very/long" * 20 + "/end.wav").endswith("/end.wav")


def test_nothing_to_draw_is_refused(tmp_path):
    path = tmp_path / "x.png"
    for recordings in ([], [Recording("empty", tone(0.0), RATE)]):
        with pytest.raises(InputError):
            pictures.plot_recordings(path, recordings)
    for curves in ([], [Curve("empty", [], [])], [Curve("odd", [1, 2], [1])]):
        with pytest.raises(InputError):
            pictures.plot_curves(path, curves)
    assert not path.exists()


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"wavernn-fast\[plot\]"):
        pictures.plot_recordings(tmp_path / "x.png", [Recording("a", tone(0.1), RATE)])
    result = run("plot", save_speech(tmp_path), "-o", tmp_path / "out")
    refused(result, tmp_path, ".png")
    result = run("plot", save_speech(tmp_path), "-o", tmp_path / "out.png")
    refused(result, tmp_path, "wavernn-fast[plot]")


# --- training logs --------------------------------------------------------------------------------


def write_log(path: Path, *lines: object, end: str = "") -> Path:
    text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    path.write_text(text + end)
    return path


def test_a_training_log_becomes_curves(tmp_path):
    log = write_log(
        tmp_path / "log.jsonl",
        {"config": {"lr": 1}},
        {"step": 10, "loss": 5.0, "lr": 1e-3, "grad_norm": 2.0, "note": "x"},
        "",
        {"step": 20, "loss": 4.0, "lr": True, "samples_per_s": None},
        {"step": 20, "valid_nll": 4.5},
        {"step": 30, "loss": float("nan")},
        [1, 2],
        end='{"step": 40, "lo',
    )
    loss, valid, rate = pictures.read_training_log(log)
    assert (loss.name, list(loss.x), loss.unit) == ("loss", [10, 20, 30], "nats per sample")
    assert list(loss.y[:2]) == [5.0, 4.0]
    assert (valid.name, list(valid.x), list(valid.y)) == ("valid_nll", [20], [4.5])
    assert valid.unit == loss.unit
    assert (rate.name, list(rate.y)) == ("lr", [1e-3])


def test_a_resumed_run_replaces_what_it_does_again(tmp_path):
    steps = [(1, 9.0), (2, 8.0), (3, 7.0), (2, 6.0), (3, 5.0)]
    log = write_log(tmp_path / "log.jsonl", *({"step": s, "loss": y} for s, y in steps))
    [loss] = pictures.read_training_log(log)
    assert (list(loss.x), list(loss.y)) == ([1, 2, 3], [9.0, 6.0, 5.0])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"step": 1, "loss": 2.0}, "{broken", {"step": 2, "loss": 1.0}], "Line 2"),
        ([{"step": 1, "other": 2.0}], "nothing to draw"),
        ([{"loss": 2.0}], "nothing to draw"),
        ([{"step": 1, "loss": float("nan")}], "nothing to draw"),
        (["{broken"], "nothing to draw"),
        (["[" * 100_000, {"step": 1, "loss": 2.0}], "Line 1"),
        ([{"step": 1, "loss": 10**400}], "nothing to draw"),
        ([{"step": 10**400, "loss": 1.0}], "nothing to draw"),
    ],
)
def test_a_log_that_cannot_be_drawn_says_why(lines, words, tmp_path):
    log = write_log(tmp_path / "log.jsonl", *lines)
    refused(run("plot", log, "-o", tmp_path / "out.png"), tmp_path, words, "log.jsonl")
    assert not (tmp_path / "out.png").exists()


def test_curves_of_one_unit_share_a_panel_with_a_legend(tmp_path, monkeypatch):
    figures = []
    save = pictures.save_figure
    monkeypatch.setattr(pictures, "save_figure", lambda f, path: (figures.append(f), save(f, path)))
    curves = [
        Curve("loss", [1, 2, 3], [3.0, 2.0, 1.0], "nats"),
        Curve("lr", [1, 2, 3], [0.1, 0.1, 0.1], "rate"),
        Curve("valid_nll", [2], [2.5], "nats"),
    ]
    pictures.plot_curves(tmp_path / "curves.png", curves, title="run")
    assert varied(colours(tmp_path / "curves.png"))
    top, bottom = figures[0].axes
    assert [line.get_label() for line in top.lines] == ["loss", "valid_nll"]
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["loss", "valid_nll"]
    assert (top.get_ylabel(), bottom.get_ylabel(), bottom.get_xlabel()) == ("nats", "rate", "step")
    assert {axes.get_xscale() for axes in (top, bottom)} == {"linear"}


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_plot_draws_recordings_and_logs(tmp_path):
    speech = save_speech(tmp_path)
    audio.write_wav(tmp_path / "other.wav", tone(0.3), RATE)
    log = write_log(tmp_path / "log.jsonl", {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0})
    sizes = []
    for inputs in ((speech,), (speech, tmp_path / "other.wav"), (log,)):
        out = tmp_path / "made" / f"{len(sizes)}.png"
        result = run("plot", *inputs, "-o", out)
        assert result.exit_code == 0, result.stderr
        assert result.stdout == ""
        assert varied(colours(out))
        sizes.append(colours(out).shape)
    assert sizes[1][1] > sizes[0][1]
    piped = run("plot", speech, "-o", "-")
    assert piped.exit_code == 0
    assert piped.stdout_bytes.startswith(b"\x89PNG")


def test_plot_refuses_what_it_cannot_do(tmp_path):
    speech = save_speech(tmp_path)
    log = write_log(tmp_path / "log.jsonl", {"step": 1, "loss": 2.0})
    out = ("-o", tmp_path / "out.png")
    refused(run("plot", speech, speech, speech, *out), tmp_path, "one or two")
    refused(run("plot", speech, log, *out), tmp_path, "alone")
    refused(run("plot", speech, "-o", tmp_path / "out.pdf"), tmp_path, ".png")
    refused(run("plot", tmp_path / "none.wav", *out), tmp_path, "none.wav")
    refused(run("plot", tmp_path / "none.jsonl", *out), tmp_path, "none.jsonl")
    refused(run("plot", speech, "-o", speech / "out.png"), tmp_path, "folder")
