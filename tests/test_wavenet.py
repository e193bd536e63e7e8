"""WaveNet's samplers against its meaning, sample by sample from the whole past."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import reference_wavenet
import torch
from threadpoolctl import threadpool_info

from wavernn_fast.baselines import BASELINES, wavenet
from wavernn_fast.baselines.wavenet import WaveNetConfig
from wavernn_fast.baselines.wavenet_all import WAVENETS
from wavernn_fast.errors import InputError, ModelError
from wavernn_fast.synthetic import random_model

TOLERANCE = 1e-4  # of logits, float32 against float64

# Two cycles of dilations up to 16; 80 steps run through every ring several times.
SMALL = WaveNetConfig(
    residual_size=24, gate_size=20, skip_size=28, cycles=2, dilations=5, n_classes=16
)
STEPS = 80


def dilations(config: WaveNetConfig) -> list[int]:
    """Of the blocks, from the definition: doubling within a cycle."""
    return [2**k for k in range(config.dilations)] * config.cycles


def reference_of(config: WaveNetConfig, tensors: Any, samples: Any) -> Any:
    return reference_wavenet.logits(tensors, [int(s) for s in samples], dilations(config))


@pytest.fixture(scope="module")
def tensors() -> dict[str, Any]:
    return wavenet.random_tensors(SMALL, seed=3)


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("name", WAVENETS)
def test_logits_are_those_of_the_definition(name: str, streams: int, tensors: Any) -> None:
    made = WAVENETS[name](SMALL, tensors, streams=streams).sample(STEPS, seed=1, keep_logits=True)
    assert made.samples.shape == (streams, STEPS)
    assert made.samples.dtype == np.int32
    assert made.logits is not None
    assert made.logits.shape == (streams, STEPS, SMALL.n_classes)
    for samples, logits in zip(made.samples, made.logits, strict=True):
        expected = reference_of(SMALL, tensors, samples)
        assert np.abs(logits - expected).max() < TOLERANCE
        assert len(set(samples.tolist())) > 3  # a constant stream would prove little


@pytest.mark.parametrize("name", WAVENETS)
@pytest.mark.parametrize(
    "broken",
    ["blocks.9.old.weight", "blocks.4.residual.bias", "blocks.9.skip.bias", "embedding.weight"],
)
def test_a_wrong_weight_is_found(name: str, broken: str, tensors: Any) -> None:
    wrong = {**tensors, broken: tensors[broken] + np.float32(0.01)}
    made = WAVENETS[name](SMALL, wrong).sample(STEPS, keep_logits=True)
    assert made.logits is not None
    expected = reference_of(SMALL, tensors, made.samples[0])
    assert np.abs(made.logits[0] - expected).max() > 10 * TOLERANCE


@pytest.mark.parametrize("name", WAVENETS)
def test_streams_and_seeds_draw_differently_and_again_alike(name: str, tensors: Any) -> None:
    baseline = WAVENETS[name](SMALL, tensors, streams=2)
    first, again = baseline.sample(STEPS, seed=1), baseline.sample(STEPS, seed=1)
    other = baseline.sample(STEPS, seed=2)
    assert first.logits is None
    assert (first.samples == again.samples).all()
    assert (first.samples != other.samples).any()
    assert (first.samples[0] != first.samples[1]).any()


@pytest.mark.parametrize("name", WAVENETS)
def test_draws_follow_the_probabilities(name: str, tensors: Any) -> None:
    """The first draw of many streams: all see the same logits."""
    streams = 4000
    made = WAVENETS[name](SMALL, tensors, streams=streams).sample(1, seed=5, keep_logits=True)
    assert made.logits is not None
    p = np.exp(made.logits[0, 0] - made.logits[0, 0].max())
    p /= p.sum()
    shares = np.bincount(made.samples[:, 0], minlength=SMALL.n_classes) / streams
    assert np.abs(shares - p).max() < 5.0 * np.sqrt(p.max() / streams)  # five deviations


def test_whole_convolutions_agree_with_the_definition(tensors: Any) -> None:
    samples = np.random.default_rng(0).integers(0, SMALL.n_classes, STEPS)
    found = wavenet.teacher_forced_logits(SMALL, tensors, samples)
    assert np.abs(found - reference_of(SMALL, tensors, samples)).max() < 1e-12


def test_the_hook_of_the_session_is_the_same_form(tensors: Any) -> None:
    samples = np.random.default_rng(0).integers(0, SMALL.n_classes, STEPS)
    found = WAVENETS["wavenet-numpy"](SMALL, tensors).reference_logits(samples)
    assert (found == wavenet.teacher_forced_logits(SMALL, tensors, samples)).all()


@pytest.fixture(scope="module")
def paper() -> tuple[WaveNetConfig, dict[str, Any]]:
    return wavenet.random_wavenet("wavenet:512")


@pytest.mark.parametrize("name", WAVENETS)
def test_the_paper_s_row_at_full_size(name: str, paper: Any) -> None:
    config, tensors = paper
    made = WAVENETS[name](config, tensors, threads=1).sample(12, seed=1, keep_logits=True)
    assert made.logits is not None
    expected = reference_of(config, tensors, made.samples[0])
    assert np.abs(made.logits[0] - expected).max() < TOLERANCE


@pytest.mark.slow
def test_the_rings_of_full_length() -> None:
    """Dilations up to 512 over 1100 steps: every ring runs through twice."""
    config = WaveNetConfig(residual_size=8, gate_size=4, skip_size=8, n_classes=8)
    tensors = wavenet.random_tensors(config, seed=1)
    for name, kind in WAVENETS.items():
        made = kind(config, tensors).sample(1100, seed=1, keep_logits=True)
        assert made.logits is not None
        expected = wavenet.teacher_forced_logits(config, tensors, made.samples[0])
        assert np.abs(made.logits[0] - expected).max() < TOLERANCE, name


def test_the_size_that_the_documentation_states() -> None:
    config, tensors = wavenet.random_wavenet("wavenet:512")
    assert config.n_blocks == 30
    assert config.sequential == 62
    weights = sum(t.size for name, t in tensors.items() if "embedding" not in name)
    assert round(weights / 1e6) == 24
    matrices = sum(t.size for n, t in tensors.items() if n.endswith("weight") and n[0] != "e")
    assert WAVENETS["wavenet-numpy"](config, tensors).macs_per_step == matrices
    assert {name: t.shape for name, t in tensors.items()} == wavenet.expected_shapes(config)
    assert all(t.dtype == np.float32 for t in tensors.values())


@pytest.mark.parametrize("name", WAVENETS)
def test_threads_are_given_back(name: str, tensors: Any) -> None:
    before = torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()]
    WAVENETS[name](SMALL, tensors, threads=before[0] + 1).sample(2)
    assert (torch.get_num_threads(), [p["num_threads"] for p in threadpool_info()]) == before


@pytest.mark.parametrize("name", WAVENETS)
def test_refusals(name: str, tensors: Any) -> None:
    kind = WAVENETS[name]
    with pytest.raises(InputError, match="does not run this kind"):
        kind(*random_model("dual:32"))
    with pytest.raises(InputError, match="runs on cpu only"):
        kind(SMALL, tensors, device="cuda")
    with pytest.raises(InputError, match="hears no mel"):
        kind(SMALL, tensors).sample(4, np.zeros((80, 4), np.float32))
    with pytest.raises(InputError, match="at least 1"):
        kind(SMALL, tensors).sample(0)


@pytest.mark.parametrize("spec", ["wavenet:7", "wavenet:0", "wavenet", "dual:896"])
def test_odd_specs_are_refused(spec: str) -> None:
    with pytest.raises(InputError, match="wavenet:512"):
        wavenet.random_wavenet(spec)


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ModelError, match="gate_size is 0"):
        WaveNetConfig(residual_size=8, gate_size=0, skip_size=8)


def test_they_are_among_the_baselines() -> None:
    assert {name: BASELINES[name] for name in WAVENETS} == WAVENETS
    assert not BASELINES["numpy"].supports(SMALL)


def test_importing_the_samplers_loads_no_torch() -> None:
    code = "import sys, wavernn_fast.baselines.wavenet_all; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
