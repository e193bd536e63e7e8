"""The kernel for many streams in teams and slots of every number: draws, company, reports.

`test_many_emulation.py` has its schedules and planted faults.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import cases
import numpy as np
import pytest
import tolerances
from hypothesis import given, settings
from hypothesis import strategies as st
from many_engines import failing, layout, many, random_rows, slots_of, twin
from test_emulation import RANDOM

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError, EngineError, InputError, ModelError

SMALL = cases.dual_config(64, 33)  # an odd fc: the last tile of O2 reaches over the edge
MEL = {"hop_length": 8, "n_mels": 5, "upsample_left": 1, "upsample_right": 1}
AUX = {"aux_size": 3, "aux_channels": 4, "aux_blocks": 1, "aux_kernel": 3}


def bits(results: list[tuple]) -> bytes:
    return b"".join(s.tobytes() + (b"" if x is None else x.tobytes()) for s, x in results)


def run(engine: _C.Engine, lengths: list[int], rows=None, **options) -> list[tuple]:
    """Streams of seeds 0, 1, 2 and so on, from their beginning."""
    count = len(lengths)
    interp, hold = rows or ([None] * count, [None] * count)
    return engine.run([engine.open(s) for s in range(count)], lengths, interp, hold, **options)


# --- draws ----------------------------------------------------------------------------------------


class ManyTruth:
    """Eight streams of one model, each with its own mel, drawn by the float64 reference."""

    def __init__(self, config, count: int, n_steps: int) -> None:
        self.config, self.n, self.count = config, n_steps, count
        self.tensors = cases.random_tensors(config)
        engine = twin(config, self.tensors)
        self.rows = random_rows(config, engine, count, n_steps)
        self.uniforms = [cases.random_uniforms(config, n_steps, seed=s) for s in range(count)]
        self.expected = self.draw(engine)

    def draw(self, engine: _C.Engine, **options) -> list[tuple]:
        options = {"uniforms": self.uniforms, "return_logits": True} | options
        return run(engine, [self.n] * self.count, self.rows, **options)

    def check(self, engine: _C.Engine) -> None:
        """Draw freely: every sample the reference's, every logit within rounding."""
        for found, expected in zip(self.draw(engine), self.expected, strict=True):
            assert np.array_equal(found[0], expected[0])
            error = tolerances.logit_error(found[1], expected[1])
            assert error <= tolerances.KERNEL_EXACT[0]

    def check_forced(self, engine: _C.Engine) -> float:
        """Of activations in fp16: the largest error under forcing, as a share of the spread."""
        forced = [samples for samples, _ in self.expected]
        worst = 0.0
        for found, expected in zip(
            self.draw(engine, uniforms=None, forced=forced), self.expected, strict=True
        ):
            assert np.array_equal(found[0], expected[0])
            error = tolerances.logit_error(found[1], expected[1])
            worst = max(worst, error / float(np.abs(expected[1]).max()))
        assert worst <= tolerances.FP16_ACTIVATIONS
        return worst

    def engine(self, **options) -> _C.Engine:
        return many(self.config, self.tensors, **layout(self.config, **options))


@pytest.fixture(scope="module")
def truth() -> ManyTruth:
    return ManyTruth(cases.dual_config(64, 33, **MEL, **AUX), 8, 120)


SCHEDULES = ["fair", *RANDOM, "starve:0", "starve:3"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_120_draws_of_every_stream_equal_the_double_references(truth, schedule):
    """Two teams of two blocks."""
    engine = truth.engine(teams=2, tiles=1, split=True, isa=schedule)
    assert slots_of(engine) == (2, 4)
    truth.check(engine)


@pytest.mark.parametrize("schedule", ["fair", *RANDOM, "starve:1"])
def test_rounded_activations_stay_near_the_double_reference(truth, schedule):
    truth.check_forced(truth.engine(teams=1, tiles=1, isa=schedule))


@functools.cache
def crowd() -> ManyTruth:
    """128 streams: the most of any case below."""
    return ManyTruth(SMALL, 128, 16)


def few(truth: ManyTruth, count: int) -> ManyTruth:
    """The same for the first of its streams."""
    fewer = object.__new__(ManyTruth)
    vars(fewer).update(vars(truth), count=count)
    fewer.rows = tuple(r[:count] for r in truth.rows)
    fewer.uniforms, fewer.expected = truth.uniforms[:count], truth.expected[:count]
    return fewer


SIZES = [(teams, streams) for streams in (8, 16, 24, 32) for teams in (1, 2, 3, 4)]
QUICK = [(1, 8), (2, 16), (3, 24), (4, 8), (1, 32)]  # every number of either
TRANSPORTS: dict[str, dict[str, Any]] = {"L2": {}, "shared memory": {"cluster": 2}}


@pytest.mark.parametrize(
    ("teams", "streams"),
    [pytest.param(*s, marks=[] if s in QUICK else pytest.mark.slow) for s in SIZES],
)
@pytest.mark.parametrize("split", [True, False], ids=["split", "fp16"])
@pytest.mark.parametrize("through", TRANSPORTS)
def test_teams_and_streams_of_any_number_draw_what_the_reference_does(
    teams, streams, split, through
):
    truth = few(crowd(), teams * streams)
    tiles, isa = streams // (4 if split else 8), f"random:{teams}"
    engine = truth.engine(teams=teams, tiles=tiles, split=split, isa=isa, **TRANSPORTS[through])
    assert ("every team a cluster" in engine.describe()) == (through == "shared memory")
    assert slots_of(engine) == (teams, streams)
    (truth.check if split else truth.check_forced)(engine)


# Model, what is asked of the planner, and what its plan must then say.
PLACES: list[tuple[int, int, dict[str, Any], str]] = [
    (96, 23, {"warps": 8}, "3 blocks .* every block draws"),
    (96, 200, {"tiles": 2, "warps": 4}, "3 blocks .* a block draws for a stream"),
    (96, 48, {"blocks": 2}, "2 blocks .*32 units of each half"),  # the second has 16 only
    (96, 48, {"blocks": 1, "warps": 8}, "48 units of each half"),
    (96, 300, {"warps": 8}, "112 rows of fc1"),
    (64, 1, {"warps": 4}, "every block draws"),
    (160, 33, {"warps": 8, "tiles": 2}, "5 blocks"),
    (128, 40, {"blocks": 1}, "R: 2 of 8 tiles of columns"),
    (64, 160, {"gpu": "T4"}, "fc2 in L2"),
    (64, 600, {"gpu": "T4"}, "fc1 in L2; fc2 in L2"),
    (96, 64, {"gpu": "T4", "blocks": 2, "warps": 4}, "2 blocks"),
]


@pytest.mark.parametrize("conditioned", [False, True], ids=["", "mel"])
@pytest.mark.parametrize(("hidden", "fc", "asked", "says"), PLACES, ids=str)
def test_draws_do_not_depend_on_where_weights_live(hidden, fc, asked, says, conditioned):
    config = cases.dual_config(hidden, fc, **(MEL | AUX if conditioned else {}))
    truth = ManyTruth(config, 9 if asked.get("tiles") else 5, 12)
    for split in (True, False):
        engine = truth.engine(isa="random:3", split=split, **asked)
        if not split:
            assert re.search(says, engine.describe(), re.S), engine.describe()
        (truth.check if split else truth.check_forced)(engine)


@pytest.fixture(scope="module")
def paper() -> ManyTruth:
    return ManyTruth(cases.dual_config(896, 448, sample_rate=24000), 4, 3)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["fair", "random:1", "starve:0", "starve:27"])
def test_draws_of_the_papers_model_on_28_blocks_equal_the_double_references(paper, schedule):
    engine = paper.engine(split=True, warps=8, isa=schedule)
    assert "1 team of 28 blocks of 8 warps, 4 streams" in engine.describe()
    paper.check(engine)


@pytest.mark.slow
def test_the_papers_model_with_activations_in_fp16_stays_near_the_reference(paper):
    paper.check_forced(paper.engine(warps=8, isa="random:1"))


@pytest.mark.slow
def test_rows_of_r_that_registers_do_not_hold_equal_the_double_references():
    truth = ManyTruth(cases.dual_config(1024, 512, sample_rate=24000), 4, 2)
    engine = truth.engine(split=True, warps=8)
    assert "R: 15 of 16 tiles of columns" in engine.describe()
    truth.check(engine)


def test_the_inexact_kernel_stays_within_the_table(truth):
    forced = [s for s, _ in truth.expected]
    found = truth.draw(truth.engine(exact=False), uniforms=None, forced=forced)
    for (_, logits), (_, expected) in zip(found, truth.expected, strict=True):
        assert tolerances.logit_error(logits, expected) <= tolerances.logit_limit(expected, "fp16")


# --- what must make no difference -----------------------------------------------------------------

WHOLE = 80  # samples of a voice
WARPS = 4
PACKED = cases.dual_config(96, 33, **MEL, **AUX)  # three tiles of units a half
# Engines that promise the same bits: any number of blocks, teams, and streams side by side.
LAYOUTS = [
    {"teams": 1, "tiles": 1, "blocks": 1},
    {"teams": 2, "tiles": 1, "blocks": 2},
    {"teams": 1, "tiles": 2, "blocks": 3},
    {"teams": 3, "tiles": 2, "blocks": 1},
    {"teams": 1, "tiles": 4, "blocks": 2},
    {"teams": 4, "tiles": 1, "blocks": 3, "gpu": "A100"},
    {"teams": 2, "tiles": 1, "cluster": 3},
    {"teams": 1, "tiles": 3, "cluster": 2},
]
HOWS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"greedy": True},
    {"uniforms": True},
    {"forced": True},
]
VOICES = 10  # two of each


class Packed:
    """Voices of one model, each run alone: what it must be given in any company."""

    def __init__(self, split: bool) -> None:
        self.split = split
        self.tensors = cases.random_tensors(PACKED)
        self.rows = random_rows(PACKED, twin(PACKED, self.tensors), VOICES, WHOLE)
        self.engines = [
            many(
                PACKED,
                self.tensors,
                **layout(PACKED, warps=WARPS, split=split, isa=isa, **asked),
            )
            for asked, isa in zip(
                LAYOUTS,
                [
                    "fair",
                    "random:1",
                    "starve:0",
                    "random:2",
                    "fair",
                    "starve:2",
                    "random:4",
                    "slow:1",
                ],
                strict=True,
            )
        ]
        self.alone = [self.run([self.begin(v)], [WHOLE])[0] for v in range(VOICES)]

    def begin(self, voice: int, engine: int = 0) -> tuple[int, _C.Stream]:
        how = {k: v for k, v in HOWS[voice % 5].items() if k in ("temperature", "greedy")}
        return voice, self.engines[engine].open(voice, **how)

    def run(
        self, begun: list[tuple[int, _C.Stream]], lengths: list[int], engine: int = 0, logits=True
    ) -> list[tuple]:
        given: dict[str, list[Any]] = {"uniforms": [], "forced": [], "interp": [], "hold": []}
        for (voice, stream), n in zip(begun, lengths, strict=True):
            at, how = stream.step, HOWS[voice % 5]
            uniforms = cases.random_uniforms(PACKED, WHOLE, seed=voice)[at : at + n]
            forced = cases.random_samples(PACKED, WHOLE, seed=voice)[at : at + n]
            given["uniforms"].append(uniforms if "uniforms" in how else None)
            given["forced"].append(forced if "forced" in how else None)
            for name, rows in zip(("interp", "hold"), self.rows, strict=True):
                given[name].append(rows[voice][at // PACKED.hop_length :])
        streams = [stream for _, stream in begun]
        return self.engines[engine].run(streams, lengths, **given, return_logits=logits)

    def check(self, engine: int, lengths: list[int], seed: int, calls: int, logits: bool) -> None:
        """Streams of those lengths in so many calls; each call continues some and begins others."""
        random = np.random.default_rng(seed)
        begun = [self.begin(int(random.integers(VOICES)), engine) for _ in lengths]
        left = list(lengths)
        for call in range(calls):
            last = call == calls - 1
            chosen = [i for i, n in enumerate(left) if n and (last or random.random() < 0.6)]
            pieces = [left[i] if last else int(random.integers(left[i] + 1)) for i in chosen]
            at = [begun[i][1].step for i in chosen]
            found = self.run([begun[i] for i in chosen], pieces, engine, logits)
            for i, first, n, (samples, values) in zip(chosen, at, pieces, found, strict=True):
                expected = self.alone[begun[i][0]]
                assert np.array_equal(samples, expected[0][first : first + n]), (i, first, n)
                if logits:
                    assert values.tobytes() == expected[1][first : first + n].tobytes(), i
                left[i] -= n


@functools.cache
def packed(split: bool) -> Packed:
    return Packed(split)


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(
    st.booleans(),
    st.integers(0, len(LAYOUTS) - 1),
    st.one_of(
        st.lists(st.integers(1, WHOLE), min_size=1, max_size=12),
        st.lists(st.integers(1, 20), min_size=1, max_size=80),
    ),
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.booleans(),
)
def test_a_stream_is_given_the_same_bits_in_any_company(
    split, engine, lengths, seed, calls, logits
):
    packed(split).check(engine, lengths, seed, calls, logits)


@pytest.mark.slow
def test_80_streams_of_80_samples_and_less_get_what_they_get_alone():
    lengths = [1 + (37 * i) % WHOLE for i in range(80)]
    for engine in (1, 3):
        packed(False).check(engine, lengths, engine, 2, True)


@pytest.mark.parametrize("split", [True, False])
def test_voices_differ_so_that_a_mix_up_would_be_seen(split):
    alone = packed(split).alone
    assert len({samples.tobytes() for samples, _ in alone}) == VOICES


def test_an_engine_with_room_for_fewer_teams_gives_the_same_bits(truth):
    for room, teams in ((132, 66), (9, 4), (2, 1)):
        options = layout(truth.config) | {"isa": f"fair/room:{room}"}
        engine = many(truth.config, truth.tensors, **options)
        assert slots_of(engine)[0] == teams
        assert bits(truth.draw(engine)) == bits(truth.draw(truth.engine()))
    with pytest.raises(DeviceError, match="The kernel has 132 blocks, room is for 1"):
        many(truth.config, truth.tensors, **(options | {"isa": "fair/room:1"}))


def test_no_streams_and_no_steps_are_nothing_to_do(truth):
    engine = truth.engine()
    assert engine.run([], [], [], []) == []
    [(samples, _)] = run(engine, [0], tuple(r[:1] for r in truth.rows))
    assert len(samples) == 0


# --- logits that are not numbers ------------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("place", [0, 3, 10])
def test_an_infinite_logit_is_named_and_leaves_other_streams_alone(split, place):
    """Also the stream that comes after it in its slot: more streams than slots."""
    config, tensors, healthy, rows = failing()
    options = layout(config, split=split)
    options |= {"isa": options["isa"] if not split else "starve:1/room:2"}
    engine = many(config, tensors, **options)
    count, lengths = 24, [29] * 24
    given = [rows if i == place else healthy for i in range(count)]
    streams = [engine.open(s) for s in range(count)]
    fresh = [s.copy() for s in streams]
    with pytest.raises(EngineError, match=rf"stream {place} is not finite at step 20"):
        engine.run(streams, lengths, given, [None] * count)
    assert [s.step for s in streams] == lengths
    alone = many(config, tensors, **options)
    for i in (0, 1, 2, 4, 11, 18, 23):
        if i == place:
            continue
        alone.run([fresh[i]], [29], [healthy], [None])
        nexts = [
            e.run([s], [9], [healthy[7:]], [None], return_logits=True)
            for e, s in ((engine, streams[i]), (alone, fresh[i]))
        ]
        assert bits(nexts[0]) == bits(nexts[1]), i


def test_a_weight_that_is_no_number_is_refused(truth):
    for name, value, report in (
        ("fine_fc2.weight", np.nan, "holds nan"),
        ("fine_fc2.weight", 1e5, r"holds 100000, beyond fp16 \(65504\)"),
        ("fine_fc2.bias", np.nan, "holds nan"),
    ):
        tensors = {k: v.copy() for k, v in truth.tensors.items()}
        tensors[name][3] = value
        with pytest.raises(InputError, match=f"weight {name} {report}"):
            many(truth.config, tensors, **layout(truth.config))


# --- reports --------------------------------------------------------------------------------------


def lost_words(config, engine: _C.Engine) -> list[tuple[int, int, str]]:
    """(buffer, word of it, what it is) of one word of every kind, for both halves."""
    streams, half, fc = slots_of(engine)[1], 64 * (config.hidden_size // 32), 64 * -(-33 // 16)
    tiles = streams // 8
    half, fc, found = half * tiles, fc * tiles, []
    logits = 2 * (half + fc)
    for side, name in enumerate(("coarse", "fine")):
        found.append((side * half + 8 * 5, f"the {name} units 10 and 11"))
        found.append((2 * half + side * fc + 8 * 9, f"the {name} y 18 and 19"))
        for slot in (0, streams - 1):
            found.append(
                (logits + (side * streams + slot) * 256, f"the {name} logits of slot {slot}")
            )
        at = logits + 512 * streams + side * streams + 4
        found.append((at, f"the {name} class of slot 4"))
    return [(buffer, *word) for buffer in (0, 1) for word in found]


def test_a_stall_names_the_word_that_did_not_come():
    """Of the second team its slots are numbered on. The stream can be run again."""
    options = {"teams": 2, "tiles": 2, "warps": 2}
    tensors, n = cases.random_tensors(SMALL), [4] * 32
    healthy = many(SMALL, tensors, **layout(SMALL, **options))
    size, whole = buffer_words(SMALL, slots_of(healthy)[1]), run(healthy, n)
    for team in (0, 1):
        for buffer, word, name in lost_words(SMALL, healthy):
            at = (2 * team + buffer) * size + word
            engine = many(SMALL, tensors, **layout(SMALL, isa=f"fair/lose:word:{at}", **options))
            if "slot" in name:
                slot = int(name.split()[-1])
                name = name.replace(f"slot {slot}", f"slot {slot + 16 * team}")
                if "logits" in name:  # other blocks wait for its class, and read four
                    side, read = name.split()[1], (slot + 16 * team) // 4 * 4
                    name = f"({name}|the {side} class of slot {read})"
            streams = [engine.open(s) for s in range(32)]
            report = (
                rf"stalled: block [{2 * team}{2 * team + 1}] waited in vain for {name} \(step [01]"
            )
            with pytest.raises(EngineError, match=report):
                engine.run(streams, n, [None] * 32, [None] * 32)
            mine = slice(16 * team, 16 * team + 16)
            assert [s.step for s in streams[mine]] == [0] * 16  # the other team has gone on
            again = healthy.run(streams[mine], n[mine], [None] * 16, [None] * 16)
            assert [a[0].tolist() for a in again] == [a[0].tolist() for a in whole[mine]]


def test_a_stall_of_the_last_of_many_small_teams_names_its_block_too():
    """Its pairs of words are numbers of 23 bits."""
    config, streams, team = cases.dual_config(32, 1), 56, 147
    options = layout(config, teams=148, tiles=7, gpu="B200")
    # The first logit of the first step.
    at = 2 * team * buffer_words(config, streams) + 2 * 64 * 7 * 2
    assert at // 2 >= 1 << 22
    options["isa"] += f"/lose:word:{at}"
    engine = many(config, cases.random_tensors(config), **options)
    report = rf"block {team} waited in vain for the coarse logits of slot {team * streams} "
    with pytest.raises(EngineError, match=report):
        run(engine, [1] * (team * streams + 1))


def buffer_words(config, streams: int) -> int:
    """As many_buffer_words of csrc/cuda/kernels/shape.h says."""
    tiles = config.hidden_size // 32 + -(-config.fc_size // 16)
    return streams // 8 * 2 * 64 * tiles + 2 * streams * (256 + 1)


# --- slots ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 3000), max_size=60), st.integers(1, 40), st.integers(1, 4000))
def test_the_next_stream_goes_to_the_slot_that_ends_first(lengths, slots, limit):
    filled = _C.fill_slots(lengths, slots, limit)
    assert len(filled) == slots
    taken = sorted(i for slot in filled for i, _ in slot)
    assert taken == list(range(len(taken)))  # each in one slot, in the order given
    loads, starts = [sum(n for _, n in slot) for slot in filled], {}
    for slot, load in zip(filled, loads, strict=True):
        assert load <= limit
        at = 0
        for place, (i, n) in enumerate(slot):
            starts[i], at = at, at + n
            assert 1 <= n <= lengths[i]
            if n < lengths[i]:  # cut only by the end of the launch
                assert place == len(slot) - 1
                assert load == limit
    order = [starts[i] for i in taken]
    assert order == sorted(order)
    if len(taken) < len(lengths):  # only where every slot is full
        assert loads == [limit] * slots


@pytest.mark.parametrize(("streams", "slots"), [(1000, 224), (500, 64), (300, 32), (2000, 256)])
@pytest.mark.parametrize("limit", [6000, 1 << 16])
def test_slots_are_busy_95_percent_of_a_job_of_clips_of_all_lengths(streams, slots, limit):
    """Clips of 0.1 to 10 s at 24 kHz, in launches of at most a quarter of the job or `limit`."""
    random = np.random.default_rng(streams)
    left = np.sort(random.integers(2400, 240_001, streams))[::-1].copy()  # as the package does
    total, steps = int(left.sum()), 0
    while left.any():
        alive = np.flatnonzero(left)
        filled = _C.fill_slots(left[alive].tolist(), slots, limit)
        for slot in filled:
            for i, n in slot:
                left[alive[i]] -= n
        steps += max(sum(n for _, n in slot) for slot in filled)
    assert total / (slots * steps) >= 0.95


# --- refusals -------------------------------------------------------------------------------------

FIT = (
    "The model does not fit on T4 for many streams side by side: 2048 units and outputs of 1024 "
    "need more than the registers and the 65536 bytes of shared memory of a block, in teams of at "
    "most 40 blocks. Use gpu_streams=1."
)
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"dtype": "fp32"},
        DeviceError,
        "Many streams side by side have their weights in fp16; dtype is fp32. "
        'Use dtype="fp16", or gpu_streams=1.',
    ),
    (
        {"gpu": "V100"},
        DeviceError,
        "V100 has compute capability 7.0; many streams side by side need 7.5 or more. "
        "Use gpu_streams=1.",
    ),
    (
        {"blocks": 3},
        InputError,
        "blocks is 3, expected 1 to 2: a team has 16 units of each half a block",
    ),
    ({"blocks": -1}, InputError, "blocks is -1, expected 1 to 2: a team has 16 units"),
    (
        {"warps": 3},
        InputError,
        "warps is 3, expected 2, 4, 8 or 16, or 0 for the planner's choice",
    ),
    ({"streams": 65537}, InputError, "streams is 65537, expected 0 (most samples) to 65536"),
    ({"streams": -1}, InputError, "streams is -1, expected 0 (most samples) to 65536"),
    (
        {"exchanges": 2},
        InputError,
        "exchanges is of plans for one stream; leave it out with gpu_streams other than 1",
    ),
    ({"cluster": 17}, InputError, "cluster is 17, expected 0 to 16"),
    (
        {"cluster": 2, "gpu": "A100"},
        DeviceError,
        "cluster is 2: A100 has no clusters (compute capability 9.0 and up have); use "
        "gpu_cluster=0 (of an Engine cluster=1).",
    ),
    (
        {"cluster": 2, "blocks": 1, "gpu": "H200"},
        InputError,
        "blocks is 1 and cluster 2: of many streams a team is one cluster; leave blocks out",
    ),
    (
        {"cluster": 8, "gpu": "H200"},
        InputError,
        "cluster is 8, but 2 times 16 units of each half are dealt to 2 blocks, 1 times 16 each; "
        "use cluster=2",
    ),
]


@pytest.mark.parametrize(("options", "error", "sentence"), REFUSED, ids=str)
def test_what_there_is_no_plan_for_is_refused_with_the_reason(options, error, sentence):
    with pytest.raises(error) as refusal:
        many(SMALL, cases.random_tensors(SMALL), **options)
    assert str(refusal.value).startswith(sentence)


def test_models_without_such_a_kernel_are_refused_with_the_reason():
    with pytest.raises(DeviceError) as refusal:
        _C.many_plan(vars(cases.dual_config(2048, 1024)), gpu="T4")
    assert str(refusal.value) == FIT
    with pytest.raises(DeviceError, match=r"does not fit on T4 .*: 1024 units and outputs of 512"):
        _C.many_plan(vars(cases.embedded_config(1024, 512, 8)), gpu="T4")
    with pytest.raises(ModelError, match="hidden_size 48 not divisible by 32"):
        _C.many_plan(vars(cases.dual_config(48, 32)))


def test_streams_of_one_keep_the_plan_for_one():
    engine = many(SMALL, cases.random_tensors(SMALL), streams=1)
    assert "streams a team" not in engine.describe()
