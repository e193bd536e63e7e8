"""Every call of the system that a job makes fails once, one after the other; then it is resumed.

After each fault: no final name holds a part, no part is left, and the resumed job ends with the
bytes of one that nothing happened to.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cases
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
)
from quick import quick_where
from voices import save_voice

from wavernn_fast.errors import WaveRNNError
from wavernn_fast.jobs import journal, parts, plan
from wavernn_fast.jobs.job import Job, Policy, Summary, local_worker
from wavernn_fast.jobs.settings import Settings
from wavernn_fast.vocoder import Vocoder

FRAMES = [3, 1, 2]
MOST_CALLS = 400  # of one kind in one job; it makes far fewer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_voice(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def voc(model: Path) -> Vocoder:
    return Vocoder.from_pretrained(model)


@pytest.fixture(scope="module")
def mels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_many(tmp_path_factory.mktemp("in") / "mels", FRAMES)


@pytest.fixture(scope="module")
def undisturbed(model: Path, voc: Vocoder, mels: Path, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert job(model, voc, mels, out).run().exit_code == 0
    return files_below(out)


def job(model: Path, voc: Vocoder, mels: Path, out: Path) -> Job:
    policy, factory = Policy(plan.RESUME), local_worker(voc)
    settings = Settings(str(model), streams=2)
    return Job(items_of(mels, out), settings, out, policy, worker_factory=factory)


class Fault:
    """Fails the n-th of some calls of the system that concern one folder."""

    def __init__(self, n: int, number: int, folder: Path, partial: bool = False) -> None:
        self.n, self.number, self.folder, self.partial = n, number, str(folder), partial
        self.calls, self._lock = 0, threading.Lock()

    def hit(self, path: Any) -> None:
        """Count a call; raise if it is the one."""
        if self.folder not in os.fspath(path):
            return
        with self._lock:
            self.calls += 1
            if self.calls not in (self.n, self.n + self.partial):
                return
        raise OSError(self.number, os.strerror(self.number), os.fspath(path))


@contextmanager
def failing(fault: Fault, call: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`call` of the module `os` fails as `fault` says."""
    real, opened = getattr(os, call), dict[int, str]()
    real_open, real_close = os.open, os.close

    def open_(path, *arguments, **options):
        if call == "open":
            fault.hit(path)
        handle = real_open(path, *arguments, **options)
        opened[handle] = os.fspath(path)
        return handle

    def on_handle(handle, *arguments):
        path = opened.get(handle, "")
        try:
            fault.hit(path)
        except OSError:
            if fault.partial and fault.calls == fault.n:  # a disk that fills takes a part
                return real(handle, bytes(arguments[0])[: len(arguments[0]) // 2])
            if call == "close":
                real_close(handle)
            raise
        return real(handle, *arguments)

    def on_path(path, *arguments, **options):
        fault.hit(path)
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_)
        if call in ("write", "fsync", "close"):
            patch.setattr(os, call, on_handle)
        elif call != "open":
            patch.setattr(os, call, on_path)
        yield


def attempt(run_job: Callable[[], Summary]) -> str:
    """What a disturbed job ends in: a state, or the kind of an error in a sentence."""
    try:
        summary = run_job()
    except WaveRNNError:
        return "refused"
    except OSError:  # of the journal, at the very start
        return "raised"
    return ("done", "some left")[summary.exit_code]


# One number that ends the job and one that is of an item alone, for each call; the others that end
# it (`test_nothing_is_begun_when_no_more_can_be_written` has them all) where they are told.
CALLS = ("open", "write", "half write", "fsync", "close", "replace")
CASES = [
    *((call, number) for call in CALLS for number in (errno.ENOSPC, errno.EIO)),
    ("open", errno.EROFS),
    ("close", errno.EDQUOT),
]


@pytest.mark.parametrize(
    ("call", "number"),
    quick_where(lambda case: case[1] != errno.EIO, CASES),
    ids=[f"{call}-{errno.errorcode[n]}" for call, n in CASES],
)
def test_any_call_may_fail_and_nothing_is_lost_or_half(
    call, number, model, voc, mels, undisturbed, tmp_path, monkeypatch
):
    name, partial = call.split()[-1], call.startswith("half")
    ends = set()
    for n in range(1, MOST_CALLS):
        out = tmp_path / str(n) / "out"
        fault = Fault(n, number, out, partial)
        with failing(fault, name, monkeypatch):
            ends.add(attempt(job(model, voc, mels, out).run))
        found = files_below(out) if out.exists() else {}
        found.pop("failed.jsonl", None)
        assert found.items() <= undisturbed.items(), f"{name} {n}"
        assert not parts_below(out), f"{name} {n}"
        summary = job(model, voc, mels, out).run()
        assert summary.exit_code == 0
        assert files_below(out) == undisturbed, f"{name} {n}"
        if fault.calls < n:
            assert n > len(FRAMES)  # every item's calls have had their turn
            break
    else:
        raise AssertionError(f"{MOST_CALLS} calls were not enough")
    assert "done" in ends
    assert ends - {"done"}, "no fault was noticed"


@pytest.mark.parametrize("number", sorted(parts.FULL), ids=lambda n: errno.errorcode[n])
def test_nothing_is_begun_when_no_more_can_be_written(number, model, voc, tmp_path, monkeypatch):
    mels, out = save_many(tmp_path / "mels", [15] * 40), tmp_path / "out"
    with failing(Fault(10, number, out), "replace", monkeypatch):
        summary = job(model, voc, mels, out).run()
    assert summary.exit_code == 1
    assert summary.done >= 9
    assert len(summary.left) == 40 - summary.done > 5
    assert os.strerror(number) in summary.reason
    assert summary.needed == pytest.approx(len(summary.left) * 14 * 275 * 2, rel=0.05)
    assert summary.failed == []
    assert not (out / "failed.jsonl").exists()


def test_other_faults_are_of_the_item_alone(model, voc, mels, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with failing(Fault(2, errno.EIO, out), "replace", monkeypatch):
        summary = job(model, voc, mels, out).run()
    assert (summary.done, len(summary.failed), summary.left) == (2, 1, [])
    assert "Input/output error" in json.loads((out / "failed.jsonl").read_text())["error"]


# --- real disks -----------------------------------------------------------------------------------


def test_a_real_disk_that_fills_up(model, tmp_path):
    """A disk of 280 kB: what fits is whole, the rest is left, and a larger disk takes it."""
    out = tmp_path / "out"
    out.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk of 280 kB")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=280k", "tmpfs", str(out)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a disk of 280 kB cannot be mounted here ({mounted.stderr.strip()})")
    try:
        mels = save_many(tmp_path / "mels", [50] * 20)  # 27 kB of audio each
        arguments = ("vocode", mels, "-m", model, "-o", out)
        result = run(*arguments)
        assert result.exit_code == 1
        done = assert_whole(out)
        assert 5 <= done <= 9
        assert f"{done} done, {20 - done} left, need about" in result.stderr
        assert "No space left" in result.stderr
        assert "has 0.28 MB free" in result.stderr  # the warning before
        assert parts_below(out) == []
        subprocess.run(["mount", "-o", "remount,size=2m", str(out)], check=True)
        assert run(*arguments, "--resume").exit_code == 0
        assert assert_whole(out) == 20
        assert len(journal.finished(out)) == 20
        finished = files_below(out)
    finally:
        subprocess.run(["umount", str(out)], check=True)
    assert run(*arguments[:-1], tmp_path / "roomy").exit_code == 0
    assert files_below(tmp_path / "roomy") == finished


def test_a_disk_that_can_only_be_read_is_refused_before_work(model, mels, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    if os.geteuid() != 0:
        out.chmod(0o500)
        assert run("vocode", mels, "-m", model, "-o", out).exit_code == 2
        return
    options = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(out)]
    if subprocess.run(options, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        result = run("vocode", mels, "-m", model, "-o", out)
    finally:
        subprocess.run(["umount", str(out)], check=True)
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_a_limit_of_file_sizes_stops_the_job(model, tmp_path):
    """`ulimit -f`, in a shell of its own: the small ones are done, and the job says why it ends."""
    mels, out = save_many(tmp_path / "mels", [3, 3, 3, 200, 3, 3]), tmp_path / "out"
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from wavernn_fast.cli import main\nmain(sys.argv[1:])\n"
    )
    arguments = ("vocode", mels, "-m", model, "-o", out, "--streams", 1)
    process = start(*arguments, code=code, PYTHONDONTWRITEBYTECODE="1")  # it would be cut, too
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "File too large" in errors
    assert "Traceback" not in errors
    assert "left, need about" in errors
    done = assert_whole(out)
    assert 0 <= done <= 5
    assert parts_below(out) == []
    assert run("vocode", mels, "-m", model, "-o", out, "--resume").exit_code == 0
    assert assert_whole(out) == 6


def test_a_device_that_is_full_fails_in_a_sentence(model, mels):
    process = start("vocode", mels / "000.npy", "-m", model, "-o", "/dev/full.wav", code=(
        "import os, sys\n"
        "from wavernn_fast import audio\n"
        "from wavernn_fast.cli import main\n"
        "write = audio.write_atomic\n"
        "audio.write_atomic = lambda path, blocks: write('/dev/full', blocks)\n"
        "main(sys.argv[1:])\n"
    ))  # fmt: skip
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "'/dev/full' cannot be written (No space left on device)" in errors
    assert "Traceback" not in errors


def test_standard_output_that_is_full_fails_in_a_sentence(model, mels):
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "wavernn_fast", "vocode", str(mels / "000.npy"), "-m",
             str(model), "-o", "-"],
            stdout=full, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT},
        )  # fmt: skip
    assert result.returncode == 1
    assert "No space left on device" in result.stderr


# --- kill -9 --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_job_killed_at_random_moments_ends_as_an_undisturbed_one(model, voc, tmp_path):
    """The small form of benchmarks/job_kills.py."""
    rng = np.random.default_rng(0)
    mels = save_many(tmp_path / "mels", rng.integers(2, 30, 120).tolist())
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert job(model, voc, mels, whole).run().exit_code == 0
    expected = files_below(whole)
    for _ in range(6):
        process = start("vocode", mels, "-m", model, "-o", out, "--streams", 2, "--resume")
        size = sum(path.stat().st_size for path in journal.journals(out))
        while process.poll() is None and size == sum(
            path.stat().st_size for path in journal.journals(out)
        ):
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.15)))
        process.kill()
        process.communicate()
        found = {n: data for n, data in files_below(out).items() if ".part-" not in n}
        assert found.items() <= expected.items()
    assert run("vocode", mels, "-m", model, "-o", out, "--resume").exit_code == 0
    assert files_below(out) == expected


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_hour_long_mel_is_done_under_a_limit_of_memory(tmp_path):
    """An hour at 100 Hz, 360 000 samples: memory goes with mel and wave, not with their rows.

    The rows of the whole mel, 4 * 64 numbers for each of 180 000 frames, would take 370 MB in the
    float64 in which they are made.
    """
    from wavernn_fast import weights

    config = cases.residual_config(
        64, 16, bits=8, n_mels=4, sample_rate=100, hop_length=2, upsample_right=1
    )
    tensors = cases.random_tensors(config)
    weights.write(tmp_path / "m.safetensors", config, tensors)
    np.save(tmp_path / "long.npy", cases.random_mel(config, 3600 * 50))
    code = (
        "import resource, sys\n"
        "import wavernn_fast.cli.vocode, wavernn_fast.vocoder, soundfile, numpy, tqdm\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "limit = used + 250_000_000\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "wavernn_fast.cli.main(sys.argv[1:])\n"
    )
    out = tmp_path / "out"
    arguments = ("vocode", tmp_path / "long.npy", "-m", tmp_path / "m.safetensors", "-o", out)
    process = start(*arguments, code=code, MALLOC_ARENA_MAX="1")  # of which each reserves 64 MB
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert (out / "long.wav").stat().st_size == 44 + 2 * 3600 * 100
