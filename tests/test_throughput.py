"""The benchmarks of many streams, on a model that takes no time, and what is committed of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MIXED = "cpu_xeon_avx512_2cores_mixed_lengths.json"
STREAMS = "cpu_xeon_avx512_2cores_throughput.json"


def bench(name: str, *arguments: object) -> str:
    """Run a program of benchmarks/ and return what it prints."""
    command = [sys.executable, str(ROOT / "benchmarks" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mixed_and_equal_lengths_have_the_same_samples(tmp_path):
    out = tmp_path / "mixed.json"
    short = ("--size", "dual-mel:32", "--dtype", "fp32", "--utterances", 40, "--rounds", 2)
    printed = bench("mixed_lengths.py", *short, "--streams", 8, "--output", out)
    report = json.loads(out.read_text())
    assert [(row["dtype"], row["threads"]) for row in report["rows"]] == [("fp32", 1), ("fp32", 2)]
    for row in report["rows"]:
        mixed, equal = row["mixed"], row["equal"]
        assert (mixed["utterances"], equal["utterances"]) == (40, 8)
        assert mixed["longest_samples"] > 2 * mixed["samples"] / 40
        assert (
            equal["longest_samples"] <= equal["samples"] / 8 + 2 * 64
        )  # a frame each, and the cut
        assert mixed["samples"] == sum(round_["samples"] for round_ in mixed["rounds"]) / 2
        assert abs(mixed["samples"] - equal["samples"]) <= 64 * 40  # one frame an utterance is cut
        assert len(row["ratios"]) == 2
        assert f"{row['ratio']:.1%}" in printed
    assert "--size dual-mel:32" in report["command"]


@pytest.mark.slow
def test_throughput_is_measured_and_drawn(tmp_path):
    out, picture = tmp_path / "rows.json", tmp_path / "rows.svg"
    short = ("--size", "dual-mel:32", "--dtype", "fp32", "--threads", 1, "--seconds", 0.02)
    bench("throughput.py", *short, "--streams", "1,4", "--rounds", 2, "--output", out)
    rows = json.loads(out.read_text())["rows"]
    assert [row["streams"] for row in rows] == [1, 4]
    for row in rows:
        assert row["x_realtime_stream"] * row["streams"] == pytest.approx(row["x_realtime"])
        assert row["chunk_seconds"] == pytest.approx(0.05 / row["x_realtime_stream"])
        assert 0.0 < row["engine_share"] < 1.0
    bench("throughput.py", "--draw", picture, out)
    assert "CPU, fp32, 1 thread" in picture.read_text()


def test_what_is_committed_reaches_the_bar_and_stands_in_the_docs():
    text = (ROOT / "docs" / "throughput.md").read_text()
    mixed = json.loads((RESULTS / MIXED).read_text())
    rows = {(row["dtype"], row["threads"]): row for row in mixed["rows"]}
    assert set(rows) == {(d, t) for d in ("fp32", "int8") for t in (1, 2)}
    for row in rows.values():
        assert row["ratio"] >= 0.95
        assert row["mixed"]["occupancy"] >= 0.95
        assert f"{row['mixed']['samples_per_s']:,.0f}" in text
        assert f"{row['ratio']:.1%}" in text
    streams = json.loads((RESULTS / STREAMS).read_text())
    for row in streams["rows"]:
        assert f"{row['samples_per_s']:,.0f}" in text
    for report in (mixed, streams):
        assert report["command"] in text
    ElementTree.parse(ROOT / "docs" / "throughput.svg")
