"""Many live streams on one engine: each equals `generate`, whatever runs beside; nobody waits."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

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
    voice,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from voices import BETA, DUAL, LABELS, UNCONDITIONED, joined, mel, same_bits

from wavernn_fast import live_rounds
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
            with suppress(EngineError):  # it may have ended before its last frames come
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
        with suppress(EngineError):  # it may have ended before it is finished
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
    all_pushed = threading.Event()

    def lost(*args, **options):
        assert all_pushed.wait(WAIT)  # else the loss may come before the last stream's frames
        raise DeviceError("The GPU is gone.")

    monkeypatch.setattr(live_rounds, "draw", lost)
    with LivePool(voice(LABELS)) as pool:
        streams = [pool.open() for _ in range(3)]
        for stream in streams:
            stream.push(mel(LABELS, 9))
        all_pushed.set()
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
