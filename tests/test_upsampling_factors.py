"""Upsampling by any number of factors: a file means what its published class makes of that tuple.

Every program of fatchord's family takes the factors as a tuple and makes a filter of each; most
were published with three.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoint_builders as builders
import checkpoint_twins as twins
import family_twins
import model_bin_writer
import multiband_twin
import numpy as np
import pytest
import reference
import tolerances

from wavernn_fast import checkpoints, likelihood
from wavernn_fast.errors import ModelError
from wavernn_fast.utterance import make_request
from wavernn_fast.vocoder import Vocoder

FACTORS = [(48,), (11, 25), (25, 11), (3, 2, 4, 2), (2,) * 9, (2, 1, 2, 1, 2, 3, 1, 2, 1, 1, 2)]
LONGEST = (2,) * 6 + (1,) * 26  # as many as are read
N_FRAMES = 3


def _forced(config: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A mel, labels to force, and the values that are fed back before each step."""
    rng = np.random.default_rng(5)
    mel = rng.uniform(0, 1, (config.n_mels, N_FRAMES)).astype(np.float32)
    labels = rng.integers(0, config.n_classes, N_FRAMES * config.hop_length).astype(np.int32)
    return mel, labels, np.concatenate([[0.0], 2.0 * labels[:-1] / (config.n_classes - 1) - 1.0])


def _pad(scales: tuple[int, ...]) -> int:
    """Frames of padding that the filters do not reach beyond, as the published classes need it."""
    reach, after = 0, 1
    for scale in reversed(scales):
        after *= scale
        reach += after
    return max(2, -(-reach // after))


@pytest.mark.parametrize("scales", [*FACTORS, LONGEST], ids=str)
@pytest.mark.parametrize("dialect", ["fatchord", "torchaudio"])
def test_any_number_of_factors_means_what_the_module_means(
    dialect: str, scales: tuple[int, ...], tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {"scales": scales, "pad": _pad(scales), "classes": 256}
    twin = twins.fatchord(builders.fatchord(**sizes), **sizes)
    path = builders.save(tmp_path / "m.pt", builders.BUILDERS[dialect](**sizes))
    config, tensors = checkpoints.load(path)
    assert (config.source, config.hop_length) == (dialect, np.prod(scales))
    mel, labels, fed = _forced(config)
    expected = twin.logits(mel, fed)
    found = reference.run(config, tensors, mel, forced=labels)["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    voc = Vocoder(config, tensors, device="cpu", cpu_threads=1)
    request = make_request(config, mel, None, 0)
    parts = [part for _, part in likelihood.teacher_forced_logits(voc.voice(), request, labels)]
    error = tolerances.logit_error(np.concatenate(parts), expected)
    assert error < min(1e-4, tolerances.logit_limit(expected, "fp32"))


@pytest.mark.parametrize("scales", FACTORS[:4], ids=str)
@pytest.mark.parametrize("dialect", ["begeekmyfriend", "scwavernn"])
def test_relatives_take_any_number_too(
    dialect: str, scales: tuple[int, ...], tmp_path: Path
) -> None:
    state = builders.BUILDERS[dialect](scales=scales)
    switches: dict[str, Any] = {
        "begeekmyfriend": {"bias": True, "beyond": -4.0},
        "scwavernn": {"speaker": 256},
    }[dialect]
    twin = family_twins.relative(state, scales=scales, **switches)
    config, tensors = checkpoints.load(builders.save(tmp_path / "m.pt", state))
    assert (config.source, config.hop_length) == (dialect, np.prod(scales))
    speaker = np.random.default_rng(8).normal(0.0, 0.1, 256) if config.speaker_size else None
    mel, labels, fed = _forced(config)
    expected = twin.logits(mel, fed, speaker)
    found = reference.run(config, tensors, mel, forced=labels, speaker=speaker)["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("scales", FACTORS[:4], ids=str)
@pytest.mark.parametrize("form", ["checkpoint", "model.bin"])
def test_the_single_gru_model_takes_any_number_too(
    form: str, scales: tuple[int, ...], tmp_path: Path
) -> None:
    state = builders.geneing(scales=scales, aux=8, drops=True)
    if form == "model.bin":
        bare = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
        path = model_bin_writer.write(tmp_path / "model.bin", bare, scales, 1)
    else:
        path = builders.save(tmp_path / "m.pt", state)
    config, tensors = checkpoints.load(path)
    assert (config.source, config.hop_length) == ("geneing", np.prod(scales))
    mel, labels, fed = _forced(config)
    expected = twins.geneing(state, scales=scales).logits(mel, fed)
    found = reference.run(config, tensors, mel, forced=labels)["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("scales", FACTORS[:3], ids=str)
def test_a_model_of_bands_takes_any_number_too(scales: tuple[int, ...], tmp_path: Path) -> None:
    state = builders.multiband(scales=scales)
    twin = multiband_twin.multiband(state, scales=scales)
    config, tensors = checkpoints.load(builders.save(tmp_path / "m.pt", state))
    assert (config.source, config.hop_length) == ("multiband", 4 * np.prod(scales))
    rng = np.random.default_rng(5)
    mel = rng.uniform(-5.0, 1.0, (config.n_mels, N_FRAMES)).astype(np.float32)
    labels = rng.integers(0, 512, 4 * int(np.prod(scales)) * N_FRAMES).astype(np.int32)
    voc = Vocoder(config, tensors, device="cpu", cpu_threads=1)
    request = make_request(config, mel, None, 0)
    parts = [part for _, part in likelihood.teacher_forced_logits(voc.voice(), request, labels)]
    expected = twin.logits(mel, labels.reshape(-1, 4)).reshape(len(labels), -1)
    assert tolerances.logit_error(np.concatenate(parts), expected) < 1e-4


@pytest.mark.parametrize("scales", FACTORS[:4], ids=str)
def test_filters_without_padding_take_any_number_too(
    scales: tuple[int, ...], tmp_path: Path
) -> None:
    state = builders.mkotha(scales=scales)
    config, tensors = checkpoints.load(builders.save(tmp_path / "m.pt", state))
    hop = int(np.prod(scales))
    assert (config.source, config.hop_length) == ("mkotha", hop)
    rng = np.random.default_rng(5)
    mel = rng.uniform(0, 1, (config.n_mels, N_FRAMES)).astype(np.float32)
    forced = rng.integers(0, 1 << 16, (N_FRAMES - 2) * hop)
    found = reference.run(config, tensors, mel, forced=forced)["logits"]
    expected = twins.mkotha(state, scales=scales).logits(mel, forced)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("scales", [(5, 5, 11), (4, 8, 8), (5, 5, 8), (4, 4, 16), (2, 2, 3)])
def test_a_published_file_that_lost_its_last_filter_is_not_taken_for_one_of_two(
    scales: tuple[int, ...], tmp_path: Path
) -> None:
    state = builders.fatchord(scales=scales)
    del state["upsample.up_layers.5.weight"]
    with pytest.raises(ModelError) as caught:
        checkpoints.load(builders.save(tmp_path / "m.pt", state))
    hop = scales[0] * scales[1]
    assert caught.value.problems == (
        "missing tensor upsample.up_layers.5.weight, expected shape [1, 1, 1, S2]",
        f"2 upsampling filters would lead to {hop} samples a frame: fewer than 3 are taken for "
        "all that the model has only where they lead to 40 or more",
    )


@pytest.mark.parametrize("lost", [1, 3])
def test_a_lost_filter_that_is_not_the_last_is_named(lost: int, tmp_path: Path) -> None:
    state = builders.fatchord(scales=(11, 5, 5))
    del state[f"upsample.up_layers.{lost}.weight"]
    with pytest.raises(ModelError) as caught:
        checkpoints.load(builders.save(tmp_path / "m.pt", state))
    assert any(f"missing tensor upsample.up_layers.{lost}." in p for p in caught.value.problems)


def test_more_filters_than_are_read_are_named(tmp_path: Path) -> None:
    scales = (*LONGEST, 1)
    state = builders.fatchord(scales=scales, pad=_pad(scales))
    with pytest.raises(ModelError, match=r"unexpected tensor upsample\.up_layers\.65\.weight"):
        checkpoints.load(builders.save(tmp_path / "m.pt", state))
