"""The persistent kernel on a real GPU against the emulator and the float64 reference.

Skipped where there is no GPU. `WAVERNN_FAST_TEST_GPU=emu` runs the same tests with the emulator in
the GPU's place, shortened: that shows nothing about a GPU, but that the tests themselves can pass.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import threading

import cases
import numpy as np
import pytest
import reference
import tolerances

from wavernn_fast import _C, arrays, places
from wavernn_fast.conditioning_network import make_conditioner
from wavernn_fast.errors import DeviceError, InputError
from wavernn_fast.vocoder import Vocoder

DEVICE = os.environ.get("WAVERNN_FAST_TEST_GPU", "cuda")


def problem() -> str:
    """Why no GPU can be tested; empty if one can."""
    if DEVICE == "emu":
        return ""
    if not hasattr(_C, "cuda_devices"):
        return "this build has no CUDA runtime (_C.cuda_devices)"
    try:
        devices = _C.cuda_devices()
    except Exception as error:  # whatever it is, the reason is shown
        return f"no GPU: {error}"
    return str(devices[0]["problem"])


REASON = problem()
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(bool(REASON), reason=REASON or "-")]

# The order of every sum is the same for any number of blocks; few make the emulator quick.
SMALL_PLAN = {"blocks": 3, "warps": 4}
LARGE_PLAN = {"blocks": 8, "warps": 16}
CLUSTER = 8
# Ways to hand on the output layers; a GPU without clusters has the first two.
EVERY_WAY = pytest.mark.parametrize("way", ["2", "4", "cluster"])
SMALL = [c for c in cases.small_configs() if c.core == "dual"]
LARGE = [c for c in cases.full_size_configs() if c.core == "dual"]


@functools.cache
def has_clusters() -> bool:
    return DEVICE == "emu" or _C.cuda_devices()[0]["arch"] >= 90


def options_of(way: str) -> dict[str, int]:
    if way != "cluster":
        return {"exchanges": int(way)}
    if not has_clusters():
        pytest.skip("clusters need compute capability 9.0")
    return {"cluster": CLUSTER}


def on_the_emulator(way: str) -> dict[str, int]:
    """What has the same bits and is quick: clusters those of four exchanges."""
    return {"exchanges": 2 if way == "2" else 4}


def steps(n: int) -> int:
    """Steps on a GPU; the emulator in its place does a part."""
    return n if DEVICE == "cuda" else max(20, n // 50)


@functools.cache
def tensors_of(config):
    return cases.random_tensors(config, seed=3)


def engine(config, device=DEVICE, **options):
    if device == "emu" and "cluster" not in options and "blocks" not in options:
        options |= SMALL_PLAN if config.hidden_size < 256 else LARGE_PLAN
    if device == "cuda":
        options["nvrtc"] = importlib.import_module("wavernn_fast.nvrtc").libraries()
    try:
        return _C.Engine(dataclasses.asdict(config), tensors_of(config), device=device, **options)
    except DeviceError as error:
        if "cluster" in options and config.fc_size > 448 and "does not fit" in str(error):
            pytest.skip("a cluster of 8 does not hold output layers of that size")
        raise


@functools.cache
def rows_of(config, frames):
    mel = cases.mel_for(config, (frames + 2) * config.hop_length, seed=3)
    if mel is None:
        return None, None
    return make_conditioner(config, tensors_of(config)).window(mel, 0, frames)


def run(made, config, n, stream=None, done=0, **options):
    """(labels, logits or None) of steps [done, done + n)."""
    interp, hold = rows_of(config, -(-(done + n) // config.hop_length))
    row = done // config.hop_length
    cut = [None if r is None else r[row:] for r in (interp, hold)]
    stream = stream or made.open(7)
    return made.run([stream], [n], [cut[0]], [cut[1]], **options)[0]


def assert_same(found, expected):
    assert np.array_equal(found[0], expected[0])
    assert (found[1] is None) == (expected[1] is None)
    if found[1] is not None:
        assert found[1].tobytes() == expected[1].tobytes()


# --- the same bits as the emulator ----------------------------------------------------------------


@EVERY_WAY
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("config", SMALL, ids=cases.case_id)
def test_exact_kernel_gives_the_bits_of_the_emulator(config, dtype, way):
    n = 60 if DEVICE == "cuda" else 20
    made = engine(config, exact=True, dtype=dtype, **options_of(way))  # the planner's blocks
    emulated = engine(config, "emu", dtype=dtype, **on_the_emulator(way))
    expected = run(emulated, config, n, return_logits=True)
    assert_same(run(made, config, n, return_logits=True), expected)


@EVERY_WAY
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("config", LARGE, ids=cases.case_id)
def test_exact_kernel_of_full_size_gives_the_bits_of_the_emulator(config, dtype, way):
    n = 12 if DEVICE == "cuda" else 3
    made = engine(config, exact=True, dtype=dtype, **options_of(way))
    emulated = engine(config, "emu", dtype=dtype, **on_the_emulator(way))
    expected = run(emulated, config, n, return_logits=True)
    assert_same(run(made, config, n, return_logits=True), expected)


@pytest.mark.parametrize("how", ["greedy", "temperature", "uniforms", "forced", "fold"])
def test_every_way_to_draw_gives_the_bits_of_the_emulator(how):
    config, n = SMALL[9], 60  # conditioned, five taps
    results = []
    for device in ("emu", DEVICE):
        made = engine(config, device, exact=True, exchanges=2)
        options = {
            "greedy": {"greedy": True},
            "temperature": {"temperature": 0.6},
            "fold": {"item": 5, "fold": 9},
        }.get(how, {})
        given = {
            "uniforms": {"uniforms": [cases.random_uniforms(config, n)]},
            "forced": {"forced": [cases.random_samples(config, n)]},
        }.get(how, {})
        stream = made.open(2**40 + 1, **options)
        results.append(run(made, config, n, stream, return_logits=True, **given))
    assert_same(results[1], results[0])


# --- close to the reference -----------------------------------------------------------------------


@EVERY_WAY
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("config", [*SMALL, *LARGE], ids=cases.case_id)
def test_fast_kernel_stays_within_the_table(config, dtype, way, record_property):
    large = config.hidden_size > 256
    n = (400 if large else 160) if DEVICE == "cuda" else (3 if large else 20)
    forced = cases.random_samples(config, n)
    mel = cases.mel_for(config, (-(-n // config.hop_length) + 2) * config.hop_length, seed=3)
    expected = reference.run(config, tensors_of(config), mel, n_steps=n, forced=forced)["logits"]
    made = engine(config, dtype=dtype, exact=False, **options_of(way))
    labels, logits = run(made, config, n, forced=[forced], return_logits=True)
    assert np.array_equal(labels, forced)
    error = tolerances.logit_error(logits, expected)
    record_property("logit_error", f"{error:.2e}")
    assert error <= tolerances.logit_limit(expected, dtype)


@pytest.mark.skipif(DEVICE == "emu", reason="the tests of the emulator ask this of it")
@EVERY_WAY
@pytest.mark.parametrize("exact", [True, False])
def test_free_running_draws_equal_the_reference_but_for_ties(exact, way, record_property):
    config, n = LARGE[0], 1000
    uniforms = cases.random_uniforms(config, n, seed=3)
    expected = reference.run(config, tensors_of(config), n_steps=n, uniforms=uniforms)
    found, _ = run(engine(config, exact=exact, **options_of(way)), config, n, uniforms=[uniforms])
    wrong = np.flatnonzero(found != expected["samples"])
    assert len(np.unique(found)) > 100
    if wrong.size:  # from the first difference on, the two hear different pasts
        margin = float(expected["margin"][wrong[0]].min())
        record_property("tie", f"step {wrong[0]}, margin {margin:.1e}")
        assert margin < tolerances.TIE_MARGIN_FP32


# --- slices, streams, engines ---------------------------------------------------------------------


@EVERY_WAY
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("config", [SMALL[1], SMALL[9]], ids=cases.case_id)
def test_chunks_give_what_one_call_gives(config, exact, way):
    n, made = steps(6000), engine(config, exact=exact, **options_of(way))
    whole, _ = run(made, config, n)
    stream, parts, done = made.open(7), [], 0
    for size in (1, 31, 32, 33, n // 3, n):
        size = min(size, n - done)
        parts.append(run(made, config, size, stream, done)[0])
        done += size
    assert done == n
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_long_run_equals_its_halves(dtype):
    config = LARGE[0] if DEVICE == "cuda" else SMALL[1]
    n, made = steps(200_000), engine(config, dtype=dtype, exact=False)
    whole, _ = run(made, config, n)
    stream = made.open(7)
    halves = [run(made, config, n // 2, stream)[0], run(made, config, n - n // 2, stream)[0]]
    assert np.array_equal(np.concatenate(halves), whole)
    assert len(np.unique(whole)) > min(1000, n // 4)


@EVERY_WAY
def test_plans_of_any_shape_give_the_same_samples(way):
    config, n = LARGE[0] if DEVICE == "cuda" else SMALL[1], steps(2000)
    expected, _ = run(engine(config, **options_of(way)), config, n)
    shapes = [(56, 8), (112, 8), (84, 4)] if DEVICE == "cuda" else [(2, 4), (5, 8)]
    if way == "cluster":
        shapes = [(112, 8), (120, 8), (128, 8)] if DEVICE == "cuda" else [(8, 8), (16, 4)]
    for blocks, warps in shapes:
        try:
            made = engine(config, **(options_of(way) | {"blocks": blocks, "warps": warps}))
        except DeviceError:
            continue  # does not fit on this GPU
        except InputError as error:
            if "multiprocessor" not in str(error):
                raise
            continue  # a smaller GPU
        assert np.array_equal(run(made, config, n)[0], expected), (blocks, warps)


def test_two_engines_at_once_do_not_disturb_each_other():
    configs, n = [SMALL[1], SMALL[9], SMALL[1]], steps(20_000)
    made = [engine(config, exact=False) for config in configs]
    alone = [run(e, c, n)[0] for e, c in zip(made, configs, strict=True)]
    found: list = [None] * len(made)

    def work(i):
        found[i] = run(made[i], configs[i], n)[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(made))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for a, b in zip(found, alone, strict=True):
        assert a is not None
        assert np.array_equal(a, b)


def test_several_streams_equal_each_alone():
    config, n = SMALL[9], steps(3000)
    made = engine(config)
    rows = rows_of(config, -(-n // config.hop_length))
    together = made.run(
        [made.open(seed) for seed in range(3)], [n] * 3, [rows[0]] * 3, [rows[1]] * 3
    )
    for seed, (labels, _) in enumerate(together):
        assert np.array_equal(labels, run(made, config, n, made.open(seed))[0])


def test_an_interrupt_ends_the_call_at_a_slice_and_the_engine_goes_on():
    config, made = SMALL[1], engine(SMALL[1])
    expected, _ = run(made, config, 200)
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    n = 50_000_000 if DEVICE == "cuda" else 5000  # minutes, were it not stopped
    with pytest.raises(KeyboardInterrupt):
        run(made, config, n, interrupt=stop)
    assert len(calls) == 2
    assert np.array_equal(run(made, config, 200)[0], expected)


def test_stage_clocks_add_up_and_change_nothing():
    config, n = SMALL[1], steps(2000)
    plain, clocked = engine(config), engine(config, clocks=True)
    assert plain.stage_ticks() == []
    assert np.array_equal(run(clocked, config, n)[0], run(plain, config, n)[0])
    ticks = dict(clocked.stage_ticks())
    assert len(ticks) >= 8
    assert all(t >= 0 for t in ticks.values())
    if DEVICE == "cuda":
        assert all(ticks.values())


# --- arrays of PyTorch and CuPy on the GPU --------------------------------------------------------


@pytest.fixture(params=["torch", "cupy"])
def send(request):
    """Brings numpy to the memory that the device reads, as an array of a library."""
    try:
        module = importlib.import_module(request.param)
    except ImportError as error:
        pytest.skip(f"{request.param} is not installed ({error})")
    if DEVICE == "emu":
        if request.param == "cupy":
            pytest.skip("the emulator reads the memory of the host, CuPy has none there")
        return module.from_numpy
    if not module.cuda.is_available():
        pytest.skip(f"{request.param} sees no GPU")
    return module.asarray if request.param == "cupy" else lambda a: module.from_numpy(a).cuda()


def exported(array):
    """What the engine is given of rows of a library."""
    place = arrays.take(array, "rows", DEVICE).place
    assert place is not places.HOST
    with place.scope():
        return place.export(array)


with_and_without_hold = pytest.mark.parametrize("config", [SMALL[9], SMALL[11]], ids=cases.case_id)


@with_and_without_hold
def test_rows_on_the_gpu_give_the_bits_of_rows_from_the_host(config, send):
    n, made = steps(2000), engine(config)
    interp, hold = rows_of(config, -(-n // config.hop_length))
    expected = run(made, config, n, return_logits=True)
    interp = exported(send(interp))
    hold = None if hold is None else exported(send(hold + made.hold_bias))
    found = made.run([made.open(7)], [n], [interp], [hold], return_logits=True)[0]
    assert_same(found, expected)


@with_and_without_hold
def test_a_mel_on_the_gpu_stays_there_and_the_sound_comes_back_there(config, send, monkeypatch):
    voc = Vocoder(config, tensors_of(config), device=DEVICE)
    mel = cases.mel_for(config, steps(1500) * config.hop_length, seed=3).astype(np.float32)
    wave = voc.generate(mel)
    score = voc.score(mel, wave)
    theirs, to_array = send(mel), arrays.to_array

    def numpy_only(value, what):
        assert type(value) is np.ndarray, "an array came to the host"
        return to_array(value, what)

    def refuse(*_):
        raise AssertionError("a tensor came to the host")

    def values(result):
        assert type(result) is type(theirs)
        assert result.device == theirs.device
        assert result.dtype == theirs.dtype
        return result.get() if hasattr(result, "get") else result.cpu().numpy()

    with monkeypatch.context() as patched:
        patched.setattr(arrays, "to_array", numpy_only)
        if hasattr(theirs, "cpu"):  # CuPy's own get() also brings the single numbers of the check
            patched.setattr(type(theirs), "cpu", refuse)
        found, again = voc.generate(theirs), list(voc.stream(theirs))
        # The rows differ in a last bit now and then, so samples may part; likelihoods do not.
        assert voc.score(theirs, wave) == pytest.approx(score, rel=1e-4)
    assert values(found).shape == wave.shape
    assert np.isfinite(values(found)).all()
    assert np.array_equal(np.concatenate([values(chunk) for chunk in again]), values(found))


@pytest.mark.skipif(DEVICE == "emu", reason="the host has no streams")
def test_rows_are_awaited_on_the_stream_that_makes_them():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    config, n = SMALL[9], 2000
    made, stream = engine(config), torch.cuda.Stream()
    expected = run(made, config, n)
    interp, _ = rows_of(config, -(-n // config.hop_length))
    source = torch.from_numpy(interp).cuda()
    rows, busy = torch.zeros_like(source), torch.ones(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(50):  # a tenth of a second, queued at once
            busy = (busy @ busy).clamp(max=1.0)
        rows.copy_(source)
        given = exported(rows)
    assert_same(made.run([made.open(7)], [n], [given], [None])[0], expected)
