"""Real weights and real speech through the drop-in classes (../shared/data).

PyTorch's eager step draws with the engine's random words from its own probabilities; the engine's
label is taken only where a word lies within 1e-4 of a boundary. `benchmarks/drop_in.py` does the
same without that exception over any number of recordings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from eager_draws import eager_labels, eager_wave

from wavernn_fast import accelerate, audio, checkpoints, features
from wavernn_fast.compat import fatchord, torchaudio
from wavernn_fast.config import OutputConfig
from wavernn_fast.metrics import mel_correlation
from wavernn_fast.models.eager import make_eager, torch_threads
from wavernn_fast.vocoder import Vocoder

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL = DATA / "weights" / "fatchord_raw9_h128.pyt"
CLIPS = [DATA / "ljspeech" / f"LJ001-000{i}.flac" for i in (1, 4)]
SEED, SECONDS, SIZES = 3, 0.8, (2000, 200)
RULES = {
    "fatchord": fatchord.FLAVOURS["fatchord"],
    "no-ramp": OutputConfig(length="frames_minus_one"),
    "all-frames": OutputConfig(length="frames"),
}
WAYS = pytest.mark.parametrize("sizes", [None, SIZES], ids=["whole", "folded"])

pytestmark = [
    pytest.mark.slow,  # PyTorch's steps
    pytest.mark.skipif(not MODEL.is_file(), reason=f"no real data at {DATA}"),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def voice() -> Vocoder:
    return Vocoder.from_pretrained(MODEL, preset="geneing", cpu_threads=1)


def mels_of(voice: Vocoder) -> list[np.ndarray]:
    found = []
    for clip in CLIPS:
        wave, rate = audio.read_wav(clip, voice.sample_rate)
        found.append(features.log_mel(wave[: int(SECONDS * rate)], voice.config.mel))
    return found


@pytest.fixture(scope="module")
def eager_runs(voice: Vocoder) -> dict:
    """Labels of PyTorch for every clip, whole and folded, and how often ours were taken."""
    eager, mels = make_eager(*checkpoints.load(MODEL, preset="geneing")), mels_of(voice)
    player, runs = fatchord.WaveRNN(voice, seed=SEED), {}
    with torch_threads(1):
        for sizes in (None, SIZES):
            ours = [player.draw([mel], sizes)[0].folds for mel in mels]
            streams = [labels for folds in ours for labels in folds]
            theirs, draws = eager_labels(eager, mels, sizes, SEED, streams)
            runs[sizes] = ours, theirs, draws.ties
    return runs


@WAYS
def test_labels_are_those_of_the_eager_step(eager_runs, sizes):
    ours, theirs, ties = eager_runs[sizes]
    steps = 0
    for mine, eager in zip(ours, theirs, strict=True):
        for a, b in zip(mine, eager, strict=True):
            assert np.array_equal(a, b[: len(a)])
            steps += len(a)
    assert steps > 25_000
    assert ties <= 5


@WAYS
@pytest.mark.parametrize("rule", RULES)
def test_copy_synthesis_is_as_good_as_the_eager_steps(voice, eager_runs, sizes, rule):
    output = dataclasses.replace(RULES[rule], mu_law=False)
    config, scores = dataclasses.replace(voice.config, output=output), []
    player = fatchord.WaveRNN(voice, flavour=RULES[rule], seed=SEED)
    for mel, labels in zip(mels_of(voice), eager_runs[sizes][1], strict=True):
        theirs = eager_wave(config, labels, mel, sizes)
        ours = player.generate(mel, None, sizes is not None, *(sizes or (0, 0)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
        n_frames = mel.shape[1] - (rule != "all-frames")
        assert len(ours) == len(theirs) == n_frames * 200
        waves = [features.log_mel(wave, config.mel) for wave in (ours, theirs)]
        scores.append([mel_correlation(mel, found) for found in waves])
    ours, theirs = np.mean(scores, axis=0)
    assert abs(ours - theirs) <= 0.01
    assert ours > (0.75 if rule == "fatchord" else 0.86)  # a third of the frames fades out


def test_infer_sounds_as_the_folded_class_does(voice):
    mel = mels_of(voice)[0]
    wave, lengths = torchaudio.WaveRNN(voice, seed=SEED).infer(
        torch.from_numpy(mel)[None], torch.tensor([50])
    )
    rule = fatchord.WaveRNN(voice, flavour=RULES["all-frames"], seed=SEED)
    assert lengths.tolist() == [10_000]
    np.testing.assert_array_equal(wave[0, 0].numpy(), rule.generate(mel).astype(np.float32))


def test_a_live_module_with_these_weights_is_accelerated(voice):
    import live_twins

    module = live_twins.WaveRNN(
        hidden=128, fc=128, n_mels=80, aux=32, channels=64, blocks=3, scales=(4, 5, 10)
    )
    module.load_state_dict(torch.load(MODEL, weights_only=True))
    mel = torch.from_numpy(mels_of(voice)[1])[None]
    with accelerate(module, preset="geneing", cpu_threads=1, seed=SEED) as handle:
        found = module.generate(mel, None, True, *SIZES, False)
        assert handle.preset == "geneing"
    expected = fatchord.WaveRNN(voice, seed=SEED).generate(mel, None, True, *SIZES, False)
    np.testing.assert_array_equal(found, expected)
