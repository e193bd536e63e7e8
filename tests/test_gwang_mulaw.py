"""Mu-law models of G-Wang/WaveRNN-Pytorch: labels are companded, what is fed back is the wave."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cases
import checkpoint_builders as builders
import family_twins as twins
import numpy as np
import pytest
import reference
import tolerances
from engine_work import ISAS

from wavernn_fast import _C, checkpoints, weights
from wavernn_fast.baselines.cells import fused
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import ModelError
from wavernn_fast.likelihood import teacher_forced_logits
from wavernn_fast.presets import get_preset, with_preset
from wavernn_fast.samples import decode_samples, encode_targets
from wavernn_fast.synthetic import random_mel
from wavernn_fast.utterance import make_request
from wavernn_fast.verification import compare
from wavernn_fast.vocoder import Vocoder

SIZES: dict[str, Any] = {"classes": 512, "scales": (4, 4, 16), "n_mels": 80}
STATE = builders.fatchord(**SIZES)


def inverse(labels: np.ndarray, classes: int = 512) -> np.ndarray:
    """The program's inv_mulaw_quantize, in float64."""
    mu = classes - 1.0
    x = labels / mu * 2 - 1
    return np.sign(x) * (np.exp(np.abs(x) * np.log1p(mu)) - 1) / mu


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gwang")
    return builders.save(folder / "checkpoint_step000000007.pth", STATE, wrapper="state_dict")


@pytest.mark.parametrize("engine", [*ISAS, "reference"])
def test_it_hears_the_wave_that_its_labels_mean(
    path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, tensors = checkpoints.load(path, preset="gwang-mulaw")
    mel = random_mel(config, 1)
    forced = np.random.default_rng(2).integers(0, 512, 256).astype(np.int32)
    forced[:4] = 255, 256, 0, 511  # the two beside silence, and both ends
    expected = twins.relative(STATE, **SIZES).logits(
        mel, np.concatenate([[0.0], inverse(forced)[:-1]]), None
    )
    if engine == "reference":
        ours = reference.run(config, tensors, mel, forced=forced)["logits"]
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    monkeypatch.setenv("WAVERNN_FAST_ISA", "auto" if engine == "reference" else engine)
    voc = Vocoder(config, tensors, device="cpu", cpu_threads=1)
    if engine == "reference":
        readable = _C.Engine(dataclasses.asdict(config), tensors, device="reference")
        voc._devices = [voc._devices[0]._replace(engine=readable)]
    request = make_request(config, mel, None, 0)
    parts = [part for _, part in teacher_forced_logits(voc.voice(), request, forced)]
    error = tolerances.logit_error(np.concatenate(parts), expected)
    assert error <= tolerances.logit_limit(expected, "fp32")


def test_what_it_draws_is_what_the_program_draws_and_writes(path: Path) -> None:
    voc = Vocoder.from_pretrained(path, device="cpu", preset="gwang-mulaw", cpu_threads=1)
    mel = random_mel(voc.config, 2)
    wave = voc.generate(mel, seed=7)
    values = inverse(np.arange(512))
    labels = np.abs(wave[:, None] - values).argmin(axis=1)
    np.testing.assert_allclose(wave, values[labels], atol=1e-7)
    fed = np.concatenate([[0.0], values[labels][:-1]])
    logits = twins.relative(STATE, **SIZES).logits(mel, fed, None)
    words = reference.philox_words(7, 0, len(wave))[:, 0]
    drawn = [reference.categorical(row, int(word)) for row, word in zip(logits, words, strict=True)]
    sure = [margin > 1e-5 for _, margin in drawn]
    assert sum(sure) > 490
    assert all(label == k for (k, _), label, ok in zip(drawn, labels, sure, strict=True) if ok)
    assert len(set(labels.tolist())) > 100


def test_no_tensor_tells_it_from_plain_labels_so_it_must_be_named(path: Path) -> None:
    plain, _ = checkpoints.load(path)
    assert (plain.preset, plain.feedback, plain.output.mu_law) == ("gwang-bits", "linear", False)
    assert {"gwang-bits", "gwang-mulaw"} <= set(checkpoints.inspect(path)["presets"])
    config, _ = checkpoints.load(path, preset="gwang-mulaw")
    assert (config.feedback, config.output.mu_law) == ("mu_law", True)
    assert config.mel == dataclasses.replace(get_preset("gwang-bits").mel, preset="gwang-mulaw")
    assert with_preset(config, "gwang-bits").feedback == "linear"


def test_labels_are_those_of_the_training_program(path: Path) -> None:
    config, _ = checkpoints.load(path, preset="gwang-mulaw")
    wave = np.random.default_rng(4).uniform(-1, 1, 2000)
    mu = 511
    companded = np.sign(wave) * np.log1p(mu * np.abs(wave)) / np.log1p(mu)
    labels = ((companded + 1) / 2 * mu + 0.5).astype(int)
    assert np.array_equal(encode_targets(wave, config), labels)
    np.testing.assert_allclose(decode_samples(labels, config), inverse(labels), atol=1e-15)


def test_the_file_keeps_it_and_older_files_have_none(path: Path, tmp_path: Path) -> None:
    config, tensors = checkpoints.load(path, preset="gwang-mulaw")
    weights.write(tmp_path / "m.safetensors", config, tensors)
    again, _ = checkpoints.load(tmp_path / "m.safetensors")
    assert again == config
    older = json.loads(config.to_json())
    for field in ("feedback", "speakers"):
        del older[field]
    del older["output"]
    assert ModelConfig.from_json(json.dumps(older)).feedback == "linear"


def test_pytorch_agrees_and_fused_baselines_leave_it_alone(path: Path) -> None:
    config, tensors = checkpoints.load(path, preset="gwang-mulaw")
    voc = Vocoder(config, tensors, device="cpu", cpu_threads=1)
    assert compare(voc, tensors, steps=200).passed
    assert not fused(config)
    assert fused(with_preset(config, "gwang-bits"))


@pytest.mark.parametrize(("streams", "dtype"), [(1, "fp32"), (4, "fp16")])
def test_a_gpu_hears_what_the_processor_hears(path: Path, streams: int, dtype: str) -> None:
    """Logits under the same labels; the planted fault is the other preset of the same file."""
    found = {}
    for preset, device in (("mulaw", "cpu"), ("mulaw", "emu"), ("bits", "emu")):
        how: dict[str, Any] = {"cpu_threads": 1} if device == "cpu" else {"gpu_streams": streams}
        voc = Vocoder.from_pretrained(
            path, device=device, dtype=dtype, preset=f"gwang-{preset}", **how
        )
        request = make_request(voc.config, random_mel(voc.config, 1), None, 0)
        forced = np.random.default_rng(3).integers(0, 512, 256).astype(np.int32)
        parts = teacher_forced_logits(voc.voice(), request, forced)
        found[preset, device] = np.concatenate([part for _, part in parts])
    cpu = found["mulaw", "cpu"]
    error = tolerances.logit_error(found["mulaw", "emu"], cpu)
    assert error <= tolerances.logit_limit(cpu, dtype)
    assert tolerances.logit_error(found["bits", "emu"], cpu) > 20 * error


@pytest.mark.parametrize(
    "make",
    [
        lambda: cases.dual_config(32, 16, feedback="mu_law"),
        lambda: cases.residual_config(32, 16, mixtures=2, feedback="mu_law"),
        lambda: cases.residual_config(
            32, 16, bits=8, bands=2, n_mels=4, hop_length=4, feedback="mu_law"
        ),
        lambda: cases.embedded_config(32, 16, 8, feedback="mu_law"),
    ],
)
def test_other_models_have_no_such_feedback(make: Any) -> None:
    with pytest.raises(ModelError, match="mu-law feedback needs a residual core"):
        make()
