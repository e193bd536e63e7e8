"""The kernel of the embedded core, run on fibers: draws, schedules, blocks.

As test_emulation.py for the dual core. Every launch of the emulator takes both exchanges and the
row of the label's table. Planted faults are in test_embedded_faults.py.
"""

from __future__ import annotations

import dataclasses
import re

import cases
import numpy as np
import pytest
import tolerances
from embedded_works import LAUNCH, MODELS, SCHEDULES, emulated
from engine_work import Work, make
from truths import Truth, rounded
from voices import joined, same_bits

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError, EngineError, InputError
from wavernn_fast.synthetic import random_model
from wavernn_fast.vocoder import Vocoder

# --- draws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_draws_equal_the_double_references_in_every_schedule(model):
    truth = Truth(MODELS[model], 60 if model == "labels" else 30, seed=4)
    assert truth.expected["margin"].min() > 1e-6  # no draw so close that rounding may decide it
    launch = LAUNCH if model == "labels" else LAUNCH | {"warps": 8}  # a warp owns 32 rows at most
    for schedule in SCHEDULES if model == "labels" else ("fair", "random:1", "starve:1"):
        truth.check(truth.engine(isa=schedule, **launch))


SIZES = {  # what the planner must deal out: tails of every kind, networks, no conditioning
    f"case {i}": config
    for i, config in enumerate(c for c in cases.small_configs() if c.core == "embedded")
} | {
    "an odd number of labels": dataclasses.replace(cases.embedded_config(32, 48, 6), n_classes=61),
    "two labels": cases.embedded_config(16, 16, 1, n_mels=0, hop_length=1),
}


@pytest.mark.parametrize("launch", [{"blocks": 7, "warps": 5}, {"blocks": 3, "warps": 16}])
@pytest.mark.parametrize("size", SIZES)
def test_draws_of_every_size_equal_the_double_references(size, launch):
    truth = Truth(SIZES[size], 24, seed=2)
    assert truth.expected["margin"].min() > 1e-6
    truth.check(truth.engine(isa="random:3", **launch))


# Few multiprocessors of little memory: the matrices spill from registers to shared memory to L2.
CRAMPED = [
    ("P100", 64, 128, 1, 8, "fp32"),
    ("P100", 64, 128, 2, 4, "fp32"),
    ("P100", 64, 256, 1, 8, "fp32"),
    ("P100", 64, 256, 3, 4, "fp32"),
    ("A100", 64, 256, 2, 4, "fp32"),
    ("A100", 160, 160, 2, 8, "fp16"),
]
MATRICES = ("R", "fc1", "fc2")
PLACES = {f"{name} in {place}" for name in MATRICES for place in ("registers", "shared", "L2")}


def test_draws_do_not_depend_on_where_weights_live():
    places = set()
    for gpu, hidden, fc, blocks, warps, dtype in CRAMPED:
        truth = Truth(cases.embedded_config(hidden, fc, 8), 8, seed=2, alter=rounded)
        engine = truth.engine(gpu=gpu, blocks=blocks, warps=warps, dtype=dtype)
        truth.check(engine)
        places |= set(re.findall(r"(?:\bR|fc\d) in (?:registers|L2|shared)", engine.describe()))
    assert places == PLACES


@pytest.mark.slow
def test_draws_of_the_full_size_model_equal_the_double_references():
    [config] = [c for c in cases.full_size_configs() if c.core == "embedded"]
    truth = Truth(config, 3, seed=11)
    truth.check(truth.engine(isa="starve:31", gpu="H200"))


# --- what must make no difference -----------------------------------------------------------------


def bits(work: Work, engine: _C.Engine, **options) -> bytes:
    labels, logits = work.run(engine, return_logits=True, **options)
    return labels.tobytes() + logits.tobytes()


@pytest.fixture(scope="module")
def work() -> Work:
    return Work(MODELS["labels"], 40)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_any_number_of_blocks_and_warps_gives_the_same_bits(work, dtype):
    launches = [(1, 16), (2, 8), (3, 4), (5, 16), (7, 3), (16, 2), (48, 1)]
    found = {
        bits(work, emulated(work, blocks=b, warps=w, isa="random:4", dtype=dtype))
        for b, w in launches
    }
    assert len(found) == 1
    assert found == {bits(work, emulated(work, dtype=dtype, isa="fair/generic"))}


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_forced_logits_match_the_double_twin(work, dtype):
    """Forced labels are fed back whatever is drawn, greedy or not."""
    engine = emulated(work, dtype=dtype)
    for options in ({}, {"uniforms": cases.random_uniforms(work.config, work.n, seed=3)}):
        labels, logits = work.run(engine, forced=work.samples, return_logits=True, **options)
        assert np.array_equal(labels, work.samples)
        error = tolerances.logit_error(logits, work.logits)
        assert error <= tolerances.logit_limit(work.logits, dtype)
        assert dtype == "fp16" or error <= tolerances.KERNEL_EXACT[0]


@pytest.mark.parametrize("step", [1, 7])
def test_runs_of_any_length_give_the_same_labels(work, step):
    engine = emulated(work, isa="random:9")
    cuts = list(range(step, work.n, step))
    assert np.array_equal(work.pieces(engine, cuts), work.run(emulated(work))[0])


def test_a_launch_begins_alike_whichever_warp_is_first(work):
    """One warp may have its first words before another of its block has read the old state."""

    def beginning(schedule: str) -> bytes:
        engine = emulated(work, warps=8, isa=schedule)
        rows = [None], [work.rows["hold"]]
        return engine.run([engine.open(5)], [4], *rows, return_logits=True)[0][1].tobytes()

    fair = beginning("fair")
    assert all(beginning(f"random:{seed}") == fair for seed in range(8))


def test_samples_go_on_when_the_tags_run_out(work):
    """Tags near 2**32: some slices before the exchange area is cleared, the rest after."""
    cuts = list(range(5, work.n, 5))
    expected = work.pieces(emulated(work), cuts)
    for first in (2**32 - 1, 2**32 - 7, 2**32 - 40):
        engine = emulated(work, isa=f"fair/tag:{first}")
        assert np.array_equal(work.pieces(engine, cuts), expected), first


def test_several_streams_in_one_call_at_different_places_get_what_they_get_alone(work):
    engine, places, lengths = emulated(work), [0, 5, 33], [20, 31, 4]
    alone = [work.run(engine, seed=s)[0] for s in range(3)]
    hold, hop = work.rows["hold"], work.config.hop_length
    streams = [engine.open(s) for s in range(3)]
    for stream, n in zip(streams, places, strict=True):
        engine.run([stream], [n], [None], [hold])
    rest = [None] * 3, [hold[n // hop :] for n in places]
    together = engine.run(streams, lengths, *rest)
    for labels, whole, n, m in zip(together, alone, places, lengths, strict=True):
        assert np.array_equal(labels[0], whole[n : n + m])


def test_greedy_draws_and_temperatures_are_the_double_twins(work):
    engine, twin = emulated(work), make(work.config, work.tensors, device="reference")
    rows = [None], [work.rows["hold"]]
    for options in ({"greedy": True}, {"temperature": 0.5}, {"temperature": 2.0}):
        found, expected = (
            made.run([made.open(5, **options)], [work.n], *rows)[0][0] for made in (engine, twin)
        )
        assert np.array_equal(found, expected), options


def test_the_inexact_kernel_stays_within_the_table(work):
    engine = emulated(work, exact=False)
    logits = work.run(engine, forced=work.samples, return_logits=True)[1]
    limit = tolerances.logit_limit(work.logits, "fp32")
    assert tolerances.logit_error(logits, work.logits) <= limit


def test_a_sample_takes_two_exchanges_and_its_stages_have_clocks(work):
    """As the emulator counts them: messages of which none was sent before the other was taken."""
    counted = {}
    for steps in (10, 30):
        engine = emulated(work, clocks=True)
        engine.run([engine.open(1)], [steps], [None], [work.rows["hold"]])
        counts = dict(engine.counts())
        counted[steps] = np.array([counts["hops"], counts["barriers"]])
        assert [n for n, _ in engine.stage_ticks()] == ["gates", "p", "logits", "draw"]
    hops, barriers = (counted[30] - counted[10]) / 20
    assert round(hops) == 2
    assert barriers >= 4 * LAUNCH["blocks"]
    assert emulated(work).stage_ticks() == []


def test_an_infinite_logit_is_named_and_the_stream_goes_on_as_on_the_cpu():
    """In frames 2 and 3 units saturate, and with them a logit is infinite."""
    work = Work(MODELS["labels"], 42)
    tensors, hold = work.tensors, work.rows["hold"]
    h = work.config.hidden_size
    tensors["gru.w_recurrent"][[0, h, 2 * h]] = 0.0
    tensors["fc1.weight"][0] = 0.0
    tensors["fc1.weight"][0, 0] = 2.0
    tensors["fc1.bias"][0] = -1.0  # p 0 is above 0 where unit 0 is above 1/2
    tensors["fc2.weight"][-1, 0] = 3.4e38
    hold[:, h] = -1e3  # no unit keeps its state
    hold[:, 2 * h] = -1e3
    hold[2:4, 2 * h] = 1e3
    tensors["fc2.bias"][-1] = 3e38
    after = []
    for options in ({}, LAUNCH | {"device": "emu"}):
        engine = make(work.config, tensors, **options)
        stream = engine.open(5)
        with pytest.raises(EngineError, match="stream 0 is not finite at step 12"):
            engine.run([stream], [24], [None], [hold])
        assert stream.step == 24
        after.append(engine.run([stream], [18], [None], [hold[4:]])[0][0])
    assert np.array_equal(*after)


# --- a vocoder ------------------------------------------------------------------------------------


def test_a_vocoder_on_the_emulator_has_the_samples_of_the_cpu():
    """Whole, streamed and in a batch: the same bits among themselves; labels as on the CPU."""
    config, tensors = random_model("embedded:32")
    mel = np.random.default_rng(3).uniform(-1, 1, size=(config.n_mels, 2)).astype(np.float32)
    emu, cpu = (Vocoder(config, tensors, device=d, dtype="fp32") for d in ("emu", "cpu"))
    whole = emu.generate(mel, seed=1)
    assert same_bits(whole, cpu.generate(mel, seed=1))
    assert same_bits(joined(emu.stream(mel, seed=1, chunk_frames=1)), whole)
    batch = emu.generate_batch([mel[:, :1], mel], seeds=[0, 1])
    assert same_bits(batch[1], whole)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"blocks": 65}, InputError, "blocks is 65, expected 1 to 64: .* a unit for each"),
        ({"warps": 17}, InputError, "warps is 17, expected 1 to 16"),
        ({"exchanges": 4}, InputError, "exchanges is 4: .* has two a sample"),
        ({"cluster": 2}, InputError, "cluster is 2: the kernel of the embedded core has no clust"),
        ({"blocks": 1, "warps": 1}, DeviceError, "does not fit on H200 with blocks=1, warps=1"),
        ({"dtype": "bf16"}, DeviceError, "bf16 is not available on a GPU; use fp32 or fp16"),
        ({"streams": 8, "dtype": "fp32"}, DeviceError, "weights in fp16; dtype is fp32"),
        ({"sparse": "on"}, DeviceError, "pruned models runs the dual core only; use sparse=.off"),
    ],
)
def test_what_the_kernel_cannot_do_is_refused_with_the_reason(work, options, error, message):
    with pytest.raises(error, match=message):
        emulated(work, **options)


def test_too_many_labels_are_refused():
    config = cases.embedded_config(16, 16, 11, n_mels=0, hop_length=1)
    with pytest.raises(DeviceError, match="at most 1024 labels; this model has 2048"):
        make(config, cases.random_tensors(config), device="emu")
