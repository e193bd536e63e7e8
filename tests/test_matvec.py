"""bench --matvec: the paper's tables of pruned matrices, and the random models it prunes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_runner import run

from wavernn_fast import _C, floors, matvec
from wavernn_fast.errors import InputError
from wavernn_fast.synthetic import drop_blocks, random_model


@pytest.fixture(autouse=True)
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "_PROBE_SECONDS", 0.002)
    monkeypatch.setattr(matvec, "_PROBE_SECONDS", 0.002)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("dtype", "block"), [("fp32", "4x4"), ("fp16", "1x1"), ("int8", "8x4")])
def test_a_product_counts_the_weights_that_are_there(dtype: str, block: str, threads: int) -> None:
    weight = matvec.Matrix(128, 0.75, block).weights()
    facts = _C.matvec(weight, dtype=dtype, sparse=block, threads=threads, seconds=0.01)
    assert facts["layout"] == block
    assert facts["macs"] == np.count_nonzero(weight) == 128 * 128 // 4
    bytes_each = {"fp32": 4, "fp16": 2, "int8": 1}[dtype]
    assert facts["weight_bytes"] > facts["macs"] * bytes_each
    assert facts["products_per_s"] > 0
    dense = _C.matvec(weight, dtype=dtype, sparse="off", threads=threads, seconds=0.01)
    assert (dense["layout"], dense["macs"]) == ("off", 128 * 128)


def test_a_matrix_that_no_product_takes_is_refused() -> None:
    with pytest.raises(InputError, match="16 x 7, expected"):
        _C.matvec(np.zeros((16, 7), np.float32))
    with pytest.raises(InputError, match="dimensions"):
        _C.matvec(np.zeros(16, np.float32))
    with pytest.raises(InputError, match="threads is 0"):
        _C.matvec(np.zeros((16, 16), np.float32), threads=0)


def test_rows_stand_beside_peak_floor_dense_twin_and_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = (
        matvec.Matrix(64, paper=(1.0, 2.0)),
        matvec.Matrix(128, 0.75, "16x1", 64),
        matvec.Matrix(128, 0.75, "8x4", 64),
        matvec.Matrix(128, 0.75, "1x1", 64),
    )
    monkeypatch.setattr(matvec, "TABLE", small)
    monkeypatch.setattr("wavernn_fast.cli.bench_matvec._PAPER_MODELS", {"dual:32:4x4:50": "19,800"})
    out = tmp_path / "rows.json"
    short = ("--rounds", 2, "--seconds", 0.01, "--threads", 1)
    result = run("bench", "--matvec", "--dtype", "fp16,int8", *short, "--json", "--output", out)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert json.loads(out.read_text()) == report
    found = [(row["dtype"], row["size"], row["block"]) for row in report["matrices"]]
    assert found == [
        ("fp16", 64, ""),
        ("fp16", 128, "16x1"),
        ("fp16", 128, "1x1"),
        ("int8", 64, ""),
        ("int8", 128, "16x1"),
        ("int8", 128, "8x4"),
    ]
    for row in report["matrices"]:
        assert row["weights"] == 4096
        assert row["gflops"] == pytest.approx(2e-9 * 4096 * row["products_per_s"])
        assert row["ns_per_weight"] == pytest.approx(1e9 / row["products_per_s"] / 4096)
        assert row["share_of_peak"] > 0
        assert row["share_of_read"] > 0
        dense = next(r for r in report["matrices"] if (r["dtype"], r["size"]) == (row["dtype"], 64))
        expected = row["ns_per_weight"] / dense["ns_per_weight"] if row["block"] else None
        assert row["cost_of_dense"] == (expected and pytest.approx(expected))
    assert [(r["model"], r["dtype"]) for r in report["rows"]] == [
        ("dual:32:4x4:50", "fp16"),
        ("dual:32:4x4:50", "int8"),
    ]


def test_tables_are_printed_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matvec, "TABLE", matvec.TABLE[:1])
    monkeypatch.setattr("wavernn_fast.cli.bench_matvec._PAPER_MODELS", {"dual:32:4x4:50": "19,800"})
    result = run("bench", "--matvec", "--rounds", 1, "--seconds", 0.01, "--threads", 1)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("| size | zero | blocks |")
    assert "95,400 / 95,400" in lines[2]
    assert lines[-1].startswith("| dual:32:4x4:50 | fp32 | 1 |")
    assert lines[-1].endswith("| 19,800 |")


def test_matvec_takes_no_models() -> None:
    result = run("bench", "--matvec", "--size", "dual:32")
    assert result.exit_code == 2
    assert "leave --model and --size out" in result.stderr


def test_a_pruned_random_model_has_the_share_of_zeros_that_is_asked_for() -> None:
    _, dense = random_model("dual:64")
    config, pruned = random_model("dual:64:16x1:75")
    assert config == random_model("dual:64")[0]
    for name, weight in pruned.items():
        if name == "gru.w_recurrent" or name.endswith(("fc1.weight", "fc2.weight")):
            blocks = weight.reshape(weight.shape[0] // 16, 16, -1)
            kept = (blocks != 0).all(axis=1)
            assert (kept | (blocks == 0).all(axis=1)).all()
            assert kept.mean() == 0.25
        elif name != "gru.w_sample":
            np.testing.assert_array_equal(weight, dense[name])


def test_blocks_over_the_edge_are_dropped_whole() -> None:
    random = np.random.default_rng(0)
    weight = drop_blocks(np.ones((10, 7), np.float32), (4, 4), 0.5, random)
    assert sorted(set(weight.ravel().tolist())) == [0.0, pytest.approx(2**0.5)]
    assert (weight[8:, 4:] == weight[8, 4]).all()


@pytest.mark.parametrize("spec", ["dual:64:0x4:50", "dual:64:4x4", "dual:64:4x4:100", "dual:0"])
def test_a_spec_that_means_nothing_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match=r"no synthetic model .*:4x4:95"):
        random_model(spec)
