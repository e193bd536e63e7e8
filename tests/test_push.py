"""Pushing frames: the same samples as `generate`, each as soon as it can sound."""

from __future__ import annotations

import numpy as np
import pytest
from arrivals import LINEAR, MODELS, SPEAKER, feed, poison, read_all, voice
from hypothesis import given, settings
from hypothesis import strategies as st
from voices import DUAL, LABELS, UNCONDITIONED, WHOLE, joined, mel, same_bits

from wavernn_fast.errors import EngineError, InputError
from wavernn_fast.live import LivePool


def pushed(voc, pieces, **options):
    """All samples of an utterance that is pushed piece by piece."""
    sound = voc.open_stream(**options)
    parts = [sound.push(piece) for piece in pieces]
    parts.append(sound.finish())
    assert sound.ended
    return joined(parts)


@settings(deadline=None, max_examples=60)
@given(
    config=st.sampled_from(list(MODELS.values())),
    n_frames=st.integers(0, 40),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    seed=st.integers(0, 2**64 - 1),
    threads=st.sampled_from([1, 2]),
    fade_out=st.booleans(),
    temperature=st.sampled_from([1.0, 0.6]),
)
def test_samples_of_pushed_frames_join_to_the_whole(
    config, n_frames, cuts, seed, threads, fade_out, temperature
):
    frames = mel(config, n_frames)
    pieces = np.split(frames, sorted(min(c, n_frames) for c in cuts), axis=1)
    options = {"seed": seed, "fade_out": fade_out, "temperature": temperature}
    found = pushed(voice(config, threads), pieces, **options)
    assert same_bits(found, voice(config).generate(frames, **options))


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
def test_single_frames_may_be_vectors(config):
    frames = mel(config, 12)
    assert same_bits(
        pushed(voice(config), frames.T, seed=3), voice(config).generate(frames, seed=3)
    )


@pytest.mark.parametrize("fade_out", [True, False])
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
def test_the_first_sample_comes_with_the_frame_that_the_facts_say(config, fade_out):
    voc, n_frames = voice(config), 60
    facts = voc.stream_facts(fade_out=fade_out)
    sound, frames = voc.open_stream(fade_out=fade_out), mel(config, n_frames)
    made = [len(sound.push(frame)) for frame in frames.T]
    first = next((n for n, count in enumerate(made, start=1) if count), None)
    assert first == (None if facts.hears_whole else facts.first_frames)
    if not facts.hears_whole and config.subscale is None:  # so much is missing before the end
        ahead = facts.lookahead_frames if config.pad == "zeros" else 0
        cut = config.hop_length if config.output.length == "frames_minus_one" else 0
        missing = len(voc.generate(frames, fade_out=fade_out)) - sum(made)
        assert missing == facts.held_back_samples + ahead * config.hop_length - cut
    assert facts.lookahead_frames == voc.lookahead_frames == config.lookahead_frames
    assert voc.lookahead_ms == pytest.approx(
        1000 * config.lookahead_frames * config.hop_length / config.sample_rate
    )


def test_the_facts_in_milliseconds():
    facts = voice(LABELS).stream_facts(5)
    frame = 1000 * LABELS.hop_length / LABELS.sample_rate
    assert facts.to_dict() == {
        "streams_frames": True,
        "hears_whole": False,
        "frame_ms": pytest.approx(frame),
        "lookahead_frames": 2,
        "lookahead_ms": pytest.approx(2 * frame),
        "held_back_samples": 4 * LABELS.hop_length,  # one is cut, three fade
        "held_back_ms": pytest.approx(4 * frame),
        "first_frames": 1 + 2 + 4,
        "first_ms": pytest.approx(7 * frame),
        "chunk_frames": 5,
        "chunk_ms": pytest.approx(5 * frame),
    }
    assert not voice(LINEAR).stream_facts().streams_frames
    assert voice(WHOLE).stream_facts().hears_whole
    assert voice(LABELS).stream_facts().chunk_ms == pytest.approx(50, abs=frame)


@pytest.mark.parametrize("config", [LABELS, DUAL], ids=["labels", "dual"])
def test_every_sample_that_can_sound_comes_back_at_once(config):
    frames, sound = mel(config, 20), voice(config).open_stream()
    before = config.lookback_frames if config.pad == "none" else 0
    cut = config.output.length == "frames_minus_one"
    held = before + config.lookahead_frames + cut + config.output.fade_out_frames
    for n, frame in enumerate(frames.T, start=1):
        assert len(sound.push(frame)) == (config.hop_length if n > held else 0)


def test_the_samples_are_of_the_kind_of_the_frames():
    torch = pytest.importorskip("torch")
    frames = mel(DUAL, 20)
    sound = voice(DUAL).open_stream(seed=1)
    parts = [sound.push(torch.from_numpy(frames)), sound.finish()]
    assert all(isinstance(part, torch.Tensor) for part in parts)
    assert same_bits(torch.cat(parts).numpy(), voice(DUAL).generate(frames, seed=1))


def test_speakers_are_heard_by_push_and_pool():
    voc, frames = voice(SPEAKER), mel(SPEAKER, 20)
    speakers = np.random.default_rng(1).normal(size=(3, 4))
    whole = [voc.generate(frames, speaker=speaker) for speaker in speakers]
    assert not same_bits(whole[0], whole[1])
    assert same_bits(pushed(voc, [frames], speaker=speakers[0]), whole[0])
    used_again = speakers[0].copy()
    sound = voc.open_stream(speaker=used_again)
    used_again[:] = speakers[1]
    assert same_bits(joined([sound.push(frames), sound.finish()]), whole[0])
    with LivePool(voc) as pool:
        streams = [pool.open(speaker=speaker) for speaker in speakers]
        for stream in streams:
            feed(stream, frames, [7])
        for stream, wave in zip(streams, whole, strict=True):
            assert same_bits(read_all(stream), wave)
        with pytest.raises(InputError, match="give speaker="):
            pool.open()


def test_unusable_frames_change_nothing():
    frames = mel(LABELS, 20)
    sound, bad = voice(LABELS).open_stream(seed=5), frames[:, :2].copy()
    bad[1, 1] = np.nan
    parts = [sound.push(frames[:, :10])]
    with pytest.raises(InputError, match=r"Piece 1 .*NaN"):
        sound.push(bad)
    parts += [sound.push(frames[:, 10:]), sound.finish()]
    assert same_bits(joined(parts), voice(LABELS).generate(frames, seed=5))
    with pytest.raises(InputError, match="after the end"):
        sound.push(frames)
    assert len(sound.finish()) == 0


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
def test_an_utterance_that_has_ended_without_frames_takes_none(config):
    sound = voice(config).open_stream()
    assert len(sound.finish()) == 0
    with pytest.raises(InputError, match="after the end"):
        sound.push(mel(config, 20))
    assert sound.ended
    assert len(sound.finish()) == 0


def test_the_kind_of_the_samples_is_that_of_the_first_usable_frames():
    torch = pytest.importorskip("torch")
    frames, sound = mel(LABELS, 20), voice(LABELS).open_stream(seed=1)
    for _ in range(2):
        with pytest.raises(InputError, match="NaN"):
            sound.push(np.full_like(frames, np.nan))
    parts = [sound.push(torch.from_numpy(frames)), sound.finish()]
    assert all(isinstance(part, torch.Tensor) for part in parts)
    assert same_bits(torch.cat(parts).numpy(), voice(LABELS).generate(frames, seed=1))


def test_a_failed_stream_does_not_go_on():
    sound = voice(LABELS).open_stream()
    with pytest.raises(EngineError, match="not finite"):
        sound.push(poison(mel(LABELS, 20)))
    with pytest.raises(EngineError, match="failed before"):
        sound.push(mel(LABELS, 3))
    with pytest.raises(EngineError, match="failed before"):
        sound.finish()


def test_what_cannot_sound_early_is_refused():
    with pytest.raises(InputError, match="unconditioned"):
        voice(UNCONDITIONED).open_stream()
    with pytest.raises(InputError, match="give the mel as one array"):
        voice(LINEAR).open_stream()
    with pytest.raises(InputError, match="seed"):
        voice(DUAL).open_stream(seed=-1)
    with pytest.raises(InputError, match="no speakers"):
        voice(DUAL).open_stream(speaker=np.zeros(3))


def test_a_network_that_hears_the_whole_says_so(caplog):
    sound = voice(WHOLE).open_stream()
    assert "hears the whole utterance" in caplog.text
    caplog.clear()
    LivePool(voice(WHOLE)).close()
    assert "hears the whole utterance" in caplog.text
    assert len(sound.push(mel(WHOLE, 30))) == 0
    assert len(sound.finish()) > 0
