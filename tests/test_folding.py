"""Folds are joined as the caller says, and orders that mean nothing are refused.

The oracle works from the labels that the engine drew, by the equations of the published programs:
fold, decode, crossfade, cut and fade written out once more, in float64 numpy.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import get_args

import cases
import numpy as np
import pytest
from voices import DUAL, LABELS, LOGISTICS, WHOLE, mel, same_bits, voice

from wavernn_fast import Folding
from wavernn_fast.cli import folding
from wavernn_fast.conditioning_recurrent import BidirectionalGru, Lstm
from wavernn_fast.config import Crossfade
from wavernn_fast.errors import InputError
from wavernn_fast.fold import fold_plan, join_folds

WAYS = list(product(("constant_power", "legacy"), (True, False)))


def drawn_folds(config, frames: np.ndarray, sizes: tuple[int, int], seed: int) -> list[np.ndarray]:
    """Labels of each fold, every fold run alone as a stream of the engine."""
    voc, plan = voice(config), fold_plan(frames.shape[1] * config.hop_length, *sizes)
    folds = []
    for i, (start, length) in enumerate(zip(plan.starts, plan.lengths, strict=True)):
        first, count, _ = plan.frames(i, config.hop_length)
        interp, hold = voc.conditioner.window(frames, first, count)
        stream = voc.engine.open(seed, fold=i, start=start)
        folds.append(voc.engine.run([stream], [length], [interp], [hold])[0][0])
    return folds


def expected_wave(config, folds, sizes, n_frames: int, crossfade: str, before: bool) -> np.ndarray:
    """The published end of the pipe for these labels, with the end rules of `config.output`."""
    (target, overlap), mu = sizes, config.n_classes - 1.0
    total, hop, output = n_frames * config.hop_length, config.hop_length, config.output

    def expand(x: np.ndarray) -> np.ndarray:
        return np.sign(x) / mu * ((1 + mu) ** np.abs(x) - 1)

    silence = overlap // 2
    t = np.linspace(-1, 1, overlap - silence)
    rise, fall = np.sqrt(0.5 * (1 + t)), np.sqrt(0.5 * (1 - t))
    fade_in = np.r_[np.zeros(silence), rise]
    fade_out = np.r_[fall, np.zeros(silence)]
    if crossfade == "constant_power":
        fade_out = np.r_[np.ones(silence), fall]
    wave = np.zeros(total + target + 2 * overlap)
    for i, fold in enumerate(folds):
        values = np.zeros(target + 2 * overlap)
        values[: len(fold)] = 2 * fold.astype(np.float64) / mu - 1
        values = expand(values) if before else values
        values[:overlap] *= fade_in
        values[-overlap:] *= fade_out
        start = i * (target + overlap)
        wave[start : start + len(values)] += values
    wave = wave[:total]
    wave = wave if before else expand(wave)
    for n in range(1, total):
        wave[n] += output.deemphasis * wave[n - 1]
    wave = wave[: total - hop]  # the length rule of LABELS
    ramp = output.fade_out_frames * hop
    if ramp <= len(wave):
        wave[-ramp:] *= np.linspace(1, 0, ramp)
    return wave


@pytest.mark.parametrize(("crossfade", "before"), WAYS)
@pytest.mark.parametrize("sizes", [(24, 6), (25, 7)])
def test_folds_are_joined_in_the_way_asked_for(crossfade, before, sizes):
    frames = mel(LABELS, 30)
    folds = drawn_folds(LABELS, frames, sizes, seed=5)
    assert len(folds) > 3
    expected = expected_wave(LABELS, folds, sizes, 30, crossfade, before)
    way = Folding(
        target=sizes[0], overlap=sizes[1], crossfade=crossfade, decode_before_crossfade=before
    )
    found = voice(LABELS).generate(frames, seed=5, fold=way)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert same_bits(voice(LABELS).generate_batch([frames], [5], fold=way)[0], found)


def test_every_way_of_joining_sounds_different():
    frames = mel(LABELS, 30)
    waves = [
        voice(LABELS).generate(
            frames, fold=Folding(crossfade=crossfade, decode_before_crossfade=before)
        )
        for crossfade, before in WAYS
    ]
    for i, one in enumerate(waves):
        assert all(np.abs(one - other).max() > 1e-3 for other in waves[:i])


def test_what_is_left_out_is_as_the_preset_says():
    frames = mel(LABELS, 30)
    preset = voice(LABELS).generate(frames, fold=True)
    assert same_bits(voice(LABELS).generate(frames, fold=Folding()), preset)
    sizes = Folding(target=24, overlap=6)
    assert same_bits(voice(LABELS).generate(frames, fold=sizes), preset)
    assert same_bits(voice(LABELS).generate(frames, fold=(24, 6)), preset)
    legacy = dataclasses.replace(
        LABELS, output=dataclasses.replace(LABELS.output, crossfade="legacy")
    )
    assert same_bits(
        voice(legacy).generate(frames, fold=True),
        voice(LABELS).generate(frames, fold=Folding(crossfade="legacy")),
    )


@pytest.mark.parametrize("config", [LOGISTICS, DUAL], ids=["logistics", "dual"])
def test_an_order_of_decoding_is_refused_where_nothing_is_companded(config):
    for order in (True, False):
        with pytest.raises(InputError, match="no mu-law labels"):
            voice(config).generate(mel(config, 9), fold=Folding(decode_before_crossfade=order))
    assert len(voice(config).generate(mel(config, 9), fold=Folding(crossfade="legacy")))


@pytest.mark.parametrize(
    ("fold", "words"),
    [
        (Folding(target=6, overlap=6), "target"),
        (Folding(overlap=24), "larger"),
        (Folding(target=24, overlap=-1), "negative"),
        (Folding(target=2.5), "integer"),
        (Folding(crossfade="linear"), "constant_power"),
        ((24, 6, 6), "Folding"),
        ("yes", "Folding"),
        ((24.0, 6), "integer"),
        ((6, 24), "larger"),
    ],
)
def test_nonsense_is_refused_before_anything_is_drawn(fold, words):
    with pytest.raises(InputError, match=words):
        voice(LABELS).generate(mel(LABELS, 9), fold=fold, progress=lambda n: pytest.fail("drew"))


def test_the_command_offers_every_crossfade():
    assert get_args(Crossfade) == folding.CROSSFADES


def test_a_folding_is_described_for_json():
    assert folding.describe(None) is None
    assert folding.describe((24, 6)) == (24, 6)
    assert folding.describe(Folding(crossfade="legacy"))["crossfade"] == "legacy"


IN_ORDER = cases.framed_config(32, 16, lstm=1, hop_length=3, n_mels=5)


@pytest.mark.parametrize(
    ("config", "network", "part", "calls"),
    [(WHOLE, BidirectionalGru, "__call__", 1), (IN_ORDER, Lstm, "step", 60)],
    ids=["whole", "in_order"],
)
def test_a_network_hears_an_utterance_once_for_all_its_folds(
    config, network, part, calls, monkeypatch
):
    frames, heard, made = mel(config, 60), [], getattr(network, part)

    def counted(self, *given):
        heard.append(None)
        return made(self, *given)

    voc, sizes = voice(config), (24, 6)
    folds = drawn_folds(config, frames, sizes, seed=5)
    assert len(folds) > 5
    monkeypatch.setattr(network, part, counted)
    found = voc.generate(frames, seed=5, fold=sizes)
    assert len(heard) == calls
    assert same_bits(found, join_folds(folds, fold_plan(60 * config.hop_length, *sizes), config))


@pytest.mark.parametrize("config", [WHOLE, IN_ORDER, LABELS], ids=["whole", "in_order", "labels"])
def test_rows_of_one_mel_may_be_asked_for_by_several_threads(config):
    frames, conditioner = mel(config, 90), voice(config).conditioner
    whole, readers = conditioner.window(frames, 0, 90), conditioner.shared(frames)

    def read(step):
        window = readers()
        return all(
            same_bits(window(first, 1)[part], whole[part][first : first + more])
            for first in range(0, 90, step)
            for part, more in ((0, 4 if config is LABELS else 1), (1, 1))
            if whole[part] is not None
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, [1, 7, 13, 1, 7, 31]))
