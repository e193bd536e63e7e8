"""Gaussian and beta heads and several bands in the kernel of the residual core, run on fibers.

As test_residual_emulation.py for labels and mixtures of logistics: what is the same for all heads
is proved there, and what the exchange does in test_residual_faults.py.
"""

from __future__ import annotations

import contextlib

import cases
import numpy as np
import pytest
import tolerances
from engine_work import Work, make
from residual_works import AUX, FRAMES
from test_residual_emulation import bits
from test_residual_faults import barriers
from truths import Truth, rounded

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError, EngineError

REAL = {"n_classes": 2} | FRAMES | AUX
BANDS = FRAMES | {"hop_length": 8}
HEADS = {
    "gaussian": cases.residual_config(48, 32, head="gaussian", **REAL),
    "beta": cases.residual_config(32, 48, head="beta", **REAL),
    "2 bands": cases.residual_config(48, 32, bits=6, bands=2, **BANDS),
    # A warp draws what others have collected.
    "4 bands": cases.residual_config(32, 32, bits=7, bands=4, **BANDS, **AUX),
}
# Exchanges a sample: fc3 has two rows, or those of all bands.
WAYS = [
    *((head, n) for head in ("gaussian", "beta") for n in (1, 3, 4)),
    *((head, n) for head in ("2 bands", "4 bands") for n in (2, 4)),
]
EVERY_WAY = pytest.mark.parametrize(("head", "exchanges"), WAYS)
EVERY_HEAD = pytest.mark.parametrize("head", HEADS)


@pytest.fixture(scope="module")
def works() -> dict[str, Work]:
    return {name: Work(config, 40) for name, config in HEADS.items()}


def emulated(work: Work, exchanges: int = 4, **options) -> _C.Engine:
    options = {"blocks": 4, "warps": 4, "exchanges": exchanges} | options
    return make(work.config, work.tensors, device="emu", **options)


# --- draws ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def truths() -> dict[str, Truth]:
    found = {name: Truth(config, 64, seed=4) for name, config in HEADS.items()}
    for truth in found.values():
        assert truth.config.draws_values or truth.expected["margin"].min() > 1e-6
    return found


@EVERY_WAY
def test_free_draws_and_forced_logits_are_the_double_references(truths, head, exchanges):
    for schedule in ("fair", "random:1", "starve:1", "slow:1"):
        options = {"isa": schedule, "exchanges": exchanges, "blocks": 4, "warps": 4}
        truths[head].check(truths[head].engine(**options))


@pytest.mark.parametrize("config", cases.band_configs(), ids=cases.case_id)
def test_bands_of_every_size_draw_what_the_double_twin_draws(config):
    work = Work(config, 4 * config.hop_length)
    engine = make(config, work.tensors, device="emu", blocks=6, warps=16)
    found, logits = work.run(engine, return_logits=True)
    assert np.array_equal(found, work.samples)
    assert tolerances.logit_error(logits, work.logits) <= tolerances.KERNEL_EXACT[0]


def test_columns_that_shared_memory_has_no_room_for_are_read_from_l2():
    config = cases.residual_config(512, 32, bits=9, bands=4, hop_length=4, n_mels=3)
    truth = Truth(config, 12, seed=2, alter=rounded)
    engine = truth.engine(gpu="P100", dtype="fp16")
    assert "columns times the last samples in L2" in engine.describe()
    truth.check(engine)


# --- a value of two outputs -----------------------------------------------------------------------

WORDS = np.random.default_rng(3).integers(0, 2**32, 150, dtype=np.uint32)
WORDS[:8] = 0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 1000, 2**32 - 1000
GAUSSIANS = [(0.0, -3.0), (0.4, -7.5), (-0.9, -0.5), (0.1, 3.0)]
# Logarithms of alpha and beta: bells, slopes, poles, coins, needles, far off-centre, out of range.
BETAS = [
    *((2.0, 2.0), (0.0, 0.0), (5.0, 1.0), (-1.0, -2.0), (-0.7, -0.7), (-4.0, 3.0), (3.0, -6.0)),
    *((8.0, 8.5), (12.0, 11.0), (12.0, 0.0), (0.3, -9.0), (-8.0, -8.0), (14.0, 14.0)),
    *((18.2, 18.9), (19.5, 19.0), (-20.0, -20.0), (-25.0, -19.0), (80.0, 3.0), (90.0, 89.0)),
]


def doubles(head: str, outputs: tuple[float, float], shift: float, **how) -> np.ndarray:
    """What common/real_draws.h draws, of words moved by so much of all of them."""
    moved = np.clip(WORDS.astype(np.int64) + round(shift * 2**32), 0, 2**32 - 1)
    rows = np.tile(np.float32(outputs), (len(WORDS), 1))
    return _C.draw_real(head, rows, moved.astype(np.uint32), **how).astype(np.float64)


@pytest.mark.parametrize(
    ("head", "outputs"),
    [*(("gaussian", o) for o in GAUSSIANS), *(("beta", o) for o in BETAS)],
)
def test_a_draw_is_the_doubles_for_a_word_a_millionth_beside(head, outputs):
    """Both outputs are the biases of fc3: nothing but the draw is left."""
    config = cases.residual_config(16, 16, head=head, n_classes=2, n_mels=0, hop_length=1)
    tensors = cases.random_tensors(config)
    tensors["fc3.weight"][...] = 0.0
    tensors["fc3.bias"][:] = outputs
    engine = make(config, tensors, device="emu", blocks=1, warps=2)
    given = [(WORDS / 2.0**32)[:, None]]
    for how in ({}, {"temperature": 0.3}, {"temperature": 2.5}, {"greedy": True}):
        stream = engine.open(0, **how)
        found = engine.run([stream], [len(WORDS)], [None], [None], uniforms=given)[0][0]
        low, high = (doubles(head, outputs, shift, **how) for shift in (-1e-6, 1e-6))
        room = tolerances.KERNEL_VALUE  # both of the last words have no neighbour further out
        assert (low - room <= found).all(), how
        assert (found <= high + room).all(), how


# --- what must make no difference -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "dtype"), [*zip(HEADS, ("fp32", "fp16", "fp16", "fp32"), strict=True)]
)
def test_any_launch_and_any_build_gives_the_same_bits(works, head, dtype):
    work, found = works[head], {}
    for blocks, warps in [(1, 16), (4, 4), (16, 2), (24, 1)]:
        for exchanges in (1, 2, 4):
            launch = {"blocks": blocks, "warps": warps, "isa": "random:4", "dtype": dtype}
            with contextlib.suppress(DeviceError):  # a warp would own too many rows
                found[blocks, warps, exchanges] = bits(work, emulated(work, exchanges, **launch))
    assert len(found) >= 5
    assert {4, 2} <= {key[1] for key in found}  # fewer warps than bands among them
    found["generic"] = bits(work, emulated(work, dtype=dtype, isa="fair/generic"))
    assert len(set(found.values())) == 1, found.keys()


@EVERY_HEAD
def test_pieces_and_other_streams_change_nothing(works, head):
    work, engine = works[head], emulated(works[head], isa="random:9")
    whole, bands = work.run(engine)[0], work.config.bands
    for cuts in ([bands], [8, 16], list(range(3 * bands, work.n, 3 * bands))):
        assert np.array_equal(work.pieces(engine, cuts), whole)
    rows = [[r] * 3 for r in work.rows.values()]
    streams = [engine.open(seed) for seed in (1, 5, 2)]
    lengths = [work.n - 4 * i for i in (3, 0, 1)]
    together = engine.run(streams, lengths, *rows)
    assert np.array_equal(together[1][0], whole)
    assert np.array_equal(together[2][0], work.run(engine, seed=2)[0][: lengths[2]])
    assert [stream.step for stream in streams] == lengths


@EVERY_HEAD
def test_words_that_are_given_are_those_of_the_generator(works, head):
    work = works[head]
    engine, bands = emulated(work), work.config.bands
    words = np.array([_C.philox(5, step)[:bands] for step in range(work.n // bands)])
    found = work.run(engine, uniforms=words.reshape(work.n, 1) / 2.0**32)[0]
    assert np.array_equal(found, work.run(engine)[0])


@EVERY_HEAD
def test_forced_greedy_and_other_temperatures_are_the_double_twins(works, head):
    work = works[head]
    engine, twin = emulated(work), make(work.config, work.tensors, device="reference")
    samples, logits = work.run(engine, forced=work.samples, return_logits=True)
    assert np.array_equal(samples, work.samples)
    assert tolerances.logit_error(logits, work.logits) <= tolerances.KERNEL_EXACT[0]
    rows = [[r] for r in work.rows.values()]
    limit = tolerances.KERNEL_VALUE if work.config.draws_values else 0
    for options in ({"greedy": True}, {"temperature": 0.5}, {"temperature": 2.0}):
        found, expected = (
            made.run([made.open(5, **options)], [work.n], *rows)[0][0] for made in (engine, twin)
        )
        assert np.abs(found - expected).max() <= limit, options


@EVERY_HEAD
def test_the_inexact_kernel_stays_within_the_table(works, head):
    work = works[head]
    engine = emulated(work, exact=False)
    logits = work.run(engine, forced=work.samples, return_logits=True)[1]
    limit = tolerances.logit_limit(work.logits, "fp32")
    assert tolerances.logit_error(logits, work.logits) <= limit


# --- faults ---------------------------------------------------------------------------------------


# Of every step: what the first step begins with is the same for all heads.
FAULTS = [
    "tag",
    "parity",
    *(f"barrier:{n}" for name, n in barriers().items() if n > barriers()["kResidualRead"]),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_in_a_model_of_bands(works, fault):
    """By a stall or by other samples; each band has a warp that draws it."""
    work = works["4 bands"]
    healthy = work.run(emulated(work))[0]
    for schedule in ("fair", "random:1", "starve:3", "slow:1"):
        engine = emulated(work, isa=f"{schedule}/lose:{fault}")
        with contextlib.suppress(EngineError):  # a stall, reported at once
            assert not np.array_equal(work.run(engine)[0], healthy), schedule


@pytest.mark.parametrize(
    ("head", "place", "name"),
    [
        ("4 bands", 128 + 64 + 2, "logit 6 of band 1"),
        ("2 bands", 64 + 62, "logit 62 of band 1"),
        ("beta", 0, "logit 0"),
    ],
)
def test_a_logit_that_never_comes_is_named(works, head, place, name):
    work, config = works[head], works[head].config
    word = 4 * config.hidden_size + 2 * config.fc_size + place
    broken = emulated(work, isa=f"fair/lose:word:{word}")
    with pytest.raises(EngineError, match=rf"stalled: block \d waited in vain for {name} \(tag"):
        work.run(broken)


@pytest.mark.parametrize("band", [0, 1, 3])
def test_a_logit_of_a_band_that_is_not_finite_is_named_and_the_stream_goes_on(works, band):
    """In frames 2 and 3 the logits of one band are infinite, and its label the middle one."""
    config = HEADS["4 bands"]
    work = Work(config, 40)
    tensors, hold = work.tensors, work.rows["hold"]
    channel = 7 * config.hidden_size + config.fc_size
    hold[:, channel] = -1e4
    hold[2:4, channel] = 1e4
    tensors["fc3.weight"][128 * band + 127, 0] = 3e38
    after = []
    for options in ({"device": "cpu"}, {"device": "emu", "blocks": 16, "warps": 2}):
        engine = make(config, tensors, **options)
        stream = engine.open(5)
        with pytest.raises(EngineError, match=f"stream 0 is not finite at step {16 + band};"):
            engine.run([stream], [24], [work.rows["interp"]], [hold])
        assert stream.step == 24
        rest = [[r[3:]] for r in (work.rows["interp"], hold)]
        with contextlib.suppress(EngineError):
            engine.run([stream], [8], *rest)
        rest = [[r[4:]] for r in (work.rows["interp"], hold)]
        after.append(engine.run([stream], [8], *rest)[0][0])
    assert np.array_equal(*after)


@pytest.mark.parametrize("head", ["gaussian", "beta"])
def test_an_output_that_is_not_finite_is_named(head):
    config = cases.residual_config(16, 16, head=head, n_classes=2, n_mels=0, hop_length=1)
    tensors = cases.random_tensors(config)
    tensors["fc2.bias"][:] = 1e20
    tensors["fc3.weight"][1] = 1e20
    engine = make(config, tensors, device="emu", blocks=2, warps=2)
    with pytest.raises(EngineError, match="stream 0 is not finite at step 0"):
        engine.run([engine.open(0)], [3], [None], [None])


@pytest.mark.parametrize("temperature", [1e30, 1e300])
@pytest.mark.parametrize(
    "config",
    [
        cases.residual_config(16, 16, bits=5, n_mels=0, hop_length=1),
        cases.embedded_config(16, 16, 5, n_mels=0, hop_length=1),
    ],
    ids=["residual", "embedded"],
)
def test_labels_that_a_model_has_not_are_drawn_at_no_temperature(config, temperature):
    """The kernels draw from multiples of 64 places."""
    tensors = cases.random_tensors(config)

    def drawn(**options):
        engine = make(config, tensors, **options)
        stream = engine.open(3, temperature=temperature)
        return engine.run([stream], [60], [None], [None])[0][0]

    expected = drawn(device="cpu")
    for options in ({"blocks": 2}, {"blocks": 2, "exact": False}, {"streams": 8, "dtype": "fp16"}):
        np.testing.assert_array_equal(drawn(device="emu", **options), expected)
