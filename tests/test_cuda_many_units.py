"""The kernels for many streams of the residual and the embedded core on a real GPU.

As test_cuda_many.py.

Skipped where there is no GPU; `WAVERNN_FAST_TEST_GPU=emu` as in test_cuda_gpu.py.
"""

from __future__ import annotations

import dataclasses
import importlib
from concurrent.futures import ThreadPoolExecutor

import cases
import numpy as np
import pytest
import tolerances
from engine_work import make
from many_engines import random_rows, slots_of
from residual_works import HEADS
from test_cuda_gpu import DEVICE, has_clusters
from test_cuda_gpu import pytestmark as pytestmark  # the same GPU, or the same reason for none
from truths import rounded

from wavernn_fast import _C

FRAMES = {"hop_length": 25, "n_mels": 20, "upsample_left": 2, "upsample_right": 2}
SHORT_FRAMES = {"hop_length": 6, "n_mels": 5, "upsample_left": 1, "upsample_right": 1}
AUX = {"aux_size": 32, "aux_channels": 16, "aux_blocks": 1, "aux_kernel": 5}
FULL = {
    "512 labels": cases.residual_config(512, 512, bits=9, **FRAMES, **AUX),
    "10 logistics": cases.residual_config(512, 512, mixtures=10, **FRAMES, **AUX),
    "univoc": cases.embedded_config(896, 256, 10, hop_length=25, n_mels=20),
}
SMALL = [
    *HEADS.values(),
    cases.residual_config(48, 32, head="gaussian", n_classes=2, **SHORT_FRAMES, **AUX),
    cases.residual_config(48, 32, head="beta", n_classes=2, **SHORT_FRAMES, **AUX),
    cases.residual_config(48, 48, bits=6, bands=4, **(SHORT_FRAMES | {"hop_length": 8}), **AUX),
    cases.embedded_config(64, 48, 8, hop_length=6),
]


def engine(config, **options) -> _C.Engine:
    options = {"dtype": "fp16", "streams": 64} | options
    if DEVICE == "cuda":
        options["nvrtc"] = importlib.import_module("wavernn_fast.nvrtc").libraries()
    else:
        options = {"gpu": "T4", "warps": 4, "isa": "random:1/room:6"} | options
    tensors = cases.random_tensors(config, seed=3)
    return _C.Engine(dataclasses.asdict(config), tensors, device=DEVICE, **options)


def run(made: _C.Engine, config, lengths: list[int], seeds=None, **options):
    """(outcomes, logits or None) of every stream; rows of conditioning are by its seed."""
    seeds = range(len(lengths)) if seeds is None else seeds
    rows = [random_rows(config, made, 1, 2000, seed=s) for s in seeds]
    interp, hold = ([r[k][0] for r in rows] for k in (0, 1))
    return made.run([made.open(s) for s in seeds], lengths, interp, hold, **options)


MODELS = pytest.mark.parametrize(
    "config", [*SMALL, *(FULL.values() if DEVICE == "cuda" else ())], ids=cases.case_id
)


@pytest.mark.parametrize("split", [False, True], ids=["fp16", "split"])
@pytest.mark.parametrize("exact", [True, False])
@MODELS
def test_logits_stay_near_the_double_reference(config, exact, split, record_property):
    n, count = (60 if DEVICE == "cuda" else 12), 5
    made = engine(config, exact=exact, split=split)
    forced = [cases.random_samples(config, n, seed=s) for s in range(count)]
    twin = make(config, rounded(cases.random_tensors(config, seed=3)), device="reference")
    given = {"forced": forced, "return_logits": True}
    expected, found = (run(e, config, [n] * count, **given) for e in (twin, made))
    worst = 0.0
    for (samples, logits), (same, wanted) in zip(found, expected, strict=True):
        assert np.array_equal(samples, same)
        worst = max(worst, tolerances.logit_error(logits, wanted) / float(np.abs(wanted).max()))
    record_property("logit_error", worst)
    limit = tolerances.FP16_ACTIVATIONS
    assert worst <= (tolerances.KERNEL_EXACT[0] if split and exact else limit)


@pytest.mark.parametrize("exact", [True, False])
@MODELS
def test_a_stream_is_given_the_same_bits_in_any_company(config, exact):
    """More streams than slots, of mixed lengths, in one call of several launches."""
    made = engine(config, exact=exact)
    count = int(np.prod(slots_of(made))) + 9
    most = 2000 // config.bands if DEVICE == "cuda" else 20
    steps = (1 + (37 * i) % most for i in range(count))
    lengths = [config.bands * n for n in steps]
    together = run(made, config, lengths)
    for i in (0, 1, 7, count // 2, count - 1):
        [alone] = run(made, config, [lengths[i]], [i])
        assert np.array_equal(together[i][0], alone[0]), i
    assert len({samples.tobytes() for samples, _ in together}) > count // 2


@pytest.mark.parametrize(
    "config",
    [*SMALL, *([FULL["512 labels"], FULL["10 logistics"]] if DEVICE == "cuda" else ())],
    ids=cases.case_id,
)
def test_clusters_give_the_bits_of_messages_through_l2(config):
    """As many blocks as have units, 16 at most; more streams than slots, of mixed lengths."""
    if not has_clusters():
        pytest.skip("clusters need compute capability 9.0")
    gpu, cluster = DEVICE == "cuda", min(16, config.hidden_size // 16)
    most = 1000 // config.bands if gpu else 20
    lengths = [config.bands * (1 + (37 * i) % most) for i in range(200 if gpu else 30)]
    expected = run(engine(config), config, lengths)
    for streams in (8, 300) if gpu else (64,):
        asked = {} if gpu else {"gpu": "H200", "isa": "random:2/room:6"}
        made = engine(config, cluster=cluster, streams=streams, **asked)
        assert "every team a cluster" in made.describe()
        for i, (a, b) in enumerate(zip(run(made, config, lengths), expected, strict=True)):
            assert np.array_equal(a[0], b[0]), (streams, i)


@pytest.mark.parametrize("config", [SMALL[0], SMALL[-1]], ids=cases.case_id)
def test_calls_at_the_same_time_give_what_they_give_one_after_the_other(config):
    """While a kernel runs for one, another brings its streams to the device and takes them back."""
    made, calls = engine(config, exact=False), 6
    most = 900 if DEVICE == "cuda" else 12
    lengths = [
        [config.bands * (1 + (37 * i + call) % most) for i in range(20)] for call in range(calls)
    ]
    seeds = [range(100 * call, 100 * call + 20) for call in range(calls)]
    expected = [run(made, config, lengths[i], seeds[i]) for i in range(calls)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda i: run(made, config, lengths[i], seeds[i]), range(calls)))
    for one, other in zip(found, expected, strict=True):
        for (samples, _), (same, _) in zip(one, other, strict=True):
            assert np.array_equal(samples, same)
