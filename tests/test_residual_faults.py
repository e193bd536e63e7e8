"""Faults planted under the kernel of the residual core, and words that never come."""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pytest
from engine_work import Work
from residual_works import EVERY_WAY, HEADS, emulated

from wavernn_fast import _C
from wavernn_fast.errors import EngineError


@pytest.fixture(scope="module")
def works() -> dict[str, Work]:
    return {name: Work(config, 40) for name, config in HEADS.items()}


def barriers_named(prefix: str) -> dict[str, int]:
    """Numbers of the barriers of a kernel: every enum of stages.h goes on from another."""
    source = dict(_C.kernel_sources())["cuda/kernels/stages.h"]
    values: dict[str, int] = {}
    for text in re.findall(r"enum \w*Barrier : int \{(.*?)\n\};", source, re.S):
        last = -1
        for name, base, more in re.findall(r"^ +(k\w+)(?: = (\w+)(?: \+ (\d+))?)?", text, re.M):
            last = values[base] + int(more or 0) if base else last + 1
            values[name] = last
    names = [n for n in values if n.startswith(prefix) and n != f"{prefix}Barriers"]
    assert len(names) > 5
    return {name: values[name] for name in names}


def barriers() -> dict[str, int]:
    """All of this kernel's, none of them twice."""
    found = barriers_named("kResidual")
    numbers = list(found.values())
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return found


# These two have tests of their own: only some schedules let one warp run ahead of another there.
SELDOM = ("kResidualRead", "kResidualLogits")
FAULTS = [
    "tag",
    "parity",
    *(f"barrier:{n}" for name, n in barriers().items() if name not in SELDOM),
]


@pytest.mark.parametrize("fault", FAULTS)
@EVERY_WAY
def test_a_planted_fault_is_found_in_every_schedule(works, head, exchanges, fault):
    """By a stall or by other samples; a schedule that finds nothing would prove nothing."""
    work = works[head]
    healthy = work.run(emulated(work, exchanges))[0]
    for schedule in ("fair", "random:1", "random:2", "starve:0", "starve:3", "slow:1"):
        engine = emulated(work, exchanges, isa=f"{schedule}/lose:{fault}")
        with contextlib.suppress(EngineError):  # a stall, reported at once
            assert not np.array_equal(work.run(engine)[0], healthy), schedule


@pytest.mark.parametrize("name", SELDOM)
def test_losing_a_barrier_is_found_where_a_warp_lags(works, name):
    """A warp that still reads the first states, or that still waits for its share of the logits."""
    work = works["labels"]
    healthy = work.run(emulated(work, 4))[0]
    for schedule in ("starve:0", "slow:1"):
        engine = emulated(work, 4, isa=f"{schedule}/lose:barrier:{barriers()[name]}")
        assert not np.array_equal(work.run(engine)[0], healthy), schedule


def words_of(engine: _C.Engine, config) -> dict[str, int]:
    """A word of the exchange area of every kind that travels, by what its report says."""
    h, f = config.hidden_size, config.fc_size
    words = {
        "the reset gate of unit 3 of GRU 1": 3,
        "the candidate gate of unit 1 of GRU 1": 2 * h + 1,
        "unit 5 of GRU 2": 3 * h + 5,
    }
    stays = re.findall(r"(fc\d) \(whole\)", engine.describe())
    if "fc1" not in stays:
        words["p 2"] = 4 * h + 2
    if "fc2" not in stays:
        words["q 7"] = 4 * h + f + 7
    logits = 4 * h + 2 * f
    if "fc3" not in stays and config.head == "mol":
        words["logit 9"] = logits + 9
    if config.head == "softmax":
        words["logit 8"] = logits + 2  # a lane draws from 8 neighbours, and the next is beside it
        words["logit 2"] = logits + 64
    return words


@EVERY_WAY
def test_a_stall_is_reported_with_block_and_word_and_the_stream_can_go_on(works, head, exchanges):
    work = works[head]
    healthy = emulated(work, exchanges)
    whole = work.run(healthy)[0]
    for name, word in words_of(healthy, work.config).items():
        stream, rows = healthy.open(5), list(work.rows.values())
        healthy.run([stream], [18], *[[r] for r in rows])
        broken = emulated(work, exchanges, isa=f"fair/lose:word:{word}")
        rest = [[r[3:]] for r in rows]
        # Pairs of words are waited for together, and three gates; the report has the first.
        first = re.sub(r"\d+", r"\\d+", re.sub("candidate|update", "reset", name))
        report = rf"stalled: block \d waited in vain for {first} \(tag \d+\)"
        with pytest.raises(EngineError, match=report):
            broken.run([stream], [22], *rest)
        assert stream.step == 18
        assert np.array_equal(healthy.run([stream], [22], *rest)[0][0], whole[18:])
