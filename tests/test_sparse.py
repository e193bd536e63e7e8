"""Products with pruned matrices on the CPU: the masked model's logits, and the same bits always."""

from __future__ import annotations

import cases
import numpy as np
import pytest
import tolerances
from engine_work import DTYPES, ISAS, Work, make
from hypothesis import given, settings
from hypothesis import strategies as st
from pruned import (
    BLOCKS,
    LAYOUTS,
    PAIRS,
    PAIRS_AND_AUTO,
    Case,
    levels,
    models,
    prune,
    rounded_tensors,
)
from quick import quick_where

from wavernn_fast.errors import EngineError, InputError

STEPS = 16
# Against a model of the weights as they are kept. 16-bit formats round nothing else, so fp32's row
# of the table holds (found: 1e-5). int8 rounds activations to 14 bits, int8-fast to 7; the largest
# differences on 2,000 random models were 7e-4 and 7e-2 of the largest logit.
AS_KEPT = {"int8": (0.0, 2e-3), "int8-fast": tolerances.LOGITS["int8-fast"]}


def kept_limit(expected: np.ndarray, dtype: str) -> float:
    absolute, relative = AS_KEPT.get(dtype, tolerances.LOGITS["fp32"])
    return absolute + relative * float(np.abs(expected).max())


def work_of(case: Case) -> Work:
    return Work(case.config, STEPS, tensors=case.tensors())


@pytest.mark.parametrize(("dtype", "layout"), PAIRS_AND_AUTO)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_forced_logits_are_those_of_the_masked_model(dtype, layout, data):
    """In double, with its weights as they are and, more strictly, as this format keeps them."""
    work = work_of(data.draw(models(layout)))
    engine = work.engine(dtype=dtype, sparse=layout, threads=1)
    _, logits = work.run(engine, forced=work.samples, return_logits=True)
    if dtype.startswith("int8") and work.config.core == "residual":
        # Integers are added exactly and every matrix has one scale a row and a vector: the same
        # bits as without lists, however coarse 127 levels are for a model of so few weights.
        _, dense = work.run(
            work.engine(dtype=dtype, sparse="off", threads=1),
            forced=work.samples,
            return_logits=True,
        )
        assert np.array_equal(logits, dense)
        if dtype == "int8-fast":
            return
    error = tolerances.logit_error(logits, work.logits)
    assert error <= tolerances.logit_limit(work.logits, dtype)

    kept = rounded_tensors(work.config, work.tensors, dtype)
    twin = make(work.config, kept, device="reference")
    _, expected = work.run(twin, forced=work.samples, return_logits=True)
    assert tolerances.logit_error(logits, expected) <= kept_limit(expected, dtype)


@pytest.mark.parametrize(("dtype", "layout"), quick_where(lambda pair: pair[0] == "fp32", PAIRS))
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_threads_batches_slices_and_instruction_sets_give_the_same_bits(dtype, layout, data):
    work = work_of(data.draw(models(layout)))
    one = work.engine(dtype=dtype, sparse=layout, threads=1, isa=ISAS[0])
    alone = [work.run(one, seed=seed, return_logits=True) for seed in range(17)]
    for isa in ISAS:
        for threads in (1, 2, 3) if isa == ISAS[0] else (1,):
            engine = work.engine(dtype=dtype, sparse=layout, threads=threads, isa=isa)
            for n in (1, 3, 11, 17) if threads == 2 else (1, 3, 11):  # 17: a thread a half
                for seed, found in enumerate(batch(work, engine, n)):
                    length = len(found[0])
                    for mine, expected in zip(found, alone[seed], strict=True):
                        assert np.array_equal(mine, expected[:length]), (isa, threads, n, seed)
            for cuts in ([1], [2, 3, 9]):
                assert np.array_equal(work.pieces(engine, cuts, seed=0), alone[0][0])


@pytest.mark.parametrize(("dtype", "layout"), quick_where(lambda pair: pair[0] == "fp32", PAIRS))
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_teams_of_every_size_give_the_same_bits(dtype, layout, data):
    """Each has panels of its own. A slice of ten steps is enough for another team to get a try."""
    case = data.draw(models(layout))
    work = Work(case.config, 100, tensors=case.tensors())
    engine = work.engine(dtype=dtype, sparse=layout, threads=8)
    alone = work.engine(dtype=dtype, sparse=layout, threads=1)
    for seed in range(2):
        joined = work.pieces(engine, list(range(10, work.n, 10)), seed)
        assert np.array_equal(joined, work.run(alone, seed=seed)[0]), seed


def batch(work: Work, engine, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Streams 0 to n - 1 side by side, each a sample shorter: every smaller batch comes by."""
    interp, hold = ([rows] * n for rows in work.rows.values())
    lengths = [max(1, work.n - seed) for seed in range(n)]
    return engine.run(
        [engine.open(seed) for seed in range(n)], lengths, interp, hold, return_logits=True
    )


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_layouts_chosen_for_each_matrix_mix(dtype, data):
    """Pruned in blocks of one kind, "auto" may leave some matrices dense and not others."""
    work = work_of(data.draw(models("auto")))
    one = work.run(work.engine(dtype=dtype, threads=1, isa=ISAS[0]))[0]
    for isa in ISAS:
        for threads in (1, 2, 3):
            assert np.array_equal(
                work.run(work.engine(dtype=dtype, threads=threads, isa=isa))[0], one
            )


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_layouts_that_add_in_the_same_order_give_the_same_bits(dtype, data):
    """Integers do not mind; 16x1 and 1x1 both take one column after another."""
    work = work_of(data.draw(models("auto")))
    same = [layout for layout in LAYOUTS[dtype] if dtype.startswith("int8") or layout != "4x4"]
    first, *others = (
        work.run(work.engine(dtype=dtype, sparse=layout, threads=1), return_logits=True)
        for layout in same
    )
    for other in others:
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


# --- int8: every sum, exactly -----------------------------------------------------------------

Tensors = dict[str, np.ndarray]


def int8_product(
    weight: np.ndarray, bias: np.ndarray, x: np.ndarray, dtype: str, signed: bool
) -> np.ndarray:
    """y = bias + weight x as the header of the kernels words it: integers, then one rounding each.

    Inputs become u = round(x * highest / max |x|), of which signed ones are stored with an offset.
    """
    span = 1 << (14 if dtype == "int8" else 7)
    highest = np.float32(span // 2 - 1 if signed else span - 1)
    largest = np.abs(x).max()
    offset = span // 2 if signed else 0
    u = np.rint(np.float32(np.float64(x) * np.float64(highest / largest) + offset))
    integers, scale = levels(weight)
    sums = integers @ (u.astype(np.int64) - offset)
    assert np.abs(integers).max() == 127
    assert np.abs(sums).max() < 2**31
    scale = scale[:, 0] * (largest / highest)
    return np.float32(np.float64(np.float32(sums)) * np.float64(scale) + np.float64(bias))


def with_extremes(weight: np.ndarray) -> np.ndarray:
    """Rows of nothing but +-127, rows of one huge weight, and rows as they are, by turns."""
    weight = weight.copy()
    weight[::3] = np.sign(weight[::3]) * 5
    for row in weight[1::3]:
        row[np.flatnonzero(row)[-1:]] = -1000.0
    return weight


def saturated(layout: str) -> tuple[Work, Tensors, np.ndarray]:
    """A model whose first state is 1, -1 and, in every seventh unit, 0, whatever is drawn."""
    config = cases.dual_config(64, 37)
    names = [f"{half}_{layer}.weight" for half in ("coarse", "fine") for layer in ("fc1", "fc2")]
    tensors = prune(cases.random_tensors(config), dict.fromkeys(names, "uneven"), BLOCKS[layout], 3)
    for name in names:
        tensors[name] = with_extremes(tensors[name])
    state = np.where(np.arange(64) % 3 == 0, np.float32(-1), np.float32(1))
    state[::7] = 0
    tensors["gru.w_recurrent"] *= 0
    tensors["gru.w_sample"] *= 0
    tensors["gru.b_recurrent"] *= 0
    tensors["gru.b_input"] = np.concatenate([0 * state, 0 * state - 100, 100 * state])
    return Work(config, 1, tensors=tensors), tensors, state


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("dtype", "layout"), [p for p in PAIRS if p[0].startswith("int8")])
def test_int8_sums_are_exact_at_the_ends_of_the_range(dtype, layout, isa):
    work, tensors, state = saturated(layout)
    expected = []
    for half, x in zip(("coarse", "fine"), np.split(state, 2), strict=True):
        for layer, signed in (("fc1", True), ("fc2", False)):
            name = f"{half}_{layer}"
            x = int8_product(tensors[f"{name}.weight"], tensors[f"{name}.bias"], x, dtype, signed)
            expected += [x] if layer == "fc2" else []
            x = np.maximum(x, 0)
    for threads in (1, 2):
        engine = work.engine(dtype=dtype, sparse=layout, isa=isa, threads=threads)
        for n in (1, 5):
            for _, logits in batch_of_one_sample(engine, n):
                assert np.array_equal(logits[0], np.concatenate(expected))


def batch_of_one_sample(engine, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    streams = [engine.open(seed) for seed in range(n)]
    return engine.run(streams, [1] * n, [None] * n, [None] * n, return_logits=True)


# --- fp32: what the sums of recurrent matrices lose ---------------------------------------------

TINY = np.float32(2.0**-13)  # no part of a float32 near 4096


def cancelled(beside: int | None) -> tuple[Work, float]:
    """A model whose unit 20 is tanh(4096 h[8] + TINY - 4096) in step 1, and one of its logits then.

    TINY comes from column `beside`, or from the recurrent bias; states 8 to 11 are 1.
    """
    config = cases.dual_config(64, 16)
    tensors = {name: 0 * value for name, value in cases.random_tensors(config).items()}
    reset, update, candidate = np.split(tensors["gru.b_input"], 3)  # views of it
    reset += 100  # open
    update -= 100  # nothing of the old state stays
    candidate[8:12], candidate[20] = 100, -4096
    row = tensors["gru.w_recurrent"][2 * 64 + 20]
    row[8] = 4096
    if beside is None:
        tensors["gru.b_recurrent"][2 * 64 + 20] = TINY
    else:
        row[beside] = TINY
    tensors["coarse_fc1.weight"][0, 20] = 1
    tensors["coarse_fc2.weight"][5, 0] = 1000
    return Work(config, 2, tensors=tensors), 1000 * np.tanh(np.float64(TINY))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("layout", "beside"),
    [*((layout, None) for layout in LAYOUTS["fp32"]), ("4x4", 9), ("4x4", 10)],
)
def test_a_candidate_hears_what_its_sum_has_lost(layout, beside, isa):
    """Where chains and the bias are added; within a chain it is gone."""
    work, expected = cancelled(beside)
    assert work.logits[1, 5] == pytest.approx(expected, rel=1e-6)  # of the reference
    engine = work.engine(sparse=layout, isa=isa, threads=1)
    for n in (1, 5):
        streams = [engine.open(seed) for seed in range(n)]
        for _, logits in engine.run(streams, [2] * n, [None] * n, [None] * n, return_logits=True):
            assert logits[1, 5] == pytest.approx(expected, abs=2e-4)  # 1000 roundings of a state


# --- what cannot be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "layout", "advice"),
    [
        ("fp32", "8x4", "8x4 blocks are not kept as fp32; use 16x1, 4x4 or 1x1"),
        ("fp16", "8x4", "8x4 blocks are not kept as fp16; use 16x1, 4x4 or 1x1"),
        ("int8", "1x1", "1x1 blocks are not kept as int8; use 16x1, 4x4 or 8x4"),
        ("int8-fast", "1x1", "1x1 blocks are not kept as int8-fast; use 16x1, 4x4 or 8x4"),
        ("fp32", "2x2", "sparse 2x2 is not known; use auto, off, 16x1, 4x4, 8x4 or 1x1"),
    ],
)
def test_blocks_that_are_not_offered_are_refused_with_those_that_are(dtype, layout, advice):
    config = cases.dual_config(32, 16)
    with pytest.raises(InputError, match=advice):
        make(config, cases.random_tensors(config), dtype=dtype, sparse=layout)


@pytest.mark.parametrize("layout", ["auto", "off", *LAYOUTS["fp16"]])
def test_weights_beyond_fp16_are_refused_in_every_layout(layout):
    config = cases.dual_config(32, 16)
    tensors = cases.random_tensors(config)
    weight = np.zeros_like(tensors["fine_fc1.weight"])
    weight[5, 3] = 1e6
    tensors["fine_fc1.weight"] = weight
    sentence = r"weight fine_fc1 row 5 reaches 1e\+06, beyond fp16's 65504; use dtype fp32 or bf16"
    with pytest.raises(InputError, match=sentence):
        make(config, tensors, dtype="fp16", sparse=layout)
    make(config, tensors, dtype="bf16", sparse=layout)


@pytest.mark.parametrize("layout", LAYOUTS["fp32"])
def test_a_logit_that_is_not_finite_is_named(layout):
    config = cases.dual_config(32, 16)
    tensors = {
        name: value * np.float32(1e30) if "fc" in name and "weight" in name else value
        for name, value in cases.random_tensors(config).items()
    }
    engine = make(config, tensors, sparse=layout)
    for n in (1, 3):
        with pytest.raises(EngineError, match="stream 0 is not finite at step 0"):
            engine.run([engine.open(i) for i in range(n)], [5] * n, [None] * n, [None] * n)
