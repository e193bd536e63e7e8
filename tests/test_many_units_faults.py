"""Faults planted under the kernels for many streams of the residual and the embedded core."""

from __future__ import annotations

import dataclasses
import functools

import pytest
from many_engines import TwoRuns, same
from test_many_emulation import Streams
from test_many_units_emulation import EMBEDDED, HEADS, LABELS, MORE_LABELS, VALUES, many
from test_residual_faults import barriers_named

from wavernn_fast import _C
from wavernn_fast.errors import EngineError

ORDERS = ("fair", "random:1", "starve:0", "slow:0", "slow:1")
NAMES = barriers_named("kManyUnits")  # one barrier each
OF_EMBEDDED = {"kManyUnitsTakenP", "kManyUnitsReady"}
NOT_EMBEDDED = {
    f"kManyUnits{name}"
    for name in ("V", "SumsV", "H2", "SumsH2", "W", "SumsQ", "Q", "Logits", "LoadedH2")
}
# By core. "values": all rows of fc3 in every block; "tiles": several of streams, whose sums take
# turns; "apart": one block draws for a stream.
PLANS = {
    "residual": {
        "values": (VALUES, {"warps": 8, "streams": 2}, 12, 20),
        "labels": (LABELS, {"warps": 4, "streams": 2}, 12, 20),
        "tiles": (LABELS, {"warps": 4, "streams": 200, "split": True}, 12, 6),
    },
    "embedded": {
        "labels": (EMBEDDED, {"warps": 4, "streams": 2}, 12, 20),
        "tiles": (EMBEDDED, {"warps": 4, "streams": 200, "split": True}, 12, 6),
        "apart": (EMBEDDED, {"warps": 2, "streams": 300}, 12, 6),
    },
}
FAULTS = [
    (core, fault)
    for core, left_out in (("residual", OF_EMBEDDED), ("embedded", NOT_EMBEDDED))
    for fault in ("tag", "parity", *(name for name in NAMES if name not in left_out))
]


def planted(core: str, plan: str) -> TwoRuns:
    config, options, count, longest = PLANS[core][plan]
    streams = Streams(config, count, seed=5, longest=longest)
    return TwoRuns(
        streams, lambda isa: many(config, streams.tensors, **options, isa=isa + "/room:2")
    )


@pytest.fixture(scope="module")
def faulty():
    return functools.cache(planted)


@pytest.mark.parametrize(("core", "fault"), FAULTS)
def test_a_planted_fault_is_found(faulty, core, fault):
    """By a report, by other bits or by the end of its process, in some order of few."""
    lost = f"barrier:{NAMES[fault]}" if fault in NAMES else fault
    assert any(
        faulty(core, plan).differs_apart(f"{order}/lose:{lost}")
        for plan in PLANS[core]
        for order in ORDERS
    )


@pytest.mark.parametrize(("core", "plan"), [(c, p) for c in PLANS for p in PLANS[c]])
def test_without_a_fault_nothing_is_found(faulty, core, plan):
    for order in ORDERS:
        assert not faulty(core, plan).differs_apart(order), order


# --- reports --------------------------------------------------------------------------------------


def words_of_residual(config, shape: dict) -> dict[int, str]:
    """Words of the exchange of a team of 8 streams and their names in reports."""
    units, rows = 64 * config.hidden_size // 16, 64 * config.fc_size // 16
    logits = 4 * units + 2 * rows
    outcomes = logits + (0 if shape["fc3_whole"] else 8 * shape["choice_words"])
    words = {
        8 * 5: "v 10 and 11",
        units + 8 * 9: "h1 18 and 19",
        2 * units + 8 * 2: "w 4 and 5",
        3 * units: "h2 0 and 1",
        4 * units + 8: "p 2 and 3",
        4 * units + rows + 8 * 7: "q 14 and 15",
        outcomes + 4 * config.bands: "the outcome of slot (2|10)",
    }
    if config == LABELS:
        words[logits + 4 * shape["choice_words"]] = "(the logits of slot 12|the outcome of slot 12)"
    return words


def words_of_embedded(config, shape: dict) -> dict[int, str]:
    units, rows = 64 * config.hidden_size // 16, 64 * config.fc_size // 16
    outcomes = units + rows + 8 * shape["choice_words"]
    return {
        8 * 5: "h 10 and 11",
        units + 8 * 7: "p 14 and 15",
        units + rows + 4 * shape["choice_words"]: "(the logits of slot 12|the label of slot 12)",
        outcomes + 4: "the label of slot (2|10)",
    }


# With so many labels the planner lets one block draw for each of 8 streams.
STALLS = HEADS | {"embedded": MORE_LABELS}


@pytest.mark.parametrize("model", STALLS)
def test_a_stall_names_the_word_that_did_not_come(model):
    config = STALLS[model]
    work = Streams(config, 16, longest=9)
    asked = {"gpu": "A100", "blocks": 2, "warps": 2, "streams": 2}
    options = asked | {"isa": "fair/room:4"}  # two teams of 8 slots
    shape = _C.many_plan(dataclasses.asdict(config), **asked)["shape"]
    assert (shape["stream_tiles"], shape["draw_apart"]) == (1, 1)
    words = (words_of_embedded if model == "embedded" else words_of_residual)(config, shape)
    healthy = many(config, work.tensors, **options)
    whole = work.run(healthy, range(16))
    for word, name in words.items():
        at = 2 * shape["buffer_words"] + word  # of the second team
        engine = many(config, work.tensors, **(options | {"isa": f"fair/room:4/lose:word:{at}"}))
        with pytest.raises(EngineError, match=rf"block [23] waited in vain for {name} \(step [01]"):
            work.run(engine, range(16))
    assert same(work.run(healthy, range(16)), whole)
