"""Streaming: joined chunks equal `generate` bit for bit, and sound as early as they can."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from arrivals import LINEAR
from hypothesis import given, settings
from hypothesis import strategies as st
from voices import (
    CONDITIONED,
    DTYPES,
    DUAL,
    LABELS,
    UNCONDITIONED,
    WHOLE,
    joined,
    mel,
    same_bits,
    voice,
)

from wavernn_fast import arriving, stream
from wavernn_fast.errors import InputError
from wavernn_fast.lanes import SLICE_STEPS, advance
from wavernn_fast.utterance import in_chunks

every_core = pytest.mark.parametrize("config", CONDITIONED.values(), ids=CONDITIONED.keys())
cores = st.sampled_from(list(CONDITIONED.values()))


@settings(deadline=None, max_examples=40)
@given(
    config=cores,
    n_frames=st.integers(0, 30),
    chunk_frames=st.one_of(st.none(), st.integers(1, 12)),
    seed=st.integers(0, 2**64 - 1),
    threads=st.sampled_from([1, 2]),
    dtype=st.sampled_from(DTYPES),
    fade_out=st.booleans(),
)
def test_chunks_of_a_known_mel_join_to_the_whole(
    config, n_frames, chunk_frames, seed, threads, dtype, fade_out
):
    frames = mel(config, n_frames)
    chunks = voice(config, threads, dtype).stream(
        frames, seed=seed, chunk_frames=chunk_frames, fade_out=fade_out
    )
    whole = voice(config, 1, dtype).generate(frames, seed=seed, fade_out=fade_out)
    assert same_bits(joined(chunks), whole)


@settings(deadline=None, max_examples=40)
@given(
    config=cores,
    n_frames=st.integers(0, 30),
    cuts=st.lists(st.integers(0, 30), max_size=8),
    chunk_frames=st.integers(1, 12),
    seed=st.integers(0, 2**64 - 1),
    fade_out=st.booleans(),
)
def test_chunks_of_arriving_frames_join_to_the_whole(
    config, n_frames, cuts, chunk_frames, seed, fade_out
):
    frames = mel(config, n_frames)
    pieces = np.split(frames, sorted(min(c, n_frames) for c in cuts), axis=1)
    chunks = voice(config).stream(
        iter(pieces), seed=seed, chunk_frames=chunk_frames, fade_out=fade_out
    )
    whole = voice(config).generate(frames, seed=seed, fade_out=fade_out)
    assert same_bits(joined(chunks), whole)


@every_core
def test_single_frames_may_be_vectors(config):
    frames = mel(config, 12)
    chunks = voice(config).stream((frame for frame in frames.T), seed=3)
    assert same_bits(joined(chunks), voice(config).generate(frames, seed=3))


@every_core
def test_chunks_have_the_length_asked_for(config):
    frames = mel(config, 30)
    for source in (frames, iter(frames.T)):
        lengths = [len(c) for c in voice(config).stream(source, chunk_frames=4)]
        assert set(lengths[:-1]) == {4 * config.hop_length}
        assert 0 < lengths[-1] <= 4 * config.hop_length


@pytest.mark.parametrize(("config", "most"), [(LINEAR, 256), (LABELS, 2048)])
def test_a_long_chunk_is_drawn_in_slices_whose_rows_fit_into_memory(config, most, monkeypatch):
    frames, drawn = mel(config, 1000), []

    def noted(engine, pieces, *given):
        drawn.extend(piece.n_steps for piece in pieces)
        return advance(engine, pieces, *given)

    monkeypatch.setattr(stream, "advance", noted)
    chunks = [*voice(config).stream(frames, seed=3, chunk_frames=600)]
    assert [len(chunk) for chunk in chunks[:-1]] == [600 * config.hop_length]
    assert max(drawn) == most
    assert same_bits(joined(chunks), voice(config).generate(frames, seed=3))


def test_a_long_chunk_of_arriving_frames_is_drawn_in_slices_too(monkeypatch):
    """Neither the rows nor the frames of all of it are in memory at once."""
    frames, kept = mel(LABELS, 1500), []
    source = _Counting(frames)

    def noted(engine, pieces, *given):
        for lane, n_steps in pieces:
            kept.append((n_steps, source.taken - lane.position // LABELS.hop_length))
        return advance(engine, pieces, *given)

    monkeypatch.setattr(arriving.lanes, "advance", noted)
    chunks = [*voice(LABELS).stream(source, seed=3, chunk_frames=1400)]
    assert [len(chunk) for chunk in chunks[:-1]] == [1400 * LABELS.hop_length]
    assert max(n_steps for n_steps, _ in kept) == SLICE_STEPS
    ahead = SLICE_STEPS // LABELS.hop_length + LABELS.lookahead_frames + 2
    assert max(n_frames for _, n_frames in kept) <= ahead
    assert same_bits(joined(chunks), voice(LABELS).generate(frames, seed=3))


def test_the_pieces_of_a_chunk_are_joined_once():
    """An hour in pieces of some milliseconds would be copied a hundred thousand times."""
    pieces = (np.full(10, i, np.float32) for i in range(100_000))
    begun = time.process_time()
    chunks = list(in_chunks(pieces, 999_999))
    assert [len(chunk) for chunk in chunks] == [999_999, 1]
    assert same_bits(joined(chunks), np.repeat(np.arange(100_000, dtype=np.float32), 10))
    assert time.process_time() - begun < 5  # copied with every piece, they take some minutes


def test_samples_of_an_unconditioned_model_stream_too():
    voc = voice(UNCONDITIONED)
    chunks = voc.stream(n_samples=1000, seed=9, chunk_frames=77)
    assert same_bits(joined(chunks), voc.generate(n_samples=1000, seed=9))


class _Counting:
    """An iterator of frames that counts how many were taken."""

    def __init__(self, frames):
        self.frames, self.taken = frames, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.taken == self.frames.shape[1]:
            raise StopIteration
        self.taken += 1
        return self.frames[:, self.taken - 1]


@every_core
def test_a_chunk_sounds_when_lookahead_and_ending_allow_and_not_later(config):
    source = _Counting(mel(config, 30))
    chunks = voice(config).stream(source, chunk_frames=2)
    before = config.lookback_frames if config.pad == "none" else 0
    cut = config.output.length == "frames_minus_one"
    held = cut + config.output.fade_out_frames
    for i in range(1, 6):
        assert len(next(chunks)) == 2 * config.hop_length
        needed = before + 2 * i + held + config.lookahead_frames
        if config is WHOLE:
            needed = 30
        assert needed <= source.taken <= needed + 2  # frames are drawn two at a time


def test_without_the_fade_out_nothing_is_held_back_for_it():
    source = _Counting(mel(LABELS, 30))
    next(voice(LABELS).stream(source, chunk_frames=1, fade_out=False))
    assert source.taken == 1 + 1 + LABELS.lookahead_frames


def test_an_endless_mel_streams_for_ever():
    frame = mel(DUAL, 1)
    chunks = voice(DUAL).stream(itertools.repeat(frame), chunk_frames=3)
    first = list(itertools.islice(chunks, 50))
    assert all(len(chunk) == 3 * DUAL.hop_length for chunk in first)


def test_two_streams_of_one_vocoder_do_not_disturb_each_other():
    voc = voice(LABELS)
    a, b = mel(LABELS, 20, 1), mel(LABELS, 20, 2)
    first, second = voc.stream(a, seed=1, chunk_frames=2), voc.stream(b, seed=2, chunk_frames=2)
    pairs = list(zip(first, second, strict=True))
    assert same_bits(joined(p[0] for p in pairs), voc.generate(a, seed=1))
    assert same_bits(joined(p[1] for p in pairs), voc.generate(b, seed=2))


def test_the_mel_may_be_overwritten_while_it_sounds():
    frames = mel(LABELS, 60)
    expected = voice(LABELS).generate(frames)
    chunks = voice(LABELS).stream(frames, chunk_frames=2)
    parts = [next(chunks)]
    frames[:] = 0.0
    assert same_bits(joined([*parts, *chunks]), expected)


def test_arguments_are_checked_before_the_first_chunk_is_asked_for():
    voc = voice(LABELS)
    with pytest.raises(InputError, match="chunk_frames"):
        voc.stream(mel(LABELS, 3), chunk_frames=0)
    with pytest.raises(InputError, match="seed"):
        voc.stream(iter([]), seed=-1)
    with pytest.raises(InputError, match="transposed"):
        voc.stream(mel(LABELS, 3).T)


def test_a_bad_piece_is_named_by_its_number():
    good = mel(LABELS, 2)
    bad = good.copy()
    bad[1, 1] = np.nan
    with pytest.raises(InputError, match=r"Piece 2 .*NaN"):
        list(voice(LABELS).stream(iter([good, good, bad])))
    with pytest.raises(InputError, match=r"Piece 0 .*bins"):
        list(voice(LABELS).stream(iter([np.zeros((LABELS.n_mels + 1, 2), np.float32)])))
