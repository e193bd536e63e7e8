"""Models that draw several sub-bands a step: what the engines make of them, in samples."""

from __future__ import annotations

import dataclasses

import cases
import numpy as np
import pytest
import reference
import tolerances
from engine_work import DTYPES, Work, make

from wavernn_fast import _C
from wavernn_fast.conditioning import Conditioner
from wavernn_fast.errors import EngineError, InputError

CONFIGS = cases.band_configs()


@pytest.fixture(scope="module", params=CONFIGS, ids=cases.case_id)
def work(request) -> Work:
    return Work(request.param, 64)


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("config", CONFIGS, ids=cases.case_id)
def test_logits_and_draws_are_those_of_the_equations(config, device):
    n = 4 * config.hop_length
    tensors, mel = cases.random_tensors(config), cases.mel_for(config, n)
    engine = make(config, tensors, device=device)
    rows = [[r] for r in Conditioner(config, tensors).window(mel, 0, 4)]
    forced = cases.random_samples(config, n)
    expected = reference.run(config, tensors, mel, n_steps=n, forced=forced)["logits"]
    labels, found = engine.run([engine.open(3)], [n], *rows, forced=[forced], return_logits=True)[0]
    assert np.array_equal(labels, forced)
    assert tolerances.logit_error(found, expected) <= tolerances.logit_limit(expected, "fp32")
    free = reference.run(config, tensors, mel, n_steps=n, seed=3)
    sure = int(np.argmax((free["margin"] < tolerances.TIE_MARGIN_FP32).any(1))) or n
    drawn = engine.run([engine.open(3)], [n], *rows)[0][0]
    assert sure >= 2 * config.bands  # what every band drew has been heard
    assert np.array_equal(drawn[:sure], free["samples"][:sure])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_near_the_double_twin_and_the_same_on_every_way(work, dtype):
    engine = work.engine(dtype=dtype)
    _, logits = work.run(engine, forced=work.samples, return_logits=True)
    error = tolerances.logit_error(logits, work.logits)
    assert error <= tolerances.logit_limit(work.logits, dtype)
    first = None
    for way in work.ways():
        samples, logits = work.run(work.engine(dtype=dtype, **way), return_logits=True)
        first = first or (samples, logits)
        assert np.array_equal(samples, first[0]), way
        assert np.array_equal(logits, first[1]), way


def test_pieces_batches_and_given_words_change_nothing(work):
    engine, bands, n = work.engine(threads=2), work.config.bands, work.n
    whole = work.run(engine)[0]
    for cuts in ([bands], [2 * bands, 5 * bands, 6 * bands]):
        assert np.array_equal(work.pieces(engine, cuts), whole)
    words = np.array([_C.philox(5, step)[:bands] for step in range(n // bands)]).reshape(n, 1)
    assert np.array_equal(work.run(engine, uniforms=words / 2.0**32)[0], whole)
    rows = ([r] * 20 for r in work.rows.values())
    batch = engine.run([engine.open(s) for s in range(20)], [n] * 20, *rows)
    for seed in (0, 5, 19):
        assert np.array_equal(batch[seed][0], work.run(engine, seed=seed)[0])


def test_all_is_counted_in_samples(work):
    engine, config = work.engine(), work.config
    assert (engine.draws_per_step, engine.logits_size) == (1, config.n_classes)
    h, f, bands = config.hidden_size, config.fc_size, config.bands
    step = 9 * h * h + f * h + f * f + bands * config.n_classes * f
    assert engine.macs_per_step == step // bands
    stream = engine.open(1, start=bands)
    engine.run([stream], [2 * bands], *([r] for r in work.rows.values()))
    assert stream.step == 2 * bands


def test_counts_that_cut_a_step_are_refused(work):
    engine, bands = work.engine(), work.config.bands
    rows = [[r] for r in work.rows.values()]
    with pytest.raises(InputError, match=rf"start is 1, expected a multiple of {bands}"):
        engine.open(1, start=1)
    with pytest.raises(InputError, match=rf"n_steps of stream 0 is {bands + 1}, expected a mult"):
        engine.run([engine.open(1)], [bands + 1], *rows)
    short = np.zeros(2 * bands - 1, np.int32)
    with pytest.raises(InputError, match=rf"holds {2 * bands - 1} labels, expected {2 * bands}"):
        engine.run([engine.open(1)], [2 * bands], *rows, forced=[short])
    with pytest.raises(InputError, match="forced label 1 of stream 0 is -1"):
        engine.run([engine.open(1)], [bands], *rows, forced=[-np.arange(bands)])
    single = dataclasses.replace(work.config, bands=1)
    other = make(single, cases.random_tensors(single))
    with pytest.raises(InputError, match=rf"opened on a model of 1 bands, this one has {bands}"):
        engine.run([other.open(1)], [bands], *rows)


def test_a_logit_that_is_not_finite_is_named_by_its_sample(work):
    config, weight = work.config, work.tensors["fc3.weight"].copy()
    weight[config.n_classes :] = 3e38  # of every band but the first
    engine = make(config, {**work.tensors, "fc3.weight": weight})
    rows = [[r] for r in work.rows.values()]
    with pytest.raises(EngineError, match="stream 0 is not finite at step 1;"):
        engine.run([engine.open(1)], [config.bands], *rows)


def test_greedy_takes_the_likeliest_of_every_band(work):
    engine = work.engine()
    rows = [[r] for r in work.rows.values()]
    stream = engine.open(1, greedy=True)
    labels, logits = engine.run([stream], [work.n], *rows, return_logits=True)[0]
    assert np.array_equal(labels, logits.argmax(1))
    assert len(set(labels[: work.config.bands])) > 1  # not one label for all bands


def test_a_place_that_is_refilled_changes_nothing(work):
    """Streams of unequal lengths share two places."""
    engine, bands = work.engine(threads=1), work.config.bands
    lengths = [work.n - bands * (i % 5) for i in range(9)]
    rows = ([r] * len(lengths) for r in work.rows.values())
    streams = [engine.open(s) for s in range(len(lengths))]
    for seed, (labels, _) in enumerate(engine.run(streams, lengths, *rows, lanes=2)):
        alone = work.run(engine, seed=seed)[0]
        assert np.array_equal(labels, alone[: lengths[seed]])
    assert [stream.step for stream in streams] == lengths


def test_a_run_that_was_stopped_goes_on_from_a_whole_step(work):
    engine, hop, n = work.engine(threads=1), work.config.hop_length, 2000 * work.n
    extra = work.config.upsample_left + work.config.upsample_right

    def rows(first: int) -> list[list[np.ndarray | None]]:
        """Those of samples from `first` on, the few that there are over and over."""
        frames = np.arange(first // hop, n // hop + 1 + extra) % 7
        return [[None if r is None else r[frames % len(r)]] for r in work.rows.values()]

    def stop() -> None:
        raise KeyboardInterrupt

    whole = engine.run([engine.open(7)], [n], *rows(0))[0][0]
    stream = engine.open(7)
    with pytest.raises(KeyboardInterrupt):
        engine.run([stream], [n], *rows(0), interrupt=stop)
    done = stream.step
    assert 0 < done < n
    assert done % work.config.bands == 0
    assert np.array_equal(engine.run([stream], [n - done], *rows(done))[0][0], whole[done:])
