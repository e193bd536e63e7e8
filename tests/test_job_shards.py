"""Jobs cut into shards, and jobs whose engines run elsewhere, from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_runner import run
from job_runs import parts_below
from job_workers import contents, job
from patience import soon, within
from test_job_child import gone, journaled

from wavernn_fast.jobs.shard import Shard

COMMAND = (sys.executable, "-m", "wavernn_fast")


def arguments(folder: Path, out: str, *more: object) -> list[str]:
    """A job of the folder made by `job_workers.job`."""
    voice = folder / "voice.safetensors"
    fixed = ("-m", voice, "-o", folder / out, "--device", "cpu", "--threads", 1, "--streams", 1)
    return [str(word) for word in ("vocode", folder / "mels", *fixed, *more)]


def without_lists(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(root).items() if name.endswith(".wav")}


def started(words: list[str], **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *words],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(root: Path, worker: str, lines: int, process: subprocess.Popen[str]) -> None:
    """Until a journal tells of so many files."""
    path, until = root / ".wavernn-fast" / f"journal-{worker}.jsonl", time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        if path.exists() and path.read_bytes().count(b'"done"') >= lines:
            return
        time.sleep(0.005)
    raise AssertionError((process.poll(), process.communicate()))


@pytest.mark.slow
def test_three_shards_at_the_same_time_one_killed_and_resumed(tmp_path: Path) -> None:
    _, items = job(tmp_path, count=45, frames=40)
    assert run(*arguments(tmp_path, "whole")).exit_code == 0
    words = [arguments(tmp_path, "out", "--shard", f"{i}/3", "--json") for i in range(3)]
    # The second is told by its scheduler.
    words[1][words[1].index("1/3")] = "auto"
    array = {f"SLURM_ARRAY_TASK_{k}": v for k, v in {"ID": "6", "MIN": "5", "COUNT": "3"}.items()}
    jobs = [started(words[0]), started(words[1], **array), started(words[2])]
    wait_for(tmp_path / "out", "1of3", 3, jobs[1])
    jobs[1].kill()
    said = [one.communicate(timeout=120) for one in jobs]
    assert [one.returncode for one in jobs] == [0, -signal.SIGKILL, 0], said
    before = without_lists(tmp_path / "out")
    assert len(before) < 45
    assert len(journaled(tmp_path / "out", "done")) <= len(before)

    others = {p: p.stat() for p in (tmp_path / "out").glob("*.wav")}
    again = run(*arguments(tmp_path, "out", "--shard", "1/3", "--resume", "--json"))
    assert again.exit_code == 0, again.stderr
    report = json.loads(again.stdout)
    mine = [item.name for item in Shard(1, 3).select(items)]
    assert len(report["done"]) + len(report["skipped"]) == len(mine)
    assert report["skipped"]
    assert report["done"]
    assert parts_below(tmp_path / "out") == []
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")  # byte for byte
    for path, facts in others.items():
        if path.name not in mine:
            assert path.stat() == facts
    files = {path.name for path in (tmp_path / "out" / ".wavernn-fast").glob("journal-*")}
    assert files == {f"journal-{i}of3.jsonl" for i in range(3)}


def test_a_whole_run_completes_what_shards_have_begun(tmp_path: Path) -> None:
    """Journals of all shards count, whatever the number of them then or now."""
    job(tmp_path, count=12)
    assert run(*arguments(tmp_path, "whole")).exit_code == 0
    assert run(*arguments(tmp_path, "out", "--shard", "1/4")).exit_code == 0
    assert run(*arguments(tmp_path, "out", "--shard", "0/2", "--resume")).exit_code == 0
    done = len(without_lists(tmp_path / "out"))
    rest = run(*arguments(tmp_path, "out", "--resume", "--json"))
    assert len(json.loads(rest.stdout)["skipped"]) == done
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_each_shard_has_its_list_of_failures(tmp_path: Path) -> None:
    _, items = job(tmp_path, count=12)
    for item in items[:6]:
        Path(item.source).write_bytes(b"no mel")
    for i in range(2):
        bad = [item.name for item in Shard(i, 2).select(items[:6])]
        done = run(*arguments(tmp_path, "out", "--shard", f"{i}/2"))
        assert done.exit_code == bool(bad)
        assert not bad or f"the reasons are in '{tmp_path}/out/failed-{i}of2.jsonl'" in done.stderr
        lines = (tmp_path / "out" / f"failed-{i}of2.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["name"] for line in lines) == sorted(bad)
    assert not (tmp_path / "out" / "failed.jsonl").exists()
    (tmp_path / "out" / "failed-notes.jsonl").touch()  # of others
    Path(items[0].source).write_bytes(Path(items[-1].source).read_bytes())
    assert run(*arguments(tmp_path, "out", "--resume")).exit_code == 1  # of the whole job
    lists = sorted((tmp_path / "out").glob("failed*"))
    assert [path.name for path in lists] == ["failed-notes.jsonl", "failed.jsonl"]
    named = [json.loads(line)["name"] for line in lists[1].read_text().splitlines()]
    assert sorted(named) == sorted(item.name for item in items[1:6])


def test_a_shard_leaves_the_parts_of_living_others_alone(tmp_path: Path) -> None:
    job(tmp_path, count=4)
    (tmp_path / "out").mkdir(exist_ok=True)
    theirs = tmp_path / "out" / ".0123abcd.part-0of2"
    mine = tmp_path / "out" / ".0123abcd.part-1of2-0"  # of a child of this shard
    theirs.touch()
    mine.touch()
    assert run(*arguments(tmp_path, "out", "--shard", "1/2")).exit_code == 0
    assert theirs.exists()
    assert not mine.exists()


@pytest.mark.parametrize("how", [("--isolate",), ("--workers", 2)])
def test_children_make_the_files_of_a_plain_run(how: tuple[object, ...], tmp_path: Path) -> None:
    job(tmp_path, count=12)
    assert run(*arguments(tmp_path, "whole")).exit_code == 0
    away = run(*arguments(tmp_path, "out", *how, "--json"))
    assert away.exit_code == 0, away.stderr
    report = json.loads(away.stdout)
    assert len(report["done"]) == 12
    assert report["time"]["samples"] == sum(round(e["seconds"] * 22050) for e in report["done"])
    assert report["batch"]["samples"] >= report["time"]["samples"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_command_survives_the_death_of_its_children(tmp_path: Path) -> None:
    job(tmp_path, count=40, frames=30)
    assert run(*arguments(tmp_path, "whole")).exit_code == 0
    command = started(arguments(tmp_path, "out", "--workers", 2))
    wait_for(tmp_path / "out", "0of1-0", 2, command)
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    assert len(children) == 2
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    _, said = command.communicate(timeout=120)
    assert command.returncode == 0, said
    assert said.count("the process ended (it was ended by signal SIGKILL)") == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
@soon
def test_ctrl_c_of_a_command_with_children_keeps_what_is_done(tmp_path: Path) -> None:
    job(tmp_path, count=40, frames=60)
    command = started(arguments(tmp_path, "out", "--workers", 2))
    wait_for(tmp_path / "out", "0of1-0", 2, command)
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    begun = time.monotonic()
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 130, said
    within(5.0, begun)
    assert "Run the command again with --resume" in said
    assert all(gone(int(child)) for child in children)
    assert sorted(contents(tmp_path / "out")) == journaled(tmp_path / "out", "done")
    resumed = run(*arguments(tmp_path, "out", "--resume", "--json"))
    assert resumed.exit_code == 0
    assert json.loads(resumed.stdout)["skipped"]
    assert len(contents(tmp_path / "out")) == 40


def test_a_disk_that_is_full_for_children_stops_the_job_and_keeps_what_is_done(
    tmp_path: Path,
) -> None:
    """As with `ulimit -f`: a wave of 7 frames is too large, and soon a journal."""
    job(tmp_path, count=24, frames=5)
    assert run(*arguments(tmp_path, "whole")).exit_code == 0
    limit = 44 + 2 * 275 * 5 + 100
    sizes = {name: len(data) for name, data in contents(tmp_path / "whole").items()}
    assert min(sizes.values()) < limit < max(sizes.values())
    words = [*COMMAND, *arguments(tmp_path, "out", "--workers", 2, "--json")]
    code = (
        "import os, resource, sys; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    full = subprocess.run(
        [sys.executable, "-c", code, *words[1:]],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # it would be cut, too
    )
    assert full.returncode == 1, full.stderr
    report = json.loads(full.stdout)
    assert report["left"]
    assert len(report["done"]) + len(report["left"]) == 24
    assert report["failed"] == []
    kept = contents(tmp_path / "out")
    assert sorted(kept) == sorted(entry["name"] for entry in report["done"])  # no parts
    again = run(*arguments(tmp_path, "out", "--workers", 2, "--resume", "--json"))
    assert again.exit_code == 0, again.stderr
    assert len(json.loads(again.stdout)["skipped"]) == len(kept)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("how", [("--workers", "2"), ("--isolate",), ("--engine", "ray")])
def test_standard_input_is_of_this_process_alone(how: tuple[str, ...], tmp_path: Path) -> None:
    settings, items = job(tmp_path, count=1)
    fixed = ("-m", settings.model, "-o", tmp_path / "out", "--device", "cpu")
    mel = Path(items[0].source).read_bytes()
    refused = run("vocode", "-", *fixed, *how, input=mel)
    assert refused.exit_code == 2
    assert "cannot be used with '-' as an input" in refused.stderr
    assert run("vocode", "-", *fixed, input=mel).exit_code == 0


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (("--shard", "3/3"), "number 3 of 3; shards of 3 are numbered from 0 to 2"),
        (("--shard", "auto"), "--shard auto found none of"),
        (("--ray-address", "auto"), "--ray-address is for --engine ray."),
        (("--engine", "ray", "--device", "cuda:1"), "on a Ray cluster Ray chooses the GPUs"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    how: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_ARRAY_TASK_ID", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    job(tmp_path, count=1)
    refused = run(*arguments(tmp_path, "out", *how))
    assert refused.exit_code == 2, refused.stderr
    assert sentence in " ".join(refused.stderr.split())
    assert without_lists(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "how", [("--shard", "0/2"), ("--workers", "2"), ("--isolate",), ("--engine", "ray")]
)
def test_one_file_is_no_job(how: tuple[str, ...], tmp_path: Path) -> None:
    settings, items = job(tmp_path, count=1)
    one = run("vocode", items[0].source, "-m", settings.model, "-o", tmp_path / "a.wav", *how)
    assert one.exit_code == 2
    assert f"{how[0]} is for a folder of outputs" in one.stderr
