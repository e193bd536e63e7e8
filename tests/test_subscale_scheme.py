"""The Subscale scheme: every sample is drawn once and after all that it sees, in as few steps as
the paper says; the picture shows the paper's figure."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runner import refused, run
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from picture_colours import count_colours

from wavernn_fast import pictures_subscale
from wavernn_fast.errors import InputError
from wavernn_fast.subscale import (
    Schedule,
    dependencies,
    fold,
    row_length,
    row_temperature,
    unfold,
)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "subscale.md"
FACTORS = (1, 2, 4, 8, 16)
HORIZONS = (0, 1, 4, 9)
SLICES = (1, 2, 5)

lengths = st.integers(0, 300)
factors = st.sampled_from((*FACTORS, 3, 7))
schedules = st.builds(Schedule, lengths, factors, st.integers(0, 12), st.integers(1, 6))


def grid(*n_samples: int) -> pytest.MarkDecorator:
    """All sizes of schedule, for some lengths."""
    cases = [
        Schedule(n, factor, horizon, slice_columns)
        for n in n_samples
        for factor in FACTORS
        for horizon in HORIZONS
        for slice_columns in SLICES
    ]
    return pytest.mark.parametrize("schedule", cases, ids=str)


def drawn_by_hand(schedule: Schedule) -> list[set[int]]:
    """Samples there after 0, 1, ... steps, counted one by one."""
    done: list[set[int]] = [set()]
    for numbers in schedule.order():
        done.append(done[-1] | set(numbers))
    return done


# --- folding --------------------------------------------------------------------------------------


@given(lengths, factors, st.sampled_from(["float32", "int16", "int32", "complex64", "bool", "U2"]))
def test_folding_and_unfolding_give_back_the_samples(n_samples, factor, dtype):
    samples = (np.arange(n_samples) % 99 + 1).astype(dtype)
    rows = fold(samples, factor)
    assert rows.shape == (factor, -(-n_samples // factor))
    assert rows.dtype == samples.dtype
    assert rows.flags.c_contiguous
    for n in range(n_samples):
        assert rows[n % factor, n // factor] == samples[n]
    again = unfold(rows, n_samples)
    assert again.dtype == samples.dtype
    assert np.array_equal(again, samples)


@given(lengths, factors)
def test_a_row_has_as_many_columns_as_samples_and_zeros_behind_them(n_samples, factor):
    rows = fold(np.ones(n_samples, np.int8), factor)
    assert [row_length(n_samples, factor, s) for s in range(factor)] == rows.sum(axis=1).tolist()
    for s, row in enumerate(rows):
        assert not row[row_length(n_samples, factor, s) :].any()


@pytest.mark.parametrize("factor", [1, 4])
def test_results_are_copies(factor):
    samples = np.arange(8)
    rows = fold(samples, factor)
    joined = unfold(rows, 8)
    joined[:] = -1
    assert (rows >= 0).all()
    rows[:] = -1
    assert (samples >= 0).all()


def test_impossible_sizes_are_refused_in_a_sentence():
    for sizes, word in (
        ((10, 0, 4), "subscale factor"),
        ((10, 8, -1), "horizon"),
        ((10, 8, 4, 0), "slice"),
        ((10, 8, 4, 1, -1), "number of slices ahead is -1"),
        ((-1, 8, 4), "number of samples is -1"),
    ):
        with pytest.raises(InputError, match=word):
            Schedule(*sizes)
    with pytest.raises(InputError, match="factor"):
        fold(np.zeros(3), 0)
    with pytest.raises(InputError, match="one vector"):
        fold(np.zeros((3, 2)), 2)
    for rows, n_samples in ((np.zeros(4), 4), (np.zeros((2, 3)), 7), (np.zeros((0, 3)), 0)):
        with pytest.raises(InputError, match="cannot be joined"):
            unfold(rows, n_samples)
    with pytest.raises(InputError, match="-1"):
        unfold(np.zeros((2, 3)), -1)
    for row in (-1, 8):
        with pytest.raises(InputError, match="numbered from 0 to 7"):
            row_length(10, 8, row)
    for n in (-1, 10):
        with pytest.raises(InputError, match="counted from 0"):
            Schedule(10, 8, 4).step_of(n)
        with pytest.raises(InputError, match="counted from 0"):
            dependencies(n, 8, 4, 10)


# --- the schedule ---------------------------------------------------------------------------------


@grid(0, 1, 5, 16, 77, 128)
def test_every_sample_is_drawn_once_and_the_last_step_draws_one(schedule):
    steps = list(schedule.order())
    assert len(steps) == schedule.n_steps
    assert sorted(n for numbers in steps for n in numbers) == list(range(schedule.n_samples))
    assert not steps or steps[-1]
    for step, numbers in enumerate(steps):
        assert [n % schedule.factor for n in numbers] == sorted(
            {n % schedule.factor for n in numbers}
        )
        for n in numbers:
            assert schedule.step_of(n) == schedule.steps()[n] == step
            assert schedule.column(n % schedule.factor, step) == n // schedule.factor


@grid(1, 5, 77, 128)
def test_all_that_a_sample_sees_is_drawn_before_it_and_before_its_slice(schedule):
    factor, horizon, width = schedule.factor, schedule.horizon, schedule.slice_columns
    steps = schedule.steps()
    for n in range(schedule.n_samples):
        seen = dependencies(n, factor, horizon, schedule.n_samples)
        row, column = n % factor, n // factor
        begins = steps[column // width * width * factor + row]  # step of its slice's first column
        assert (steps[seen] < steps[n]).all()
        assert (steps[seen[seen % factor != row]] < begins).all()


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("width", SLICES)
def test_the_lag_is_no_longer_than_a_slice_needs(horizon, width):
    """The last sample of a slice sees a sample drawn in the very step before the slice begins."""
    schedule = Schedule(400, 4, horizon, width)
    first, last = 4 * 2 * width + 1, 4 * (3 * width - 1) + 1  # of the third slice, in row 1
    seen = dependencies(last, 4, horizon, 400)
    assert max(schedule.steps()[seen[seen % 4 == 0]]) == schedule.step_of(first) - 1


@given(lengths, factors, st.integers(0, 12))
def test_a_sample_sees_its_row_before_it_and_earlier_rows_to_the_horizon(
    n_samples, factor, horizon
):
    """Beside the sets of the rule, written row by row."""
    for n in {0, n_samples // 2, n_samples - 1} & set(range(n_samples)):
        row, column = n % factor, n // factor
        seen = {factor * i + row for i in range(column)}
        for earlier in range(row):
            seen |= {factor * i + earlier for i in range(column + horizon + 1)}
        found = dependencies(n, factor, horizon, n_samples)
        assert found.tolist() == sorted(seen & set(range(n_samples)))


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("horizon", [0, 4, 64, 128])
@pytest.mark.parametrize("columns", [1, 3, 1500])
def test_the_number_of_steps_is_the_papers(columns, horizon, factor):
    expected = columns + (factor - 1) * (horizon + 1)
    assert Schedule(factor * columns, factor, horizon).n_steps == expected


@given(schedules)
def test_the_number_of_steps_ends_with_the_last_sample(schedule):
    steps = schedule.steps()
    assert schedule.n_steps == (max(steps) + 1 if len(steps) else 0)
    assert schedule.n_columns == fold(steps, schedule.factor).shape[1]
    average = schedule.n_samples / schedule.n_steps if schedule.n_samples else 0.0
    assert schedule.samples_per_step == average


@settings(deadline=None)
@given(schedules)
def test_what_is_complete_after_a_step_is_what_counting_finds(schedule):
    everything = range(schedule.n_samples + 1)
    for step, done in enumerate(drawn_by_hand(schedule)):
        assert schedule.complete(step) == next(n for n in everything if n not in done)
    assert schedule.complete(-3) == 0
    assert schedule.complete(schedule.n_steps + 9) == schedule.n_samples


@given(schedules, st.data())
def test_the_beginning_is_there_when_a_shorter_utterance_would_end(schedule, data):
    n_samples = data.draw(st.integers(1, max(1, schedule.n_samples)))
    if n_samples > schedule.n_samples:
        return
    shorter = Schedule(n_samples, schedule.factor, schedule.horizon, schedule.slice_columns)
    assert schedule.complete(shorter.n_steps) >= n_samples > schedule.complete(shorter.n_steps - 1)


@given(schedules)
def test_the_first_column_is_complete_after_as_many_steps_as_is_said(schedule):
    steps, size = schedule.first_column_steps, min(schedule.factor, schedule.n_samples)
    assert schedule.complete(steps) >= size
    assert steps == 0 or schedule.complete(steps - 1) < size


@pytest.mark.parametrize(
    ("seconds", "horizon", "average"),
    [(1, 64, 9.7), (1, 128, 7.0), (5, 64, 14.2), (5, 128, 12.7), (10, 64, 15.0), (10, 128, 14.2)],
)
def test_sixteen_rows_draw_as_many_samples_a_step_as_the_page_says(seconds, horizon, average):
    schedule = Schedule(24000 * seconds, 16, horizon)
    assert round(schedule.samples_per_step, 1) == average
    row = (
        f"| {seconds} s | {horizon} | {schedule.lag} | {schedule.n_steps:,} | {average} |"
        f" {schedule.first_column_steps:,} |"
    )
    assert row in PAGE.read_text().splitlines()


# --- the figure of the paper ----------------------------------------------------------------------


def test_sample_76_of_the_figure_sees_and_stands_beside_what_the_paper_says():
    """The figure counts from 1: its sample 76 is n = 75."""
    schedule = Schedule(128, 8, 4)
    n, (row, column) = 76 - 1, (3, 9)
    assert fold(np.arange(128), 8)[row, column] == n
    assert schedule.lag == 5
    assert Schedule(128, 8, 4, 3).lag == 7
    assert Schedule(128, 8, 4, 3, slices_ahead=1).lag == 10
    assert schedule.n_steps == 16 + 7 * 5
    seen = dependencies(n, 8, 4, 128)
    own = seen[seen % 8 == row] // 8
    assert own.tolist() == list(range(column))
    for earlier in range(row):
        assert (seen[seen % 8 == earlier] // 8).tolist() == list(range(13 + 1))
    assert (seen % 8 <= row).all()
    beside = schedule.samples_at(schedule.step_of(n))
    assert sorted(n + 1 for n in beside) == [37, 76, 115]
    assert [n // 8 for n in beside] == [14, 9, 4]


def test_the_picture_is_the_papers_figure(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures_subscale, "save_figure", lambda f, path: figures.append(f))
    scheme = pictures_subscale.scheme_of(8, 4)
    pictures_subscale.plot_scheme(tmp_path / "x.png", scheme)
    [axes] = figures[0].axes
    numbers = {text.get_position(): text for text in axes.texts}
    assert len(numbers) == 128
    assert [numbers[x, 0].get_text() for x in (0, 1, 15)] == ["1", "9", "121"]
    assert numbers[9, 3].get_text() == "76"
    assert sorted(text.get_text() for text in axes.texts if text.get_weight() == "bold") == [
        "115", "37", "76",
    ]  # fmt: skip
    assert re.search(r"lag of 5 .*51 steps", axes.get_title())
    assert axes.yaxis_inverted()
    [legend] = figures[0].legends
    assert len(legend.get_texts()) == 6
    assert legend.get_texts()[0].get_text() == "sample 76: row 3, column 9"


@pytest.mark.parametrize(("factor", "horizon"), [(8, 4), (1, 4), (2, 0), (16, 9), (3, 16)])
def test_a_cell_of_the_picture_is_what_the_rule_says(factor, horizon):
    scheme = pictures_subscale.scheme_of(factor, horizon)
    schedule, focus = scheme.schedule, scheme.focus
    seen = dependencies(focus, factor, horizon, schedule.n_samples)
    kinds = unfold(scheme.kinds, schedule.n_samples)
    blue = {pictures_subscale._OWN, pictures_subscale._EARLIER}
    assert np.flatnonzero(np.isin(kinds, list(blue))).tolist() == seen.tolist()
    yellow = {*np.flatnonzero(kinds == pictures_subscale._SAME).tolist(), focus}
    assert yellow == set(schedule.samples_at(schedule.step_of(focus)))
    grey = np.flatnonzero(kinds == pictures_subscale._UNSEEN)
    assert (schedule.steps()[grey] < schedule.step_of(focus)).all()
    assert factor < 3 or len(yellow) >= 3


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "horizon"), [(8, 4), (1, 0), pytest.param(64, 0, marks=pytest.mark.slow)]
)
def test_plot_draws_the_scheme(factor, horizon, tmp_path):
    out = tmp_path / "made" / "scheme.png"
    result = run("plot", "--subscale", factor, horizon, "-o", out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert out.read_bytes().startswith(b"\x89PNG")
    pixels = imread(out)[..., :3]
    assert pixels.shape[1] > 600
    assert count_colours(pixels) > 10
    if factor < 64:  # which has so many cells that drawing them takes seconds
        piped = run("plot", "--subscale", factor, horizon, "-o", "-")
        assert piped.stdout_bytes == out.read_bytes()


def test_plot_refuses_schemes_that_nobody_could_read(tmp_path):
    out = tmp_path / "out.png"
    for factor, horizon in ((0, 4), (65, 4), (-1, 4), (8, -1), (8, 17)):
        result = run("plot", "--subscale", factor, horizon, "-o", out)
        refused(result, tmp_path, f"{factor} rows and {horizon} columns", "1 to 64")
    refused(run("plot", "x.wav", "--subscale", 8, 4, "-o", out), tmp_path, "alone", "x.wav")
    refused(run("plot", "-o", out), tmp_path, "--subscale B F")
    refused(run("plot", "--subscale", 8, "four", "-o", out), tmp_path, "four")
    refused(run("plot", "--subscale", 8, 4, "-o", tmp_path / "out.gif"), tmp_path, ".png or .svg")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_scheme_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run("plot", "--subscale", 8, 4, "-o", tmp_path / "out.png")
    refused(result, tmp_path, "wavernn-fast[plot]")


# --- temperatures ---------------------------------------------------------------------------------


def test_rows_are_drawn_at_powers_of_the_temperature_from_one_to_three():
    found = [row_temperature(0.5, row, 5) for row in range(5)]
    assert found == pytest.approx([0.5, 0.5**1.5, 0.25, 0.5**2.5, 0.125])
    assert row_temperature(0.7, 0, 1) == 0.7
    assert [row_temperature(1.0, row, 16) for row in range(16)] == [1.0] * 16


@given(st.floats(min_value=0.0, exclude_min=True, allow_infinity=False), st.integers(2, 16))
def test_no_temperature_of_a_row_is_beyond_what_an_engine_takes(temperature, factor):
    rows = [row_temperature(temperature, row, factor) for row in range(factor)]
    assert rows[0] == temperature
    assert all(0.0 < one < np.inf for one in rows)
    if 1e-9 < temperature < 1e9:
        assert rows == sorted(rows, reverse=temperature < 1.0)
