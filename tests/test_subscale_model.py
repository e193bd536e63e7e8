"""Subscale models: training, eager and float64 reference are one function, and what it may know.

What a logit may depend on is written out here (`may_hear`) and held against every input sample of
a small utterance, both ways: nothing else is heard, and all of it is.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import cache

import cases
import numpy as np
import pytest
import reference
import torch
from reference_subscale import _Heard, run_subscale
from test_wavernn_model import assert_same, model_of, trained_weights
from train_runs import one_thread  # noqa: F401

from wavernn_fast.config import ModelConfig, OutputConfig
from wavernn_fast.errors import InputError
from wavernn_fast.evaluation import Evaluator
from wavernn_fast.models import eager_subscale
from wavernn_fast.models.eager import make_eager
from wavernn_fast.models.eager_subscale import EagerSubscale
from wavernn_fast.models.wavernn import Batch, WaveRNN
from wavernn_fast.scoring import negative_log_likelihood

EXACT = 1e-11  # of a logit, float64 against float64,
SOLVED = 1e-8  # and where each has solved equations of a condition of some 100,000
AUX = {"aux_size": 3, "aux_channels": 10, "aux_blocks": 2, "aux_kernel": 5}
MEL = {"n_mels": 5, "hop_length": 16}

CONFIGS = [
    cases.subscale_config(1, 2, 1),
    cases.subscale_config(2, 0, 0, first_input=-1.0),
    cases.subscale_config(2, 7, 3, **MEL),
    cases.subscale_config(4, 4, 1, **MEL, **AUX),
    cases.subscale_config(4, 5, 2),
    cases.subscale_config(8, 1, 1, **MEL, first_input=0.5),
    cases.subscale_config(8, 3, 0, **MEL, **AUX),
    cases.subscale_config(16, 2, 1),
    cases.subscale_config(16, 3, 2, **MEL, **AUX),
    cases.predicted_config(2, 3, 1, 3, hop_length=16, power=2.0, preemphasis=0.9),
    cases.predicted_config(16, 3, 2, 1, hop_length=16, **AUX, output=OutputConfig(deemphasis=0.85)),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=cases.case_id)
FREE = [config for config in CONFIGS if not config.n_mels]


@cache
def eager_of(config: ModelConfig) -> EagerSubscale:
    made = make_eager(config, trained_weights(config), "float64")
    assert isinstance(made, EagerSubscale)
    return made


def exact(config: ModelConfig) -> float:
    assert config.subscale is not None
    return SOLVED if config.subscale.prediction_reach else EXACT


@cache
def spoiled(config: ModelConfig) -> dict[str, np.ndarray]:
    """Weights that no file may hold: something where a row would see itself or one after it."""
    assert config.subscale is not None
    weight = trained_weights(config)["subscale.input.weight"]
    later = np.triu(np.ones((config.subscale.factor,) * 2, np.float32))[:, None, :, None]
    return {**trained_weights(config), "subscale.input.weight": weight + later}


@cache
def spoiled_model(config: ModelConfig) -> WaveRNN:
    model = copy.deepcopy(model_of(config))
    weight = torch.from_numpy(spoiled(config)["subscale.input.weight"])
    model.subscale.shared.data.zero_()
    model.subscale.weight.data.copy_(weight / model.subscale.gains)
    return model


def whole(config: ModelConfig, samples: np.ndarray, mel: np.ndarray | None) -> Batch:
    """One utterance of whole columns as a batch of one segment."""
    assert config.subscale is not None
    radius, rows = config.aux_radius, config.subscale.factor
    frames = np.zeros((0, 0), np.float32) if mel is None else np.pad(mel, ((0, 0), (radius,) * 2))
    own = torch.from_numpy(samples.astype(np.int64))[None]
    beside = (rows * config.subscale.horizon,) * 2
    return Batch(
        own,
        torch.full((1, rows), -1),
        torch.from_numpy(frames)[None],
        torch.nn.functional.pad(own, beside, value=-1),
    )


def model_logits(
    config: ModelConfig,
    samples: np.ndarray,
    mel: np.ndarray | None,
    model: Callable[[ModelConfig], WaveRNN] = model_of,
) -> np.ndarray:
    with torch.no_grad():
        logits, _ = model(config)(whole(config, samples, mel))
    return logits[:, 0].double().numpy()


def work(config: ModelConfig, n: int = 64) -> tuple[np.ndarray, np.ndarray | None]:
    return cases.random_samples(config, n), cases.mel_for(config, n)


# --- one function -----------------------------------------------------------------------------


@every_config
def test_the_model_is_the_float64_reference(config):
    samples, mel = work(config)
    expected = run_subscale(config, trained_weights(config), mel, forced=samples, n_samples=64)
    assert_same(model_logits(config, samples, mel), expected["logits"])
    assert np.array_equal(expected["samples"], samples)


def test_the_eager_model_predicts_a_few_frames_at_a_time(monkeypatch):
    config = CONFIGS[-1]
    samples, mel = work(config)
    whole_mel = eager_of(config).teacher_forced_logits(samples, mel)
    monkeypatch.setattr(eager_subscale, "_PREDICTED_AT_ONCE", 3)  # of four
    in_parts = eager_of(config).teacher_forced_logits(samples, mel)
    assert np.abs(in_parts - whole_mel).max() < SOLVED


@pytest.mark.parametrize("count", [64, 61, 17, 2, 1])
@every_config
def test_the_eager_model_is_the_float64_reference(config, count):
    """For whole columns and others, and where most rows have no sample at all."""
    samples, mel = work(config, count)
    tensors = trained_weights(config)
    expected = run_subscale(config, tensors, mel, count, forced=samples)["logits"]
    found = eager_of(config).teacher_forced_logits(samples, mel)
    assert found.shape == (count, 512)
    assert np.abs(found - expected).max() < exact(config)


@every_config
def test_the_form_for_gpus_is_the_same_function(config):
    """PyTorch's fused GRU over rows as a batch, which runs on a CPU too."""
    batch = whole(config, *work(config))
    model = model_of(config)
    with torch.no_grad():
        x, h = model._inputs(batch), torch.zeros(config.subscale_factor, config.hidden_size)
        for found, expected in zip(
            model._fused(x, batch, h), model._stepwise(x, batch, h), strict=True
        ):
            assert torch.allclose(found, expected, atol=1e-5)


@every_config
def test_losses_are_the_likelihood_of_the_logits(config):
    samples, mel = work(config)
    with torch.no_grad():
        losses, _ = model_of(config).losses(whole(config, samples, mel))
    logits = eager_of(config).teacher_forced_logits(samples, mel)
    nats = negative_log_likelihood(config, logits, samples).mean()
    assert float(losses.coarse + losses.fine) == pytest.approx(nats, abs=1e-4)


def test_one_row_that_hears_nobody_is_an_ordinary_model():
    """With B = 1 the network gives its biases, which any bias of the gates may hold."""
    config = CONFIGS[0]
    tensors = trained_weights(config)
    samples, _ = work(config)
    plain = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    heard = _Heard(config.subscale, plain, np.zeros(0), 0).at(0)
    plain["gru.b_input"] = plain["gru.b_input"] + plain.pop("gru.w_conditioning") @ heard
    ordinary = dataclasses.replace(config, subscale=None)
    expected = reference.run(ordinary, plain, n_steps=64, forced=samples)["logits"]
    found = run_subscale(config, tensors, forced=samples, n_samples=64)["logits"]
    assert np.abs(found - expected).max() < exact(config)


def test_an_utterance_without_samples_is_refused_as_by_the_other_cores():
    eager = eager_of(FREE[0])
    with pytest.raises(InputError, match="at least 1; found 0"):
        eager.teacher_forced_logits(np.zeros(0, np.int32))
    with pytest.raises(InputError, match="at least 1; found 0"):
        eager.generate(0)
    empty = run_subscale(FREE[0], trained_weights(FREE[0]), n_samples=0)
    assert empty["logits"].shape == (0, 512)


@pytest.mark.parametrize("config", [FREE[2], CONFIGS[3]], ids=cases.case_id)
def test_a_beginning_is_scored_with_the_samples_that_it_hears(config):
    """PyTorch's likelihood of the first samples is theirs within the whole."""

    class Fake:
        voc = type("Voc", (), {"cpu_threads": 1})

        def __init__(self) -> None:
            self.config, self._torch = config, eager_of(config)

    samples, mel = work(config, 128)
    logits = eager_of(config).teacher_forced_logits(samples, mel)
    for first in (128, 57, 1):
        found = Evaluator._torch_nll(Fake(), samples, first, mel)  # type: ignore[arg-type]
        nats = negative_log_likelihood(config, logits[:first], samples[:first])
        assert found == pytest.approx(nats.mean(), rel=1e-10)


# --- drawing ----------------------------------------------------------------------------------


class ByTheEngine(EagerSubscale):
    """Draws as the engine does: the words of (step: column, item 0, fold: row)."""

    seed = 0

    def _draw(self, part, logits, places):
        drawn = [
            [
                reference.categorical(
                    x.numpy(), int(reference.philox_words(self.seed, i, 1, fold=row)[0, part])
                )[0]
                for x, (row, i) in zip(stream, places, strict=True)
            ]
            for stream in logits
        ]
        return torch.tensor(drawn)


@pytest.mark.parametrize("count", [96, 83, 1])
@every_config
def test_rows_drawn_a_horizon_apart_are_rows_drawn_one_after_the_other(config, count):
    tensors, mel = trained_weights(config), cases.mel_for(config, count)
    eager = ByTheEngine(config, tensors, "float64")
    eager.seed = 2**40 + 7
    made = eager.generate(count, mel, return_logits=True)
    expected = run_subscale(config, tensors, mel, count, seed=eager.seed)
    assert expected["margin"].min() > 1e-9  # no draw hangs by a rounding
    assert made.samples.shape == (1, count)
    assert np.array_equal(made.samples[0], expected["samples"])
    assert made.logits is not None
    assert np.abs(made.logits[0] - expected["logits"]).max() < exact(config)


@pytest.mark.parametrize("config", [CONFIGS[3], CONFIGS[4]], ids=cases.case_id)
def test_streams_of_a_batch_draw_for_themselves_and_repeat_with_the_seed(config):
    eager, mel = eager_of(config), cases.mel_for(config, 48)
    made = eager.generate(48, mel, batch=3, seed=5, return_logits=True)
    assert made.logits is not None
    assert len({stream.tobytes() for stream in made.samples}) == 3
    for samples, logits in zip(made.samples, made.logits, strict=True):
        assert np.abs(eager.teacher_forced_logits(samples, mel) - logits).max() < exact(config)
    assert np.array_equal(eager.generate(48, mel, batch=3, seed=5).samples, made.samples)
    assert not np.array_equal(eager.generate(48, mel, batch=3, seed=6).samples, made.samples)


def test_the_reference_draws_by_given_uniforms_and_takes_the_best_class():
    config, tensors = FREE[2], trained_weights(FREE[2])
    words = np.stack([reference.philox_words(3, 0, 6, fold=row)[:, :2] for row in range(4)], axis=1)
    uniforms = words.reshape(24, 2) / 2.0**32
    drawn = run_subscale(config, tensors, n_samples=24, seed=3)["samples"]
    given = run_subscale(config, tensors, n_samples=24, uniforms=uniforms)
    assert np.array_equal(given["samples"], drawn)
    best = run_subscale(config, tensors, n_samples=24, greedy=True)
    assert np.array_equal(best["samples"] >> 8, best["logits"][:, :256].argmax(axis=1))


def test_folding_is_refused():
    with pytest.raises(InputError, match="draws an utterance as a whole"):
        eager_of(FREE[0]).generate(40, fold=(20, 4))


# --- what may depend on what ------------------------------------------------------------------


def may_hear(config: ModelConfig, n: int, other: int) -> str:
    """What the logits of sample n may know of sample `other`: all, its "coarse" byte, or none.

    The state of row s at column i holds everything that its columns before i have heard, and the
    network hears rows before s up to column i + F. So rows before are heard up to there, the row
    itself up to its last column, and rows after never.
    """
    assert config.subscale is not None
    rows, ahead = config.subscale.factor, config.subscale.horizon
    (i, s), (column, row) = divmod(n, rows), divmod(other, rows)
    if other == n:
        return "coarse"
    heard = column <= i + ahead if row < s else row == s and column < i
    return "all" if heard else "none"


def directly(config: ModelConfig, n: int, other: int) -> bool:
    """Whether the network's own window, or the last sample of the row, holds `other`."""
    assert config.subscale is not None
    rows, ahead = config.subscale.factor, config.subscale.horizon
    (i, s), (column, row) = divmod(n, rows), divmod(other, rows)
    return (row < s and abs(column - i) <= ahead) or (row == s and column == i - 1)


def reaction(
    logits: Callable[[np.ndarray], np.ndarray], samples: np.ndarray, byte: int
) -> np.ndarray:
    """Whether coarse and fine logits of n move with sample m: bool [m, n, 2]."""
    before = logits(samples)
    moved = np.zeros((len(samples), len(samples), 2), bool)
    for m in range(len(samples)):
        changed = samples.copy()
        changed[m] ^= byte
        differs = (logits(changed) != before).reshape(len(samples), 2, 256)
        moved[m] = differs.any(axis=2)
    return moved


def rule(config: ModelConfig, count: int, byte: int) -> np.ndarray:
    """What `reaction` may be, by `may_hear`."""
    allowed = np.zeros((count, count, 2), bool)
    for m in range(count):
        for n in range(count):
            heard = may_hear(config, n, m)
            allowed[m, n] = [heard == "all", heard == "all" or (heard == "coarse" and byte > 255)]
    return allowed


REACH = [
    cases.subscale_config(4, 2, 0),
    cases.subscale_config(4, 2, 1),
    cases.subscale_config(2, 4, 2, channels=20, n_mels=3, hop_length=4),  # few relus may all be off
    cases.subscale_config(8, 1, 0),
    cases.subscale_config(4, 0, 0),
]


@pytest.mark.parametrize("engine", ["model", "eager", "reference"])
@pytest.mark.parametrize("byte", [0x5500, 0x0055], ids=["coarse", "fine"])
@pytest.mark.parametrize("config", REACH, ids=cases.case_id)
def test_every_sample_moves_what_may_hear_it_and_nothing_else(config, byte, engine):
    """Whatever stands in the weights of rows that are not before."""
    count, tensors = 32 if engine != "reference" else 16, spoiled(config)
    samples, mel = work(config, count)
    eager = make_eager(config, tensors, "float64")

    def by_reference(x: np.ndarray) -> np.ndarray:
        return run_subscale(config, tensors, mel, count, forced=x)["logits"]

    logits = {
        "model": lambda x: model_logits(config, x, mel, spoiled_model),
        "eager": lambda x: eager.teacher_forced_logits(x, mel),
        "reference": by_reference,
    }[engine]
    moved, allowed = reaction(logits, samples, byte), rule(config, count, byte)
    assert not (moved & ~allowed).any(), np.argwhere(moved & ~allowed)[:5]
    near = np.array([[directly(config, n, m) for n in range(count)] for m in range(count)])
    heard = moved | ~near[:, :, None]
    assert heard.all(), np.argwhere(~heard)[:5]


def test_weights_of_rows_that_are_not_before_are_never_used():
    config = REACH[1]
    samples, _ = work(config, 32)
    expected = run_subscale(config, trained_weights(config), n_samples=32, forced=samples)["logits"]
    found = run_subscale(config, spoiled(config), n_samples=32, forced=samples)["logits"]
    assert np.array_equal(found, expected)
    assert_same(model_logits(config, samples, None, spoiled_model), expected)


@pytest.mark.parametrize("config", REACH[:3], ids=cases.case_id)
def test_the_last_column_that_a_row_hears_is_its_own_and_the_horizon(config):
    assert config.subscale is not None
    rows, ahead = config.subscale.factor, config.subscale.horizon
    samples, mel = work(config, 32)
    before = model_logits(config, samples, mel)
    changed = samples.copy()
    changed[rows * (ahead + 1)] ^= 0x5500  # (row 0, column F + 1)
    moved = (model_logits(config, changed, mel) != before).any(axis=1)
    assert not moved[:rows].any()  # column 0
    assert moved[rows + 1 : 2 * rows].all()  # column 1, rows after the first
    assert not moved[rows]


def test_samples_that_do_not_exist_are_heard_as_silence():
    config = FREE[2]
    batch = whole(config, work(config)[0], None)
    silent = batch._replace(around=torch.where(batch.around < 0, 32768, batch.around))
    with torch.no_grad():
        assert torch.equal(model_of(config)(silent)[0], model_of(config)(batch)[0])


def test_the_network_goes_on_beyond_the_ends():
    """All silent, every column hears the same, the first and the last too."""
    config = FREE[2]
    assert config.subscale is not None
    around = torch.zeros(1, 4 * (7 + 2 * config.subscale.horizon))
    with torch.no_grad():
        heard = model_of(config).subscale(around)[0].numpy()
    assert heard.shape == (7, 4, 6)
    assert np.array_equal(heard, np.broadcast_to(heard[:1], heard.shape))
    eager = eager_of(config)
    [theirs] = eager._heard([(3, around.double().view(1, -1, 4).transpose(1, 2))]).numpy()
    assert np.abs(theirs[0] - heard[:, 3]).max() < 1e-5
