"""`wavernn-fast train --subscale`: the options of subscale models and what becomes of them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import recordings
from cli_runner import run
from train_runs import one_thread  # noqa: F401

from wavernn_fast import weights
from wavernn_fast.cli import train as cli_train
from wavernn_fast.errors import ModelError
from wavernn_fast.subscale_config import SubscaleConfig
from wavernn_fast.train.run import ModelSizes

SIZES = (
    "--preset", "mkotha", "--hidden", 32, "--aux-size", 8, "--aux-channels", 8, "--aux-blocks", 1,
)  # fmt: skip
PACE = ("--segment", 128, "--batch", 8, "--precision", "fp32", "--threads", 1)


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings of a fifth of a second."""
    return recordings.voice(tmp_path_factory.mktemp("little"), 4, 0.2, 22050)


ROWS = ("--subscale", 4, "--horizon", 3, "--subscale-channels", 5, "--subscale-blocks", 1)


@pytest.mark.slow
def test_a_subscale_model_is_trained_shown_and_converted(little, tmp_path):
    folder, half = tmp_path / "run", tmp_path / "half.safetensors"
    result = run("train", little, "-o", folder, *SIZES, *PACE, *ROWS, "--steps", 2)
    assert result.exit_code == 0, result.stderr
    config, tensors = weights.read(folder / "model.safetensors")
    expected = SubscaleConfig(factor=4, horizon=3, channels=5, blocks=1, prediction_reach=2)
    assert config.subscale == expected
    assert tensors["subscale.input.weight"].shape == (4, 5, 4, 5)
    shown = run("inspect", folder / "model.safetensors")
    assert shown.exit_code == 0, shown.stdout
    for name, value in dataclasses.asdict(expected).items():
        assert re.search(rf"^subscale\.{name} +{value}$", shown.stdout, re.M), shown.stdout
    made = run("convert", folder / "model.safetensors", "-o", half, "--dtype", "fp16")
    assert made.exit_code == 0, made.stderr
    again, rounded = weights.read(half)
    assert again == config
    assert all(np.allclose(rounded[n], t, rtol=1e-3, atol=1e-4) for n, t in tensors.items())
    go_on = run("train", little, "-o", folder, "--resume", "--threads", 1, "--steps", 3)
    assert go_on.exit_code == 0, go_on.stderr
    other = run("train", little, "-o", folder, "--resume", "--threads", 1, "--horizon", 2)
    assert "leave horizon out" in other.stderr
    fresh = ("train", little, "-o", tmp_path / "fresh", *PACE, "--steps", 1, "--from", folder)
    assert "leave subscale out" in run(*fresh, "--subscale", 2).stderr
    started = run(*fresh)
    assert started.exit_code == 0, started.stderr
    assert weights.read(tmp_path / "fresh" / "model.safetensors")[0].subscale == config.subscale


def test_an_ordinary_model_has_no_rows(little, tmp_path):
    result = run("train", little, "-o", tmp_path, *SIZES, *PACE, "--steps", 1)
    assert result.exit_code == 0, result.stderr
    assert weights.read(tmp_path / "model.safetensors")[0].subscale is None


@pytest.mark.parametrize(
    ("options", "segment", "batch"),
    [
        ((), 960, 64),
        (("--segment", 128), 128, 64),
        (("--subscale", 2), 960, 64),
        (("--subscale", 8), 1920, 32),
        (("--subscale", 16), 3840, 16),
        (("--subscale", 16, "--batch", 3), 3840, 3),
        (("--subscale", 8, "--segment", 640), 640, 96),
        (("--subscale", 2, "--segment", 10**5), 10**5, 1),
    ],
)
def test_segments_have_enough_columns_and_an_update_as_many_samples(options, segment, batch):
    """The plan of the command, without its training."""
    arguments = ["data", "-o", "run", *map(str, (*SIZES, *options))]
    context = cli_train.command.make_context("train", arguments)
    config, settings, _ = cli_train._plan(context, dict(context.params), None)
    assert (settings.segment, settings.batch) == (segment, batch)
    assert config.subscale_factor == dict(zip(options[::2], options[1::2], strict=True)).get(
        "--subscale", 1
    )


def rows_of(**sizes) -> SubscaleConfig:
    made = ModelSizes(hidden_size=32, **sizes).config().subscale
    assert made is not None
    return made


def test_the_network_has_as_many_blocks_as_the_horizon_has_room_for():
    for horizon, blocks, reach in ((0, 0, 0), (1, 0, 1), (2, 1, 1), (7, 2, 4), (8, 3, 1)):
        made = rows_of(subscale=2, horizon=horizon)
        assert (made.blocks, made.reach) == (blocks, reach)
    fewer = rows_of(subscale=2, subscale_blocks=1)
    assert (fewer.horizon, fewer.channels, fewer.reach) == (8, 64, 7)


def test_the_mel_predicts_from_as_far_as_the_horizon_and_the_work_allow():
    assert rows_of(subscale=16).prediction_reach == 2
    assert rows_of(subscale=16, horizon=1).prediction_reach == 1
    assert rows_of(subscale=16, horizon=0).prediction_reach == 0
    assert rows_of(subscale=48).prediction_reach == 2
    assert rows_of(subscale=60).prediction_reach == 1
    assert rows_of(subscale=16, subscale_prediction=0).prediction_reach == 0
    assert rows_of(subscale=2, subscale_prediction=5).prediction_reach == 5
    assert rows_of(subscale=2, conditioned=False).prediction_reach == 0


def test_impossible_predictions_are_refused():
    for words, sizes in (
        ("prediction_reach is 9, must be 0 to the horizon of 8", {"subscale_prediction": 9}),
        ("prediction_reach is -1, must be 0 to the horizon", {"subscale_prediction": -1}),
        ("272 samples of 16 rows are too many", {"subscale_prediction": 8}),
        ("no known convention", {"subscale_prediction": 1, "conditioned": False}),
    ):
        with pytest.raises(ModelError, match=words):
            rows_of(subscale=16, **sizes)
