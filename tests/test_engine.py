"""One suite over every engine of this build: device x dtype x all that must make no difference."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import cases
import numpy as np
import pytest
import tolerances
from engine_work import DTYPES, DTYPES_OF, ISAS, OPTIONS_OF, Work, make
from patience import soon, within
from quick import first_is_quick, quick_where

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError, EngineError, InputError

SMALL = cases.small_configs()
on_every_device = pytest.mark.parametrize("device", OPTIONS_OF)
# (shape, device) of every case: the persistent kernel, here in the emulator, runs the dual core.
CASES = [(c, d) for d in OPTIONS_OF for c in SMALL if d == "cpu" or c.core == "dual"]

SOME = [((c, "cpu"), "int8") for c in SMALL[:8]]  # of other formats, for the quick tests


def id_of(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    config, device = value
    return cases.case_id(config) if device == "cpu" else f"{device}-{cases.case_id(config)}"


def with_dtypes(dtypes: tuple[str, ...]):
    """Parametrise `work` and `dtype`; a device is asked for the formats that it has."""
    pairs = [(case, t) for case in CASES for t in dtypes if t in DTYPES_OF[case[1]]]
    pairs = quick_where(lambda pair: pair[1] == "fp32" or pair in SOME, pairs)
    return pytest.mark.parametrize(("work", "dtype"), pairs, indirect=["work"], ids=id_of)


@pytest.fixture(scope="module", params=CASES, ids=id_of)
def work(request) -> Work:
    config, device = request.param
    return Work(config, 160 if device == "cpu" else 36, device=device)


def test_philox_gives_the_published_answers():
    zeros, ones = (0, 0, 0, 0), (2**64 - 1, 2**64 - 1, 2**32 - 1, 2**32 - 1)
    assert _C.philox(*zeros) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert _C.philox(*ones) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)


@with_dtypes(DTYPES)
def test_forced_logits_match_the_double_twin(work, dtype):
    engine = work.engine(dtype=dtype)
    _, logits = work.run(engine, forced=work.samples, return_logits=True)
    error = np.abs(logits - work.logits).max()
    assert error <= tolerances.logit_limit(work.logits, dtype)
    assert dtype != "fp32" or error <= 1e-4  # flat: the share of large logits is for real weights


@with_dtypes(DTYPES)
def test_every_way_to_run_gives_the_same_bits(work, dtype):
    """Instruction sets and threads; of the kernel, schedules, blocks, warps and builds."""
    reference = None
    for way in work.ways():
        samples, logits = work.run(work.engine(dtype=dtype, **way), return_logits=True)
        if reference is None:
            reference = samples, logits
        assert np.array_equal(samples, reference[0]), way
        assert np.array_equal(logits, reference[1]), way


@with_dtypes(DTYPES)
def test_pieces_joined_equal_the_whole(work, dtype):
    engine = work.engine(dtype=dtype, threads=2)
    whole = work.run(engine)[0]
    for cuts in ([1], [7, 8, work.n // 2 + 1], list(range(0, work.n, 13))[1:]):
        assert np.array_equal(work.pieces(engine, cuts), whole), cuts


ON_CPU = [case for case in CASES if case[1] == "cpu"]


@pytest.mark.parametrize("work", ON_CPU, indirect=True, ids=id_of)
def test_slices_of_smaller_and_larger_teams_join(work):
    """A slice of 16 steps is long enough to count, so that other teams get a try soon."""
    engine, alone = work.engine(threads=8), work.engine(threads=1)
    for seed in range(2):
        joined = work.pieces(engine, list(range(16, work.n, 16)), seed)
        assert np.array_equal(joined, work.run(alone, seed=seed)[0]), seed


BATCHES = [(c, n, t) for c in CASES[: len(SMALL)] for n in (2, 5, 9, 17, 40) for t in (1, 2)]
BATCHES += [(case, 3, 1) for case in CASES[len(SMALL) :]]
BATCHES = quick_where(lambda batch: batch[1] in (3, 5, 17), BATCHES)


@pytest.mark.parametrize(("work", "n_streams", "threads"), BATCHES, indirect=["work"], ids=id_of)
def test_a_batch_gives_each_stream_what_it_gets_alone(work, n_streams, threads):
    engine = work.engine(threads=threads)
    seeds = np.random.default_rng(n_streams).permutation(n_streams)
    lengths = [max(1, work.n - 11 * int(i)) for i in seeds]
    results = engine.run(
        [engine.open(int(s)) for s in seeds],
        lengths,
        [work.rows["interp"]] * n_streams,
        [work.rows["hold"]] * n_streams,
    )
    for seed, length, (samples, _) in zip(seeds, lengths, results, strict=True):
        assert np.array_equal(samples, work.run(engine, seed=int(seed))[0][:length])


@with_dtypes(("fp16", "int8", "int8-fast"))
def test_batches_of_other_dtypes_equal_single_streams(work, dtype):
    engine = work.engine(dtype=dtype, threads=2)
    n = 20 if work.device == "cpu" else 4
    results = engine.run(
        [engine.open(s) for s in range(n)],
        [work.n] * n,
        [work.rows["interp"]] * n,
        [work.rows["hold"]] * n,
    )
    for seed in (0, n // 3, n - 1):
        assert np.array_equal(results[seed][0], work.run(engine, seed=seed)[0])


def test_uniforms_replace_the_generator(work):
    engine = work.engine()
    draws = engine.draws_per_step
    words = np.array([_C.philox(5, step)[:draws] for step in range(work.n)])
    given = work.run(engine, uniforms=words / 2.0**32)[0]
    assert np.array_equal(given, work.run(engine, seed=5)[0])


def test_greedy_takes_the_largest_logit(work):
    engine = work.engine()
    stream = engine.open(0, greedy=True)
    rows = ([work.rows["interp"]], [work.rows["hold"]])
    samples, logits = engine.run([stream], [work.n], *rows, return_logits=True)[0]
    if work.config.core == "dual":
        expected = 256 * logits[:, :256].argmax(1) + logits[:, 256:].argmax(1)
    elif work.config.head == "softmax":
        expected = logits.argmax(1)
    elif work.config.head == "gaussian":
        expected = np.clip(logits[:, 0], -1, 1)
    elif work.config.head == "beta":
        expected = np.tanh((logits[:, 0].astype(np.float64) - logits[:, 1]) / 2)
        assert np.abs(samples - expected).max() < 1e-7
        expected = samples
    else:
        n_mix = work.config.n_classes // 3
        best = logits[:, :n_mix].argmax(1)
        expected = np.clip(logits[np.arange(work.n), n_mix + best], -1, 1)
    assert np.array_equal(samples, expected)


@on_every_device
def test_low_temperature_lowers_the_entropy(device):
    work = Work(SMALL[0], 400, device=device)
    engine = work.engine()

    def distinct(temperature: float) -> int:
        stream = engine.open(1, temperature=temperature)
        return len(np.unique(engine.run([stream], [work.n], [None], [None])[0][0] // 256))

    assert distinct(0.05) < distinct(1.0) < distinct(20.0)


@pytest.mark.parametrize("temperature", first_is_quick([1e-40, 5e-324, 2.9e-39, 1e-38]))
@pytest.mark.parametrize("work", CASES, indirect=True, ids=id_of)
def test_the_lowest_temperatures_take_the_largest_logit(work, temperature):
    """Their inverse is beyond float32."""
    engine, rows, n = work.engine(), [[r] for r in work.rows.values()], 20
    greedy, cold = (
        engine.run([engine.open(1, **how)], [n], *rows)[0][0]
        for how in ({"greedy": True}, {"temperature": temperature})
    )
    assert np.array_equal(cold, greedy)


@pytest.mark.parametrize("temperature", [1e28, 1e31, 1e300])
def test_the_highest_temperatures_draw_no_class_that_is_not_there(temperature):
    """Classes that pad the last 16 have a logit of -1e30, which is near 0 when divided by more."""
    config = dataclasses.replace(cases.embedded_config(48, 32, 8), n_classes=250)
    work = Work(config, 120)
    rows = [[r] for r in work.rows.values()]
    for engine in (work.engine(), make(config, work.tensors, device="reference")):
        stream = engine.open(1, temperature=temperature)
        labels = engine.run([stream], [work.n], *rows)[0][0]
        assert 200 < labels.max() < 250


@on_every_device
def test_folds_and_items_draw_different_numbers(device):
    work = Work(SMALL[0], 50, device=device)
    engine = work.engine()
    streams = [engine.open(1), engine.open(1, item=1), engine.open(1, fold=1), engine.open(2)]
    results = engine.run(streams, [50] * 4, [None] * 4, [None] * 4)
    assert len({r[0].tobytes() for r in results}) == 4


@on_every_device
def test_start_shifts_the_conditioning_phase(device):
    config = next(c for c in SMALL if c.n_mels and c.hop_length > 2)
    work = Work(config, 4 * config.hop_length, device=device)
    engine, hop = work.engine(), config.hop_length
    n = 2 * hop
    whole_frame = engine.open(1, start=hop)
    tail_rows = [None if r is None else r[1:] for r in work.rows.values()]
    a = engine.run([whole_frame], [n], [tail_rows[0]], [tail_rows[1]])[0][0]
    b = engine.run([engine.open(1)], [n], [tail_rows[0]], [tail_rows[1]])[0][0]
    assert np.array_equal(a, b)
    inside = engine.open(1, start=1)
    c = engine.run([inside], [n], [work.rows["interp"]], [work.rows["hold"]], return_logits=True)
    d = engine.run(
        [engine.open(1)], [n], [work.rows["interp"]], [work.rows["hold"]], return_logits=True
    )
    assert not np.array_equal(c[0][1][:hop], d[0][1][:hop])


@on_every_device
def test_a_copied_stream_continues_alike(device):
    work = Work(SMALL[0], 60, device=device)
    engine = work.engine()
    stream = engine.open(9)
    engine.run([stream], [25], [None], [None])
    twin = stream.copy()
    assert twin.step == 25
    a = engine.run([stream], [30], [None], [None])[0][0]
    b = engine.run([twin], [30], [None], [None])[0][0]
    assert np.array_equal(a, b)


@on_every_device
def test_two_python_threads_share_one_engine(device):
    work = Work(SMALL[0], 300, device=device)
    engine = work.engine(threads=2)
    expected = [work.run(engine, seed=s)[0] for s in range(4)]
    found: dict[int, np.ndarray] = {}

    def go(seed: int) -> None:
        found[seed] = work.run(engine, seed=seed)[0]

    threads = [threading.Thread(target=go, args=(s,)) for s in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(np.array_equal(found[s], expected[s]) for s in range(4))


# In a process of its own: a thread that waits for itself could not be stopped.
AGAIN = """
import signal, sys
sys.path.insert(0, {tests!r})
import cases
from engine_work import Work
from wavernn_fast.errors import InputError
work = Work(cases.small_configs()[0], 300, device={device!r})
engine, other = work.engine(), work.engine()
expected = work.run(engine)[0].tolist()
def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except InputError as error:
        assert "this engine is in a run on this thread" in str(error), error
        return True
def look(*_):
    assert refused(work.run, engine) and refused(engine.counts) and refused(engine.stage_ticks)
    assert work.run(other)[0].tolist() == expected
signal.signal(signal.SIGALRM, look)
signal.setitimer(signal.ITIMER_REAL, 1e-4)
assert work.run(engine, interrupt=look)[0].tolist() == expected
print("and on")
assert work.run(engine)[0].tolist() == expected
"""


@on_every_device
def test_a_run_within_a_run_is_refused(device):
    code = AGAIN.format(tests=os.path.dirname(__file__), device=device)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("and on\n", "")


def test_a_stream_lives_until_the_end_of_its_call():
    """Whatever a callback does to the list of streams."""
    engine = Work(SMALL[0], 8).engine(threads=1)
    [(expected, _)] = engine.run([engine.open(5)], [3000], [None], [None])  # many slices
    streams, others = [engine.open(5)], []

    def look() -> None:
        streams.clear()
        others.extend(engine.open(6) for _ in range(99))  # in its memory, were it gone

    [(labels, _)] = engine.run(streams, [3000], [None], [None], interrupt=look)
    assert np.array_equal(labels, expected)


CLOCKS = """
import sys, threading
sys.path.insert(0, {tests!r})
import cases
from engine_work import Work
engine = Work(cases.small_configs()[0], 36, device={device!r}).engine()
begun = threading.Event()
run = lambda: engine.run([engine.open(1)], [2000], [None], [None], interrupt=begun.set)
thread = threading.Thread(target=run)
thread.start()
begun.wait()
print(engine.stage_ticks())
thread.join()
"""


@on_every_device
def test_clocks_asked_for_during_a_run_hold_nobody_up(device):
    """In a process of its own: two threads that wait for each other could not be stopped."""
    code = CLOCKS.format(tests=os.path.dirname(__file__), device=device)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@on_every_device
def test_the_engine_works_in_a_forked_child(device):
    work = Work(SMALL[0], 200, device=device)
    engine = work.engine(threads=2)
    expected = work.run(engine)[0]
    pid = os.fork()
    if pid == 0:
        os._exit(0 if np.array_equal(work.run(engine)[0], expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert np.array_equal(work.run(engine)[0], expected)


class Over(Exception):
    """The parent has drawn enough."""


def draw_until(over: threading.Event, begun: threading.Event, engine: _C.Engine) -> None:
    def look() -> None:
        begun.set()
        if over.is_set():
            raise Over

    with pytest.raises(Over):
        engine.run([engine.open(1)], [10**9], [None], [None], interrupt=look)


def test_a_child_forked_while_a_thread_draws_may_draw_too():
    """The child has its parent's engine as it was in the middle of a slice, and not that thread."""
    work = Work(SMALL[0], 200)
    engine = work.engine(threads=2)
    expected = work.run(engine)[0]
    begun, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=draw_until, args=(over, begun, engine))
    thread.start()
    assert begun.wait(60)
    for _ in range(5):
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)  # a child that waits for a lock that nobody holds
            found = [work.run(engine)[0], *drawn_by_threads(work, engine)]
            os._exit(0 if all(np.array_equal(one, expected) for one in found) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    over.set()
    thread.join()
    assert np.array_equal(work.run(engine)[0], expected)


def drawn_by_threads(work: Work, engine: _C.Engine) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(work.run(engine)[0])) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


INTERRUPT = """
import dataclasses, signal, sys, time
sys.path.insert(0, {tests!r})
import cases
from wavernn_fast import _C
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit it ignored
config = cases.small_configs()[0]
engine = _C.Engine(dataclasses.asdict(config), cases.random_tensors(config), **{options})
stream = engine.open(0)
print("go", flush=True)
try:
    engine.run([stream], [10**9], [None], [None])
except KeyboardInterrupt:
    engine.run([stream], [10], [None], [None])  # still usable
    print("stopped", flush=True)
"""

# As many threads as the engine serves at once are in it, so that the call waits for its turn.
WAITING = """
import os, threading
begun, over = threading.Semaphore(0), threading.Event()
def look():
    begun.release()
    if over.is_set():
        raise InterruptedError
def draw():
    try:
        engine.run([engine.open(1)], [10**9], [None], [None], interrupt=look)
    except InterruptedError:
        pass
threads = [threading.Thread(target=draw) for _ in range({before})]
for thread in threads:
    thread.start()
    begun.acquire()
print("go", flush=True)
try:
    engine.run([stream], [10], [None], [None])
except KeyboardInterrupt:
    print("stopped", flush=True)
over.set()
for thread in threads:
    thread.join()
engine.run([stream], [10], [None], [None])
"""
MANY = {"device": "emu", "dtype": "fp16", "streams": 8}


@pytest.mark.parametrize(
    "options", [{"threads": 1}, {"threads": 2}, OPTIONS_OF["emu-2"]], ids=["1", "2", "emu"]
)
@soon
def test_ctrl_c_stops_a_run_quickly(options):
    stops_quickly(INTERRUPT.format(tests=os.path.dirname(__file__), options=options))


@pytest.mark.parametrize(
    ("options", "before"),
    [({"threads": 2}, 1), (OPTIONS_OF["emu-2"], 1), (MANY, 2)],
    ids=["cpu", "emu", "many"],
)
@soon
def test_ctrl_c_stops_a_call_that_waits_for_others(options, before):
    code = INTERRUPT[: INTERRUPT.index("print")] + WAITING
    path = os.path.dirname(__file__)
    stops_quickly(code.format(tests=path, options=options, before=before))


def stops_quickly(code: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    # 10**9 labels are 4 GB of untouched pages: reserved, never filled.
    assert child.stdout.readline() == "go\n"
    time.sleep(0.5)
    begin = time.monotonic()
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "stopped\n"
    stopped = time.monotonic()
    assert child.wait(60) == 0
    within(1.0, begin, stopped)  # 50 ms asked of the engine; the rest is a busy machine


@on_every_device
def test_a_poisoned_weight_is_refused_and_a_nan_logit_is_named(device):
    config = SMALL[0]
    tensors = cases.random_tensors(config)
    bad = {**tensors, "coarse_fc2.bias": tensors["coarse_fc2.bias"] * np.nan}
    with pytest.raises(InputError, match=r"coarse_fc2\.bias"):
        make(config, bad)
    huge = {
        k: v * np.float32(1e30) if "fc" in k and "weight" in k else v for k, v in tensors.items()
    }
    engine = make(config, huge, **OPTIONS_OF[device])
    with pytest.raises(EngineError, match="stream 0 is not finite at step 0"):
        engine.run([engine.open(0)], [5], [None], [None])


AUX = [case for case in ON_CPU if case[0].core == "dual" and case[0].aux_size > 0]


@pytest.mark.parametrize("work", AUX, indirect=True, ids=id_of)
def test_gates_saturate_however_much_they_hear(work):
    """Of a mel that is no logarithm. The candidate's sum is kept in two parts."""
    twin = make(work.config, work.tensors, device="reference")
    for scale in (1e3, 1e9, 1e12, 1e30):
        rows = [[r * np.float32(scale)] for r in work.rows.values()]
        [(labels, expected)] = twin.run([twin.open(1)], [work.n], *rows, return_logits=True)
        for isa in ISAS:
            engine = work.engine(isa=isa)
            found = engine.run(
                [engine.open(1)], [work.n], *rows, forced=[labels], return_logits=True
            )
            assert np.abs(found[0][1] - expected).max() < 1e-3, (scale, isa)


HEARING = [case for case in ON_CPU if case[0].n_mels > 0]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("work", HEARING, indirect=True, ids=id_of)
def test_a_nan_in_the_conditioning_is_named_and_no_sample_is_made_of_it(work, dtype):
    """Gates, ReLUs and the quantisation of activations hand it on, in any channel."""
    frame, hop, rng = 2, work.config.hop_length, np.random.default_rng(3)
    engines = [work.engine(dtype=dtype, isa=isa) for isa in (ISAS[0], ISAS[-1])]
    if dtype == "fp32":
        engines.append(make(work.config, work.tensors, device="reference"))
    for name, rows in work.rows.items():
        for channel in [] if rows is None else rng.integers(rows.shape[1], size=2):
            bad = work.rows | {name: rows.copy()}
            bad[name][frame:, channel] = np.nan
            for engine in engines:
                with pytest.raises(EngineError, match=r"is not finite at step \d+;") as caught:
                    engine.run([engine.open(1)], [4 * hop], [bad["interp"]], [bad["hold"]])
                step = int(str(caught.value).split("step ")[1].split(";")[0])
                assert (frame - 2 * (name == "interp")) * hop <= step <= frame * hop + 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isa": "sse9"}, "instruction set sse9 is not available"),
        ({"device": "abacus"}, "device abacus is not in this build"),
    ],
)
def test_missing_hardware_is_a_device_error(options, message):
    config = SMALL[0]
    with pytest.raises(DeviceError, match=message):
        make(config, cases.random_tensors(config), **options)


def test_the_environment_forces_an_instruction_set(monkeypatch):
    config = SMALL[0]
    monkeypatch.setenv("WAVERNN_FAST_ISA", "scalar")
    assert make(config, cases.random_tensors(config)).isa == "scalar"
    monkeypatch.setenv("WAVERNN_FAST_ISA", "mmx")
    with pytest.raises(DeviceError, match="mmx"):
        make(config, cases.random_tensors(config))


def test_bad_arguments_are_named(work):
    engine = work.engine()
    stream = engine.open(0)
    rows = ([work.rows["interp"]], [work.rows["hold"]])
    with pytest.raises(InputError, match="n_steps has 2 entries"):
        engine.run([stream], [1, 2], *rows)
    with pytest.raises(InputError, match="appears twice"):
        engine.run([stream, stream], [1, 1], rows[0] * 2, rows[1] * 2)
    with pytest.raises(InputError, match="uniforms of stream 0 hold 1 numbers"):
        engine.run([stream], [3], *rows, uniforms=[np.zeros(1)])
    with pytest.raises(InputError, match="temperature"):
        engine.open(0, temperature=0.0)
    if work.rows["interp"] is not None:
        with pytest.raises(InputError, match="interp of stream 0 is missing"):
            engine.run([stream], [1], [None], [None])
        with pytest.raises(InputError, match="interp of stream 0 has shape"):
            engine.run([stream], [1], [work.rows["interp"][:, 1:]], rows[1])
    if not work.config.draws_values:
        with pytest.raises(InputError, match="forced label 0 of stream 0 is -1"):
            engine.run([stream], [1], *rows, forced=[np.array([-1])])
    assert stream.step == 0


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "rubbish"}, None),
        ({"cpu.max": "99999999999999 1"}, None),
        ({"own": "0::/a.slice/b", "a.slice/b/cpu.max": "99000 100000"}, 1),  # a service of systemd
        ({"own": "0::/a.slice/b", "a.slice/cpu.max": "9 10", "a.slice/b/cpu.max": "max 10"}, 1),
        ({"own": "0::/not/here", "cpu.max": "100 100"}, 1),  # of a container, as its host names it
        (
            {
                "own": "1:name=systemd:/\n4:cpuacct,cpu:/b",
                "cpu/b/cpu.cfs_quota_us": "5",
                "cpu/b/cpu.cfs_period_us": "10",
            },
            1,
        ),
        ({"own": "0::/\nrubbish", "other/cpu.max": "1 10"}, None),
    ],
)
def test_threads_respect_the_cgroup_quota(tmp_path, files, limit):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    affinity = len(os.sched_getaffinity(0))
    expected = affinity if limit is None else min(limit, affinity)
    assert _C.available_threads(str(tmp_path), str(tmp_path / "own")) == expected


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("work", CASES[: len(SMALL)], indirect=True, ids=id_of)
def test_unpacking_a_plan_gives_the_weights_back(work, dtype, threads):
    config = work.config
    packed = _C.unpack_plan(dataclasses.asdict(config), work.tensors, dtype=dtype, threads=threads)
    h = config.hidden_size
    original = {
        "gru": "gru.w_recurrent",
        "gru1": "gru1.w_recurrent",
        "gru2": "gru2.w_recurrent",
        "gru2_input": "gru2.w_input",
    }
    for name, found in packed.items():
        expected = work.tensors[original.get(name, f"{name}.weight")][:, : found.shape[1]]
        assert found.shape[1] in (h, h // 2, config.fc_size)
        if dtype.startswith("int8"):
            scale = np.abs(expected).max(1, keepdims=True) / 127
            assert (np.abs(found - expected) <= 0.5001 * scale).all(), name
        else:
            widen = {"fp32": expected, "fp16": expected.astype(np.float16).astype(np.float32)}
            bits = np.ascontiguousarray(expected).view(np.uint32)
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
            widen["bf16"] = rounded.astype(np.uint32).view(np.float32)
            assert np.array_equal(found, widen[dtype]), name
