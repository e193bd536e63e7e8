"""`wavernn-fast bench`: every format parses, every row says where it comes from."""

from __future__ import annotations

import ast
import csv
import io
import json
import sys
from pathlib import Path

import pytest
from cli_runner import run
from voices import save_voice

from wavernn_fast import floors
from wavernn_fast.baselines import BASELINES
from wavernn_fast.baselines.numpy_loop import NumpyLoop
from wavernn_fast.bench import rows, session, tables
from wavernn_fast.cli import bench
from wavernn_fast.machine import allowed_cpus

SHORT = ("--rounds", 2, "--seconds", 0.01, "--threads", 1, "-q")


@pytest.fixture(autouse=True)
def _short_probes(monkeypatch):
    monkeypatch.setattr(floors, "_PROBE_SECONDS", 0.002)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_voice(tmp_path_factory.mktemp("model"))


def test_bench_puts_every_figure_beside_its_floor_and_baseline(tmp_path):
    out = tmp_path / "made" / "results.json"
    sizes = ("--size", "dual:32,residual:32", "--streams", "1,8,2", "--baselines", "torch-eager")
    result = run(
        "bench", *sizes, "--dtype", "fp32,fp16,int8,int8-fast", *SHORT, "--json", "--output", out
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert json.loads(out.read_text()) == report
    engines = [row for row in report["rows"] if row["runner"] == "wavernn_fast"]
    assert len(engines) == 24
    for row in engines:
        rate, batch = row["samples_per_s"], row["streams"] > 1
        assert 0 < row["samples_per_s_p10"] <= rate <= row["samples_per_s_best"]
        assert row["share_of_floor"] == pytest.approx(rate / row["floor_samples_per_s"])
        assert row["ratio_to_eager"] == pytest.approx(rate / row["eager_samples_per_s"])
        assert row["floor"] in row["probes"]
        assert (row["share_of_read"] is not None) == (row["streams"] < 8)
        assert row["share_of_read"] is None or row["share_of_read"] <= row["share_of_floor"]
        assert (row["eager_batch_samples_per_s"] is not None) == batch
        if batch:
            expected = rate / row["eager_batch_samples_per_s"]
            assert row["ratio_to_eager_batch"] == pytest.approx(expected)
            assert row["eager_batch_streams"] in (2, 8)
        expected = rate / row["fastest_baseline_samples_per_s"]
        assert row["ratio_to_fastest"] == pytest.approx(expected)
    for name in ("dual:32", "residual:32"):  # one baseline for all rows of a model
        assert len({r["eager_samples_per_s"] for r in engines if r["model"] == name}) == 1
    assert report["command"].startswith("wavernn-fast bench --size dual:32,residual:32 ")
    assert report["isa"] == [engines[0]["isa"]]
    for fact in ("cpu", "cores", "date", "numpy", "torch", "wavernn_fast"):
        assert report["machine"][fact]
    assert (report["refused"], report["left_out"]) == ([], [])


def test_every_baseline_has_rows_with_the_keys_of_an_engine():
    result = run("bench", "--size", "dual:32", *SHORT, "--baselines", "numpy,torch-eager", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["rows"]
    assert [row["runner"] for row in found] == ["wavernn_fast", "numpy", "torch-eager"]
    for row in found:
        assert set(row) == set(rows.FIELDS)
        assert row["device"] == "cpu"
        assert row["device_name"]
        assert row["n_weights"] > row["macs_per_step"] > 0
        assert len(row["rates"]) == row["rounds"] == 2
        assert row["spread"] >= 0.0
        assert row["share_of_floor"] > 0.0
        baseline = row["runner"] != "wavernn_fast"
        assert (row["logit_error"] is not None) == baseline
    eager = found[2]
    assert eager["ratio_to_eager"] == 1.0
    fastest = max(found[1:], key=lambda row: row["samples_per_s"])
    assert {row["fastest_baseline"] for row in found} == {fastest["runner"]}


def measured_in(style: str) -> tuple[str, str]:
    """Standard output, and the command that it should name."""
    arguments = ("--size", "dual:32", "--streams", "1,2", "--baselines", "numpy")
    result = run("bench", *arguments, *SHORT, "--format", style)
    assert result.exit_code == 0, result.stderr
    said = " ".join(str(part) for part in ("wavernn-fast bench", *arguments, *SHORT))
    return result.stdout, f"{said} --format {style}"


def test_csv_is_read_back_row_by_row():
    text, command = measured_in("csv")
    found = list(csv.DictReader(io.StringIO(text)))
    assert len(found) == 4
    for row in found:
        assert None not in row
        assert set(row) == {*rows.FIELDS, *rows.MACHINE_FIELDS, "command"}
        assert float(row["samples_per_s"]) > 0
        assert sum(float(rate) for rate in row["rates"].split()) / 2 == pytest.approx(
            float(row["samples_per_s"]), rel=1e-4
        )
        probes = dict(part.split("=") for part in row["probes"].split())
        assert float(probes["fma"]) > 0
        assert row["command"] == command
        for fact in ("cpu", "isa", "python", "numpy", "torch", "wavernn_fast", "date"):
            assert row[fact], fact
    assert [row["runner"] for row in found] == ["wavernn_fast"] * 2 + ["numpy"] * 2
    assert [row["logit_error"] == "" for row in found] == [True, True, False, False]


def test_every_line_of_jsonl_stands_alone():
    text, command = measured_in("jsonl")
    found = [json.loads(line) for line in text.splitlines()]
    assert len(found) == 4
    for row in found:
        assert set(row) == {*rows.FIELDS, *rows.MACHINE_FIELDS, "command"}
        assert row["command"] == command
        assert row["cpu"]
        assert len(row["rates"]) == 2


def test_markdown_has_a_table_of_engines_and_one_of_baselines():
    text, _ = measured_in("md")
    engines, baselines, last = text.strip().split("\n\n")
    for table, head in ((engines, "| model | device | dtype |"), (baselines, "| model | baseline")):
        lines = table.splitlines()
        assert lines[0].startswith(head)
        assert set(lines[1]) == {"|", "-"}
        assert len(lines) == 4
        assert len({line.count("|") for line in lines}) == 1
    assert "medians of 2 rounds" in last


def test_what_is_refused_or_left_out_is_said_in_every_format(monkeypatch):
    class Wrong(NumpyLoop):
        name = "wrong"

        def sample(self, *arguments, **options):
            made = super().sample(*arguments, **options)
            return made._replace(logits=None if made.logits is None else made.logits + 1.0)

    monkeypatch.setitem(BASELINES, "wrong", Wrong)
    monkeypatch.setattr(BASELINES["torch-eager"], "packages", ("no_such_package",))
    arguments = ("bench", "--size", "dual:32", *SHORT, "--baselines", "wrong,torch-eager")
    for style in tables.FORMATS:
        result = run(*arguments, "-o", style)
        assert result.exit_code == 0, result.stderr
        assert "refused: wrong, dual:32: its logits are 1.0e+00 away" in result.stderr
        assert "left out: torch-eager: it needs no_such_package: pip install" in result.stderr
        if style == "json":
            report = json.loads(result.stdout)
            assert [row["runner"] for row in report["rows"]] == ["wavernn_fast"]
            assert report["refused"][0]["logit_error"] == pytest.approx(1.0, rel=1e-4)
            assert report["left_out"][0]["runner"] == "torch-eager"
        if style == "md":
            assert "Refused:\n- wrong, dual:32:" in result.stdout
            assert "Left out:\n- torch-eager:" in result.stdout


def test_bench_prints_a_table_and_refuses_nonsense(model, tmp_path):
    result = run("bench", "-m", model, *SHORT, "--no-baseline")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("| model |")
    assert len({line.count("|") for line in lines[:3]}) == 1
    assert "not measured" in lines[2]
    (tmp_path / "file").write_text("in the way")
    for wrong in (
        ("--size", "melgan:3"),
        ("--size", "wavenet:3"),
        ("--size", "dual:32,"),
        ("--threads", "two"),
        ("--dtype", "fp8"),
        ("--device", "tpu"),
        ("--rounds", 0),
        ("--format", "xml"),
        ("--format", "csv", "--json"),
        ("--baselines", "melgan"),
        ("--baselines", "numpy", "--no-baseline"),
        ("--matvec", "--format", "csv"),
        ("--matvec", "--size", "dual:32"),
        ("--output", tmp_path / "file" / "results.json"),
    ):
        result = run("bench", *wrong)
        assert result.exit_code == 2, wrong
        assert result.stdout == ""


def test_without_options_the_whole_table_is_measured(monkeypatch):
    """Every dtype, one thread and all of them, one stream and many, and WaveNet for scale."""
    asked = []

    class Recorder:
        def __init__(self, models, cases, baselines, gpu_cluster):
            asked.append((set(models), cases, baselines))
            assert gpu_cluster == 0

        def measurements(self, rounds):
            return 1

        def measure(self, rounds, seconds, progress):
            asked.append((rounds, seconds))
            return rows.Result(())

    monkeypatch.setattr(session, "Session", Recorder)
    assert run("bench").exit_code == 0
    (names, cases, baselines), timing = asked
    assert names == {"dual:896", "residual:512", "wavenet:512"}
    assert baselines == "default"
    assert timing == (5, bench._FULL_SECONDS)
    threads = sorted({1, allowed_cpus()})
    for name in ("dual:896", "residual:512"):
        assert {(c.dtype, c.threads, c.streams) for c in cases if c.name == name} == {
            (dtype, t, n) for dtype in ("fp32", "fp16", "int8") for t in threads for n in (1, 32)
        }
    assert {c.streams for c in cases if c.name == "wavenet:512"} == {1}
    asked.clear()
    assert run("bench", "--threads", 1, "--no-baseline", "-r", 3).exit_code == 0
    [(names, cases, baselines), timing] = asked
    assert (names, baselines, timing) == ({"dual:896"}, "none", (3, 0.5))
    assert cases == [rows.Case("dual:896", "fp32", 1, 1)]


def test_with_numpy_alone_the_engines_are_measured_and_the_rest_is_listed(monkeypatch):
    """What `pip install .` gives: no package that only baselines need."""
    packages = ("torch", "onnx", "onnxruntime", "threadpoolctl")
    for name in [n for n in sys.modules if n.partition(".")[0] in packages]:
        monkeypatch.delitem(sys.modules, name)
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)
    result = run("bench", "--size", "dual:32", *SHORT, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert [row["runner"] for row in report["rows"]] == ["wavernn_fast"]
    said = {one["runner"]: one["reason"] for one in report["left_out"]}
    assert said["numpy"].endswith('pip install "wavernn-fast[bench]".')
    assert said["torch-eager"] == 'it needs torch: pip install "wavernn-fast[torch]".'
    assert "onnx and onnxruntime" in said["onnx-step"]
    assert "cupy" not in said  # it runs on no processor


def test_a_gpu_has_one_row_whatever_the_threads(monkeypatch):
    options = {"devices": ["cpu", "emu"], "threads": [1, 2], "streams": [1], "dtypes": ["fp32"]}
    found = bench._cases({"dual:32": None}, options, full=False)
    assert [(case.device, case.threads) for case in found] == [("cpu", 1), ("cpu", 2), ("emu", 1)]


def test_what_leaves_nothing_to_measure_is_refused():
    result = run("bench", "--size", "wavenet:16", "--baselines", "none", *SHORT)
    assert result.exit_code == 2, result.exception
    assert "There is nothing to measure: no engine runs these models" in result.stderr


def test_a_digit_that_is_no_number_is_refused():
    result = run("bench", "--size", "dual:32", "--streams", "\u00b2", *SHORT)
    assert result.exit_code == 2, result.exception
    assert "is not a list of numbers such as 1,2,8" in result.stderr


def test_the_help_of_every_benchmark_can_be_printed():
    helps = [
        keyword.value.value
        for path in sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument"
        for keyword in call.keywords
        if keyword.arg == "help" and isinstance(keyword.value, ast.Constant)
    ]
    assert len(helps) > 40
    for text in helps:
        assert text % {"default": 1, "prog": "", "choices": ""}, text  # as argparse does
