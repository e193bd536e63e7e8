"""Many live streams on one engine: each equals `generate`, whatever runs beside; nobody waits."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from arrivals import (
    LINEAR,
    MODELS,
    SUBSCALE,
    WAIT,
    feed,
    poison,
    read_all,
    side_by_side,
    until,
    voice,
)
from cases import dual_config
from hypothesis import given, settings
from hypothesis import strategies as st
from voices import BETA, DUAL, LABELS, UNCONDITIONED, joined, mel, same_bits

from wavernn_fast import live, live_rounds
from wavernn_fast.errors import DeviceError, EngineError, InputError
from wavernn_fast.live import LivePool

# --- the same samples -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    config=st.sampled_from(list(MODELS.values())),
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seed=st.integers(0, 2**63),
    threads=st.sampled_from([1, 2]),
    chunk_frames=st.integers(1, 12),
    fade_out=st.booleans(),
    buffer_seconds=st.sampled_from([0.001, 2.0]),
)
def test_every_stream_equals_generate(
    config, lengths, sizes, seed, threads, chunk_frames, fade_out, buffer_seconds
):
    voc = voice(config, threads)
    mels = [mel(config, n, i) for i, n in enumerate(lengths)]
    with LivePool(voc, chunk_frames=chunk_frames, buffer_seconds=buffer_seconds) as pool:
        streams = [pool.open(seed=seed + i, fade_out=fade_out) for i in range(len(mels))]
        for i, (stream, frames) in enumerate(zip(streams, mels, strict=True)):
            feed(stream, frames, sizes[i % len(sizes) :] + sizes)
        found = side_by_side([lambda s=s: read_all(s) for s in streams])
        assert pool.stats()["streams"] == 0
    for i, (wave, frames) in enumerate(zip(found, mels, strict=True)):
        whole = voice(config).generate(frames, seed=seed + i, fade_out=fade_out)
        assert same_bits(wave, whole), i


def test_streams_that_come_and_go_while_others_sound():
    voc, rng = voice(LABELS, 2), np.random.default_rng(1)
    mels = [mel(LABELS, int(rng.integers(1, 60)), i) for i in range(24)]

    def one(pool, i):
        pauses = np.random.default_rng(i)
        time.sleep(pauses.uniform(0, 0.05))
        stream = pool.open(seed=i, temperature=0.5 + i / 24)

        def pushing():
            for frame in mels[i].T:
                stream.push(frame)
                time.sleep(pauses.uniform(0, 0.002))
            stream.finish()

        pusher = threading.Thread(target=pushing)
        pusher.start()
        wave = read_all(stream, pauses.uniform(0, 0.003))
        pusher.join()
        return wave

    with LivePool(voc, chunk_frames=3) as pool:
        found = side_by_side([lambda i=i: one(pool, i) for i in range(len(mels))])
    for i, wave in enumerate(found):
        assert same_bits(wave, voc.generate(mels[i], seed=i, temperature=0.5 + i / 24)), i


@pytest.mark.parametrize("config", [DUAL, LABELS], ids=["dual", "residual"])
def test_the_emulated_kernel_streams_too(config):
    voc = voice(config, 4, "emu")
    frames = [mel(config, n, n) for n in (9, 14)]
    with LivePool(voc, chunk_frames=2) as pool:
        streams = [pool.open(seed=i) for i in range(2)]
        for stream, one in zip(streams, frames, strict=True):
            feed(stream, one, [4])
        for i, stream in enumerate(streams):
            assert same_bits(read_all(stream), voc.generate(frames[i], seed=i))


def test_what_cannot_sound_early_is_refused():
    for config, words in ((UNCONDITIONED, "unconditioned"), (LINEAR, "as one array")):
        with pytest.raises(InputError, match=words):
            LivePool(voice(config))


@pytest.mark.parametrize(
    "options",
    [{"max_streams": 0}, {"chunk_frames": 0}, {"buffer_seconds": 0}, {"waiting_seconds": "long"}],
)
def test_unusable_arguments_of_a_pool_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        LivePool(voice(DUAL), **options)


def test_unusable_arguments_of_a_stream_are_refused():
    with LivePool(voice(DUAL)) as pool:
        for options in ({"seed": -1}, {"temperature": 0}, {"speaker": [1.0]}):
            with pytest.raises(InputError, match=next(iter(options))):
                pool.open(**options)
        assert pool.stats()["streams"] == 0


# --- one fails, the others go on ------------------------------------------------------------------


class Strict:
    """An engine that fails by huge conditioning, which some cores survive."""

    def __init__(self, engine):
        self.engine = engine

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def run(self, streams, n_steps, interp, hold, **options):
        results = self.engine.run(streams, n_steps, interp, hold, **options)  # all move on
        for i, rows in enumerate(zip(interp, hold, strict=True)):
            if not all((np.abs(part) < 1e30).all() for part in rows if part is not None):
                raise EngineError(f"a logit of stream {i} is not finite at step 7; ...")
        return results


@pytest.mark.parametrize(
    "config", [DUAL, LABELS, BETA, SUBSCALE], ids=["dual", "labels", "beta", "subscale"]
)
def test_a_stream_whose_logits_are_not_finite_ends_alone(config):
    n = 30
    mels = [mel(config, n, i) for i in range(7)]
    with LivePool(voice(config, 2), chunk_frames=2) as pool:
        if config is not LABELS:  # which fails of itself
            pool._rounds._engine = Strict(pool._rounds._engine)
        streams = [pool.open(seed=i) for i in range(7)]
        bad = (2, 5)
        for i, stream in enumerate(streams):
            frames = mels[i].copy()
            if i in bad:
                frames[:, 12:] = poison(frames[:, 12:])
            feed(stream, frames, [5])
        for i, stream in enumerate(streams):
            if i in bad:
                with pytest.raises(EngineError, match=f"live stream {i} is not finite"):
                    read_all(stream)
                with pytest.raises(EngineError, match="not finite"):
                    stream.push(mels[i])
                assert stream.ended
            else:
                wave = read_all(stream)
                assert same_bits(wave, voice(config).generate(mels[i], seed=i)), i
        assert pool.stats()["failed"] == 2
        assert pool.failure is None


def test_what_was_made_before_a_failure_can_be_read():
    frames = mel(LABELS, 60)
    whole = voice(LABELS).generate(frames, seed=3)
    frames[:, 40:] = poison(frames[:, 40:])
    with LivePool(voice(LABELS), chunk_frames=2) as pool:
        stream, parts = pool.open(seed=3), list[np.ndarray]()
        feed(stream, frames, [60])
        with pytest.raises(EngineError):
            parts.extend(iter(stream))
    sound = joined(parts)
    assert len(sound) >= 30 * LABELS.hop_length
    assert same_bits(sound, whole[: len(sound)])


def test_bad_frames_end_their_stream_alone():
    frames = mel(LABELS, 30)
    with LivePool(voice(LABELS)) as pool:
        good, bad = pool.open(seed=1), pool.open(seed=2)
        good.push(frames[:, :9])
        bad.push(frames[:, :9])
        broken = frames[:, 9:].copy()
        broken[0, 3] = np.nan
        with pytest.raises(InputError, match=r"Piece 1 of live stream 1: .*NaN"):
            bad.push(broken)
        with pytest.raises(InputError, match="NaN"):
            bad.push(frames)
        with pytest.raises(InputError, match="NaN"):
            read_all(bad)
        assert pool.stats()["streams"] == 1
        good.push(frames[:, 9:])
        good.finish()
        assert same_bits(read_all(good), voice(LABELS).generate(frames, seed=1))


def test_a_lost_device_ends_all_streams_and_is_remembered(monkeypatch):
    def lost(*args, **options):
        raise DeviceError("The GPU is gone.")

    monkeypatch.setattr(live_rounds, "draw", lost)
    with LivePool(voice(LABELS)) as pool:
        streams = [pool.open() for _ in range(3)]
        for stream in streams:
            stream.push(mel(LABELS, 9))
        for stream in streams:
            with pytest.raises(DeviceError, match="gone"):
                stream.read(WAIT)
        with pytest.raises(DeviceError, match="gone"):
            pool.open()
        assert isinstance(pool.failure, DeviceError)


def test_a_fault_of_the_thread_hangs_nobody(monkeypatch):
    monkeypatch.setattr(live_rounds.Rounds, "_steps", lambda self, n: 1 / 0)
    with LivePool(voice(LABELS)) as pool:
        stream = pool.open()
        stream.push(mel(LABELS, 9))
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            stream.read(WAIT)
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            pool.open()


# --- the ends -------------------------------------------------------------------------------------


def test_a_cancelled_stream_is_gone_at_once():
    with LivePool(voice(LABELS)) as pool:
        stream, beside = pool.open(), pool.open(seed=2)
        feed(beside, mel(LABELS, 80), [80])
        stream.push(mel(LABELS, 500))
        until(lambda: stream.ready)
        stream.cancel()
        assert (stream.ready, stream.read(0), stream.wanted, stream.ended) == (0, None, 0, True)
        assert pool.stats()["streams"] <= 1
        stream.cancel()
        with pytest.raises(InputError, match="cancelled"):
            stream.push(mel(LABELS, 1))
        assert same_bits(read_all(beside), voice(LABELS).generate(mel(LABELS, 80), seed=2))
        made = stream.samples
        time.sleep(0.05)
        assert stream.samples == made


def test_leaving_the_block_of_a_stream_cancels_it():
    with LivePool(voice(LABELS)) as pool:
        with pool.open() as stream:
            stream.push(mel(LABELS, 5))
        assert stream.ended
        assert pool.stats()["streams"] == 0


def test_frames_after_the_end_are_refused():
    with LivePool(voice(LABELS)) as pool:
        stream = pool.open()
        stream.finish()
        stream.finish()
        with pytest.raises(InputError, match="was finished"):
            stream.push(mel(LABELS, 1))


def test_a_reader_waits_as_long_as_it_says():
    with LivePool(voice(LABELS)) as pool:
        stream = pool.open()
        for timeout in (0, 0.05):
            began = time.monotonic()
            with pytest.raises(TimeoutError, match="no audio"):
                stream.read(timeout)
            assert timeout <= time.monotonic() - began < timeout + 5


def test_closing_wakes_every_reader_with_an_error():
    pool = LivePool(voice(LABELS))
    stream, errors = pool.open(), []
    stream.push(mel(LABELS, 1))

    def read():
        try:
            read_all(stream)
        except EngineError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.05)
    pool.close()
    reader.join(WAIT)
    assert "closed before the end" in str(errors[0])
    pool.close()
    for use in (pool.open, lambda: stream.push(mel(LABELS, 1))):
        with pytest.raises(EngineError, match="closed"):
            use()


def test_closing_leaves_a_long_round_within_a_moment():
    """The engine is told to stop in the middle of a round that would take half a minute."""
    config = dual_config(1024, 512, n_mels=5, hop_length=10_000)
    pool = LivePool(voice(config), chunk_frames=20)
    stream = pool.open()
    stream.push(mel(config, 30))
    time.sleep(0.3)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 1.0


def test_a_pool_that_nobody_holds_ends_its_thread():
    pool = LivePool(voice(LABELS))
    thread = pool._rounds._thread
    del pool
    gc.collect()
    thread.join(WAIT)
    assert not thread.is_alive()


def test_the_owner_is_woken_by_audio_and_by_the_end():
    woken = threading.Semaphore(0)
    with LivePool(voice(LABELS)) as pool:
        stream = pool.open(wake=woken.release)
        feed(stream, mel(LABELS, 40), [40])
        parts = []
        while woken.acquire(timeout=WAIT):
            while stream.ready:
                parts.append(stream.read(0))
            if stream.ended and not stream.ready:
                break
        assert same_bits(joined(parts), voice(LABELS).generate(mel(LABELS, 40)))
        broken = pool.open(wake=lambda: 1 / 0)  # its own fault, nobody else's
        feed(broken, mel(LABELS, 10), [10])
        read_all(broken)
        feed(last := pool.open(), mel(LABELS, 10), [10])
        read_all(last)


def test_a_child_of_fork_is_told_to_make_its_own_pool():
    pool = LivePool(voice(LABELS))
    stream = pool.open()
    child = os.fork()
    if child == 0:  # nothing may escape to pytest
        code = 0
        for use in (pool.open, pool.stats, stream.read, stream.finish, stream.cancel):
            try:
                use()
                code = 1
            except EngineError as error:
                code = code or (0 if "fork()" in str(error) else 2)
        pool.close()  # not its thread: nothing happens
        with LivePool(voice(LABELS)) as own:
            sound = own.open(seed=1)
            feed(sound, mel(LABELS, 9), [9])
            whole = voice(LABELS).generate(mel(LABELS, 9), seed=1)
            code = code or (0 if same_bits(read_all(sound), whole) else 3)
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pool.close()


EXITING = """
import threading, numpy as np
from wavernn_fast import LivePool, Vocoder
from wavernn_fast.synthetic import random_model
voc = Vocoder(*random_model("residual:256"), cpu_threads=2)
pool = LivePool(voc)
streams = [pool.open(seed=i) for i in range(8)]
for stream in streams:
    stream.push(np.zeros((voc.config.n_mels, 4000), np.float32) + 0.5)
streams[0].read()
{ending}
"""


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", "del pool, streams", "pool.close()"])
def test_the_interpreter_ends_while_streams_sound(ending):
    program = EXITING.replace("{ending}", ending)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 30


def test_every_pool_is_known_to_the_handler_of_the_exit():
    with LivePool(voice(LABELS)) as pool:
        assert pool._rounds in live._running
