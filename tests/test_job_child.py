"""Engines in processes of their own: whatever ends one, the job goes on, and nothing hangs."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import job_workers
import pytest
from job_workers import contents, into, job
from patience import soon, within
from quick import first_is_quick

from wavernn_fast.errors import DeviceError, ModelError
from wavernn_fast.jobs import journal
from wavernn_fast.jobs.child import Care, ChildWorker
from wavernn_fast.jobs.items import Item
from wavernn_fast.jobs.settings import Settings
from wavernn_fast.jobs.stop import Stop
from wavernn_fast.jobs.work import LocalWorker, Outcome

QUICK = Care(stall_seconds=60.0, start_seconds=60.0, backoff_seconds=0.01)


def by_state(outcomes: Iterable[Outcome]) -> dict[str, list[str]]:
    """Names of each state, in order."""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.state, []).append(outcome.name)
    return {state: sorted(names) for state, names in found.items()}


def run(
    settings: Settings, items: list[Item], root: Path, **how: Any
) -> tuple[dict[str, list[str]], list[Outcome]]:
    """All outcomes of a job in children."""
    worker = ChildWorker(settings, str(root), "w", **{"care": QUICK, **how})
    outcomes = list(worker.run(into(items, root)))
    return by_state(outcomes), outcomes


def local(settings: Settings, items: list[Item], root: Path) -> dict[str, bytes]:
    """The files of the same job in this process."""
    outcomes = list(LocalWorker(settings, str(root), "local").run(into(items, root)))
    assert {outcome.state for outcome in outcomes} == {"done"}
    return contents(root)


def names(items: Iterable[Item]) -> list[str]:
    return sorted(item.name for item in items)


def journaled(root: Path, state: str) -> list[str]:
    """Names of a state in all journals, with repeats."""
    lines = [line for path in journal.journals(root) for line in journal.lines(path)]
    return sorted(line["name"] for line in lines if line["state"] == state)


@pytest.mark.parametrize(
    "devices", [(), ("cpu", "cpu"), pytest.param(("emu:0", "emu:1"), marks=pytest.mark.slow)]
)
def test_children_leave_the_files_of_one_process(devices: tuple[str, ...], tmp_path: Path) -> None:
    settings, items = job(tmp_path, count=4, frames=1)
    if devices:
        settings = dataclasses.replace(settings, device=devices[0].partition(":")[0])
    expected = local(settings, items, tmp_path / "local")
    states, outcomes = run(settings, items, tmp_path / "out", devices=devices)
    assert states == {"done": names(items)}
    assert contents(tmp_path / "out") == expected
    assert journaled(tmp_path / "out", "done") == names(items)
    for outcome in outcomes:
        assert outcome.fields["bytes"] == len(expected[outcome.name])
    files = {path.name for path in journal.journals(tmp_path / "out")}
    allowed = {"journal-w-0.jsonl", "journal-w-1.jsonl"} if devices else {"journal-w.jsonl"}
    assert files
    assert files <= allowed  # one child may be done before the other has loaded the model


def test_no_items_start_no_process(tmp_path: Path) -> None:
    settings, _ = job(tmp_path, count=1)
    assert list(ChildWorker(settings, str(tmp_path / "out"), "w").run([])) == []
    assert contents(tmp_path / "out") == {}


@pytest.mark.slow
def test_killed_children_are_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings, items = job(tmp_path, count=40, frames=12)
    expected = local(settings, items, tmp_path / "local")
    worker = ChildWorker(
        settings, str(tmp_path / "out"), "w", devices=("cpu", "cpu"), care=QUICK,
        make=job_workers.Slow,
    )  # fmt: skip
    outcomes, killed = [], set[int]()
    for outcome in worker.run(into(items, tmp_path / "out")):
        outcomes.append(outcome)
        busy = [p.process for p in worker._places if p.in_hand and p.process and not p.alone]
        if len(outcomes) in (1, 9, 20) and busy:
            os.kill(busy[-1].pid, signal.SIGKILL)
            killed.add(busy[-1].pid)
    states = by_state(outcomes)
    assert states == {"done": names(items)}  # none was in hand twice: suspects run alone
    assert {k: v for k, v in contents(tmp_path / "out").items() if ".part-" not in k} == expected
    assert sum("SIGKILL" in record.getMessage() for record in caplog.records) == len(killed) >= 2


@pytest.mark.slow
def test_an_item_that_kills_its_process_twice_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, items = job(tmp_path)
    states, outcomes = run(settings, items, tmp_path / "out", make=job_workers.Poisoned)
    poison = ["m002.wav", "m007.wav"]
    assert states["failed"] == poison == journaled(tmp_path / "out", "failed")
    assert states["done"] == [name for name in names(items) if name not in poison]
    reasons = {o.name: o.fields for o in outcomes if o.state == "failed"}
    assert reasons["m002.wav"]["kind"] == "EngineError"
    assert reasons["m002.wav"]["error"].count("SIGSEGV") == 2
    assert "then it ended with exit code 9" in reasons["m007.wav"]["error"]
    assert sorted(contents(tmp_path / "out")) == states["done"]
    assert len(caplog.records) == 3 + 1  # deaths: with others, and each alone


def test_what_a_dead_child_finished_unheard_is_not_done_again(tmp_path: Path) -> None:
    settings, items = job(tmp_path)
    states, outcomes = run(settings, items, tmp_path / "out", make=job_workers.Mute)
    assert states == {"done": names(items)}
    assert journaled(tmp_path / "out", "done") == names(items)  # each once
    assert len({outcome.name for outcome in outcomes}) == len(outcomes)
    assert all(outcome.fields["sha256"] for outcome in outcomes)


@pytest.mark.slow
def test_a_child_that_does_nothing_is_killed(tmp_path: Path) -> None:
    settings, items = job(tmp_path, count=6)
    begun = time.monotonic()
    care = Care(stall_seconds=1.0, backoff_seconds=0.01)
    states, outcomes = run(settings, items, tmp_path / "out", make=job_workers.Stuck, care=care)
    assert time.monotonic() - begun < 30.0
    assert states["failed"] == ["m003.wav"]
    assert len(states["done"]) == 5
    [failed] = [outcome for outcome in outcomes if outcome.state == "failed"]
    assert failed.fields["error"].count("it did nothing for") == 2


@pytest.mark.slow
def test_a_child_that_never_gets_ready_is_not_waited_for(tmp_path: Path) -> None:
    settings, items = job(tmp_path, count=2)
    care = Care(start_seconds=0.8, backoff_seconds=0.01, most_deaths=1)
    begun = time.monotonic()
    with pytest.raises(DeviceError, match=r"No device is left \(cpu: it did nothing for \d+ s\)"):
        run(settings, items, tmp_path / "out", make=job_workers.endless_load, care=care)
    assert time.monotonic() - begun < 30.0


@pytest.mark.slow
def test_a_slow_child_is_not_taken_for_a_stuck_one(tmp_path: Path) -> None:
    """Its engine gets on, but its item does not end within the limit."""
    settings, items = job(tmp_path, count=1, frames=2500)
    states, _ = run(
        settings, items, tmp_path / "out", care=Care(stall_seconds=1.2, backoff_seconds=0.01)
    )
    assert states == {"done": names(items)}
    assert len(journaled(tmp_path / "out", "done")) == 1


def test_a_device_that_fails_again_and_again_ends_the_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, items = job(tmp_path, count=20)
    worker = ChildWorker(
        settings, str(tmp_path / "out"), "w", care=Care(backoff_seconds=0.01, most_deaths=3),
        make=job_workers.Broken,
    )  # fmt: skip
    with pytest.raises(DeviceError, match=r"No device is left \(cpu: The GPU has fallen off.*kept"):
        list(worker.run(into(items, tmp_path / "out")))
    assert len(caplog.records) == 4
    assert "the device is given up" in caplog.records[-1].getMessage()


def test_a_job_gets_on_with_a_device_that_fails_now_and_then(tmp_path: Path) -> None:
    settings, items = job(tmp_path, count=9)
    expected = local(settings, items, tmp_path / "local")
    states, _ = run(settings, items, tmp_path / "out", make=job_workers.BrokenLater)
    failed = states.get("failed", [])
    assert len(failed) <= 2  # that had bad luck twice
    assert sorted(states["done"] + failed) == names(items)
    assert contents(tmp_path / "out") == {name: expected[name] for name in states["done"]}


def test_a_device_that_is_not_there_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, items = job(tmp_path, count=4, frames=1)
    make, out = job_workers.no_device, tmp_path / "out"
    states, _ = run(settings, items, out, devices=("emu:0", "emu:1"), make=make)
    assert states == {"done": names(items)}
    [record] = caplog.records
    assert record.getMessage().startswith("emu:1: the process ended (There is no second one.)")
    with pytest.raises(DeviceError, match=r"^There is no second one\."):
        run(settings, items, out, devices=("emu:1",), make=make)


def test_what_is_wrong_for_every_child_is_said_at_once(tmp_path: Path) -> None:
    settings, items = job(tmp_path, count=4)
    with pytest.raises(ModelError, match=r"(?s)It is no model\..*a tensor is missing"):
        run(settings, items, tmp_path / "out", devices=("cpu", "cpu"), make=job_workers.no_model)


def test_messages_of_a_child_are_logged_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, items = job(tmp_path, count=1)
    settings = dataclasses.replace(settings, device="auto")
    with caplog.at_level(logging.INFO, "wavernn_fast"):
        run(settings, items, tmp_path / "out")
    assert any(
        r.getMessage().startswith("auto: Running on the CPU, not on a GPU") for r in caplog.records
    )


# --- ends of the job ------------------------------------------------------------------------------


def test_a_stop_keeps_what_is_finished(tmp_path: Path) -> None:
    settings, items = job(tmp_path, count=40)
    stop, outcomes = Stop(), []
    worker = ChildWorker(
        settings, str(tmp_path / "out"), "w", stop=stop, care=QUICK, make=job_workers.Slow
    )
    for outcome in worker.run(into(items, tmp_path / "out")):
        outcomes.append(outcome)
        stop.request("enough")
    assert 1 <= len(outcomes) < 40
    assert sorted(o.name for o in outcomes) == journaled(tmp_path / "out", "done")
    assert sorted(contents(tmp_path / "out")) == sorted(o.name for o in outcomes)  # no parts


def test_an_abandoned_run_leaves_no_process(tmp_path: Path) -> None:
    settings, items = job(tmp_path, count=40)
    worker = ChildWorker(settings, str(tmp_path / "out"), "w", care=QUICK)
    outcomes = worker.run(into(items, tmp_path / "out"))
    next(outcomes)
    [pid] = [place.process.pid for place in worker._places if place.process is not None]
    outcomes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not [name for name in contents(tmp_path / "out") if ".part-" in name]


PARENT = """
import signal, sys
if __name__ == "__main__":  # a program begun in the background of a shell would ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {tests!r})
from pathlib import Path
from job_workers import *
from wavernn_fast.jobs.child import Care, ChildWorker
if __name__ == "__main__":
    folder = Path({folder!r})
    settings, items = job(folder, count={count})
    stop, care, devices = Stop(), Care(stall_seconds={stall_seconds}), ("cpu", "cpu")
    how = {{"devices": devices, "stop": stop, "care": care, "make": Slow}}
    worker = ChildWorker(settings, str(folder / "out"), "w", **how)
    with stop.handling_signals():
        for outcome in worker.run(items):
            print(*(p.process.pid for p in worker._places if p.process), flush=True)
    print("stopped", stop.reason, flush=True)
"""


def parent(
    folder: Path, stall_seconds: float = 60.0, count: int = 60
) -> tuple[subprocess.Popen[str], list[int]]:
    """A job in a process group of its own, and its children once something is done."""
    code = PARENT.format(
        tests=os.path.dirname(__file__),
        folder=str(folder),
        stall_seconds=stall_seconds,
        count=count,
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    return process, pids


def gone(pid: int, seconds: float = 5.0) -> bool:
    """Whether a process ends in time; a zombie that nobody reaps has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_children_end_with_their_parent(tmp_path: Path) -> None:
    process, pids = parent(tmp_path)
    process.kill()
    process.wait()
    assert all(gone(pid) for pid in pids)


@pytest.mark.slow
def test_a_child_notices_the_end_of_its_parent_without_the_system(tmp_path: Path) -> None:
    """The other of two ways: the socket. A thread starts the job, so no child is bound."""
    settings, items = job(tmp_path, count=60)
    worker = ChildWorker(settings, str(tmp_path / "out"), "w", make=job_workers.Slow)
    first = threading.Event()
    finish = threading.Event()

    def work() -> None:
        for _ in worker.run(items):
            first.set()
            if finish.is_set():
                return

    thread = threading.Thread(target=work)
    thread.start()
    assert first.wait(30)
    [process] = [place.process for place in worker._places if place.process is not None]
    with socket.socket(fileno=os.dup(process.line.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
    assert gone(process.pid)
    finish.set()
    thread.join(30)


# Ctrl-C to this process alone: tests/test_job_shards.py.
@pytest.mark.parametrize(
    ("number", "to_group"),
    first_is_quick([(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)]),
)
@soon
def test_an_interrupt_is_orderly(number: signal.Signals, to_group: bool, tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to all processes of the job, as schedulers do with SIGTERM."""
    process, pids = parent(tmp_path)
    begun = time.monotonic()
    (os.killpg if to_group else os.kill)(process.pid, number)
    assert process.stdout is not None
    last = process.stdout.read().splitlines()[-1]
    assert last.startswith("stopped")
    assert process.wait(60) == 0
    within(5.0, begun)
    assert all(gone(pid) for pid in pids)
    done = journaled(tmp_path / "out", "done")
    assert sorted(contents(tmp_path / "out")) == done  # whole files, no parts
    assert 0 < len(done) < 60


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    process, pids = parent(tmp_path)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # these will not end in order
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert all(gone(pid) for pid in pids)


@pytest.mark.slow
def test_a_job_that_was_stopped_accuses_nobody(tmp_path: Path) -> None:
    """As by Ctrl-Z: quiet is counted while the parent looks, not by the clock."""
    process, pids = parent(tmp_path, stall_seconds=2.5, count=8)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.3)  # the parent hears what they have said
    process.send_signal(signal.SIGSTOP)
    time.sleep(4.0)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.2)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "the process ended" not in said
    assert len(journaled(tmp_path / "out", "done")) == 8
