"""How pruned matrices are packed: which layout is chosen, and that nothing is lost on the way."""

from __future__ import annotations

import dataclasses
import logging

import cases
import numpy as np
import pytest
from engine_work import DTYPES, make
from hypothesis import given, settings
from hypothesis import strategies as st
from pruned import BLOCKS, KEPT, PAIRS, kept_columns, models, rounded

from wavernn_fast import _C, canonical, weights
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import ModelError
from wavernn_fast.vocoder import Vocoder

MODEL = cases.dual_config(128, 64, hop_length=4, n_mels=6, upsample_left=1)
LARGE = cases.dual_config(512, 256)  # small blocks pay in long rows
LARGE_WEIGHTS = 3 * 512 * 512 + 2 * 256 * (256 + 256)


def sparse_model(share: float, block: str, config: ModelConfig = MODEL) -> dict[str, np.ndarray]:
    """Exactly this share of the blocks of every matrix that a plan keeps is zero."""
    random, tensors = np.random.default_rng(4), cases.random_tensors(config)
    rows, columns = BLOCKS[block]
    for name in KEPT[config.core].values():
        height, width = (n // b for n, b in zip(tensors[name].shape, (rows, columns), strict=True))
        order = random.permutation(height * width).reshape(height, width)
        kept = order >= round(share * height * width)
        tensors[name] = tensors[name] * np.repeat(np.repeat(kept, rows, 0), columns, 1)
    return {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}


def kept_weights(tensors: dict[str, np.ndarray], config: ModelConfig = MODEL) -> int:
    return sum(np.count_nonzero(tensors[name]) for name in KEPT[config.core].values())


# --- packing and unpacking --------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "layout"), PAIRS)
@settings(max_examples=15, deadline=None)
@given(data=st.data(), threads=st.integers(1, 7))
def test_every_weight_comes_back_from_its_list(dtype, layout, data, threads):
    """As it is, as it is rounded, or as scale times integer; the same as from dense panels."""
    case = data.draw(models(layout))
    tensors = case.tensors()
    given_to = dataclasses.asdict(case.config), tensors
    found = _C.unpack_plan(*given_to, dtype=dtype, sparse=layout, threads=threads)
    dense = _C.unpack_plan(*given_to, dtype=dtype, sparse="off")
    assert list(found) == list(dense) == list(KEPT[case.config.core])
    for name, canonical_name in KEPT[case.config.core].items():
        columns = kept_columns(case.config, name)
        expected = rounded(tensors[canonical_name][:, :columns], dtype)
        assert np.array_equal(found[name], expected), name
        assert np.array_equal(dense[name], expected), name


# --- choice -----------------------------------------------------------------------------------

CHOSEN = [(dtype, block) for dtype in ("fp32", "fp16", "bf16") for block in ("16x1", "4x4")]
CHOSEN += [(dtype, block) for dtype in ("int8", "int8-fast") for block in ("16x1", "8x4")]


@pytest.mark.parametrize(("dtype", "block"), CHOSEN)
def test_a_model_with_many_zeros_is_multiplied_in_its_own_blocks(dtype, block):
    """Nothing says that it is pruned: the zeros are found in the weights."""
    tensors = sparse_model(0.95, block, LARGE)
    engine = make(LARGE, tensors, dtype=dtype)
    parts = engine.sparse.split(", ")
    assert [part.split(" ")[0] for part in parts] == list(KEPT["dual"])
    assert all(part.endswith(f" 95.0 % zero in blocks of {block}") for part in parts), parts
    assert engine.macs_per_step == kept_weights(tensors, LARGE)
    assert engine.weight_bytes < make(LARGE, tensors, dtype=dtype, sparse="off").weight_bytes / 5
    lines = engine.describe().splitlines()[2:]
    assert len(lines) == 5
    assert all(f"95.0 % zero in blocks of {block}, in panels [" in line for line in lines)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_without_any_order_are_skipped_as_well(dtype):
    """In int8, whose dense products are so fast, only where hardly any weight is left."""
    tensors = sparse_model(0.997 if dtype.startswith("int8") else 0.99, "1x1", LARGE)
    engine = make(LARGE, tensors, dtype=dtype)
    assert len(engine.sparse.split(", ")) == 5
    assert kept_weights(tensors, LARGE) <= engine.macs_per_step < LARGE_WEIGHTS / 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dense_model_stays_dense(dtype):
    engine = make(MODEL, cases.random_tensors(MODEL), dtype=dtype)
    assert engine.sparse == ""
    assert "zero in blocks" not in engine.describe()
    assert engine.macs_per_step == kept_weights(cases.random_tensors(MODEL))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_with_few_zeros_stays_dense(dtype, block):
    assert make(MODEL, sparse_model(0.3, block), dtype=dtype).sparse == ""


def test_each_matrix_is_laid_out_as_it_is_fastest():
    tensors = cases.random_tensors(LARGE)
    tensors["gru.w_recurrent"] = sparse_model(0.95, "16x1", LARGE)["gru.w_recurrent"]
    tensors["fine_fc1.weight"] = sparse_model(0.95, "4x4", LARGE)["fine_fc1.weight"]
    engine = make(LARGE, tensors)
    assert engine.sparse == (
        "gru 95.0 % zero in blocks of 16x1, fine_fc1 95.0 % zero in blocks of 4x4"
    )
    assert make(LARGE, tensors, sparse="off").sparse == ""


def test_what_is_skipped_is_logged(caplog):
    with caplog.at_level(logging.INFO, "wavernn_fast"):
        Vocoder(LARGE, cases.random_tensors(LARGE), device="cpu")
        assert caplog.records == []
        Vocoder(LARGE, sparse_model(0.95, "4x4", LARGE), device="cpu", dtype="fp16")
    [record] = caplog.records
    assert record.levelname == "INFO"
    zeros = [f"{name} 95.0 % zero in blocks of 4x4" for name in KEPT["dual"]]
    sentence = f"Zeros of these weights are skipped: {', '.join(zeros)}."
    assert record.getMessage() == sentence


# --- files with masks -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", ["16x1", "4x4"])
def test_masks_in_a_file_change_no_bit(block, dtype, tmp_path):
    tensors = sparse_model(0.9, block)
    names = tuple(sorted(KEPT["dual"].values()))
    config = dataclasses.replace(MODEL, block_shape=BLOCKS[block], pruned=names)
    rows, columns = BLOCKS[block]
    masks = {
        canonical.mask_name(n): np.float32(
            tensors[n].reshape(len(tensors[n]) // rows, rows, -1, columns).any((1, 3))
        )
        for n in names
    }
    weights.write(tmp_path / "pruned.safetensors", config, tensors | masks)
    weights.write(tmp_path / "plain.safetensors", MODEL, tensors)
    pruned, plain = (
        Vocoder.from_pretrained(tmp_path / f"{name}.safetensors", dtype=dtype, device="cpu")
        for name in ("pruned", "plain")
    )
    assert pruned.engine.sparse == plain.engine.sparse != ""
    mel = cases.random_mel(MODEL, 12)
    assert np.array_equal(pruned.generate(mel, seed=2), plain.generate(mel, seed=2))


def test_blocks_that_do_not_divide_a_tensor_of_a_file_are_refused(tmp_path, monkeypatch):
    config = dataclasses.replace(
        cases.dual_config(32, 23),
        block_shape=(16, 1),
        pruned=("coarse_fc1.weight", "gru.w_recurrent", "fine_fc2.weights"),
    )
    tensors = cases.random_tensors(config)
    with monkeypatch.context() as patch:
        patch.setattr(weights, "validate", lambda *_: None)
        weights.write(tmp_path / "m.safetensors", config, tensors)
    for refuse in (
        lambda: Vocoder.from_pretrained(tmp_path / "m.safetensors"),
        lambda: Vocoder(config, tensors),
    ):
        with pytest.raises(ModelError, match="Blocks of 16 x 1 weights do not divide:") as caught:
            refuse()
        assert caught.value.problems == (
            "coarse_fc1.weight [23, 16]",
            "fine_fc2.weights (no such tensor)",
        )
