"""The kernel for many streams on a real GPU against the float64 reference and against itself.

Skipped where there is no GPU; `WAVERNN_FAST_TEST_GPU=emu` as in test_cuda_gpu.py. Tensor cores add
the products of a tile in an order of their own, so that no bits of the emulator are asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib

import cases
import numpy as np
import pytest
import reference
import tolerances
from many_engines import failing, layout, random_rows, slots_of, twin
from test_cuda_gpu import DEVICE, has_clusters
from test_cuda_gpu import pytestmark as pytestmark  # the same GPU, or the same reason for none

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError, EngineError

FIELDS = {"hop_length": 8, "n_mels": 5, "upsample_left": 1, "upsample_right": 1}
SMALL = cases.dual_config(64, 33)
SIZES = [SMALL, cases.dual_config(96, 300, **FIELDS), cases.dual_config(160, 48)]
PAPER = cases.dual_config(896, 448, sample_rate=24000)


@functools.cache
def tensors_of(config):
    return cases.random_tensors(config, seed=3)


def engine(config, **options):
    if DEVICE == "cuda":
        options = {"streams": 64} | options
        options["nvrtc"] = importlib.import_module("wavernn_fast.nvrtc").libraries()
    else:
        asked = {"exact", "split", "cluster"} & set(options)
        options = layout(config, teams=2, **{name: options[name] for name in asked}) | options
    options = {"dtype": "fp16"} | options
    return _C.Engine(
        dataclasses.asdict(config),
        options.pop("tensors", tensors_of(config)),
        device=DEVICE,
        **options,
    )


def run(made, config, lengths, seeds=None, **options):
    """(labels, logits or None) of every stream; rows of conditioning are by its seed."""
    seeds = range(len(lengths)) if seeds is None else seeds
    rows = [random_rows(config, made, 1, 4000, seed=s) for s in seeds]
    interp, hold = ([r[k][0] for r in rows] for k in (0, 1))
    streams = options.pop("begun", None) or [made.open(s) for s in seeds]
    return made.run(streams, lengths, interp, hold, **options)


@pytest.mark.parametrize("split", [False, True], ids=["fp16", "split"])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("config", SIZES, ids=cases.case_id)
def test_logits_stay_near_the_double_reference(config, exact, split, record_property):
    n = 200 if DEVICE == "cuda" else 12
    made, count = engine(config, exact=exact, split=split), 5
    forced = [cases.random_samples(config, n, seed=s) for s in range(count)]
    given = {"forced": forced, "return_logits": True}
    expected = run(twin(config, tensors_of(config)), config, [n] * count, **given)
    worst = 0.0
    for found, wanted in zip(run(made, config, [n] * count, **given), expected, strict=True):
        assert np.array_equal(found[0], wanted[0])
        spread = float(np.abs(wanted[1]).max())
        worst = max(worst, tolerances.logit_error(found[1], wanted[1]) / spread)
    record_property("logit_error", worst)
    limit = tolerances.FP16_ACTIVATIONS
    assert worst <= (tolerances.KERNEL_EXACT[0] if split and exact else limit)


@pytest.mark.skipif(DEVICE == "emu", reason="the tests of the emulator ask this of it")
@pytest.mark.parametrize("streams", [8, 0])
def test_the_papers_model_stays_near_the_reference(streams, record_property):
    n, made = 100, engine(PAPER, streams=streams, exact=False)
    forced = cases.random_samples(PAPER, n)
    expected = reference.run(PAPER, tensors_of(PAPER), n_steps=n, forced=forced)["logits"]
    count = slots_of(made)[0] * slots_of(made)[1]
    found = run(made, PAPER, [n] * count, forced=[forced] * count, return_logits=True)
    errors = [tolerances.logit_error(logits, expected) for _, logits in found]
    record_property("logit_error", max(errors))
    assert max(errors) <= tolerances.logit_limit(expected, "fp16")
    assert len({logits.tobytes() for _, logits in found}) == 1


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("config", SIZES, ids=cases.case_id)
def test_a_stream_is_given_the_same_bits_in_any_company(config, exact):
    """More streams than slots, of mixed lengths, in one call of several launches."""
    made, gpu = engine(config, exact=exact), DEVICE == "cuda"
    teams, streams = slots_of(made)
    count = teams * streams + 9
    lengths = [1 + (37 * i) % (4000 if gpu else 20) for i in range(count)]
    together = run(made, config, lengths, return_logits=not gpu)
    for i in (0, 1, 7, count // 2, count - 1):
        [alone] = run(made, config, [lengths[i]], [i], return_logits=not gpu)
        assert np.array_equal(together[i][0], alone[0]), i
        assert gpu or together[i][1].tobytes() == alone[1].tobytes(), i
    assert len({samples.tobytes() for samples, _ in together}) > count // 2


def test_other_numbers_of_teams_and_streams_give_the_same_bits():
    n, count = (300 if DEVICE == "cuda" else 12), 20
    given = {"return_logits": True}
    expected = None
    for asked in ({"streams": 8}, {"streams": 500}, {"blocks": 1}):
        if DEVICE == "cuda":
            asked |= {"warps": 8}
        else:
            asked = {"blocks": asked.get("blocks", 2)}
            asked = layout(SMALL, teams=2, **asked)
        found = [
            s.tobytes() + x.tobytes()
            for s, x in run(engine(SMALL, **asked), SMALL, [n] * count, **given)
        ]
        expected = expected or found
        assert found == expected, asked


# Models and the blocks of a team that is a cluster, as many as have units.
CLUSTERS = [(SMALL, 2), (SIZES[1], 3), (SIZES[2], 5), (cases.dual_config(512, 256, **FIELDS), 8)]


@pytest.mark.parametrize("split", [False, True], ids=["fp16", "split"])
@pytest.mark.parametrize(
    ("config", "cluster"), CLUSTERS, ids=[f"{c.hidden_size}-{n}" for c, n in CLUSTERS]
)
def test_clusters_give_the_bits_of_messages_through_l2(config, cluster, split):
    """More streams than slots, of mixed lengths; on a GPU also with several tiles a team."""
    if not has_clusters():
        pytest.skip("clusters need compute capability 9.0")
    gpu = DEVICE == "cuda"
    if config.hidden_size == 512 and not gpu:
        pytest.skip("the tests of the emulator ask this of it")
    plain = engine(config, split=split, **({"warps": 8, "blocks": cluster} if gpu else {}))
    lengths = [1 + (37 * i) % (2000 if gpu else 20) for i in range(300 if gpu else 40)]
    expected = run(plain, config, lengths, return_logits=not gpu)
    for streams in (8, 64, 0) if gpu else (8,):
        asked = {"streams": streams, "warps": 8} if gpu else {}
        made = engine(config, split=split, cluster=cluster, **asked)
        assert "every team a cluster" in made.describe()
        found = run(made, config, lengths, return_logits=not gpu)
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert np.array_equal(a[0], b[0]), (streams, i)
            assert gpu or a[1].tobytes() == b[1].tobytes(), i


def test_pieces_give_what_one_call_gives():
    made, count, n = engine(SMALL), 12, 90
    whole = [s for s, _ in run(made, SMALL, [n] * count)]
    begun = [made.open(s) for s in range(count)]
    parts = [run(made, SMALL, [k] * count, begun=begun) for k in (1, 5, 30, 54)]
    for i in range(count):
        assert np.array_equal(np.concatenate([p[i][0] for p in parts]), whole[i]), i


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "emu", reason="a long run")
def test_a_long_run_of_many_launches_equals_its_halves():
    made, count, n = engine(PAPER, exact=False), 40, 8000
    whole = run(made, PAPER, [2 * n] * count)
    begun = [made.open(s) for s in range(count)]
    halves = [run(made, PAPER, [n] * count, begun=begun) for _ in range(2)]
    for i in range(count):
        assert np.array_equal(whole[i][0], np.concatenate([h[i][0] for h in halves])), i


def test_a_logit_that_is_no_number_is_reported_and_costs_no_other_stream():
    config, tensors, healthy, rows = failing()
    made = engine(config, tensors=tensors)
    streams, empty = [made.open(s) for s in range(12)], [None] * 12
    given = [rows if i == 9 else healthy for i in range(12)]
    with pytest.raises(EngineError, match="a logit of stream 9 is not finite at step 20"):
        made.run(streams, [29] * 12, given, empty)
    assert {stream.step for stream in streams} == {29}
    [(alone, _)] = made.run([made.open(8)], [40], [healthy], [None])
    [(rest, _)] = made.run([streams[8]], [11], [healthy[7:]], [None])
    assert np.array_equal(rest, alone[29:])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_other_formats_are_refused(dtype):
    with pytest.raises(DeviceError, match=f"weights in fp16; dtype is {dtype}|{dtype} is not av"):
        engine(SMALL, dtype=dtype)
