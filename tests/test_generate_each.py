"""`Vocoder.generate_each`: mels asked for as places become free, waves handed out as they end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import cases
import numpy as np
import pytest
from arrivals import SPEAKER
from hypothesis import given, settings
from hypothesis import strategies as st
from test_subscale_model import trained_weights
from voices import CONDITIONED, DUAL, LABELS, mel, same_bits, voice

from wavernn_fast import batch
from wavernn_fast.batch import AHEAD, BatchReport
from wavernn_fast.errors import EngineError, InputError
from wavernn_fast.lanes import Tally
from wavernn_fast.vocoder import Vocoder

LENGTHS = [3, 0, 9, 1, 40, 2, 2, 17, 5, 8, 0, 3, 12, 1, 6]


class Asked:
    """Mels that count how many of them were asked for."""

    def __init__(self, mels: list[np.ndarray]) -> None:
        self._mels, self.count = iter(mels), 0

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        one = next(self._mels)
        self.count += 1
        return one


def mels_of(voc: Vocoder, lengths: list[int]) -> list[np.ndarray]:
    return [mel(voc.config, n, seed) for seed, n in enumerate(lengths)]


def check_against_generate(voc: Vocoder, lengths: list[int], **how: Any) -> None:
    mels = mels_of(voc, lengths)
    found = dict(voc.generate_each(iter(mels), **how))
    assert sorted(found) == list(range(len(mels)))
    fold = how.get("fold")
    for i, one in enumerate(mels):
        assert same_bits(found[i], voc.generate(one, seed=i, fold=fold))


@pytest.mark.parametrize("core", CONDITIONED)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("streams", [1, 3, None])
def test_every_wave_is_the_one_of_generate(core: str, threads: int, streams: int | None) -> None:
    check_against_generate(voice(CONDITIONED[core], threads), LENGTHS, streams=streams)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 30), max_size=25), st.integers(1, 5))
def test_it_is_so_for_any_lengths(lengths: list[int], streams: int) -> None:
    check_against_generate(voice(LABELS, 2), lengths, streams=streams)


def test_folds_of_an_utterance_are_one_item() -> None:
    check_against_generate(voice(LABELS, 2), [40, 3, 0, 90], streams=2, fold=(24, 6))


def test_mels_are_asked_for_as_places_become_free() -> None:
    voc = voice(DUAL)
    asked = Asked(mels_of(voc, [6] * 100))
    given = voc.generate_each(asked, streams=2)
    assert asked.count == 0  # nothing is done before the first is wanted
    seen = 0
    for _ in given:
        seen += 1
        # Those looked ahead at, and two in the places; a slice may end several pieces a place.
        assert asked.count <= seen + 2 * AHEAD + 2 * 4 + 2
    assert seen == asked.count == 100


def test_the_first_wave_comes_long_before_the_last_mel_is_drawn() -> None:
    voc = voice(DUAL)
    drawn: list[int] = []
    given = voc.generate_each(mels_of(voc, [6] * 600), streams=2, progress=drawn.append)
    next(given)
    assert drawn[-1] < 600 * 3 * voc.config.hop_length / 4
    given.close()


def test_seeds_and_an_endless_iterator_go_together() -> None:
    voc = voice(DUAL)
    mels = (mel(voc.config, 6, 1) for _ in itertools.count())
    taken = dict(itertools.islice(voc.generate_each(mels, itertools.count(7), streams=2), 9))
    for i, wave in taken.items():
        assert same_bits(wave, voc.generate(mel(voc.config, 6, 1), seed=7 + i))


@pytest.mark.parametrize("bad", [np.zeros((3, 4), np.float32), np.full((5, 4), np.nan, np.float32)])
def test_an_unusable_mel_stops_it_when_its_turn_comes_and_is_named(bad: np.ndarray) -> None:
    voc = voice(DUAL)
    mels = [*mels_of(voc, [6] * 30), bad]
    with pytest.raises(InputError, match="Item 30 of the batch"):
        list(voc.generate_each(mels, streams=1))
    seen = []
    with pytest.raises(InputError):
        seen.extend(voc.generate_each(mels, streams=1))
    assert len(seen) >= 10  # what came before it


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_an_iterator_may_fill_one_array_again_and_again(kind: str) -> None:
    voc, n = voice(SPEAKER), 5
    mels = [mel(SPEAKER, 20, seed) for seed in range(n)]
    speakers = np.random.default_rng(1).normal(size=(n, SPEAKER.speaker_size))
    expected = [
        voc.generate(frames, seed=i, speaker=speaker)
        for i, (frames, speaker) in enumerate(zip(mels, speakers, strict=True))
    ]

    def filled(values):
        array = np.empty_like(values[0])
        theirs = pytest.importorskip("torch").from_numpy(array) if kind == "torch" else array
        for one in values:
            array[...] = one
            yield theirs

    options = {"speakers": filled(speakers), "streams": 2}
    for i, wave in voc.generate_each(filled(mels), **options):
        assert same_bits(np.asarray(wave), expected[i])
    for i, wave in enumerate(voc.generate_batch(filled(mels), speakers=speakers)):
        assert same_bits(np.asarray(wave), expected[i])
    with pytest.raises(InputError, match="There are 6 seeds for 5 mels"):
        voc.generate_batch(filled(mels), range(6), speakers=speakers)


def test_too_few_seeds_are_an_error_in_a_sentence() -> None:
    voc = voice(DUAL)
    with pytest.raises(InputError, match="no seed or no speaker for item 2"):
        list(voc.generate_each(mels_of(voc, [1, 1, 1]), [5, 6]))


def test_unusable_arguments_are_refused_at_once() -> None:
    voc = voice(DUAL)
    with pytest.raises(InputError, match="streams"):
        voc.generate_each([], streams=0)
    with pytest.raises(InputError, match="temperature"):
        voc.generate_each([], temperature=0.0)


@pytest.mark.slow
def test_the_report_leaves_out_the_time_of_the_caller() -> None:
    voc = voice(DUAL)
    reports: list[BatchReport] = []
    for i, _ in voc.generate_each(mels_of(voc, [5] * 4), streams=1, report=reports.append):
        if i == 0:
            threading.Event().wait(2.0)
    [report] = reports
    assert report.samples == 4 * 2 * voc.config.hop_length
    assert report.engine_seconds <= report.seconds < 2.0
    assert report.slots == 1
    assert report.occupancy == 1.0


def test_no_items_are_no_waves() -> None:
    reports: list[BatchReport] = []
    assert list(voice(DUAL).generate_each([], report=reports.append)) == []
    assert reports[0].samples == 0


# --- several devices ------------------------------------------------------------------------------


def test_several_devices_share_the_mels_and_each_wave_comes_once() -> None:
    voc = Vocoder(DUAL, cases.random_tensors(DUAL), device="emu:0,1")
    check_against_generate(voc, [3, 0, 5, 4, 8, 2, 6], streams=2)


def test_an_error_of_the_callers_iterator_is_no_fault_of_a_device() -> None:
    voc = Vocoder(DUAL, cases.random_tensors(DUAL), device="emu:0,1")

    def broken() -> Iterator[np.ndarray]:
        yield from mels_of(voc, [6] * 20)
        raise OSError("the share went away")

    with pytest.raises(OSError, match="the share went away"):
        list(voc.generate_each(broken(), streams=1))
    assert not [t for t in threading.enumerate() if t.name.startswith("wavernn_fast")]


def test_giving_up_half_way_stops_the_devices() -> None:
    voc = Vocoder(DUAL, cases.random_tensors(DUAL), device="emu:0,1")
    given = voc.generate_each(mels_of(voc, [6] * 50), streams=1)
    next(given)
    given.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("wavernn_fast")]


def test_a_subscale_model_hands_out_its_waves_too() -> None:
    config = cases.subscale_config(4, 5, 2, n_mels=5, hop_length=16)
    check_against_generate(Vocoder(config, trained_weights(config)), [3, 1, 0, 6], streams=2)


class Silent:
    """Some mels, then none until told to go on, and one more; counts how often it is asked."""

    def __init__(self, mels: list[np.ndarray]) -> None:
        self._mels, self.asked = iter(mels), 0
        self.waits, self.go_on = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        self.asked += 1
        one = next(self._mels, None)
        if one is None and self.waits.is_set():
            raise StopIteration
        if one is None:
            self.waits.set()
            assert self.go_on.wait(120)
            return np.zeros((DUAL.n_mels, 6), np.float32)
        return one


def drawing_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("wavernn_fast")]


def test_closing_does_not_wait_for_an_iterator_that_gives_nothing() -> None:
    """Such as one that reads a socket. It was waited for, and with it the caller, for ever."""
    voc = Vocoder(DUAL, cases.random_tensors(DUAL), device="emu:0,1")
    source = Silent(mels_of(voc, [6] * 60))
    given = voc.generate_each(source, streams=1)
    next(given)
    assert source.waits.wait(60)
    closing = threading.Thread(target=given.close)
    closing.start()
    closing.join(30)
    closed, asked = not closing.is_alive(), source.asked
    source.go_on.set()
    closing.join()
    assert closed
    for thread in drawing_threads():
        thread.join(30)
    assert not drawing_threads()
    assert source.asked == asked  # what came then was the last


def test_a_device_that_fails_is_told_of_though_the_iterator_gives_nothing(monkeypatch) -> None:
    voc = Vocoder(DUAL, cases.random_tensors(DUAL), device="emu:0,1")
    source = Silent(mels_of(voc, [6] * 60))
    raised: list[BaseException] = []

    def fails(engine: Any, work: Any, *, slots: int, interrupt: Any, **how: Any) -> Any:
        next(work)
        if threading.current_thread().name.endswith("emu:0"):
            assert source.waits.wait(60)
            raise EngineError("lost")
        for _ in work:
            yield Tally()

    def all_of_them() -> None:
        try:
            list(voc.generate_each(source, streams=1))
        except EngineError as error:
            raised.append(error)

    monkeypatch.setattr(batch, "_draw_of", lambda _: fails)
    caller = threading.Thread(target=all_of_them)
    caller.start()
    caller.join(30)
    told = [str(error) for error in raised]
    source.go_on.set()
    caller.join()
    assert len(told) == 1
    assert "lost" in told[0]
