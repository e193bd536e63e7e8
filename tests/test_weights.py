"""Canonical files: the same model in, the same model out, and nothing else gets in."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from canonical_models import BARE, CONFIGS, DUAL, RESIDUAL, make_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from wavernn_fast import weights
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import InputError, ModelError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "voice.safetensors"
    weights.write(path, DUAL, make_tensors(DUAL))
    return path


def _rewrite(path: Path, change: Any) -> None:
    """Apply `change` to the header of a file, leaving its tensors as they are."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_model_comes_back_bit_for_bit(tmp_path: Path, config: ModelConfig) -> None:
    path, tensors = tmp_path / "m.safetensors", make_tensors(config)
    weights.write(path, config, tensors)
    again, found = weights.read(path)
    assert again == config
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        assert found[name].dtype == np.float32
        assert found[name].flags.c_contiguous
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(("dtype", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_narrow_storage_rounds_to_nearest_even_and_widens_exactly(
    tmp_path: Path, dtype: Any, kind: torch.dtype
) -> None:
    path, tensors = tmp_path / "m.safetensors", make_tensors(RESIDUAL)
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, -(2.0**-24)], np.float32)
    tensors["fc1.bias"][:5] = ties
    weights.write(path, RESIDUAL, tensors, dtype=dtype)
    _, found = weights.read(path)
    for name, array in tensors.items():
        expected = torch.from_numpy(array).to(kind).float().numpy()
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], expected), name
    code = {"fp16": "F16", "bf16": "BF16"}[dtype]
    assert set(weights.stored_dtypes(path).values()) == {code}
    wide = tmp_path / "wide.safetensors"
    weights.write(wide, RESIDUAL, tensors)
    assert path.stat().st_size < 0.75 * wide.stat().st_size


def test_narrow_storage_is_stable(tmp_path: Path) -> None:
    for dtype in ("fp16", "bf16"):
        first, second = tmp_path / "a", tmp_path / "b"
        weights.write(first, DUAL, make_tensors(DUAL), dtype=dtype)
        weights.write(second, *weights.read(first), dtype=dtype)
        assert first.read_bytes() == second.read_bytes()


def test_a_value_that_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    tensors = make_tensors(DUAL)
    tensors["gru.b_input"][7] = 1e6
    with pytest.raises(ModelError, match=r"gru\.b_input has 1 values beyond 65504"):
        weights.write(tmp_path / "m", DUAL, tensors, dtype="fp16")
    tensors["gru.b_input"][7] = 3.4e38
    with pytest.raises(ModelError, match="Store the model as fp32"):
        weights.write(tmp_path / "m", DUAL, tensors, dtype="bf16")
    assert list(tmp_path.iterdir()) == []


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = make_tensors(DUAL)
    weights.write(tmp_path / "a", DUAL, tensors)
    weights.write(tmp_path / "b", DUAL, dict(reversed(tensors.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_file_is_plain_safetensors_with_its_facts_in_the_metadata(model: Path) -> None:
    with safe_open(str(model), framework="numpy") as file:
        meta = file.metadata()
        assert set(file.keys()) == set(weights.expected_shapes(DUAL))
        kernel = file.get_tensor("upsample.kernel")
    assert meta["format"] == "wavernn_fast"
    assert meta["version"] == "1"
    assert ModelConfig.from_json(meta["config"]) == DUAL
    assert len(meta["sha256"]) == 64
    assert np.array_equal(kernel, make_tensors(DUAL)["upsample.kernel"])
    assert weights.read_metadata(model) == meta


def test_an_unknown_storage_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fp32, fp16, bf16"):
        weights.write(tmp_path / "m", DUAL, make_tensors(DUAL), dtype="int4")  # type: ignore[arg-type]


# ---------------------------------------------------------------- refusals


def test_an_altered_weight_is_noticed_by_the_hash(model: Path) -> None:
    data = bytearray(model.read_bytes())
    data[-3] ^= 1
    model.write_bytes(data)
    with pytest.raises(ModelError, match="sha256"):
        weights.read(model)


def test_swapped_tensor_names_are_noticed_by_the_hash(model: Path) -> None:
    def swap(header: dict[str, Any]) -> None:
        a, b = "coarse_fc1.weight", "fine_fc1.weight"
        header[a], header[b] = header[b], header[a]

    _rewrite(model, swap)
    with pytest.raises(ModelError, match="sha256"):
        weights.read(model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h.pop("__metadata__"), "not a wavernn_fast model"),
        (lambda h: h["__metadata__"].update(format="pt"), "not a wavernn_fast model"),
        (lambda h: h["__metadata__"].update(version="2"), "Update wavernn_fast"),
        (lambda h: h["__metadata__"].update(version="0"), "Convert the original"),
        (lambda h: h["__metadata__"].pop("sha256"), "missing metadata 'sha256'"),
        (lambda h: h["__metadata__"].pop("config"), "missing metadata 'config'"),
        (lambda h: h["__metadata__"].update(config=3), "missing metadata 'config'"),
        (lambda h: h["__metadata__"].update(config="{}"), "sha256"),
        (lambda h: h["__metadata__"].update(sha256="0" * 64), "sha256"),
        (lambda h: h["gru.b_input"].update(dtype="I32"), "dtype I32, expected F32"),
        (lambda h: h["gru.b_input"].update(shape=[1] * 9), "no usable shape"),
        (lambda h: h.update({"gru.b_input": 3}), "described by int"),
        (lambda h: h["gru.b_input"].update(shape=[2**62, 2**62]), "damaged"),
        (lambda h: h["gru.b_input"].update(data_offsets=[0, 2**62]), "truncated"),
        (lambda h: h.pop("gru.b_input"), "damaged"),
    ],
)
def test_an_altered_header_is_refused(model: Path, change: Any, words: str) -> None:
    _rewrite(model, change)
    with pytest.raises(ModelError, match=words):
        weights.read(model)


def test_a_configuration_of_other_sizes_is_refused_with_all_differences(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "validate", lambda config, tensors: None)
    weights.write(model, dataclasses.replace(DUAL, fc_size=16), make_tensors(DUAL))
    with pytest.raises(ModelError) as caught:
        weights.read(model)
    assert str(model) in str(caught.value)
    assert len(caught.value.problems) == 6


def test_an_unusable_configuration_is_refused_with_its_faults(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(json.loads(DUAL.to_json()) | {"colour": "red", "fc_size": "8"})
    monkeypatch.setattr(ModelConfig, "to_json", lambda self: text)
    weights.write(model, DUAL, make_tensors(DUAL))
    with pytest.raises(ModelError, match=r"unknown field 'colour'(?s:.*)fc_size is '8'"):
        weights.read(model)


def test_a_stored_nan_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = make_tensors(DUAL)
    tensors["gru.b_input"][4] = np.nan
    monkeypatch.setattr(weights, "validate", lambda config, tensors: None)
    weights.write(tmp_path / "m", DUAL, tensors)
    with pytest.raises(
        ModelError, match=r"gru\.b_input has 1 value not finite.*NaN at index \[4\]"
    ):
        weights.read(tmp_path / "m")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a wavernn_fast model"),
        (b"abc", "not a wavernn_fast model"),
        (b"# a readme\n\nwith some text in it\n", "not a wavernn_fast model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "not a wavernn_fast model"),
        (struct.pack("<Q", 1 << 40) + b"{" + bytes(64), "header has 1099511627776 bytes"),
        (struct.pack("<Q", 1000) + b"{}", "truncated"),
        (struct.pack("<Q", 9) + b"{not json" + bytes(8), "not JSON"),
        (struct.pack("<Q", 4000) + b"{" * 4000, "not JSON"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        weights.read(path)


def test_too_many_tensors_are_refused(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{i}": entry for i in range(4098)}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelError, match="lists 4098 tensors, limit 4096"):
        weights.read(path)


def test_a_file_beyond_two_gibibytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with open(path, "wb") as file:
        file.truncate((2 << 30) + 1)  # sparse: takes no space
    with pytest.raises(ModelError, match="more than the 2147483648"):
        weights.read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no file"):
        weights.read(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="Cannot read"):
        weights.read(tmp_path)


def test_a_model_cut_anywhere_is_refused(model: Path) -> None:
    whole = model.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    places = [*range(0, header + 16, 7), *range(header + 16, len(whole), 997), len(whole) - 1]
    for size in places:
        model.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            weights.read(model)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_mutated_model_is_refused_or_unchanged(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    weights.write(path, BARE, make_tensors(BARE))
    content = bytearray(path.read_bytes())
    (header,) = struct.unpack("<Q", content[:8])
    end = len(content) if data.draw(st.booleans()) else header + 8
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        config, found = weights.read(path)
    except ModelError:
        return
    assert config == BARE
    for name, array in make_tensors(BARE).items():
        assert np.array_equal(found[name], array)


# ---------------------------------------------------------------- writing safely


def test_a_faulty_model_is_not_written(tmp_path: Path) -> None:
    tensors = make_tensors(DUAL)
    tensors["gru.b_input"][0] = np.inf
    with pytest.raises(ModelError, match="not finite"):
        weights.write(tmp_path / "m.safetensors", DUAL, tensors)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(ModelError, match="No space left on device"):
        weights.write(full, DUAL, make_tensors(DUAL))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(
    model: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = model.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ModelError, match=r"No space left on device.*MB free"):
        weights.write(model, DUAL, make_tensors(DUAL, seed=1))
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


def test_an_interrupted_write_leaves_the_old_file_and_no_other(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model.read_bytes()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        weights.write(model, DUAL, make_tensors(DUAL, seed=1))
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "m.safetensors"
    with pytest.raises(ModelError, match=r"Cannot write .*Check that the folder exists"):
        weights.write(path, DUAL, make_tensors(DUAL))


def test_a_target_that_is_a_folder_is_refused_without_leftovers(tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors"
    target.mkdir()
    with pytest.raises(ModelError, match="Cannot write"):
        weights.write(target, DUAL, make_tensors(DUAL))
    assert list(tmp_path.iterdir()) == [target]


def test_a_write_replaces_the_old_model_whole(model: Path) -> None:
    weights.write(model, RESIDUAL, make_tensors(RESIDUAL))
    assert weights.read(model)[0] == RESIDUAL
    assert list(model.parent.iterdir()) == [model]
