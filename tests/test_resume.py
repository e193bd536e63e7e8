"""Checkpoints: a run that was stopped, killed or out of disk goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from quick import slow
from train_runs import (
    OFTEN,
    PRUNE,
    finish,
    log,
    one_thread,  # noqa: F401
    resumed,
    settings,
    stop_at,
    trainer,
)

from wavernn_fast import files, weights
from wavernn_fast.errors import InputError, ModelError
from wavernn_fast.train import run, state
from wavernn_fast.train.loop import LOG, MODEL, Every

SPARSE_LOG = Every(log=5, validate=3, checkpoint=4)  # checkpoints between lines of the log


def model_bytes(folder: Path) -> bytes:
    return (folder / MODEL).read_bytes()


@pytest.mark.parametrize(
    ("prune", "every", "stop", "saved_at"),
    [
        (None, OFTEN, 6, 4),
        slow((PRUNE, SPARSE_LOG, 6, 4)),  # the masks are renewed right after it
        slow((PRUNE, SPARSE_LOG, 9, 8)),  # and never again
    ],
    ids=["dense", "while-pruning", "pruned"],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, prune, every, stop, saved_at):
    numbers = settings(steps=11, prune=prune, warmup=1)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    last = finish(trainer(whole, numbers), every)
    stop_at(trainer(parts, numbers), stop, every)
    again = resumed(parts)
    assert again.step == saved_at
    assert finish(again, every)["loss"] == last["loss"]
    assert log(parts) == log(whole)
    assert model_bytes(parts) == model_bytes(whole)
    one, other = state.read(whole), state.read(parts)
    assert one.step == other.step == 11
    for name in ("model", "average", "masks"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_lines_after_the_checkpoint_and_half_lines_are_cut(tmp_path):
    numbers = settings(steps=8)
    stop_at(trainer(tmp_path, numbers), 7)
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    with (tmp_path / LOG).open("a") as file:
        file.write('{"step": 3, "lo')
    resumed(tmp_path)
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3, 4]


def test_a_run_begins_its_log_anew_where_one_was_killed_before_its_first_checkpoint(tmp_path):
    stop_at(trainer(tmp_path, settings()), 3)
    part = tmp_path / f".0badcafe.part-{os.getpid()}"
    part.write_bytes(b"half a checkpoint")
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3]
    finish(trainer(tmp_path, settings(steps=2)))
    assert [line["step"] for line in log(tmp_path)] == [1, 2]
    assert not part.exists()


def test_a_finished_run_goes_on_to_more_steps(tmp_path):
    finish(trainer(tmp_path, settings(steps=4)))
    saved = state.read(tmp_path)
    more = dataclasses.replace(saved.settings, steps=6)
    run.check_same(saved, saved.config, more)
    last = finish(resumed(tmp_path, more))
    assert last["step"] == 6
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert state.read(tmp_path).settings.steps == 6


def test_other_numbers_and_fewer_steps_are_refused(tmp_path):
    finish(trainer(tmp_path, settings(steps=4)))
    saved = state.read(tmp_path)
    other = dataclasses.replace(saved.settings, steps=3, lr=1e-2, batch=8)
    with pytest.raises(InputError, match="cannot be resumed with other numbers") as caught:
        run.check_same(saved, saved.config, other)
    for words in ("steps was 4 and is now 3", "lr was 0.003 and is now 0.01", "batch was 4"):
        assert words in str(caught.value)


def test_the_model_is_there_even_if_the_run_was_killed_before_it_was_written(tmp_path):
    finish(trainer(tmp_path, settings(steps=4)))
    expected = model_bytes(tmp_path)
    (tmp_path / MODEL).unlink()
    finish(resumed(tmp_path))
    assert model_bytes(tmp_path) == expected


def test_a_folder_with_a_run_is_not_written_over(tmp_path):
    finish(trainer(tmp_path, settings(steps=1)))
    with pytest.raises(InputError, match="Go on with it by --resume"):
        run.prepare_folder(tmp_path, resume=False)
    run.prepare_folder(tmp_path, resume=True)
    run.prepare_folder(tmp_path / "new" / "one", resume=False)
    with pytest.raises(InputError, match="cannot be made"):
        run.prepare_folder(tmp_path / "state.pt" / "below", resume=False)


# --- damage -----------------------------------------------------------------------------------


def saved_as(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "hello")
    return buffer.getvalue()


class Harmful:
    """Would make a file when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


GOOD = {"format": state.FORMAT, "version": state.VERSION}
DAMAGED = {
    "empty": (b"", "cannot be read"),
    "text": (b"hello, world\n" * 9, "cannot be read"),
    "json": (b'{"format": 1}', "cannot be read"),
    "noise": (bytes(range(256)) * 40, "cannot be read"),
    "zip": (zipped(), "cannot be read"),
    "code": (saved_as({**GOOD, "config": Harmful()}), "cannot be read"),
    "list": (saved_as([1, 2]), "is not the checkpoint of a training run"),
    "weights": (saved_as({"a": torch.ones(3)}), "is not the checkpoint of a training run"),
    "newer": (
        saved_as({**GOOD, "version": 9}),
        "has version 9, this program reads 2. Start a new run .* --from",
    ),
    "partial": (saved_as({**GOOD, "config": "{}", "step": 1}), "lacks settings, model, average"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, words = DAMAGED[kind]
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        state.read(tmp_path)
    assert "state.pt" in str(caught.value)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path, share):
    finish(trainer(tmp_path, settings(steps=1)))
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match="cannot be read"):
        state.read(tmp_path)


@pytest.mark.parametrize("kind", ["text", "code"])
def test_a_refused_checkpoint_gives_no_advice_to_run_its_code(tmp_path, kind):
    (tmp_path / "state.pt").write_bytes(DAMAGED[kind][0])
    with pytest.raises(ModelError) as caught:
        state.read(tmp_path)
    assert "weights_only" not in str(caught.value)
    assert f"by --from {str(tmp_path)!r} with another -o" in str(caught.value)


def test_a_log_of_other_bytes_is_begun_anew(tmp_path):
    finish(trainer(tmp_path, settings(steps=2)))
    (tmp_path / LOG).write_bytes(bytes(range(256)) * 9)
    finish(resumed(tmp_path, settings(steps=4)))
    assert [json.loads(line)["step"] for line in (tmp_path / LOG).read_text().splitlines()][-1] == 4


def test_a_log_that_cannot_be_read_is_named(tmp_path):
    finish(trainer(tmp_path, settings(steps=2)))
    (tmp_path / LOG).unlink()
    (tmp_path / LOG).mkdir()
    with pytest.raises(ModelError, match=r"The log '.*log\.jsonl' cannot be read \(Is a dir.*move"):
        resumed(tmp_path)


def test_a_folder_without_a_checkpoint_is_said(tmp_path):
    with pytest.raises(ModelError, match="There is no checkpoint"):
        state.read(tmp_path)


# --- a full disk, a sudden end ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["state.pt", MODEL, LOG])
def test_a_full_disk_is_named_and_leaves_the_checkpoint_before(tmp_path, name, monkeypatch):
    one = trainer(tmp_path, settings(steps=8))
    stop_at(one, 5)
    before = (tmp_path / "state.pt").read_bytes()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    replace, open_ = files._replace, Path.open

    def no_room(target: Path, blocks) -> None:
        if target.name == name:
            part = target.with_name("part")
            part.write_bytes(next(iter(blocks))[:100])
            part.unlink()
            raise full
        replace(target, blocks)

    def no_append(path: Path, mode: str = "r", *rest, **options):
        if (path.name, mode) == (name, "a"):
            raise full
        return open_(path, mode, *rest, **options)

    again = resumed(tmp_path)
    monkeypatch.setattr(files, "_replace", no_room)
    monkeypatch.setattr(Path, "open", no_append)
    with pytest.raises(ModelError, match="No space left on device") as caught:
        finish(again)
    assert name in str(caught.value)
    assert not list(tmp_path.glob("*part*"))
    assert not list(tmp_path.glob(".*"))
    monkeypatch.undo()
    if name != MODEL:  # the checkpoint is written first
        assert (tmp_path / "state.pt").read_bytes() == before
    finish(resumed(tmp_path))
    finish(trainer(tmp_path / "whole", settings(steps=8)))
    assert model_bytes(tmp_path) == model_bytes(tmp_path / "whole")
    assert log(tmp_path) == log(tmp_path / "whole")


# Where a run is killed: in the second writing of a file, with half of it or all but its name
# there; and the step of the checkpoint that is left.
KILLS = {
    "half-state": ("state.pt", False, 4),
    "nameless-state": ("state.pt", True, 4),
    "half-model": (MODEL, False, 8),
}

# PyTorch is imported once, and what a first trainer imports; each run is in a copy of that process,
# made before anything is differentiated, as PyTorch demands.
CHILD = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
from train_runs import finish, settings, trainer
torch.set_num_threads(1)  # as in the test: other numbers of threads add in another order
from wavernn_fast import files
write = files._replace

def run(folder, name, renamed):
    seen = []
    def replace(target, blocks):
        seen.append(target.name)
        if target.name == name and seen.count(name) == 2:
            data = b"".join(blocks)
            part = target.with_name(".01234567.part-1")
            part.write_bytes(data[: len(data) // 2])
            if renamed:
                os.replace = lambda a, b: os._exit(9)  # all bytes there, not yet under the name
                write(target, [data])
            os._exit(9)
        write(target, blocks)
    files._replace = replace
    finish(trainer(Path(folder), settings(steps=11)))

trainer(Path({folder!r}, "first"), settings(steps=11))
for kind, (name, renamed, _) in {kills!r}.items():
    child = os.fork()
    if child == 0:
        run(os.path.join({folder!r}, kind), name, renamed)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that were killed, as `KILLS` says."""
    folder = tmp_path_factory.mktemp("killed")
    code = CHILD.format(tests=str(Path(__file__).parent), kills=KILLS, folder=str(folder))
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout.split() == ["9"] * len(KILLS)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, which nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    finish(trainer(folder, settings(steps=11)))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KILLS)
def test_a_run_killed_while_it_writes_goes_on_from_the_last_checkpoint(killed, whole, kind):
    folder = killed / kind
    assert state.read(folder).step == KILLS[kind][2]
    weights.read(folder / MODEL)
    assert list(folder.glob(".*"))
    finish(resumed(folder))
    assert not list(folder.glob(".*"))  # halves of checkpoints would fill the disk in the end
    assert model_bytes(folder) == model_bytes(whole)
    assert log(folder) == log(whole)


def test_the_log_is_one_json_object_a_line(tmp_path):
    finish(trainer(tmp_path, settings(steps=3)))
    for line in (tmp_path / LOG).read_text().splitlines():
        values = json.loads(line)
        assert {"step", "loss", "coarse", "fine", "lr", "grad_norm"} <= values.keys()
        assert values["loss"] == pytest.approx(values["coarse"] + values["fine"])
