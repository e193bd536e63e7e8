"""Groups of streams that take turns on one device: the samples of one group, and the host's work
for one while the device draws for the other."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import cases
import numpy as np
import pytest
from voices import mel, same_bits

from wavernn_fast import arrays
from wavernn_fast.batch import Batch, BatchReport, make_requests, run_batch
from wavernn_fast.devices import Device
from wavernn_fast.errors import EngineError
from wavernn_fast.utterance import Sampling
from wavernn_fast.vocoder import Vocoder

CONFIG = cases.dual_config(32, 16, hop_length=3, n_mels=5, upsample_left=1, upsample_right=1)
VOCODER = Vocoder(CONFIG, cases.random_tensors(CONFIG, seed=2), device="cpu", cpu_threads=1)
MELS = [mel(CONFIG, n, seed) for seed, n in enumerate([9, 1, 30, 4, 4, 0, 17, 2, 6, 11] * 3)]
SAMPLING = Sampling(1.0, False, None)


class Watched:
    """An engine that one thread uses at a time, and what happens meanwhile."""

    def __init__(self, engine: Any) -> None:
        self._engine, self._alone = engine, threading.Lock()
        self.threads: set[int] = set()
        self.error: Exception | None = None
        self.meet: threading.Barrier | None = None  # with the other group, before its first run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, *args: Any, **how: Any) -> Any:
        first = threading.get_ident() not in self.threads
        self.threads.add(threading.get_ident())
        if self.error is not None:
            raise self.error
        if first and self.meet is not None:
            self.meet.wait()
        with self._alone:
            return self._engine.run(*args, **how)


def batch_of(engine: Any, **how: Any) -> Batch:
    voice = VOCODER.voice()
    object.__setattr__(voice, "engine", engine)
    return Batch(voice, SAMPLING, **how)


def requests() -> list[Any]:
    return make_requests(CONFIG, MELS, None, arrays.HOST_MEMORY)


@pytest.mark.parametrize("streams", [1, 3, 8])
def test_two_groups_draw_what_each_stream_draws_alone(streams):
    engine, reports = Watched(VOCODER.engine), list[BatchReport]()
    batch = batch_of(engine, streams=streams, turns=2)
    waves = run_batch(batch, requests(), report=reports.append)
    for seed, (one, wave) in enumerate(zip(MELS, waves, strict=True)):
        assert same_bits(wave, VOCODER.generate(one, seed=seed)), seed
    [report] = reports
    assert report.slots == streams
    assert 0.0 < report.occupancy <= 1.0
    assert report.samples == sum(len(wave) for wave in waves)


def test_a_group_has_its_rows_made_while_the_other_draws():
    """The first to draw does not end before the other has come to its turn."""
    engine = Watched(VOCODER.engine)
    engine.meet = threading.Barrier(2, timeout=60)
    batch = batch_of(engine, streams=2, turns=2)
    long = [mel(CONFIG, 200, 3)] * 4  # more than a slice: a group takes no more than two at once
    equal = make_requests(CONFIG, long, None, arrays.HOST_MEMORY)
    assert len(run_batch(batch, equal)) == 4
    assert len(engine.threads) == 2


def test_two_groups_share_the_places_of_a_kernel_for_many_streams():
    """One engine of the emulator and two threads; utterances are drawn for by both."""
    config = cases.embedded_config(32, 16, 6, hop_length=4)
    tensors = cases.random_tensors(config, seed=1)
    vocoder = Vocoder(config, tensors, device="emu", gpu_streams=4)
    mels = [cases.mel_for(config, 4 * (1 + i % 4), seed=i) for i in range(24)]
    batch = Batch(vocoder.voice(), SAMPLING, streams=4, turns=2)
    waves = run_batch(batch, make_requests(config, mels, None, arrays.HOST_MEMORY))
    for seed, (one, wave) in enumerate(zip(mels, waves, strict=True)):
        assert same_bits(wave, vocoder.generate(one, seed=seed)), seed


def test_several_devices_have_two_groups_each():
    engines = [Watched(VOCODER.engine) for _ in range(2)]
    devices = [Device(f"cpu:{i}", engine) for i, engine in enumerate(engines)]  # type: ignore[arg-type]
    batch = batch_of(engines[0], streams=2, devices=devices, turns=2)
    assert batch.slots(None) == [2, 2, 2, 2]
    for seed, wave in enumerate(run_batch(batch, requests())):
        assert same_bits(wave, VOCODER.generate(MELS[seed], seed=seed)), seed


def test_what_stops_a_group_is_raised_as_it_is_and_stops_the_other():
    engine = Watched(VOCODER.engine)
    engine.error = EngineError("The kernel stalled.")
    with pytest.raises(EngineError) as stopped:
        run_batch(batch_of(engine, streams=2, turns=2), requests())
    assert str(stopped.value) == "The kernel stalled."
    assert not [t for t in threading.enumerate() if t.name == "wavernn_fast cpu"]


@pytest.mark.parametrize(
    ("lanes", "known", "slots"),
    [
        # A kernel for 32 streams: two groups once each of them fills it.
        (32, 1, [1]),
        (32, 10, [10]),
        (32, 63, [32]),
        (32, 64, [32, 32]),
        (32, 65, [32, 32]),
        (32, None, [32, 32]),
        # A kernel for one utterance has 16 in a slice, one after the other.
        (1, 1, [1]),
        (1, 2, [1, 1]),
        (1, 9, [5, 5]),
        (1, None, [16, 16]),
    ],
)
def test_a_gpu_has_two_groups_where_each_fills_it(lanes, known, slots):
    engine = SimpleNamespace(device="cuda", lanes=lanes)
    assert batch_of(engine).slots(known) == slots


def test_a_processor_has_one_group():
    assert len(batch_of(VOCODER.engine).slots(None)) == 1
    assert np.array_equal(batch_of(VOCODER.engine, streams=3).slots(100), [3])
