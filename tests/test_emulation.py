"""The persistent kernel's own source, run on fibers: draws, schedules, blocks, planted faults.

The emulator is one more engine of `test_engine.py`; here is what only it can show. A schedule says
in which order the threads of all blocks go on, and a fault takes a part of the machine away: a
barrier that does not wait, a poll that does not look at the tag, a reader that keeps to one buffer.
"""

from __future__ import annotations

import contextlib
import re

import cases
import numpy as np
import pytest
import tolerances
import truths
from engine_work import Work, make

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError, EngineError, InputError

SMALL = cases.dual_config(64, 33)  # an odd fc: its last word has no row
LAUNCH = {"blocks": 4, "warps": 2}  # few fibers: quick
RANDOM = [f"random:{seed}" for seed in (1, 2)]
SCHEDULES = ["fair", *RANDOM, *(f"starve:{block}" for block in range(LAUNCH["blocks"]))]
# Ways to hand on the output layers: two or four exchanges a sample through L2, or within clusters.
WAYS: dict[str, dict[str, int]] = {
    "2": {"exchanges": 2},
    "4": {"exchanges": 4},
    "cluster": {
        "cluster": 2,
        "warps": 4,
    },  # a warp owns at most 32 of the rows that a cluster deals
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS)


def emulated(work: Work, way: str, **options) -> _C.Engine:
    options = LAUNCH | WAYS[way] | options
    return make(work.config, work.tensors, device="emu", **options)


def barriers() -> list[str]:
    """Names of the kernel's barriers, in order."""
    source = dict(_C.kernel_sources())["cuda/kernels/stages.h"]
    listed = re.search(r"enum Barrier : int \{(.*?)kBarriers", source, re.S)
    assert listed is not None
    return re.findall(r"^ +(k\w+),", listed[1], re.M)


# --- draws ----------------------------------------------------------------------------------------


class Truth(truths.Truth):
    """Its draws are compared while it draws freely, and its logits as well."""

    def check(self, engine: _C.Engine, n: int | None = None) -> None:
        """Draw (the first n) freely: every sample the reference's, every logit within rounding."""
        samples, logits = engine.run(
            [engine.open(0)],
            [n or self.n],
            *[[r] for r in self.rows],
            uniforms=[self.uniforms[:n]],
            return_logits=True,
        )[0]
        assert np.array_equal(samples, self.expected["samples"][:n])
        error = tolerances.logit_error(logits, self.expected["logits"][:n])
        assert error <= tolerances.KERNEL_EXACT[0]


@pytest.fixture(scope="module")
def truth() -> Truth:
    fields = {"hop_length": 8, "n_mels": 5, "upsample_left": 1, "upsample_right": 1}
    truth = Truth(cases.dual_config(64, 33, **fields), 500, seed=3)
    assert truth.expected["margin"].min() > 1e-6  # no draw so close that rounding may decide it
    return truth


@pytest.mark.parametrize("schedule", SCHEDULES)
@EVERY_WAY
def test_draws_equal_the_double_references_in_every_schedule(truth, way, schedule):
    truth.check(truth.engine(isa=schedule, **(LAUNCH | WAYS[way])), 120)


@pytest.mark.slow
@EVERY_WAY
def test_500_draws_equal_the_double_references(truth, way):
    truth.check(truth.engine(isa="random:1", **(LAUNCH | WAYS[way])))


@pytest.fixture(scope="module")
def paper() -> Truth:
    return Truth(cases.dual_config(896, 448, sample_rate=24000), 3, seed=11)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["fair", "random:1", "starve:0", "starve:37"])
@pytest.mark.parametrize("exchanges", [2, 4])
def test_draws_of_the_papers_model_on_56_blocks_equal_the_double_references(
    paper, exchanges, schedule
):
    options = {"exchanges": exchanges, "blocks": 56, "warps": 8, "gpu": "P100"}
    paper.check(paper.engine(isa=schedule, **options))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["fair", "random:1", "starve:37"])
def test_draws_of_the_papers_model_in_clusters_equal_the_double_references(paper, schedule):
    engine = paper.engine(isa=schedule, gpu="H200", cluster=8)
    assert "clusters of 8" in engine.describe()
    assert "coarse input weights in L2" in engine.describe()
    paper.check(engine)


def rounded(tensors: dict) -> dict:
    """The matrices that fp16 stores in two bytes, rounded; the rest as it is."""
    stored = [n for n in tensors if n == "gru.w_recurrent" or n.endswith("fc1.weight")]
    stored += [n for n in tensors if n.endswith("fc2.weight")]
    return tensors | {n: tensors[n].astype(np.float16).astype(np.float32) for n in stored}


# Few multiprocessors of little memory: the matrices spill from registers to shared memory to L2.
CRAMPED = {
    "fp32": [(160, 80, 2, 8), (160, 80, 3, 8), (160, 80, 6, 4), (64, 32, 1, 8)],
    "fp16": [(96, 40, 3, 4), (256, 512, 4, 8)],
}


PLACES = {
    "fp32": {"R in L2", "fc1 in shared memory", "fc2 in shared memory", "fc2 in L2"},
    "fp16": {"R in registers", "fc1 in L2", "fc2 in registers"},
}


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_draws_do_not_depend_on_where_weights_live(dtype):
    places = set()
    for hidden, fc, blocks, warps in CRAMPED[dtype]:
        truth = Truth(cases.dual_config(hidden, fc), 20, seed=2, alter=rounded)
        for exchanges in (2, 4):
            options = {"gpu": "P100", "blocks": blocks, "warps": warps, "dtype": dtype}
            try:
                engine = truth.engine(exchanges=exchanges, **options)
            except DeviceError:
                continue  # does not fit: other cases must still show every place
            truth.check(engine)
            places |= set(re.findall(r"(?:R|fc1|fc2) in [a-zL2 ]+", engine.describe()))
    assert places >= PLACES[dtype]


# --- what must make no difference -----------------------------------------------------------------


def bits(work: Work, engine: _C.Engine) -> bytes:
    samples, logits = work.run(engine, return_logits=True)
    return samples.tobytes() + logits.tobytes()


@pytest.fixture(scope="module")
def work() -> Work:
    return Work(SMALL, 40)


@pytest.fixture(scope="module")
def brief() -> Work:
    """For launches of thousands of fibers: samples enough that every unit's state has come back."""
    return Work(SMALL, 16)


# Every number of units and rows a block has, and of warps it deals them to; not all pairs of them.
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("way", ["2", "4"])
def test_any_number_of_blocks_and_warps_gives_the_same_bits(brief, way, dtype):
    found = {
        (blocks, warps): bits(brief, emulated(brief, way, dtype=dtype, **launch))
        for blocks, warps in [(1, 16), (2, 8), (3, 4), (5, 7), (7, 2), (16, 3), (31, 1), (32, 2)]
        for launch in [{"blocks": blocks, "warps": warps, "isa": "random:4"}]
    }
    assert len(set(found.values())) == 1, found.keys()


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_clusters_of_any_size_give_the_bits_of_four_exchanges_through_l2(brief, dtype):
    expected = bits(brief, emulated(brief, "4", dtype=dtype))
    for cluster, blocks, warps in [
        *[(2, 2, 8), (2, 4, 16), (2, 32, 4), (3, 9, 4), (3, 3, 7)],
        *[(4, 4, 2), (4, 12, 3), (8, 8, 1), (8, 16, 3), (8, 32, 2), (16, 32, 1)],
    ]:
        launch = {"cluster": cluster, "blocks": blocks, "warps": warps, "isa": "random:4"}
        assert bits(brief, emulated(brief, "cluster", dtype=dtype, **launch)) == expected, launch


def beginning(work: Work, way: str, schedule: str) -> bytes:
    """Logits of a launch of four samples by eight warps a block."""
    engine = emulated(work, way, warps=8, isa=schedule)
    [(_, logits)] = engine.run([engine.open(5)], [4], [None], [None], return_logits=True)
    return logits.tobytes()


@EVERY_WAY
def test_a_launch_begins_alike_whichever_warp_is_first(work, way):
    """One warp may have its first words before another of its block has read the old state."""
    fair = beginning(work, way, "fair")
    assert all(beginning(work, way, f"random:{seed}") == fair for seed in range(16))


@pytest.mark.parametrize("step", [1, 7, 40])
@EVERY_WAY
def test_runs_of_any_length_give_the_same_samples(work, way, step):
    engine = emulated(work, way, isa="random:9")
    cuts = list(range(step, work.n, step))
    assert np.array_equal(work.pieces(engine, cuts), work.run(emulated(work, way))[0])


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@EVERY_WAY
def test_both_builds_of_the_kernel_give_the_same_bits(work, way, dtype):
    generic = emulated(work, way, dtype=dtype, isa="fair/generic")
    assert generic.isa == "fair/generic"
    assert bits(work, generic) == bits(work, emulated(work, way, dtype=dtype))


@EVERY_WAY
def test_samples_go_on_when_the_tags_run_out(work, way):
    """Tags near 2**32: some slices before the exchange area is cleared, the rest after."""
    expected = work.pieces(emulated(work, way), list(range(5, work.n, 5)))
    for first in (2**32 - 1, 2**32 - 7, 2**32 - 40):
        engine = emulated(work, way, isa=f"fair/tag:{first}")
        assert np.array_equal(work.pieces(engine, list(range(5, work.n, 5))), expected), first


@EVERY_WAY
def test_several_streams_in_one_call_at_different_places_get_what_they_get_alone(work, way):
    engine, places, lengths = emulated(work, way), [0, 5, 33], [20, 31, 4]
    alone = [work.run(engine, seed=s)[0] for s in range(3)]
    streams = [engine.open(s) for s in range(3)]
    for stream, n in zip(streams, places, strict=True):
        engine.run([stream], [n], [None], [None])
    copies = [s.copy() for s in streams]
    for each in (streams, copies):
        together = engine.run(each, lengths, [None] * 3, [None] * 3)
        for samples, whole, n, m in zip(together, alone, places, lengths, strict=True):
            assert np.array_equal(samples[0], whole[n : n + m])


@EVERY_WAY
def test_the_inexact_kernel_stays_within_the_table(work, way):
    engine = emulated(work, way, exact=False)
    logits = work.run(engine, forced=work.samples, return_logits=True)[1]
    limit = tolerances.logit_limit(work.logits, "fp32")
    assert tolerances.logit_error(logits, work.logits) <= limit


def test_stages_of_a_sample_have_clocks_when_asked_for(work):
    engine = emulated(work, "2", clocks=True)
    work.run(engine)
    names = [name for name, _ in engine.stage_ticks()]
    assert names[0] == "coarse gates"
    assert len(names) == len(set(names)) > 4
    assert emulated(work, "2").stage_ticks() == []


# --- logits that are not numbers ------------------------------------------------------------------


def test_an_infinite_logit_is_named_and_the_stream_goes_on_as_on_the_cpu():
    """From frame 5 to 7 one coarse unit is 1 instead of -1, and with it a logit is infinite."""
    config = cases.dual_config(64, 32, hop_length=4, n_mels=5)
    work = Work(config, 40)
    tensors, rows = work.tensors, work.rows["interp"]
    half = config.hidden_size // 2
    update, candidate = config.hidden_size, 2 * config.hidden_size
    rows[:, update], rows[:, candidate] = -60.0, -60.0  # the unit follows its candidate at once
    rows[5:7, candidate] = 60.0
    tensors["coarse_fc1.weight"][0] = [1e3] + [0.0] * (half - 1)
    tensors["coarse_fc2.weight"][:, 0] = 3e38
    after = []
    for options in ({}, *(LAUNCH | way | {"device": "emu"} for way in WAYS.values())):
        engine = make(config, tensors, **options)
        stream = engine.open(5)
        with pytest.raises(EngineError, match="stream 0 is not finite at step 20"):
            engine.run([stream], [29], [rows], [work.rows["hold"]])
        assert stream.step == 29
        after.append(engine.run([stream], [11], [rows[7:]], [None])[0][0])
    assert all(np.array_equal(a, after[0]) for a in after[1:])


# --- faults ---------------------------------------------------------------------------------------

START_READ, END_CLUSTER = (barriers().index(name) for name in ("kStartRead", "kEndCluster"))
# Barriers that a way does not have; and the two that have tests of their own below.
LEFT_OUT = {
    "2": {"kStartCluster", "kEndCluster", "kStartRead"},
    "4": {"kStartCluster", "kEndCluster", "kStartRead"},
    "cluster": {"kStartReady", "kCoarseY", "kFineY", "kEndCluster", "kStartRead"},
}
FAULTS = [
    (way, fault)
    for way in WAYS
    for fault in [
        "tag",
        "parity",
        *(f"barrier:{n}" for n, name in enumerate(barriers()) if name not in LEFT_OUT[way]),
    ]
]


@pytest.mark.parametrize(("way", "fault"), FAULTS)
def test_a_planted_fault_is_found_in_every_schedule(work, way, fault):
    """By a stall or by other samples; a schedule that finds nothing would prove nothing."""
    for schedule in ("fair", "random:1", "random:2", "starve:0", "starve:3"):
        engine = emulated(work, way, isa=f"{schedule}/lose:{fault}")
        with contextlib.suppress(EngineError):  # a stall, reported at once
            assert not np.array_equal(work.run(engine)[0], work.samples), schedule


@EVERY_WAY
def test_losing_the_barrier_before_the_first_sample_is_found_by_random_schedules(work, way):
    """Only they let one warp of a block begin the sample while another still reads the state."""
    healthy, lost = beginning(work, way, "fair"), f"lose:barrier:{START_READ}"
    found = [beginning(work, way, f"random:{seed}/{lost}") != healthy for seed in range(16)]
    assert sum(found) >= 3


@EVERY_WAY
def test_a_stall_is_reported_with_block_and_word_and_the_stream_can_go_on(work, way):
    healthy, broken = (emulated(work, way, isa=f"fair{f}") for f in ("", "/lose:parity"))
    whole = work.run(healthy)[0]
    stream = healthy.open(5)
    healthy.run([stream], [20], [None], [None])
    word = r"the (reset|update|candidate) gate of (coarse|fine) unit \d+"
    if way == "4":
        word = rf"({word}|(coarse|fine) (y|logit) \d+)"
    if way == "cluster":
        word = rf"({word}|the (coarse|fine) (y|logits) of its cluster)"
    report = rf"on fair/lose:parity stalled: block \d waited in vain for {word} \(tag \d+\)"
    with pytest.raises(EngineError, match=report):
        broken.run([stream], [20], [None], [None])
    assert stream.step == 20
    rest = healthy.run([stream], [work.n - 20], [None], [None])[0][0]
    assert np.array_equal(rest, whole[20:])


def test_a_block_of_a_cluster_that_gives_up_stays_until_its_peers_push_no_more(work):
    """Its shared memory would be somebody else's; the emulator sees what a GPU might not report."""
    reports = {"": set(), f"/lose:barrier:{END_CLUSTER}": set()}
    for lost, found in reports.items():
        for block in range(LAUNCH["blocks"]):
            engine = emulated(work, "cluster", isa=f"starve:{block}/lose:parity{lost}")
            with pytest.raises(EngineError) as report:
                work.run(engine)
            found.add("left" if "which has left" in str(report.value) else "stalled")
    healthy, broken = reports.values()
    assert healthy == {"stalled"}
    assert "left" in broken


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"blocks": 33}, InputError, "blocks is 33, expected 1 to 32: .* a unit of each half"),
        ({"blocks": 133}, InputError, "blocks is 133, expected 1 to 32"),
        ({"warps": 17}, InputError, "warps is 17, expected 1 to 16"),
        ({"exchanges": 3}, InputError, "exchanges is 3, expected 2 or 4, or 0"),
        ({"exchanges": -1}, InputError, "exchanges is -1, expected 2 or 4, or 0"),
        ({"isa": "starve:4294967296"}, InputError, "expected a block from 0 to 2147483647"),
        ({"cluster": 17}, InputError, "cluster is 17, expected 0 to 16"),
        ({"exchanges": 4, "cluster": 3}, InputError, "blocks is 4, expected a multiple of the cl"),
        ({"cluster": 2}, InputError, "exchanges is 2 and cluster 2: blocks of a cluster have four"),
        ({"exchanges": 0, "cluster": 2, "gpu": "A100"}, DeviceError, "A100 has no clusters .*9.0"),
        ({"exchanges": 0, "cluster": 2}, DeviceError, "blocks=4, warps=2, cluster=2 .*32 rows"),
        ({"dtype": "bf16"}, DeviceError, "bf16 is not available on a GPU; use fp32 or fp16"),
        ({"gpu": "H900"}, InputError, 'no known GPU "H900"; there are P100, .*H200'),
        ({"isa": "sometimes"}, InputError, "not fair, random:SEED, starve:BLOCK or slow:WARP"),
        ({"isa": "random:x"}, InputError, "expected a number after random:"),
        ({"isa": "fair/lose:heart"}, InputError, "is not lose:tag, lose:parity"),
        ({"isa": "fair/lose:barrier:99"}, InputError, "expected a barrier from 0 to"),
        ({"isa": "fair/tag:0"}, InputError, "expected 1 to 4294967295"),
    ],
)
def test_what_the_emulator_cannot_do_is_refused_with_the_reason(work, options, error, message):
    with pytest.raises(error, match=message):
        emulated(work, "2", **options)
