"""The commands about models and machines: convert, inspect, verify, bench, doctor."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import checkpoint_builders
import numpy as np
import pytest
from cli_runner import run
from voices import DTYPES, preset_mel, save_voice

from wavernn_fast import _C, benchmark, floors
from wavernn_fast.synthetic import random_model
from wavernn_fast.vocoder import Vocoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_voice(tmp_path_factory.mktemp("model"))


# --- convert, inspect, verify ---------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    state = checkpoint_builders.fatchord(n_mels=80, scales=(5, 5, 11))
    return checkpoint_builders.save(tmp_path / "latest.pyt", state)


def test_a_converted_model_sounds_like_the_checkpoint(checkpoint, tmp_path):
    target = tmp_path / "voice.safetensors"
    result = run("convert", checkpoint, "-o", target, "--verify", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["bytes"] == target.stat().st_size
    assert facts["verified"]["difference"] <= facts["verified"]["tolerance"]
    frames = preset_mel(4)
    expected = Vocoder.from_pretrained(checkpoint).generate(frames)
    assert np.array_equal(Vocoder.from_pretrained(target).generate(frames), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.pyt", "voice.safetensors"]


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_files_are_half_as_large_and_verified(dtype, checkpoint, tmp_path):
    for kind in ("fp32", dtype):
        target = tmp_path / f"{kind}.safetensors"
        result = run("convert", checkpoint, "-o", target, "--dtype", kind, "--verify")
        assert result.exit_code == 0, result.stderr
    sizes = [(tmp_path / f"{k}.safetensors").stat().st_size for k in ("fp32", dtype)]
    assert sizes[1] < 0.7 * sizes[0]


def test_convert_refuses_and_writes_nothing(checkpoint, model, tmp_path):
    out = tmp_path / "out.safetensors"
    for arguments in (
        (tmp_path / "none.pt", "-o", out),
        (checkpoint, "-o", tmp_path / "out.bin"),
        (checkpoint, "-o", out, "--preset", "nope"),
        (checkpoint, "-o", tmp_path / "no" / "folder" / "out.safetensors"),
        (model, "-o", model),
    ):
        before = model.read_bytes()
        result = run("convert", *arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr
        assert result.stderr
        assert [p.name for p in tmp_path.iterdir()] == ["latest.pyt"]
        assert model.read_bytes() == before


def test_inspect_shows_layout_sizes_and_problems(checkpoint, model, tmp_path):
    shown = run("inspect", checkpoint)
    assert shown.exit_code == 0
    assert "fatchord" in shown.stdout
    assert "hop_length" in shown.stdout
    facts = json.loads(run("inspect", model, "--json").stdout)
    assert (facts["kind"], facts["preset"]) == ("canonical", "fatchord-raw9")
    assert "gru1.w_recurrent" in run("inspect", model, "--tensors").stdout
    state = checkpoint_builders.fatchord()
    del state["fc3.bias"]
    broken = checkpoint_builders.save(tmp_path / "broken.pt", state)
    result = run("inspect", broken)
    assert result.exit_code == 2
    assert "missing tensor fc3.bias" in result.stdout


@pytest.mark.parametrize("dtype", DTYPES)
def test_verify_prints_the_worst_logit_beside_the_tolerance(dtype, model):
    result = run("verify", model, "--dtype", dtype, "--steps", 600, "--json")
    assert result.exit_code == 0, result.stdout + result.stderr
    facts = json.loads(result.stdout)
    assert facts["passed"]
    assert facts["steps"] == 600
    assert 0.0 < facts["worst"] <= facts["tolerance"]
    difference = abs(facts["engine_logit"] - facts["torch_logit"])
    assert difference == pytest.approx(facts["worst"])


def test_verify_exits_with_1_beyond_the_tolerance(model, monkeypatch):
    from wavernn_fast import verification

    monkeypatch.setitem(verification.TOLERANCES, "fp32", (0.0, 0.0))
    result = run("verify", model, "--steps", 50)
    assert result.exit_code == 1
    assert "BEYOND" in result.stdout


def test_convert_keeps_no_file_that_fails_its_verification(checkpoint, tmp_path, monkeypatch):
    from wavernn_fast import verification

    monkeypatch.setitem(verification.TOLERANCES, "fp32", (0.0, 0.0))
    result = run("convert", checkpoint, "-o", tmp_path / "voice.safetensors", "--verify")
    assert result.exit_code == 2
    assert "BEYOND" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["latest.pyt"]


def test_verify_without_torch_says_what_to_install(model, monkeypatch):
    for name in [n for n in sys.modules if n == "torch" or n.startswith("torch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("verify", model)
    assert result.exit_code == 2
    assert "pip install" in result.stderr
    assert "[torch]" in result.stderr


# --- bench, doctor --------------------------------------------------------------------------------


@pytest.fixture
def short_probes(monkeypatch):
    monkeypatch.setattr(floors, "_PROBE_SECONDS", 0.002)


@pytest.mark.usefixtures("short_probes")
def test_bench_puts_every_figure_beside_its_floor_and_baseline(tmp_path):
    out = tmp_path / "made" / "results.json"
    sizes = ("--size", "dual:32,residual:32", "--threads", "1", "--streams", "1,8,2")
    short = ("--rounds", 2, "--seconds", 0.01)
    result = run(
        "bench", *sizes, "--dtype", "fp32,fp16,int8,int8-fast", *short, "--json", "--output", out
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert json.loads(out.read_text()) == report
    rows = report["rows"]
    assert len(rows) == 24
    for row in rows:
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
    for name in ("dual:32", "residual:32"):  # one baseline for all rows of a model
        assert len({r["eager_samples_per_s"] for r in rows if r["model"] == name}) == 1
    assert report["command"].startswith("wavernn-fast bench --size dual:32,residual:32 ")
    assert report["isa"] == [rows[0]["isa"]]
    for fact in ("cpu", "cores", "date", "numpy", "torch", "wavernn_fast"):
        assert report["machine"][fact]


def test_bench_prints_a_table_and_refuses_nonsense(model, tmp_path):
    arguments = ("-m", model, "--rounds", 1, "--seconds", 0.01, "--threads", 1, "--no-baseline")
    result = run("bench", *arguments)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("| model |")
    assert len({line.count("|") for line in lines[:3]}) == 1
    assert "not measured" in lines[2]
    (tmp_path / "file").write_text("in the way")
    for wrong in (
        ("--size", "melgan:3"),
        ("--size", "dual:32,"),
        ("--threads", "two"),
        ("--dtype", "fp8"),
        ("--rounds", 0),
        ("--output", tmp_path / "file" / "results.json"),
    ):
        assert run("bench", *wrong).exit_code == 2


@pytest.mark.usefixtures("short_probes")
def test_cases_of_a_session_take_turns_with_the_baselines(monkeypatch):
    turns: list[tuple[str, int, int]] = []
    measured = benchmark._Run.measure

    def note(self):
        kind = "engine" if isinstance(self, benchmark._EngineRun) else "eager"
        turns.append((kind, self.case.streams, self.case.threads))
        measured(self)

    monkeypatch.setattr(benchmark._Run, "measure", note)
    models = {"dual:32": random_model("dual:32")}
    cases = [benchmark.Case("dual:32", "fp32", threads, n) for threads in (1, 2) for n in (1, 3)]
    calls: list[int] = []
    rows = benchmark.measure(models, cases, rounds=2, seconds=0.01, progress=calls.append)
    one_round = [(kind, n, t) for kind in ("engine", "eager") for t in (1, 2) for n in (1, 3)]
    assert sorted(turns[:8]) == sorted(one_round)
    assert turns[8:] == turns[:8][::-1]
    assert len(calls) == benchmark.measurements(cases, 2) == 16
    assert [(row.threads, row.streams, row.rounds) for row in rows] == [
        (case.threads, case.streams, 2) for case in cases
    ]


def test_a_row_is_compared_with_the_fastest_baseline_of_no_more_threads():
    name = "dual:32"

    def baseline(threads, streams, *rates):
        case = benchmark.Case(name, "fp32", threads, streams)
        return benchmark._Run(case, lambda steps: (steps, 1.0), rates=list(rates))

    eager = [
        baseline(1, 1, 8.0, 10.0, 99.0),
        baseline(2, 1, 20.0, 20.0, 20.0),
        baseline(1, 4, 50.0, 50.0, 50.0),
        baseline(2, 4, 40.0, 40.0, 40.0),
        baseline(1, 16, 30.0, 30.0, 30.0),
        baseline(2, 16, 60.0, 60.0, 60.0),
    ]
    found = []
    for threads, streams in ((1, 1), (2, 1), (1, 16), (2, 4)):
        voc = Vocoder(*random_model(name), cpu_threads=threads)
        case = benchmark.Case(name, "fp32", threads, streams)
        probes = [{"read": 1e9, "fma": 1e9}]
        rates = [100.0, 300.0, 200.0]
        run_ = benchmark._EngineRun(case, eager[0].run, rates=rates, voc=voc, probes=probes)
        row = benchmark._row(run_, eager)
        assert (row.samples_per_s, row.samples_per_s_best) == (200.0, 300.0)
        found.append(
            (
                row.eager_threads,
                row.ratio_to_eager,
                row.eager_batch_threads,
                row.eager_batch_streams,
                row.ratio_to_eager_batch,
            )
        )
    assert found == [
        (1, 20.0, None, None, None),
        (2, 10.0, None, None, None),
        (1, 20.0, 1, 4, 4.0),
        (2, 10.0, 2, 16, pytest.approx(200 / 60)),
    ]


def test_pytorch_has_its_threads_back_after_a_baseline():
    import torch

    from wavernn_fast.models.eager import torch_threads

    before = torch.get_num_threads()
    with contextlib.suppress(ZeroDivisionError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_doctor_tests_the_engine_and_reports(monkeypatch):
    monkeypatch.setenv("WAVERNN_FAST_LIBCUDA", "/nowhere/libcuda.so")
    result = run("doctor", "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["self_test"]["passed"]
    assert facts["isas"]
    assert facts["threads"] >= 1
    assert "not available: there is no NVIDIA driver" in facts["devices"]["cuda"]
    assert facts["gpus"] == []
    assert facts["environment"]["WAVERNN_FAST_LIBCUDA"] == "/nowhere/libcuda.so"
    shown = run("doctor").stdout
    assert "passed" in shown
    assert "package torch" in shown


def test_doctor_says_when_the_engine_does_not_work(monkeypatch):
    monkeypatch.setenv("WAVERNN_FAST_ISA", "altivec")
    result = run("doctor")
    assert result.exit_code == 3
    assert "FAILED" in result.stdout
    assert "altivec" in result.stdout


def test_a_container_quota_is_read(tmp_path):
    from wavernn_fast.doctor import cgroup_cpus

    assert cgroup_cpus(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cgroup_cpus(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cgroup_cpus(tmp_path) is None


ISAS = ("avx2", "avx512", "avx512vnni")
# Rates at which every limit of the 32-unit model is the tightest for somebody.
PROBED = {"read": 4e9, "fma": 8e9, "fp16": 1e9, "bf16": 1e9, "int8": 5e9}


@pytest.mark.parametrize(
    ("dtype", "streams", "limit", "operations"),
    [
        ("fp32", 1, "read", 4),  # operations: bytes, flops or multiply-adds for each weight
        ("fp32", 4, "fma", 4 * 2),  # the arithmetic of four streams takes longer than reading
        ("fp32", 8, "fma", 8 * 2),
        ("fp16", 1, "fp16", 1),
        ("bf16", 1, "bf16", 1),
        ("bf16", 8, "fma", 8 * 2),
        ("int8", 1, "int8", 2),  # two passes
        ("int8", 8, "int8", 8 * 2),
        ("int8-fast", 1, "read", 1),
        ("int8-fast", 8, "int8", 8),
    ],
)
def test_the_floor_is_the_longest_of_reading_widening_and_arithmetic(
    dtype, streams, limit, operations, monkeypatch
):
    monkeypatch.setattr(floors, "probe", lambda voc, kind: PROBED[kind])
    name, model = "dual:32", random_model("dual:32")
    case = benchmark.Case(name, dtype, 1, streams)
    [row] = benchmark.measure({name: model}, [case], rounds=1, seconds=0.01, baseline=False)
    weights = row.macs_per_step
    assert row.weight_bytes == {"fp32": 4, "fp16": 2, "bf16": 2}.get(dtype, 1) * weights
    assert row.floor == limit
    assert row.floor_samples_per_s == pytest.approx(
        streams * PROBED[limit] / (operations * weights)
    )


def test_the_probe_uses_the_fastest_instructions_the_engine_may_use(monkeypatch):
    asked = []

    def answer(kind, share, threads, seconds, isa):
        asked.append(isa)
        return {"avx2": 5.0, "avx512": 3.0, "avx512vnni": 4.0}.get(isa, 9.0)

    monkeypatch.setattr(_C, "probe", answer)
    monkeypatch.setattr(_C, "available_isas", lambda: ["scalar", *ISAS, "avx1024"])
    floors._fastest_isa.cache_clear()
    try:
        for isa, best in (("avx512vnni", "avx2"), ("avx512", "avx2"), ("scalar", "scalar")):
            assert floors._fastest_isa("fp16", 100, 1, isa) == best
    finally:
        floors._fastest_isa.cache_clear()
    assert set(asked) == set(ISAS)  # never more than the engine has, never scalar beside others


def test_probes_before_and_after_a_round_are_averaged(monkeypatch):
    answers = iter([1e9, 1e9, 3e9, 3e9])
    monkeypatch.setattr(floors, "probe", lambda voc, kind: next(answers))
    name = "dual:32"
    case = benchmark.Case(name, "fp32", 1, 1)
    [row] = benchmark.measure(
        {name: random_model(name)}, [case], rounds=1, seconds=0.01, baseline=False
    )
    assert row.probes == {"read": 2e9, "fma": 2e9}
