"""The kernel for pruned models on fibers: draws, masks, teams, many streams, planted faults.

`test_emulation.py` has what holds for the dense kernel; this file asks the same of plan S, and what
only it can be asked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re

import cases
import numpy as np
import pruned_models
import pytest
import reference
import tolerances
from engine_work import Work
from hypothesis import given, settings
from hypothesis import strategies as st
from test_emulation import RANDOM, Truth

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError, EngineError

TEAMS = (1, 2, 4, 8)  # blocks of a team
SMALL = cases.dual_config(64, 33)  # an odd fc: the last tile of O2 reaches over the edge
# Few fibers; a team of two blocks has every kind of exchange.
LAUNCH = {"warps": 4, "cluster": 2}


def sparse(config, tensors, **options) -> _C.Engine:
    options = {"device": "emu", "sparse": "on"} | options
    return _C.Engine(dataclasses.asdict(config), tensors, **options)


def barriers() -> list[str]:
    """Names of the barriers of this kernel, in order; those of a half have their side behind."""
    source = dict(_C.kernel_sources())["cuda/kernels/stages.h"]
    listed = re.search(r"enum SparseBarrier : int \{(.*?)kSparseBarriers", source, re.S)
    assert listed is not None
    names = re.findall(r"^ +(k\w+)", listed[1], re.M)
    once = ("kSparseArgs", "kSparseStart", "kSparseStartCluster", "kSparseEndCluster")
    return [n for name in names for n in ([name] if name in once else [name] * 2)]


def first_barrier() -> int:
    source = dict(_C.kernel_sources())["cuda/kernels/stages.h"]
    listed = re.search(r"enum Barrier : int \{(.*?)kBarriers", source, re.S)
    assert listed is not None
    return len(re.findall(r"^ +(k\w+),", listed[1], re.M))


# --- draws ----------------------------------------------------------------------------------------


class SparseTruth(Truth):
    """A pruned model whose draws the numpy reference made."""

    def __init__(self, config, n_steps: int, seed: int, tile, density: float) -> None:
        def prune(_):
            return pruned_models.pruned(config, tile, density, seed)

        super().__init__(config, n_steps, seed, alter=prune)

    def engine(self, **options) -> _C.Engine:
        return sparse(self.config, self.tensors, **options)


@pytest.fixture(scope="module", params=[(4, 4), (16, 1)], ids=["4x4", "16x1"])
def truth(request) -> SparseTruth:
    fields = {"hop_length": 8, "n_mels": 5, "upsample_left": 1, "upsample_right": 1}
    truth = SparseTruth(cases.dual_config(64, 33, **fields), 300, 11, request.param, 0.3)
    assert truth.expected["margin"].min() > 1e-6  # no draw so close that rounding may decide it
    return truth


@pytest.mark.parametrize("schedule", ["fair", *RANDOM, "starve:0", "starve:1"])
def test_300_draws_equal_the_double_references_in_every_schedule(truth, schedule):
    truth.check(truth.engine(isa=schedule, **LAUNCH))


@pytest.mark.parametrize("cluster", TEAMS)
def test_draws_equal_the_double_references_in_teams_of_every_size(truth, cluster):
    engine = truth.engine(cluster=cluster)
    assert f" teams of {cluster} block" in engine.describe()
    truth.check(engine)


@pytest.fixture(scope="module")
def lyra() -> cases.Tensors:
    if not pruned_models.LYRA.is_dir():
        pytest.skip(pruned_models.NO_LYRA)
    return pruned_models.lyra()


def forced_logits(engine: _C.Engine, forced: np.ndarray) -> np.ndarray:
    n = len(forced)
    return engine.run([engine.open(0)], [n], [None], [None], forced=[forced], return_logits=True)[
        0
    ][1]


@pytest.mark.parametrize(("dtype", "cluster"), [("fp16", 2), ("fp16", 4), ("fp16", 8), ("fp32", 8)])
def test_a_real_model_equals_the_masked_reference_under_forcing(lyra, dtype, cluster):
    """20 steps: the weights, up to 292, amplify rounding from step to step, of any engine."""
    config, n = pruned_models.LYRA_CONFIG, 20
    tensors = pruned_models.rounded(lyra) if dtype == "fp16" else lyra
    engine = sparse(config, lyra, dtype=dtype, cluster=cluster)
    for seed in range(3):
        forced = reference.run(config, lyra, None, n_steps=n, seed=seed)["samples"]
        logits = forced_logits(engine, forced)
        for weights, table in ((tensors, "fp32"), (lyra, dtype)):  # fp16: both rounded and not
            expected = reference.run(config, weights, None, n_steps=n, forced=forced)["logits"]
            limit = tolerances.logit_limit(expected, table)
            assert tolerances.logit_error(logits, expected) <= limit, (seed, table)


@pytest.mark.slow
def test_a_real_model_stays_as_near_to_the_reference_as_the_cpu_does(lyra):
    """200 steps, in which both leave the table. The CPU carries candidates in two floats; a GPU in
    one, and its root mean square error is two to three times as large."""
    config, n = pruned_models.LYRA_CONFIG, 200
    forced = reference.run(config, lyra, None, n_steps=n)["samples"]
    expected = reference.run(config, lyra, None, n_steps=n, forced=forced)["logits"]
    cpu = _C.Engine(dataclasses.asdict(config), lyra, device="cpu")
    errors = [
        float(np.sqrt(np.mean((forced_logits(engine, forced) - expected) ** 2)))
        for engine in (sparse(config, lyra), cpu)
    ]
    assert errors[0] <= 4.0 * errors[1], errors


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([(32, 20), (64, 33), (96, 96)]),
    st.sampled_from([(4, 4), (16, 1)]),
    st.integers(1, 8),
    st.integers(0, 2**32 - 1),
    st.sampled_from(TEAMS),
)
def test_uneven_masks_equal_the_masked_reference_under_forcing(size, tile, power, seed, cluster):
    """A density of its own for every block row; one is empty and one is full."""
    config, n = cases.dual_config(*size), 12
    tensors = cases.random_tensors(config, seed=seed)
    masks = pruned_models.uneven_masks(tensors, tile, power, seed)
    tensors = pruned_models.apply(tensors, masks)
    forced = cases.random_samples(config, n, seed=seed)
    expected = reference.run(config, tensors, None, n_steps=n, forced=forced)["logits"]
    engine = sparse(config, tensors, cluster=cluster, warps=4)
    logits = forced_logits(engine, forced)
    assert tolerances.logit_error(logits, expected) <= tolerances.logit_limit(expected, "fp32")


@pytest.mark.parametrize(("hidden", "tile"), [(288, "16x1"), (576, "4x4")])
def test_a_full_row_of_more_chunks_than_a_bin_equals_the_reference(hidden, tile):
    """Rows of 72 and of 36 chunks: their sums go on from bin to bin."""
    config, n = cases.dual_config(hidden, hidden // 2), 6
    tensors = pruned_models.pruned(config, (4, 4), 0.02)
    full = cases.random_tensors(config)["gru.w_recurrent"]
    for row in (0, hidden + 17, 3 * hidden - 1):
        tensors["gru.w_recurrent"][row] = full[row]
    tensors["fine_fc2.weight"][200] = 0.1
    forced = cases.random_samples(config, n)
    expected = reference.run(config, tensors, None, n_steps=n, forced=forced)["logits"]
    bits = set()
    for cluster in (1, 4):
        engine = sparse(config, tensors, cluster=cluster, sparse=tile)
        assert f"zero {tile} blocks" in engine.describe()
        logits = forced_logits(engine, forced)
        assert tolerances.logit_error(logits, expected) <= tolerances.KERNEL_EXACT[0]
        bits.add(logits.tobytes())
    assert len(bits) == 1


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_matrices_that_are_empty_or_full_are_taken_too(density):
    config, n = cases.dual_config(64, 48), 20
    tensors = pruned_models.pruned(config, (4, 4), density)
    forced = cases.random_samples(config, n)
    expected = reference.run(config, tensors, None, n_steps=n, forced=forced)["logits"]
    engine = sparse(config, tensors, cluster=2)
    logits = forced_logits(engine, forced)
    assert tolerances.logit_error(logits, expected) <= tolerances.KERNEL_EXACT[0]


# --- what must make no difference -----------------------------------------------------------------


class SparseWork(Work):
    def __init__(self, config, n_steps: int) -> None:
        super().__init__(config, n_steps)
        self.tensors = pruned_models.pruned(config, (4, 4), 0.3)
        self.samples, self.logits = self.run(self.twin(), return_logits=True)

    def twin(self) -> _C.Engine:
        return _C.Engine(dataclasses.asdict(self.config), self.tensors, device="reference")

    def engine(self, **options) -> _C.Engine:
        return sparse(self.config, self.tensors, **(LAUNCH | options))


@pytest.fixture(scope="module")
def work() -> SparseWork:
    return SparseWork(SMALL, 40)


def bits(work: SparseWork, engine: _C.Engine) -> bytes:
    samples, logits = work.run(engine, return_logits=True)
    return samples.tobytes() + logits.tobytes()


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_teams_and_warps_of_any_number_give_the_same_bits(work, dtype):
    found = {
        (cluster, warps): bits(
            work, work.engine(cluster=cluster, warps=warps, dtype=dtype, isa=isa)
        )
        for cluster, warps in [(1, 2), (1, 16), (1, 5), (2, 3), (2, 8), (4, 9), (8, 6), (8, 2)]
        for isa in ["random:4"]
    }
    assert len(set(found.values())) == 1, found.keys()


@pytest.mark.parametrize("step", [1, 7, 40])
def test_runs_of_any_length_give_the_same_samples(work, step):
    engine = work.engine(isa="random:9")
    cuts = list(range(step, work.n, step))
    assert np.array_equal(work.pieces(engine, cuts), work.run(work.engine())[0])


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_both_builds_of_the_kernel_give_the_same_bits(work, dtype):
    generic = work.engine(dtype=dtype, isa="fair/generic")
    assert bits(work, generic) == bits(work, work.engine(dtype=dtype))


def test_the_inexact_kernel_stays_within_the_table(work):
    engine = work.engine(exact=False)
    logits = work.run(engine, forced=work.samples, return_logits=True)[1]
    limit = tolerances.logit_limit(work.logits, "fp32")
    assert tolerances.logit_error(logits, work.logits) <= limit


@pytest.mark.parametrize("cluster", TEAMS)
def test_a_launch_begins_alike_whichever_warp_is_first(work, cluster):
    def beginning(schedule: str) -> bytes:
        engine = work.engine(cluster=cluster, isa=schedule)
        [(_, logits)] = engine.run([engine.open(5)], [4], [None], [None], return_logits=True)
        return logits.tobytes()

    fair = beginning("fair")
    assert all(beginning(f"random:{seed}") == fair for seed in range(8))


def test_stages_of_a_sample_have_clocks_when_asked_for(work):
    engine = work.engine(clocks=True)
    work.run(engine)
    assert next(name for name, _ in engine.stage_ticks()) == "coarse gates"
    assert work.engine().stage_ticks() == []


# --- many streams ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_streams_at_different_places_get_what_they_get_alone(work):
    """More streams than teams: a team has several, one after the other."""
    engine = work.engine(cluster=8, warps=2)
    teams = int(re.search(r"(\d+) teams", engine.describe())[1])
    count = teams + 6
    alone = [work.run(engine, seed=s)[0] for s in range(count)]
    places = [3 * s % 20 for s in range(count)]
    lengths = [20 if s % 3 else 1 + s % 5 for s in range(count)]
    streams = [engine.open(s) for s in range(count)]
    engine.run(streams, places, [None] * count, [None] * count)
    together = engine.run(streams, lengths, [None] * count, [None] * count, return_logits=True)
    for i, (samples, logits) in enumerate(together):
        assert np.array_equal(samples, alone[i][places[i] : places[i] + lengths[i]]), i
        assert logits.shape == (lengths[i], 512)
        assert streams[i].step == places[i] + lengths[i]


def test_streams_that_are_forced_given_chance_or_greedy_may_run_beside_others(work):
    engine, n = work.engine(), 25
    uniforms = cases.random_uniforms(SMALL, n, seed=3)
    ways = [
        {"forced": cases.random_samples(SMALL, n)},
        {"uniforms": uniforms},
        {"greedy": True},
        {"temperature": 0.7},
        {},
    ]

    def run(chosen: list[dict]) -> list[np.ndarray]:
        opened = [
            engine.open(7, **{k: v for k, v in way.items() if k in ("greedy", "temperature")})
            for way in chosen
        ]
        count = len(chosen)
        given = {k: [way.get(k) for way in chosen] for k in ("forced", "uniforms")}
        empty = [None] * count
        return [r[0] for r in engine.run(opened, [n] * count, empty, empty, **given)]

    for together, way in zip(run(ways), ways, strict=True):
        assert np.array_equal(together, run([way])[0]), way


def test_conditioned_streams_each_see_their_own_frames():
    fields = {"hop_length": 8, "n_mels": 5, "upsample_left": 1, "upsample_right": 1}
    work = SparseWork(
        cases.dual_config(64, 32, aux_size=3, aux_channels=4, aux_blocks=1, aux_kernel=3, **fields),
        40,
    )
    engine = work.engine()
    rows = [
        {k: None if v is None else v * np.float32(scale) for k, v in work.rows.items()}
        for scale in (1.0, 0.5, -1.0)
    ]
    inputs = [[r[name] for r in rows] for name in ("interp", "hold")]
    together = engine.run([engine.open(5) for _ in rows], [40, 40, 17], *inputs)
    for i, n in enumerate([40, 40, 17]):
        alone = engine.run([engine.open(5)], [n], [inputs[0][i]], [inputs[1][i]])[0][0]
        assert np.array_equal(together[i][0], alone)
    assert np.array_equal(together[0][0], work.samples)
    assert not np.array_equal(together[0][0], together[1][0])


@pytest.mark.slow
def test_the_plan_for_many_streams_gives_the_bits_of_that_for_one(lyra):
    config = pruned_models.LYRA_CONFIG
    engine = sparse(config, lyra, dtype="fp16")
    assert "for many streams:" in engine.describe()
    count = int(re.search(r"(\d+) teams", engine.describe())[1]) + 1
    streams = [engine.open(s) for s in range(count)]
    together = engine.run(streams, [2] * count, [None] * count, [None] * count, return_logits=True)
    for seed in (0, count - 1):
        [(samples, logits)] = engine.run(
            [engine.open(seed)], [2], [None], [None], return_logits=True
        )
        assert np.array_equal(together[seed][0], samples)
        assert together[seed][1].tobytes() == logits.tobytes()


# --- logits that are not numbers, and faults ------------------------------------------------------


def test_an_infinite_logit_of_one_stream_is_named_and_all_go_on(work):
    config = cases.dual_config(64, 32, hop_length=4, n_mels=5)
    work = Work(config, 40)
    tensors, rows = work.tensors, work.rows["interp"]
    half = config.hidden_size // 2
    update, candidate = config.hidden_size, 2 * config.hidden_size
    healthy = rows.copy()
    for r in (rows, healthy):
        r[:, update], r[:, candidate] = -60.0, -60.0  # the unit follows its candidate at once
    rows[5:7, candidate] = 60.0
    tensors["coarse_fc1.weight"][0] = [1e3] + [0.0] * (half - 1)
    tensors["coarse_fc2.weight"][:, 0] = 3e38
    engine = sparse(config, tensors, **LAUNCH)
    streams = [engine.open(5), engine.open(5)]
    with pytest.raises(EngineError, match="stream 1 is not finite at step 20"):
        engine.run(streams, [29, 29], [healthy, rows], [None, None])
    assert [s.step for s in streams] == [29, 29]


NAMES = barriers()
# What a team of two blocks never comes to; without its arguments a kernel reads anywhere; and a
# cluster begins and ends together for memory that the emulator clears and keeps.
LEFT_OUT = {"kSparseReady", "kSparseStart"}
LEFT_OUT |= {"kSparseArgs", "kSparseStartCluster", "kSparseEndCluster"}
FAULTS = [
    "tag",
    *(f"barrier:{first_barrier() + n}" for n, name in enumerate(NAMES) if name not in LEFT_OUT),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(work, fault):
    """By a report or by other samples, in some schedule of few."""
    found = 0
    for schedule in ("fair", "random:1", "random:2", "starve:0", "starve:1"):
        engine = work.engine(warps=8, isa=f"{schedule}/lose:{fault}")
        try:
            found += not np.array_equal(work.run(engine)[0], work.samples)
        except EngineError:
            found += 1
    assert found >= 3


def lost(name: str, side: int = 0) -> str:
    return f"lose:barrier:{first_barrier() + NAMES.index(name) + side}"


def test_waiting_for_the_coarse_gates_is_missed_in_a_team_of_one_block(work):
    for schedule in ("fair", "random:1", "random:2"):
        engine = work.engine(cluster=1, isa=f"{schedule}/{lost('kSparseReady')}")
        with contextlib.suppress(EngineError):
            assert not np.array_equal(work.run(engine)[0], work.samples), schedule


def test_losing_the_barrier_before_the_first_sample_is_found_by_random_schedules(work):
    """Only they let one warp begin before another has brought its part of the state."""
    found = 0
    for seed in range(8):
        engine = work.engine(cluster=1, isa=f"random:{seed}/{lost('kSparseStart')}")
        try:
            found += not np.array_equal(work.run(engine)[0], work.samples)
        except EngineError:
            found += 1
    assert found >= 3


def test_waiting_for_the_fine_gates_is_missed_where_their_rows_take_longest():
    """Nearly all of the model is R, on one warp: the chain comes first."""
    config, n = cases.dual_config(160, 2), 12
    tensors = cases.random_tensors(config)
    options = {"dtype": "fp16", "cluster": 1, "warps": 2}
    runs = [
        engine.run([engine.open(5)], [n], [None], [None])[0][0]
        for fault in ("", f"/{lost('kSparseReady', 1)}")
        for engine in [sparse(config, tensors, isa=f"fair{fault}", **options)]
    ]
    assert not np.array_equal(*runs)


# --- which kernel ---------------------------------------------------------------------------------


def test_pruned_models_take_the_kernel_by_themselves_and_dense_ones_do_not(work):
    config = dataclasses.asdict(SMALL)
    chosen = _C.Engine(config, work.tensors, device="emu").describe()
    assert re.search(r"sparse: \d+(\.\d)? % of the weights are in zero 4x4 blocks", chosen)
    dense = _C.Engine(config, cases.random_tensors(SMALL), device="emu").describe()
    assert "sparse" not in dense
    for options in ({"sparse": "off"}, {"exchanges": 2}, {"blocks": 3}, {"warps": 4}):
        assert (
            "exchanges a sample"
            in _C.Engine(config, work.tensors, device="emu", **options).describe()
        )


def test_blocks_of_16x1_are_found_and_either_shape_may_be_asked_for():
    tensors = pruned_models.pruned(SMALL, (16, 1), 0.2)
    config = dataclasses.asdict(SMALL)
    assert "zero 16x1 blocks" in _C.Engine(config, tensors, device="emu").describe()
    asked = _C.Engine(config, tensors, device="emu", sparse="4x4").describe()
    assert "zero 4x4 blocks" in asked


def test_a_pruned_model_that_does_not_fit_runs_dense_and_says_why():
    config = cases.dual_config(1024, 512)
    tensors = cases.random_tensors(config)
    mask = pruned_models.block_mask((3072, 1024), (4, 4), 0.05, seed=0)
    tensors = pruned_models.apply(tensors, {"gru.w_recurrent": mask})
    engine = _C.Engine(dataclasses.asdict(config), tensors, device="emu", dtype="fp16")
    assert "sparse: no. The pruned model does not fit on H200" in engine.describe()
    with pytest.raises(DeviceError, match="The pruned model does not fit on H200"):
        sparse(config, tensors, dtype="fp16")


def test_what_there_is_no_such_plan_for_is_refused():
    tensors = cases.random_tensors(SMALL)
    with pytest.raises(ValueError, match='sparse is "yes", expected "auto", "on", "off"'):
        sparse(SMALL, tensors, sparse="yes")
    for options in ({"exchanges": 2}, {"blocks": 3}):
        with pytest.raises(ValueError, match="only the dense plan has a choice of these"):
            sparse(SMALL, tensors, **options)
