"""The kernel of the embedded core on a real GPU against the emulator and the float64 reference.

Skipped where there is no GPU; `WAVERNN_FAST_TEST_GPU=emu` as in test_cuda_gpu.py.
"""

from __future__ import annotations

import cases
import numpy as np
import pytest
import reference
import tolerances
from embedded_works import LABELS
from test_cuda_gpu import (
    DEVICE,
    assert_same,
    engine,
    run,
    steps,
    tensors_of,
)
from test_cuda_gpu import pytestmark as pytestmark  # the same GPU, or the same reason for none

from wavernn_fast.errors import DeviceError, InputError
from wavernn_fast.vocoder import Vocoder

SMALL = [c for c in cases.small_configs() if c.core == "embedded"]
LARGE = [c for c in cases.full_size_configs() if c.core == "embedded"]
EMULATED = {"blocks": 4, "warps": 8}  # quick, and the same bits


def made_on(device: str, config, **options):
    if device == "emu" and "blocks" not in options:
        options |= EMULATED if config.hidden_size < 256 else {"blocks": 16, "warps": 16}
    return engine(config, device, **options)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("config", [*SMALL, *LARGE], ids=cases.case_id)
def test_exact_kernel_gives_the_bits_of_the_emulator(config, dtype):
    large = config.hidden_size > 256
    n = (12 if large else 60) if DEVICE == "cuda" else (2 if large else 20)
    made = made_on(DEVICE, config, exact=True, dtype=dtype)  # on a GPU the planner's blocks
    expected = run(made_on("emu", config, dtype=dtype), config, n, return_logits=True)
    assert_same(run(made, config, n, return_logits=True), expected)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("config", [*SMALL, *LARGE], ids=cases.case_id)
def test_fast_kernel_stays_within_the_table(config, dtype, record_property):
    large = config.hidden_size > 256
    n = (400 if large else 160) if DEVICE == "cuda" else (3 if large else 20)
    forced = cases.random_samples(config, n)
    mel = cases.mel_for(config, (-(-n // config.hop_length) + 2) * config.hop_length, seed=3)
    expected = reference.run(config, tensors_of(config), mel, n_steps=n, forced=forced)["logits"]
    made = made_on(DEVICE, config, dtype=dtype, exact=False)
    labels, logits = run(made, config, n, forced=[forced], return_logits=True)
    assert np.array_equal(labels, forced)
    error = tolerances.logit_error(logits, expected)
    record_property("logit_error", f"{error:.2e}")
    assert error <= tolerances.logit_limit(expected, dtype)


@pytest.mark.parametrize("how", ["greedy", "temperature", "uniforms", "fold"])
def test_every_way_to_draw_gives_the_bits_of_the_emulator(how):
    n, results = 60, []
    begun = {
        "greedy": {"greedy": True},
        "temperature": {"temperature": 0.6},
        "fold": {"item": 5, "fold": 9},
    }.get(how, {})
    given = {"uniforms": [cases.random_uniforms(LABELS, n)]} if how == "uniforms" else {}
    for device in ("emu", DEVICE):
        made = made_on(device, LABELS, exact=True)
        stream = made.open(2**40 + 1, **begun)
        results.append(run(made, LABELS, n, stream, return_logits=True, **given))
    assert_same(results[1], results[0])


@pytest.mark.parametrize("exact", [True, False])
def test_chunks_and_plans_of_any_shape_give_what_one_call_gives(exact):
    n, made = steps(6000), made_on(DEVICE, LABELS, exact=exact)
    whole, _ = run(made, LABELS, n)
    stream, parts, done = made.open(7), [], 0
    for size in (1, 31, 32, 33, n // 3, n):
        size = min(size, n - done)
        parts.append(run(made, LABELS, size, stream, done)[0])
        done += size
    assert np.array_equal(np.concatenate(parts), whole)
    found = 0
    for blocks, warps in [(1, 16), (7, 8), (32, 4), (64, 2)]:
        try:
            made = engine(LABELS, DEVICE, blocks=blocks, warps=warps, exact=exact)
        except (DeviceError, InputError):
            continue  # more blocks than the GPU has multiprocessors
        assert np.array_equal(run(made, LABELS, n)[0], whole), (blocks, warps)
        found += 1
    assert found >= 3


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "emu", reason="a long run")
@pytest.mark.parametrize("config", LARGE, ids=cases.case_id)
def test_a_long_run_equals_its_halves(config):
    n, made = 50_000, made_on(DEVICE, config, exact=False)
    whole, _ = run(made, config, n)
    stream = made.open(7)
    halves = [run(made, config, n // 2, stream)[0]]
    halves.append(run(made, config, n - n // 2, stream, n // 2)[0])
    assert np.array_equal(np.concatenate(halves), whole)


def test_a_vocoder_speaks_on_the_device():
    frames = 30 if DEVICE == "cuda" else 6
    mel = cases.mel_for(LABELS, frames * LABELS.hop_length, seed=3)
    voc = Vocoder(LABELS, tensors_of(LABELS), device=DEVICE)
    wave = voc.generate(mel, seed=5)
    assert voc.device == DEVICE
    assert np.array_equal(np.concatenate(list(voc.stream(mel, seed=5))), wave)
    on_cpu = Vocoder(LABELS, tensors_of(LABELS), device="cpu").score(mel, wave)
    assert voc.score(mel, wave) == pytest.approx(on_cpu, rel=1e-4)
