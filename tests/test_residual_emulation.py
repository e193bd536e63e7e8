"""The kernel of the residual core, run on fibers: draws, schedules, blocks.

As test_emulation.py for the dual core. There are four exchanges a sample, one less for each
layer that every block has whole. Planted faults are in test_residual_faults.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator

import cases
import numpy as np
import pytest
import reference
import tolerances
from engine_work import Work, make
from residual_works import AUX, EVERY_WAY, FRAMES, HEADS, LAUNCH, SCHEDULES, WAYS, emulated
from truths import Truth, rounded

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError, EngineError, InputError

# --- draws ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=HEADS)
def truth(request) -> Truth:
    truth = Truth(HEADS[request.param], 150, seed=4)
    assert truth.expected["margin"].min() > 1e-6  # no draw so close that rounding may decide it
    return truth


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_draws_equal_the_double_references_in_every_schedule(truth, schedule):
    for engine in ways(truth, schedule):
        truth.check(engine, 50)


def ways(truth: Truth, schedule: str) -> Iterator[_C.Engine]:
    head = "values" if truth.config.head == "mol" else "labels"
    for exchanges in (n for h, n in WAYS if h == head and n != 3):
        yield truth.engine(isa=schedule, exchanges=exchanges, **LAUNCH[head])


@pytest.mark.slow
def test_150_draws_equal_the_double_references(truth):
    for engine in ways(truth, "random:1"):
        truth.check(engine)


SIZES = {  # what the planner must deal out: labels, mixtures, sizes that leave tails
    "1024 labels": cases.residual_config(80, 48, bits=10, **FRAMES, **AUX),
    "512 labels": cases.residual_config(32, 112, bits=9, **FRAMES),
    "16 labels": cases.residual_config(48, 16, bits=4, n_mels=0, hop_length=1),
    "one mixture": cases.residual_config(32, 32, mixtures=1, **FRAMES, **AUX),
    "64 mixtures": cases.residual_config(32, 32, mixtures=64, **FRAMES),
}


@pytest.mark.parametrize("launch", [{"blocks": 7, "warps": 5}, {"blocks": 16, "warps": 4}, {}])
@pytest.mark.parametrize("size", SIZES)
def test_draws_of_every_size_equal_the_double_references(size, launch):
    truth = Truth(SIZES[size], 24, seed=2)
    assert truth.expected["margin"].min() > 1e-6
    launch = launch or {"blocks": 3, "warps": 16}
    truth.check(truth.engine(isa="random:3", **launch))


SMALL = [config for config in cases.small_configs() if config.core == "residual"]


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("config", SMALL, ids=cases.case_id)
def test_forced_logits_of_every_case_match_the_double_twin(config, dtype):
    work = Work(config, 36)
    engine = make(config, work.tensors, device="emu", blocks=3, warps=12, dtype=dtype)
    logits = work.run(engine, forced=work.samples, return_logits=True)[1]
    assert tolerances.logit_error(logits, work.logits) <= tolerances.logit_limit(work.logits, dtype)
    if dtype == "fp32":
        assert tolerances.logit_error(logits, work.logits) <= tolerances.KERNEL_EXACT[0]


# Few multiprocessors of little memory: the matrices spill from registers to shared memory to L2.
CRAMPED = [
    ("P100", 160, 96, 4, 8, "fp32"),
    ("A100", 160, 96, 4, 8, "fp32"),
    ("H200", 288, 256, 5, 8, "fp32"),
    ("H200", 288, 256, 5, 8, "fp16"),
    ("A100", 224, 160, 4, 8, "fp16"),
    ("P100", 64, 32, 2, 4, "fp16"),
]
PLACES = {
    *(f"{name} in L2" for name in ("R1", "R2", "W2", "fc1", "fc2", "fc3")),
    *(f"{name} in registers" for name in ("R1", "R2", "W2", "fc1", "fc2", "fc3")),
    *(f"{name} in shared" for name in ("R1", "R2", "fc1", "fc2", "fc3")),
}


def test_draws_do_not_depend_on_where_weights_live():
    places = set()
    for gpu, hidden, fc, blocks, warps, dtype in CRAMPED:
        config = cases.residual_config(hidden, fc, mixtures=10, **FRAMES, **AUX)
        truth = Truth(config, 8, seed=2, alter=rounded)
        engine = truth.engine(gpu=gpu, blocks=blocks, warps=warps, dtype=dtype)
        truth.check(engine)
        places |= set(
            re.findall(r"(?:R1|R2|W2|fc\d) in (?:registers|L2|shared)", engine.describe())
        )
    assert places >= PLACES


@pytest.fixture(scope="module")
def usual() -> list[Truth]:
    """The sizes people run."""
    configs = [c for c in cases.full_size_configs() if c.core == "residual"]
    return [Truth(config, 3, seed=11) for config in configs]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["fair", "random:1", "starve:31"])
def test_draws_of_the_usual_models_equal_the_double_references(usual, schedule):
    for truth in usual:
        engine = truth.engine(isa=schedule, gpu="H200")
        assert "R1 in shared memory" in engine.describe()
        truth.check(engine)


# --- what must make no difference -----------------------------------------------------------------


def bits(work: Work, engine: _C.Engine, **options) -> bytes:
    samples, logits = work.run(engine, return_logits=True, **options)
    return samples.tobytes() + logits.tobytes()


@pytest.fixture(scope="module")
def works() -> dict[str, Work]:
    return {name: Work(config, 40) for name, config in HEADS.items()}


# Every number of units and rows a block has, and of warps it deals them to; not all pairs of them.
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("head", HEADS)
def test_any_number_of_blocks_warps_and_exchanges_gives_the_same_bits(head, dtype):
    work, found = Work(HEADS[head], 12), {}
    for blocks, warps in [(1, 16), (2, 8), (3, 4), (5, 7), (7, 3), (16, 2), (48, 1), (31, 2)]:
        for exchanges in (1, 2, 3, 4):
            launch = {"blocks": blocks, "warps": warps, "isa": "random:4", "dtype": dtype}
            with contextlib.suppress(DeviceError):  # a warp would own too many rows
                engine = emulated(work, exchanges, **launch)
                found[blocks, warps, exchanges] = bits(work, engine)
    assert len(found) >= 9
    assert {key[2] for key in found} == {1, 2, 3, 4}
    assert len(set(found.values())) == 1, found.keys()


@EVERY_WAY
def test_a_launch_begins_alike_whichever_warp_is_first(works, head, exchanges):
    """One warp may have its first words before another of its block has read the old states."""
    work = works[head]

    def beginning(schedule: str) -> bytes:
        engine = emulated(work, exchanges, warps=8, isa=schedule)
        rows = [[r] for r in work.rows.values()]
        return engine.run([engine.open(5)], [4], *rows, return_logits=True)[0][1].tobytes()

    fair = beginning("fair")
    assert all(beginning(f"random:{seed}") == fair for seed in range(8))


@pytest.mark.parametrize("step", [1, 7, 20])
@EVERY_WAY
def test_runs_of_any_length_give_the_same_samples(works, head, exchanges, step):
    work = works[head]
    engine = emulated(work, exchanges, isa="random:9")
    cuts = list(range(step, work.n, step))
    assert np.array_equal(work.pieces(engine, cuts), work.run(emulated(work, exchanges))[0])


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@EVERY_WAY
def test_both_builds_of_the_kernel_give_the_same_bits(works, head, exchanges, dtype):
    work = works[head]
    generic = emulated(work, exchanges, dtype=dtype, isa="fair/generic")
    assert bits(work, generic) == bits(work, emulated(work, exchanges, dtype=dtype))


@EVERY_WAY
def test_samples_go_on_when_the_tags_run_out(works, head, exchanges):
    """Tags near 2**32: some slices before the exchange area is cleared, the rest after."""
    work = works[head]
    cuts = list(range(5, work.n, 5))
    expected = work.pieces(emulated(work, exchanges), cuts)
    for first in (2**32 - 1, 2**32 - 7, 2**32 - 40):
        engine = emulated(work, exchanges, isa=f"fair/tag:{first}")
        assert np.array_equal(work.pieces(engine, cuts), expected), first


@pytest.mark.parametrize("head", HEADS)
def test_several_streams_in_one_call_at_different_places_get_what_they_get_alone(works, head):
    work = works[head]
    engine, places, lengths = emulated(work, 4), [0, 5, 33], [20, 31, 4]
    alone = [work.run(engine, seed=s)[0] for s in range(3)]
    rows, hop = list(work.rows.values()), work.config.hop_length
    streams = [engine.open(s) for s in range(3)]
    for stream, n in zip(streams, places, strict=True):
        engine.run([stream], [n], *[[r] for r in rows])
    rest = [[r[n // hop :] for n in places] for r in rows]
    together = engine.run(streams, lengths, *rest)
    for samples, whole, n, m in zip(together, alone, places, lengths, strict=True):
        assert np.array_equal(samples[0], whole[n : n + m])


@pytest.mark.parametrize("head", HEADS)
def test_what_is_forced_is_fed_back_whatever_is_drawn(works, head):
    work = works[head]
    engine = emulated(work, 4)
    for options in ({}, {"uniforms": cases.random_uniforms(work.config, work.n, seed=3)}):
        samples, logits = work.run(engine, forced=work.samples, return_logits=True, **options)
        assert np.array_equal(samples, work.samples)
        assert tolerances.logit_error(logits, work.logits) <= tolerances.KERNEL_EXACT[0]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("head", HEADS)
def test_greedy_draws_and_temperatures_are_the_double_twins(works, head, temperature):
    work = works[head]
    engine, twin = emulated(work, 4), make(work.config, work.tensors, device="reference")
    rows = [[r] for r in work.rows.values()]
    for options in ({"greedy": True}, {"temperature": temperature}):
        found, expected = (
            made.run([made.open(5, **options)], [work.n], *rows)[0][0] for made in (engine, twin)
        )
        assert np.abs(found - expected).max() <= (
            tolerances.KERNEL_VALUE if head == "values" else 0
        )


@EVERY_WAY
def test_the_inexact_kernel_stays_within_the_table(works, head, exchanges):
    work = works[head]
    engine = emulated(work, exchanges, exact=False)
    logits = work.run(engine, forced=work.samples, return_logits=True)[1]
    limit = tolerances.logit_limit(work.logits, "fp32")
    assert tolerances.logit_error(logits, work.logits) <= limit
    drawn = work.run(engine)[0]
    assert np.abs(drawn[:4] - work.samples[:4]).max() <= (
        tolerances.KERNEL_VALUE if head == "values" else 0
    )


def test_stages_of_a_sample_have_clocks_when_asked_for(works):
    work = works["labels"]
    engine = emulated(work, 4, clocks=True)
    work.run(engine)
    names = [name for name, _ in engine.stage_ticks()]
    assert names == ["gates of GRU 1", "GRU 2", "p", "q", "logits", "draw"]
    assert emulated(work, 4).stage_ticks() == []


# --- a draw of a logistic -------------------------------------------------------------------------


def test_a_logistic_is_the_doubles_over_all_uniforms_means_and_scales():
    """One mixture whose three outputs are the biases of fc3: nothing but the draw is left."""
    config = cases.residual_config(16, 16, mixtures=1, n_mels=0, hop_length=1)
    tensors = cases.random_tensors(config)
    tensors["fc3.weight"][...] = 0.0
    n = 400
    u = np.random.default_rng(1).random((n, 2))
    u[:6, 1] = [0.0, 1e-6, 9.9e-6, 0.5, 1 - 9e-6, 1 - 2.0**-32]
    for mean, log_scale in [(0.0, -3.0), (0.7, -7.5), (-0.2, 0.3), (0.1, -40.0), (0.0, 3.0)]:
        tensors["fc3.bias"][:] = [0.3, mean, log_scale]
        engine = make(config, tensors, device="emu", blocks=1, warps=2)
        found = engine.run([engine.open(0)], [n], [None], [None], uniforms=[u])[0][0]
        words = np.floor(u[:, 1] * 2.0**32)
        mean, log_scale = (float(np.float32(x)) for x in (mean, log_scale))
        expected = [reference.logistic(mean, log_scale, int(word)) for word in words]
        error = np.abs(found - expected).max()
        assert error <= 1e-7 + 1e-6 * np.exp(log_scale), (mean, log_scale, error)


@pytest.mark.parametrize("bits", [1, 6, 9, 10])
def test_equal_logits_give_every_label_its_share_of_the_uniforms(bits):
    """Sums of all weights stay below 2**32: with one bit too many they would not."""
    config = cases.residual_config(16, 16, bits=bits, n_mels=0, hop_length=1)
    tensors = cases.random_tensors(config)
    tensors["fc3.weight"][...] = 0.0
    tensors["fc3.bias"][...] = 0.25
    engine = make(config, tensors, device="emu", blocks=4, warps=8)
    u = (np.arange(64) + 0.5)[:, None] / 64
    found = engine.run([engine.open(0)], [64], [None], [None], uniforms=[u])[0][0]
    assert np.array_equal(found, np.floor(u[:, 0] * 2**bits))


# --- logits that are not numbers ------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_an_infinite_logit_is_named_and_the_stream_goes_on_as_on_the_cpu(head):
    """In frames 2 and 3 one value of q is 1 instead of 0, and with it a logit is infinite."""
    config = dataclasses.replace(HEADS[head], hop_length=4)
    work = Work(config, 40)
    tensors, hold = work.tensors, work.rows["hold"]
    channel = 7 * config.hidden_size + config.fc_size
    hold[:, channel] = -1e4
    hold[2:4, channel] = 1e4
    tensors["fc3.weight"][-1, 0] = 3e38
    after = []
    for options in ({}, LAUNCH[head] | {"device": "emu"}):
        engine = make(config, tensors, **options)
        stream = engine.open(5)
        with pytest.raises(EngineError, match="stream 0 is not finite at step 8"):
            engine.run([stream], [20], [work.rows["interp"]], [hold])
        assert stream.step == 20
        rest = [[r[5:]] for r in (work.rows["interp"], hold)]
        after.append(engine.run([stream], [20], *rest)[0][0])
    if head == "labels":
        assert np.array_equal(*after)
    else:
        assert (
            np.abs(after[0] - after[1]).max() <= 10 * tolerances.KERNEL_VALUE
        )  # another order of summation


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"blocks": 65}, InputError, "blocks is 65, expected 1 to 64: .* a unit for each"),
        ({"warps": 17}, InputError, "warps is 17, expected 1 to 16"),
        ({"exchanges": 5}, InputError, "exchanges is 5, expected 4, or one less for each layer"),
        ({"cluster": 2}, InputError, "cluster is 2: the kernel of the residual core has no clust"),
        ({"exchanges": 1}, DeviceError, "does not fit on H200 with blocks=4, warps=4, exchanges=1"),
        ({"dtype": "bf16"}, DeviceError, "bf16 is not available on a GPU; use fp32 or fp16"),
        ({"sparse": "on"}, DeviceError, "pruned models runs the dual core only; use sparse=.off"),
        ({"isa": "fair/lose:barrier:99"}, InputError, "expected a barrier from 0 to"),
    ],
)
def test_what_the_kernel_cannot_do_is_refused_with_the_reason(works, options, error, message):
    with pytest.raises(error, match=message):
        emulated(works["labels"], **({"exchanges": 4} | options))


def test_too_many_labels_are_refused():
    config = cases.residual_config(16, 16, bits=11, n_mels=0, hop_length=1)
    with pytest.raises(DeviceError, match="at most 1024 labels; this model has 2048"):
        make(config, cases.random_tensors(config), device="emu")
