"""Jobs on a Ray cluster: for real, on this machine, with an actor that is killed in the middle."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_runner import run
from job_workers import contents, job
from test_job_child import journaled
from test_job_shards import arguments

from wavernn_fast.errors import DeviceError, InputError, MissingDependencyError, ModelError
from wavernn_fast.jobs import ray_actor, ray_engine
from wavernn_fast.jobs.items import Item
from wavernn_fast.jobs.places import Care
from wavernn_fast.jobs.ray_actor import EngineActor, Task, raise_again
from wavernn_fast.jobs.ray_engine import RayOptions, RayWorker
from wavernn_fast.jobs.settings import Settings
from wavernn_fast.jobs.stop import Stop
from wavernn_fast.jobs.work import Outcome

# Not imported here: both take seconds, in every process that collects tests.
if not all(importlib.util.find_spec(name) for name in ("ray", "pyarrow")):
    pytest.skip('Ray is not installed: pip install "wavernn-fast[ray]"', allow_module_level=True)


def processes_below(pid: int) -> dict[int, str]:
    """Commands of all processes that one has started, and those have."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        parents.setdefault(parent, []).append(int(folder.name))
    found, todo = {}, [pid]
    while todo:
        for child in parents.get(todo.pop(), []):
            todo.append(child)
            try:
                found[child] = (Path("/proc") / str(child) / "cmdline").read_text()
            except OSError:
                continue
    return found


@pytest.mark.slow
def test_a_cluster_of_two_workers_one_killed_in_the_middle(tmp_path: Path) -> None:
    """One start of a cluster for all that needs one: it takes some seconds."""
    job(tmp_path, count=60, frames=50)
    assert run(*arguments(tmp_path, "whole")).exit_code == 0
    words = arguments(tmp_path, "out", "--engine", "ray", "--workers", "2", "--json")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    command = subprocess.Popen(
        [sys.executable, "-m", "wavernn_fast", *words],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        killed = kill_an_actor(command, tmp_path / "out")
        said, errors = command.communicate(timeout=150)
    finally:
        command.kill()
    assert command.returncode == 0, errors
    report = json.loads(said)
    assert 0 < report["time"]["engine_seconds"] < report["time"]["wall_seconds"]
    assert sorted(e["name"] for e in report["done"]) == sorted(contents(tmp_path / "whole"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")  # no parts are left, either
    done = journaled(tmp_path / "out", "done")
    assert set(done) == set(contents(tmp_path / "whole"))
    assert len(done) <= 60 + 1  # exactly once, but for a file whose line the kill came before
    journals = list((tmp_path / "out" / ".wavernn-fast").glob("journal-0of1-*.jsonl"))
    assert len(journals) == 3  # two actors, and the one that came for the killed
    assert list((tmp_path / "out" / ".wavernn-fast").glob("ray-*")) == []
    assert not [pid for pid in processes_below(os.getpid()) if pid == killed]
    again = run(*arguments(tmp_path, "out", "--resume", "--json"))  # a local run goes on from there
    assert len(json.loads(again.stdout)["skipped"]) == 60


def kill_an_actor(command: subprocess.Popen[str], out: Path) -> int:
    """Kill -9 one of two actors when some items are done and many are not.

    One that comes long before the other is held when it has done enough, and the one that is left
    until another has come for the killed: on a busy machine either would do all.
    """
    until = time.monotonic() + 120
    held: list[int] = []
    killed = 0
    try:
        while time.monotonic() < until and command.poll() is None:
            done = len(list(out.glob("*.wav")))
            below = processes_below(command.pid)
            actors = [pid for pid, text in below.items() if "MapWorker" in text]
            busy = [pid for pid in actors if processes_below(pid)]
            if killed and set(busy) - {killed, *held}:
                return killed
            if done >= 5 and not held:
                held = [pid for a in busy or actors for pid in (a, *processes_below(a))]
                send(held, signal.SIGSTOP)
            if not killed and len(actors) == 2 and done >= 5:
                assert done < 50
                killed = (busy or actors)[0]
                os.kill(killed, signal.SIGKILL)
                held += [p for a in actors if a != killed for p in (a, *processes_below(a))]
                send(held, signal.SIGSTOP)
            time.sleep(0.03)
    finally:
        send(held, signal.SIGCONT)
    raise AssertionError((command.poll(), command.communicate()))


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(pid, number)


# --- an actor, without a cluster ------------------------------------------------------------------


def task_of(folder: Path, settings: Settings, token: str = "0123abcd") -> Task:
    task = Task(settings, str(folder / "out"), "0of1", token, Care(backoff_seconds=0.01))
    task.job_file.parent.mkdir(parents=True, exist_ok=True)
    task.job_file.write_text(token)
    return task


def ask(actor: EngineActor, items: Iterable[Item]) -> list[dict[str, Any]]:
    """Give an actor a batch, as Ray does."""
    rows = [json.dumps(vars(item)) for item in items]
    pyarrow = importlib.import_module("pyarrow")
    lines = actor(pyarrow.table({"item": rows}))["outcome"].to_pylist()
    return [line for line in map(json.loads, lines) if "times" not in line]


@pytest.fixture
def actor(tmp_path: Path) -> Iterator[tuple[EngineActor, list[Item]]]:
    settings, items = job(tmp_path, count=4)
    made = EngineActor(task_of(tmp_path, settings))
    yield made, items
    made._worker.close()


def test_an_actor_does_batches_with_one_engine(
    actor: tuple[EngineActor, list[Item]], tmp_path: Path
) -> None:
    made, items = actor
    first = ask(made, items[:2])
    [place] = made._worker._places
    assert place.process is not None
    pid = place.process.pid
    second = ask(made, items[2:])
    assert place.process.pid == pid  # the model was loaded once
    assert {line["state"] for line in first + second} == {"done"}
    assert sorted(line["name"] for line in first + second) == [item.name for item in items]
    assert sorted(contents(tmp_path / "out")) == [item.name for item in items]
    assert ask(made, []) == []


def test_a_batch_that_comes_again_is_not_done_again(
    actor: tuple[EngineActor, list[Item]], tmp_path: Path
) -> None:
    made, items = actor
    first = ask(made, items[:3])
    heir = EngineActor(made._task)
    assert sorted(map(json.dumps, ask(heir, items[:3]))) == sorted(map(json.dumps, first))
    assert heir._worker._places[0].process is None  # it needed no engine
    assert [line["name"] for line in ask(heir, items)][-1] == items[3].name
    heir._worker.close()
    assert journaled(tmp_path / "out", "done") == [item.name for item in items]
    other = EngineActor(task_of(tmp_path, made._task.settings, token="fedcba98"))
    assert len(ask(other, items)) == 4  # another run, as with --overwrite, does all
    other._worker.close()
    assert len(journaled(tmp_path / "out", "done")) == 8


def test_an_actor_that_sees_another_folder_refuses(tmp_path: Path) -> None:
    settings, items = job(tmp_path, count=1)
    task = task_of(tmp_path, settings)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "out", elsewhere)
    for spoil in (Path.unlink, lambda path: path.write_text("another")):
        spoil(task.job_file)
        [line] = ask(EngineActor(task), items)
        with pytest.raises(InputError, match=r"does not see the output folder .*one file system"):
            raise_again(line)
    assert contents(tmp_path / "out") == {}


def test_an_actor_without_the_model_says_so(tmp_path: Path) -> None:
    settings, items = job(tmp_path, count=1)
    Path(settings.model).write_bytes(b"no model")
    actor = EngineActor(task_of(tmp_path, settings))
    [line] = ask(actor, items)
    with pytest.raises(ModelError):
        raise_again(line)


@pytest.mark.slow
def test_an_actor_that_has_lost_its_device_gives_its_work_back_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quickly, it would be given all the work that others can do."""
    settings, items = job(tmp_path, count=4)
    actor = EngineActor(task_of(tmp_path, settings))

    def lost(items: Iterable[Item]) -> Iterator[Outcome]:
        yield Outcome(next(iter(items)).name, "done")
        raise DeviceError("The GPU is gone.")

    monkeypatch.setattr(actor._worker, "run", lost)
    monkeypatch.setattr(ray_actor, "_LOST_SECONDS", 1.0)
    for count in (2, 1):  # what it has done is said; after that it does nothing more
        begun = time.monotonic()
        lines = ask(actor, items)
        assert time.monotonic() - begun >= 1.0
        assert len(lines) == count
        assert lines[-1] == {"error": "The GPU is gone.", "kind": "DeviceError"}
        raise_again(lines[-1])  # it is not raised: others go on


def test_a_batch_whose_actors_die_again_and_again_is_left(
    actor: tuple[EngineActor, list[Item]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, items = actor

    class KilledError(BaseException):
        pass

    def killed(items: Iterable[Item]) -> Iterator[Outcome]:
        raise KilledError

    for _ in range(3):
        one = EngineActor(made._task)
        monkeypatch.setattr(one._worker, "run", killed)
        with pytest.raises(KilledError):
            ask(one, items)
    [line] = ask(made, items)
    assert "died 3 times" in line["error"]
    assert {line["state"] for line in ask(made, items[:3])} == {"done"}  # another batch


def test_a_stop_ends_a_batch(actor: tuple[EngineActor, list[Item]]) -> None:
    made, items = actor
    assert len(ask(made, items[:1])) == 1
    made._task.job_file.unlink()
    time.sleep(0.6)
    assert ask(made, items[1:]) == []


# --- the engine, without a cluster ----------------------------------------------------------------


def worker(tmp_path: Path, options: RayOptions, has: dict[str, float], **how: Any) -> RayWorker:
    settings, _ = job(tmp_path, count=1)
    settings = Settings(settings.model, **how)
    made = RayWorker(settings, str(tmp_path / "out"), "0of1", stop=Stop(), options=options)
    made._ray = SimpleNamespace(cluster_resources=lambda: has)
    return made


@pytest.mark.parametrize(
    ("has", "how", "workers", "expected"),
    [
        ({"CPU": 8.0}, {"device": "cpu"}, None, (8, {"num_cpus": 1})),
        ({"CPU": 8.0}, {"device": "cpu", "threads": 3}, None, (2, {"num_cpus": 3})),
        ({"CPU": 8.0}, {"device": "auto"}, 3, (3, {"num_cpus": 1})),
        ({"CPU": 8.0, "GPU": 2.0}, {"device": "auto"}, None, (2, {"num_gpus": 1, "num_cpus": 1})),
        ({"CPU": 8.0, "GPU": 4.0}, {"device": "cuda:all"}, 3, (3, {"num_gpus": 1, "num_cpus": 1})),
    ],
)
def test_actors_get_what_they_need(
    has: dict[str, float], how: dict[str, Any], workers: int | None, expected: Any, tmp_path: Path
) -> None:
    made = worker(tmp_path, RayOptions(workers=workers), has, **how)
    assert made._actors() == expected
    assert made._task.settings.device == ("cuda" if "num_gpus" in expected[1] else "cpu")


@pytest.mark.parametrize(
    ("has", "how", "workers", "sentence"),
    [
        ({"CPU": 2.0}, {"device": "cuda"}, None, "has 0 GPUs: enough for 0 workers .* not for any"),
        ({"CPU": 2.0}, {"device": "cpu"}, 3, "has 2 CPUs: enough for 2 workers with 1, not for 3"),
        ({"CPU": 2.0}, {"device": "cpu", "threads": 4}, None, "enough for 0 workers with 4"),
    ],
)  # fmt: skip
def test_a_cluster_that_is_too_small_is_refused_not_waited_for(
    has: dict[str, float], how: dict[str, Any], workers: int | None, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(DeviceError, match=sentence):
        worker(tmp_path, RayOptions(workers=workers), has, **how)._actors()


def test_every_actor_gets_some_batches_and_none_is_huge(tmp_path: Path) -> None:
    made = worker(tmp_path, RayOptions(), {})
    assert [made._batches(n, 2) for n in (1, 7, 8, 80, 100_000)] == [1, 7, 8, 8, 391]
    (tmp_path / "more").mkdir()
    many = worker(tmp_path / "more", RayOptions(), {}, gpu_streams=1000)
    assert many._batches(100_000, 2) == 13  # many times what runs side by side
    (tmp_path / "set").mkdir()
    assert worker(tmp_path / "set", RayOptions(batch=5), {})._batches(12, 2) == 3


def test_items_left_by_lost_actors_are_done_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = worker(tmp_path, RayOptions(), {})
    passes: list[list[str]] = []

    def one_pass(todo: list[Item]) -> Iterator[Outcome]:
        passes.append([item.name for item in todo])
        made._lost = "The GPU is gone."
        for item in todo[: 3 if len(passes) < 3 else 0]:
            yield Outcome(item.name, "done")

    monkeypatch.setattr(made, "_outcomes", one_pass)
    left = {f"{i}.wav": Item("a", "b", f"{i}.wav") for i in range(8)}
    with pytest.raises(DeviceError, match=r"^2 items are left .*: The GPU is gone\..*--resume"):
        list(made._passes(left))
    assert [len(names) for names in passes] == [8, 5, 2]


class Cluster:
    """Stands in for Ray: one actor in this process, which gets batch after batch."""

    def __init__(self) -> None:
        self.data = self
        self.DataContext = SimpleNamespace(get_current=SimpleNamespace)
        self.is_initialized = lambda: True
        self.cluster_resources = lambda: {"CPU": 1.0}
        self.ActorPoolStrategy = SimpleNamespace

    def from_items(self, rows: list[dict[str, str]], override_num_blocks: int) -> Cluster:
        size = -(-len(rows) // override_num_blocks)
        self.batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        return self

    def map_batches(self, kind: Any, fn_constructor_kwargs: Any, **_: Any) -> Cluster:
        self.actor = kind(**fn_constructor_kwargs)
        return self

    def iter_batches(self, **_: Any) -> Iterator[Any]:
        try:
            for rows in self.batches:
                table = importlib.import_module("pyarrow").table
                yield self.actor(table({"item": [row["item"] for row in rows]}))
        finally:
            self.actor._worker.close()


@pytest.mark.parametrize(
    ("number", "code", "sentence"),
    [
        (errno.ENOSPC, 1, "cannot be written (No space left on device). 2 done, 3 left"),
        (errno.EIO, 2, "cannot go on ([Errno 5] Input/output error: "),
    ],
    ids=["full", "broken"],
)
def test_a_disk_that_fails_an_actor_ends_the_job_as_without_ray(
    number: int, code: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as a device would: those exit with 3."""
    job(tmp_path, count=5)
    monkeypatch.setattr(ray_engine, "_import_ray", lambda _: Cluster())
    opened: list[Path] = []

    def fails_from_the_second_on(path: Path, mode: str) -> Any:
        opened.append(path)
        if len(opened) > 1:  # batches of two items
            raise OSError(number, os.strerror(number), str(path))
        return open(path, mode)

    monkeypatch.setattr(ray_actor, "open", fails_from_the_second_on, raising=False)
    result = run(*arguments(tmp_path, "out", "--engine", "ray"))
    assert result.exit_code == code, (result.stderr, result.exception)
    assert sentence in result.stderr
    assert len(contents(tmp_path / "out")) == 2
    assert [p.name for p in (tmp_path / "out" / ".wavernn-fast").glob("ray-*")] == []
    monkeypatch.undo()
    assert run(*arguments(tmp_path, "out", "--resume")).exit_code == 0
    assert len(contents(tmp_path / "out")) == 5


def test_paths_travel_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("voice.pt").touch()
    settings = Settings("voice.pt", speaker="who.npy")
    Path("who.npy").touch()
    made = RayWorker(settings, "out", "0of1", stop=Stop(), options=RayOptions())
    task = made._task
    assert (task.settings.model, task.settings.speaker) == (
        str(tmp_path / "voice.pt"), str(tmp_path / "who.npy"),
    )  # fmt: skip
    assert task.root == str(tmp_path / "out")
    item = ray_engine._travelling(Item("m/a.npy", "out/a.wav", "a.wav", 2**64 - 1, "s.npy"))
    assert (item.source, item.target) == (str(tmp_path / "m/a.npy"), str(tmp_path / "out/a.wav"))
    assert (item.name, item.seed, item.speaker) == ("a.wav", 2**64 - 1, str(tmp_path / "s.npy"))
    assert ray_engine._travelling(Item("a.npy", "a.wav", "a.wav", 0, "3")).speaker == "3"
    kept = RayWorker(Settings("kerstin"), "out", "n", stop=Stop(), options=RayOptions())
    assert kept._task.settings.model == "kerstin"  # a voice of the package


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"wavernn-fast\[ray\]"):
        RayWorker(Settings("a"), str(tmp_path), "n", stop=Stop(), options=RayOptions())
