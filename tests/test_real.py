"""Real trained weights and real speech, where they are at hand (../shared/data)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import reference
import tolerances
from cli_runner import run
from quick import first_is_quick

from wavernn_fast import audio, checkpoints, features, weights
from wavernn_fast.models.eager import make_eager
from wavernn_fast.models.eager_wave import resynthesise
from wavernn_fast.samples import encode_targets
from wavernn_fast.vocoder import Vocoder

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL = DATA / "weights" / "fatchord_raw9_h128.pyt"
CLIPS = [DATA / "ljspeech" / f"LJ001-000{i}.flac" for i in range(1, 5)]
# Above 1e-4 while recurrent sums were rounded to one float.
HARD_CLIPS = [DATA / "ljspeech" / f"LJ001-00{i}.flac" for i in ("06", "10", "25")]
DTYPES = ("fp32", "fp16", "bf16", "int8", "int8-fast")

pytestmark = pytest.mark.skipif(not MODEL.is_file(), reason=f"no real data at {DATA}")


@pytest.fixture(scope="module")
def voice() -> Vocoder:
    return Vocoder.from_pretrained(MODEL)


def mel_of(clip: Path, config, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    wave, rate = audio.read_wav(clip, config.sample_rate)
    wave = wave[: int(seconds * rate)]
    return wave, features.log_mel(wave, config.mel)


def correlation(wave: np.ndarray, mel: np.ndarray, config) -> float:
    """Pearson over all bins and frames of the preset's clipped log-mel."""
    found = features.log_mel(wave, config.mel)
    n = min(found.shape[1], mel.shape[1])
    return float(np.corrcoef(found[:, :n].ravel(), mel[:, :n].ravel())[0, 1])


@pytest.mark.parametrize("fold", [None, (8000, 400)], ids=["unfolded", "folded"])
def test_copy_synthesis_reaches_the_published_correlation(voice, fold):
    scores = []
    for clip in CLIPS:
        _, mel = mel_of(clip, voice.config, 4.0)
        scores.append(correlation(voice.generate(mel, fold=fold), mel, voice.config))
    assert np.mean(scores) >= 0.83


@pytest.mark.slow
@pytest.mark.parametrize("fold", [None, (8000, 400)], ids=["unfolded", "folded"])
def test_copy_synthesis_is_as_good_as_the_original_step_in_torch(voice, fold):
    config, tensors = checkpoints.load(MODEL)
    eager = make_eager(config, tensors)
    ours, theirs = [], []
    # The eager step is slow, so few clips; benchmarks/drop_in.py compares them all.
    for clip in CLIPS[:1] if fold is None else CLIPS[:2]:
        _, mel = mel_of(clip, config, 1.0 if fold is None else 2.0)
        ours.append(correlation(voice.generate(mel, fold=fold), mel, config))
        theirs.append(correlation(resynthesise(eager, mel, fold=fold, seed=0), mel, config))
    assert abs(np.mean(ours) - np.mean(theirs)) <= 0.01


def test_the_safetensors_file_makes_the_checkpoints_audio(voice, tmp_path):
    config, tensors = checkpoints.load(MODEL)
    weights.write(tmp_path / "voice.safetensors", config, tensors)
    _, mel = mel_of(CLIPS[1], config, 0.5)
    again = Vocoder.from_pretrained(tmp_path / "voice.safetensors")
    assert np.array_equal(again.generate(mel, seed=3), voice.generate(mel, seed=3))


def forced_error(
    clip: Path, dtype: str, n: int = 5000, device: str = "cpu"
) -> tuple[float, np.ndarray]:
    """Largest difference of a logit from float64 over n samples, and the expected logits."""
    config, tensors = checkpoints.load(MODEL)
    wave, mel = mel_of(clip, config, 0.4)
    forced = encode_targets(wave, config)[:n]
    expected = reference.run(config, tensors, mel, n_steps=n, forced=forced)["logits"]
    voice = Vocoder.from_pretrained(MODEL, dtype=dtype, device=device)
    interp, hold = voice.conditioner.window(mel, 0, -(-n // config.hop_length))
    stream = voice.engine.open(0)
    _, found = voice.engine.run(
        [stream], [n], [interp], [hold], forced=[forced], return_logits=True
    )[0]
    return tolerances.logit_error(found, expected), expected


@pytest.mark.parametrize("dtype", first_is_quick(DTYPES))
def test_forced_logits_on_real_speech_stay_within_the_table(dtype):
    error, expected = forced_error(CLIPS[1], dtype)
    assert error <= tolerances.logit_limit(expected, dtype)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_forced_logits_of_the_gpu_kernel_on_real_speech_stay_within_the_table(dtype):
    """In the emulator, where the model reaches its largest logits: the first 400 samples do."""
    error, expected = forced_error(CLIPS[1], dtype, n=400, device="emu")
    assert np.abs(expected).max() > 100
    assert error <= tolerances.logit_limit(expected, dtype)


@pytest.mark.parametrize("clip", first_is_quick([*CLIPS, *HARD_CLIPS]), ids=lambda clip: clip.stem)
def test_fp32_logits_on_real_speech_stay_within_1e_4(clip):
    error, _ = forced_error(clip, "fp32")
    assert error <= 1e-4


@pytest.mark.parametrize(
    ("dtype", "most"), [("fp16", 2e-3), ("bf16", 2e-2), ("int8", 3e-2), ("int8-fast", 0.6)]
)
def test_likelihood_of_real_speech_falls_by_no_more_than_documented(voice, dtype, most):
    wave, mel = mel_of(CLIPS[1], voice.config, 1.0)
    change = Vocoder.from_pretrained(MODEL, dtype=dtype).score(mel, wave) - voice.score(mel, wave)
    assert abs(change) <= most


@pytest.mark.slow
def test_eval_of_real_speech_finds_the_published_correlation(tmp_path):
    arguments = ("-m", MODEL, "--preset", "geneing", "--limit-seconds", 3, "--threads", 1)
    result = run("eval", CLIPS[0], *arguments, "-o", tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    [row] = json.loads(result.stdout)["done"]
    assert row["mel_correlation"] >= 0.83
    assert row["torch_difference"] <= 1e-4
    assert 2.0 < row["nll"]["fp32"] < 4.0
    assert 0.5 < row["stoi"] < 1.0
    assert 3.0 < row["mcd_db"] < 12.0
    assert (tmp_path / "LJ001-0001.png").stat().st_size > 10_000
