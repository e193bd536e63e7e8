"""More streams than places in one call of the CPU engine: packing never shows in the samples."""

from __future__ import annotations

import dataclasses
from functools import cache

import cases
import numpy as np
import pytest
from engine_work import DTYPES, OPTIONS_OF, Work
from hypothesis import given, settings
from hypothesis import strategies as st

from wavernn_fast import _C
from wavernn_fast.errors import InputError

DUAL = cases.dual_config(32, 16, hop_length=4, n_mels=5, upsample_left=1, upsample_right=1)
LABELS = cases.residual_config(16, 16, bits=8, upsample_right=1)
LONGEST = 600
THREADS = (1, 2, 3)


@cache
def work_on(config: object, device: str = "cpu") -> Work:
    assert config in (DUAL, LABELS)
    return Work(config, LONGEST, device=device)  # type: ignore[arg-type]


@cache
def engine_of(config: object, threads: int, dtype: str = "fp32") -> _C.Engine:
    return work_on(config).engine(threads=threads, dtype=dtype)


@cache
def alone(config: object, dtype: str, seed: int) -> np.ndarray:
    """Samples of a stream that runs by itself on one thread."""
    return work_on(config).run(engine_of(config, 1, dtype), seed=seed)[0]


def run(engine: _C.Engine, config: object, streams: list, lengths: list[int], **how) -> list:
    rows = work_on(config).rows
    n = len(streams)
    return engine.run(streams, lengths, [rows["interp"]] * n, [rows["hold"]] * n, **how)


some_lengths = st.one_of(
    st.lists(st.integers(0, 40), min_size=1, max_size=60),
    st.lists(st.sampled_from([0, 1]), min_size=1, max_size=60),
    st.builds(lambda n, length: [length] * n, st.integers(1, 60), st.integers(1, 40)),
    st.builds(
        lambda short, i: [*short[:i], LONGEST, *short[i:]],
        st.lists(st.integers(0, 12), min_size=1, max_size=50),
        st.integers(0, 50),
    ),
)


@settings(deadline=None, max_examples=80)
@given(
    config=st.sampled_from([DUAL, LABELS]),
    lengths=some_lengths,
    places=st.one_of(st.integers(1, 70), st.just(0)),
    threads=st.sampled_from(THREADS),
    dtype=st.sampled_from(DTYPES),
)
def test_a_stream_gets_its_samples_whatever_it_shares_the_places_with(
    config, lengths, places, threads, dtype
):
    engine = engine_of(config, threads, dtype)
    streams = [engine.open(seed) for seed in range(len(lengths))]
    results = run(engine, config, streams, lengths, lanes=places)
    for seed, (stream, length, (drawn, _)) in enumerate(
        zip(streams, lengths, results, strict=True)
    ):
        assert stream.step == length
        assert np.array_equal(drawn, alone(config, dtype, seed)[:length])


@pytest.mark.parametrize("config", [DUAL, LABELS], ids=["dual", "labels"])
@pytest.mark.parametrize("threads", THREADS)
def test_many_streams_pass_through_few_places_of_threads_that_work_apart(config, threads):
    random = np.random.default_rng(threads)
    lengths = [LONGEST, *random.integers(0, 60, 200).tolist()]
    engine = engine_of(config, threads)
    streams = [engine.open(seed) for seed in range(len(lengths))]
    results = run(engine, config, streams, lengths, lanes=8 * threads + 3)
    for seed, (stream, length, (drawn, _)) in enumerate(
        zip(streams, lengths, results, strict=True)
    ):
        assert stream.step == length
        assert np.array_equal(drawn, alone(config, "fp32", seed)[:length])


class Stopped(Exception):
    """Raised by a caller in the middle of a run."""


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(0, LONGEST // 2), min_size=30, max_size=80),
    places=st.integers(1, 70),
    threads=st.sampled_from(THREADS),
    calls=st.integers(1, 4),
    error=st.sampled_from([Stopped, KeyboardInterrupt]),
)
def test_a_run_that_is_stopped_leaves_every_stream_at_a_sample_from_which_it_goes_on(
    lengths, places, threads, calls, error
):
    engine = engine_of(DUAL, threads)
    streams = [engine.open(seed) for seed in range(len(lengths))]
    left = calls

    def stop() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise error

    try:
        run(engine, DUAL, streams, lengths, lanes=places, interrupt=stop)
    except error:
        assert left == 0
    else:
        assert left > 0  # it had ended before
    for seed, (stream, length) in enumerate(zip(streams, lengths, strict=True)):
        assert 0 <= stream.step <= length
        rows = work_on(DUAL).rows
        first, n = stream.step // DUAL.hop_length, min(20, LONGEST - stream.step)
        interp = rows["interp"][first:]
        hold = None if rows["hold"] is None else rows["hold"][first:]
        begun = stream.step
        [(drawn, _)] = engine.run([stream], [n], [interp], [hold])
        assert np.array_equal(drawn, alone(DUAL, "fp32", seed)[begun : begun + n])


def test_a_stopped_run_has_touched_no_stream_that_still_waits():
    engine = engine_of(DUAL, 1)
    streams = [engine.open(seed) for seed in range(40)]

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        run(engine, DUAL, streams, [LONGEST] * 40, lanes=30, interrupt=stop)
    assert all(0 < stream.step < LONGEST for stream in streams[:30])
    assert [stream.step for stream in streams[30:]] == [0] * 10


def test_an_engine_says_how_many_streams_it_runs_at_its_best():
    assert [engine_of(DUAL, threads).lanes for threads in THREADS] == [32, 64, 96]
    for device in OPTIONS_OF:
        assert device == "cpu" or work_on(DUAL, device).engine().lanes >= 1


def test_a_number_of_places_below_zero_is_refused():
    engine = engine_of(DUAL, 1)
    with pytest.raises(InputError, match="lanes is -1, expected"):
        run(engine, DUAL, [engine.open(0)], [1], lanes=-1)


# --- weights that do not lie beside a core --------------------------------------------------------


@pytest.mark.parametrize("count", [16, 31, 33])
def test_streams_that_share_far_weights_have_the_samples_of_those_that_work_apart(count):
    """From 8 to 15 streams a thread products are shared where weights take more than 2 MB."""
    config = cases.dual_config(512, 128)
    tensors = cases.random_tensors(config)
    found = []
    for threads in (1, 2):
        engine = _C.Engine(dataclasses.asdict(config), tensors, device="cpu", threads=threads)
        assert engine.weight_bytes > 2 << 20
        lengths = [6 + i % 5 for i in range(count)]  # the last ones run with few beside them
        streams = [engine.open(i) for i in range(count)]
        nothing = [None] * count
        found.append([labels for labels, _ in engine.run(streams, lengths, nothing, nothing)])
    for one, two in zip(*found, strict=True):
        assert np.array_equal(one, two)
