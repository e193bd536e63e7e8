"""Conditioning rows that are NaN or infinite: an error that names the sample, on every engine.

The kernels of a GPU lose a NaN (the larger of it and 0 is 0) and would make sound of it; the rows
that the host brings there are looked at instead. The CPU hands a NaN on to the logits.
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from typing import Any

import cases
import embedded_works
import numpy as np
import pruned_models
import pytest
import residual_works
from arrivals import LINEAR, SUBSCALE
from engine_work import Work, make
from many_engines import layout, many
from test_subscale_model import trained_weights
from voices import DUAL, LABELS, mel

from wavernn_fast import _C
from wavernn_fast.errors import EngineError
from wavernn_fast.features import MelRangeWarning
from wavernn_fast.vocoder import Vocoder

_AUX = {"aux_size": 3, "aux_channels": 8, "aux_blocks": 1, "aux_kernel": 5}
HEARD = cases.dual_config(64, 32, hop_length=4, n_mels=5, upsample_left=1, upsample_right=1, **_AUX)
FRAMES, STEPS = 7, 22  # of a call; the last frame is heard in part


@cache
def work(core: str) -> Work:
    config = {"dual": HEARD, "residual": residual_works.LABELS, "embedded": embedded_works.LABELS}
    return Work(config[core], STEPS)


@cache
def pruned() -> dict[str, np.ndarray]:
    return pruned_models.pruned(HEARD, (4, 4), 0.2, 1)


@cache
def engine(kind: str, core: str) -> _C.Engine:
    one = work(core)
    if kind == "cpu":
        return one.engine()
    if kind == "sparse":
        return make(one.config, pruned(), device="emu", sparse="on", warps=4, cluster=2)
    if kind == "many":
        options = {} if core == "dual" else {"warps": 4, "blocks": 0}
        return many(one.config, one.tensors, **(layout(one.config) if core == "dual" else options))
    if core == "residual":
        return residual_works.emulated(one, 2)
    if core == "embedded":
        return embedded_works.emulated(one)
    return make(one.config, one.tensors, device="emu", exchanges=2, blocks=3, warps=4)


EMULATED = [("one", core) for core in ("dual", "residual", "embedded")]
EMULATED += [("many", core) for core in ("dual", "residual", "embedded")] + [("sparse", "dual")]


def failed_step(of: _C.Engine, start: int, rows: dict[str, Any], n_steps: int) -> int:
    stream = of.open(1, start=start)
    with pytest.raises(EngineError, match="a logit of stream 0 is not finite at step") as caught:
        of.run([stream], [n_steps], [rows["interp"]], [rows["hold"]])
    found = re.search(r"at step (\d+); the weights or the mel are out of range", str(caught.value))
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("kind", "core"), EMULATED)
def test_a_row_that_is_not_finite_is_named_by_the_first_sample_that_hears_it(kind, core, value):
    one, random = work(core), np.random.default_rng(1)
    hop, taps = one.config.hop_length, one.config.upsample_left + one.config.upsample_right
    for start in (0, 3):
        for name, rows in one.rows.items():
            if rows is None:
                continue
            for row in (0, 1, 2):
                bad = one.rows | {name: rows.copy()}
                bad[name][row, random.integers(rows.shape[1])] = value
                frame = max(0, row - (taps if name == "interp" else 0))
                expected = max(0, frame * hop - start % hop)
                assert failed_step(engine(kind, core), start, bad, 3 * hop) == expected


@pytest.mark.parametrize("core", ["dual", "residual", "embedded"])
def test_that_is_the_sample_that_the_cpu_names(core):
    """Of a NaN, which some channels show in the logits of the second half or the next sample."""
    one, random = work(core), np.random.default_rng(2)
    for name, rows in one.rows.items():
        for channel in [] if rows is None else random.integers(rows.shape[1], size=4):
            bad = one.rows | {name: rows.copy()}
            bad[name][2:, channel] = np.nan
            steps = [
                failed_step(engine(kind, core), 0, bad, 3 * one.config.hop_length)
                for kind in ("one", "cpu")
            ]
            assert steps[0] <= steps[1] <= steps[0] + 2


@pytest.mark.parametrize(("kind", "core"), EMULATED)
def test_rows_that_are_not_heard_are_not_looked_at(kind, core):
    one = work(core)
    hop, taps = one.config.hop_length, one.config.upsample_left + one.config.upsample_right
    rows = {name: None if given is None else given.copy() for name, given in one.rows.items()}
    if rows["interp"] is not None:
        rows["interp"][2 + taps :] = np.nan
    if rows["hold"] is not None:
        rows["hold"][2:] = np.nan
    of = engine(kind, core)
    good, bad = ([one.rows[n]] for n in ("interp", "hold")), ([rows[n]] for n in ("interp", "hold"))
    expected = of.run([of.open(1)], [2 * hop], *good)[0][0]
    assert np.array_equal(of.run([of.open(1)], [2 * hop], *bad)[0][0], expected)
    assert len(of.run([of.open(1, start=1)], [0], [rows["interp"]], [rows["hold"]])[0][0]) == 0


def test_the_stream_is_named_that_heard_it():
    one, of = work("dual"), engine("many", "dual")
    rows = [[one.rows[name].copy() for _ in range(3)] for name in ("interp", "hold")]
    rows[1][2][1, 5] = np.inf
    with pytest.raises(EngineError, match="stream 2 is not finite at step 4;"):
        of.run([of.open(seed) for seed in range(3)], [8] * 3, *rows)


@pytest.mark.parametrize(
    "config", [LABELS, DUAL, LINEAR, SUBSCALE], ids=["labels", "dual", "linear", "subscale"]
)
def test_a_mel_beyond_single_precision_is_an_error_and_no_warning(config):
    """numpy warned of an overflow in a line of this package, before the error said what it is."""
    tensors = trained_weights if config is SUBSCALE else cases.random_tensors
    sounding, frames = Vocoder(config, tensors(config)), mel(config, 12)
    frames = np.where(frames < 0, np.float32(-3e38), np.float32(3e38))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", MelRangeWarning)  # of a model that knows its convention
        with pytest.raises(EngineError, match="the weights or the mel are out of range"):
            sounding.generate(frames)
