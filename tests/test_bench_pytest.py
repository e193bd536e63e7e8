"""`pytest benchmarks/`: the rows of bench with the statistics of pytest-benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("--sizes", "dual:32,wavenet:32", "--dtypes", "fp32,int8", "--streams", "1,2")
QUICK = ("--seconds", "0.01", "--turns", "3", "-q", "-p", "no:cacheprovider")


def pytest_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A run of its own: not one of the workers that may be running this test."""
    command = [sys.executable, "-m", "pytest", *arguments]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_times_are_of_one_sample_and_every_row_has_its_facts(tmp_path):
    file = tmp_path / "speed.json"
    which = ("--baselines", "numpy,wavenet-numpy", "--benchmark-json", str(file))
    done = pytest_run("benchmarks/", "--benchmark-only", *SMALL, *which, *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["machine_info"]["wavernn_fast"]["cpus_allowed"] >= 1
    rows = {row["name"]: row for row in found["benchmarks"]}
    ends = ("dual:32-1t-1s", "dual:32-1t-2s")
    assert set(rows) == {
        *(f"test_engine[{dtype}-{end}]" for dtype in ("fp32", "int8") for end in ends),
        *(f"test_baseline[numpy-{end}]" for end in ends),
        *(f"test_baseline[wavenet-numpy-wavenet:32-1t-{n}s]" for n in (1, 2)),
    }
    for name, row in rows.items():
        facts, stats = row["extra_info"], row["stats"]
        assert stats["rounds"] == 3
        assert facts["samples_per_s"] == pytest.approx(1.0 / stats["median"])
        expected = facts["samples_per_s"] / facts["floor_samples_per_s"]
        assert facts["share_of_floor"] == pytest.approx(expected)
        assert (facts["logit_error"] is not None) == name.startswith("test_baseline")
        # A time of a whole run of `steps` would be some thousand times as long.
        assert 0 < stats["median"] < 0.01
