"""Full-size models, random weights, drawing freely: every instruction set makes the float64
reference's own samples, draw for draw, under the same uniforms.

(Models that draw classes, that is: a mixture of logistics feeds back a real number, whose last bits
the recurrence amplifies until nothing is equal; it is compared under teacher forcing only.)

In single precision a draw can fall the other way when its uniform lies within rounding of a
boundary between classes; the reference reports how close each draw was (`margin`). A first
difference is accepted only at such a tie, is counted, and the streams are joined again there by
forcing the reference's sample, so that all samples are compared.
"""

from __future__ import annotations

import dataclasses
import functools

import cases
import numpy as np
import pytest
import reference
import tolerances
from quick import first_is_quick, quick_where

from wavernn_fast import _C
from wavernn_fast.conditioning_network import make_conditioner

N_STEPS = 2000
N_FORCED = 400
CONFIGS = cases.full_size_configs()
QUICK = next(config for config in CONFIGS if config.core == "residual")


def draws_classes(config) -> bool:
    return not config.draws_values


def params(configs) -> list:
    """Only the smallest is quick."""
    return quick_where(lambda config: config == QUICK, configs)


@pytest.fixture(scope="module", params=params(CONFIGS), ids=cases.case_id)
def run(request):
    return make_run(request.param)


@pytest.fixture(scope="module", params=params(filter(draws_classes, CONFIGS)), ids=cases.case_id)
def class_run(request):
    return make_run(request.param)


@functools.cache
def make_run(config):
    n = N_STEPS if draws_classes(config) else N_FORCED
    tensors = cases.random_tensors(config, seed=11)
    mel = cases.mel_for(config, n, seed=11)
    uniforms = cases.random_uniforms(config, n, seed=11)
    result = reference.run(config, tensors, mel, n_steps=n, uniforms=uniforms)
    return config, tensors, mel, uniforms, result


def free_run(engine, run):
    """Samples of the engine and the steps at which they had to be joined to the reference's."""
    config, tensors, mel, uniforms, result = run
    interp = hold = None
    if mel is not None:
        frames = -(-N_STEPS // config.hop_length)
        interp, hold = make_conditioner(config, tensors).window(mel, 0, frames)
    samples, ties = np.empty_like(result["samples"]), []
    stream, done = engine.open(0), 0
    while done < N_STEPS:
        before, row = stream.copy(), done // config.hop_length
        rows = [[None if r is None else r[row:]] for r in (interp, hold)]
        part = engine.run([stream], [N_STEPS - done], *rows, uniforms=[uniforms[done:]])[0][0]
        wrong = np.flatnonzero(part != result["samples"][done:])
        if wrong.size == 0:
            samples[done:] = part
            break
        good = int(wrong[0])
        samples[done : done + good] = part[:good]
        ties.append(done + good)
        # Replay up to the tie, then take the reference's sample there.
        stream = before
        forced = result["samples"][done : done + good + 1]
        engine.run([stream], [good + 1], *rows, forced=[forced])
        samples[done + good] = forced[-1]
        done += good + 1
    return samples, ties


@pytest.mark.parametrize("isa", first_is_quick(reversed(_C.available_isas())))
def test_free_running_fp32_draws_equal_the_reference(class_run, isa, record_property):
    config, tensors, *_, result = class_run
    assert len(np.unique(result["samples"])) > 100
    engine = _C.Engine(dataclasses.asdict(config), tensors, isa=isa, threads=1)
    samples, ties = free_run(engine, class_run)
    for step in ties:
        margin = float(result["margin"][step].min())
        record_property("tie", f"step {step}, margin {margin:.1e}")
        assert margin < tolerances.TIE_MARGIN_FP32, (step, margin)
    assert len(ties) <= 2
    assert np.array_equal(samples, result["samples"])


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8", "int8-fast"])
def test_forced_logits_of_full_size_models_stay_within_the_table(run, dtype):
    config, tensors, mel, _, result = run
    n = N_FORCED
    interp = hold = None
    if mel is not None:
        interp, hold = make_conditioner(config, tensors).window(mel, 0, -(-n // config.hop_length))
    engine = _C.Engine(dataclasses.asdict(config), tensors, dtype=dtype, threads=2)
    forced = [result["samples"][:n]]
    _, logits = engine.run(
        [engine.open(0)], [n], [interp], [hold], forced=forced, return_logits=True
    )[0]
    expected = result["logits"][:n]
    error = tolerances.logit_error(logits, expected)
    assert error <= tolerances.logit_limit(expected, dtype)
    assert dtype != "fp32" or error <= 1e-4


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_overlapped_teams_give_the_bits_of_one_thread(run, dtype):
    config, tensors, mel, *_ = run
    n = 60
    interp = hold = None
    if mel is not None:
        interp, hold = make_conditioner(config, tensors).window(mel, 0, -(-n // config.hop_length))

    def draw(threads, count):
        engine = _C.Engine(dataclasses.asdict(config), tensors, dtype=dtype, threads=threads)
        beside = "output layers beside the next recurrent product" in engine.describe()
        streams = [engine.open(seed) for seed in range(count)]
        parts = engine.run(streams, [n] * count, [interp] * count, [hold] * count)
        again = engine.run(streams, [1] * count, [interp] * count, [hold] * count)
        return beside, [np.append(a[0], b[0]) for a, b in zip(parts, again, strict=True)]

    for count in (1, 3):
        beside, expected = draw(1, count)
        assert not beside
        for threads in (2, 3, 4):
            beside, found = draw(threads, count)
            assert beside or threads > 2
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
