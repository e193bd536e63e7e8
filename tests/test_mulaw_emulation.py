"""Models that hear their labels with mu-law undone, in both kernels of the residual core on fibers.

What the heads have in common is proved in test_residual_emulation.py and
test_many_units_emulation.py; here is what differs: a table of what each label is heard as.
"""

from __future__ import annotations

import dataclasses

import cases
import numpy as np
import pytest
import tolerances
from engine_work import Work, make
from residual_works import AUX, FRAMES
from test_many_emulation import Streams, same
from test_many_units_emulation import many
from truths import Truth, rounded

from wavernn_fast import _C
from wavernn_fast.config import ModelConfig

LABELS = cases.residual_config(48, 32, bits=7, feedback="mu_law", **FRAMES, **AUX)
# More labels than threads, and no conditioning.
MORE = cases.residual_config(32, 32, bits=10, feedback="mu_law", n_mels=0, hop_length=1)
MODELS = {"128 labels": LABELS, "1024 labels": MORE}
EVERY_MODEL = pytest.mark.parametrize("model", MODELS)
LAUNCH = {  # quick
    "128 labels": {"blocks": 4, "warps": 4, "exchanges": 4},
    "1024 labels": {"blocks": 3, "warps": 11, "exchanges": 4},
}
STEPS = 48


def linear(config: ModelConfig) -> ModelConfig:
    """The planted fault: the same model, which hears its labels as they are."""
    return dataclasses.replace(config, feedback="linear")


def farthest(truth: Truth, config: ModelConfig, **options) -> float:
    """The error of forced logits, in shares of what is allowed."""
    engine = make(config, truth.tensors, device="emu", **options)
    logits = truth.run(engine, truth.n, forced=[truth.expected["samples"]])[1]
    return tolerances.logit_error(logits, truth.expected["logits"]) / tolerances.KERNEL_EXACT[0]


@pytest.fixture(scope="module")
def truths() -> dict[str, Truth]:
    found = {name: Truth(config, STEPS, seed=4) for name, config in MODELS.items()}
    assert all(truth.expected["margin"].min() > 1e-6 for truth in found.values())
    return found


@EVERY_MODEL
@pytest.mark.parametrize("schedule", ["fair", "random:1", "starve:1"])
def test_free_draws_and_forced_logits_are_the_double_references(truths, model, schedule):
    truths[model].check(truths[model].engine(isa=schedule, **LAUNCH[model]))


@EVERY_MODEL
def test_labels_that_are_fed_back_as_they_are_would_be_found(truths, model):
    """The check above can fail."""
    truth = truths[model]
    assert farthest(truth, truth.config, **LAUNCH[model]) <= 1
    assert farthest(truth, linear(truth.config), **LAUNCH[model]) > 1000


@EVERY_MODEL
def test_many_streams_draw_as_the_double_reference(model):
    truth = Truth(MODELS[model], 18, seed=3, alter=rounded)
    assert truth.expected["margin"].min() > 1e-6
    options = {"dtype": "fp16", "blocks": 2, "warps": 4, "streams": 100}
    options |= {"split": True, "isa": "random:2/room:4"}
    truth.check(truth.engine(**options))
    assert farthest(truth, linear(truth.config), **options) > 1000


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cpu"},
        {"device": "emu", "blocks": 2, "warps": 2},
        {"device": "emu", "dtype": "fp16", "streams": 4, "split": True, "isa": "fair/room:4"},
    ],
    ids=["cpu", "emu", "many"],
)
def test_what_every_label_is_heard_as_is_what_the_cpu_hears(options):
    """Logits of a model whose second step is its first sample times one number, label by label."""
    config = cases.residual_config(16, 16, bits=6, feedback="mu_law", n_mels=0, hop_length=1)
    tensors = {name: np.zeros_like(value) for name, value in cases.random_tensors(config).items()}
    for name in ("input.weight", "fc1.weight", "fc2.weight", "fc3.weight"):
        tensors[name][0, 0] = 1.0
    # GRUs of zero weights halve a state of zero; u is x, and relu hands it on where it is positive.
    tensors["fc1.bias"][0] = tensors["fc2.bias"][0] = 1.0
    engine = make(config, tensors, **options)
    labels, n = np.arange(64, dtype=np.int32), 2
    forced = [np.array([label, 0], np.int32) for label in labels]
    streams = [engine.open(0) for _ in labels]
    given = {"forced": forced, "return_logits": True}
    runs = engine.run(streams, [n] * len(labels), [None] * 64, [None] * 64, **given)
    x = 2.0 * labels / 63 - 1
    expected = 2.0 + np.sign(x) * np.expm1(np.abs(x) * np.log1p(63.0)) / 63
    assert np.abs([logits[1, 0] for _, logits in runs] - expected).max() <= 1e-6


def test_any_launch_and_any_pieces_give_the_same_bits():
    work, found = Work(LABELS, 24), set()
    for options in (LAUNCH["128 labels"], {"blocks": 2, "warps": 8}, {"blocks": 16, "warps": 1}):
        engine = make(LABELS, work.tensors, device="emu", isa="random:4", **options)
        samples, logits = work.run(engine, return_logits=True)
        found.add(samples.tobytes() + logits.tobytes())
        assert np.array_equal(work.pieces(engine, [6, 18]), samples)
    assert len(found) == 1


def test_many_streams_in_pieces_and_in_any_company_give_the_same_bits():
    streams = Streams(LABELS, 12, longest=14)
    engine = many(LABELS, streams.tensors, streams=2, isa="fair/room:4")
    together = streams.run(engine, range(12))
    assert same(
        [streams.run(engine, [i])[0] for i in (0, 5, 11)], [together[i] for i in (0, 5, 11)]
    )
    opened = [engine.open(1000 + i) for i in range(12)]
    parts = []
    for first in (True, False):
        lengths = [n // 6 * 6 if first else n % 6 for n in streams.lengths]
        rows = [[r[k] for r in streams.rows] for k in (0, 1)]
        if not first:
            rows = [
                [r[k][n // 6 :] for r, n in zip(streams.rows, streams.lengths, strict=True)]
                for k in (0, 1)
            ]
        parts.append(engine.run(opened, lengths, *rows, return_logits=True))
    for (a, _), (b, _), (whole, _) in zip(*parts, together, strict=True):
        assert np.array_equal(np.concatenate([a, b]), whole)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_inexact_kernel_stays_within_the_table(dtype):
    work = Work(LABELS, STEPS)
    engine = make(
        LABELS, work.tensors, device="emu", exact=False, dtype=dtype, **LAUNCH["128 labels"]
    )
    logits = work.run(engine, forced=work.samples, return_logits=True)[1]
    assert tolerances.logit_error(logits, work.logits) <= tolerances.logit_limit(work.logits, dtype)


# --- plans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan_of", [_C.gpu_plan, _C.many_plan], ids=["one", "many"])
def test_a_plan_has_the_table_and_is_else_the_one_of_plain_labels(plan_of):
    fields = {"hop_length": 256, "n_mels": 80, "upsample_left": 2, "upsample_right": 2}
    config = cases.residual_config(512, 512, bits=9, feedback="mu_law", **fields)
    options = {"streams": 8} if plan_of is _C.many_plan else {}
    ours, plain = (
        plan_of(dataclasses.asdict(c), gpu="H200", **options) for c in (config, linear(config))
    )
    assert ours["shared_bytes"] == plain["shared_bytes"] + 4 * 512
    assert plain["shape"]["shared_expanded"] == 0
    for name in ("blocks", "warps", "gru1_place", "fc1_place", "fc3_place", "unit_slots"):
        assert ours["shape"][name] == plain["shape"][name], name
