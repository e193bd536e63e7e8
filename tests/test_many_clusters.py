"""Teams of many streams that are clusters: messages pushed from shared memory to shared memory.

Whatever the transport, a stream has the same bits; so what `test_many_emulation.py`,
`test_many_slots.py` and `test_many_units_emulation.py` say of messages through L2 holds here too.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import cases
import pytest
import test_many_units_emulation as units
from many_engines import TwoRuns, many, same, slots_of
from quick import quick_where
from test_many_emulation import CONDITIONED, HELD, Streams, barriers, first_barrier
from test_many_slots import ManyTruth
from test_many_units_faults import NOT_EMBEDDED, OF_EMBEDDED
from test_residual_faults import barriers_named
from truths import Truth, rounded

from wavernn_fast import _C
from wavernn_fast.errors import EngineError

# Three tiles of units: in a cluster of two the second block has one, and one tile of y.
DUAL = cases.dual_config(96, 41, **CONDITIONED)
DUAL_MESSAGES = ("units", "y", "logits", "classes")
MODELS = {"dual": DUAL, "held": HELD, **units.MODELS}
COUNT = 30


# --- the same bits --------------------------------------------------------------------------------


@functools.cache
def streams(name: str) -> Streams:
    return Streams(MODELS[name], COUNT, seed=2, longest=12)


def engine(name: str, **options: Any) -> _C.Engine:
    options = {"gpu": "H200", "warps": 4, "streams": 8} | options
    return many(MODELS[name], streams(name).tensors, **options)


@functools.cache
def through_l2(name: str, split: bool) -> list:
    return streams(name).run(engine(name, split=split), range(COUNT))


# Of many streams a team some blocks draw for none, or for several a warp.
WAYS: list[tuple[dict[str, Any], str]] = [
    ({"cluster": 2}, "fair"),
    ({"cluster": 2}, "random:1"),
    ({"cluster": 2, "streams": 1000}, "starve:1/room:2"),
    ({"cluster": 2, "streams": 500}, "slow:1/room:4"),
    ({"cluster": 3}, "starve:0"),
    ({"cluster": 3, "streams": 900}, "random:2/room:3"),
]


@pytest.mark.parametrize("split", [False, True], ids=["fp16", "split"])
@pytest.mark.parametrize("name", MODELS)
def test_clusters_of_any_size_give_the_bits_of_messages_through_l2(name, split):
    for asked, isa in WAYS:
        if name == "held" and asked["cluster"] == 3:
            continue  # 64 units: two tiles of a half
        made = engine(name, split=split, isa=isa, **asked)
        assert f"of {asked['cluster']} blocks" in made.describe()
        assert "every team a cluster" in made.describe()
        assert same(streams(name).run(made, range(COUNT)), through_l2(name, split)), (asked, isa)


def test_blocks_without_rows_of_a_layer_and_without_streams_to_draw_for_keep_up():
    """16 blocks, of which one has rows of O1, and eight of them draw for a stream of eight."""
    config = cases.dual_config(512, 9)
    work = Streams(config, 9, seed=4, longest=6)
    expected = work.run(many(config, work.tensors, gpu="H200", warps=4), range(9))
    for isa in ("fair", "random:3", "starve:0", "starve:15"):
        made = many(config, work.tensors, gpu="H200", warps=4, cluster=16, isa=isa)
        assert "a block draws for a stream" in made.describe()
        assert same(work.run(made, range(9)), expected), isa


@pytest.mark.slow
@pytest.mark.parametrize(("cluster", "isa"), [(8, "fair"), (8, "random:1"), (16, "starve:15")])
def test_draws_of_a_model_of_512_units_equal_the_double_references(cluster, isa):
    truth = ManyTruth(cases.dual_config(512, 256), 4, 4)
    made = truth.engine(split=True, warps=8, cluster=cluster, isa=isa)
    assert slots_of(made) == (1, 4)
    truth.check(made)


@pytest.mark.slow
def test_draws_of_the_usual_residual_model_in_16_blocks_equal_the_double_references():
    fields = {"hop_length": 275, "n_mels": 80, "upsample_left": 2, "upsample_right": 2}
    truth = Truth(cases.residual_config(512, 512, bits=9, **fields), 1, 5, alter=rounded)
    options = {"gpu": "H200", "split": True, "streams": 4, "cluster": 16, "isa": "random:2"}
    made = truth.engine(dtype="fp16", **options)
    assert "teams of 16 blocks of 8 warps" in made.describe()
    truth.check(made)


def test_an_engine_with_room_for_fewer_clusters_gives_the_same_bits():
    """A device has room for whole clusters only: 7 blocks are three of two."""
    for room, teams in ((132, 66), (7, 3), (2, 1)):
        made = engine("dual", cluster=2, isa=f"fair/room:{room}")
        assert slots_of(made)[0] == teams
        assert same(streams("dual").run(made, range(COUNT)), through_l2("dual", False))


@pytest.mark.parametrize(
    ("name", "cluster"),
    [("dual", 3), ("labels", 3), ("values", 3), ("values", 2), ("embedded", 2), ("embedded", 3)],
)
def test_every_value_is_pushed_to_every_block_that_wants_it_and_nothing_goes_through_l2(
    name, cluster
):
    config, n = MODELS[name], 12
    made = engine(name, cluster=cluster, clocks=True)
    before = dict(made.counts())
    rows = [[streams(name).rows[0][k]] for k in (0, 1)]
    steps = min(n, streams(name).lengths[0])
    made.run([made.open(1)], [steps], *rows)
    counted = {k: v - before.get(k, 0) for k, v in dict(made.counts()).items()}
    plan = _C.many_plan(dataclasses.asdict(config), gpu="H200", warps=4, streams=8, cluster=cluster)
    s = plan["shape"]
    # A pair of 8 streams is 8 words.
    pairs = {
        "dual": 2 * 8 * (s["half_tiles"] + s["fc_tiles"]),
        "labels": 4 * 8 * s["hidden_tiles"] + 2 * 8 * s["fc_tiles"],
        "values": 4 * 8 * s["hidden_tiles"] + 2 * 8 * s["fc_tiles"],
        "embedded": 8 * (s["hidden_tiles"] + s["fc_tiles"]),
    }[name]
    drawing = 1 if s["draw_apart"] else cluster
    logits = 0 if s["fc3_whole"] else 512 if name == "dual" else s["choice_words"]
    outcomes = (2 if name == "dual" else 1) * 8 * cluster * s["draw_apart"]
    pushes = 8 * pairs * (cluster - 1) + 8 * logits * drawing + outcomes
    assert counted["pushes"] == steps * pushes
    assert counted["words"] == 0
    assert s["buffer_words"] == 0


# --- faults ---------------------------------------------------------------------------------------

ORDERS = ("fair", "random:1", "starve:0", "slow:0", "slow:1")
END = barriers().index("kManyEndCluster") + first_barrier()
# Options and the longest stream of plans of which one finds each fault.
PLANS: dict[str, list[tuple[dict[str, Any], int]]] = {
    "dual": [
        ({"warps": 8, "streams": 2, "cluster": 3}, 20),
        ({"warps": 4, "streams": 700, "split": True, "cluster": 3}, 8),
    ],
    "labels": [
        ({"warps": 4, "streams": 2, "cluster": 3}, 20),
        ({"warps": 4, "streams": 500, "split": True, "cluster": 3}, 8),
    ],
    # All rows of fc3 in every block, and every block draws.
    "values": [({"warps": 8, "streams": 2, "cluster": 2}, 20)],
    "embedded": [
        ({"warps": 8, "streams": 2, "cluster": 3}, 20),  # every block draws
        ({"warps": 2, "streams": 500, "cluster": 3}, 8),
    ],
}


def planted(name: str, plan: int) -> TwoRuns:
    options, longest = PLANS[name][plan]
    work = Streams(MODELS[name], 12, seed=5, longest=longest)
    return TwoRuns(
        work,
        lambda isa: many(work.config, work.tensors, gpu="H200", isa=f"{isa}/room:3", **options),
    )


@pytest.fixture(scope="module")
def faulty():
    return functools.cache(planted)


def faults() -> dict[tuple[str, str], str]:
    """(kernel, barrier or what else is planted) and how the emulator is told."""
    many_barriers = list(enumerate(barriers(), first_barrier()))
    found = {("dual", f"{name}-{n}"): f"barrier:{n}" for n, name in many_barriers if n != END}
    start = {name: f"barrier:{n}" for n, name in many_barriers}["kManyStartCluster"]
    of_units = barriers_named("kManyUnits")
    for core, left_out in (("residual", OF_EMBEDDED), ("embedded", NOT_EMBEDDED)):
        found[core, "kManyStartCluster"] = start
        for barrier in set(of_units) - left_out:
            found[core, barrier] = f"barrier:{of_units[barrier]}"
    return found | {(core, "tag"): "tag" for core in KERNELS}


KERNELS = {"dual": ["dual"], "residual": ["values", "labels"], "embedded": ["embedded"]}
FAULTS = faults()


@pytest.mark.parametrize(
    ("core", "fault"),
    quick_where(lambda fault: "Start" in fault[1] or fault[1] == "tag", sorted(FAULTS)),
)
def test_a_planted_fault_is_found(faulty, core, fault):
    """By a report, by other bits or by the end of its process, in some order of few."""
    assert any(
        faulty(name, plan).differs_apart(f"{order}/lose:{FAULTS[core, fault]}")
        for name in KERNELS[core]
        for plan in range(len(PLANS[name]))
        for order in ORDERS
    )


@pytest.mark.parametrize(
    ("name", "plan"), [(name, i) for name, plans in PLANS.items() for i in range(len(plans))]
)
def test_without_a_fault_nothing_is_found(faulty, name, plan):
    for order in ORDERS:
        assert not faulty(name, plan).differs_apart(order), order


# --- reports --------------------------------------------------------------------------------------

# By kernel: what the messages of a sample are called.
NAMES = {
    "dual": [f"{side} {what}" for side in ("coarse", "fine") for what in DUAL_MESSAGES],
    "labels": ["v", "h1", "w", "h2", "p", "q", "logits", "outcomes"],
    "embedded": ["h", "p", "logits", "labels"],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_stall_says_who_waited_for_which_message(name):
    """All blocks wait for what none is given; each that gives up stays until the others do."""
    for number, message in enumerate(NAMES[name]):
        made = engine(name, cluster=3, streams=500, isa=f"starve:1/room:3/lose:message:{number}")
        report = rf"stalled: block \d waited in vain for the {message} of its cluster \(step 0\)"
        with pytest.raises(EngineError, match=report):
            streams(name).run(made, range(COUNT))


def test_a_block_that_gives_up_stays_until_its_peers_push_no_more():
    """Its shared memory would be somebody else's; the emulator sees what a GPU might not report."""
    reports: dict[str, set[str]] = {"": set(), f"/lose:barrier:{END}": set()}
    for lost, found in reports.items():
        for block in range(3):
            for number in range(8):
                isa = f"starve:{block}/room:3/lose:message:{number}{lost}"
                with pytest.raises(EngineError) as report:
                    streams("dual").run(engine("dual", cluster=3, isa=isa), range(COUNT))
                found.add("left" if "which has left" in str(report.value) else "stalled")
    healthy, broken = reports.values()
    assert healthy == {"stalled"}
    assert "left" in broken
