"""Faulty checkpoints: refused, with every fault named at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoint_builders as builders
import numpy as np
import pytest
from quick import quick_where

from wavernn_fast import checkpoints
from wavernn_fast.errors import ModelError

HARMLESS = ("num_batches_tracked", "step")


def _fault(name: str) -> bool:
    """Tell whether the loss of this tensor must be noticed."""
    return not name.endswith(HARMLESS)


def _every_tensor() -> list[tuple[str, str]]:
    return [(d, n) for d, build in builders.BUILDERS.items() for n in build() if _fault(n)]


def _convert(dialect: str, state: dict[str, np.ndarray]) -> Any:
    # The columns of this very matrix tell a model with a speaker from one without.
    if dialect != "scwavernn" or "I.weight" in state:
        assert checkpoints.detect(state) == dialect
    return checkpoints.DIALECTS[dialect].convert(state)


# ---------------------------------------------------------------- strictness


QUICK = ("fatchord", "torchaudio", "univoc")
EVERY_TENSOR = quick_where(lambda case: case[0] in QUICK, _every_tensor())


@pytest.mark.parametrize(("dialect", "name"), EVERY_TENSOR)
def test_a_missing_tensor_is_named(dialect: str, name: str) -> None:
    state = builders.BUILDERS[dialect]()
    del state[name]
    with pytest.raises(ModelError) as caught:
        _convert(dialect, state)
    assert any(f"missing tensor {name}," in problem for problem in caught.value.problems)


@pytest.mark.parametrize(("dialect", "name"), EVERY_TENSOR)
def test_a_renamed_tensor_is_named_twice(dialect: str, name: str) -> None:
    state = builders.BUILDERS[dialect]()
    state[f"{name}_old"] = state.pop(name)
    with pytest.raises(ModelError) as caught:
        _convert(dialect, state)
    text = "\n".join(caught.value.problems)
    assert f"missing tensor {name}," in text
    assert f"unexpected tensor {name}_old " in text


@pytest.mark.parametrize(("dialect", "name"), EVERY_TENSOR)
def test_a_longer_tensor_is_refused(dialect: str, name: str) -> None:
    state = builders.BUILDERS[dialect]()
    state[name] = np.concatenate([state[name], state[name][:1]])
    if (dialect, name) == ("zerospeech", "speaker_embedding.weight"):  # one more speaker
        assert _convert(dialect, state).fields["codes"].speakers == len(state[name])
        return
    with pytest.raises(ModelError) as caught:
        _convert(dialect, state)
    assert any("has shape" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(("dialect", "name"), EVERY_TENSOR)
def test_a_nan_is_named_with_its_place(dialect: str, name: str) -> None:
    state = builders.BUILDERS[dialect]()
    state[name] = state[name].copy()
    state[name].flat[-1] = np.nan
    with pytest.raises(ModelError) as caught:
        _convert(dialect, state)
    last = ", ".join(str(n - 1) for n in state[name].shape)
    assert f"{name} has 1 value not finite; the first is NaN at index [{last}]" in str(caught.value)


@pytest.mark.parametrize("dialect", builders.BUILDERS)
def test_an_extra_tensor_is_refused(dialect: str) -> None:
    state = builders.BUILDERS[dialect]()
    state["spare.weight"] = np.zeros((3, 2), np.float32)
    with pytest.raises(ModelError) as caught:
        _convert(dialect, state)
    assert caught.value.problems == ("unexpected tensor spare.weight of shape [3, 2]",)


def test_all_problems_are_listed_at_once_with_the_file(tmp_path: Path) -> None:
    state = builders.fatchord()
    del state["fc2.bias"]
    state["rnn1.weight_hh_l0"] = state["rnn1.weight_hh_l0"][:, :-1]
    state["extra"] = np.zeros(3, np.float32)
    state["I.bias"] = np.full_like(state["I.bias"], np.inf)
    state["fc1.bias"] = state["fc1.bias"].astype(np.int64)
    path = builders.save(tmp_path / "bad.pyt", state)
    with pytest.raises(ModelError) as caught:
        checkpoints.load(path)
    assert str(path) in str(caught.value)
    assert set(caught.value.problems) == {
        "missing tensor fc2.bias, expected shape [16]",
        "rnn1.weight_hh_l0 has shape [48, 15], expected [48, 16]",
        "unexpected tensor extra of shape [3]",
        "I.bias has 16 values not finite; the first is infinite at index [0]",
        "fc1.bias has dtype int64, expected a floating-point type",
    }


@pytest.mark.parametrize(
    "dialect", ["fatchord", "torchaudio", "coqui", "begeekmyfriend", "scwavernn", "multiband"]
)
def test_counters_and_step_may_be_absent(dialect: str) -> None:
    state = {n: a for n, a in builders.BUILDERS[dialect]().items() if _fault(n)}
    assert _convert(dialect, state).fields["hidden_size"] == 16


def test_a_counter_of_nothing_is_refused() -> None:
    state = builders.fatchord()
    state["spare.num_batches_tracked"] = np.asarray(1)
    with pytest.raises(ModelError, match="unexpected tensor spare"):
        _convert("fatchord", state)


def test_a_negative_variance_is_refused() -> None:
    state = builders.fatchord()
    state["upsample.resnet.batch_norm.running_var"][0] = -0.5
    with pytest.raises(ModelError, match="cannot be negative"):
        _convert("fatchord", state)


@pytest.mark.parametrize("classes", [1, 100])
def test_heads_that_are_not_known_are_refused(classes: int) -> None:
    with pytest.raises(ModelError, match=f"has {classes} outputs"):
        _convert("fatchord", builders.fatchord(classes=classes))


def test_a_hidden_size_that_does_not_split_is_refused() -> None:
    for dialect in ("deepmind", "mkotha"):
        with pytest.raises(ModelError, match="40 units, expected a multiple of 32"):
            _convert(dialect, builders.BUILDERS[dialect](hidden=40))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("overtone.rnn0.weight_ih_l0", "overtone"),
    ],
)
def test_known_but_unsupported_families_are_named(name: str, family: str) -> None:
    state = {name: np.zeros((2, 2), np.float32), "fc1.bias": np.zeros(2, np.float32)}
    with pytest.raises(ModelError, match=family):
        checkpoints.detect(state)


def test_an_unknown_layout_is_refused_with_what_was_tried() -> None:
    with pytest.raises(ModelError) as caught:
        checkpoints.detect({"encoder_layer.weight": np.zeros(2, np.float32)})
    text = str(caught.value)
    assert all(name in text for name in checkpoints.DIALECTS)
    assert "encoder_layer" in text
