"""The GPU check where there is no GPU: it says so, lists its parts, leaves JSON, and whatever fails
costs only its own results. What its parts compute is tried on the CPU as far as it goes."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
PARTS = ["build", "exchange", "tests", "sanitize", "speed", "residual", "embedded"]
PARTS += ["sparse", "many", "subscale"]
PARTS += ["baselines", "stages", "ncu"]
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
# A version that knows some of the fields; others cost themselves only.
SMI = """case "$1" in
  --query-gpu=name) echo "Stand-in";;
  --query-gpu=*,*) echo "Field not valid"; exit 2;;
  --query-gpu=clocks.sm) echo "1 MHz";;
  *) exit 2;;
esac"""

sys.path.insert(0, str(BENCHMARKS))

import cases  # noqa: E402
import cuda_driver  # noqa: E402
import exchange  # noqa: E402
import gpu_many  # noqa: E402
import gpu_models  # noqa: E402
import gpu_record  # noqa: E402
import gpu_report  # noqa: E402
import gpu_sparse  # noqa: E402
import gpu_tools  # noqa: E402


@pytest.fixture
def check(tmp_path: Path):
    """Run the check in a copy of the benchmarks with a driver of its own (or none)."""
    root = tmp_path / "root"
    shutil.copytree(BENCHMARKS, root / "benchmarks", ignore=shutil.ignore_patterns("out"))
    programs = tmp_path / "programs"
    programs.mkdir()

    def script(name: str, text: str) -> None:
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)

    script("nvidia-smi", "echo 'no driver here'; exit 9")

    def run(*arguments: str, gpu: bool = False, **environment: str):
        if gpu:
            script("nvidia-smi", SMI)
        env = os.environ | environment
        env |= {"PATH": f"{programs}:{env['PATH']}", "PYTHON": sys.executable}
        env |= {"OUT": str(tmp_path / "out"), "WAVERNN_FAST_LIBCUDA": "/nowhere/libcuda.so"}
        command = ["bash", str(root / "benchmarks/gpu_check.sh"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=400)
        path = tmp_path / "out/gpu_check.json"
        return done, json.loads(path.read_text()) if path.exists() else None

    run.root = root
    return run


def test_without_a_gpu_it_says_so_and_leaves_wellformed_json(check):
    done, result = check()
    assert done.returncode == 3
    assert "No GPU: nvidia-smi: no driver here" in done.stderr
    assert "No GPU: nothing was measured." in done.stdout
    assert list(result["parts"]) == PARTS
    assert {part["state"] for part in result["parts"].values()} == {"not run"}
    assert result["no_gpu"].startswith("nvidia-smi")
    assert result["versions"]["numpy"]


def test_a_dry_run_lists_all_parts_with_limits_and_programs_and_runs_none(check):
    done, result = check("--dry-run", gpu=True)
    assert done.returncode == 0
    listed = [line.split("\t") for line in done.stdout.splitlines() if line.count("\t") == 2]
    assert [name for name, _, _ in listed] == PARTS
    assert all(0 < int(limit) <= 280 for _, limit, _ in listed)
    for name, _, command in listed:
        program = next(word for word in command.split() if word.startswith("benchmarks/"))
        assert (ROOT / program).is_file(), name
    assert {part["state"] for part in result["parts"].values()} == {"not run"}
    assert result["nvidia_smi"] == {"name": "Stand-in", "clocks.sm": "1 MHz"}


def test_an_unknown_part_is_a_usage_error(check):
    done, result = check("spead")
    assert done.returncode == 2
    assert "no part 'spead'; parts: build exchange" in done.stderr
    assert result is None


def test_a_part_that_fails_costs_only_its_own_results(check):
    (check.root / "benchmarks/gpu_stages.py").write_text("raise SystemExit('broken as planted')\n")
    (check.root / "benchmarks/gpu_speed.py").write_text(
        "import sys; from pathlib import Path; import gpu_record\n"
        "with gpu_record.Record('speed', Path(sys.argv[2]), rows=[]) as r:\n"
        "    with r.attempt('one'): raise ValueError('planted')\n"
        "    r['rows'].append({'x': float('nan')}); r.result = 'two of three'\n"
    )
    done, result = check("exchange", "stages", "speed", gpu=True)
    assert done.returncode == 1
    parts = result["parts"]
    assert parts["stages"]["state"] == "failed"
    assert "broken as planted" in parts["stages"]["error"]
    assert parts["exchange"]["state"] == "failed"
    assert "no CUDA driver" in parts["exchange"]["error"]
    assert parts["speed"]["state"] == "failures"
    assert parts["speed"]["failures"] == [{"what": "one", "error": "ValueError: planted"}]
    assert parts["speed"]["rows"] == [{"x": None}]
    assert "two of three (1 failed)" in done.stdout
    assert "broken as planted" in (check.root.parent / "out/gpu_check.log").read_text()


@pytest.mark.slow
def test_a_part_that_hangs_is_stopped_and_keeps_what_it_had(check):
    (check.root / "benchmarks/gpu_speed.py").write_text(
        "import sys, time; from pathlib import Path; import gpu_record\n"
        "with gpu_record.Record('speed', Path(sys.argv[2]), rows=[{'x': 1}]) as r:\n"
        "    time.sleep(90)\n"
    )
    done, result = check("speed", "stages", gpu=True, GPU_CHECK_SECONDS="6")
    assert done.returncode == 1
    assert result["parts"]["speed"]["state"] == "failed"
    assert result["parts"]["speed"]["rows"] == [{"x": 1}]
    assert "stopped after 6 s" in result["parts"]["speed"]["error"]
    assert result["parts"]["stages"]["state"] == "not run"
    assert result["parts"]["stages"]["result"] == "no time left"


# --- the exchange ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_exchange_loops_deliver_every_payload_and_never_hang(tmp_path):
    if not COMPILER:
        pytest.skip("no C++ compiler; the README asks for one")
    program = tmp_path / "exchange_host"
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    folders = [f"-I{ROOT / 'csrc'}", f"-I{BENCHMARKS}"]
    source = ROOT / "tests/exchange_host.cpp"
    subprocess.run([COMPILER, *flags, *folders, source, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": ok\n") == 23


def test_exchange_cases_have_a_kernel_and_fit():
    source = exchange.SOURCE.read_text()
    found = list(exchange.cases())
    assert len(set(found)) == len(found)
    possible = [c for c in found if not c.problem(132, 90)]
    assert {c.transport for c in possible} == {"l2", "none", "sums", "nosums", "cluster", "counted"}
    assert not [c for c in possible if c.problem(132, 80) == "" and c.transport == "cluster"]
    assert {(c.blocks, c.clusters) for c in possible if c.words == 448} >= {(8, 14), (16, 7)}
    for case in possible:
        if case.transport in ("l2", "none"):
            threads = 32 if case.pollers == "one warp" else exchange.THREADS
            assert f"EXCHANGE_L2({case.pairs()})" in source
            assert case.words // 2 % case.pairs() == 0
            assert case.words // 2 // case.pairs() <= threads
            assert 2 * case.replicas * case.words <= exchange.LONGEST
        elif case.transport in ("sums", "nosums"):
            assert f"EXCHANGE_SUMS({case.replicas})" in source
            assert 2 * case.replicas * 256 <= exchange.LONGEST
        else:
            assert f"EXCHANGE_CLUSTER({case.blocks})" in source
        assert case.shared_bytes() <= 48 * 1024


# Whose sources differ: before 7.0, before 8.0, from 8.0 and from 9.0; and the newest.
@pytest.mark.parametrize(
    "arch", [90, *(pytest.param(arch, marks=pytest.mark.slow) for arch in (60, 75, 80, 120))]
)
def test_exchange_compiles_for_old_and_new_targets(arch):
    try:
        compiler = cuda_driver.Nvrtc()
    except cuda_driver.CudaError as error:
        pytest.skip(f"{error}; pip install nvidia-cuda-nvrtc-cu12 brings one")
    if arch < 75 and not compiler.version().startswith("12"):
        pytest.skip(f"NVRTC {compiler.version()} has no sm_{arch} any more")
    image = compiler.compile(exchange.SOURCE, exchange.compile_options(arch))
    assert image[:4] == b"\x7fELF"
    assert (b"exchange_counted_16" in image) == (arch >= 90)


@pytest.mark.parametrize("stall", [False, True])
def test_exchange_asks_the_driver_for_what_it_accepts(stall, tmp_path):
    """Against a stand-in for the driver: every case is launched, and a stall costs its case."""
    if not COMPILER:
        pytest.skip("no C++ compiler; the README asks for one")
    library = tmp_path / "libcuda.so"
    flags = ["-x", "c", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    source = ROOT / "tests/exchange_driver.c"
    subprocess.run([COMPILER, *flags, source, "-o", library], check=True)
    compiled = (
        "import cuda_driver, exchange, sys\n"
        "class Nvrtc:\n"
        "    path = 'none'\n"
        "    def version(self): return '0.0'\n"
        "    def compile(self, source, options): return b'\\x7fELF' + bytes(64)\n"
        "cuda_driver.Nvrtc = Nvrtc\n"
        "exchange.main()\n"
    )
    output = tmp_path / "exchange.json"
    env = os.environ | {"PYTHONPATH": str(BENCHMARKS), "WAVERNN_FAST_LIBCUDA": str(library)}
    [bits] = re.findall(r"kStallWordBits = (\d+)", (ROOT / "csrc/cuda/kernels/args.h").read_text())
    env |= {"STALL": str(3 << int(bits) | 17)} if stall else {}
    command = [sys.executable, "-c", compiled, "--output", str(output), "--repeats", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=400)
    result = json.loads(output.read_text())
    assert done.returncode == int(stall), done.stderr
    possible = [c for c in exchange.cases() if not c.problem(132, 90)]
    clusters = [c for c in possible if c.transport in ("cluster", "counted")]
    assert len(result["rows"]) == len(possible) - (len(clusters) if stall else 0)
    assert len(result["failures"]) == (len(clusters) if stall else 0)
    assert all("block 3 waited in vain for word 17" in f["error"] for f in result["failures"])
    assert {(r["ns_step_device"], r["ticks_step"]) for r in result["rows"]} == {(2.0, 4.0)}
    assert result["summary"]["hop_us"] == 0.0
    assert "MEASURED HOP" in done.stdout


def test_exchange_rows_become_the_hop():
    rows = []
    for blocks, ns in ((56, 700.0), (112, 800.0)):
        case = {"blocks": blocks, "words": 448, "pollers": "all warps", "replicas": 1}
        rows += [
            {"transport": "l2", "ns_step_device": ns} | case,
            {"transport": "none", "ns_step_device": 200.0} | case,
        ]
    case = {"blocks": 56, "words": 256, "pollers": "one warp", "replicas": 1}
    rows += [
        {"transport": "sums", "ns_step_device": 900.0} | case,
        {"transport": "nosums", "ns_step_device": 100.0} | case,
    ]
    exchange.add_hops(rows)
    assert exchange.summary(rows)["gather_hop_ns_by_blocks"] == {"56": 500.0, "112": 600.0}
    assert exchange.summary(rows)["sums_hop_ns_by_blocks"] == {"56": 800.0}
    assert exchange.summary(rows)["hop_us"] == pytest.approx(0.55)
    assert exchange.summary([])["hop_us"] is None


# --- the residual core ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_part_for_residual_models_measures_and_predicts(tmp_path):
    output = tmp_path / "residual.json"
    command = [sys.executable, str(BENCHMARKS / "gpu_residual.py"), "--device", "emu"]
    command += ["--sizes", "32", "--blocks", "20", "--first-steps", "1", "--seconds", "0.01"]
    command += ["--repeats", "1", "--output", str(output)]
    path = os.pathsep.join(str(ROOT / folder) for folder in (".", "benchmarks", "tests"))
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, timeout=400
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    assert record["state"] == "done"
    assert len(record["rows"]) == 6 + 8 + 1
    assert all(row["predicted_samples_per_s"] > 0 for row in record["rows"])
    [stages] = record["stages"]
    assert len(stages["stages"]) == 6
    assert [row["wanted"] for row in record["many"]] == [8, 0, 8, 0, 0, 0]
    assert all(row["streams"] >= 8 and "streams a team" in row["plan"] for row in record["many"])


# --- many streams ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_part_for_many_streams_measures_predicts_and_fills_its_slots(tmp_path):
    """On the emulator, whose times mean nothing."""
    output = tmp_path / "many.json"
    command = [sys.executable, str(BENCHMARKS / "gpu_many.py"), "--device", "emu"]
    command += ["--hidden", "64", "--first-steps", "1", "--seconds", "0.01", "--counts", "2"]
    command += ["--clips", "100", "--torch-streams", "2", "--output", str(output)]
    command += ["--clusters", "64:2", "96:3", "--rounds", "1"]
    path = os.pathsep.join(map(str, (ROOT, BENCHMARKS, ROOT / "tests")))
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, timeout=400
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert [row["wanted"] for row in result["rows"]] == [1, 8, 0]
    for row in result["rows"]:
        assert row["samples_per_s"] == pytest.approx(
            row["samples_per_s_of_a_stream"] * row["streams"]
        )
        rounds = -(-row["streams"] // row["slots"])
        steps_a_second = 1e6 / row["us_per_step"] / rounds
        assert row["samples_per_s"] == pytest.approx(row["streams"] * steps_a_second)
        assert row["predicted_samples_per_s"] > 0
        assert 0 < row["share_of_tensor_floor"] < 1
    assert result["mixed"]["slot_occupancy_of_one_launch"] > 0.7
    assert {row["wanted"] for row in result["stages"]} == {8, 64, 0}
    assert "coarse gates" in result["stages"][0]["stages"]
    assert result["baselines"][0]["batch"] == 2
    assert [(r["hidden"], r["blocks"], r["wanted"]) for r in result["clusters"]] == [
        (64, 2, 128),
        (64, 2, 0),
        (96, 3, 128),
        (96, 3, 0),
    ]
    for row in result["clusters"]:
        assert "every team a cluster" in row["cluster"]["plan"]
        assert "cluster" not in row["L2"]["plan"]
        rates = [row[name]["samples_per_s"] for name in ("cluster", "L2")]
        assert row["ratio"] == pytest.approx(rates[0] / rates[1])
    assert "MEASURED 100 clips" in done.stdout


@pytest.mark.slow
def test_the_part_for_subscale_measures_one_utterance_and_predicts_it(tmp_path):
    """On the emulator, whose times mean nothing; CuPy may not be there, which is told."""
    output = tmp_path / "subscale.json"
    command = [sys.executable, str(BENCHMARKS / "gpu_subscale.py"), "--device", "emu"]
    command += ["--models", "32,64:2,64:3", "--seconds", "0.02", "--rounds", "1"]
    command += ["--places", "host,torch,none"]
    path = os.pathsep.join(map(str, (ROOT, BENCHMARKS, ROOT / "tests")))
    done = subprocess.run(
        [*command, "--output", str(output)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=400,
    )
    assert done.returncode == 1, done.stderr
    result = json.loads(output.read_text())
    rows = [(row["hidden_size"], row["cluster"], row["network"]) for row in result["rows"]]
    assert rows == [(32, 0, "host"), (32, 0, "torch"), (64, 2, "host"), (64, 2, "torch")]
    assert [failure["what"] for failure in result["failures"]] == [
        "32 units, network by none", "64 units, clusters of 2, network by none", "64:3"
    ]  # fmt: skip
    assert ["every team a cluster" in model["plan"] for model in result["models"]] == [False, True]
    for model in result["models"]:
        [predicted] = model["predicted"]
        assert (predicted["cluster"] > 1) == (model["cluster"] > 1)
        assert predicted["samples_per_s"] < predicted["samples_per_s_without_lag"]
        assert model["engine"]["samples_per_s"] > 0
    assert "MEASURED one utterance" in done.stdout


def test_the_floor_of_the_papers_model_is_130_million_samples_a_second():
    engine = gpu_sparse.engine_of(
        (gpu_models.dual(896), cases.random_tensors(gpu_models.dual(896))), "cpu", dtype="fp16"
    )
    assert gpu_many.floor(engine) == pytest.approx(130e6, rel=0.01)


# --- reading what the tools say -------------------------------------------------------------------

STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
NAMES = ["ID", "Process ID", "Kernel Name", "Grid Size", "smsp__inst_executed.sum"]
ROWS = [
    [*NAMES, STALL.format("barrier"), STALL.format("long_scoreboard")],
    ["", "", "", "", "inst", "warp", "warp"],
    ["0", "1", "wavernn_persistent", "(112, 1, 1)", "1,234", "0.5", "2.5"],
]
NCU = "==PROF== Connected to process 1\n" + "\n".join(
    ",".join(f'"{cell}"' for cell in row) for row in ROWS
)


def test_ncu_output_becomes_metrics_and_stalls():
    metrics = gpu_tools.parse_csv(NCU)
    assert metrics["smsp__inst_executed.sum"] == {"value": 1234.0, "unit": "inst"}
    assert metrics["Grid Size"]["value"] == "(112, 1, 1)"
    assert list(gpu_tools.stalls(metrics).items()) == [
        ("long_scoreboard (per_issue_active)", 2.5),
        ("barrier (per_issue_active)", 0.5),
    ]
    assert gpu_tools.parse_csv("==ERROR== no permission") == {}


def test_what_the_sanitizer_is_given_has_been_compiled_before_its_clock_starts(monkeypatch):
    begun = []

    def run(command, seconds):
        begun.append(command)
        return 0, "last samples"

    monkeypatch.setattr(gpu_tools, "run", run)
    monkeypatch.setattr(gpu_tools, "tool", lambda name: name)
    monkeypatch.setattr(gpu_models, "has_clusters", lambda device: True)
    with gpu_record.Record("sanitize", None) as record:
        gpu_tools.sanitize(record, argparse.Namespace(seconds=30))
    watched = [command for command in begun if command[0] == "compute-sanitizer"]
    assert len(watched) == len(gpu_tools.SANITIZED)
    for command in watched:
        model = command[command.index(gpu_tools.SMALL[0]) :]
        assert begun.index(model) < begun.index(watched[0])


def test_sanitizer_output_becomes_a_summary():
    text = (
        "========= COMPUTE-SANITIZER\n1 x 40 steps, last samples [1]\n"
        "========= Error: Race reported between Write access\n"
        "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n"
    )
    found = gpu_tools.sanitizer_summary(text)
    assert found["ran"]
    assert found["summary"] == [
        "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"
    ]
    assert not gpu_tools.sanitizer_summary("Device not supported")["ran"]


def test_records_hold_json_only(tmp_path):
    import numpy as np

    path = tmp_path / "a" / "part.json"
    with gpu_record.Record("part", path, value=np.float32(2), bad=[float("inf")]):
        assert json.loads(path.read_text())["state"] == "running"
    found = json.loads(path.read_text())
    assert (found["state"], found["value"], found["bad"]) == ("done", 2.0, [None])


def test_the_report_shows_the_ratio_to_each_baseline():
    ours = {"model": "dual 896", "dtype": "fp32", "exact": False, "plan": "p"}
    result = {
        "parts": {
            "speed": {"state": "done", "result": "", "rows": [ours | {"samples_per_s": 300.0}]},
            "baselines": {
                "state": "done",
                "result": "",
                "rows": [{"name": "torch", "batch": 1, "samples_per_s": 10.0}],
            },
        }
    }
    assert gpu_report.comparison(result)[-1] == "  torch: 10, ratio 30.0"
    assert result["parts"]["baselines"]["rows"][0]["ratio"] == 30.0
