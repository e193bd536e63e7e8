"""Folds lie where the published code puts them and join as it joins them; short input works."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavernn_fast.config import ModelConfig, OutputConfig
from wavernn_fast.errors import InputError
from wavernn_fast.fold import crossfade, fade_curves, fold_plan, join_folds
from wavernn_fast.samples import decode_all, deemphasize, mu_law_expand

lengths = st.integers(0, 3000)
overlaps = st.integers(0, 60)


def published_fold(n_samples: int, target: int, overlap: int) -> tuple[int, int]:
    """Number of folds and zero padding, by the published procedure."""
    num_folds = (n_samples - overlap) // (target + overlap)
    remaining = n_samples - (num_folds * (target + overlap) + overlap)
    if remaining:
        num_folds += 1
        return num_folds, target + 2 * overlap - (remaining + overlap)
    return num_folds, 0


def published_unfold(folds: np.ndarray, target: int, overlap: int, *, legacy: bool) -> np.ndarray:
    """Crossfade and overlap-add, by the published procedure."""
    silence = overlap // 2
    t = np.linspace(-1, 1, overlap - silence, dtype=np.float64)
    fade_in, fade_out = np.sqrt(0.5 * (1 + t)), np.sqrt(0.5 * (1 - t))
    fade_in = np.concatenate([np.zeros(silence), fade_in])
    if legacy:
        fade_out = np.concatenate([fade_out, np.zeros(silence)])
    else:
        fade_out = np.concatenate([np.ones(silence), fade_out])
    out = np.zeros(len(folds) * (target + overlap) + overlap)
    for i, fold in enumerate(folds):
        y = fold.copy()
        if overlap:
            y[:overlap] *= fade_in
            y[-overlap:] *= fade_out
        start = i * (target + overlap)
        out[start : start + target + 2 * overlap] += y
    return out


@settings(max_examples=200, deadline=None)
@given(n_samples=lengths, overlap=overlaps, extra=st.integers(1, 500))
def test_plan_covers_every_sample_and_no_more(n_samples: int, overlap: int, extra: int) -> None:
    plan = fold_plan(n_samples, overlap + extra, overlap)
    assert plan.num_folds == len(plan.starts) == len(plan.lengths)
    ends = [start + length for start, length in zip(plan.starts, plan.lengths, strict=True)]
    assert max(ends) == n_samples
    assert all(0 < length <= plan.fold_length for length in plan.lengths) or n_samples == 0
    for end, start in zip(ends, plan.starts[1:], strict=False):
        assert start == end - overlap or end == n_samples


@settings(max_examples=200, deadline=None)
@given(n_samples=lengths, overlap=overlaps, extra=st.integers(1, 500))
def test_plan_is_the_published_one(n_samples: int, overlap: int, extra: int) -> None:
    target = overlap + extra
    plan = fold_plan(n_samples, target, overlap)
    if n_samples <= overlap:
        assert plan.plain
        assert plan.lengths == (n_samples,)
        assert plan.starts == (0,)
        return
    num_folds, padding = published_fold(n_samples, target, overlap)
    assert not plan.plain
    assert plan.num_folds == num_folds
    assert plan.starts == tuple(i * (target + overlap) for i in range(num_folds))
    assert plan.fold_length - plan.lengths[-1] == padding


@pytest.mark.parametrize("flavour", ["constant_power", "legacy"])
@settings(max_examples=60, deadline=None)
@given(n_samples=st.integers(1, 2000), overlap=overlaps, extra=st.integers(1, 300))
def test_crossfade_is_the_published_one(
    flavour: str, n_samples: int, overlap: int, extra: int
) -> None:
    target = overlap + extra
    plan = fold_plan(n_samples, target, overlap)
    rng = np.random.default_rng(n_samples)
    folds = rng.normal(size=(plan.num_folds, plan.fold_length))
    found = crossfade(folds, plan, flavour)
    if plan.plain:
        expected = folds[0]
    else:
        expected = published_unfold(folds, target, overlap, legacy=flavour == "legacy")
    np.testing.assert_allclose(found, expected[:n_samples], rtol=0.0, atol=1e-15)
    cut = [fold[:n] for fold, n in zip(folds, plan.lengths, strict=True)]
    np.testing.assert_array_equal(crossfade(cut, plan, flavour), found)


@pytest.mark.parametrize("overlap", [1, 2, 3, 550, 551])
def test_constant_power_curves_keep_the_power_and_legacy_ones_have_a_hole(overlap: int) -> None:
    fade_in, fade_out = fade_curves(overlap, "constant_power")
    np.testing.assert_allclose(fade_in**2 + fade_out**2, 1.0, atol=1e-15)
    if overlap > 2:
        fade_in, fade_out = fade_curves(overlap, "legacy")
        assert (fade_in**2 + fade_out**2).min() < 1e-12


def test_no_samples_make_one_empty_plain_fold() -> None:
    plan = fold_plan(0, 100, 10)
    assert (plan.plain, plan.num_folds, plan.lengths) == (True, 1, (0,))
    assert crossfade(np.zeros((1, 0)), plan).size == 0
    assert fold_plan(0, 100, 0).plain


@pytest.mark.parametrize(("target", "overlap"), [(100, 100), (0, 0), (50, 60), (100, -1)])
def test_impossible_sizes_are_refused(target: int, overlap: int) -> None:
    with pytest.raises(InputError, match="target"):
        fold_plan(1000, target, overlap)


def test_missing_or_short_folds_and_unknown_flavours_are_refused() -> None:
    plan = fold_plan(500, 100, 20)
    folds = np.zeros((plan.num_folds, plan.fold_length))
    with pytest.raises(InputError, match="at least"):
        crossfade(folds[:-1], plan)
    with pytest.raises(InputError, match="at least"):
        crossfade(folds[:, :-1], plan)
    with pytest.raises(InputError, match="linear"):
        crossfade(folds, plan, "linear")


@settings(max_examples=100, deadline=None)
@given(n_frames=st.integers(1, 60), hop=st.integers(1, 40), overlap=overlaps)
def test_frames_of_a_fold_are_those_its_samples_lie_in(
    n_frames: int, hop: int, overlap: int
) -> None:
    plan = fold_plan(n_frames * hop, overlap + 37, overlap)
    for i, (start, length) in enumerate(zip(plan.starts, plan.lengths, strict=True)):
        first, count, phase = plan.frames(i, hop)
        frames = {sample // hop for sample in range(start, start + length)}
        assert frames == set(range(first, first + count))
        assert first * hop + phase == start
        assert first + count <= n_frames


def model(**output: object) -> ModelConfig:
    return ModelConfig(
        core="residual",
        hidden_size=32,
        fc_size=32,
        head="softmax",
        n_classes=512,
        sample_rate=8000,
        hop_length=10,
        n_mels=20,
        output=OutputConfig(mu_law=True, **output),  # type: ignore[arg-type]
    )


def random_folds(n_samples: int, target: int, overlap: int):
    plan = fold_plan(n_samples, target, overlap)
    rng = np.random.default_rng(5)
    return plan, [rng.integers(0, 512, n).astype(np.int32) for n in plan.lengths]


def test_mu_law_is_undone_before_the_crossfade_or_after_it() -> None:
    plan, folds = random_folds(1000, 200, 50)
    values = [2.0 * fold / 511.0 - 1.0 for fold in folds]
    before = crossfade([mu_law_expand(v, 512) for v in values], plan)
    after = mu_law_expand(crossfade(values, plan), 512)
    assert np.abs(before - after).max() > 0.1
    np.testing.assert_allclose(join_folds(folds, plan, model()), before, atol=1e-7)
    np.testing.assert_allclose(
        join_folds(folds, plan, model(decode_before_crossfade=False)), after, atol=1e-7
    )


def test_rest_of_the_pipe_follows_the_crossfade() -> None:
    plan, folds = random_folds(1000, 200, 50)
    config = model(
        decode_before_crossfade=False,
        deemphasis=0.9,
        length="frames_minus_one",
        fade_out_frames=5,
    )
    joined = crossfade([2.0 * fold / 511.0 - 1.0 for fold in folds], plan)
    wave = deemphasize(mu_law_expand(joined, 512), 0.9)[0][:990]
    wave[-50:] *= np.linspace(1.0, 0.0, 50)
    np.testing.assert_array_equal(join_folds(folds, plan, config), wave.astype(np.float32))


@pytest.mark.parametrize("decode_before", [True, False])
def test_plain_fold_is_the_unfolded_utterance_bit_for_bit(decode_before: bool) -> None:
    plan, folds = random_folds(50, 200, 50)
    config = model(decode_before_crossfade=decode_before, fade_out_frames=2)
    assert plan.plain
    np.testing.assert_array_equal(join_folds(folds, plan, config), decode_all(folds[0], config))
