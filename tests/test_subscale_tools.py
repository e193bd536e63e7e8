"""The tools take a subscale model as any other: bench, verify, eval, vocode, stored files."""

from __future__ import annotations

import json

import cases
import numpy as np
import pytest
from cli_runner import run

from wavernn_fast import Vocoder, audio, canonical, features, verification, weights
from wavernn_fast.bench.rows import Case
from wavernn_fast.bench.session import measure
from wavernn_fast.evaluation import Evaluator, Settings
from wavernn_fast.synthetic import random_mel, random_model

CONFIG, TENSORS = random_model("subscale:32")


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("subscale") / "rows.safetensors"
    weights.write(path, CONFIG, TENSORS, "fp32")
    return str(path)


def test_a_random_model_of_rows_is_valid_and_says_so():
    canonical.validate(CONFIG, TENSORS)
    assert CONFIG.subscale_factor == 16
    assert "16 rows" in repr(Vocoder(CONFIG, TENSORS, device="cpu"))


@pytest.mark.parametrize("streams", [1, 2])
def test_bench_times_utterances_and_counts_their_samples(streams):
    models, case = {"rows": (CONFIG, TENSORS)}, Case("rows", "fp32", 1, streams)
    row = measure(models, [case], rounds=1, seconds=0.05, baselines="torch-eager").rows[0]
    assert row.streams == streams
    assert row.samples_per_s > 0
    assert row.ratio_to_eager is not None
    assert row.ratio_to_eager > 1.0


def test_bench_times_rows_without_a_mel():
    config = cases.subscale_config(4, 2, 1)
    models = {"rows": (config, cases.random_tensors(config))}
    case = Case("rows", "fp32", 1, 1)
    [row] = measure(models, [case], rounds=1, seconds=0.05, baselines="none").rows
    assert row.samples_per_s > 0


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_verify_compares_rows_with_pytorch(dtype):
    voc = Vocoder(CONFIG, TENSORS, device="cpu", dtype=dtype)
    found = verification.compare(voc, TENSORS, steps=1500)
    assert found.passed
    assert found.steps == 1500
    assert found.worst > 0.0


def test_verify_notices_one_changed_weight_of_the_network():
    changed = dict(TENSORS)
    changed["subscale.blocks.1.conv2.weight"] = changed["subscale.blocks.1.conv2.weight"].copy()
    changed["subscale.blocks.1.conv2.weight"][3, 5] += 0.5
    found = verification.compare(Vocoder(CONFIG, TENSORS, device="cpu"), changed, steps=480)
    assert not found.passed


def test_a_recording_is_judged_by_engine_and_pytorch_alike():
    wave = np.sin(np.arange(24_000) / 20.0).astype(np.float32) * 0.3
    found = Evaluator(CONFIG, TENSORS, Settings(device="cpu")).evaluate(wave)
    assert found.torch_difference is not None
    assert found.torch_difference <= 1e-4
    assert found.copy is not None
    mel = features.log_mel(wave, CONFIG.mel)
    score = Vocoder(CONFIG, TENSORS, device="cpu").score(mel, wave)
    assert score == pytest.approx(found.nll["fp32"], abs=1e-9)


def test_the_command_line_makes_audio_of_rows(stored, tmp_path):
    mel = random_mel(CONFIG, 20)
    np.save(tmp_path / "mel.npy", mel)
    out = tmp_path / "out.wav"
    done = run("vocode", tmp_path / "mel.npy", "-m", stored, "-o", out, "--seed", 3, "--json")
    assert done.exit_code == 0, done.output
    wave, rate = audio.read_wav(out)
    assert rate == CONFIG.sample_rate
    expected = Vocoder(CONFIG, TENSORS, device="cpu").generate(mel, seed=3)
    assert np.abs(wave - np.clip(expected, -1, 1)).max() <= 1 / 32768
    done = run("vocode", tmp_path / "mel.npy", "-m", stored, "-o", out, "--fold", "yes")
    assert done.exit_code == 2
    assert "side by side already" in done.output


def test_a_stored_model_of_rows_sounds_as_before(stored):
    mel = random_mel(CONFIG, 6)
    again = Vocoder.from_pretrained(stored, device="cpu")
    assert np.array_equal(again.generate(mel), Vocoder(CONFIG, TENSORS).generate(mel))
    done = run("inspect", stored, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["config"]["subscale"]["factor"] == 16
