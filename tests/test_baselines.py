"""Every baseline draws from the model it was given: its logits are those of the float64 reference.

The loop that is timed is the loop that is checked: it keeps its logits, and the reference follows
the samples it drew. What only runs on a GPU runs here on the CPU, where nothing is captured.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import cases
import checkpoint_builders
import numpy as np
import pytest
import reference
import torch
from quick import quick_where
from threadpoolctl import threadpool_info

from wavernn_fast import checkpoints
from wavernn_fast.baselines import BASELINES, Baseline, make
from wavernn_fast.baselines.cells import fused, loop_weights
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import InputError, MissingDependencyError
from wavernn_fast.models.eager import torch_threads
from wavernn_fast.synthetic import random_mel, random_model

WORST = 1e-4  # of a logit; these models give about 1e-5
STEPS = 90  # more than a replay, and a whole number of neither replays nor calls

MANY = 8000  # streams, where frequencies are looked at
FARTHEST = 1.95 / np.sqrt(MANY)  # 0.1 % of honest draws are farther away from their distribution

_MEL = {"hop_length": 5, "n_mels": 7, "upsample_left": 1, "upsample_right": 2}
_AUX = {"aux_size": 3, "aux_channels": 10, "aux_blocks": 2, "aux_kernel": 5}
CONFIGS = {
    "dual": cases.dual_config(64, 40, first_input=-1.0),
    "dual-mel": cases.dual_config(64, 23, **_MEL, **_AUX),
    "dual-inside": cases.dual_config(32, 16, **_MEL, pad="none"),
    "residual": cases.residual_config(48, 32, bits=9, **_MEL, **_AUX),
    "residual-mol": cases.residual_config(32, 48, **_MEL, **_AUX),
}
ON_CPU = ["numpy", "torch-eager", "torch-inference", "torch-script", "onnx-step", "onnx-scan"]


class Cupy:
    """As much of CuPy as the loop uses, by numpy."""

    random = SimpleNamespace(
        RandomState=lambda seed: SimpleNamespace(random_sample=np.random.default_rng(seed).random)
    )
    asnumpy = staticmethod(np.array)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@pytest.fixture
def stand_ins(monkeypatch):
    """Let what needs a GPU run without: cupy is numpy, and torch.compile leaves things be."""
    monkeypatch.setitem(sys.modules, "cupy", Cupy())
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def built(name: str, config: ModelConfig, tensors: Any, **options: Any) -> Baseline:
    """Build a baseline on the CPU, whatever its devices."""
    found = BASELINES[name]
    on_cpu = type(name, (found,), {"devices": ("cpu",), "packages": (), "__doc__": found.__doc__})
    made: Baseline = on_cpu(config, tensors, **options)
    return made


def mel_of(config: ModelConfig, n_steps: int = STEPS) -> Any:
    frames = -(-n_steps // config.hop_length) + 8
    return random_mel(config, frames, seed=1) if config.n_mels else None


_expected: dict[Any, np.ndarray] = {}


def expected_logits(
    config: ModelConfig, tensors: Any, mel: Any, n_steps: int, forced: np.ndarray
) -> np.ndarray:
    """Logits of the reference, computed once where several baselines have drawn the same."""
    digest = hashlib.blake2b(forced.tobytes())
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]))
    key = (config, n_steps, digest.digest())
    if key not in _expected:
        run = reference.run(config, tensors, mel, n_steps=n_steps, forced=forced)
        _expected[key] = run["logits"]
    return _expected[key]


def worst_error(baseline: Baseline, n_steps: int = STEPS, tensors: Any = None) -> float:
    """Largest |logit - reference| of the first and last stream; reference of `tensors` if given."""
    config, mel = baseline.config, mel_of(baseline.config, n_steps)
    samples, logits = baseline.sample(n_steps, mel, seed=3, keep_logits=True)
    assert samples.shape == (baseline.streams, n_steps)
    assert samples.dtype == (np.float32 if config.draws_values else np.int32)
    assert logits is not None
    assert logits.shape == (baseline.streams, n_steps, config.logits_size)
    given, worst = tensors or baseline.tensors, 0.0
    for b in {0, baseline.streams - 1}:
        expected = expected_logits(config, given, mel, n_steps, samples[b])
        worst = max(worst, float(np.abs(logits[b] - expected).max()))
    return worst


# --- what they compute ----------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize("name", ON_CPU)
def test_logits_are_those_of_the_reference(name, model, streams):
    tensors = cases.random_tensors(CONFIGS[model], 0)
    assert worst_error(make(name, CONFIGS[model], tensors, streams=streams)) < WORST


@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize("name", ["cuda-graph", "cuda-graph-compiled", "cupy"])
def test_what_runs_on_a_gpu_agrees_too(name, model, stand_ins):
    tensors = cases.random_tensors(CONFIGS[model], 0)
    assert worst_error(built(name, CONFIGS[model], tensors, streams=3)) < WORST


@pytest.mark.parametrize("name", ["torch-compile", "torch-inference"])
def test_eager_steps_in_calls_agree(name, stand_ins):
    """The calls of torch-compile without the compiler: whole calls, a part of one, every model."""
    for config in CONFIGS.values():
        tensors = cases.random_tensors(config, 0)
        for n_steps in (1, 4, 90):
            assert worst_error(built(name, config, tensors, streams=2), n_steps) < WORST


@pytest.mark.slow
def test_the_compiled_step_agrees():
    """Once for real: Inductor compiles C++ (about ten seconds), and nothing afterwards."""
    config = CONFIGS["residual"]
    baseline = make("torch-compile", config, cases.random_tensors(config, 0), streams=2)
    assert worst_error(baseline) < WORST
    assert worst_error(baseline, 7) < WORST  # other lengths compile nothing new: it would raise


@pytest.mark.parametrize("spec", ["dual:896", "residual:512"])
@pytest.mark.parametrize("name", ON_CPU)
def test_full_size_models_agree(name, spec):
    config, tensors = random_model(spec)
    assert worst_error(make(name, config, tensors), 24) < WORST


@pytest.mark.parametrize("spec", ["embedded:32", "residual-gaussian:32", "residual-beta:32"])
def test_eager_runs_every_core(spec):
    config, tensors = random_model(spec)
    assert worst_error(make("torch-eager", config, tensors, streams=2), 24) < WORST


def test_eager_runs_subscale_models():
    config, tensors = random_model("subscale:32")
    made = make("torch-eager", config, tensors, streams=2).sample(240, mel_of(config, 240))
    assert made.samples.shape == (2, 240)
    assert len(np.unique(made.samples)) > 200


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("spec", ["dual-mel:32", "embedded:32", "residual-mol:32"])
def test_eager_on_a_device_is_eager(spec, streams):
    """What is done on a GPU, with the device being the CPU."""
    config, tensors = random_model(spec)
    baseline = make("torch-eager", config, tensors, streams=streams)
    mel = mel_of(config, 40)
    made, expected = (
        baseline._on_device(40, mel, 5, True),
        baseline.sample(40, mel, seed=5, keep_logits=True),
    )
    np.testing.assert_array_equal(made.samples, expected.samples)
    np.testing.assert_array_equal(made.logits, expected.logits)


def _of_four_bands():
    return checkpoint_builders.multiband()


def _of_speakers():
    return checkpoint_builders.yukarin(speakers=3)


@pytest.mark.parametrize(
    "model", ["dual-mel:32", "embedded:32", "residual-mol:32", _of_four_bands, _of_speakers]
)
def test_eager_has_all_that_its_loop_reads_on_the_device(model, tmp_path, monkeypatch):
    """Tensors of "meta" have no values, but no operation takes them together with the host's."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)
    if isinstance(model, str):
        config, tensors = random_model(model)
    else:
        config, tensors = checkpoints.load(checkpoint_builders.save(tmp_path / "a.pt", model()))
    kind = type(make("torch-eager", config, tensors))
    monkeypatch.setattr(kind, "devices", ("cpu", "meta"))
    eager = kind(config, tensors, streams=2, device="meta").model
    heard = eager.conditions(random_mel(config, 12))  # on the host
    placed = [rows.expand(2, -1, -1).to("meta") for rows in heard]
    with torch.device("meta"):
        made = [next(steps) for steps in [eager._steps(8, *placed)] for _ in range(3)]
    assert {tensor.device.type for step in made for tensor in step} == {"meta"}


@pytest.mark.parametrize("model", CONFIGS)
def test_every_weight_acts(model):
    """A wrong number in any tensor is found."""
    config = CONFIGS[model]
    tensors = cases.random_tensors(config, 0)
    for name, tensor in tensors.items():
        wrong = tensors | {name: tensor * np.float32(1.5)}
        assert worst_error(make("numpy", config, wrong), 24, tensors) > WORST, name


@pytest.mark.parametrize("name", [n for n in ON_CPU if n not in ("numpy", "torch-eager")])
def test_a_wrong_weight_is_found(name):
    config = CONFIGS["residual"]
    baseline = make(name, config, cases.random_tensors(config, 0))
    wrong = baseline.tensors | {"gru2.w_input": baseline.tensors["gru2.w_input"] * np.float32(1.1)}
    assert worst_error(baseline, 24, wrong) > WORST


@pytest.mark.parametrize("model", ["dual", "dual-mel", "residual-mol"])
@pytest.mark.parametrize("name", [n for n in ON_CPU if n != "torch-eager"])
def test_a_chunk_goes_on_where_the_last_one_ended(name, model, monkeypatch):
    config = CONFIGS[model]
    baseline = make(name, config, cases.random_tensors(config, 0), streams=2)
    monkeypatch.setattr(type(baseline), "chunk_steps", 7)
    assert worst_error(baseline) < WORST


def test_a_chunk_of_a_graph_is_whole_replays(stand_ins, monkeypatch):
    config = CONFIGS["dual-mel"]
    baseline = built("cuda-graph", config, cases.random_tensors(config, 0), streams=2)
    assert baseline.chunk_steps % baseline.unit == 0
    monkeypatch.setattr(type(baseline), "chunk_steps", 128)
    assert worst_error(baseline, 300) < WORST


# --- what they draw -------------------------------------------------------------------------------


def drawn_at_once(name: str, config: ModelConfig) -> tuple[Any, Any]:
    """First samples of `MANY` streams, which all have the same logits; these in float64."""
    baseline = make(name, config, cases.random_tensors(config, 0, gain=1.5), streams=MANY)
    made = baseline.sample(1, mel_of(config), seed=1, keep_logits=True)
    return made.samples[:, 0], made.logits[0, 0].astype(np.float64)


@pytest.mark.parametrize("bits", [2, 9])
@pytest.mark.parametrize("name", quick_where(lambda name: name != "torch-script", ON_CPU))
def test_classes_are_drawn_as_the_softmax_says(name, bits):
    """Kolmogorov and Smirnov's distance; few classes, as among many much else looks like it."""
    samples, logits = drawn_at_once(name, cases.residual_config(32, 16, bits=bits))
    share = np.exp(logits - logits.max())
    expected = np.cumsum(share / share.sum())
    found = np.cumsum(np.bincount(samples, minlength=2**bits)) / MANY
    assert np.abs(found - expected).max() < FARTHEST


@pytest.mark.parametrize("mixtures", [1, 10])
@pytest.mark.parametrize("name", ON_CPU)
def test_values_are_drawn_as_the_mixture_says(name, mixtures):
    samples, logits = drawn_at_once(name, cases.residual_config(32, 16, mixtures=mixtures))
    weights, means, log_scales = np.split(logits, 3)
    share = np.exp(weights) / np.exp(weights).sum()
    x = np.sort(samples.astype(np.float64))
    inside = (x > -1.0) & (x < 1.0)  # both ends hold what lies beyond
    assert inside.sum() > MANY / 10
    z = (x[inside, None] - means) / np.exp(log_scales)
    expected = (share / (1.0 + np.exp(-z))).sum(axis=1)
    found = (np.arange(MANY) + 0.5)[inside] / MANY
    assert np.abs(found - expected).max() < FARTHEST


@pytest.mark.parametrize("name", ON_CPU)
def test_seeds_and_streams_draw_differently(name):
    config = CONFIGS["dual"]
    baseline = make(name, config, cases.random_tensors(config, 0), streams=2)
    first, again, other = (baseline.sample(20, seed=seed).samples for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[0] != first[1]).any()


# --- how they behave ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ON_CPU)
def test_threads_of_the_process_are_given_back(name):
    config = CONFIGS["dual"]

    def threads() -> Any:
        return torch.get_num_threads(), [
            pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"
        ]

    baseline = make(name, config, cases.random_tensors(config, 0), threads=1)
    with torch_threads(2):
        expected = threads()
        baseline.sample(4)
        assert threads() == expected


def test_numpy_computes_with_the_threads_that_it_is_given(monkeypatch):
    config, seen = CONFIGS["dual"], []
    baseline = make("numpy", config, cases.random_tensors(config, 0), threads=1)
    draw = type(baseline)._cell

    def cell(*arguments: Any) -> Any:
        seen.extend(p["num_threads"] for p in threadpool_info() if p["internal_api"] == "openblas")
        return draw(*arguments)

    monkeypatch.setattr(type(baseline), "_cell", cell)
    baseline.sample(1)
    assert set(seen) == {1}


@pytest.mark.parametrize("name", [n for n in ON_CPU if n.startswith("torch")])
def test_torch_computes_with_the_threads_that_it_is_given(name, monkeypatch):
    config, seen = CONFIGS["dual"], []
    baseline = make(name, config, cases.random_tensors(config, 0), threads=1)
    place, loop = (baseline, "_steps") if name != "torch-eager" else (baseline.model, "_collect")
    inner = getattr(place, loop)

    def steps(*arguments: Any) -> Any:
        seen.append(torch.get_num_threads())
        return inner(*arguments)

    monkeypatch.setattr(place, loop, steps)
    with torch_threads(2):
        baseline.sample(1)
    assert seen == [1]


@pytest.mark.parametrize(
    "name", [n for n in BASELINES if BASELINES[n].packages and n[:7] != "wavenet"]
)
def test_a_missing_package_is_named(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    found = BASELINES[name]
    for package in found.packages:
        assert package in found.missing()
    config = CONFIGS["dual"]
    with pytest.raises(MissingDependencyError, match=f"{name} needs {found.packages[0]}"):
        make(name, config, cases.random_tensors(config, 0), device=found.devices[0])


def test_importing_the_baselines_loads_nothing_heavy():
    code = "import sys, wavernn_fast.baselines as b; print(len(b.BASELINES), *sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    count, *modules = result.stdout.split()
    assert int(count) == len(BASELINES)
    assert not {"torch", "onnx", "onnxruntime", "threadpoolctl", "cupy"} & set(modules)


def test_what_a_baseline_does_not_run_is_refused():
    config, tensors = random_model("embedded:32")
    with pytest.raises(InputError, match="numpy does not run this kind of model"):
        make("numpy", config, tensors)
    for spec in ("subscale:32", "residual-gaussian:32"):
        assert not fused(random_model(spec)[0])
    assert not fused(object())
    config, tensors = random_model("dual:32")
    with pytest.raises(InputError, match="no baseline 'mumpy'; there are numpy, "):
        make("mumpy", config, tensors)
    with pytest.raises(InputError, match="onnx-step runs on cpu only"):
        make("onnx-step", config, tensors, device="cuda")


@pytest.mark.parametrize("name", ON_CPU)
def test_wrong_input_is_refused(name):
    config = CONFIGS["dual-mel"]
    baseline = make(name, config, cases.random_tensors(config, 0))
    mel = random_mel(config, 4)
    with pytest.raises(InputError, match="21 samples wanted, the mel covers 20"):
        baseline.sample(21, mel)
    with pytest.raises(InputError, match=r"must be \[7, n_frames\]; found none"):
        baseline.sample(4)
    with pytest.raises(InputError, match=r"must be \[7, n_frames\]; found shape \(4, 7\)"):
        baseline.sample(4, mel.T)
    with pytest.raises(InputError, match="at least 1; found 0"):
        baseline.sample(0, mel)


def test_half_rows_of_the_dual_core_lie_side_by_side():
    """The order that `cells` promises: reset, update, candidate of the coarse half, then fine."""
    config = cases.dual_config(32, 16)
    tensors = cases.random_tensors(config, 0)
    found = loop_weights(config, tensors)["R"]
    expected = tensors["gru.w_recurrent"].reshape(3, 2, 16, 32).transpose(1, 0, 2, 3)
    np.testing.assert_array_equal(found, expected.reshape(96, 32))
