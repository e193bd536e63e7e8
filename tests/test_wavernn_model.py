"""The trainable model is the same function as the reference, the eager model and every engine."""

from __future__ import annotations

import dataclasses
from functools import cache

import cases
import numpy as np
import pytest
import reference
import torch
from train_runs import one_thread  # noqa: F401

from wavernn_fast import _C, scoring
from wavernn_fast.conditioning import Conditioner
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import ModelError
from wavernn_fast.models.eager import make_eager
from wavernn_fast.models.wavernn import Batch, WaveRNN, to_canonical

LOGITS = 1e-5  # of the largest logit (they reach 10): float32 against float64
AUX = {"aux_size": 3, "aux_channels": 10, "aux_blocks": 2, "aux_kernel": 5}

CONFIGS = [
    cases.dual_config(32, 16),
    cases.dual_config(96, 23, first_input=-1.0),
    cases.dual_config(64, 33, n_mels=7, hop_length=5),
    cases.dual_config(128, 48, n_mels=4, hop_length=8, first_input=0.5, **AUX),
    cases.dual_config(32, 16, n_mels=5, hop_length=3, **{**AUX, "aux_kernel": 1, "aux_blocks": 0}),
]
ENGINES = [*_C.available_isas(), "reference"]
FRAMES = 9


@cache
def trained_weights(config: ModelConfig) -> dict[str, np.ndarray]:
    """Random canonical weights that training can hold: the mel is not scaled within a frame."""
    tensors = cases.random_tensors(config)
    if config.n_mels:
        tensors["upsample.kernel"] = np.ones((config.hop_length, 1), np.float32)
    return tensors


@cache
def model_of(config: ModelConfig) -> WaveRNN:
    model = WaveRNN(config)
    model.load_canonical(trained_weights(config))
    return model


def steps_of(config: ModelConfig) -> int:
    return FRAMES * config.hop_length if config.n_mels else 60


def whole(config: ModelConfig, samples: np.ndarray, mel: np.ndarray | None) -> Batch:
    """One utterance as a batch of one segment."""
    radius = config.aux_radius
    frames = np.zeros((0, 0), np.float32) if mel is None else np.pad(mel, ((0, 0), (radius,) * 2))
    return Batch(
        torch.from_numpy(samples.astype(np.int64))[None],
        torch.tensor([-1]),
        torch.from_numpy(frames)[None],
    )


def model_logits(config: ModelConfig, samples: np.ndarray, mel: np.ndarray | None) -> np.ndarray:
    with torch.no_grad():
        logits, _ = model_of(config)(whole(config, samples, mel))
    return logits[:, 0].double().numpy()


@cache
def work(config: ModelConfig) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """(samples, mel, logits of the model)."""
    n = steps_of(config)
    samples, mel = cases.random_samples(config, n), cases.mel_for(config, n)
    return samples, mel, model_logits(config, samples, mel)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= LOGITS * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("config", CONFIGS, ids=cases.case_id)
def test_the_model_is_the_float64_reference(config):
    samples, mel, found = work(config)
    run = reference.run(config, trained_weights(config), mel, n_steps=len(samples), forced=samples)
    assert_same(found, run["logits"])


@pytest.mark.parametrize("config", CONFIGS, ids=cases.case_id)
def test_the_model_is_the_eager_model(config):
    samples, mel, found = work(config)
    eager = make_eager(config, trained_weights(config), "float64")
    assert_same(found, eager.teacher_forced_logits(samples, mel))


def engine_logits(
    config: ModelConfig,
    tensors: dict[str, np.ndarray],
    samples: np.ndarray,
    mel: np.ndarray | None,
    engine: str,
) -> np.ndarray:
    """Logits of an engine, made for an instruction set or in float64 ("reference")."""
    chosen = {"device": engine} if engine == "reference" else {"isa": engine}
    made = _C.Engine(dataclasses.asdict(config), tensors, **chosen)
    interp = hold = None
    if mel is not None:
        interp, hold = Conditioner(config, tensors).window(mel, 0, mel.shape[1])
    streams, counts = [made.open(0)], [len(samples)]
    [(_, logits)] = made.run(
        streams, counts, [interp], [hold], forced=[samples], return_logits=True
    )
    assert logits is not None
    return logits


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("config", CONFIGS, ids=cases.case_id)
def test_the_model_is_every_engine(config, engine):
    samples, mel, found = work(config)
    logits = engine_logits(config, trained_weights(config), samples, mel, engine)
    assert_same(found, logits.astype(np.float64))


@pytest.mark.parametrize("config", CONFIGS, ids=cases.case_id)
def test_losses_of_an_utterance_are_the_engines_likelihood(config):
    samples, mel, _ = work(config)
    logits = engine_logits(config, trained_weights(config), samples, mel, "reference")
    nats = scoring.negative_log_likelihood(config, logits, samples)
    with torch.no_grad():
        losses, _ = model_of(config).losses(whole(config, samples, mel))
    assert float(losses.coarse + losses.fine) == pytest.approx(nats.mean(), rel=0, abs=1e-4)
    assert losses.coarse > 1.0  # the parts are told apart
    assert losses.fine > 1.0
    coarse = scoring._cross_entropy(logits[:, :256].astype(np.float64), samples >> 8)
    assert float(losses.coarse) == pytest.approx(coarse.mean(), rel=0, abs=1e-4)


# --- what may depend on what ------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS[1:4], ids=cases.case_id)
@pytest.mark.parametrize("half", ["coarse", "fine"])
def test_a_sample_changes_no_logit_that_comes_before_it_is_known(config, half):
    samples, mel, before = work(config)
    t = len(samples) // 2
    changed = samples.copy()
    changed[t] ^= 0x5500 if half == "coarse" else 0x0055
    after = model_logits(config, changed, mel)
    moved = np.abs(after - before).max(axis=1) > 1e-4
    assert np.array_equal(after[:t], before[:t])
    assert np.array_equal(after[t, :256], before[t, :256])  # coarse logits know nothing of t
    fine_differs = not np.array_equal(after[t, 256:], before[t, 256:])
    assert fine_differs == (half == "coarse")  # the fine ones know its coarse half, only that
    assert moved[t + 1]


def test_coarse_logits_read_the_fine_state_only_through_the_recurrence():
    """c_t reaches the coarse half at t + 1 and not at t: its column there gets no gradient."""
    config = CONFIGS[0]
    model = WaveRNN(config)
    samples, _, _ = work(config)
    losses, _ = model.losses(whole(config, samples, None))
    (losses.coarse + losses.fine).backward()
    gradient = model.gru.w_sample.grad
    assert gradient is not None
    column = gradient.reshape(3, 2, config.hidden_size // 2, 3)[..., 2]
    assert not column[:, 0].any()
    assert column[:, 1].all()


def test_the_masked_column_is_exported_as_zero_whatever_it_holds():
    config = CONFIGS[0]
    model = WaveRNN(config)
    with torch.no_grad():
        model.gru.w_sample.fill_(2.0)
    exported = model.canonical()["gru.w_sample"].reshape(3, 2, config.hidden_size // 2, 3)
    assert not exported[:, 0, :, 2].any()
    assert (exported[:, 1] == 2.0).all()
    assert (exported[:, 0, :, :2] == 2.0).all()


@pytest.mark.parametrize("config", CONFIGS[2:4], ids=cases.case_id)
def test_a_frame_changes_no_logit_outside_its_reach(config):
    samples, mel, before = work(config)
    assert mel is not None
    frame, radius, hop = FRAMES // 2, config.aux_radius, config.hop_length
    changed = mel.copy()
    changed[:, frame] += 1.0
    after = model_logits(config, samples, changed)
    first = (frame - radius) * hop
    assert np.array_equal(after[:first], before[:first])
    assert (np.abs(after[first : first + hop] - before[first : first + hop]).max(axis=1) > 0).all()


def test_a_segment_inside_an_utterance_goes_on_like_the_whole():
    config = CONFIGS[3]
    samples, mel, expected = work(config)
    batch, at, hop = whole(config, samples, mel), 4, config.hop_length
    first = Batch(batch.samples[:, : at * hop], batch.before, batch.mel[..., : at + 4])
    rest = Batch(batch.samples[:, at * hop :], batch.samples[:, at * hop - 1], batch.mel[..., at:])
    model = model_of(config)
    with torch.no_grad():
        found, h = model(first)
        more, _ = model(rest, h)
    assert_same(torch.cat([found, more])[:, 0].double().numpy(), expected)


def test_streams_of_a_batch_do_not_mix():
    config = CONFIGS[3]
    samples, mel, expected = work(config)
    one = whole(config, samples, mel)
    other = Batch(65535 - one.samples, torch.tensor([17]), one.mel.flip(2))
    both = Batch(*(torch.cat(pair) for pair in zip(one, other, strict=True)))
    with torch.no_grad():
        logits, _ = model_of(config)(both)
        alone, _ = model_of(config)(other)
    assert_same(logits[:, 0].double().numpy(), expected)
    assert_same(logits[:, 1].double().numpy(), alone[:, 0].double().numpy())


# --- weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS, ids=cases.case_id)
def test_canonical_weights_come_back_unchanged(config):
    tensors = trained_weights(config)
    found = model_of(config).canonical()
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    again = WaveRNN(config)
    again.load_canonical(found)
    assert all(torch.equal(p, q) for p, q in zip(
        again.parameters(), model_of(config).parameters(), strict=True
    ))  # fmt: skip


def test_exported_weights_are_copies():
    model = WaveRNN(CONFIGS[0])
    exported = to_canonical(CONFIGS[0], model.state_dict())
    exported["gru.w_recurrent"][:] = 0.0
    assert model.gru.w_recurrent.any()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (cases.residual_config(32, 16, bits=9), "this model is residual"),
        (cases.dual_config(32, 16, n_mels=4, hop_length=3, upsample_left=1), "2 taps"),
        (cases.dual_config(32, 16, n_mels=4, hop_length=3, upsample_right=2), "3 taps"),
    ],
)
def test_models_that_training_does_not_know_are_refused(config, words):
    with pytest.raises(ModelError, match=words):
        WaveRNN(config)


def test_weights_of_another_kind_are_refused():
    config = CONFIGS[2]
    tensors = trained_weights(config)
    ripple = {**tensors, "upsample.kernel": 1.5 * tensors["upsample.kernel"]}
    with pytest.raises(ModelError, match="scales its mel within a frame"):
        WaveRNN(config).load_canonical(ripple)
    with pytest.raises(ModelError, match="w_recurrent has shape"):
        WaveRNN(dataclasses.replace(config, hidden_size=96)).load_canonical(tensors)


def test_new_weights_depend_on_the_seed_alone():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return WaveRNN(CONFIGS[3]).gru.w_recurrent.detach()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    for gate in weights(1).chunk(3):
        assert torch.allclose(gate @ gate.T, torch.eye(len(gate)), atol=1e-5)
