"""Jobs: what a second run does, what is refused, who may work on a folder, how one is stopped."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cli_runner import run
from job_runs import (
    ROOT,
    assert_whole,
    files_below,
    items_of,
    parts_below,
    save_many,
    start,
    wait_for,
)
from patience import soon, within
from voices import preset_mel, save_mels, save_voice

from wavernn_fast.errors import InputError
from wavernn_fast.jobs import journal, lock, plan
from wavernn_fast.jobs.job import Job, Policy
from wavernn_fast.jobs.settings import Settings
from wavernn_fast.jobs.stop import Stop

RESUME = Policy(plan.RESUME)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_voice(tmp_path_factory.mktemp("model"))


@pytest.fixture
def mels(tmp_path: Path) -> Path:
    return save_mels(tmp_path / "mels")


def names(outcomes_of: Job) -> set[str]:
    """Run a job and name what it did."""
    did: set[str] = set()
    outcomes_of.run(lambda outcome: did.add(outcome.name))
    return did


# --- what a second run does -----------------------------------------------------------------------


def test_outputs_that_exist_are_refused_until_it_is_said_what_becomes_of_them(
    model, mels, tmp_path
):
    out = tmp_path / "out"
    arguments = ("vocode", mels, "-m", model, "-o", out)
    assert run(*arguments).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    result = run(*arguments)
    assert result.exit_code == 2
    for words in ("3 of 3 outputs exist", "a.wav", "--resume", "--skip-existing", "--overwrite"):
        assert words in result.stderr
    for option, done in (("--resume", 0), ("--skip-existing", 0), ("--overwrite", 3)):
        report = json.loads(run(*arguments, option, "--json").stdout)
        assert (len(report["done"]), len(report["skipped"])) == (done, 3 - done)
        now = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
        assert (now == before) == (done == 0)
    assert "exclude each other" in run(*arguments, "--resume", "--overwrite").stderr


def test_resume_redoes_what_is_missing_or_differs_and_nothing_else(model, mels, tmp_path):
    out = tmp_path / "out"
    items, settings = items_of(mels, out), Settings(str(model))
    everything = {"a.wav", "b/c.wav", "d.wav"}

    def resumed(with_settings: Settings = settings) -> set[str]:
        return names(Job(items, with_settings, out, RESUME))

    assert resumed() == everything  # nothing there yet: it just begins
    finished = files_below(out)
    assert resumed() == set()
    (out / "a.wav").unlink()
    with (out / "d.wav").open("ab") as file:
        file.write(b"\0")
    assert resumed() == {"a.wav", "d.wav"}
    (out / "a.wav").unlink()
    (out / "a.wav").symlink_to(out / "d.wav")  # a link is no output of ours
    assert resumed() == {"a.wav"}
    assert files_below(out) == finished
    for path in mels.rglob("*.npy"):  # dates do not matter
        os.utime(path, (0, 0))
    assert resumed() == set()
    np.save(mels / "d.npy", preset_mel(2, 9))  # as long as before
    assert resumed() == {"d.wav"}
    assert resumed(Settings(str(model), seed=1)) == everything
    assert resumed() == everything
    assert resumed() == set()
    other = save_voice(tmp_path, "other.safetensors")
    other.write_bytes(other.read_bytes())
    assert resumed(Settings(str(other), device="cpu", threads=1, streams=1)) == set()


def test_a_file_written_over_by_a_run_that_was_killed_is_not_taken_for_the_old_one(
    model, mels, tmp_path, monkeypatch
):
    """Same length, another seed, and killed between the rename and the line in the journal."""
    out, write = tmp_path / "out", journal.Journal.write
    items = items_of(mels, out)
    names(Job(items, Settings(str(model)), out))
    before = files_below(out)

    def killed(self, state, **fields):
        if state == "done":
            raise OSError("as if killed")
        write(self, state, **fields)

    monkeypatch.setattr(journal.Journal, "write", killed)
    assert Job(items, Settings(str(model), seed=1), out, Policy(plan.OVERWRITE)).run().done == 0
    monkeypatch.undo()
    assert files_below(out) != before
    names(Job(items, Settings(str(model)), out, RESUME))
    assert files_below(out) == before


def test_another_model_of_the_same_name_is_noticed(mels, tmp_path):
    from wavernn_fast import weights
    from wavernn_fast.synthetic import random_model

    model, out = save_voice(tmp_path), tmp_path / "out"
    items = items_of(mels, out)
    assert len(names(Job(items, Settings(str(model)), out))) == 3
    config, tensors = random_model("residual:32")
    tensors["fc3.bias"] = tensors["fc3.bias"] + np.float32(0.5)
    weights.write(model, config, tensors)
    assert len(names(Job(items, Settings(str(model)), out, RESUME))) == 3


def test_resume_never_takes_files_of_others_for_its_own(model, mels, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.wav").write_bytes(b"mine")
    with pytest.raises(InputError, match="no journal says what made them"):
        Job(items_of(mels, out), Settings(str(model)), out, RESUME).run()
    assert (out / "a.wav").read_bytes() == b"mine"
    assert list(out.iterdir()) == [out / "a.wav"]


def test_failures_are_listed_retried_and_forgotten_when_mended(model, mels, tmp_path):
    out, listed = tmp_path / "out", tmp_path / "out" / "failed.jsonl"
    for name in ("bad", "worse"):
        np.save(mels / f"{name}.npy", np.zeros((40, 3), np.float32))
    job = Job(items_of(mels, out), Settings(str(model)), out)
    assert job.run().exit_code == 1
    entries = [json.loads(line) for line in listed.read_text().splitlines()]
    assert sorted(entry["name"] for entry in entries) == ["bad.wav", "worse.wav"]
    assert set(entries[0]) == {"name", "source", "error", "kind"}
    np.save(mels / "bad.npy", preset_mel(2))
    again = Job(items_of(mels, out), Settings(str(model)), out, RESUME)
    assert names(again) == {"bad.wav", "worse.wav"}
    assert [json.loads(line)["name"] for line in listed.read_text().splitlines()] == ["worse.wav"]
    (mels / "worse.npy").unlink()
    assert Job(items_of(mels, out), Settings(str(model)), out, RESUME).run().exit_code == 0
    assert not listed.exists()


def test_failures_of_before_stay_listed_until_their_items_are_tried_again(model, mels, tmp_path):
    out = tmp_path / "out"
    np.save(mels / "bad.npy", np.zeros((40, 3), np.float32))
    Job(items_of(mels, out), Settings(str(model)), out).run()
    before, stop = (out / "failed.jsonl").read_text(), Stop()
    stop.request("at once")
    Job(items_of(mels, out), Settings(str(model)), out, RESUME, stop=stop).run()
    assert (out / "failed.jsonl").read_text() == before


def test_a_job_stops_at_the_number_of_failures_allowed(model, tmp_path):
    mels, out = save_many(tmp_path / "mels", [20] * 60), tmp_path / "out"
    for i in range(0, 60, 3):
        np.save(mels / f"{i:03}.npy", np.zeros((40, 3), np.float32))
    arguments = ("vocode", mels, "-m", model, "-o", out, "--streams", 1, "--json")
    result = run(*arguments, "--max-failures", 2)
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert len(report["failed"]) >= 2
    assert len(report["left"]) > 0
    assert "2 items have failed" in result.stderr
    assert len(report["done"]) + len(report["failed"]) + len(report["left"]) == 60
    assert len(json.loads(run(*arguments, "--resume").stdout)["failed"]) == 20


# --- who works on a folder ------------------------------------------------------------------------


def test_two_jobs_on_one_folder_are_refused_and_two_shards_are_not(tmp_path):
    with lock.Lock(tmp_path, (0, 2)):
        with pytest.raises(InputError, match=rf"process {os.getpid()} on '.*--shard"):
            lock.Lock(tmp_path, (0, 2)).__enter__()
        for other in ((0, 1), (2, 3)):  # the same job cut in another way
            with pytest.raises(InputError, match="Another job works"):
                lock.Lock(tmp_path, other).__enter__()
        with lock.Lock(tmp_path, (1, 2)):
            pass
    with lock.Lock(tmp_path, (0, 1)) as held:
        mine = ("0of1", "0of1-2", "3of4", "3of4-ray1")
        assert all(held.owns_parts_of(worker) for worker in mine)
        assert not any(held.owns_parts_of(worker) for worker in ("1of1", "123", "x0of1", "of"))
    with lock.Lock(tmp_path, (1, 2)) as held:
        assert not held.owns_parts_of("0of2-1")
        assert held.owns_parts_of("1of2")


def test_where_there_is_no_flock_a_file_stands_for_it(tmp_path, monkeypatch):
    import errno
    import fcntl
    import socket

    def unsupported(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    file = tmp_path / journal.FOLDER / "lock-0of1.pid"
    with lock.Lock(tmp_path):
        assert file.read_text() == f"{os.getpid()} {socket.gethostname()}\n"
        for shard in ((0, 1), (0, 2)):
            with pytest.raises(InputError, match=r"delete '.*lock-0of1\.pid'"):
                lock.Lock(tmp_path, shard).__enter__()
    assert not file.exists()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True).stdout.strip()  # fmt: skip
    for left_behind in (f"{gone} {socket.gethostname()}\n", ""):
        file.write_text(left_behind)
        with lock.Lock(tmp_path):
            assert str(os.getpid()) in file.read_text()
    file.write_text("1 another-machine\n")
    with pytest.raises(InputError, match="process 1 on 'another-machine'"):
        lock.Lock(tmp_path).__enter__()


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_killed_one_frees_the_folder(model, tmp_path):
    mels, out = save_many(tmp_path / "mels", [700] * 4), tmp_path / "out"
    arguments = ("vocode", mels, "-m", model, "-o", out)
    first = start(*arguments, "--streams", 1)
    wait_for(lambda: journal.journals(out), first)
    second = run(*arguments, "--resume")
    assert second.exit_code == 2
    assert f"process {first.pid}" in second.stderr
    first.kill()
    first.wait()
    assert run(*arguments, "--resume").exit_code == 0
    assert assert_whole(out) == 4


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@soon
def test_a_signal_ends_the_job_within_a_second_and_says_what_is_left(number, model, tmp_path):
    mels, out = save_many(tmp_path / "mels", [200] * 300), tmp_path / "out"
    process = start("vocode", mels, "-m", model, "-o", out, "--streams", 2, "--json")
    wait_for(lambda: list(out.rglob("*.wav")), process)
    begun = time.monotonic()
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    within(1.5, begun)
    assert process.returncode == 130
    report = json.loads(output)
    done, left = len(report["done"]), len(report["left"])
    assert 0 < done < 300
    assert done + left == 300
    assert f"{done} done, {left} left" in errors
    assert "Traceback" not in errors
    assert parts_below(out) == []
    assert set(journal.finished(out)) == {entry["name"] for entry in report["done"]}
    assert assert_whole(out) == done
    *_, end = journal.lines(journal.journals(out)[0])
    assert (end["state"], end["done"], end["left"]) == ("end", done, left)


@soon
def test_the_second_signal_ends_at_once(model, tmp_path):
    """Writing that hangs keeps a job from ending in order; a second Ctrl-C does not ask it."""
    code = (
        "import os, sys, time\n"
        "from wavernn_fast.jobs import parts\n"
        "def hang(*arguments):\n"
        "    os.write(1, b'hangs\\n')\n"
        "    time.sleep(60)\n"
        "parts.write = hang\n"
        "from wavernn_fast.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    mels, out = save_many(tmp_path / "mels", [2] * 3), tmp_path / "out"
    process = start("vocode", mels, "-m", model, "-o", out, code=code)
    assert process.stdout.readline() == "hangs\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=40) == 130
    ended = time.monotonic()
    process.communicate()
    within(1.0, begun, ended)  # of the minute that the writing hangs


def test_an_interpreter_that_ends_while_a_job_works_does_not_hang(model, tmp_path):
    code = (
        "import sys\n"
        "from wavernn_fast.jobs.items import collect\n"
        "from wavernn_fast.jobs.settings import Settings\n"
        "from wavernn_fast.jobs.work import LocalWorker\n"
        "mels, model, out = sys.argv[1:]\n"
        "items = collect([mels], out, reads=('.npy',))\n"
        "run = LocalWorker(Settings(model, streams=1), out).run(items)\n"
        "print(next(run).name)\n"  # and the program ends, with files read and waves in flight
    )
    mels, out = save_many(tmp_path / "mels", [30] * 100), tmp_path / "out"
    out.mkdir()
    begun = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", code, str(mels), str(model), str(out)],
        capture_output=True, text=True, timeout=30, env={**os.environ, "PYTHONPATH": ROOT},
    )  # fmt: skip
    assert time.perf_counter() - begun < 20
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert parts_below(out) == []
    assert set(journal.finished(out)) == set(files_below(out))
    assert 0 < assert_whole(out) < 100


def test_a_job_outside_the_main_thread_leaves_signals_alone(model, mels, tmp_path):
    before, codes = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        out = tmp_path / "out"
        codes.append(Job(items_of(mels, out), Settings(str(model)), out).run().exit_code)
        assert signal.getsignal(signal.SIGTERM) is before

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [0]


# --- what is said ---------------------------------------------------------------------------------


def test_the_time_is_split_and_the_share_outside_the_engine_is_given(model, tmp_path):
    mels, out = save_many(tmp_path / "mels", [60] * 20), tmp_path / "out"
    result = run("vocode", mels, "-m", model, "-o", out, "--json")
    time_of = json.loads(result.stdout)["time"]
    wall, engine = time_of["wall_seconds"], time_of["engine_seconds"]
    assert 0 < engine < wall
    assert time_of["overhead"] == pytest.approx(1 - engine / wall)
    for part in ("read", "write", "journal", "conditioning"):
        assert 0 < time_of[f"{part}_seconds"] < wall
    assert time_of["waiting_seconds"] >= 0
    assert time_of["samples"] == 20 * 59 * 275


def test_a_disk_that_is_too_small_is_told_of_before(model, mels, tmp_path, monkeypatch, caplog):
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING, "wavernn_fast"):
        Job(items_of(mels, out), Settings(str(model)), out, Policy(growth=2.0)).run()
    size = sum(path.stat().st_size for path in mels.rglob("*.np*"))
    assert f"about {2 * size / 1e6:.2f} MB" in caplog.text
    assert "0.00 MB free" in caplog.text


def test_parts_of_a_killed_run_are_removed_and_those_of_others_are_not(model, mels, tmp_path):
    out = tmp_path / "out"
    (out / "b").mkdir(parents=True)
    stale = [out / ".0123abcd.part-0of1", out / "b" / ".0123abcd.part-0of1-3"]
    foreign = [out / ".0123abcd.part-4711", out / "b" / "notes.part-0of1"]
    for path in (*stale, *foreign):
        path.touch()
    Job(items_of(mels, out), Settings(str(model)), out).run()
    assert not any(path.exists() for path in stale)
    assert all(path.exists() for path in foreign)
