"""The benchmark of rows, on a toy voice and small models, and what is committed of it."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recordings

from wavernn_fast.subscale import Schedule

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
QUALITY = "subscale_kerstin.json"
LONGER = "subscale_kerstin_4800.json"  # the same runs, gone on with
SPEED = "cpu_xeon_avx512_2cores_subscale.json"


def bench(*arguments: object) -> str:
    """Run benchmarks/subscale.py in this process, which has PyTorch; return what it prints."""
    program, printed = str(ROOT / "benchmarks" / "subscale.py"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [program, *map(str, arguments)])
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # as where it runs by itself
        runpy.run_path(program, run_name="__main__")
    return printed.getvalue()


def committed(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


@pytest.mark.slow
def test_runs_are_trained_alike_and_judged(tmp_path):
    data, runs = recordings.voice(tmp_path / "data", 4, 1.2, 22050), tmp_path / "runs"
    small = ["--factors", "4,1", "--hidden", 32, "--held-out", 1, "--jobs", 1]
    for steps in (1, 2):  # the second goes on where the first ended
        sizes = ["--steps", steps, "--channels", 4, "--samples", 1920]
        bench("train", data, "-o", runs, *small, *sizes)
    asked = ("--temperatures", 1.0, 0.5)
    bench("judge", data, "-o", runs, *asked, "--output", tmp_path / "quality.json")
    rows = json.loads((tmp_path / "quality.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["b1", "b4-f8-c4"]
    assert [len(row["nll_by_row"]) for row in rows] == [1, 4]
    for row in rows:
        assert (row["clips"], row["chosen_on"], row["seeds"]) == (1, 1, [1, 2])
        assert [temperature for temperature, _ in row["tried"]] == [1.0, 0.5]
        assert row["temperature"] == max(row["tried"], key=lambda one: one[1])[0]
        by_row = row["nll_by_row"]
        assert row["nll"] == pytest.approx(sum(by_row) / len(by_row), abs=1e-3)
        assert [step for step, _ in row["valid"]] == [1, 2]
        facts = json.loads((runs / row["name"] / "run.json").read_text())["settings"]
        assert facts["batch"] * facts["segment"] == 1920
    printed = bench("loudness", data, runs / "b4-f8-c4", "--row", 3).splitlines()
    parts = [json.loads(line) for line in printed]
    assert len(parts) == 8
    assert [part["sigma"] for part in parts] == sorted(part["sigma"] for part in parts)
    mean = sum(part["model"] for part in parts) / 8
    assert mean == pytest.approx(rows[1]["nll_by_row"][3], abs=0.1)
    for part in parts:  # of a gaussian with that error
        assert part["linear"] == pytest.approx(1.42 + np.log(part["sigma"]), abs=0.05)


def test_linear_predictions_say_what_each_row_costs_at_best(tmp_path):
    """Of smooth noise: the more neighbours a row has, the less it costs.

    All of it has one spectrum, which both predictions know.
    """
    random = np.random.default_rng(1)
    for number in range(3):
        smooth = np.convolve(random.normal(size=22050), np.hanning(9), mode="same")
        recordings.save(tmp_path / f"{number}.wav", 0.05 * smooth, 22050)
    printed = bench("linear", tmp_path, "--held-out", 1, "--factor", 4).splitlines()
    fixed, mel, alone = map(json.loads, printed)
    assert [fixed["of"], mel["of"], alone["of"]] == ["fixed", "mel", "mel_alone"]
    for found in (fixed, mel, alone):
        nats = found["nll_by_row"]
        assert len(nats) == 4
        assert found["nll"] == pytest.approx(np.mean(nats), abs=0.01)
        assert nats == sorted(nats, reverse=True)
        assert nats[3] < nats[0] - 1.0
    assert mel["nll"] == pytest.approx(fixed["nll"], abs=0.1)
    assert mel["nll"] < alone["nll"] < mel["nll"] + 0.2


def test_speed_is_measured_beside_the_same_cell_and_drawn(tmp_path):
    out, picture = tmp_path / "speed.json", tmp_path / "rows.svg"
    bench("speed", "--sizes", 32, "--seconds", 0.1, 0.4, "--rounds", 2, "--output", out)
    report = json.loads(out.read_text())
    assert [(row["threads"], row["seconds"]) for row in report["rows"]] == [
        (1, 0.1), (1, 0.4), (2, 0.1), (2, 0.4)
    ]  # fmt: skip
    for row in report["rows"]:
        assert len(row["ratios"]) == 2
        assert row["samples_per_s"] > 0
        assert 1.0 < row["samples_per_step"] < 16.0
        assert row["lag_seconds"] == pytest.approx(15 * 40 * 16 / 22050)
    for row in report["predicted"]:
        assert row["predicted"] is True
        assert row["network_hidden"] is False
    bench("draw", RESULTS / QUALITY, out, "-o", picture)
    assert "B = 16" in picture.read_text()


def test_predictions_name_the_teams_that_are_clusters():
    """896 units fit none of at most 8 blocks; where both are possible clusters come out ahead."""
    rows = json.loads(bench("predict", "--sizes", 512, 896, "--seconds", 10))
    assert [(row["hidden_size"], row["cluster"]) for row in rows] == [(512, 1), (512, 8), (896, 1)]
    assert all(row["predicted"] and row["gpu"] == "H200" for row in rows)
    through_l2, cluster, _ = (row["samples_per_s"] for row in rows)
    assert cluster > through_l2
    page = (ROOT / "docs" / "subscale.md").read_text()
    for row in rows:
        assert f"{row['samples_per_s_engine'] / 1e6:.2f} M" in page, row
        assert f"{row['samples_per_s'] / 1e6:.2f} M" in page, row
    assert [row["network_hidden"] for row in rows] == [False, True, False]


def test_the_mel_s_prediction_has_a_price():
    options = ("--sizes", 32, "--seconds", 0.2, "--rounds", 2, "--threads", 1)
    row = json.loads(bench("prediction", *options))
    assert row["hidden_size"] == 32
    assert row["with"] > 0
    assert row["without"] > 0
    assert 0.1 < row["ratio"] < 10.0


def test_what_a_slice_takes_of_python_is_told_by_part():
    took = json.loads(bench("between", "--columns", 16))
    assert took.keys() == {"hear", "pieces", "take"}
    assert all(us > 0 for us in took.values())


def test_committed_rows_are_complete():
    quality, speed = committed(QUALITY), committed(SPEED)
    factors = [row["subscale"]["factor"] if row["subscale"] else 1 for row in quality["rows"]]
    assert factors == [1, 16, 8]
    assert len({(row["steps"], row["hidden_size"], row["clips"]) for row in quality["rows"]}) == 1
    for report in (quality, speed):
        assert report["command"].startswith("python benchmarks/subscale.py")
        assert report["machine"]["cpu"]
    for row in speed["rows"]:
        schedule = Schedule(round(row["seconds"] * 22050 / 240) * 240, 16, 8, 32)
        assert row["samples_per_step"] == pytest.approx(schedule.samples_per_step)


def test_the_page_shows_what_is_committed():
    page = (ROOT / "docs" / "subscale.md").read_text()
    for row in committed(QUALITY)["rows"] + committed(LONGER)["rows"]:
        shown = [f"{row['nll']:.3f}", f"{row['temperature']:g}", f"{row['mel_correlation']:.3f}"]
        assert " | ".join(shown) in page
        assert f"{row['lsd_db']:.2f} | {row['stoi']:.3f} |" in page
    for row in committed(SPEED)["rows"]:
        assert f"{row['samples_per_s']:,.0f}" in page, row
