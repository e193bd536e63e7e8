"""Faults planted under the kernel of the embedded core, and words that never come."""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pytest
from embedded_works import LABELS, emulated
from engine_work import Work
from test_residual_faults import barriers_named

from wavernn_fast.errors import EngineError


@pytest.fixture(scope="module")
def work() -> Work:
    return Work(LABELS, 40)


def barriers() -> dict[str, int]:
    return barriers_named("kEmbedded")


# Only some schedules let one warp run ahead of another there: a test of their own.
SELDOM = {"kEmbeddedRead": ("slow:1", "slow:2"), "kEmbeddedLogits": ("starve:0", "slow:1")}
FAULTS = [
    "tag",
    "parity",
    *(f"barrier:{n}" for name, n in barriers().items() if name not in SELDOM),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_in_every_schedule(work, fault):
    """By a stall or by other labels; a schedule that finds nothing would prove nothing."""
    healthy = work.run(emulated(work))[0]
    for schedule in ("fair", "random:1", "random:2", "starve:0", "starve:3", "slow:1"):
        engine = emulated(work, isa=f"{schedule}/lose:{fault}")
        with contextlib.suppress(EngineError):  # a stall, reported at once
            assert not np.array_equal(work.run(engine)[0], healthy), schedule


@pytest.mark.parametrize("name", SELDOM)
def test_losing_a_barrier_is_found_where_a_warp_lags(work, name):
    """A warp that still reads the first state, or that still waits for its share of the logits."""
    healthy = work.run(emulated(work))[0]
    for schedule in SELDOM[name]:
        engine = emulated(work, isa=f"{schedule}/lose:barrier:{barriers()[name]}")
        assert not np.array_equal(work.run(engine)[0], healthy), schedule


H, F = LABELS.hidden_size, LABELS.fc_size
# A word of the exchange area of every kind that travels, by what its report says. Of the logits a
# lane draws from 8 neighbours, which it reads in pairs.
WORDS = {
    "the reset gate of unit 3": 3,
    "the candidate gate of unit 1": 2 * H + 1,
    "p 2": 3 * H + 2,
    "logit 8": 3 * H + F + 2,
    "logit 2": 3 * H + F + 64,
}


@pytest.mark.parametrize("name", WORDS)
def test_a_stall_is_reported_with_block_and_word_and_the_stream_can_go_on(work, name):
    healthy, hold = emulated(work), work.rows["hold"]
    whole, stream = work.run(healthy)[0], healthy.open(5)
    healthy.run([stream], [18], [None], [hold])
    broken = emulated(work, isa=f"fair/lose:word:{WORDS[name]}")
    # Pairs of words are waited for together, and three gates; the report has the first.
    first = re.sub(r"\d+", r"\\d+", re.sub("candidate", "reset", name))
    with pytest.raises(EngineError, match=rf"stalled: block \d waited in vain for {first} \(tag"):
        broken.run([stream], [22], [None], [hold[3:]])
    assert stream.step == 18
    assert np.array_equal(healthy.run([stream], [22], [None], [hold[3:]])[0][0], whole[18:])
