"""The kernel for pruned models on a real GPU against the emulator and the float64 reference.

Skipped where there is no GPU; `WAVERNN_FAST_TEST_GPU=emu` as in test_cuda_gpu.py.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re

import cases
import numpy as np
import pruned_models
import pytest
import reference
import tolerances
from test_cuda_gpu import DEVICE, assert_same, has_clusters
from test_cuda_gpu import pytestmark as pytestmark  # the same GPU, or the same reason for none

from wavernn_fast import _C
from wavernn_fast.conditioning import Conditioner
from wavernn_fast.errors import DeviceError

FIELDS = {"hop_length": 8, "n_mels": 5, "upsample_left": 1, "upsample_right": 1}
SMALL = [
    (cases.dual_config(64, 33), (4, 4)),
    (cases.dual_config(96, 96, **FIELDS), (4, 4)),
    (cases.dual_config(128, 40), (16, 1)),
]
LARGE = [(cases.dual_config(1024, 512), tile) for tile in ((4, 4), (16, 1))]
EVERY_TEAM = pytest.mark.parametrize("team", [0, 1, 2, 4, 8])  # 0: the planner's choice


@functools.cache
def tensors_of(config, tile, density):
    return pruned_models.pruned(config, tile, density, seed=3)


def engine(config, tensors, device=DEVICE, **options):
    if options.get("cluster", 0) > 1 and not has_clusters():
        pytest.skip("clusters need compute capability 9.0")
    if device == "cuda":
        options["nvrtc"] = importlib.import_module("wavernn_fast.nvrtc").libraries()
    options = {"sparse": "on"} | options
    return _C.Engine(dataclasses.asdict(config), tensors, device=device, **options)


def run(made, config, tensors, n, streams=None, **options):
    """(labels, logits or None) of every stream, all under the same conditioning."""
    streams = streams or [made.open(7)]
    interp = hold = None
    if config.n_mels:
        mel = cases.mel_for(config, n, seed=3)
        interp, hold = Conditioner(config, tensors).window(mel, 0, -(-n // config.hop_length))
    count = len(streams)
    return made.run(streams, [n] * count, [interp] * count, [hold] * count, **options)


@EVERY_TEAM
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(("config", "tile"), SMALL, ids=str)
def test_exact_kernel_gives_the_bits_of_the_emulator(config, tile, dtype, team):
    n = 60 if DEVICE == "cuda" else 10
    tensors = tensors_of(config, tile, 0.3)
    made = engine(config, tensors, exact=True, dtype=dtype, cluster=team)
    emulated = engine(config, tensors, "emu", dtype=dtype, cluster=1)
    [expected] = run(emulated, config, tensors, n, return_logits=True)
    [found] = run(made, config, tensors, n, return_logits=True)
    assert_same(found, expected)


@EVERY_TEAM
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(("config", "tile"), LARGE, ids=str)
def test_exact_kernel_of_full_size_gives_the_bits_of_the_emulator(config, tile, dtype, team):
    n = 40 if DEVICE == "cuda" else 3
    tensors = tensors_of(config, tile, 0.05)
    try:
        made = engine(config, tensors, exact=True, dtype=dtype, cluster=team)
    except DeviceError as error:
        if "does not fit" not in str(error):
            raise
        pytest.skip("a team of so few blocks does not hold the model")
    emulated = engine(config, tensors, "emu", dtype=dtype, cluster=made_of(made))
    [expected] = run(emulated, config, tensors, n, return_logits=True)
    [found] = run(made, config, tensors, n, return_logits=True)
    assert_same(found, expected)


def made_of(made) -> int:
    """Blocks of a team."""
    found = re.search(r"teams of (\d+) block", made.describe())
    assert found is not None
    return int(found[1])


@pytest.mark.skipif(not pruned_models.LYRA.is_dir(), reason=pruned_models.NO_LYRA)
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_real_model_stays_within_the_table(dtype, record_property):
    config, tensors, n = pruned_models.LYRA_CONFIG, pruned_models.lyra(), 20
    made = engine(config, tensors, exact=True, dtype=dtype)
    forced = reference.run(config, tensors, None, n_steps=n)["samples"]
    expected = reference.run(config, tensors, None, n_steps=n, forced=forced)["logits"]
    [(_, logits)] = run(made, config, tensors, n, forced=[forced], return_logits=True)
    error = tolerances.logit_error(logits, expected)
    record_property("logit_error", error)
    assert error <= tolerances.logit_limit(expected, dtype)


@EVERY_TEAM
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_fast_kernel_stays_within_the_table(dtype, team, record_property):
    config, tile = SMALL[1]
    tensors, n = tensors_of(config, tile, 0.3), 400 if DEVICE == "cuda" else 20
    forced = cases.random_samples(config, n, seed=3)
    mel = cases.mel_for(config, n, seed=3)
    expected = reference.run(config, tensors, mel, n_steps=n, forced=forced)["logits"]
    made = engine(config, tensors, exact=False, dtype=dtype, cluster=team)
    [(_, logits)] = run(made, config, tensors, n, forced=[forced], return_logits=True)
    error = tolerances.logit_error(logits, expected)
    record_property("logit_error", error)
    assert error <= tolerances.logit_limit(expected, dtype)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("team", [1, 2, 8])
def test_many_streams_get_what_they_get_alone(team, exact):
    """More than there are teams, and of several lengths."""
    config, tile = SMALL[0]
    tensors = tensors_of(config, tile, 0.3)
    made = engine(config, tensors, exact=exact, cluster=team, warps=0 if DEVICE == "cuda" else 2)
    teams = int(re.search(r"(\d+) teams", made.describe())[1])
    count = teams + 5 if DEVICE == "cuda" else 7
    lengths = [300 - 7 * (s % 5) if DEVICE == "cuda" else 4 + s % 5 for s in range(count)]
    empty = [None] * count
    together = made.run([made.open(s) for s in range(count)], lengths, empty, empty)
    for seed in (0, 1, count // 2, count - 1):
        alone = made.run([made.open(seed)], [lengths[seed]], [None], [None])[0][0]
        assert np.array_equal(together[seed][0], alone), seed


@pytest.mark.parametrize("team", [1, 2])
def test_chunks_give_what_one_call_gives(team):
    config, tile = SMALL[0]
    tensors = tensors_of(config, tile, 0.3)
    made = engine(config, tensors, cluster=team)
    [(whole, _)] = run(made, config, tensors, 90)
    stream = made.open(7)
    pieces = [made.run([stream], [n], [None], [None])[0][0] for n in (1, 5, 30, 54) if n]
    assert np.array_equal(np.concatenate(pieces), whole)


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "emu", reason="a long run")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_long_run_of_many_streams_equals_its_halves(dtype):
    config, tile = LARGE[0]
    tensors = tensors_of(config, tile, 0.05)
    made = engine(config, tensors, exact=False, dtype=dtype)
    count, empty = 20, [None] * 20
    whole = made.run([made.open(s) for s in range(count)], [20000] * count, empty, empty)
    streams = [made.open(s) for s in range(count)]
    halves = [made.run(streams, [10000] * count, empty, empty) for _ in range(2)]
    for i in range(count):
        assert np.array_equal(whole[i][0], np.concatenate([h[i][0] for h in halves])), i
