"""T(u) on paper: the tables, the picture and the command that makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_runner import refused, run
from matplotlib.image import imread

from wavernn_fast import bench_rows, pictures_split
from wavernn_fast.bench import split_tables
from wavernn_fast.bench.split import Operation, Split
from wavernn_fast.errors import InputError


def split_of(**changes: Any) -> Split:
    fields: dict[str, Any] = {
        "model": "dual:896",
        "runner": "numpy",
        "device": "cpu",
        "dtype": "fp32",
        "threads": 2,
        "streams": 4,
        "sequential": 5,
        "operations": (Operation("R", 1, 300.0, 10.0), Operation("draw", 2, 0.0, 90.0)),
        "total_us": 410.0,
        "method": "empty twin",
        "facts": {"below_twin_us": {"draw": 3.0}},
    }
    return Split(**{**fields, **changes})


COUNTED = split_of(
    runner="wavernn_fast",
    device="emu",
    operations=(Operation("draw", 2, 0.0, 0.0),),
    total_us=0.0,
    method="counted",
    facts={"hops_per_step": 4.0},
)


def rows_of(table: str) -> list[list[str]]:
    """Cells of every line of a Markdown table, the rule under the heads left out."""
    lines = [line for line in table.splitlines() if not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# --- tables ---------------------------------------------------------------------------------------


def test_sums_are_those_of_the_split() -> None:
    heads, row, counted = rows_of(split_tables.sums([split_of().to_dict(), COUNTED.to_dict()]))
    found = dict(zip(heads, row, strict=True))
    assert found["c, us"] == "300.0"
    assert found["d, us"] == "100.0"
    assert found["d / (c + d)"] == "25 %"
    assert (found["c / N, us"], found["d / N, us"]) == ("60.00", "20.00")
    assert found["us a step"] == "410.0"
    assert found["samples/s"] == "9,756"  # 4 streams in 410 us
    assert (found["B"], found["N"]) == ("4", "5")
    assert set(counted[7:]) == {""}


def test_handles_are_pairs_that_differ_in_one_thing() -> None:
    engine = {"runner": "wavernn_fast", "method": "stage clocks"}
    small = (Operation("R", 1, 30.0, 1.0),)
    splits = [
        split_of(streams=1),
        split_of(),
        split_of(streams=1, runner="torch-eager"),
        split_of(streams=1, **engine),
        split_of(streams=1, **engine, model="dual:896:16x1:95", operations=small, total_us=41.0),
        split_of(streams=1, **engine, threads=4),
        split_of(streams=1, model="wavenet:512", runner="wavenet-numpy", sequential=62,
                 total_us=4100.0),
        split_of(streams=1, model="wavenet:512", runner="wavenet-torch-script", sequential=62),
        COUNTED,
    ]  # fmt: skip
    heads, *rows = rows_of(split_tables.handles([s.to_dict() for s in splits]))
    found = [dict(zip(heads, row, strict=True)) for row in rows]
    assert [(f["handle"][:1], f["N"], f["us a sample"], f["times"]) for f in found] == [
        ("N", "62 to 5", "4,100.0 to 410.0", "10"),
        ("d", "5 to 5", "410.0 to 410.0", "1"),
        ("c", "5 to 5", "410.0 to 41.0", "10"),
        ("&", "5 to 5", "410.0 to 102.5", "4"),
    ]
    assert found[0]["from"] == "wavenet:512, wavenet-numpy, fp32, 2 t, B = 1"
    assert found[0]["to"] == "dual:896, numpy, fp32, 2 t, B = 1"
    assert found[1]["from"].split(", ")[1] == "torch-eager"
    assert found[3]["c a sample, us"] == "300.0 to 75.0"
    assert found[3]["d a sample, us"] == "100.0 to 25.0"


def test_without_a_pair_there_is_no_table_of_handles() -> None:
    assert split_tables.handles([split_of().to_dict(), COUNTED.to_dict()]) == ""


def test_operations_stand_by_model() -> None:
    other = split_of(model="wavenet:512", operations=(Operation("loop", 1, 5.0, 6.0),))
    text = split_tables.operations([split_of().to_dict(), other.to_dict(), COUNTED.to_dict()])
    first, second = text.split("\n\n")
    assert rows_of(first) == [
        ["dual:896", "R", "draw"],
        ["numpy, fp32, 2 t, B = 4", "300.0 + 10.0", "0.0 + 90.0 (2)"],
        ["wavernn_fast, fp32, emu, B = 4", "", "2 in a row"],
    ]
    assert rows_of(second)[1][1] == "5.0 + 6.0"


def test_notes_name_what_was_below_its_twin() -> None:
    text = split_tables.to_markdown([split_of().to_dict()])
    assert "numpy, fp32, 2 t, B = 4 on dual:896: faster than the twin" in text
    assert "draw by 3.0 us." in text
    assert "emu has no time" not in text
    counted = split_tables.to_markdown([COUNTED.to_dict()])
    assert "emu has no time" in counted
    assert "emu, B = 4 on dual:896: 4 messages in a row." in counted


# --- pictures -------------------------------------------------------------------------------------


def save(path: Path, *splits: Any, **more: Any) -> Path:
    rows = [s.to_dict() if isinstance(s, Split) else s for s in splits]
    path.write_text(json.dumps({"command": "x", "machine": {}, "splits": rows, **more}))
    return path


def read(path: Path) -> list[pictures_split.Bar]:
    report = bench_rows.Report(path)
    assert pictures_split.is_split(report)
    return pictures_split.read_splits(report)


def test_bars_are_read_as_the_command_writes_them(tmp_path: Path) -> None:
    [bar] = read(save(tmp_path / "s.json", split_of(), COUNTED))
    assert bar.label == "numpy, fp32, 2 t, B = 4"
    assert (bar.model, bar.sequential) == ("dual:896", 5)
    assert bar.parts == (
        pictures_split.Part("R", 300.0, 10.0),
        pictures_split.Part("draw", 0.0, 90.0),
    )
    assert (bar.computation, bar.total) == (300.0, 400.0)


def test_plans_of_a_gpu_are_told_apart(tmp_path: Path) -> None:
    plan = "NVIDIA H200: 112 blocks of 8 warps, clusters of 8, fp32, 4 exchanges a sample"
    on_gpu = split_of(device="cuda", facts={"plan": plan}).to_dict()
    [bar] = read(save(tmp_path / "s.json", on_gpu))
    words = "numpy, fp32, cuda, 112 blocks, clusters of 8, 4 exchanges, B = 4"
    assert bar.label == words
    assert rows_of(split_tables.operations([on_gpu]))[1][0] == words
    [bar] = read(save(tmp_path / "s.json", {**on_gpu, "facts": {"plan": 3}}))
    assert bar.label == "numpy, fp32, cuda, B = 4"


def test_a_file_of_counts_alone_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No row has a time"):
        read(save(tmp_path / "s.json", COUNTED))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runner": 3}, 'row 1 has no "runner"'),
        ({"sequential": None}, 'row 1 has no "sequential"'),
        ({"operations": {}}, 'row 1 has no list "operations"'),
        ({"operations": [{"name": "R", "computation_us": -1.0, "overhead_us": 0.0}]}, "not above"),
        ({"operations": ["R"]}, 'operation has no "name"'),
    ],
)
def test_odd_rows_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match="cannot be drawn") as found:
        read(save(tmp_path / "s.json", {**split_of().to_dict(), **change}))
    assert words in str(found.value)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that would have been written."""
    found: list[Any] = []
    monkeypatch.setattr(pictures_split, "save_figure", lambda figure, path: found.append(figure))
    return found


def test_a_bar_is_computation_then_overhead(figures: list[Any], tmp_path: Path) -> None:
    pictures_split.plot_splits("x.png", read(save(tmp_path / "s.json", split_of())))
    left, right = figures[0].axes
    spans = [(b.get_x(), b.get_width(), bool(b.get_hatch())) for b in left.patches]
    assert spans == [
        (0.0, 300.0, False),
        (300.0, 0.0, False),
        (300.0, 10.0, True),
        (310.0, 90.0, True),
    ]
    assert left.lines[0].get_xdata()[0] == 300.0
    assert left.texts[0].get_text() == "400 us, d 25 %"
    ends = [b.get_x() + b.get_width() for b in right.patches]
    assert ends[-1] == pytest.approx(100.0)
    assert left.get_title(loc="left") == "dual:896: N = 5"


def test_models_have_panels_and_operations_one_colour(figures: list[Any], tmp_path: Path) -> None:
    other = split_of(model="wavenet:512", sequential=62, runner="wavenet-numpy")
    pictures_split.plot_splits("x.png", read(save(tmp_path / "s.json", split_of(), other)))
    lefts = figures[0].axes[::2]
    assert [axes.get_title(loc="left") for axes in lefts] == [
        "dual:896: N = 5",
        "wavenet:512: N = 62",
    ]
    colours = [[b.get_facecolor() for b in axes.patches] for axes in lefts]
    assert colours[0] == colours[1]
    assert len(set(colours[0])) == 2
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert labels == ["R", "draw", "full: computation c", "hatched: overhead d"]


def test_many_operations_have_many_colours(figures: list[Any], tmp_path: Path) -> None:
    many = tuple(Operation(f"op {i}", 1, 1.0, 1.0) for i in range(30))
    pictures_split.plot_splits("x.png", read(save(tmp_path / "s.json", split_of(operations=many))))
    assert len({b.get_facecolor() for b in figures[0].axes[0].patches}) == 30


def test_plot_draws_the_file(tmp_path: Path) -> None:
    source, target = save(tmp_path / "s.json", split_of()), tmp_path / "s.png"
    assert run("plot", source, "-o", target).exit_code == 0
    assert imread(target).std() > 0.05
    svg = tmp_path / "s.svg"
    assert run("plot", source, "-o", svg).exit_code == 0
    assert "numpy, fp32, 2 t, B = 4" in svg.read_text()


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(InputError, match="no measurement"):
        pictures_split.plot_splits("x.png", [])


# --- the command ----------------------------------------------------------------------------------

QUICK = ("bench", "--split", "-q", "-r", 1, "--seconds", 0.01, "--threads", 1)


def test_the_command_measures_engine_and_baselines(tmp_path: Path) -> None:
    target = tmp_path / "split.json"
    sizes = "dual:32,wavenet:8"
    result = run(
        *QUICK, "--size", sizes, "--baselines", "numpy,wavenet-numpy", "--streams", "1,2",
        "--output", target,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads(target.read_text())
    what = [(s["model"], s["runner"], s["streams"]) for s in found["splits"]]
    assert what == [
        ("dual:32", "wavernn_fast", 1),
        ("dual:32", "numpy", 1),
        ("dual:32", "wavernn_fast", 2),
        ("dual:32", "numpy", 2),
        ("wavenet:8", "wavenet-numpy", 1),
        ("wavenet:8", "wavenet-numpy", 2),
    ]
    assert [s["sequential"] for s in found["splits"]] == [5, 5, 5, 5, 62, 62]
    assert found["command"].startswith("wavernn-fast bench --split")
    assert found["machine"]["cores"] >= 1
    heads, *rows = rows_of(result.stdout.split("\n\n")[0])
    assert [row[heads.index("runner")] for row in rows] == [r for _, r, _ in what]
    assert run("plot", target, "-o", tmp_path / "s.svg").exit_code == 0


def test_json_is_what_the_output_file_holds(tmp_path: Path) -> None:
    target = tmp_path / "split.json"
    result = run(*QUICK, "--size", "dual:32", "--baselines", "none", "--json", "--output", target)
    assert json.loads(result.stdout) == json.loads(target.read_text())


def test_a_pruned_model_has_no_baselines_beside_its_dense_twin(tmp_path: Path) -> None:
    result = run(*QUICK, "--size", "dual:64,dual:64:4x4:50", "--baselines", "numpy", "--json")
    found = [(s["model"], s["runner"]) for s in json.loads(result.stdout)["splits"]]
    assert found == [
        ("dual:64", "wavernn_fast"),
        ("dual:64", "numpy"),
        ("dual:64:4x4:50", "wavernn_fast"),
    ]
    result = run(*QUICK, "--size", "dual:64:4x4:50", "--baselines", "numpy", "--json")
    assert [s["runner"] for s in json.loads(result.stdout)["splits"]] == ["wavernn_fast", "numpy"]


def test_options_that_do_not_go_with_it_are_refused(tmp_path: Path) -> None:
    out = ("--output", tmp_path / "out")
    refused(run("bench", "--split", "--matvec", *out), tmp_path, "--split and --matvec")
    for style in ("csv", "jsonl"):
        refused(run("bench", "--split", "--format", style, *out), tmp_path, "md or json")


def test_without_options_it_is_the_paper_s_comparison() -> None:
    from wavernn_fast.cli import bench_split

    options: dict[str, Any] = dict.fromkeys(("matvec", "style", *bench_split._PARTS))
    bench_split.check(options)
    assert options["sizes"] == ["dual:896", "dual:896:16x1:95", "residual:512", "wavenet:512"]
    assert (options["streams"], options["threads"]) == ([1, 16], [1])
    named = {**dict.fromkeys(options), "sizes": ["dual:32"]}
    bench_split.check(named)
    assert (named["sizes"], named["streams"]) == (["dual:32"], None)
