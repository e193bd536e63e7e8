"""The float64 reference means what it says: against torch, known answers and distributions."""

from __future__ import annotations

import math

import cases
import numpy as np
import pytest
import reference
import tolerances
from quick import first_is_quick

from wavernn_fast.config import ModelConfig, OutputConfig
from wavernn_fast.errors import InputError
from wavernn_fast.models.eager import EagerDual, fold_starts, make_eager
from wavernn_fast.models.eager_residual import EagerResidual, _logistics
from wavernn_fast.models.eager_wave import join_folds, resynthesise

every_small = pytest.mark.parametrize("config", cases.small_configs(), ids=cases.case_id)
every_case = pytest.mark.parametrize("config", cases.enumerate_configs(), ids=cases.case_id)


# --- chance ---------------------------------------------------------------------------------------

ONES = 0xFFFFFFFF
KNOWN_ANSWERS = [  # the published vectors of Philox4x32-10: key, counter, words
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES), (ONES, ONES, ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("key", "counter", "words"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(key, counter, words):
    found = reference.philox4x32(np.array(key, np.uint64), np.array([counter], np.uint64))
    assert tuple(int(word) for word in found[0]) == words


def test_philox_words_count_steps_across_32_bits_and_separate_items_and_folds():
    seed = (0x299F31D0 << 32) | 0xA4093822
    step = (0x85A308D3 << 32) | 0x243F6A88
    found = reference.philox_words(seed, step - 1, 3, item=0x13198A2E, fold=0x03707344)
    assert tuple(int(word) for word in found[1]) == KNOWN_ANSWERS[2][2]
    across = reference.philox_words(7, ONES, 2)
    assert (across[1] == reference.philox_words(7, ONES + 1, 1)[0]).all()
    others = [reference.philox_words(7, 0, 4, *place) for place in ((0, 0), (1, 0), (0, 1))]
    assert len({other.tobytes() for other in others}) == 3


def chi_square(counts, probabilities):
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_categorical_draws_follow_the_softmax():
    classes, n = 64, 40_000
    logits = np.random.default_rng(5).standard_normal(classes) * 1.5
    words = reference.philox_words(11, 0, n)[:, 0]
    counts = np.zeros(classes)
    for word in words:
        counts[reference.categorical(logits, int(word))[0]] += 1
    probabilities = np.exp(logits) / np.exp(logits).sum()
    limit = classes - 1 + 5.0 * math.sqrt(2.0 * (classes - 1))
    assert chi_square(counts, probabilities) < limit
    assert chi_square(counts, np.roll(probabilities, 1)) > 10 * limit  # the test can tell


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_evenly_spaced_words_meet_each_class_in_exact_proportion(temperature):
    n = 1 << 14
    logits = np.random.default_rng(6).standard_normal(32) * 2.0
    words = (np.arange(n, dtype=np.uint64) << np.uint64(18)).tolist()
    drawn = [reference.categorical(logits, word, temperature)[0] for word in words]
    powered = np.exp(logits / temperature)
    expected = powered / powered.sum() * n
    assert np.abs(np.bincount(drawn, minlength=32) - expected).max() <= 1.1
    assert drawn == sorted(drawn)


def test_classes_without_weight_are_never_drawn():
    logits = np.array([-60.0, 0.0, -60.0, 0.5, -60.0])
    assert reference.categorical(logits, 0)[0] == 1
    assert reference.categorical(logits, ONES)[0] == 3


@pytest.mark.parametrize("classes", [10, 30, 256, 512, 1024])
def test_the_sum_of_the_weights_fits_32_bits(classes):
    assert int(reference.categorical_weights(np.zeros(classes)).sum()) < 2**32


def test_the_margin_is_the_distance_at_which_a_draw_changes():
    logits = np.random.default_rng(8).standard_normal(40) * 1.5
    for word in reference.philox_words(3, 0, 200)[:, 0].tolist():
        chosen, margin = reference.categorical(logits, word)
        near, far = (int(margin * share * 2.0**32) for share in (0.999, 1.001))
        inside = [max(word - near, 0), min(word + near, ONES)]
        assert all(reference.categorical(logits, w)[0] == chosen for w in inside)
        outside = [max(word - far - 2, 0), min(word + far + 2, ONES)]
        assert any(reference.categorical(logits, w)[0] != chosen for w in outside)


def test_greedy_takes_the_lowest_of_equal_logits():
    assert reference.greedy_class(np.array([0.0, 2.0, 1.0, 2.0])) == (1, 0.0)


def mixture_cdf(x, logits):
    mixture, means, log_scales = np.split(logits, 3)
    weights = np.exp(mixture) / np.exp(mixture).sum()
    z = (x[:, None] - means) / np.exp(log_scales)
    return (weights / (1.0 + np.exp(-z))).sum(axis=1)


def largest_cdf_gap(x, logits):
    """Kolmogorov-Smirnov distance of the draws that were not clipped, to the exact mixture."""
    x = np.sort(x)
    inner = np.flatnonzero((x > -1.0) & (x < 1.0))
    return np.abs(mixture_cdf(x[inner], logits) - (inner + 0.5) / len(x)).max()


MIXTURE = np.array([0.5, -0.5, 1.0, -0.6, 0.7, 0.1, -2.0, -2.5, -1.2])  # 3 logits, means, scales


def test_logistic_draws_follow_the_mixture():
    n = 20_000
    x = np.zeros(n)
    for i, word in enumerate(reference.philox_words(4, 0, n)):
        k, _ = reference.categorical(MIXTURE[:3], int(word[0]))
        x[i] = reference.logistic(MIXTURE[3 + k], MIXTURE[6 + k], int(word[1]))
    limit = 1.95 / math.sqrt(n)  # exceeded once in a thousand seeds
    assert np.abs(x).max() <= 1.0
    assert largest_cdf_gap(x, MIXTURE) < limit
    assert largest_cdf_gap(x, np.roll(MIXTURE, 1)) > 5 * limit  # the test can tell


def test_eager_logistic_draws_follow_the_mixture():
    import torch

    n = 20_000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        x = _logistics(torch.from_numpy(MIXTURE).expand(n, -1)).numpy()
    assert largest_cdf_gap(x, MIXTURE) < 1.95 / math.sqrt(n)


def test_the_extreme_words_of_a_logistic_stay_finite():
    for word in (0, ONES):
        assert math.isfinite(reference.logistic(0.0, 5.0, word))
    assert reference.logistic(0.25, -100.0, ONES) == pytest.approx(0.25, abs=1e-12)


# --- the equations --------------------------------------------------------------------------------


def forced_reference(config: ModelConfig, n: int, dtype: str = "float64"):
    tensors, mel = cases.random_tensors(config, 1), cases.mel_for(config, n)
    samples = cases.random_samples(config, n)
    found = make_eager(config, tensors, dtype).teacher_forced_logits(samples, mel)
    return found, reference.run(config, tensors, mel, n_steps=n, forced=samples)["logits"]


@every_case
def test_reference_and_torch_agree_under_teacher_forcing(config):
    found, expected = forced_reference(config, 40 if config.hidden_size >= 512 else 150)
    assert tolerances.logit_error(found, expected) < tolerances.EAGER_FLOAT64[0]


@every_small
def test_single_precision_torch_keeps_the_fp32_tolerance(config):
    found, expected = forced_reference(config, 150, "float32")
    assert tolerances.logit_error(found, expected) < tolerances.EAGER_FLOAT32[0]


@every_small
def test_the_eager_loop_computes_the_logits_of_its_own_samples(config):
    n = 40
    tensors, mel = cases.random_tensors(config, 2), cases.mel_for(config, n)
    made = make_eager(config, tensors, "float64").generate(
        n, mel, batch=2, seed=3, return_logits=True
    )
    assert made.samples.shape == (2, n)
    assert (made.samples[0] != made.samples[1]).any()
    for samples, logits in zip(made.samples, made.logits, strict=True):
        expected = reference.run(config, tensors, mel, n_steps=n, forced=samples)["logits"]
        limit = 1e-4 if config.draws_values else 1e-9  # values are returned as float32
        assert tolerances.logit_error(logits, expected) < limit


def test_the_eager_loop_repeats_with_its_seed():
    config = cases.small_configs()[0]
    model = EagerDual(config, cases.random_tensors(config))
    first, again, other = (model.generate(50, seed=seed).samples for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_eager_draws_have_the_likelihood_the_logits_promise():
    config = cases.dual_config(32, 16)
    made = EagerDual(config, cases.random_tensors(config)).generate(
        400, batch=8, return_logits=True
    )
    logits = made.logits.astype(np.float64).reshape(8, 400, 2, 256)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    classes = np.stack([made.samples >> 8, made.samples & 255], axis=-1)
    surprise = -np.take_along_axis(log_p, classes[..., None], axis=-1)[..., 0]
    entropy = -(np.exp(log_p) * log_p).sum(axis=-1)
    difference = (surprise - entropy).ravel()
    assert abs(difference.mean()) < 4.0 * difference.std() / math.sqrt(difference.size)


@every_small
def test_a_run_forced_along_its_own_samples_repeats_its_logits(config):
    n = 60
    tensors, mel = cases.random_tensors(config), cases.mel_for(config, n)
    free = reference.run(config, tensors, mel, n_steps=n, seed=9)
    forced = reference.run(config, tensors, mel, n_steps=n, forced=free["samples"])
    assert (free["logits"] == forced["logits"]).all()
    assert (free["samples"] == forced["samples"]).all()


@every_small
def test_given_uniforms_replace_the_generator(config):
    n = 40
    tensors, mel = cases.random_tensors(config), cases.mel_for(config, n)
    words = reference.philox_words(21, 0, n, item=2, fold=1)[:, : config.draws_per_step]
    drawn = reference.run(config, tensors, mel, n_steps=n, seed=21, item=2, fold=1)
    given = reference.run(config, tensors, mel, n_steps=n, uniforms=words / 2.0**32)
    assert (drawn["samples"] == given["samples"]).all()


def test_the_coarse_half_never_sees_the_coarse_value_of_its_own_step():
    config = cases.dual_config(64, 32)
    tensors, samples = cases.random_tensors(config), cases.random_samples(config, 20)
    changed = samples.copy()
    changed[-1] ^= 0xFF00
    before, after = (
        reference.run(config, tensors, n_steps=20, forced=s)["logits"] for s in (samples, changed)
    )
    assert (before[:, :256] == after[:, :256]).all()
    assert np.abs(before[-1, 256:] - after[-1, 256:]).max() > 0.1


# --- the cases are fit for their purpose ----------------------------------------------------------


def distributions(config, logits):
    if config.core == "dual":
        return [logits[:, :256], logits[:, 256:]]
    if config.head == "softmax":
        return [logits]
    return [logits[:, : config.n_classes // 3]] if config.head == "mol" else []


@every_small
def test_the_cases_are_lively(config):
    n = 120
    tensors, mel = cases.random_tensors(config), cases.mel_for(config, n)
    run = reference.run(config, tensors, mel, n_steps=n, seed=4)
    for logits in distributions(config, run["logits"]):
        if logits.shape[1] == 1:
            continue  # a single mixture has nothing to choose
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        entropy = float(-(p * np.log(p + 1e-300)).sum(axis=1).mean())
        most = math.log(logits.shape[1])
        assert 0.3 * most < entropy < 0.95 * most
    assert run["logits"].std(axis=0).mean() > 0.3  # they move with time


@every_small
def test_one_changed_sample_changes_the_logits_that_follow(config):
    n = 24
    tensors, mel = cases.random_tensors(config), cases.mel_for(config, n)
    low, high = cases.random_samples(config, n), cases.random_samples(config, n)
    top = 65535 if config.core == "dual" else config.n_classes - 1
    low[5], high[5] = (-1.0, 1.0) if config.draws_values else (0, top)
    one, other = (
        reference.run(config, tensors, mel, n_steps=n, forced=s)["logits"] for s in (low, high)
    )
    assert (one[:5] == other[:5]).all()
    assert np.abs(one[6:9] - other[6:9]).max() > 0.3


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "fp16":
        return values.astype(np.float16).astype(np.float32)
    bits = values.view(np.uint32).astype(np.uint64)  # bf16: nearest even
    bits = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) & np.uint64(0xFFFF0000)
    return bits.astype(np.uint32).view(np.float32)


@every_case
@pytest.mark.parametrize(("dtype", "share"), first_is_quick([("fp16", 0.1), ("bf16", 0.5)]))
def test_rounded_weights_use_up_only_their_share_of_the_tolerance(config, dtype, share):
    n = 20 if config.hidden_size >= 512 else 150
    tensors, mel = cases.random_tensors(config, 1), cases.mel_for(config, n)
    samples = cases.random_samples(config, n)
    coarse = {
        name: rounded(value, dtype) if value.ndim == 2 and name != "upsample.kernel" else value
        for name, value in tensors.items()
    }
    expected, found = (
        reference.run(config, t, mel, n_steps=n, forced=samples)["logits"]
        for t in (tensors, coarse)
    )
    limit = share * tolerances.logit_limit(expected, dtype)
    assert 0.0 < tolerances.logit_error(found, expected) < limit


# --- folds and the end of the pipe ----------------------------------------------------------------


def test_folds_begin_where_the_original_begins_them():
    assert fold_starts(1000, 200, 50) == [0, 250, 500, 750]
    assert fold_starts(1050, 200, 50) == [0, 250, 500, 750]
    assert fold_starts(1051, 200, 50) == [0, 250, 500, 750, 1000]
    with pytest.raises(InputError, match="longer than the overlap"):
        fold_starts(50, 200, 50)


def test_every_eager_fold_equals_a_reference_run_from_its_place():
    config = cases.residual_config(
        32, 48, bits=9, hop_length=5, n_mels=7, upsample_left=2, upsample_right=2, **cases._AUX
    )
    tensors, mel = cases.random_tensors(config), cases.random_mel(config, 26)
    target, overlap = 35, 10
    starts = fold_starts(26 * 5, target, overlap)
    made = EagerResidual(config, tensors, "float64").generate(
        mel=mel, fold=(target, overlap), return_logits=True
    )
    assert made.samples.shape == (len(starts), target + 2 * overlap)
    for start, samples, logits in zip(starts, made.samples, made.logits, strict=True):
        n = min(len(samples), 26 * 5 - start)
        expected = reference.run(
            config, tensors, mel, n_steps=n, first_sample=start, forced=samples[:n]
        )["logits"]
        assert tolerances.logit_error(logits[:n], expected) < tolerances.EAGER_FLOAT64[0]


def test_the_crossfade_keeps_the_power_and_the_legacy_one_has_a_hole():
    ones = np.ones((3, 40 + 2 * 20))
    alternating = ones * np.array([1.0, 0.0, 1.0])[:, None]
    other = ones - alternating
    power = sum(join_folds(x, 20, "constant_power") ** 2 for x in (alternating, other))
    assert power[20:-20] == pytest.approx(1.0, abs=1e-12)
    assert len(power) == 3 * 60 + 20
    legacy = sum(join_folds(x, 20, "legacy") ** 2 for x in (alternating, other))
    assert legacy[20:-20].min() == 0.0


@pytest.mark.parametrize("fold", [None, (30, 10)])
@pytest.mark.parametrize("decode_first", [True, False])
def test_the_eager_waveform_has_the_length_rule_and_ends_in_silence(fold, decode_first):
    output = OutputConfig(
        mu_law=True,
        decode_before_crossfade=decode_first,
        deemphasis=0.5,
        length="frames_minus_one",
        fade_out_frames=2,
    )
    config = cases.residual_config(32, 16, bits=9, output=output)
    tensors, mel = cases.random_tensors(config), cases.random_mel(config, 30)
    wave = resynthesise(make_eager(config, tensors), mel, fold=fold, seed=1)
    assert wave.shape == (29 * config.hop_length,)
    assert wave[-1] == 0.0
    assert wave.std() > 0.01


@pytest.mark.parametrize(
    ("mel", "sentence"),
    [(None, "found none"), (np.zeros((3, 9), np.float32), r"found shape \(3, 9\)")],
)
def test_a_wrong_mel_is_refused_with_its_shape(mel, sentence):
    config = cases.residual_config(32, 16, bits=9)
    with pytest.raises(InputError, match=sentence):
        make_eager(config, cases.random_tensors(config)).generate(mel=mel)
