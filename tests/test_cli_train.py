"""`wavernn-fast train` as it is used: recordings in, a model that every engine plays out."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recordings
import torch
from cli_runner import run
from test_wavernn_model import ENGINES, engine_logits
from train_runs import one_thread  # noqa: F401

from wavernn_fast import canonical, scoring, weights
from wavernn_fast.models.wavernn import Batch, WaveRNN
from wavernn_fast.train import run as train_run
from wavernn_fast.train import state
from wavernn_fast.train.loop import VALID_SEGMENTS, Trainer
from wavernn_fast.train.processes import Processes
from wavernn_fast.vocoder import Vocoder

# A model of 32 units on segments of 128 samples: some 20 ms an update.
SIZES = (
    "--preset", "mkotha", "--hidden", 32, "--aux-size", 8, "--aux-channels", 8, "--aux-blocks", 1,
    "--aux-kernel", 3,
)  # fmt: skip
PACE = (
    "--segment", 128, "--batch", 8, "--lr", 3e-3, "--lr-warmup", 10, "--ema", 0.9, "--precision",
    "fp32", "--threads", 1,
)  # fmt: skip
# Nats a sample. Uniform is 11.09, of which the fine half, here all noise, keeps 5.55. Measured: 8.2
# dense at step 150, 9.2 at the end with a tenth of the blocks left, 9.2 held out.
DENSE_LOSS, PRUNED_LOSS = 8.5, 9.5


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "samples_per_s"} for line in found]


def model_bytes(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty recordings of a second."""
    return recordings.voice(tmp_path_factory.mktemp("data"), 20, 1.0, 22050)


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings of a fifth of a second."""
    return recordings.voice(tmp_path_factory.mktemp("little"), 4, 0.2, 22050)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run to 90 % of blocks of 16 x 1, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    prune = ("--prune", 0.9, "--prune-start", 100, "--prune-length", 200, "--prune-every", 10)
    pace = (*PACE, "--lr", 1e-2, "--steps", 400, "--log-every", 50)
    result = run("train", data, "-o", folder, *SIZES, *pace, *prune, "--json")
    assert result.exit_code == 0, result.stderr
    return folder, json.loads(result.stdout)


@pytest.mark.slow
def test_the_loss_falls_while_blocks_are_pruned(trained):
    log = lines(trained[0])
    assert [line["step"] for line in log] == list(range(50, 401, 50))
    assert log[2]["loss"] < DENSE_LOSS
    assert log[-1]["loss"] < PRUNED_LOSS
    assert log[-1]["valid_nll"] < PRUNED_LOSS
    shares = [line["sparsity"] for line in log]
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.9, abs=0.01)


@pytest.mark.slow
def test_the_command_tells_exactly_what_is_pruned(trained):
    folder, printed = trained
    config, tensors = weights.read(folder / "model.safetensors")
    assert (config.block_shape, config.hidden_size, config.preset) == ((16, 1), 32, "mkotha")
    assert len(printed["pruned"]) == 7
    for count in printed["pruned"]:
        assert count["kept"] == count["blocks"] - round(0.9 * count["blocks"])
    for name in config.pruned:
        rows, columns = tensors[name].shape
        blocks = np.abs(tensors[name]).reshape(rows // 16, 16, columns).max(axis=1) > 0
        assert np.array_equal(blocks, tensors[canonical.mask_name(name)] != 0)
        per_group = blocks.size // (3 if name == "gru.w_recurrent" else 1)
        kept = per_group - round(0.9 * per_group)
        assert int(blocks.sum()) == kept * (blocks.size // per_group)
    assert printed["held_out"]["names"] == ["tone10.wav"]
    assert printed["train"]["recordings"] == 19
    assert json.loads((folder / "run.json").read_text())["settings"] == printed["settings"]


def read_recordings(printed: dict[str, Any]) -> tuple[Any, train_run.Loaded]:
    saved = state.read(Path(printed["model"]).parent)
    where = train_run.Data(train=Path(printed["data"]))
    return saved, train_run.load(where, saved.config, saved.settings)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_the_model_of_a_run_plays_on_every_engine(trained, engine):
    """The likelihood of held-out speech under the engine is that of the averaged model."""
    _, printed = trained
    saved, loaded = read_recordings(printed)
    config, tensors = weights.read(printed["model"])
    frames = 20
    mel, samples = loaded.valid[0].mel[:, :frames], loaded.valid[0].samples[: frames * 64]
    logits = engine_logits(config, tensors, samples.astype(np.int32), mel, engine)
    nats = scoring.negative_log_likelihood(config, logits, samples).mean()
    model = WaveRNN(saved.config)
    model.load_state_dict(saved.average)
    radius = model.context
    batch = Batch(
        torch.from_numpy(samples.astype(np.int64))[None],
        torch.tensor([-1]),
        torch.from_numpy(np.pad(mel, ((0, 0), (radius, radius))))[None],
    )
    with torch.no_grad():
        losses, _ = model.losses(batch)
    assert float(losses.coarse + losses.fine) == pytest.approx(nats, abs=1e-4)


@pytest.mark.slow
def test_the_held_out_loss_of_the_log_is_what_the_model_gives(trained):
    folder, printed = trained
    saved, loaded = read_recordings(printed)
    config, tensors = weights.read(folder / "model.safetensors")
    model = WaveRNN(saved.config)
    model.load_canonical(canonical.without_masks(tensors))
    corpus = train_run.Corpus(
        loaded.valid, config, train_run.total_frames(config, saved.settings), model.context
    )
    with torch.no_grad():
        losses, _ = model.losses(corpus.spread(VALID_SEGMENTS))
    expected = float(losses.coarse + losses.fine)
    assert lines(folder)[-1]["valid_nll"] == pytest.approx(expected, abs=1e-5)
    assert printed["result"]["valid_nll"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_the_model_of_a_run_speaks(trained):
    voc = Vocoder.from_pretrained(trained[0] / "model.safetensors")
    mel = np.full((80, 6), 0.5, np.float32)
    wave = voc.generate(mel, seed=1)
    assert wave.shape == (6 * 64,)
    assert wave.std() > 0


@pytest.mark.slow
def test_training_on_from_a_pruned_run_keeps_its_zeros(trained, little, tmp_path):
    start = (
        "train", little, "-o", tmp_path / "fine", *PACE, "--steps", 4, "--from", trained[0],
    )  # fmt: skip
    refused = run(*start)
    assert refused.exit_code == 2
    assert "its zeros would fill again" in refused.stderr
    sizes = run(*start, "--prune", 0.5, "--hidden", 64, "--aux-size", 2)
    assert sizes.exit_code == 2
    assert "leave hidden_size, aux_size out" in sizes.stderr
    result = run(*start, "--prune", 0.5, "--prune-start", 0, "--prune-length", 2)
    assert result.exit_code == 0, result.stderr
    _, before = weights.read(trained[0] / "model.safetensors")
    config, after = weights.read(tmp_path / "fine" / "model.safetensors")
    for name in config.pruned:
        mask = canonical.mask_name(name)
        assert np.array_equal(after[mask], before[mask])
    # The fine byte of this data is noise, and its hidden layer may have died of it: every unit's
    # bias lies below the reach of its weights, so no gradient passes. The others must have moved.
    moved = {name for name in config.pruned if not np.array_equal(after[name], before[name])}
    assert moved >= {"gru.w_recurrent", "coarse_fc1.weight", "coarse_fc2.weight"}


# --- stop and go on ---------------------------------------------------------------------------


def start(*arguments: object) -> subprocess.Popen[bytes]:
    """Begin a run in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "wavernn_fast", "train", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_is_resumed_to_the_same_bits(little, tmp_path):
    pace = (*PACE, "--save-every", 5, "--log-every", 3, "--valid-every", 7)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    child = start(little, "-o", killed, *SIZES, *pace, "--steps", 60)
    deadline = time.monotonic() + 300  # on a machine with other work
    while not (killed / "state.pt").exists() and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert state.read(killed).step < 60
    result = run("train", little, "-o", killed, "--resume", "--threads", 1, *pace[-6:])
    assert result.exit_code == 0, result.stderr
    assert run("train", little, "-o", whole, *SIZES, *pace, "--steps", 60).exit_code == 0
    assert lines(killed) == lines(whole)
    assert model_bytes(killed) == model_bytes(whole)


@pytest.fixture
def short(little: Path, tmp_path: Path) -> tuple[Path, tuple[object, ...]]:
    """A finished run of two steps, and the beginning of the command that resumes it."""
    folder = tmp_path / "short"
    prune = ("--prune", 0.5, "--prune-start", 0, "--prune-length", 2)
    result = run("train", little, "-o", folder, *SIZES, *PACE, *prune, "--steps", 2)
    assert result.exit_code == 0, result.stderr
    return folder, ("train", little, "-o", folder, "--resume", "--threads", 1)


@pytest.mark.slow
def test_resuming_with_other_options_is_refused_naming_them(short, little):
    folder, resume = short
    before = model_bytes(folder), lines(folder)
    for options, words in (
        (("--hidden", 64, "--preset", "native-22k"), "leave preset, hidden_size out"),
        (("--prune", 0.9, "--prune-block", "4x4"), "prune"),
        (("--unconditioned",), "leave conditioned out"),
        (("--lr", 0.1, "--batch", 5), "batch was 8 and is now 5; lr was 0.003 and is now 0.1"),
        (("--steps", 1), "steps was 2 and is now 1"),
        (("--from", folder), "leave --from out"),
    ):
        result = run(*resume, *options)
        assert result.exit_code == 2, (options, result.exception)
        assert words in result.stderr
        assert "Traceback" not in result.stderr
    again = run("train", little, "-o", folder, *SIZES, *PACE, "--steps", 2)
    assert again.exit_code == 2
    assert "Go on with it by --resume" in again.stderr
    assert (model_bytes(folder), lines(folder)) == before


def test_more_steps_and_the_same_numbers_are_accepted(short):
    folder, resume = short
    result = run(*resume, "--steps", 4, "--prune", 0.5, "--lr", 3e-3)
    assert result.exit_code == 0, result.stderr
    assert [line["step"] for line in lines(folder)] == [2, 4]
    assert run(*resume).exit_code == 0  # nothing left to do


def test_a_resumed_run_is_not_cut_before_its_pruning_ends(little, tmp_path):
    common = ("train", little, "-o", tmp_path / "cut", *PACE, "--prune-start", 0)
    begun = run(
        *common, *SIZES, "--steps", 9, "--prune", 0.5, "--prune-length", 6, "--save-every", 1
    )
    assert begun.exit_code == 0, begun.stderr
    saved = state.read(tmp_path / "cut")
    saved.step = 2  # as if it had been killed there
    state.write(tmp_path / "cut", saved)
    resume = ("train", little, "-o", tmp_path / "cut", "--resume", "--threads", 1)
    result = run(*resume, "--steps", 4)
    assert result.exit_code == 2, result.exception
    assert "end at step 6, after the last step 4, and its share not be reached" in result.stderr
    assert run(*resume, "--steps", 6).exit_code == 0


def test_processes_that_cannot_find_each_other_are_told_how(little, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    result = run("train", little, "-o", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 2, result.exception
    assert "WORLD_SIZE is 2, but MASTER_ADDR and MASTER_PORT are missing beside it" in result.stderr


def test_a_resumed_run_holds_out_what_it_held_out(little, tmp_path):
    def names(folder):
        return json.loads((folder / "run.json").read_text())["held_out"]["names"]

    folder, common = tmp_path / "held", ("train", little, "-o", tmp_path / "held")
    begun = run(*common, *SIZES, *PACE, "--steps", 1, "--held-out", 2)
    assert begun.exit_code == 0, begun.stderr
    held_out, before = names(folder), (model_bytes(folder), lines(folder))
    assert len(held_out) == 2  # 4 % would be one
    for options, words in (
        (("--held-out", 1), "held out there were 2 (8704 samples) and are now 1 (4352"),
        (("--valid", little / held_out[0]), "to train on there were 2"),
    ):
        result = run(*common, "--resume", "--threads", 1, *options)
        assert result.exit_code == 2, (result.stderr, result.exception)
        assert words in result.stderr.replace("\n", " ")
        assert (model_bytes(folder), lines(folder)) == before
    more = tmp_path / "more"
    more.mkdir()
    for i, path in enumerate(sorted(little.iterdir())):
        (more / f"other{i}.wav").symlink_to(path)
    result = run("train", more, "-o", folder, "--resume", "--threads", 1)
    assert "other names or another order to train on" in result.stderr
    assert run(*common, "--resume", "--threads", 1, "--steps", 2).exit_code == 0
    assert names(folder) == held_out
    assert [line["step"] for line in lines(folder)] == [1, 2]


def test_two_runs_in_one_folder_are_refused(short, little, tmp_path):
    folder, resume = short
    before = (folder / "state.pt").read_bytes(), (folder / "log.jsonl").read_bytes()
    with train_run.alone(folder, 0):
        with train_run.alone(folder, 1):  # another process of the same run
            pass
        result = run(*resume, "--steps", 6)
        assert result.exit_code == 2, result.exception
        assert "Another training run works in" in result.stderr
    assert before == ((folder / "state.pt").read_bytes(), (folder / "log.jsonl").read_bytes())
    code = (
        "import os, sys; from pathlib import Path; from wavernn_fast.train import run\n"
        "run.alone(Path(sys.argv[1]), 0).__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, folder], check=False).returncode == 9
    with train_run.alone(folder, 0):  # a killed one holds nothing
        pass


def test_nothing_to_resume_is_said(little, tmp_path):
    result = run("train", little, "-o", tmp_path / "none", "--resume")
    assert result.exit_code == 2
    assert "There is no checkpoint" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--steps", 0, "--batch", 0), "steps is 0, must be at least 1; batch is 0"),
        (("--prune", 1.0), "sparsity is 1.0"),
        (("--prune-start", 3), "need --prune Z"),
        (("--prune", 0.5, "--steps", 900), "end at step 1001, after the last step 900"),
        (("--prune", 0.5, "--prune-length", 99_001), "after the last step 100000"),
        (("--hidden", 33), "hidden_size 33 not divisible by 32"),
        (("--preset", "fatchord-raw9"), "native-22k and mkotha do"),
        (("--prune", 0.5, "--hidden", 32, "--fc", 24), "do not divide every matrix"),
        (("--fc", 0), "fc_size is 0, must be positive"),
        (("--subscale", 0), "subscale factor is 0, must be 1 to 64"),
        (("--subscale", 7), "is not a multiple of the subscale factor 7"),
        (("--subscale", 2, "--horizon", 2, "--subscale-blocks", 2), "the horizon of 2 allows"),
        (("--subscale", 2, "--batch", 0, "--segment", 0), "batch is 0, must be at least 1; seg"),
        (("--horizon", 4), "--horizon: only with --subscale B"),
        (("--subscale-channels", 4, "--subscale-blocks", 1), "--subscale-channels, --subscale-b"),
        (("--device", "tpu"), "not on 'tpu'"),
        (("--segment", 10**6), "No recording can be trained on"),
        (("--held-out", 4), "cannot give 4 held-out ones"),
        (("--valid", "nowhere"), "'nowhere' does not exist"),
        (("--valid", "nowhere", "--held-out", 2), "leave it out with --valid"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(little, tmp_path, options, words):
    result = run("train", little, "-o", tmp_path / "out", "--threads", 1, *options)
    assert result.exit_code == 2, (result.stderr, result.exception)
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_refused_run_leaves_none_of_the_folders_above_that_it_made(little, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    assert run("train", little, "-o", there / "a" / "b" / "c", "--steps", 0).exit_code == 2
    assert there.is_dir()
    assert list(there.iterdir()) == []


def test_a_refused_run_leaves_a_folder_that_was_there(little, tmp_path):
    """Even an empty one: it may be there for a reason."""
    assert run("train", little, "-o", tmp_path, "--steps", 0).exit_code == 2
    assert tmp_path.is_dir()


def test_pruning_ends_by_itself_before_the_run_does(little, tmp_path):
    options = (*SIZES, *PACE, "--prune", 0.5, "--prune-start", 1, "--steps", 9, "--json")
    result = run("train", little, "-o", tmp_path, *options)
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["settings"]["prune"]["length"] == 5
    assert all(one["kept"] == one["blocks"] - round(0.5 * one["blocks"])
               for one in printed["pruned"])  # fmt: skip


def test_files_that_cannot_be_used_are_listed_and_left_out(little, tmp_path):
    good = [f"{path}|text" for path in sorted(little.iterdir())]
    (tmp_path / "list.txt").write_text("\n".join([*good[:2], "gone.wav|text", *good[2:]]))
    result = run(
        "train", tmp_path / "list.txt", "-o", tmp_path / "out", *SIZES, *PACE, "--steps", 1,
        "--held-out", 0,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "skipped: " in result.stderr
    assert "gone.wav' cannot be opened" in result.stderr
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert facts["train"]["recordings"] == 4
    assert [Path(one["path"]).name for one in facts["skipped"]] == ["gone.wav"]


def test_an_unconditioned_model_is_trained_on_request(little, tmp_path):
    result = run(
        "train", little, "-o", tmp_path, "--unconditioned", *SIZES[:4], *PACE, "--steps", 1
    )
    assert result.exit_code == 0, result.stderr
    config, _ = weights.read(tmp_path / "model.safetensors")
    assert (config.n_mels, config.hop_length) == (0, 1)


def test_a_missing_torch_names_the_extra(little, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for command in (
        ("train", little, "-o", tmp_path / "out"),
        ("prune", "x.safetensors", "-o", tmp_path / "y.safetensors", "--sparsity", 0.5),
    ):
        result = run(*command)
        assert result.exit_code == 2
        assert 'pip install "wavernn-fast[torch]"' in result.stderr
    assert not (tmp_path / "out").exists()


# --- several processes ------------------------------------------------------------------------


def words_of_two(little: Path, folder: Path) -> list[str]:
    """A command for two processes, each of which has half of the batch."""
    pace = (*SIZES, *PACE, "--log-every", 1, "--steps", 5, "--device", "cpu")
    return [str(word) for word in ("train", little, "-o", folder, *pace)]


# Two processes as torchrun starts them, but without its own, which imports PyTorch as well: they
# share what each has, and then train in the group that they have joined for that.
SHARING = """
import pathlib, sys, torch
from wavernn_fast.cli import main
from wavernn_fast.train.processes import start
processes = start("cpu", 1)
values = torch.full((3,), float(processes.rank + 1))
processes.share([values])
pathlib.Path(sys.argv[1], str(processes.rank)).write_text(str(values.tolist()))
main(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def again(little: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what two processes have shared, and below it a run of theirs."""
    folder = tmp_path_factory.mktemp("again")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", SHARING, str(folder), *words_of_two(little, folder / "run")]
    both = [
        subprocess.Popen(command, env={**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    try:
        assert [one.wait(300) for one in both] == [0, 0]
    finally:
        for one in both:
            one.kill()
    return folder


@pytest.mark.slow
def test_processes_share_what_the_first_has(again):
    """Each measures the whitening by itself, and eigenvectors may point either way."""
    assert [(again / rank).read_text() for rank in "01"] == ["[1.0, 1.0, 1.0]"] * 2


@pytest.mark.slow
def test_two_processes_train_as_one_on_both_their_batches(little, again, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", "-m", "wavernn_fast"]
    command += words_of_two(little, tmp_path / "two")
    subprocess.run(command, check=True, capture_output=True)
    saved = state.read(tmp_path / "two")
    loaded = train_run.load(train_run.Data(train=little), saved.config, saved.settings)
    (tmp_path / "one").mkdir()
    one: Trainer = train_run.make_trainer(
        tmp_path / "one", saved.config, saved.settings, loaded, Processes(0, 1, torch.device("cpu"))
    )
    draw = one._train.random

    def both(seed: int, step: int, rank: int, count: int) -> Batch:
        halves = [draw(seed, step, rank, count // 2) for rank in (0, 1)]
        return Batch(*(torch.cat(pair) for pair in zip(*halves, strict=True)))

    one._train.random = both  # type: ignore[method-assign]
    for line in lines(tmp_path / "two"):
        (coarse, fine), _ = one.update()
        assert (line["coarse"], line["fine"]) == pytest.approx((coarse, fine), abs=1e-5)
    for name, value in one.model.state_dict().items():
        assert torch.allclose(saved.model[name], value, rtol=0, atol=1e-5), name
    assert dataclasses.asdict(saved.settings)["batch"] == 8
    assert lines(again / "run") == lines(tmp_path / "two")
    assert model_bytes(again / "run") == model_bytes(tmp_path / "two")
