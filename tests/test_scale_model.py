"""The arithmetic of docs/scale.md, and that its tables are what the measured figures give."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


scale_model = loaded("scale_model")
COSTS = scale_model.Costs(
    sample_rate=20_000,
    mel_bytes=25_000.0,
    wav_bytes=40_000.0,
    conditioning=0.03,
    decoding=0.01,
    reading=0.1,
    encoding=0.2,
    journal_bytes=400.0,
    files_per_s=100.0,
    deal_per_s=50.0,
    resume=0.001,
)
GPU = scale_model.Gpu("a GPU", 2_000_000.0, True)  # 0.01 s for a second of audio


def test_the_longer_of_two_that_run_side_by_side_decides() -> None:
    costs = dataclasses.replace(COSTS, conditioning=0.05)
    one = scale_model.load(GPU, costs, 1, 4.0)
    assert one.x_realtime == pytest.approx(1 / 0.05)  # and not 1 / (0.01 + 0.01)
    assert one.waiting == pytest.approx(0.6)
    assert one.items_per_s == pytest.approx(5.0)
    assert one.bytes_in_per_s == pytest.approx(20 * 25_000)
    assert one.bytes_out_per_s == pytest.approx(20 * 40_000 + 5 * 400)
    assert one.cores_per_gpu == pytest.approx(20 * 0.06 + 5 * 0.3)
    assert one.file_servers == pytest.approx(0.05)
    assert one.dealing == pytest.approx(0.1)
    assert one.limit == "conditioning"
    quick = scale_model.load(GPU, dataclasses.replace(COSTS, conditioning=0.02), 1, 4.0)
    assert quick.x_realtime == pytest.approx(50.0)
    assert quick.waiting == 0
    assert quick.limit == "the GPU"


def test_machines_have_eight_gpus_and_a_parent_each() -> None:
    rows = {n: scale_model.load(GPU, COSTS, n, 4.0, condition=False) for n in (1, 8, 1000)}
    assert rows[1].x_realtime == pytest.approx(50.0)
    assert rows[8].dealing == rows[1000].dealing == pytest.approx(8 * 12.5 / 50)
    assert rows[1000].file_servers == pytest.approx(125.0)
    assert rows[1000].limit == (
        "the GPU, dealing out (2.0 machines), files a second (125.0 machines), "
        "bytes a second (1.6 machines)"
    )
    assert rows[8].cores_per_gpu == rows[1].cores_per_gpu


def test_measured_figures_are_read() -> None:
    data = json.loads((scale_model.RESULTS / "scale_inputs.json").read_text())
    costs = scale_model.read_costs(data)
    for field in dataclasses.fields(costs):
        assert getattr(costs, field.name) > 0, field.name
    files = data["files"]
    assert costs.files_per_s == max(
        1 / files[name] for name in files if name.startswith("write_s_")
    )
    gpus = scale_model.read_gpus(json.loads((scale_model.RESULTS / "gpu_h200.json").read_text()))
    assert [gpu.measured for gpu in gpus] == [True, True, False]
    assert gpus[0].samples_per_s == pytest.approx(226_045, abs=1)
    assert gpus[1].samples_per_s == pytest.approx(10.39e6, rel=0.01)


def test_the_tables_of_the_page_are_those_of_the_figures() -> None:
    inputs = json.loads((scale_model.RESULTS / "scale_inputs.json").read_text())
    gpus = scale_model.read_gpus(json.loads((scale_model.RESULTS / "gpu_h200.json").read_text()))
    tables = scale_model.table(gpus, scale_model.read_costs(inputs), [1, 8, 1000], 5.0)
    page = (ROOT / "docs" / "scale.md").read_text()
    for table in tables.split("\n\n"):
        assert table in page
