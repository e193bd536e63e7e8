"""Pictures of measured speed: every figure is where the file says, and odd files are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_runner import refused, run
from matplotlib.image import imread
from quick import first_is_quick

from wavernn_fast import bench_rows, pictures_bench, pictures_latency, vocoder
from wavernn_fast.errors import InputError
from wavernn_fast.pictures_bench import plot_bench, read_bench

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
ROW = {
    "model": "dual:896",
    "dtype": "fp32",
    "isa": "avx2",
    "threads": 1,
    "streams": 1,
    "samples_per_s": 2000.0,
    "floor_samples_per_s": 2500.0,
    "x_realtime_stream": 0.1,
    "eager_samples_per_s": 500.0,
    "eager_batch_samples_per_s": None,
}


def save(path: Path, *rows: object, **more: object) -> Path:
    path.write_text(json.dumps({"command": "x", "machine": {}, "rows": rows, **more}))
    return path


def read_bench_of(path: Path) -> list[pictures_bench.Speed]:
    return read_bench(bench_rows.Report(path))


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been written."""
    found = []
    monkeypatch.setattr(pictures_bench, "save_figure", lambda figure, path: found.append(figure))
    return found


def panels(figure) -> dict[str, object]:
    """Title -> axes, of the bars; y label -> axes, of the curves."""
    found = {}
    for part in figure.subfigs:
        found |= {axes.get_title() or axes.get_ylabel(): axes for axes in part.axes}
    return found


def test_rows_are_read_as_bench_writes_them(tmp_path):
    many = {**ROW, "streams": 32, "samples_per_s": 9e3, "eager_batch_samples_per_s": 3e3}
    one, other = read_bench_of(save(tmp_path / "b.json", ROW, many))
    assert (one.model, one.series, one.streams) == ("dual:896", "fp32, 1 thread", 1)
    assert (one.samples_per_s, one.floor, one.baseline) == (2000.0, 2500.0, 500.0)
    assert one.chunk_seconds == pytest.approx(0.5)  # 50 ms at a tenth of real time
    assert other.baseline == 3e3  # a batch is compared with a batch
    assert pictures_bench.CHUNK_SECONDS == vocoder.CHUNK_SECONDS


def test_bars_marks_and_shares_stand_where_the_rows_say(figures, tmp_path):
    rows = [ROW, {**ROW, "dtype": "int8", "samples_per_s": 8000.0, "floor_samples_per_s": None}]
    plot_bench(tmp_path / "x.png", read_bench_of(save(tmp_path / "b.json", *rows)))
    panel = panels(figures[0])["dual:896, 1 stream"]
    assert [bar.get_width() for bar in panel.patches] == [2000.0, 8000.0]
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names == ["fp32, 1 thread", "int8, 1 thread"]
    lines = [(list(line.get_xdata()), line.get_marker()) for line in panel.lines]
    assert ([2500.0, 2500.0], "None") in lines  # the floor of the first, and none of the second
    assert [x for x, marker in lines if marker == "D"] == [[500.0], [500.0]]
    texts = [text.get_text() for text in panel.texts]
    assert texts == ["2,000: 80 %, 4 x", "8,000: 16 x"]
    top, bottom = panel.get_ylim()[1], panel.get_ylim()[0]
    assert top < bottom  # the first row on top
    assert len(figures[0].subfigs) == 1  # one number of streams makes no curve


def test_a_model_without_rows_of_some_streams_has_no_panel_there(figures, tmp_path):
    rows = [ROW, {**ROW, "streams": 8}, {**ROW, "model": "wavenet:512", "runner": "wavenet-numpy"}]
    plot_bench(tmp_path / "x.png", read_bench_of(save(tmp_path / "b.json", *rows)))
    shown = [axes.get_title() for axes in figures[0].subfigs[0].axes if axes.axison]
    assert shown == ["dual:896, 1 stream", "dual:896, 8 streams", "wavenet:512, 1 stream"]


def test_curves_follow_the_streams(figures, tmp_path):
    rows = [
        {**ROW, "streams": n, "samples_per_s": 1000.0 * n**0.5, "chunk_seconds": 0.01 * n}
        for n in (4, 1, 16)
    ]
    plot_bench(tmp_path / "x.png", read_bench_of(save(tmp_path / "b.json", *rows)), title="a")
    found = panels(figures[0])
    speed, wait = (axes for label, axes in found.items() if "dual" not in label)
    assert list(speed.lines[0].get_xdata()) == [1, 4, 16]
    assert list(speed.lines[0].get_ydata()) == [1000.0, 2000.0, 4000.0]
    assert list(wait.lines[0].get_ydata()) == pytest.approx([10.0, 40.0, 160.0])  # milliseconds
    assert "50 ms" in wait.get_ylabel()


@pytest.mark.slow
def test_what_bench_has_just_measured_is_drawn(tmp_path):
    file, quick = tmp_path / "bench.json", ("--rounds", 1, "--seconds", 0.01, "--streams", "1,2")
    which = ("--size", "dual:32", "--threads", 1, "--baselines", "numpy,torch-eager")
    result = run("bench", *which, *quick, "--output", file, "-q")
    assert result.exit_code == 0, result.stderr
    rows = read_bench_of(file)
    assert [(row.model, row.series, row.streams) for row in rows] == [
        ("dual:32", series, n)
        for series in ("fp32, 1 thread", "numpy", "torch-eager")
        for n in (1, 2)
    ]
    for row in rows:
        assert row.floor is not None
        assert row.baseline is not None
        assert row.chunk_seconds is not None
        assert row.threads == (1 if row.is_baseline else None)
    assert run("plot", file, "-o", tmp_path / "out.png").exit_code == 0


def test_baselines_have_bars_below_the_engines(figures, tmp_path):
    """The faster row of each; a bar that a panel lacks leaves its place empty."""
    numpy = {**ROW, "runner": "numpy", "samples_per_s": 600.0, "device": "cpu"}
    eager = {**numpy, "runner": "torch-eager", "samples_per_s": 500.0}
    rows = [
        numpy,
        {**numpy, "threads": 2, "samples_per_s": 700.0},
        {**ROW, "runner": "wavernn_fast", "device": "cpu"},
        {**eager, "samples_per_s": 1000.0, "streams": 8},
        {**ROW, "runner": "wavernn_fast", "streams": 8},
        {**eager, "device": "cuda", "samples_per_s": 900.0},
    ]
    plot_bench(tmp_path / "x.png", read_bench_of(save(tmp_path / "b.json", *rows)))
    found = panels(figures[0])
    one, many = found["dual:896, 1 stream"], found["dual:896, 8 streams"]
    names = [label.get_text() for label in one.get_yticklabels()]
    assert names == ["fp32, 1 thread", "numpy", "torch-eager", "torch-eager, cuda"]
    middle = [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in one.patches]
    assert middle == [(0, 2000.0), (1, 700.0), (3, 900.0)]
    assert [text.get_text() for text in one.texts] == [
        "2,000: 80 %, 4 x", "700 (2 t): 28 %, 1.4 x", "900: 36 %, 1.8 x",
    ]  # fmt: skip
    middle = [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in many.patches]
    assert middle == [(0, 2000.0), (2, 1000.0)]
    colours = {bar.get_facecolor() for bar in one.patches}
    assert len(colours) == 2
    diamonds = [line for line in one.lines if line.get_marker() == "D"]
    assert len(diamonds) == 1  # of the engine alone
    speed = next(axes for label, axes in found.items() if label.startswith("samples/s"))
    assert len(speed.lines) == 1  # no curve of a baseline


@pytest.mark.parametrize("ending", first_is_quick(["png", "svg"]))
@pytest.mark.parametrize("name", ["cpu_xeon_avx512_2cores_pruned896", "throughput"])
def test_the_projects_own_results_are_drawn(name, ending, tmp_path):
    [file] = [f for f in RESULTS.glob("*.json") if f.stem.endswith(name)]
    out = tmp_path / f"out.{ending}"
    result = run("plot", file, "-o", out)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    if ending == "png":
        assert min(imread(out).shape[:2]) > 400
    else:
        words = " ".join(ElementTree.parse(out).getroot().itertext())
        assert "int8, 2 threads" in re.sub(r"\s+", " ", words)


def test_every_result_with_rows_of_speed_is_read_and_others_say_what_they_lack():
    read, said = 0, []
    for file in sorted(RESULTS.glob("*.json")):
        try:
            read += len(read_bench_of(file)) > 0
        except InputError as error:
            said.append((file.name, str(error)))
    assert read >= 10
    assert len(said) >= 5
    for name, words in said:
        assert name in words
        assert "expected the JSON of" in words


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**ROW, "samples_per_s": None}, 'row 2 has no "samples_per_s"'),
        ({k: v for k, v in ROW.items() if k != "dtype"}, 'row 2 has no "dtype"'),
        ({k: v for k, v in ROW.items() if k != "threads"}, 'row 2 has no "threads"'),
        ({**ROW, "streams": 1.5}, "no whole number"),
        ({**ROW, "streams": 0}, "not above 0"),
        ({**ROW, "samples_per_s": "fast"}, '"fast", no number'),
        ({**ROW, "floor_samples_per_s": float("nan")}, "not above 0"),
        ({**ROW, "samples_per_s": 10**400}, "not above 0"),
        ({**ROW, "x_realtime_stream": True}, "true, no number"),
        ("text", 'row 2 has no "streams"'),
    ],
)
def test_a_row_that_is_odd_is_named(row, words, tmp_path):
    file = save(tmp_path / "b.json", ROW, row)
    refused(run("plot", file, "-o", tmp_path / "out.png"), tmp_path, "b.json", words)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", 'no list "rows"'),
        (b'{"rows": []}', 'no list "rows"'),
        (b'{"rows": {"a": 1}}', 'no list "rows"'),
    ],
)
def test_a_file_that_is_no_measurement_is_refused(text, words, tmp_path):
    (tmp_path / "b.json").write_bytes(text)
    refused(run("plot", tmp_path / "b.json", "-o", tmp_path / "out.png"), tmp_path, words)


def test_too_many_rows_and_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="do not fit"):
        read_bench_of(save(tmp_path / "b.json", *[ROW] * (bench_rows.MOST_ROWS + 1)))
    with pytest.raises(InputError, match="no measurement"):
        plot_bench(tmp_path / "x.png", [])


def test_hostile_names_are_text(tmp_path):
    odd = {**ROW, "model": "<b>$x^\x01\udcff", "dtype": "$_{$\n"}
    out = tmp_path / "out.svg"
    result = run("plot", save(tmp_path / "b.json", odd), "-o", out)
    assert result.exit_code == 0, result.stderr
    words = " ".join(ElementTree.parse(out).getroot().itertext())
    assert r"<b>$x^\x01\xff" in words
    assert r"$_{$\n, 1 thread" in words


# --- latency --------------------------------------------------------------------------------------

WAITS = {
    "first_chunk_seconds": [
        {"way": way, "streams": n, "chunk_frames": chunk, "median_median": 0.01 * chunk * n,
         "median_p95": 0.02 * chunk * n, "best_median": 0.001, "tries": 5}
        for way in ("pull", "push") for n in (1, 8) for chunk in (10, 1)
    ],
    "real_time": [
        {"streams": n, "median_delay": 0.04 * (n - 1), "median_first": 0.05, "best_delay": 0.01}
        for n in (4, 1)
    ],
}  # fmt: skip


def test_waits_are_drawn_over_chunk_and_company(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        pictures_latency, "save_figure", lambda figure, path: figures.append(figure)
    )
    file = tmp_path / "waits.json"
    file.write_text(json.dumps(WAITS))
    first, company = pictures_latency.read_latency(bench_rows.Report(file))
    pictures_latency.plot_latency(tmp_path / "x.png", first, company)
    left, right = figures[0].axes
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert names == ["pull, 1 stream", "pull, 8 streams", "push, 1 stream", "push, 8 streams"]
    line, _, bars = left.containers[1]
    assert list(line.get_xdata()) == [1, 10]
    assert list(line.get_ydata()) == pytest.approx([80.0, 800.0])  # milliseconds
    [segments] = [bar.get_segments() for bar in bars]
    assert [segment[1][1] for segment in segments] == pytest.approx([160.0, 1600.0])
    delay, sound, limit = right.lines
    assert (list(delay.get_xdata()), list(delay.get_ydata())) == ([1, 4], pytest.approx([1, 120]))
    assert list(sound.get_ydata()) == pytest.approx([50, 50])
    assert set(limit.get_ydata()) == {200.0}


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot_draws_waits(ending, tmp_path):
    file, out = tmp_path / "waits.json", tmp_path / f"out.{ending}"
    file.write_text(json.dumps(WAITS))
    result = run("plot", file, "-o", out)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    assert out.stat().st_size > 5000


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        ({**WAITS, "real_time": []}, 'no list "real_time"'),
        ({**WAITS, "real_time": [{"streams": 1}]}, 'real_time: row 1 has no "median_delay"'),
        (
            {**WAITS, "first_chunk_seconds": [{"way": 3}]},
            'first_chunk_seconds: row 1 has no "way"',
        ),
    ],
)
def test_waits_that_are_odd_are_named(spoiled, words, tmp_path):
    (tmp_path / "b.json").write_text(json.dumps(spoiled))
    refused(run("plot", tmp_path / "b.json", "-o", tmp_path / "out.png"), tmp_path, words)
    assert not (tmp_path / "out.png").exists()
