"""The GPU baselines on the CPU: what is timed on a GPU agrees with the float64 reference."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import reference

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import baselines
import gpu_baselines

PLAIN = [name for name in gpu_baselines.PEERS if "compile" not in name]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", PLAIN)
def test_each_baseline_agrees_with_the_reference_on_its_own_samples(name, batch):
    peer = gpu_baselines.make(name, "cpu", batch, hidden=64)
    assert baselines.check(peer) < 1e-4
    assert baselines.run(peer, 100) == 100 * batch


def test_a_replay_goes_on_where_the_last_one_ended():
    """More steps than one replay holds: state and inputs pass through the buffers."""
    peer = gpu_baselines.make("torch CUDA graph", "cpu", 1, hidden=64)
    n = 2 * gpu_baselines.STEPS_A_REPLAY + 5
    samples, logits = peer.sample(n, keep_logits=True)
    # the reference follows the drawn samples
    expected = reference.run(peer.config, peer.tensors, n_steps=n, forced=samples[0])["logits"]
    assert np.abs(logits[0] - expected).max() < 1e-4


def test_a_wrong_baseline_is_not_timed():
    name = "torch fused"
    peer = gpu_baselines.make(name, "cpu", 1, hidden=64)
    peer.weights["O2"] = peer.weights["O2"] * 1.5
    with pytest.raises(RuntimeError, match="torch fused: logits are off by"):
        gpu_baselines.measure(name, peer, 0.1)
