"""The report of a job: what the journals say, and a page that harms nobody."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from cli_runner import refused, run
from job_runs import items_of
from journals import HOSTILE, MODEL, START, Journal, busy_job
from matplotlib.image import imread
from voices import save_mels, save_voice

from wavernn_fast import job_history, job_report, svg, words
from wavernn_fast.errors import AudioError, InputError
from wavernn_fast.jobs import plan
from wavernn_fast.jobs.job import Job, Policy
from wavernn_fast.jobs.settings import Settings
from wavernn_fast.jobs.stop import Stop
from wavernn_fast.visible import visible

NOW = START + 4000.0


def page(folder: Path) -> str:
    return job_report.render(job_history.read_history(folder), NOW)


class Reader(HTMLParser):
    """Tags, attributes and texts, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.values: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)
        self.names |= {name for name, _ in attrs}
        self.values += [value or "" for _, value in attrs]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data + " "


# --- reading --------------------------------------------------------------------------------------


def test_a_job_of_two_workers_that_was_killed_and_resumed_is_read_whole(tmp_path):
    history = job_history.read_history(busy_job(tmp_path, 400))
    assert (len(history.done), len(history.failed), history.left) == (394, 6, 0)
    assert [(run.worker, not run.is_open) for run in history.runs] == [
        ("0", False), ("1", False), ("0", True), ("1", True),
    ]  # fmt: skip
    assert history.ignored == 1  # the torn line
    assert set(history.failed) == set(HOSTILE)
    assert history.open_runs == []
    assert history.audio_seconds == pytest.approx(sum(r.audio_seconds for r in history.runs))
    assert len(history.periods()) == 2  # before the kill, after the resume
    assert sum(b - a for a, b in history.periods()) < 100.0 < NOW - START


def test_a_job_that_is_still_running_knows_what_is_left(tmp_path):
    history = job_history.read_history(busy_job(tmp_path, 400, running=True))
    assert len(history.done) + len(history.failed) + history.left == 400
    assert len(history.open_runs) == 2
    assert "About" in page(tmp_path)
    assert "at work, or killed" in page(tmp_path)


def test_the_last_line_about_an_item_holds_and_done_beats_a_failure_elsewhere(tmp_path):
    one = Journal(tmp_path, "0").begin(3)
    one.failed("a.wav", "first")
    one.done("b.wav", 2.0, 1.0)
    one.failed("c.wav", "before")
    one.at += 10
    one.begin(2)
    one.done("a.wav", 1.0, 1.0)
    one.failed("b.wav", "changed and now damaged")
    Journal(tmp_path, "1", START + 20).begin(1).done("c.wav", 1.0, 1.0)
    (tmp_path / "failed.jsonl").write_text(
        json.dumps({"name": "a.wav", "source": "a", "error": "old", "kind": "InputError"})
        + "\n"
        + json.dumps({"name": "d.wav", "source": "d", "error": "refused", "kind": "InputError"})
        + "\n"
    )
    history = job_history.read_history(tmp_path)
    assert set(history.done) == {"a.wav", "c.wav"}
    assert {f.name: f.error for f in history.failed.values()} == {
        "b.wav": "changed and now damaged",
        "d.wav": "refused",
    }


def test_a_job_resumed_with_fewer_workers_has_left_what_the_last_run_says(tmp_path):
    for worker in ("0", "1"):
        Journal(tmp_path, worker).begin(10).done(f"{worker}.wav", 1.0, 5.0)
    assert job_history.read_history(tmp_path).left == 18
    Journal(tmp_path, "0", START + 100.0).begin(18).done("b.wav", 1.0, 1.0)
    assert job_history.read_history(tmp_path).left == 17


def test_shards_of_an_array_add_up_at_whatever_time_they_ran(tmp_path):
    for i in (1, 2, 3):
        journal = Journal(tmp_path, f"{i}of3-0", START + 1000.0 * i).begin(10)
        for k in range(i):
            journal.done(f"{i}/{k}.wav", 1.0, 1.0)
    history = job_history.read_history(tmp_path)
    assert (len(history.done), history.left) == (6, 9 + 8 + 7)


def test_a_job_cut_into_another_number_of_shards_is_another_job(tmp_path):
    Journal(tmp_path, "0of1").begin(100).done("a.wav", 1.0, 1.0)
    for shard in ("0of2", "1of2"):
        Journal(tmp_path, shard, START + 50.0).begin(30)
    assert job_history.read_history(tmp_path).left == 60


def test_workers_that_take_items_one_by_one_leave_the_counting_to_the_job(tmp_path):
    job = Journal(tmp_path, "0of1", START - 1.0, kind="job")
    for worker in ("0of1-0", "0of1-1"):
        journal = Journal(tmp_path, worker).begin(None)
        journal.done(f"{worker}.wav", 1.0, 1.0)
    aside = Journal(tmp_path, "0of1-aside", START + 1.0)
    aside.failed("bad.wav", "The process died twice.", "EngineError")
    assert job_history.read_history(tmp_path).left is None
    assert "unknown" in Reader(page(tmp_path)).words
    job.write(state="job", items=10)
    journal_of_a_day_before = Journal(tmp_path, "0of1-2", START - 9e4).begin(None)
    journal_of_a_day_before.done("old.wav", 1.0, 1.0)  # of a device that is gone now
    history = job_history.read_history(tmp_path)
    assert (history.left, history.is_open) == (7, True)
    assert [run.worker for run in history.open_runs] == ["0of1-0", "0of1-1"]
    journal.end()
    Journal(tmp_path, "0of1-0", START + 2.0).write(state="end", left=0)
    job.write(state="over", done=2, failed=1, left=7, reason="The disk <is> full.")
    history = job_history.read_history(tmp_path)
    assert (history.left, history.open_runs, history.is_open) == (7, [], False)
    assert "Stopped with 7 left; with --resume it goes on. The disk <is> full." in Reader(
        page(tmp_path)
    ).words  # fmt: skip


def test_copies_show_how_close_they_are(tmp_path):
    journal = Journal(tmp_path, "0of1").begin(4)
    for i, close in enumerate((0.91, 0.95, None, -0.5)):
        journal.at += 1.0
        fields = {"name": f"{i}.wav", "seconds": 1.0, "mel_correlation": close}
        journal.write(state="done", **fields)
    assert job_history.read_history(tmp_path).correlations == {"0.wav": 0.91, "1.wav": 0.95}
    shown = Reader(page(tmp_path)).words
    assert "Mean 0.9300, lowest 0.9100" in shown
    assert "log-mel correlation" in shown


def test_rounds_of_a_process_are_one_run(tmp_path):
    journal = Journal(tmp_path, "0of1-0")
    for i in range(5):
        journal.begin(None).done(f"{i}.wav", 2.0, 3.0)
        journal.end()
        journal.at += 0.01
    journal.at += 10.0  # another process
    journal.begin(None)
    first, second = job_history.read_history(tmp_path).runs
    assert (first.done, len(first.ends), first.is_open, second.is_open) == (5, 5, False, True)
    assert first.seconds == pytest.approx(15.04)
    words_of_times = Reader(page(tmp_path)).words
    assert "2 runs of 1 worker" in words_of_times
    assert "engine 13.5 s 90.0 %" in " ".join(words_of_times.split())


def test_lines_of_the_wrong_kind_never_stop_the_reading(tmp_path):
    journal = Journal(tmp_path, "0")
    odd = (
        {"state": "done", "name": ["x"], "seconds": "long", "at": None},
        {"state": "begin", "items": float("inf"), "at": 1e308, "model": {"a": 1}},
        {"state": "done", "name": "y.wav", "seconds": -4, "at": "today", "bytes": 1e400},
        {"state": "end", "left": True, "wall_seconds": float("nan"), "at": -1},
        {"state": 7},
        {"state": "failed", "name": "z.wav", "error": None, "kind": 12},
    )
    for entry in odd:
        journal.write(**entry)
    with journal.path.open("ab") as file:
        file.write(b'[1, 2]\nnull\n"done"\n{"state": \n\xff\xfe\x00\n' + b"[" * 100_000 + b"\n")
        file.write(b'{"state":"done","name":"raw-\xff.wav","at":1e17,"seconds":1}\n')
    history = job_history.read_history(tmp_path)
    assert set(history.done) == {"", "y.wav", "raw-\udcff.wav"}
    assert history.ignored == 6
    text = page(tmp_path)
    assert Reader(text).words.count("z.wav") == 1
    assert "NaN" not in text


def test_folders_without_a_job_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no journal.*vocode"):
        job_history.read_history(tmp_path)
    (tmp_path / ".wavernn-fast").mkdir()
    (tmp_path / ".wavernn-fast" / "journal-0.jsonl").write_bytes(b'{"sta')
    with pytest.raises(InputError, match="no line of a job yet"):
        job_history.read_history(tmp_path)
    (tmp_path / ".wavernn-fast" / "journal-1.jsonl").mkdir()
    with pytest.raises(AudioError, match="journal-1"):
        job_history.read_history(tmp_path)


def test_a_real_job_that_was_stopped_and_resumed_is_reported(tmp_path):
    mels, model, out = save_mels(tmp_path / "mels"), save_voice(tmp_path), tmp_path / "out"
    np.save(mels / "bad.npy", np.zeros((40, 3), np.float32))
    items, settings, stop = items_of(mels, out), Settings(str(model), streams=1), Stop()
    stop.request("Enough for today.")
    Job(items, settings, out, stop=stop).run()
    history = job_history.read_history(out)
    assert (len(history.done), history.left, history.is_open) == (0, 4, False)
    assert "Stopped with 4 left; with --resume it goes on. Enough for today." in page(out)
    summary = Job(items, settings, out, Policy(plan.RESUME)).run()
    history = job_history.read_history(out)
    assert (set(history.done), set(history.failed)) == ({"a.wav", "b/c.wav", "d.wav"}, {"bad.wav"})
    assert (history.left, history.is_open, history.ignored) == (0, False, 0)
    assert history.audio_seconds == pytest.approx(summary.audio_seconds)
    assert history.bytes_written == sum(path.stat().st_size for path in out.rglob("*.wav"))
    shown = Reader(page(out)).words
    for part in ("Finished; 1 failed.", "bad.wav", "the model takes 80 bins", model.name):
        assert part in shown


# --- the page -------------------------------------------------------------------------------------


def test_the_page_shows_what_the_journals_say(tmp_path):
    shown = Reader(page(busy_job(tmp_path))).words
    for part in (
        "394", "items done", "real-time factor", "Throughput", "Durations", "engine 2", "90.0 %",
        "conditioning",
        "Outside the engine: 10.0 %",
        "4 runs of 2 workers", "no end written", MODEL, "avx512vnni", "fp32", "InputError: 6",
        "2023-11-14 22:13:20 UTC", "1 line was no JSON", "Finished; 6 failed.",
    ):  # fmt: skip
        assert part in shown, part


def test_names_of_files_are_text_and_nothing_else(tmp_path):
    text = page(busy_job(tmp_path))
    reader = Reader(text)
    forbidden = {"script", "img", "link", "iframe", "object", "form", "a", "base", "b"}
    assert not forbidden & set(reader.tags)
    assert not {name for name in reader.names if name.startswith("on")}
    for name in HOSTILE:
        assert visible(name) in reader.words
    assert not [c for c in text if (ord(c) < 32 and c != "\n") or "\u2028" <= c <= "\u206f"]
    text.encode("utf-8")  # no half of a pair


def test_the_page_loads_nothing_and_runs_nothing(tmp_path):
    text = page(busy_job(tmp_path))
    assert "default-src 'none'" in text
    reader = Reader(text)
    assert not {"src", "href", "srcset", "data", "action", "xlink:href"} & reader.names
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_thousands_of_failures_are_counted_and_the_page_stays_small(tmp_path):
    journal = Journal(tmp_path, "0").begin(5000)
    for i in range(5000):
        journal.failed(f"{i:05d}.wav", "x" * 5000, "AudioError" if i % 2 else "InputError")
    text = page(tmp_path)
    assert "InputError: 2,500" in text
    assert "4,000 more are in failed.jsonl" in text
    assert len(text) < 1_000_000


def test_a_job_that_has_only_begun_has_a_page(tmp_path):
    Journal(tmp_path, "0").begin(7)
    text = page(tmp_path)
    assert "No run has ended yet" in text
    assert "<dt>left</dt><dd>7</dd>" in text
    assert "<figure>" not in text  # there is nothing to draw yet


# --- parts ----------------------------------------------------------------------------------------


def test_hidden_characters_are_made_visible():
    assert visible("plain name.wav") == "plain name.wav"
    assert visible("Grüße 語.wav") == "Grüße 語.wav"
    assert visible("a\x00\n\x1b\udcff\u202e\u200b\ud83d") == r"a\x00\n\x1b\xff\u202e\u200b\ud83d"
    assert visible("abcdefghij", 7) == "ab...ij"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.01234, "0.0123 s"), (59.9, "59.9 s"), (61.0, "1 min 1 s"), (3 * 3600.0, "3 h 0 min"),
        (721.6 * 3600, "722 h"), (1e7 * 3600, "10,000,000 h"),
    ],
)  # fmt: skip
def test_durations_are_short(seconds, text):
    assert words.duration(seconds) == text


def test_dates_that_are_none_are_question_marks():
    assert words.date_time(START) == "2023-11-14 22:13:20 UTC"
    assert {words.date_time(at) for at in (None, 0.0, 1e30, float("nan"))} == {"?"}


@pytest.mark.parametrize("high", [1e-6, 0.3, 1.0, 7.0, 99.0, 1234.5, 3e9])
def test_ticks_are_round_and_cover_the_axis(high):
    found = svg.ticks(high)
    assert found[0] == 0.0
    assert 2 <= len(found) <= 7
    assert found[-1] <= high * (1 + 1e-6) < found[-1] + 1.01 * found[1]
    assert f"{found[1]:.0e}"[0] in "125"


def test_ticks_of_a_part_of_an_axis_lie_within_it():
    assert svg.ticks(530.0, 480.0) == [480.0, 500.0, 520.0]
    chart = svg.columns([1.0, 2.0], 530.0, low_x=480.0, x_label="x", y_label="y", title="t")
    assert "505 to 530: 2" in chart
    places = [float(x) for x in re.findall(r'class="bar" x="([\d.]+)"', chart)]
    assert places[0] < 48.0 < 200.0 < places[1]


def test_columns_are_as_high_as_their_values():
    chart = svg.columns([1.0, 0.0, 4.0], 3.0, x_label="<x>", y_label="y&", title='a "t"')
    heights = [float(h) for h in re.findall(r'class="bar".*?height="([\d.]+)"', chart)]
    assert heights[1] / heights[0] == pytest.approx(4.0, rel=0.01)
    assert len(heights) == 2
    assert "&lt;x&gt;" in chart
    assert "y&amp;" in chart
    assert "a &quot;t&quot;" in chart
    widths = re.findall(r'width="([\d.]+)"', svg.stacked([
        svg.Part("a", 3.0, "good"), svg.Part("b", 0.0, "bad"), svg.Part("c", 1.0, "rest"),
    ], "t"))  # fmt: skip
    assert [float(w) for w in widths] == [750.0, 250.0]


# --- the command ----------------------------------------------------------------------------------


def test_plot_makes_a_report_of_a_folder(tmp_path):
    folder = busy_job(tmp_path / "wavs")
    result = run("plot", folder, "-o", tmp_path / "made" / "report.html")
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    assert "394" in (tmp_path / "made" / "report.html").read_text()
    piped = run("plot", folder, "-o", "-")
    assert piped.stdout_bytes.startswith(b"<!DOCTYPE html>")


def test_plot_refuses_reports_that_it_cannot_make(tmp_path):
    folder = busy_job(tmp_path / "wavs", 8)
    out = ("-o", tmp_path / "out")
    refused(run("plot", folder, "-o", tmp_path / "out.png"), tmp_path, ".html")
    refused(run("plot", folder, folder, "-o", tmp_path / "out.html"), tmp_path, "alone")
    (tmp_path / "empty").mkdir()
    refused(run("plot", tmp_path / "empty", "-o", tmp_path / "out.html"), tmp_path, "no journal")
    wav = tmp_path / "a.wav"
    wav.write_bytes(b"x")
    refused(run("plot", wav, "-o", tmp_path / "out.html"), tmp_path, "folder")
    refused(run("plot", folder, *out), tmp_path, ".html")


def test_no_extra_is_needed_for_a_report(tmp_path, monkeypatch):
    import sys

    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    result = run("plot", busy_job(tmp_path, 8), "-o", tmp_path / "report.html")
    assert result.exit_code == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_draws_the_page(tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("needs Chromium")
    file, shot = tmp_path / "report.html", tmp_path / "shot.png"
    job_report.write_report(file, job_history.read_history(busy_job(tmp_path)), NOW)
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1200"]
    subprocess.run(
        [*command, f"--screenshot={shot}", file.as_uri()],
        check=True,
        capture_output=True,
        timeout=300,
    )
    pixels = imread(shot)[..., :3]
    assert pixels.shape[1] == width
    blue = (pixels[..., 2] > 0.55) & (pixels[..., 0] < 0.3)  # bars of the charts
    green = (pixels[..., 1] > 0.45) & (pixels[..., 0] < 0.3) & (pixels[..., 2] < 0.4)  # done
    assert blue.mean() > 0.003
    assert green.mean() > 0.002
