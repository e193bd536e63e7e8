"""Jobs: shards that begin together, inputs that are odd, a log that nobody can write."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from cli_runner import run
from job_runs import assert_whole, items_of, save_many, work
from voices import preset_mel, save_voice

from wavernn_fast import cli
from wavernn_fast.cli import common
from wavernn_fast.errors import InputError
from wavernn_fast.jobs import journal, lock
from wavernn_fast.jobs.items import collect
from wavernn_fast.jobs.job import Job, Policy
from wavernn_fast.jobs.settings import Settings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_voice(tmp_path_factory.mktemp("model"))


def test_shards_that_begin_together_do_not_take_each_others_look_for_a_job(tmp_path, monkeypatch):
    with lock.Lock(tmp_path, (0, 1)):  # a job of another cut was here, and has ended
        pass
    looks, flock = [], lock._flock

    def look(handle: int, **how: bool) -> bool:
        free = flock(handle, **how)
        if how and not looks:  # while the first shard looks whether that job still holds its lock
            looks.append(free)
            with lock.Lock(tmp_path, (1, 2)):
                looks.append(True)
        return free

    monkeypatch.setattr(lock, "_flock", look)
    with lock.Lock(tmp_path, (0, 2)):
        assert looks == [True, True]


def test_copies_below_their_recordings_are_no_recordings(tmp_path):
    for name in (
        "a.wav",
        "b/a.wav",
        "copies/a.wav",
        "copies/b/a.wav",
        "copies.wav",
        "copies/x.npy",
    ):
        (tmp_path / "recs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "recs" / name).write_bytes(b"sound")
    (tmp_path / "way").symlink_to("recs/copies")

    def found(source: str, root: str, *reads: str) -> list[str]:
        inputs = [str(tmp_path / source)]
        return [item.name for item in collect(inputs, str(tmp_path / root), reads=reads)]

    for root in ("recs/copies", "way"):
        assert found("recs", root, ".wav") == ["a.wav", "b/a.wav", "copies.wav"]
    assert found("recs", "recs/copies", ".npy") == ["copies/x.wav"]
    assert len(found("recs", "other", ".wav")) == 5
    assert found("recs/copies", "recs", ".npy") == ["x.wav"]
    with pytest.raises(InputError, match="also an input"):  # copied onto themselves
        found("recs", "recs", ".wav")


@pytest.mark.parametrize("find", [
    lambda top: collect([top], "out", reads=(".npy",)),
    lambda top: common.expand([top], (".npy",)),
])  # fmt: skip
def test_a_folder_that_cannot_be_read_is_not_left_out_unseen(find, tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.npy").touch()
    assert len(find(str(tmp_path))) == 2
    scan = os.scandir

    def denied(path):
        if os.fspath(path).endswith("b"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"'.*/b' cannot be read \(Permission denied\)"):
        find(str(tmp_path))


def test_a_folder_that_is_a_file_fails_its_own_items_alone(model, tmp_path):
    mels, out = save_many(tmp_path / "mels", [2]), tmp_path / "out"
    assert Job(items_of(mels, out), Settings(str(model)), out).run().exit_code == 0
    (mels / "000.wav").mkdir()  # whose outputs need a folder where a file is by now
    np.save(mels / "000.wav" / "x.npy", preset_mel(2))
    np.save(mels / "y.npy", preset_mel(2))
    summary = Job(items_of(mels, out), Settings(str(model)), out, Policy("resume")).run()
    assert [(one.name, one.fields["kind"]) for one in summary.failed] == [
        ("000.wav/x.wav", "AudioError")
    ]
    assert (summary.done, len(summary.skipped)) == (1, 1)


def test_that_a_file_is_written_over_is_on_the_disk_before_it_is(model, tmp_path, monkeypatch):
    """Else a cut of the power could leave the new file beside the line of the old one."""
    mels, out = save_many(tmp_path / "mels", [2]), tmp_path / "out"
    out.mkdir()
    calls, fsync, replace = [], os.fsync, os.replace

    def synced(file: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{file}"))
        lines = (out / journal.FOLDER / name).read_text() if name.startswith("journal") else ""
        calls.append("redo" if '"redo"' in lines else name)
        fsync(file)

    def renamed(part: str, target: str) -> None:
        calls.append("rename")
        replace(part, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    work(model, items_of(mels, out), out)
    assert "redo" not in calls
    assert calls[:2] == [journal.FOLDER, "out"]  # else the whole journal could be gone
    assert calls.count("rename") == 1
    calls.clear()
    work(model, items_of(mels, out), out)
    before = calls[: calls.index("rename")]
    assert before[2] == "redo"
    assert ".part-" in before[3]


@pytest.mark.parametrize("worker", ["0of1", "0of1-other"])  # its own, which it writes, another's
def test_a_journal_that_cannot_be_used_is_an_error_in_a_sentence(worker, model, tmp_path):
    mels, out = save_many(tmp_path / "mels", [2]), tmp_path / "out"
    (out / journal.FOLDER / f"journal-{worker}.jsonl").mkdir(parents=True)
    result = run("vocode", mels, "-m", model, "-o", out, *(["--resume"] if "-" in worker else []))
    assert result.exit_code == 2, result.exception
    assert f"journal-{worker}.jsonl" in result.stderr
    assert "Is a directory" in result.stderr


@pytest.mark.parametrize("target", ["out.wav", "out"])
def test_a_named_pipe_is_a_source(target, model, tmp_path):
    """As `<(program)` of a shell is; it can be read once only, and has no size."""
    pipe, out = tmp_path / "mel", tmp_path / target
    np.save(tmp_path / "mel.npy", preset_mel(3))
    os.mkfifo(pipe)
    for more in ([], ["--resume"])[: 1 + (target == "out")]:
        writer = threading.Thread(
            target=pipe.write_bytes, args=[(tmp_path / "mel.npy").read_bytes()], daemon=True
        )
        writer.start()
        assert run("vocode", pipe, "-m", model, "-o", out, *more).exit_code == 0
        writer.join()
    run("vocode", tmp_path / "mel.npy", "-m", model, "-o", tmp_path / "plain.wav")
    made = out if target == "out.wav" else out / "mel.wav"
    assert made.read_bytes() == (tmp_path / "plain.wav").read_bytes()


@pytest.mark.parametrize("left_behind", ["", "999999999 {host}\n"], ids=["free", "of a dead one"])
def test_of_two_jobs_at_one_moment_one_gets_a_lock_without_flock(
    left_behind, tmp_path, monkeypatch
):
    """The second one comes at every step of the first; there is never more than one holder."""
    monkeypatch.setattr(fcntl, "flock", _no_flock)
    steps = ["_claim", "_lives", "_read", "_owner"]
    for step, before in itertools.product(steps, (True, False)):
        root = tmp_path / f"{step}-{before}"
        (root / journal.FOLDER).mkdir(parents=True)
        if left_behind:
            text = left_behind.format(host=socket.gethostname())
            (root / journal.FOLDER / "lock-0of1.pid").write_text(text)
        held: list[lock.Lock] = []
        with monkeypatch.context() as patch, contextlib.suppress(InputError):
            patch.setattr(lock, step, _with_another(getattr(lock, step), before, root, held))
            held.append(lock.Lock(root).__enter__())
        assert len(held) == 1
        names = sorted(path.name for path in (root / journal.FOLDER).iterdir())
        assert names == ["lock-0of1", "lock-0of1.pid"]
        held[0].__exit__()
        with lock.Lock(root):
            pass


def _no_flock(*_: object) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _with_another(function, before, root, held):
    """The function; once, another job tries for the lock before or after it."""
    tried: list[bool] = []

    def call(*arguments):
        result = None if before else function(*arguments)
        if not tried:
            tried.append(True)
            with contextlib.suppress(InputError):
                held.append(lock.Lock(root).__enter__())
        return function(*arguments) if before else result

    return call


class _Full(io.TextIOBase):
    """Standard error on a disk that is full."""

    asked = 0

    def write(self, text: str) -> int:
        _Full.asked += 1
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_that_cannot_be_written_fails_no_item(model, tmp_path, monkeypatch):
    (tmp_path / "mels").mkdir()
    np.save(tmp_path / "mels" / "far.npy", 30.0 * preset_mel(2) + 40.0)  # there is a warning of it
    (tmp_path / "out").mkdir()
    logger = logging.getLogger("wavernn_fast")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)
    cli._set_up_logging(0, False)
    monkeypatch.setattr(sys, "stderr", _Full())
    outcomes = work(model, items_of(tmp_path / "mels", tmp_path / "out"), tmp_path / "out")
    monkeypatch.undo()
    assert _Full.asked
    assert [(outcome.name, outcome.state) for outcome in outcomes] == [("far.wav", "done")]


@pytest.mark.parametrize(("good", "most"), [(0, 2), (1, 10)])
def test_a_job_stops_at_the_failures_allowed_where_nothing_sounds(good, most, model, tmp_path):
    mels = save_many(tmp_path / "mels", [40] * good)
    for i in range(good, 60):
        (mels / f"{i:03}.npy").write_bytes(b"no mel")
    items, told = items_of(mels, tmp_path / "out"), []
    job = Job(items, Settings(str(model), streams=4), tmp_path / "out", Policy(max_failures=2))
    summary = job.run(told.append)
    assert 2 <= len(summary.failed) <= most
    assert summary.done == good
    assert len(told) == good + len(summary.failed)
    assert len(summary.left) == 60 - len(told)
    assert "2 items have failed" in summary.reason


@pytest.mark.parametrize(
    ("closed", "command", "words"),
    [
        ("stderr", ("vocode", "mel.npy", "-o", "out"), None),
        ("stdin", ("vocode", "-", "-o", "out"), "standard input is closed"),
        ("stdout", ("vocode", "mel.npy", "-o", "-"), "standard output is closed"),
        ("stdin", ("stream", "-", "--raw-mel", "-o", "out.wav"), "standard input is closed"),
    ],
    ids=["no stderr", "no stdin", "no stdout", "no stdin for frames"],
)
def test_a_standard_stream_that_is_closed(
    closed, command, words, model, tmp_path, monkeypatch, capfd
):
    """Python has None for it, as where a script or a service manager has none for the command."""
    np.save(tmp_path / "mel.npy", preset_mel(2))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, closed, None)
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "-m", str(model)])
    monkeypatch.undo()
    assert bool(ended.value.code) == bool(words)
    if words is None:
        assert (tmp_path / "out" / "mel.wav").exists()
    else:
        assert words in capfd.readouterr().err


def test_a_log_without_standard_error_is_not_in_the_sound(monkeypatch, capfd):
    logger = logging.getLogger("wavernn_fast")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)
    cli._set_up_logging(0, False)
    monkeypatch.setattr(sys, "stderr", None)
    logger.warning("nobody hears this")
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_children_of_a_command_without_standard_error_work(model, tmp_path):
    mels, out = save_many(tmp_path / "mels", [2, 3]), tmp_path / "out"
    command = ["vocode", str(mels), "-m", str(model), "-o", str(out), "--isolate"]
    closes = (
        "import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    code = subprocess.run([sys.executable, "-c", closes, "-m", "wavernn_fast", *command]).returncode
    assert code == 0
    assert assert_whole(out) == 2


def test_the_result_is_told_where_nobody_hears_of_failures(model, tmp_path, monkeypatch, capfd):
    (tmp_path / "mels").mkdir()
    (tmp_path / "mels" / "bad.npy").write_bytes(b"no mel")
    arguments = ["vocode", str(tmp_path / "mels"), "-m", str(model), "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "stderr", _Full())
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--json"])
    monkeypatch.undo()
    assert ended.value.code == 1
    assert len(json.loads(capfd.readouterr().out)["failed"]) == 1
