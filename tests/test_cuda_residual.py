"""The kernel of the residual core on a real GPU against the emulator and the float64 reference.

Skipped where there is no GPU; `WAVERNN_FAST_TEST_GPU=emu` as in test_cuda_gpu.py.
"""

from __future__ import annotations

import cases
import numpy as np
import pytest
import reference
import tolerances
from test_cuda_gpu import (
    DEVICE,
    assert_same,
    engine,
    rows_of,
    run,
    steps,
    tensors_of,
)
from test_cuda_gpu import pytestmark as pytestmark  # the same GPU, or the same reason for none

from wavernn_fast.errors import DeviceError, InputError
from wavernn_fast.vocoder import Vocoder

SMALL = [c for c in cases.small_configs() if c.core == "residual"] + cases.band_configs()
LARGE = [c for c in cases.full_size_configs() if c.core == "residual"]
FRAMES = {"hop_length": 6, "n_mels": 5, "upsample_left": 1, "upsample_right": 1}
AUX = {"aux_size": 3, "aux_channels": 10, "aux_blocks": 2, "aux_kernel": 5}
LABELS = cases.residual_config(64, 48, bits=8, **FRAMES, **AUX)
VALUES = cases.residual_config(48, 32, mixtures=5, **FRAMES, **AUX)
MULAW = cases.residual_config(48, 32, bits=8, feedback="mu_law", **FRAMES, **AUX)
HEADS = pytest.mark.parametrize(
    "config", [LABELS, VALUES, MULAW], ids=["labels", "values", "mulaw"]
)
EMULATED = {"blocks": 3, "warps": 12}  # quick, and the same bits


def made_on(device: str, config, **options):
    if device == "emu" and "blocks" not in options:
        few = EMULATED if config.bands == 1 else {"blocks": 6, "warps": 16}
        options |= few if config.hidden_size < 256 else {"blocks": 16, "warps": 16}
    return engine(config, device, **options)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("config", SMALL, ids=cases.case_id)
def test_exact_kernel_gives_the_bits_of_the_emulator(config, dtype):
    n = 60 if DEVICE == "cuda" else 20
    made = made_on(DEVICE, config, exact=True, dtype=dtype)  # on a GPU the planner's blocks
    expected = run(made_on("emu", config, dtype=dtype), config, n, return_logits=True)
    assert_same(run(made, config, n, return_logits=True), expected)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("config", LARGE, ids=cases.case_id)
def test_exact_kernel_of_full_size_gives_the_bits_of_the_emulator(config, dtype):
    n = 12 if DEVICE == "cuda" else 2
    made = made_on(DEVICE, config, exact=True, dtype=dtype)
    expected = run(made_on("emu", config, dtype=dtype), config, n, return_logits=True)
    assert_same(run(made, config, n, return_logits=True), expected)


@HEADS
@pytest.mark.parametrize("how", ["greedy", "temperature", "uniforms", "forced", "fold"])
def test_every_way_to_draw_gives_the_bits_of_the_emulator(config, how):
    n, results = 60, []
    begun = {
        "greedy": {"greedy": True},
        "temperature": {"temperature": 0.6},
        "fold": {"item": 5, "fold": 9},
    }.get(how, {})
    given = {
        "uniforms": {"uniforms": [cases.random_uniforms(config, n)]},
        "forced": {"forced": [cases.random_samples(config, n)]},
    }.get(how, {})
    for device in ("emu", DEVICE):
        made = made_on(device, config, exact=True)
        stream = made.open(2**40 + 1, **begun)
        results.append(run(made, config, n, stream, return_logits=True, **given))
    assert_same(results[1], results[0])


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("config", [*SMALL, *LARGE], ids=cases.case_id)
def test_fast_kernel_stays_within_the_table(config, dtype, record_property):
    large = config.hidden_size > 256
    n = (400 if large else 160) if DEVICE == "cuda" else (3 if large else 20)
    forced = cases.random_samples(config, n)
    mel = cases.mel_for(config, (-(-n // config.hop_length) + 2) * config.hop_length, seed=3)
    expected = reference.run(config, tensors_of(config), mel, n_steps=n, forced=forced)["logits"]
    made = made_on(DEVICE, config, dtype=dtype, exact=False)
    outcomes, logits = run(made, config, n, forced=[forced], return_logits=True)
    assert np.array_equal(outcomes, forced)
    error = tolerances.logit_error(logits, expected)
    record_property("logit_error", f"{error:.2e}")
    assert error <= tolerances.logit_limit(expected, dtype)


@HEADS
@pytest.mark.parametrize("exact", [True, False])
def test_chunks_give_what_one_call_gives(config, exact):
    n, made = steps(6000), made_on(DEVICE, config, exact=exact)
    whole, _ = run(made, config, n)
    stream, parts, done = made.open(7), [], 0
    for size in (1, 31, 32, 33, n // 3, n):
        size = min(size, n - done)
        parts.append(run(made, config, size, stream, done)[0])
        done += size
    assert done == n
    assert np.array_equal(np.concatenate(parts), whole)


@HEADS
def test_plans_of_any_shape_give_the_same_outcomes(config):
    n = steps(2000)
    expected, _ = run(made_on(DEVICE, config), config, n)
    found = 0
    for blocks, warps, exchanges in [(1, 16, 0), (7, 8, 4), (16, 8, 3), (32, 4, 2), (48, 8, 0)]:
        try:
            made = engine(config, DEVICE, blocks=blocks, warps=warps, exchanges=exchanges)
        except (DeviceError, InputError):
            continue  # does not fit
        assert np.array_equal(run(made, config, n)[0], expected), (blocks, warps, exchanges)
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


def test_several_streams_equal_each_alone():
    n, made = steps(3000), made_on(DEVICE, LABELS)
    rows = rows_of(LABELS, -(-n // LABELS.hop_length))
    streams = [made.open(seed) for seed in range(3)]
    together = made.run(streams, [n] * 3, [rows[0]] * 3, [rows[1]] * 3)
    for seed, (labels, _) in enumerate(together):
        assert np.array_equal(labels, run(made, LABELS, n, made.open(seed))[0])


def test_stage_clocks_add_up_and_change_nothing():
    n, plain = steps(2000), made_on(DEVICE, LABELS)
    clocked = made_on(DEVICE, LABELS, clocks=True)
    assert np.array_equal(run(clocked, LABELS, n)[0], run(plain, LABELS, n)[0])
    ticks = dict(clocked.stage_ticks())
    assert len(ticks) == 6
    if DEVICE == "cuda":
        assert all(ticks.values())


@HEADS
def test_a_vocoder_speaks_on_the_device(config):
    mel = cases.mel_for(config, 30 * config.hop_length, seed=3)
    voc = Vocoder(config, tensors_of(config), device=DEVICE)
    wave = voc.generate(mel, seed=5)
    assert voc.device == DEVICE
    assert np.array_equal(np.concatenate(list(voc.stream(mel, seed=5))), wave)
    on_cpu = Vocoder(config, tensors_of(config), device="cpu").score(mel, wave)
    assert voc.score(mel, wave) == pytest.approx(on_cpu, rel=1e-4)
