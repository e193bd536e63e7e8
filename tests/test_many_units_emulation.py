"""The kernels for many streams of the residual and the embedded core on fibers.

Draws, company, refusals. As `test_many_emulation.py` for the dual core; what all share (queues,
jobs of clips) is there and in `test_many_slots.py`. Planted faults are in
`test_many_units_faults.py`.
"""

from __future__ import annotations

import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor

import cases
import numpy as np
import pytest
import tolerances
from engine_work import make
from many_engines import same
from residual_works import AUX, FRAMES
from test_many_emulation import Streams
from truths import Truth, rounded

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError, EngineError, InputError
from wavernn_fast.vocoder import Vocoder

LABELS = cases.residual_config(48, 48, bits=8, **FRAMES, **AUX)
VALUES = cases.residual_config(48, 32, mixtures=5, **FRAMES, **AUX)  # fc3 has an odd number of rows
GAUSSIAN, BETA = (
    cases.residual_config(48, 32, head=head, n_classes=2, **FRAMES, **AUX)
    for head in ("gaussian", "beta")
)
EIGHT = FRAMES | {"hop_length": 8}  # samples a frame: a step has one of each band
BANDS = cases.residual_config(48, 48, bits=6, bands=4, **EIGHT, **AUX)
HEADS = {"labels": LABELS, "values": VALUES, "gaussian": GAUSSIAN, "beta": BETA, "bands": BANDS}
EMBEDDED = cases.embedded_config(48, 48, 8, hop_length=6)
MORE_LABELS = cases.embedded_config(48, 32, 10, hop_length=6)
MODELS = HEADS | {"embedded": EMBEDDED}
# 20 teams of two blocks, the second with half the units; only the teams that are needed run.
LAUNCH = {"gpu": "T4", "blocks": 2, "warps": 4, "streams": 100}


def many(config, tensors, **options) -> _C.Engine:
    return make(config, tensors, **({"device": "emu", "dtype": "fp16"} | LAUNCH | options))


# --- draws ----------------------------------------------------------------------------------------

# Model, options, and what describe() must say: the reason that the case is there.
SHAPES = [
    (LABELS, {}, "32 units of each GRU, 32 rows of fc1 and of fc2, 128 of fc3; every"),
    (VALUES, {"isa": "starve:1"}, r"16 of fc3 \(whole\); every block draws"),
    (cases.residual_config(64, 48, bits=10, **FRAMES), {"blocks": 4, "gpu": "H200"}, "256 of fc3"),
    (
        cases.residual_config(32, 48, bits=4, n_mels=0, hop_length=1),
        {"warps": 16, "isa": "random:1"},
        "blocks of 16 warps",
    ),
    (cases.residual_config(32, 48, mixtures=40, **FRAMES), {"isa": "slow:0"}, "64 of fc3; every"),
    (
        cases.residual_config(96, 48, bits=8, **FRAMES),
        {"blocks": 1, "warps": 2, "gpu": "H200"},
        "1 of 9 tiles of columns a warp in registers; fc3 in L2",
    ),
    (
        cases.residual_config(32, 304, bits=8, **FRAMES),
        {},
        "160 rows of fc1 .*; fc2 in L2; fc3 in L2",
    ),
    (
        cases.residual_config(96, 400, mixtures=64, **FRAMES),
        {"blocks": 3},
        "fc1 in L2; fc2 in L2; fc3 in L2",
    ),
    (dataclasses.replace(VALUES, hop_length=4), {"warps": 2}, r"whole\); a block draws for a"),
    (LABELS, {"warps": 2, "streams": 300}, "128 of fc3; a block draws for a stream"),
    (GAUSSIAN, {"isa": "random:2"}, r"2 of fc3 \(whole\); every block draws"),
    (BETA, {"isa": "starve:0"}, r"2 of fc3 \(whole\); a block draws for a stream"),
    (
        cases.residual_config(32, 304, head="beta", n_classes=2, **FRAMES),
        {"blocks": 1, "warps": 8, "gpu": "H200"},
        r"2 of fc3 \(whole\); every block draws",
    ),
    (BANDS, {"isa": "random:4"}, "128 of fc3; every block draws"),
    (BANDS, {"warps": 2, "streams": 300, "isa": "slow:0"}, "a block draws for a stream"),
    (
        cases.residual_config(32, 48, bits=4, bands=4, **EIGHT, **AUX),
        {"blocks": 2, "isa": "starve:1"},
        r"64 of fc3 \(whole\); every",
    ),
    (
        cases.residual_config(32, 48, bits=9, bands=2, **FRAMES),
        {"blocks": 2, "warps": 8, "gpu": "H200"},
        "512 of fc3; every",
    ),
    (EMBEDDED, {}, "32 units, 32 rows of fc1, 128 of fc2; every block draws"),
    (EMBEDDED, {"warps": 2, "streams": 300, "isa": "slow:0"}, "128 of fc2; a block draws for a"),
    (MORE_LABELS, {"gpu": "A100", "isa": "random:5"}, "512 of fc2; a block draws"),
    (
        MORE_LABELS,
        {"blocks": 3, "gpu": "H200", "isa": "starve:2"},
        "16 units, .* 342 of fc2",
    ),
    (
        dataclasses.replace(cases.embedded_config(32, 48, 6), n_classes=61),
        {"warps": 16, "isa": "starve:0"},
        "16 units, 32 rows of fc1, 32 of fc2",
    ),
    (cases.embedded_config(16, 16, 1, n_mels=0, hop_length=1), {"blocks": 1}, "64 of fc2; every"),
    (cases.embedded_config(64, 48, 8, network=("gru", 2, 8, 1)), {"blocks": 4}, "64 of fc2"),
    (
        cases.embedded_config(96, 800, 9),
        {"blocks": 1, "warps": 2, "gpu": "H200"},
        "R: 1 of 3 tiles of columns a warp in registers; fc1 in L2; fc2 in L2",
    ),
    (cases.embedded_config(32, 608, 6), {"blocks": 1, "gpu": "A100", "warps": 2}, "; fc1 in L2; 2"),
    (cases.embedded_config(32, 400, 9), {"gpu": "A100", "warps": 8}, "registers; fc2 in L2"),
]


@pytest.mark.parametrize(("config", "options", "what"), SHAPES, ids=range(len(SHAPES)))
def test_every_shape_of_a_plan_draws_as_the_double_reference(config, options, what):
    """With split activations every draw is its; rounded ones stay near it where it leads."""
    truth = Truth(config, 18 if config.bands == 1 else 24, seed=3, alter=rounded)
    assert truth.expected["margin"].min() > 1e-6
    engine = truth.engine(dtype="fp16", **(LAUNCH | options))
    assert re.search(what, engine.describe(), re.S), engine.describe()
    samples, logits = truth.run(engine, forced=[truth.expected["samples"]])
    assert np.array_equal(samples, truth.expected["samples"].astype(samples.dtype))
    error = tolerances.logit_error(logits, truth.expected["logits"])
    assert error <= tolerances.FP16_ACTIVATIONS * np.abs(truth.expected["logits"]).max()
    truth.check(truth.engine(dtype="fp16", split=True, **(LAUNCH | options)))


def test_the_reference_of_these_tests_rounds_as_the_kernel_keeps():
    """Weights that are not fp16 would be seen by the bound of split activations."""
    plain, other = (Truth(LABELS, 18, seed=3, alter=alter) for alter in (dict, rounded))
    engine = other.engine(dtype="fp16", split=True, **LAUNCH)
    logits = plain.run(engine, forced=[plain.expected["samples"]])[1]
    error = tolerances.logit_error(logits, plain.expected["logits"])
    assert error > 10 * tolerances.KERNEL_EXACT[0]


@pytest.mark.slow
def test_the_usual_model_on_32_blocks_draws_as_the_double_reference():
    fields = {"hop_length": 275, "n_mels": 80, "upsample_left": 2, "upsample_right": 2}
    aux = {"aux_size": 32, "aux_channels": 128, "aux_blocks": 1, "aux_kernel": 5}
    truth = Truth(cases.residual_config(512, 512, bits=9, **fields, **aux), 1, 11, alter=rounded)
    engine = truth.engine(dtype="fp16", streams=4, split=True, gpu="H200", isa="starve:31")
    assert "teams of 32 blocks of 8 warps" in engine.describe()
    truth.check(engine)


@pytest.mark.parametrize("config", [LABELS, EMBEDDED], ids=["residual", "embedded"])
def test_the_inexact_kernel_stays_within_the_table(config):
    truth = Truth(config, 18, seed=3)
    engine = truth.engine(dtype="fp16", exact=False, **LAUNCH)
    logits = truth.run(engine, forced=[truth.expected["samples"]])[1]
    limit = tolerances.logit_limit(truth.expected["logits"], "fp16")
    assert tolerances.logit_error(logits, truth.expected["logits"]) <= limit


# --- what must make no difference -----------------------------------------------------------------

COUNT = 60  # more than the 32 slots of 4 teams
FEW = {"streams": 2, "isa": "fair/room:8"}


@pytest.fixture(scope="module", params=MODELS)
def streams(request) -> Streams:
    return Streams(MODELS[request.param], COUNT, longest=16)


@pytest.fixture(scope="module")
def together(streams) -> list:
    return streams.run(many(streams.config, streams.tensors, **FEW), range(COUNT))


def test_streams_in_any_company_give_what_they_give_alone(streams, together):
    """Slots take one stream after the other; 15 of them are run again, each alone."""
    engine = many(streams.config, streams.tensors, **FEW)
    assert int(re.search(r"(\d+) in all", engine.describe())[1]) < COUNT
    chosen = range(0, COUNT, 4)
    alone = [streams.run(engine, [i])[0] for i in chosen]
    assert same(alone, [together[i] for i in chosen])
    assert len({samples.tobytes() for samples, _ in alone}) == len(alone)  # a mix-up would be seen


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": 1, "gpu": "H200", "isa": "starve:0/room:4"},
        {"streams": 2000, "gpu": "H200", "isa": "random:3/room:4"},  # several tiles of streams
        {"blocks": 3, "isa": "starve:1/room:9/generic"},
    ],
    ids=str,
)
def test_plans_of_any_size_give_the_same_bits_in_any_order(streams, together, options):
    """As long as warps are as many: they are the order in which sums are added."""
    engine = many(streams.config, streams.tensors, **options)
    order = list(np.random.default_rng(1).permutation(COUNT))
    assert same(streams.run(engine, order), [together[i] for i in order])


@pytest.mark.parametrize("model", ["labels", "embedded"])
def test_calls_at_the_same_time_give_what_they_give_one_after_the_other(model):
    """Of two calls one brings its streams and takes them back while the kernel runs for the other;
    a third waits. Nobody has more teams than there is room for, which all find out at once."""
    work = Streams(MODELS[model], COUNT, longest=16)
    chosen = [range(i, COUNT, 5) for i in range(5)]
    alone = many(work.config, work.tensors, **FEW)
    expected = [work.run(alone, part) for part in chosen]
    engine = many(work.config, work.tensors, **FEW)
    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda part: work.run(engine, part), chosen))
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))


def test_a_stream_of_two_calls_at_the_same_time_goes_on_in_one_after_the_other():
    work = Streams(EMBEDDED, 1)
    engine = many(EMBEDDED, work.tensors, **FEW)
    rows = [None], [np.repeat(work.rows[0][1][:1], 20, axis=0)]
    [[whole, _]] = engine.run([engine.open(7)], [90], *rows)
    for _ in range(5):
        stream = engine.open(7)
        with ThreadPoolExecutor(3) as pool:
            parts = [pool.submit(engine.run, [stream], [30], *rows) for _ in range(3)]
        found = {part.result()[0][0].tobytes() for part in parts}
        assert found == {whole[i : i + 30].tobytes() for i in (0, 30, 60)}
        assert stream.step == 90


def test_a_call_that_fails_leaves_the_other_and_the_engine_usable():
    work = Streams(EMBEDDED, 8, longest=16)
    engine = many(EMBEDDED, work.tensors, **FEW)
    expected = work.run(engine, range(8))

    def refused() -> None:
        with pytest.raises(InputError):
            engine.run([engine.open(0)], [-1], [None], [None])

    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            wrong = [pool.submit(refused) for _ in range(2)]
            assert same(pool.submit(work.run, engine, range(8)).result(), expected)
            assert [w.result() for w in wrong] == [None, None]


@pytest.mark.parametrize("model", MODELS)
def test_streams_that_go_on_run_beside_streams_that_begin(model):
    config, hop = MODELS[model], MODELS[model].hop_length
    work = Streams(config, 30, seed=2, longest=40)
    engine = many(config, work.tensors, streams=2)
    expected = [work.run(engine, [i])[0][0] for i in range(30)]
    opened = [engine.open(1000 + i) for i in range(30)]
    bands = config.bands
    first = [bands * (1 + i % (n // bands)) for i, n in enumerate(work.lengths)]

    def run(chosen, opened, begin, steps):
        rows = [
            [None if r is None else r[n // hop :] for r in work.rows[i]]
            for i, n in zip(chosen, begin, strict=True)
        ]
        found = engine.run(opened, steps, [r[0] for r in rows], [r[1] for r in rows])
        return [samples for samples, _ in found]

    begun = run(range(30), opened, [0] * 30, first)
    left = [n - done for n, done in zip(work.lengths, first, strict=True)]
    fresh = [engine.open(1000 + i) for i in range(30)]
    both = run([*range(30)] * 2, opened + fresh, first + [0] * 30, left + work.lengths)
    for i in range(30):
        assert np.array_equal(np.concatenate([begun[i], both[i]]), expected[i]), i
        assert np.array_equal(both[30 + i], expected[i]), i


@pytest.mark.parametrize("model", MODELS)
def test_streams_that_are_forced_given_chance_or_greedy_may_run_beside_others(model):
    config = MODELS[model]
    n = 36 * config.bands  # more than 32 steps: random words are made twice
    work = Streams(config, 1, seed=4)
    frames = n // config.hop_length + 2
    rng = np.random.default_rng(1)
    interp, hold = (
        None if r is None else rng.normal(size=(rows, r.shape[1])).astype(np.float32)
        for r, rows in zip(work.rows[0], (frames + 2, frames), strict=True)
    )
    # 40 streams in 16 slots of 2 blocks, each drawn by one of these.
    engine = many(config, work.tensors, warps=2, isa="fair/room:4")
    ways = [
        {"forced": cases.random_samples(config, n)},
        {"uniforms": cases.random_uniforms(config, n, seed=3)},
        {"greedy": True},
        {"temperature": 0.7},
        {},
    ] * 8

    def run(chosen: list[dict], made: _C.Engine = engine) -> list[np.ndarray]:
        opened = [
            made.open(7, **{k: v for k, v in way.items() if k in ("greedy", "temperature")})
            for way in chosen
        ]
        count = len(chosen)
        given = {k: [way.get(k) for way in chosen] for k in ("forced", "uniforms")}
        return [
            r[0] for r in made.run(opened, [n] * count, [interp] * count, [hold] * count, **given)
        ]

    alone = [run([way])[0] for way in ways[:5]]
    assert len({samples.tobytes() for samples in alone}) == 5
    for found, expected in zip(run(ways), alone * 8, strict=True):
        assert np.array_equal(found, expected)
    assert np.array_equal(alone[0], ways[0]["forced"].astype(alone[0].dtype))
    # Chance and temperature are the double reference's.
    split = many(config, work.tensors, split=True)
    twin = make(config, rounded(work.tensors), device="reference")
    for found, expected in zip(run(ways[1:5], split), run(ways[1:5], twin), strict=True):
        assert np.abs(found[:8] - expected[:8]).max() <= 10 * tolerances.KERNEL_VALUE


@pytest.mark.parametrize(
    ("config", "stages"),
    [
        (LABELS, ["gates of GRU 1", "GRU 2", "p", "q", "logits", "draw"]),
        (EMBEDDED, ["gates", "p", "logits", "draw"]),
    ],
    ids=["residual", "embedded"],
)
def test_stages_of_a_sample_have_clocks_when_asked_for(config, stages):
    work = Streams(config, 1)
    engine = many(config, work.tensors, clocks=True)
    work.run(engine, [0])
    assert [name for name, _ in engine.stage_ticks()] == stages


# --- logits that are not numbers ------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_an_infinite_logit_is_named_and_leaves_other_streams_alone(head):
    """In frames 2 and 3 one value of q is beyond fp16; the state knows nothing of it."""
    config = dataclasses.replace(HEADS[head], hop_length=4)
    work = Streams(config, 1, seed=1, longest=40)
    interp = np.zeros((12, 4 * config.hidden_size), np.float32)
    healthy = np.zeros((10, work.rows[0][1].shape[1]), np.float32)
    channel = 7 * config.hidden_size + config.fc_size
    healthy[:, channel] = -1e6
    sick = healthy.copy()
    sick[2:4, channel] = 1e6
    engine = many(config, work.tensors, streams=2, isa="random:1/room:2")
    count, place = 12, 3  # in 8 slots
    hold = [sick if i == place else healthy for i in range(count)]
    streams = [engine.open(i) for i in range(count)]
    with pytest.raises(EngineError, match=f"stream {place} is not finite at step 8"):
        engine.run(streams, [20] * count, [interp] * count, hold)
    assert [s.step for s in streams] == [20] * count
    for i in (0, 2, 4, 11):  # 11 had its slot after it
        alone = engine.open(i)
        engine.run([alone], [20], [interp], [healthy])
        found, expected = (
            engine.run([s], [8], [interp[5:]], [healthy[5:]], return_logits=True)
            for s in (streams[i], alone)
        )
        assert same(found, expected), i
    engine.run([streams[place]], [8], [interp[5:]], [healthy[5:]])  # it goes on


# --- which kernel, and what it refuses ------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "options", "error", "message"),
    [
        (LABELS, {"dtype": "fp32"}, DeviceError, "weights in fp16; dtype is fp32"),
        (LABELS, {"gpu": "V100"}, DeviceError, "need 7.5 or more"),
        (LABELS, {"blocks": 4}, InputError, "blocks is 4, expected 1 to 3: .* 16 units of both"),
        (LABELS, {"warps": 3}, InputError, "warps is 3, expected 2, 4, 8 or 16"),
        (
            cases.residual_config(16, 16, bits=11),
            {},
            DeviceError,
            "at most 1024 labels .* has 2048",
        ),
    ],
)
def test_what_there_is_no_plan_for_is_refused_with_the_reason(config, options, error, message):
    with pytest.raises(error, match=message):
        many(config, cases.random_tensors(config), **({"blocks": 0} | options))


def test_a_model_that_does_not_fit_is_refused_with_the_numbers():
    message = "does not fit on T4 for many streams side by side: 4096 units .* at most 40 blocks"
    with pytest.raises(DeviceError, match=message):
        _C.many_plan(dataclasses.asdict(cases.residual_config(4096, 32, bits=6)), gpu="T4")


# --- through the package --------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["values", "bands", "embedded"])
def test_a_vocoder_for_many_streams_gives_each_what_it_gives_alone(model):
    config = MODELS[model]
    tensors = cases.random_tensors(config)
    vocoder = Vocoder(config, tensors, device="emu", gpu_streams=12)
    assert (vocoder.dtype, vocoder.engine.lanes) == ("fp16", vocoder.streams)
    hop = config.hop_length
    mels = [cases.mel_for(config, hop * frames, seed=frames) for frames in (1, 4, 2, 0, 3, 2)]
    together = vocoder.generate_batch(mels)
    for seed, (mel, wave) in enumerate(zip(mels, together, strict=True)):
        assert np.array_equal(vocoder.generate(mel, seed=seed), wave)
    one = Vocoder(config, tensors, device="emu", dtype="fp16")
    assert "exchanges a " in one.engine.describe()
