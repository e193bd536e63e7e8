"""Where the time of a sample goes in the engines: stages add up, and every one is c or d."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from wavernn_fast.bench import split_engine as module
from wavernn_fast.bench.split import Split
from wavernn_fast.bench.split_engine import OVERHEAD, SEQUENTIAL, split_engine
from wavernn_fast.bench.split_gpu import operations_of_ticks, split_from_gpu_json
from wavernn_fast.errors import InputError
from wavernn_fast.pictures_split import place
from wavernn_fast.synthetic import random_model

H200 = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "gpu_h200.json"
NAMES = {
    "dual": ["R", "O1", "O2", "O3", "O4"],
    "residual": ["R1", "I2", "R2", "O1", "O2", "O3"],
    "embedded": ["R", "O1", "O2"],
}
ALWAYS = ["prepare", "gates", "relu", "draw", "slices"]


def split(spec: str, **options) -> Split:
    quick = {"seconds": 0.01, "rounds": 1, "threads": 1}
    return split_engine(*random_model(spec), model=spec, **(quick | options))


def check_sums(one: Split) -> None:
    """What the operations take is what the clocked run took, to three digits."""
    together = one.computation_us + one.overhead_us
    assert together == pytest.approx(one.facts["us_with_clocks"], rel=2e-3)
    assert one.total_us > 0.0
    for operation in one.operations:
        of_c, of_d = operation.computation_us, operation.overhead_us
        assert of_c == 0.0 if operation.name in OVERHEAD else of_d == 0.0


@pytest.mark.parametrize(
    ("spec", "core", "last"),
    [
        ("dual:64", "dual", "call"),
        ("dual-mel:64", "dual", "frames"),
        ("residual:64", "residual", "frames"),
        ("residual-mol:64", "residual", "frames"),
        ("embedded:64", "embedded", "frames"),
        ("dual:64:4x4:90", "dual", "call"),
    ],
)
def test_the_operations_of_a_sample_are_those_of_its_core_and_add_up(spec, core, last):
    one = split(spec)
    assert [o.name for o in one.operations] == [*NAMES[core], *ALWAYS, last]
    assert (one.model, one.runner, one.device) == (spec, "wavernn_fast", "cpu")
    assert (one.threads, one.streams, one.sequential) == (1, 1, SEQUENTIAL[core])
    check_sums(one)
    assert ("sparse" in one.facts) == ("4x4" in spec)
    assert {o.name: o.count for o in one.operations}["gates"] == (1 if core == "embedded" else 2)


def test_one_thread_waits_for_nobody_and_several_for_each_other():
    """How often, the engine decides: where a team is slower, it goes on with one thread."""
    assert "meetings" not in {o.name for o in split("dual:64").operations}
    team = split("dual:448", threads=2)
    check_sums(team)
    often = team.facts["counts_per_step"]["meetings"]
    assert 0.0 <= often <= 5.0  # four a sample, and one before the first of a slice
    named = {o.name: o for o in team.operations}
    assert ("meetings" in named) == (often > 0.0)
    if often:
        assert named["meetings"].overhead_us > 0.0


def test_int8_also_quantises():
    counts = {o.name: o.count for o in split("dual:64", dtype="int8").operations}
    assert counts["quantise"] == 6  # the inputs of five products, of R by halves


def test_streams_that_threads_share_and_those_that_each_has_for_itself_add_up():
    for streams, threads in ((3, 1), (3, 2), (40, 2)):
        one = split("dual:64", streams=streams, threads=threads)
        assert (one.streams, one.threads) == (streams, threads)
        check_sums(one)


def test_the_rows_of_a_subscale_model_are_streams():
    one = split("subscale:64")
    assert (one.streams, one.facts["rows"], one.sequential) == (16, 16, 5)
    check_sums(one)
    # Nearly every step has all rows: those that begin and end alone are a quarter more at most.
    assert 1.0 <= one.facts["counts_per_step"]["gru"] < 1.4


def test_a_split_is_json():
    one = split("dual:64")
    again = json.loads(json.dumps(one.to_dict(), allow_nan=False))
    assert again["operations"][0]["name"] == "R"
    assert again["facts"]["macs_per_step"] == 3 * 64 * 64 + 2 * (32 * 32 + 256 * 32)


def test_the_total_is_that_of_an_engine_without_clocks(monkeypatch):
    """The clocked engine is slowed down on purpose: the total must not show it."""
    measure = module._measure

    def slow(voc, streams, steps):
        one = measure(voc, streams, steps)
        late = 1000.0 if isinstance(voc, module._Clocked) else 0.0
        return module._Measured(one.steps, one.seconds + late, one.ns, one.counts)

    monkeypatch.setattr(module, "_measure", slow)
    one = split("dual:32")
    assert one.facts["us_with_clocks"] > 1e9 / one.facts["steps"]
    assert one.total_us < 1e9 / one.facts["steps"]


@pytest.mark.parametrize("wrong", [{"streams": 0}, {"rounds": 0}, {"seconds": 0.0}])
def test_numbers_without_meaning_are_refused(wrong):
    with pytest.raises(InputError, match="at least one stream"):
        split("dual:32", **wrong)


# --- counted --------------------------------------------------------------------------------------


def test_the_split_is_of_the_clusters_that_were_asked_for():
    one = split("dual:64", device="emu", gpu_cluster=2)
    assert "clusters of 2" in one.facts["plan"]
    where = place(one.device, one.threads, one.facts)
    assert where == "emu, 2 blocks, clusters of 2, exact, 4 exchanges"  # the plan has more lines


def test_the_emulator_has_counts_in_place_of_times():
    one = split("dual:64", device="emu")
    assert (one.method, one.total_us, one.computation_us, one.overhead_us) == (
        "counted",
        0.0,
        0.0,
        0.0,
    )
    planned = re.search(r"(\d) exchanges a sample", one.facts["plan"])
    assert planned is not None
    assert one.facts["hops_per_step"] == int(planned[1]) in (2, 4)
    assert sum(o.count for o in one.operations) == int(planned[1])
    counts = one.facts["counts_per_step"]
    assert counts["words"] == 3 * 64 + (2 * (32 + 256) if planned[1] == "4" else 0)
    assert counts["launches"] == 0.0


@pytest.mark.parametrize(
    ("spec", "options", "streams"),
    [
        ("residual:64", {}, 1),
        ("dual-mel:64", {}, 1),
        ("dual:64:4x4:80", {}, 1),
        ("dual:64", {"dtype": "fp16", "streams": 4}, 4),
    ],
)
def test_every_kernel_counts(spec, options, streams):
    one = split(spec, device="emu", **options)
    assert (one.streams, one.method) == (streams, "counted")
    assert one.facts["counts_per_step"]["barriers"] > 0
    assert one.facts["hops_per_step"] == int(one.facts["hops_per_step"])


# --- a GPU ----------------------------------------------------------------------------------------


def test_committed_stage_clocks_of_a_gpu_become_splits():
    rows = json.loads(H200.read_text())["parts"]["stages"]["rows"]
    found = split_from_gpu_json(H200)
    assert len(found) == len(rows) > 0
    for one, row in zip(found, rows, strict=True):
        assert one.total_us == row["us_per_sample"]
        assert (one.model, one.device, one.dtype) == ("dual:896", "cuda", row["dtype"])
        together = one.computation_us + one.overhead_us
        assert together == pytest.approx(row["us_per_sample_with_clocks"])
        assert [o.count for o in one.operations] == [2, 2, 2, 2]
        gates, y, logits, draw = one.operations
        assert gates.overhead_us == logits.overhead_us == 0.0
        assert draw.overhead_us > 0.0
        assert (y.overhead_us > 0.0) == (one.facts["exchanges"] == 4)
        assert one.overhead_us <= one.facts["exchanges"] * one.facts["hop_us"] * (1 + 1e-12)


TICKS = {"coarse y": 300.0, "coarse draw": 100.0, "fine y": 500.0, "fine draw": 100.0}


def test_an_exchange_is_overhead_of_the_stages_that_wait_for_it_and_no_more_than_they_took():
    y, draw = operations_of_ticks(TICKS, 10.0, "4 exchanges a sample", hop_us=2.0)
    assert (y.count, y.computation_us, y.overhead_us) == pytest.approx((2, 4.0, 4.0))
    assert (draw.count, draw.computation_us, draw.overhead_us) == pytest.approx((2, 0.0, 2.0))
    y, draw = operations_of_ticks(TICKS, 10.0, "2 exchanges a sample", hop_us=0.25)
    assert (y.computation_us, y.overhead_us) == pytest.approx((8.0, 0.0))
    assert (draw.computation_us, draw.overhead_us) == pytest.approx((1.5, 0.5))


def test_without_a_measured_exchange_the_draw_is_the_overhead():
    y, draw = operations_of_ticks(TICKS, 10.0, "4 exchanges a sample")
    assert (y.overhead_us, draw.overhead_us) == pytest.approx((0.0, 2.0))
    assert operations_of_ticks(dict.fromkeys(TICKS, 0.0), 10.0, "") == ()


def test_files_without_what_it_needs_are_refused_by_name(tmp_path):
    other = tmp_path / "other.json"
    with pytest.raises(InputError, match=r"other\.json is not JSON of gpu_check\.sh"):
        split_from_gpu_json(other)
    other.write_text('{"parts": {}}')
    with pytest.raises(InputError, match=r"run `benchmarks/gpu_check\.sh exchange stages`"):
        split_from_gpu_json(other)
    report = json.loads(H200.read_text())
    del report["parts"]["exchange"]["summary"]["gather_hop_ns_by_blocks"]["56"]
    other.write_text(json.dumps(report))
    with pytest.raises(InputError, match="has no exchange '56' in gather_hop_ns_by_blocks"):
        split_from_gpu_json(other)
