"""The kernel for many streams on fibers: draws, packing, refilled slots, planted faults.

`test_emulation.py` has what holds for the kernel of one stream, `test_many_slots.py` what holds for
teams and slots of every number; this file has shapes of plans, company of streams, and faults.
"""

from __future__ import annotations

import functools
import re

import cases
import numpy as np
import pytest
import reference
import test_sparse_emulation
import tolerances
from engine_work import make
from hypothesis import given, settings
from hypothesis import strategies as st
from many_engines import TwoRuns, same
from quick import quick_where
from test_emulation import Truth, rounded

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError, EngineError, InputError
from wavernn_fast.vocoder import Vocoder

SMALL = cases.dual_config(64, 33)  # an odd fc: its last tile has rows that are none
CONDITIONED = {"hop_length": 8, "n_mels": 5, "upsample_left": 1, "upsample_right": 1}
# 20 teams of two blocks: few fibers run, since a launch takes only the teams that it needs.
LAUNCH = {"gpu": "T4", "blocks": 2, "warps": 4, "streams": 100}


def many(config, tensors, **options) -> _C.Engine:
    return make(config, tensors, device="emu", dtype="fp16", **(LAUNCH | options))


OF_CLUSTERS = ("kManyStartCluster", "kManyEndCluster")  # test_many_clusters.py has their faults


def barriers() -> list[str]:
    """Names of the barriers of this kernel, in order, those of a half once a side."""
    source = dict(_C.kernel_sources())["cuda/kernels/stages.h"]
    listed = re.search(r"enum ManyBarrier : int \{(.*?)kManyBarriers", source, re.S)
    assert listed is not None
    names = re.findall(r"^ +(k\w+)", listed[1], re.M)
    once = ("kManyAdvanced", "kManyStored", "kManyBegun", "kManyReady", *OF_CLUSTERS)
    return [n for name in names for n in ([name] if name in once else [name] * 2)]


def first_barrier() -> int:
    """They follow those of the kernel for pruned models."""
    return test_sparse_emulation.first_barrier() + len(test_sparse_emulation.barriers())


# --- draws ----------------------------------------------------------------------------------------


class ManyTruth(Truth):
    """A model with fp16 weights whose draws the numpy reference made."""

    def __init__(self, config, n_steps: int, seed: int) -> None:
        super().__init__(config, n_steps, seed, alter=rounded)

    def engine(self, **options) -> _C.Engine:
        return many(self.config, self.tensors, **options)

    def check_forced(self, engine: _C.Engine, bound: float) -> None:
        logits = engine.run(
            [engine.open(0)],
            [self.n],
            *[[r] for r in self.rows],
            forced=[self.expected["samples"]],
            return_logits=True,
        )[0][1]
        expected = self.expected["logits"]
        spread = float(np.abs(expected).max())
        assert tolerances.logit_error(logits, expected) <= bound * spread


# Hidden size, fc, options, and a word of describe() that says what the case is there for.
SHAPES = [
    (96, 40, {"blocks": 3}, "3 blocks"),
    (96, 40, {"blocks": 2}, "32 units of each half"),  # the last block has fewer
    (64, 300, {"gpu": "H200"}, "160 rows of fc1"),
    (128, 400, {"blocks": 4}, "fc2 in L2"),
    (128, 900, {"blocks": 4}, "fc1 in L2; fc2 in L2"),
    (64, 33, {"warps": 2, "streams": 1000, "gpu": "H200"}, "a block draws for a stream"),
    (224, 60, {"blocks": 2, "warps": 2, "gpu": "H200"}, "R: 2 of 14 tiles"),
    (64, 33, {"blocks": 1}, "teams of 1 block "),
    (160, 70, {"blocks": 5, "warps": 8}, "5 blocks of 8 warps"),
    (160, 70, {"blocks": 5, "warps": 16}, "5 blocks of 16 warps"),
]


@pytest.mark.parametrize(("hidden", "fc", "options", "what"), SHAPES)
def test_every_shape_of_a_plan_equals_the_double_reference(hidden, fc, options, what):
    truth = ManyTruth(cases.dual_config(hidden, fc), 24, seed=hidden + fc)
    engine = truth.engine(**options)
    assert what in engine.describe(), engine.describe()
    truth.check_forced(engine, tolerances.FP16_ACTIVATIONS)
    split = truth.engine(**(options | {"split": True}))
    truth.check_forced(split, tolerances.KERNEL_EXACT[0])


# --- what must make no difference -----------------------------------------------------------------


class Streams:
    """Streams of any numbers of steps with their own conditioning, and what each gives alone."""

    def __init__(self, config, count: int, seed: int = 0, longest: int = 70) -> None:
        self.config = config
        self.tensors = cases.random_tensors(config, seed=seed)
        twin = make(config, self.tensors, device="reference")
        rng = np.random.default_rng(seed)
        self.lengths = [config.bands * int(n) for n in rng.integers(1, longest, count)]
        self.rows = []
        for n in self.lengths:
            frames = n // config.hop_length + 2
            sizes = {"interp": (frames + 2, twin.interp_size), "hold": (frames, twin.hold_size)}
            self.rows.append(
                [
                    0.3 * rng.normal(size=size).astype(np.float32) if size[1] else None
                    for size in sizes.values()
                ]
            )

    def run(self, engine: _C.Engine, chosen, **options):
        return engine.run(
            [engine.open(1000 + i) for i in chosen],
            [self.lengths[i] for i in chosen],
            [self.rows[i][0] for i in chosen],
            [self.rows[i][1] for i in chosen],
            return_logits=True,
            **options,
        )


HELD = cases.dual_config(
    64, 33, aux_size=3, aux_channels=4, aux_blocks=1, aux_kernel=3, **CONDITIONED
)


COUNT = 200  # more than the 160 slots of 20 teams


@pytest.fixture(scope="module", params=[SMALL, HELD], ids=["plain", "conditioned"])
def streams(request) -> Streams:
    return Streams(request.param, COUNT, longest=14)


@pytest.fixture(scope="module")
def together(streams) -> list:
    return streams.run(many(streams.config, streams.tensors, streams=2), range(COUNT))


@pytest.mark.parametrize("split", [False, True])
def test_streams_in_any_company_give_what_they_give_alone(streams, together, split):
    """Slots take one stream after the other; 24 of them are run again, each alone."""
    engine = many(streams.config, streams.tensors, streams=2, split=split)
    slots = int(re.search(r"(\d+) in all", engine.describe())[1])
    assert slots < COUNT
    found = streams.run(engine, range(COUNT)) if split else together
    chosen = range(0, COUNT, 9)
    assert same([streams.run(engine, [i])[0] for i in chosen], [found[i] for i in chosen])


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": 1},
        {"streams": 400, "gpu": "H200"},
        {"isa": "random:3"},
        {"isa": "starve:1/generic"},
    ],
    ids=str,
)
def test_plans_of_any_size_give_the_same_bits_in_any_order(streams, together, options):
    """As long as warps are as many: they are the order in which sums are added."""
    engine = many(streams.config, streams.tensors, **options)
    order = list(np.random.default_rng(1).permutation(COUNT))
    assert same(streams.run(engine, order), [together[i] for i in order])


@settings(deadline=None, max_examples=10)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=30),
    st.integers(1, 40),
    st.sampled_from([2, 20, 60]),
)
def test_streams_that_go_on_run_beside_streams_that_begin(lengths, cut, wanted):
    """Every stream in two runs, cut at another place, with others that are new: the same bits."""
    config = SMALL
    tensors = cases.random_tensors(config)
    engine = many(config, tensors, streams=wanted)
    n = len(lengths)

    def run(opened, steps):
        empty = [None] * len(opened)
        return [r[0] for r in engine.run(opened, steps, empty, empty)]

    expected = [run([engine.open(i)], [lengths[i]])[0] for i in range(n)]
    first = [min(length, 1 + (cut + 7 * i) % 40) for i, length in enumerate(lengths)]
    opened = [engine.open(i) for i in range(n)]
    begun = run(opened, first)
    left = [length - done for length, done in zip(lengths, first, strict=True)]
    fresh = [engine.open(i) for i in range(n)]
    both = run(opened + fresh, left + lengths)
    for i in range(n):
        assert np.array_equal(np.concatenate([begun[i], both[i]]), expected[i]), i
        assert np.array_equal(both[n + i], expected[i]), i


def test_streams_that_are_forced_given_chance_or_greedy_may_run_beside_others():
    tensors = cases.random_tensors(SMALL)
    engine, n = many(SMALL, tensors), 45
    ways = [
        {"forced": cases.random_samples(SMALL, n)},
        {"uniforms": cases.random_uniforms(SMALL, n, seed=3)},
        {"greedy": True},
        {"temperature": 0.7},
        {},
    ] * 4

    def run(chosen: list[dict]) -> list[np.ndarray]:
        opened = [
            engine.open(7, **{k: v for k, v in way.items() if k in ("greedy", "temperature")})
            for way in chosen
        ]
        empty = [None] * len(chosen)
        given_ = {k: [way.get(k) for way in chosen] for k in ("forced", "uniforms")}
        return [r[0] for r in engine.run(opened, [n] * len(chosen), empty, empty, **given_)]

    for together, way in zip(run(ways), ways, strict=True):
        assert np.array_equal(together, run([way])[0]), way


def test_stages_of_a_sample_have_clocks_when_asked_for():
    tensors = cases.random_tensors(SMALL)
    engine = many(SMALL, tensors, clocks=True)
    engine.run([engine.open(1)], [20], [None], [None])
    assert next(name for name, _ in engine.stage_ticks()) == "coarse gates"
    assert many(SMALL, tensors).stage_ticks() == []


# --- logits that are not numbers, and faults ------------------------------------------------------


NAMES = barriers()
HERE = [(n, name) for n, name in enumerate(NAMES) if name not in OF_CLUSTERS]
ORDERS = ("fair", "random:1", "starve:0", "slow:0", "slow:1")
# A plan with one tile of streams a team has most barriers; those between tiles need one with two.
PLANS = {
    "one tile": (SMALL, {"warps": 8, "streams": 2}, 12, 24),
    "two tiles": (
        cases.dual_config(256, 120),
        {"warps": 4, "blocks": 8, "streams": 100, "split": True},
        24,
        4,
    ),
}


def planted(plan: str) -> TwoRuns:
    config, options, count, longest = PLANS[plan]
    streams = Streams(config, count, seed=5, longest=longest)
    return TwoRuns(streams, lambda isa: many(config, streams.tensors, isa=isa, **options))


@pytest.fixture(scope="module")
def faulty():
    return functools.cache(planted)


@pytest.mark.parametrize(
    "fault",
    quick_where(
        lambda fault: fault in ("tag", "parity", f"barrier:{first_barrier()}"),
        ["tag", "parity", *(f"barrier:{first_barrier() + n}" for n, _ in HERE)],
    ),
    ids=["tag", "parity", *(f"{name}-{n}" for n, name in HERE)],
)
def test_a_planted_fault_is_found(faulty, fault):
    """By a report, by other bits or by the end of its process, in some order of few."""
    number = int(fault.rpartition(":")[2]) - first_barrier() if ":" in fault else 0
    plan = "two tiles" if NAMES[number] == "kManyTakenGates" else "one tile"
    assert any(faulty(plan).differs_apart(f"{order}/lose:{fault}") for order in ORDERS)


@pytest.mark.parametrize("plan", ["one tile", pytest.param("two tiles", marks=pytest.mark.slow)])
def test_without_a_fault_nothing_is_found(faulty, plan):
    for order in ORDERS:
        assert not faulty(plan).differs_apart(order), order


def test_a_stall_says_who_waited_for_what():
    engine = many(SMALL, cases.random_tensors(SMALL), isa="starve:0/lose:parity")
    pattern = r"stalled: block 0 waited in vain for the coarse units \d+ and \d+ \(step 1\)"
    with pytest.raises(EngineError, match=pattern):
        engine.run([engine.open(1)], [30], [None], [None])


# --- which kernel, and what it refuses ------------------------------------------------------------


def test_weights_beyond_fp16_are_refused_by_name():
    tensors = cases.random_tensors(SMALL)
    tensors["fine_fc2.weight"][3, 2] = 7e4
    with pytest.raises(ValueError, match=r"weight fine_fc2\.weight holds 70000, beyond fp16"):
        many(SMALL, tensors)


def test_the_reference_of_these_tests_rounds_as_the_kernel_keeps():
    """A model whose weights are not fp16 differs from its rounded self by more than the bound of
    split activations: so that bound would see a weight that was rounded wrongly."""
    config, n = SMALL, 40
    tensors = cases.random_tensors(config)
    forced = cases.random_samples(config, n)
    a, b = (
        reference.run(config, t, None, n_steps=n, forced=forced)["logits"]
        for t in (tensors, rounded(tensors))
    )
    assert tolerances.logit_error(a, b) > 10 * tolerances.KERNEL_EXACT[0]


# --- through the package --------------------------------------------------------------------------


def test_a_vocoder_for_many_streams_gives_each_what_it_gives_alone():
    config = cases.dual_config(64, 33, **CONDITIONED)
    tensors = cases.random_tensors(config)
    vocoder = Vocoder(config, tensors, device="emu", gpu_streams=12)
    assert (vocoder.dtype, vocoder.engine.lanes) == ("fp16", vocoder.streams)
    mels = [cases.mel_for(config, 8 * frames, seed=frames) for frames in (1, 4, 2, 0, 3, 2)]
    reports = []
    together = vocoder.generate_batch(mels, report=reports.append)
    for seed, (mel, wave) in enumerate(zip(mels, together, strict=True)):
        assert np.array_equal(vocoder.generate(mel, seed=seed), wave)
    assert reports[0].samples == sum(len(wave) for wave in together)
    one = Vocoder(config, tensors, device="emu", dtype="fp16")
    assert "exchanges a sample" in one.engine.describe()
    with pytest.raises(InputError, match="gpu_streams is -1, expected an integer of at least 0"):
        Vocoder(config, tensors, device="emu", gpu_streams=-1)
    with pytest.raises(DeviceError, match="weights in fp16; dtype is fp32"):
        Vocoder(config, tensors, device="emu", dtype="fp32", gpu_streams=2)
    assert Vocoder(config, tensors, device="cpu", gpu_streams=2).dtype == "fp32"


@pytest.mark.parametrize("streams", [1, 12])
def test_a_vocoder_in_clusters_gives_the_samples_of_one_that_is_not(streams):
    config = cases.dual_config(64, 33, **CONDITIONED)
    tensors, mel = cases.random_tensors(config), cases.mel_for(config, 16)
    how = {"device": "emu", "dtype": "fp16", "gpu_streams": streams}
    clustered = Vocoder(config, tensors, gpu_cluster=2, **how)
    assert "cluster" in clustered.engine.describe()
    plain = Vocoder(config, tensors, **how)
    assert "cluster" not in plain.engine.describe()
    assert np.array_equal(clustered.generate(mel, seed=3), plain.generate(mel, seed=3))
    with pytest.raises(InputError, match=r"gpu_cluster is 2\.5, expected an integer"):
        Vocoder(config, tensors, gpu_cluster=2.5, **how)
    with pytest.raises(InputError, match="gpu_cluster is 17, expected at most 16"):
        Vocoder(config, tensors, gpu_cluster=17, **how)
