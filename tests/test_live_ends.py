"""How live streams end: by cancelling, closing, forgetting, forking, leaving the interpreter."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from arrivals import WAIT, feed, read_all, until, voice
from cases import dual_config
from quick import first_is_quick
from voices import LABELS, joined, mel, same_bits

from wavernn_fast import live_rounds
from wavernn_fast.errors import EngineError, InputError
from wavernn_fast.live import LivePool


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


def test_frames_that_come_too_late_change_nothing_usable_or_not():
    frames = mel(LABELS, 200)
    with LivePool(voice(LABELS), buffer_seconds=0.001) as pool:  # little is drawn before it is read
        stream = pool.open()
        stream.push(frames)
        stream.finish()
        for late in (frames, np.full_like(frames, np.nan)):
            with pytest.raises(InputError, match="was finished; open another one"):
                stream.push(late)
        assert same_bits(read_all(stream), voice(LABELS).generate(frames))


@pytest.mark.parametrize("timeout", [float("inf"), 1e30])
def test_a_reader_may_wait_for_ever(timeout):
    with LivePool(voice(LABELS)) as pool:
        stream = pool.open()
        threading.Timer(0.1, stream.finish).start()  # an end without frames
        assert stream.read(timeout) is None


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
    assert time.monotonic() - began < 5.0  # others may hold the processor for a while


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


FORKING = """
import os, signal, numpy as np
from wavernn_fast import LivePool, Vocoder
from wavernn_fast.synthetic import random_model
voc = Vocoder(*random_model("residual:128"), cpu_threads=2)
mel = np.full((voc.config.n_mels, 2000), 0.5, np.float32)
pool = LivePool(voc)
stream = pool.open(seed=1)
stream.push(mel)
stream.read()
for _ in range(8):  # while the thread works
    child = os.fork()
    if child == 0:
        signal.alarm(200)
        voc.generate(mel[:, :25])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    while stream.ready:
        stream.read()
assert not stream.ended
pool.close()
"""


@pytest.mark.slow
def test_a_child_of_fork_may_use_the_vocoder_of_a_busy_pool():
    """The thread is outside the engine when a child is made, which has no thread to come out."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING], capture_output=True, text=True, timeout=900
    )
    assert (done.returncode, done.stderr) == (0, "")


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


@pytest.mark.parametrize(
    "ending", first_is_quick(["", "raise SystemExit(0)", "del pool, streams", "pool.close()"])
)
def test_the_interpreter_ends_while_streams_sound(ending):
    program = EXITING.replace("{ending}", ending)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 150  # all of the streams would take several times as long


def test_every_pool_is_known_to_the_handler_of_the_exit():
    with LivePool(voice(LABELS)) as pool:
        assert pool._rounds in live_rounds._running
