"""GPUs that fail in the middle of a job, each in a process: with a stand-in for the driver."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import cases
import numpy as np
import pytest
from cli_runner import run
from fakes import Fake
from job_workers import contents, into
from quick import first_is_quick

from wavernn_fast import nvrtc, weights
from wavernn_fast.jobs import items as collecting
from wavernn_fast.jobs import journal
from wavernn_fast.jobs.child import ChildWorker
from wavernn_fast.jobs.items import Item
from wavernn_fast.jobs.places import Care
from wavernn_fast.jobs.settings import Settings
from wavernn_fast.jobs.work import LocalWorker

CONFIG = cases.dual_config(32, 16, hop_length=3, n_mels=5, upsample_left=1, upsample_right=1)
COUNT = 12
QUICK = Care(stall_seconds=60.0, start_seconds=60.0, backoff_seconds=0.01, most_deaths=3)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what one process has compiled stays for the others of all tests."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def gpus(fake: Fake, kernels: Path) -> Fake:
    """Two GPUs on which launches end well, and the real compiler."""
    paths = nvrtc.libraries()
    if not paths:
        pytest.skip('NVRTC is not installed: pip install "wavernn-fast[cuda]"')
    fake.monkeypatch.setenv("WAVERNN_FAST_NVRTC", paths[0])
    fake.monkeypatch.setenv("WAVERNN_FAST_CACHE", str(kernels))
    fake.script(run=1, devices="name=NVIDIA Big,sms=132;name=NVIDIA Other,sms=60")
    fake.monkeypatch.setenv("WAVERNN_FAST_GPU_CHECK", "0")  # it computes nothing
    return fake


@pytest.fixture
def job(tmp_path: Path) -> tuple[Settings, list[Item]]:
    """A small dual model, and mels that take some launches each."""
    mels = tmp_path / "mels"
    mels.mkdir()
    for i in range(COUNT):
        np.save(mels / f"m{i:02d}.npy", cases.random_mel(CONFIG, 20 + i, seed=i))
    weights.write(tmp_path / "voice.safetensors", CONFIG, cases.random_tensors(CONFIG, seed=2))
    items = collecting.collect([str(mels)], str(tmp_path / "out"), reads=[".npy"])
    return Settings(str(tmp_path / "voice.safetensors"), device="cuda", streams=1), items


def expected(job: tuple[Settings, list[Item]], root: Path) -> dict[str, bytes]:
    """The files of a job on a GPU that does not fail, in this process."""
    settings, items = job
    outcomes = list(LocalWorker(settings, str(root), "local").run(into(items, root)))
    assert {outcome.state for outcome in outcomes} == {"done"}
    return contents(root)


def launches(gpus: Fake) -> int:
    return gpus.counts()["cuLaunchCooperativeKernel"]


@pytest.mark.parametrize("code", first_is_quick([700, 702, 719]))
def test_a_gpu_that_is_lost_in_a_process_works_in_the_next(
    code: int, gpus: Fake, job: tuple[Settings, list[Item]], tmp_path: Path, caplog
) -> None:
    files = expected(job, tmp_path / "local")
    each = launches(gpus) // COUNT
    gpus.script(fail=f"cuLaunchCooperativeKernel@{5 * each + 1}={code}")  # of every process
    settings, items = job
    root = tmp_path / "jobs"
    worker = ChildWorker(settings, str(root), "w", care=QUICK)
    outcomes = list(worker.run(into(items, root)))
    assert len({call.pid for call in gpus.calls("cuInit")}) > 2
    deaths = [r.getMessage() for r in caplog.records if "the process ended" in r.getMessage()]
    assert deaths
    assert all(f"({code})" in death and "start a new process" in death for death in deaths)
    assert sorted(o.name for o in outcomes) == sorted(files)  # each once
    failed = {o.name for o in outcomes if o.state == "failed"}
    assert len(failed) <= 2  # in hand at two deaths
    assert contents(root) == {name: files[name] for name in files if name not in failed}


def test_the_loss_of_one_gpu_stops_neither_the_job_nor_the_other(
    gpus: Fake, job: tuple[Settings, list[Item]], tmp_path: Path, caplog
) -> None:
    files = expected(job, tmp_path / "local")
    gpus.script(fail="cuLaunchCooperativeKernel@*=719", fail_on=1)
    settings, items = job
    root = tmp_path / "jobs"
    worker = ChildWorker(settings, str(root), "w", devices=("cuda:0", "cuda:1"), care=QUICK)
    outcomes = list(worker.run(into(items, root)))
    done = {o.name for o in outcomes if o.state == "done"}
    failed = {o.name: o.fields["error"] for o in outcomes if o.state == "failed"}
    assert done | set(failed) == set(files)
    assert len(outcomes) == COUNT
    assert len(failed) <= 2  # that came to the broken one twice
    assert contents(root) == {name: files[name] for name in done}
    said = [r.getMessage() for r in caplog.records]
    assert all(line.startswith("cuda:1: ") for line in said if "the process ended" in line)
    begun = [json.loads(line) for path in journal.journals(root) for line in path.open()]
    assert {line["isa"] for line in begun if line["state"] == "begin"} >= {"NVIDIA Big"}


@pytest.mark.slow
def test_a_gpu_that_is_lost_for_good_ends_the_job_with_code_3(
    gpus: Fake, job: tuple[Settings, list[Item]], tmp_path: Path
) -> None:
    settings, _ = job
    files = expected(job, tmp_path / "local")
    quick = functools.partial(Care, backoff_seconds=0.01)
    gpus.monkeypatch.setattr("wavernn_fast.jobs.places.Care", quick)
    arguments = (
        "vocode", tmp_path / "mels", "-m", settings.model, "-o", tmp_path / "out", "--device",
        "cuda:all", "--streams", 1,
    )  # fmt: skip
    some = ("--shard", "0/4")
    assert run(*arguments, *some).exit_code == 0
    kept = contents(tmp_path / "out")
    assert 0 < len(kept) < COUNT - 6
    gpus.script(fail="cuLaunchCooperativeKernel@*=700", devices="name=NVIDIA Big,sms=132")
    lost = run(*arguments, "--resume")
    assert lost.exit_code == 3
    assert "No device is left (cuda:0: cuLaunchCooperativeKernel failed" in lost.stderr
    assert "What is finished is kept; go on with --resume." in lost.stderr
    left = contents(tmp_path / "out")
    reasons = left.pop("failed.jsonl").decode().splitlines()
    assert left == kept
    assert 0 < len(reasons) <= 5  # items that two processes died with
    gpus.script(fail="")
    again = run(*arguments, "--resume", "--json")
    assert again.exit_code == 0, again.stderr
    assert contents(tmp_path / "out") == files
    assert len(json.loads(again.stdout)["skipped"]) == len(kept)


def test_the_command_line_gives_each_gpu_a_process(
    gpus: Fake, job: tuple[Settings, list[Item]], tmp_path: Path
) -> None:
    files = expected(job, tmp_path / "local")
    before = {call.pid for call in gpus.calls("cuCtxPushCurrent_v2", "cuDevicePrimaryCtxRetain")}
    settings, _ = job
    gpus.script(pause=20)  # or the first has done everything before the second is ready
    done = run(
        "vocode", tmp_path / "mels", "-m", settings.model, "-o", tmp_path / "out", "--device",
        "cuda:0,1", "--streams", 1, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert contents(tmp_path / "out") == files
    retained = gpus.calls("cuDevicePrimaryCtxRetain")
    pids = {call.pid for call in retained} - before
    assert len(pids) == 2  # children: this process takes no context
    assert {call.details for call in retained if call.pid in pids} == {"0", "1"}
    again = run("vocode", tmp_path / "mels", "-m", settings.model, "-o", tmp_path / "two",
                "--device", "cuda:0,1", "--workers", 3)  # fmt: skip
    assert again.exit_code == 2
    assert "--workers 3 does not fit --device cuda:0,1, which is 2" in again.stderr
