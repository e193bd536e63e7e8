"""A trained sparse model, with the unevenness and the ranges of one (../shared/data)."""

from __future__ import annotations

from functools import cache

import lyra
import numpy as np
import pytest
import reference
import tolerances
from engine_work import DTYPES, ISAS, make
from pruned import LAYOUTS, rounded_tensors

from wavernn_fast import canonical, weights
from wavernn_fast.vocoder import Vocoder

N = 200

# Without conditioning this model does not forget: a change of 1e-7 in its units is as large, or 7
# times as large, 40 samples later, and moves a logit by up to 8e-4, for logits are sums that reach
# -770 (of classes that are never drawn). So roundings add up, and over 300 samples no engine is in
# the table: PyTorch in float32 is off by 1.0e-5 of the largest logit, the dense engine by 8e-6, and
# exact arithmetic with weights rounded to bf16 by 0.04 and to int8 by 0.46. What one sample rounds
# is in the table, as the first ones show. Whole runs are compared with what the rounded weights
# give in double, and the limits, shares of the largest logit, have room for what adds up.
BEGIN = 4
WHOLE = {"fp32": 2e-5, "fp16": 2e-5, "bf16": 2e-5, "int8": 1e-2, "int8-fast": 0.15}

pytestmark = pytest.mark.skipif(not lyra.FOLDER.is_dir(), reason=lyra.MISSING)


def test_the_arrays_hold_what_is_published_of_them():
    tensors, masks = lyra.tensors(), lyra.masks()
    for name, (_, shape, kept) in lyra.MATRICES.items():
        mask = masks[name]
        assert tensors[name].shape == mask.shape == shape
        assert np.isin(mask, (0, 1)).all()
        assert not tensors[name][mask == 0].any()
        assert np.count_nonzero(tensors[name]) == np.count_nonzero(mask) == kept
        blocks = mask.reshape(shape[0] // 4, 4, shape[1] // 4, 4).sum((1, 3))
        assert np.isin(blocks, (0, 16)).all()
    assert sum(kept for _, _, kept in lyra.MATRICES.values()) == 193_952
    rows = masks["gru.w_recurrent"].reshape(768, 4, 256, 4)[:, 0, :, 0].sum(1)
    assert (rows.min(), rows.max()) == (0, 62)
    assert np.abs(tensors["gru.w_sample"]).max() == pytest.approx(292.359, abs=1e-3)
    canonical.validate(lyra.CONFIG, tensors | lyra.block_masks())


def engine(**options):
    return make(lyra.CONFIG, lyra.tensors(), **options)


def run(engine, seed: int = 1, n: int = N, **options) -> tuple[np.ndarray, np.ndarray | None]:
    return engine.run([engine.open(seed)], [n], [None], [None], **options)[0]


@cache
def samples() -> np.ndarray:
    """What the model says freely, in fp32."""
    return run(engine())[0]


@cache
def expected_logits(dtype: str) -> np.ndarray:
    """Of the float64 reference, with the weights as `dtype` keeps them."""
    kept = rounded_tensors(lyra.CONFIG, lyra.tensors(), dtype)
    return reference.run(lyra.CONFIG, kept, n_steps=N, forced=samples())["logits"]


def forced_logits(dtype: str, layout: str) -> np.ndarray:
    one = engine(dtype=dtype, sparse=layout, threads=1)
    _, logits = run(one, forced=[samples()], return_logits=True)
    assert logits is not None
    return logits


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_are_in_the_table_until_roundings_add_up(dtype):
    expected = expected_logits("fp32")[:BEGIN]
    for layout in ("auto", *LAYOUTS[dtype]):
        error = tolerances.logit_error(forced_logits(dtype, layout)[:BEGIN], expected)
        assert error <= tolerances.logit_limit(expected, dtype), layout


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_stay_those_of_the_weights_as_they_are_kept(dtype):
    expected = expected_logits(dtype)
    for layout in ("auto", *LAYOUTS[dtype]):
        error = tolerances.logit_error(forced_logits(dtype, layout), expected)
        assert error <= WHOLE[dtype] * np.abs(expected).max(), layout


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_floating_point_weights_are_multiplied_in_the_blocks_of_training(dtype):
    one = engine(dtype=dtype)
    found = [line.rsplit(" ", 1)[1] for line in one.sparse.split(", ")]
    assert found == ["4x4"] * 5
    assert one.sparse.startswith("gru 95.1 % zero in blocks of 4x4, coarse_fc1 95.1 % zero")
    assert one.macs_per_step == 193_952


@pytest.mark.slow
def test_nothing_changes_a_bit_of_what_it_says():
    for dtype in DTYPES:
        alone = [run(engine(dtype=dtype, threads=1), seed, n=60)[0] for seed in range(3)]
        for isa in ISAS:
            for threads in (1, 2, 3) if isa == ISAS[-1] else (1,):
                one = engine(dtype=dtype, threads=threads, isa=isa)
                assert np.array_equal(run(one, 0, n=60)[0], alone[0]), (dtype, isa, threads)
                streams = [one.open(seed) for seed in range(3)]
                together = one.run(streams, [60] * 3, [None] * 3, [None] * 3)
                for (mine, _), expected in zip(together, alone, strict=True):
                    assert np.array_equal(mine, expected), (dtype, isa, threads)


def test_its_canonical_file_has_masks_and_plays(tmp_path):
    path = tmp_path / "sparse.safetensors"
    weights.write(path, lyra.CONFIG, lyra.tensors() | lyra.block_masks())
    voice = Vocoder.from_pretrained(path, dtype="fp16", cpu_threads=1)
    assert voice.config == lyra.CONFIG
    expected = run(engine(dtype="fp16", threads=1), n=60)[0]
    assert np.array_equal(run(voice.engine, n=60)[0], expected)
