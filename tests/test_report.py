"""Tables and pictures of the pages are what the committed results give, and nothing else."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wavernn_fast.bench.rows import FIELDS
from wavernn_fast.bench.split import Operation, Split

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
MANIFEST = json.loads((BENCHMARKS / "report.json").read_text())

# A row as `wavernn-fast bench` writes it.
ROW: dict[str, Any] = {
    "model": "dual:896", "runner": "wavernn_fast", "device": "cpu", "device_name": "a processor",
    "dtype": "fp32", "isa": "avx2", "threads": 2, "streams": 1, "rounds": 5,
    "samples_per_s": 4000.0, "samples_per_s_p10": 3900.0, "samples_per_s_best": 4100.0,
    "spread": 0.02, "x_realtime": 0.25, "floor": "read", "floor_samples_per_s": 5000.0,
    "share_of_floor": 0.8, "share_of_read": 0.8, "eager_samples_per_s": 1000.0,
    "eager_threads": 1, "ratio_to_eager": 4.0, "eager_batch_samples_per_s": None,
    "fastest_baseline": "torch-script", "fastest_baseline_samples_per_s": 1600.0,
    "fastest_baseline_streams": 1, "fastest_baseline_threads": 2, "ratio_to_fastest": 2.5,
    "logit_error": None,
}  # fmt: skip
BASELINE = ROW | {
    "runner": "torch-script", "samples_per_s": 1600.0, "share_of_floor": 0.32,
    "ratio_to_eager": 1.6, "logit_error": 2.5e-6, "fastest_baseline": None,
}  # fmt: skip
MACHINE = {
    "cpu": "A Processor", "cores": 2, "cpus_allowed": 2, "system": "Linux", "date": "2026-01-02",
    "load_average": 0.25,
    "python": "3.11", "numpy": "2", "torch": None, "onnxruntime": "1.20", "wavernn_fast": "0.1",
    "environment": {"WAVERNN_FAST_ISA": "avx2"},
}  # fmt: skip


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the report, over a folder with one page and one result."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import report
    import report_cells
    import report_tables

    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report_tables, "RESULTS", tmp_path)
    (tmp_path / "docs").mkdir()
    page, readme = tmp_path / "docs" / "performance.md", tmp_path / "README.md"
    page.write_text("Before.\n<!-- report: all -->\n<!-- end of all -->\nAfter.\n")
    readme.write_text("<!-- report: short -->\nold\n<!-- end of short -->\n")
    result = {"command": "wavernn-fast bench", "machine": MACHINE, "rows": [BASELINE, ROW]}
    (tmp_path / "one.json").write_text(json.dumps(result))
    line = {"name": "dual", "table": "all", "row": {"threads": 2}}
    manifest = {
        "pages": ["README.md", "docs/performance.md"],
        "tables": {"all": {"kind": "models", "file": "one.json"}},
        "summaries": {"short": {"shape": "cpu", "lines": [line]}},
        "pictures": {},
    }
    return SimpleNamespace(
        report=report, tables=report_tables, cells=report_cells, folder=tmp_path,
        page=page, readme=readme, manifest=manifest, result=result,
    )  # fmt: skip


def _cells(text: str, name: str = "samples/s") -> list[str]:
    """A column of the first table of a text."""
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [line[lines[0].index(name)] for line in lines[1:]]


# --- what is committed ---


def test_the_pages_and_pictures_are_what_the_results_give() -> None:
    command = [sys.executable, str(BENCHMARKS / "report.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_figure_of_the_readme_leads_to_its_row() -> None:
    readme = (ROOT / "README.md").read_text()
    page = (ROOT / "docs" / "performance.md").read_text()
    links = re.findall(r"\[([\d,]+)\]\(docs/performance\.md#([\w-]+)-(\d+)\)", readme)
    # those of the tables, and some in sentences
    assert len(links) >= sum(len(s["lines"]) for s in MANIFEST["summaries"].values())
    for figure, name, index in links:
        assert page.count(f'<a id="{name}-{index}"></a>') == 1
        entry = MANIFEST["tables"][name]
        kinds = {
            "models": "rows",
            "kernel": "parts.speed.rows",
            "gpu-baselines": "parts.baselines.rows",
        }
        found: Any = json.loads((BENCHMARKS / "results" / entry["file"]).read_text())
        for part in entry.get("list", kinds[entry["kind"]]).split("."):
            found = found[part]
        assert f"{found[int(index)]['samples_per_s']:,.0f}" == figure


def test_measured_and_predicted_share_no_column() -> None:
    """In the tables of the GPU, which alone have predictions."""
    page = (ROOT / "docs" / "performance.md").read_text()
    names = [n for n, entry in MANIFEST["tables"].items() if entry["kind"] == "kernel"]
    for name in names:
        [text] = re.findall(rf"<!-- report: {name} -->(.*?)<!-- end", page, flags=re.S)
        entry = MANIFEST["tables"][name]
        found: Any = json.loads((BENCHMARKS / "results" / entry["file"]).read_text())
        for part in entry.get("list", "parts.speed.rows").split("."):
            found = found[part]
        rows = [found[int(i)] for i in re.findall(r'<a id="[\w-]+-(\d+)"', text)]
        assert _cells(text) == [f"{row['samples_per_s']:,.0f}" for row in rows]
        assert _cells(text, "predicted") == [f"{r['predicted_samples_per_s']:,.0f}" for r in rows]
    assert len(names) == 3


# --- what is written ---


def test_a_page_gets_its_table_and_keeps_the_rest(house: SimpleNamespace) -> None:
    changed = house.report.update(house.manifest, check=False)
    assert changed == ["README.md", "docs/performance.md"]
    text = house.page.read_text()
    assert text.startswith("Before.\n<!-- report: all -->")
    assert text.endswith("<!-- end of all -->\nAfter.\n")
    assert '| <a id="all-1"></a>1 | dual:896 | fp32 | 2 | 1 | 4,000 | 3,900 | 4,100 |' in text
    assert "torch-script 1,600 (2 t)" in text
    assert "    WAVERNN_FAST_ISA=avx2 wavernn-fast bench\n" in text
    assert "`benchmarks/results/one.json`, list `rows`: A Processor" in text
    assert "onnxruntime 1.20, wavernn_fast 0.1" in text
    assert "medians of 5 rounds" in text
    assert "torch None" not in text
    assert "2026-01-02, load average 0.2 at the start" in text
    assert house.report.update(house.manifest, check=True) == []
    short = house.readme.read_text()
    assert "old" not in short
    assert "[4,000](docs/performance.md#all-1)" in short
    assert "| 1,600: torch-script, 2 threads | 2.5x |" in short


def test_baselines_have_a_table_of_their_own(house: SimpleNamespace) -> None:
    house.manifest["tables"]["others"] = {"kind": "baselines", "file": "one.json"}
    text = house.tables.table("others", house.manifest["tables"]["others"])
    assert _cells(text, "baseline") == ["torch-script"]
    assert _cells(text, "logits off by") == ["2.5e-06"]
    assert 'id="others-0"' in text
    assert "Without a row" not in text
    house.result["rows"] += [
        BASELINE | {"runner": "numpy", "streams": 4},
        BASELINE | {"runner": "z"},
    ]
    (house.folder / "one.json").write_text(json.dumps(house.result))
    text = house.tables.table("others", house.manifest["tables"]["others"])
    assert _cells(text, "baseline") == ["torch-script", "z", "numpy"]  # by streams
    assert 'id="others-3"' in text
    left = {"runner": "onnx-scan", "model": None, "reason": "It needs onnx."}
    house.result["left_out"] = [left, left]
    (house.folder / "one.json").write_text(json.dumps(house.result))
    text = house.tables.table("others", house.manifest["tables"]["others"])
    assert text.endswith("Without a row:\n\n- onnx-scan: It needs onnx.")


def test_the_time_of_a_sample_is_told_by_operation(house: SimpleNamespace) -> None:
    operations = (
        Operation("R", 1, 150.0, 2.5),
        Operation("draw", 2, 0.0, 1.0),
        Operation("gates", 2, 3.25, 0.0),
    )
    split = Split(
        model="dual:896", runner="numpy", device="cpu", dtype="fp32", threads=2, streams=1,
        sequential=5, operations=operations, total_us=1234.0, method="empty twin",
    )  # fmt: skip
    house.result["splits"] = [split.to_dict()]
    (house.folder / "one.json").write_text(json.dumps(house.result))
    text = house.tables.table("times", {"kind": "splits", "file": "one.json"})
    assert _cells(text, "N") == ["5"]
    assert _cells(text, "T(u), us a sample") == ["1,234"]
    assert _cells(text, "sum of c") == ["153"]
    assert _cells(text, "sum of d") == ["3.50"]
    assert _cells(text, "d of both") == ["2 %"]
    assert _cells(text, "c by operation") == ["R 150; gates 3.25"]
    assert _cells(text, "d by operation") == ["R 2.50; draw 1.00"]
    house.report.update(house.manifest, check=False)
    house.manifest["pictures"] = {"docs/times.svg": {"kind": "splits", "file": "one.json"}}
    assert house.report.update(house.manifest, check=False) == ["docs/times.svg"]
    assert "dual:896: N = 5" in (house.folder / "docs" / "times.svg").read_text()


def test_the_stages_of_a_gpu_are_told_by_operation(house: SimpleNamespace) -> None:
    shutil.copy(BENCHMARKS / "results" / "gpu_h200.json", house.folder)
    entry = {"kind": "gpu-splits", "file": "gpu_h200.json", "only": [{"dtype": "fp32"}]}
    text = house.tables.table("stages", entry)
    measured = json.loads((house.folder / "gpu_h200.json").read_text())["parts"]["stages"]["rows"]
    shown = [r["us_per_sample"] for r in measured if r["dtype"] == "fp32"]
    assert _cells(text, "T(u), us a sample") == [f"{us:.2f}" for us in shown]
    assert _cells(text, "plan")[0] == "56 blocks of 8 warps, fp32, 4 exchanges a sample"
    house.report.update(house.manifest, check=False)
    house.manifest["pictures"] = {"docs/stages.svg": entry}
    assert house.report.update(house.manifest, check=False) == ["docs/stages.svg"]
    drawn = (house.folder / "docs" / "stages.svg").read_text()
    assert "112 blocks, clusters of 8, 4 exchanges" in drawn
    assert "28 blocks" not in drawn  # fp16


def test_what_is_awaited_says_so_until_it_is_there(house: SimpleNamespace) -> None:
    entry = {"kind": "models", "file": "two.json", "awaited": True}
    assert "Nothing is measured yet" in house.tables.table("all", entry)
    (house.folder / "two.json").write_text(json.dumps(house.result))
    assert _cells(house.tables.table("all", entry)) == ["4,000"]


def test_the_rows_of_these_tests_are_those_of_the_command() -> None:
    assert set(ROW) <= set(FIELDS)


def test_an_older_row_is_compared_with_eager_pytorch(house: SimpleNamespace) -> None:
    old = {k: v for k, v in ROW.items() if not k.startswith("fastest") and k != "runner"}
    assert house.cells.fastest(old) == ("torch-eager", 1000.0, 1, 4.0)
    batch = {
        "streams": 32, "eager_batch_samples_per_s": 2000.0, "eager_batch_streams": 64,
        "eager_batch_threads": 2, "ratio_to_eager_batch": 2.0,
    }  # fmt: skip
    assert house.cells.fastest(old | batch) == ("torch-eager, batch of 64", 2000.0, 2, 2.0)
    assert house.cells.fastest(old | {"eager_samples_per_s": None}) is None


def test_check_writes_nothing_and_finds_one_changed_figure(
    house: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = house.folder / "report.json"
    manifest.write_text(json.dumps(house.manifest))
    monkeypatch.setattr(house.report, "MANIFEST", manifest)
    assert house.report.main([]) == 0
    assert house.report.main(["--check"]) == 0
    house.result["rows"][1]["samples_per_s"] = 4001.0
    (house.folder / "one.json").write_text(json.dumps(house.result))
    before = house.page.read_text()
    capsys.readouterr()
    assert house.report.main(["--check"]) == 1
    told = capsys.readouterr()
    assert "docs/performance.md is not what the results give" in told.out
    assert "README.md is not" in told.out
    assert "python benchmarks/report.py" in told.err
    assert house.page.read_text() == before


Change = Callable[[SimpleNamespace], object]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda h: h.page.write_text("nothing"), "no page has a place"),
        (
            lambda h: h.page.write_text(h.page.read_text() + "<!-- report: all -->\n"),
            "has no partner",
        ),
        (lambda h: h.page.write_text(2 * h.page.read_text()), "is there twice"),
        (lambda h: h.manifest["tables"].pop("all"), "there is no table all"),
        (lambda h: h.manifest["summaries"].pop("short"), "has no table short"),
        (
            lambda h: h.manifest["summaries"]["short"]["lines"][0]["row"].update(threads=3),
            "0 rows of all",
        ),
        (lambda h: h.result["rows"].append(ROW), "2 rows of all"),
        (lambda h: h.result["rows"][1].pop("x_realtime"), "lacks 'x_realtime'"),
        (lambda h: h.result.pop("rows"), "has no list rows"),
        (lambda h: h.manifest["tables"]["all"].update(only=[{"dtype": "fp64"}]), "no row of one"),
        (lambda h: h.manifest["tables"]["all"].update(file="two.json"), "two.json"),
        (
            lambda h: h.readme.write_text(
                h.readme.read_text() + "<!-- report: all -->\n<!-- end of all -->\n"
            ),
            "belongs into docs/performance.md",
        ),
    ],
)
def test_what_does_not_fit_is_named(house: SimpleNamespace, change: Change, sentence: str) -> None:
    house.manifest, house.result = copy.deepcopy((house.manifest, house.result))
    change(house)
    (house.folder / "one.json").write_text(json.dumps(house.result))
    with pytest.raises(house.tables.ReportError, match=sentence):
        house.report.update(house.manifest, check=True)


# --- pictures ---


def test_a_picture_is_drawn_again_when_its_rows_change(house: SimpleNamespace) -> None:
    house.report.update(house.manifest, check=False)
    house.manifest["pictures"] = {"docs/speed.svg": {"kind": "models", "file": "one.json"}}
    assert house.report.update(house.manifest, check=True) == ["docs/speed.svg"]
    assert house.report.update(house.manifest, check=False) == ["docs/speed.svg"]
    drawn = (house.folder / "docs" / "speed.svg").read_text()
    assert "hardware floor" in drawn
    assert house.report.update(house.manifest, check=True) == []
    house.result["rows"][1]["floor_samples_per_s"] = 5001.0
    (house.folder / "one.json").write_text(json.dumps(house.result))
    changed = house.report.update(house.manifest, check=True, only=["docs/speed.svg"])
    assert changed == ["docs/speed.svg"]
