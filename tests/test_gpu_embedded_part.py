"""The parts of the GPU check for models of the embedded core and for all heads, on the emulator.

Times mean nothing there; which rows there are, and how they are compiled ahead, does.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gpu_embedded  # noqa: E402
import gpu_models  # noqa: E402
import gpu_residual  # noqa: E402
import gpu_small  # noqa: E402
import gpu_tools  # noqa: E402

from wavernn_fast import _C  # noqa: E402

EMBEDDED = Namespace(
    device="emu", sizes=gpu_embedded.SIZES, labels=gpu_embedded.LABELS, blocks=gpu_embedded.BLOCKS
)
RESIDUAL = Namespace(device="emu", sizes=[512, 128], blocks=gpu_residual.BLOCKS)


def test_the_part_for_embedded_models_measures_and_predicts(tmp_path):
    output = tmp_path / "embedded.json"
    command = [sys.executable, str(BENCHMARKS / "gpu_embedded.py"), "--device", "emu"]
    command += ["--sizes", "64,48", "--labels", "128", "64", "--blocks", "6", "--first-steps", "4"]
    command += ["--seconds", "0.01", "--repeats", "1", "--output", str(output)]
    path = os.pathsep.join(str(ROOT / folder) for folder in (".", "benchmarks", "tests"))
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, timeout=400
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    assert (record["part"], record["state"], record["failures"]) == ("embedded", "done", [])
    rows = record["rows"]
    names = ["embedded 64, 128 labels"] * 2 + ["embedded 64, 64 labels"] * 2
    assert [row["model"] for row in rows] == names + ["embedded 64, 128 labels"] * 2
    assert [row["dtype"] for row in rows] == ["fp32", "fp16"] * 2 + ["fp32"] * 2
    assert [row["exact"] for row in rows] == [False] * 4 + [True, False]
    assert rows[-1]["blocks"] == 6
    for row in rows:
        share = row["samples_per_s"] / row["predicted_samples_per_s"]
        assert row["share_of_prediction"] == pytest.approx(share)
    [stages] = record["stages"]
    assert list(stages["stages"]) == ["gates", "p", "logits", "draw"]
    assert record["result"].startswith("embedded 64, 128 labels, fp32: ")
    assert [(row["model"], row["wanted"]) for row in record["many"]] == [
        (name, streams) for name in (names[0], names[-1]) for streams in (8, 0)
    ]
    for row in record["many"]:
        assert row["samples_per_s_in_all"] == row["streams"] * row["samples_per_s"]
        assert "a block" in row["plan"]
    assert done.stdout.count("MEASURED") == len(rows) + 4


@pytest.mark.parametrize(
    ("module", "asked"), [(gpu_embedded, EMBEDDED), (gpu_residual, RESIDUAL)], ids=["emb", "res"]
)
def test_every_row_has_a_plan_on_the_gpus_that_are_rented(module, asked, monkeypatch):
    for gpu in ("A100", "H200"):
        limits = _C.known_gpu(gpu)
        monkeypatch.setattr(_C, "cuda_devices", lambda limits=limits: [limits])
        for job in module.wanted(Namespace(**vars(asked) | {"device": "cuda"})):
            plan = _C.gpu_plan(job.fields(), gpu=gpu, **job.asked)
            assert plan["samples_per_s"] > 0, (gpu, job.model)


def test_a_gpu_is_asked_for_no_more_blocks_than_it_has_room_for(monkeypatch):
    monkeypatch.setattr(_C, "cuda_devices", lambda: [{"multiprocessors": 64}])
    assert gpu_models.that_fit((32, 43, 64, 65, 128), "cuda") == [32, 43, 64]
    assert gpu_models.that_fit((128, 133), "emu") == [128]


def test_all_heads_have_rows():
    rows = {(job.model, job.asked["dtype"]) for job in gpu_residual.wanted(RESIDUAL)}
    for head in ("gaussian", "beta", "4 bands of 512 labels", "512 labels, mu-law undone"):
        assert {(f"residual 512, {head}", dtype) for dtype in ("fp32", "fp16")} <= rows
    feedback = {job.config.feedback for job in gpu_residual.wanted(RESIDUAL)}
    assert feedback == {"linear", "mu_law"}


def test_kernels_are_compiled_ahead_in_shares_that_together_are_all(monkeypatch):
    jobs, commands = gpu_embedded.wanted(EMBEDDED), []
    monkeypatch.setattr(gpu_models, "workers", lambda: 3)
    monkeypatch.setattr(gpu_models, "side_by_side", commands.extend)
    monkeypatch.setattr(sys, "argv", ["gpu_embedded.py", "--repeats", "1"])
    gpu_models.compile_ahead(jobs, "cuda")
    assert all(
        command[1:5] == ["gpu_embedded.py", "--repeats", "1", "--compile"] for command in commands
    )
    numbers = sorted(int(n) for command in commands for n in command[5].split(","))
    assert (len(commands), numbers) == (3, list(range(len(jobs))))
    commands.clear()
    gpu_models.compile_ahead(jobs, "emu")  # has nothing to compile
    assert commands == []


def test_a_share_makes_its_engines_and_goes_on_after_a_refusal(capsys):
    options = Namespace(sizes="32,16", labels=[16], blocks=[100], device="emu")
    jobs = gpu_embedded.wanted(options)
    made = []

    class Job(gpu_models.Job):
        def voice(self, device):
            made.append(self.asked)
            return super().voice(device)

    jobs = [Job(job.model, job.config, job.asked) for job in jobs]
    gpu_models.compile_share(jobs, f"{len(jobs) - 1},0", "emu")
    assert made == [jobs[-1].asked, jobs[0].asked]
    assert "blocks is 100, expected 1 to 32" in capsys.readouterr().err


def test_every_file_of_tests_for_a_gpu_is_run():
    """Those that import the mark were left out once."""
    found = {path.name for path in gpu_tools.of_a_gpu(sorted((ROOT / "tests").glob("test_*.py")))}
    kernels = ("gpu", "many", "many_units", "residual", "sparse", "subscale", "embedded")
    assert found >= {f"test_cuda_{kernel}.py" for kernel in kernels}
    assert "test_cuda_driver.py" not in found  # needs none


@pytest.mark.parametrize(
    ("core", "many", "clusters", "runs", "said"),
    [
        ("residual", False, False, 2, "W2 in registers"),
        ("residual", True, False, 2, "W2, R1, R2: "),
        ("embedded", False, False, 2, "gate inputs of labels"),
        ("embedded", True, False, 2, "streams a team"),
        ("dual", True, False, 2, "units of each half"),
        ("residual", True, True, 1, "every team a cluster"),
        ("embedded", True, True, 1, "every team a cluster"),
        ("dual", True, True, 3, "every team a cluster"),
    ],
)
def test_the_sanitizer_is_given_models_of_every_core(
    core, many, clusters, runs, said, monkeypatch, capsys
):
    asked = [
        flags
        for _, flags in gpu_tools.SANITIZED.values()
        if (core in flags or (core == "dual" and "--core" not in flags))
        and ("--streams" in flags) == many
        and ("--cluster" in flags) == clusters
    ]
    assert len(asked) == runs
    command = ["gpu_small.py", "--device", "emu", *asked[0], "--steps", "2"]
    monkeypatch.setattr(sys, "argv", command)
    gpu_small.main()
    assert "1 x 2 steps, last samples [" in (shown := capsys.readouterr().out)
    assert "fp16" in shown
    assert said in shown


def test_the_page_has_the_limit_of_every_part():
    page = (ROOT / "docs/gpu-check.md").read_text()
    limits = dict(re.findall(r"(\w+)\) echo (\d+) ;;", (BENCHMARKS / "gpu_check.sh").read_text()))
    assert len(limits) == 13
    assert dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.M)) == limits
    calls = re.findall(r"GPU_CHECK_SECONDS=570 OUT=\S+ benchmarks/gpu_check\.sh (.+)", page)
    assert sorted(" ".join(calls).split()) == sorted(limits)
    assert all(sum(int(limits[part]) for part in call.split()) <= 580 for call in calls)
