"""Slices: places that stay full while lanes wait, and memory for the rows of one slice only."""

from __future__ import annotations

import heapq
import itertools
import tracemalloc
from dataclasses import dataclass

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from voices import CONDITIONED, DTYPES, LABELS, UNCONDITIONED, mel, same_bits, voice

from wavernn_fast import lanes
from wavernn_fast.batch import LEAST_STREAMS, BatchReport, total
from wavernn_fast.lanes import SLICE_STEPS, Lane, Slice, draw_lanes, plan_slice
from wavernn_fast.vocoder import Vocoder

some_lengths = st.one_of(
    st.lists(st.integers(0, 30), max_size=60),
    st.lists(st.sampled_from([0, 1]), max_size=60),
    st.builds(lambda n, length: [length] * n, st.integers(1, 60), st.integers(1, 30)),
    st.builds(lambda short: [5000, *short], st.lists(st.integers(0, 9), max_size=60)),
)


def lane(length: int, **fields) -> Lane:
    """A lane that no engine runs, or one with a stream and a list."""
    given = {"stream": None, "source": None, "position": 0, "take": lambda drawn: None}
    return Lane(remaining=length, **(given | fields))


def ends_of(one: Slice, slots: int) -> list[int]:
    """Where each place ends, as an engine fills them: the next piece to the first place free."""
    ends = [0] * slots
    for piece in one.pieces:
        heapq.heapreplace(ends, ends[0] + piece.n_steps)
    return sorted(ends)


@settings(max_examples=300)
@given(lengths=some_lengths, slots=st.integers(1, 20), n_steps=st.integers(1, 50))
def test_no_place_is_idle_while_lanes_wait(lengths, slots, n_steps):
    queue = iter([lane(n) for n in lengths])
    active: list[Lane] = []
    drawn = 0
    while True:
        one = plan_slice(itertools.chain(active, queue), slots, n_steps)
        if not one.pieces:
            break
        assert 0 < one.n_steps <= n_steps
        assert all(0 <= piece.n_steps <= piece.lane.remaining for piece in one.pieces)
        assert len(one.pieces) <= 4 * slots  # their context rows are bounded too
        ends = ends_of(one, slots)
        assert ends[-1] == one.n_steps
        for piece in one.pieces:
            piece.lane.remaining -= piece.n_steps
            drawn += piece.n_steps
        active = [piece.lane for piece in one.pieces if piece.lane.remaining]
        assert len(active) <= slots
        queue = iter(rest := list(queue))
        if any(other.remaining for other in rest):
            assert ends == [one.n_steps] * slots
    assert drawn == sum(lengths)


@dataclass
class Drawn:
    """What a lane drew."""

    parts: list[np.ndarray]

    def joined(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int32), *self.parts])


def opened(voc: Vocoder, lengths: list[int]) -> tuple[list[Lane], list[Drawn]]:
    """Lanes of an unconditioned model, seeds counting from 0."""
    drawn = [Drawn([]) for _ in lengths]
    made = [
        lane(n, stream=voc.engine.open(seed), take=one.parts.append)
        for seed, (n, one) in enumerate(zip(lengths, drawn, strict=True))
    ]
    return made, drawn


def alone(voc: Vocoder, seed: int, length: int) -> np.ndarray:
    return voc.engine.run([voc.engine.open(seed)], [length], [None], [None])[0][0]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_lanes_are_drawn_to_their_ends_in_any_slices(threads, monkeypatch):
    monkeypatch.setattr(lanes, "SLICE_STEPS", 40)
    monkeypatch.setattr(lanes, "_LEAST_STEPS", 7)
    voc = voice(UNCONDITIONED, threads)
    lengths = [900, *np.random.default_rng(threads).integers(0, 60, 120).tolist()]
    made, drawn = opened(voc, lengths)
    slices = list(draw_lanes(voc.engine, iter(made), hop_length=1, slots=30))
    assert sum(part.samples for part in slices) == sum(lengths)
    assert len(slices) > 900 // 40
    for seed, (one, length) in enumerate(zip(drawn, lengths, strict=True)):
        assert np.array_equal(one.joined(), alone(voc, seed, length))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_streams_go_on_where_they_were_after_anything_was_raised_in_a_slice(threads, error):
    voc = voice(UNCONDITIONED, threads)
    made, drawn = opened(voc, [40_000] * 40)
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise error

    with pytest.raises(error):
        list(draw_lanes(voc.engine, iter(made), hop_length=1, slots=30, interrupt=stop))
    assert any(one.stream.step for one in made)
    for seed, (one, taken) in enumerate(zip(made, drawn, strict=True)):
        begun = one.stream.step
        assert one.position == len(taken.joined()) <= begun < 40_000
        [(more, _)] = voc.engine.run([one.stream], [9], [None], [None])
        assert np.array_equal(more, alone(voc, seed, begun + 9)[begun:])


def test_a_voice_works_on_after_its_progress_raised():
    voc, frames = voice(LABELS, 2), [mel(LABELS, n) for n in (300, 4, 50)]

    def stop(samples: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        voc.generate_batch(frames, progress=stop)
    again = voc.generate_batch(frames)
    assert same_bits(again[1], voc.generate(frames[1], seed=1))


# --- batches --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    config=st.sampled_from(list(CONDITIONED.values())),
    short=st.lists(st.integers(0, 6), max_size=40),
    long=st.integers(100, 700),
    at=st.integers(0, 40),
    streams=st.one_of(st.none(), st.integers(1, 40)),
    threads=st.sampled_from([1, 2, 3]),
    dtype=st.sampled_from(DTYPES),
    steps=st.integers(1, 300),
)
def test_one_huge_item_among_short_ones_changes_no_sample(
    config, short, long, at, streams, threads, dtype, steps
):
    frames = [*short[:at], long, *short[at:]]
    mels = [mel(config, n, i) for i, n in enumerate(frames)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "SLICE_STEPS", steps)  # slices end anywhere in a frame
        batch = voice(config, threads, dtype).generate_batch(mels, streams=streams)
    for seed, (one, wave) in enumerate(zip(mels, batch, strict=True)):
        assert same_bits(wave, voice(config, 1, dtype).generate(one, seed=seed))


def report_of(voc: Vocoder, frames: list[int], **how) -> tuple[list[np.ndarray], BatchReport]:
    reports: list[BatchReport] = []
    mels = [mel(voc.config, n, i) for i, n in enumerate(frames)]
    waves = voc.generate_batch(mels, report=reports.append, **how)
    [report] = reports
    return waves, report


def test_the_report_counts_samples_and_places():
    voc = voice(LABELS)
    waves, report = report_of(voc, [50] * 8, streams=4)
    assert report.samples == sum(map(len, waves))
    assert (report.slots, report.occupancy) == (4, 1.0)
    assert 0.0 < report.engine_seconds < report.seconds
    assert report.rtf == pytest.approx(report.seconds * voc.sample_rate / report.samples)
    assert report.samples_per_s == pytest.approx(report.samples / report.seconds)
    # One long utterance beside nothing: a second place stays empty for three quarters of the time.
    hop = LABELS.hop_length
    _, report = report_of(voc, [41, 11], streams=9)
    assert (report.slots, report.samples) == (2, 50 * hop)
    assert report.occupancy == pytest.approx(50 / 80)


def test_the_report_of_an_empty_batch_divides_by_nothing():
    for frames in ([], [0, 0]):
        _, report = report_of(voice(LABELS), frames)
        assert (report.samples, report.occupancy, report.rtf) == (0, 0.0, 0.0)


def test_reports_are_summed_as_one_long_batch():
    one = BatchReport(300, 2.0, 1.5, 4, 0.75, 200.0)  # of 400 steps of places, at 30,000 Hz
    two = BatchReport(100, 4.0, 3.0, 2, 1.0, 1200.0)
    empty = BatchReport(0, 0.5, 0.0, 1, 0.0, 0.0)
    found = total([one, two, empty])
    assert (found.samples, found.seconds, found.engine_seconds, found.slots) == (400, 6.5, 4.5, 4)
    assert found.occupancy == pytest.approx(400 / 500)
    assert found.rtf == pytest.approx(6.0 * 30_000 / 400)
    assert total([empty]).occupancy == 0.0


def test_a_batch_takes_as_many_places_as_the_engine_runs_at_its_best():
    for threads in (1, 2):
        voc = voice(LABELS, threads)
        assert voc.streams == voc.engine.lanes == 32 * threads > LEAST_STREAMS
        assert report_of(voc, [3] * 100)[1].slots == voc.engine.lanes
        assert report_of(voc, [3] * 20)[1].slots == 20


@pytest.mark.slow
def test_places_are_full_to_the_end_when_lengths_are_mixed():
    lengths = np.clip(200 * np.exp(0.8 * np.random.default_rng(0).standard_normal(300)), 10, 1000)
    _, report = report_of(voice(LABELS, 2), [int(n) for n in lengths], streams=32)
    assert report.occupancy > 0.95


@pytest.mark.slow
def test_memory_is_that_of_a_slice_whatever_the_lengths():
    """Of ten minutes beside a tenth of a second: 6,000 to 1, here in frames of one sample."""
    config = cases.residual_config(64, 16, bits=8, hop_length=1, upsample_right=1)
    voc, slots = voice(config), 3
    row_bytes = 4 * 4 * config.hidden_size

    def peak(frames: list[int]) -> int:
        mels = [mel(config, n, i) for i, n in enumerate(frames)]
        tracemalloc.start()
        try:
            waves = voc.generate_batch(mels, streams=slots)
            return tracemalloc.get_traced_memory()[1] - 4 * sum(wave.nbytes for wave in waves)
        finally:
            tracemalloc.stop()

    peak([10] * 3)  # imports and caches
    # Rows of a slice in every place: old, new, and the blocks that they are made of.
    limit = 4 * slots * SLICE_STEPS * row_bytes
    assert limit < 40_000 * row_bytes
    assert peak([60_000, *[10] * 2000]) < limit
