"""Clocks of the CPU engine: they add up, they cost no bit, and the emulator counts instead."""

from __future__ import annotations

import dataclasses
import time

import cases
import numpy as np
import pruned_models
import pytest
from engine_work import Work
from many_engines import layout, many
from residual_works import HEADS, LAUNCH

from wavernn_fast import _C
from wavernn_fast.synthetic import random_model

CONFIGS = cases.small_configs()
PRODUCTS = {
    "dual": ["gru", "coarse_fc1", "coarse_fc2", "fine_fc1", "fine_fc2"],
    "residual": ["gru1", "gru2_input", "gru2", "fc1", "fc2", "fc3"],
    "embedded": ["gru", "fc1", "fc2"],
}
OTHERS = ["prepare", "quantise", "gates", "relu", "draw", "meetings", "slices"]
# How often each comes in a sample of one thread.
GATES = {"dual": 2, "residual": 2, "embedded": 1}
RELUS = {"dual": 2, "residual": 2, "embedded": 1}
DRAWS = {"dual": 2, "residual": 1, "embedded": 1}


def engine(spec: str, **options):
    config, tensors = random_model(spec)
    return _C.Engine(dataclasses.asdict(config), tensors, **options)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.core}-{c.head}-{c.n_mels}")
@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 2, "dtype": "int8"}], ids=str)
def test_clocks_change_no_bit(config, options):
    work = Work(config, 60)
    plain = work.run(work.engine(**options), return_logits=True)
    timed = work.run(work.engine(clocks=True, **options), return_logits=True)
    for found, expected in zip(timed, plain, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.core}-{c.head}-{c.n_mels}")
def test_every_stage_is_counted_as_often_as_it_comes(config):
    work = Work(config, 40)
    clocked = work.engine(clocks=True, threads=1)
    work.run(clocked)
    counts = dict(clocked.counts())
    core = config.core
    assert list(counts) == [*PRODUCTS[core], *OTHERS]
    slices = counts.pop("slices")
    assert slices > 1
    expected = dict.fromkeys(PRODUCTS[core], work.n) | {
        "prepare": work.n,
        "quantise": 0,
        "gates": GATES[core] * work.n,
        "relu": RELUS[core] * work.n,
        "draw": DRAWS[core] * work.n,
        "meetings": 0,
    }
    assert counts == expected
    assert [name for name, _ in clocked.stage_ticks()] == [*PRODUCTS[core], *OTHERS]


def test_inputs_of_every_product_are_quantised_and_that_is_counted():
    config = CONFIGS[0]
    work = Work(config, 40)
    clocked = work.engine(clocks=True, threads=1, dtype="int8")
    work.run(clocked)
    # the recurrent matrix of the dual core has two ranges of columns, each with its own scale
    assert dict(clocked.counts())["quantise"] == (len(PRODUCTS["dual"]) + 1) * work.n


def test_a_range_of_columns_is_not_counted_as_time_to_quantise_the_next():
    clocked = engine("dual:896", threads=1, clocks=True, dtype="int8")
    streams = [clocked.open(seed) for seed in range(8)]
    clocked.run(streams, [20] * 8, [None] * 8, [None] * 8)
    ticks = dict(clocked.stage_ticks())
    # 2.4 million products a sample beside 4,480 inputs: about forty times; half of it was taken for
    # the inputs.
    assert ticks["gru"] > 4 * ticks["quantise"]


def test_one_thread_waits_for_nobody_and_two_meet_as_the_page_of_the_architecture_says():
    n = 8  # slices of more steps may be run on one thread
    alone, team = (engine("dual:896", threads=t, clocks=True) for t in (1, 2))
    for each in (alone, team):
        each.run([each.open(1)], [n], [None], [None])
    assert dict(alone.counts())["meetings"] == 0
    assert dict(alone.stage_ticks())["meetings"] == 0
    # Overlapped: four a sample, and one before the first of a slice. A slice ends early where the
    # machine is slow; beside the slices the end of the run is counted.
    counts = dict(team.counts())
    assert counts["meetings"] == 4 * n + counts["slices"] - 1
    assert dict(team.stage_ticks())["meetings"] > 0


@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (1, 5), (2, 1), (2, 40)])
def test_the_stages_of_a_run_add_up_to_its_time(threads, streams):
    """No stretch of a run is left out: what is not in a stage is the call from Python."""
    clocked = engine("dual:128", threads=threads, clocks=True)
    lanes = [clocked.open(seed) for seed in range(streams)]
    before = sum(ns for _, ns in clocked.stage_ticks())
    started = time.perf_counter_ns()
    clocked.run(lanes, [400] * streams, [None] * streams, [None] * streams)
    took = time.perf_counter_ns() - started
    inside = sum(ns for _, ns in clocked.stage_ticks()) - before
    # Two clocks, one of them calibrated by the other, differ by less than a thousandth.
    assert 0 < inside < 1.001 * took
    assert all(ns >= 0 for _, ns in clocked.stage_ticks())


def test_the_time_of_a_run_that_was_stopped_is_there_too():
    clocked = engine("dual:32", threads=1, clocks=True)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clocked.run([clocked.open(1)], [1000], [None], [None], interrupt=stop)
    assert dict(clocked.counts())["slices"] == 2  # into the slice, and out of the run
    counts = dict(clocked.counts())
    assert counts["draw"] == 2 * counts["prepare"] > 0


def test_without_clocks_there_are_none():
    plain = engine("dual:32")
    plain.run([plain.open(1)], [20], [None], [None])
    assert plain.stage_ticks() == plain.counts() == []


# --- the emulator ---------------------------------------------------------------------------------

DUAL = cases.dual_config(64, 32)
# Ways to exchange -> messages of a sample that must follow each other.
WAYS = {
    "two exchanges": ({"exchanges": 2, "blocks": 3, "warps": 4}, 2),
    "four exchanges": ({"exchanges": 4, "blocks": 3, "warps": 4}, 4),
    "cluster": ({"blocks": 2, "warps": 4, "cluster": 2}, 4),
}


def counted(options: dict, n: int = 30, config=DUAL, tensors: dict | None = None) -> dict[str, int]:
    work = Work(config, n, tensors=tensors)
    emulated = work.engine(device="emu", clocks=True, **options)
    work.run(emulated)
    counts = dict(emulated.counts())
    ticks = emulated.stage_ticks()
    assert 0 <= sum(hops for _, hops in ticks) <= counts["hops"]
    return counts


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", ["fair", "random:3", "starve:1", "fair/generic"])
def test_the_emulator_counts_the_exchanges_that_follow_each_other(way, order):
    """As the plan says, in any order of threads; a launch begins with one more, for its gates."""
    options, exchanges = WAYS[way]
    counts = counted(options | {"isa": order})
    assert counts["launches"] > 1
    assert counts["hops"] == exchanges * 30 + counts["launches"]


@pytest.mark.parametrize("blocks", [2, 12])
@pytest.mark.parametrize("order", ["fair", "random:3"])
def test_a_stage_has_the_exchange_that_it_waits_for(blocks, order):
    """Of eight rows of O1 some blocks have none: what their threads know, they have by barriers."""
    config = cases.dual_config(64, 8)
    work = Work(config, 30)
    emulated = work.engine(
        device="emu", clocks=True, exchanges=4, blocks=blocks, warps=4, isa=order
    )
    work.run(emulated)
    hops = {name: n for name, n in emulated.stage_ticks() if n}
    assert hops == dict.fromkeys(("coarse y", "coarse draw", "fine y", "fine draw"), 30)


def test_the_emulator_counts_messages():
    """Of 64 units, 32 values between the output layers and 256 classes a half."""
    n, blocks = 30, 3
    four = counted({"exchanges": 4, "blocks": blocks, "warps": 4})
    gates = 3 * 64
    assert four["words"] == n * (gates + 2 * (32 + 256))
    assert (four["additions"], four["pushes"]) == (0, 0)
    two = counted({"exchanges": 2, "blocks": blocks, "warps": 4})
    assert two["additions"] == n * 2 * 256 * blocks
    assert two["words"] == n * gates
    cluster = counted({"blocks": 2, "warps": 4, "cluster": 2})
    assert cluster["pushes"] == n * 2 * (32 + 256) * 2
    # Three a half in every block; a cluster has no barrier for y.
    assert four["barriers"] >= 6 * n * blocks
    assert two["barriers"] >= 6 * n * blocks
    assert cluster["barriers"] >= 4 * n * 2


def test_the_residual_kernel_has_four_exchanges_too():
    counts = counted({"exchanges": 4, **LAUNCH["labels"]}, config=HEADS["labels"])
    assert counts["hops"] == 4 * 30 + counts["launches"]


def test_the_kernels_of_pruned_models_and_of_many_streams_count():
    """In one block a pruned model has nobody to wait for; in a cluster its blocks wait."""
    tensors = pruned_models.pruned(DUAL, (4, 4), 0.3)
    one = counted({"sparse": "4x4"}, tensors=tensors)
    two = counted({"sparse": "4x4", "cluster": 2}, tensors=tensors)
    assert one["pushes"] == one["hops"] == 0
    assert two["pushes"] == 30 * 3 * 64 * 2  # pre-activations of all gates, to both blocks
    assert two["hops"] == 30
    streams = many(DUAL, cases.random_tensors(DUAL), clocks=True, **layout(DUAL))
    streams.run([streams.open(1)], [20], [None], [None])
    assert dict(streams.counts())["words"] > 0
