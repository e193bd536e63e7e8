"""Checkpoint files: every container is opened, every other file refused, no code is run."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import checkpoint_builders as builders
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from voices import same_bits

from wavernn_fast import checkpoints, weights
from wavernn_fast.checkpoints.container import open_checkpoint
from wavernn_fast.errors import MissingDependencyError, ModelError

# ---------------------------------------------------------------- containers


@pytest.mark.parametrize("dialect", builders.BUILDERS)
@pytest.mark.parametrize("legacy", [False, True])
def test_prefix_wrapper_and_container_change_nothing(
    tmp_path: Path, dialect: str, legacy: bool
) -> None:
    linear = dialect == "coqui"  # of which no tensor tells the hop length
    state = builders.BUILDERS[dialect](**({"n_mels": 80} if linear else {}))
    preset = "coqui" if linear else None
    config, plain = checkpoints.load(builders.save(tmp_path / "a.pyt", state), preset)
    path = builders.save(
        tmp_path / "b.pth", state, wrapper="state_dict", prefix="module.", legacy=legacy
    )
    other, wrapped = checkpoints.load(path, preset)
    assert config == other
    assert all(np.array_equal(plain[name], wrapped[name]) for name in plain)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "model.", "model.module."])
def test_names_of_modules_around_the_model_are_taken_off(tmp_path: Path, prefix: str) -> None:
    state = builders.fatchord()
    config, plain = checkpoints.load(builders.save(tmp_path / "a.pyt", state))
    other, wrapped = checkpoints.load(builders.save(tmp_path / "b.pt", state, prefix=prefix))
    assert config == other
    assert all(np.array_equal(plain[name], wrapped[name]) for name in plain)


def test_what_to_do_with_a_trusted_file_that_holds_more_is_said_and_works(tmp_path: Path) -> None:
    """Settings as `argparse` has them, or a loss as numpy has it, are in many checkpoints."""
    import argparse

    path, alone = tmp_path / "m.pt", tmp_path / "weights.pt"
    state = builders.to_torch(builders.fatchord())
    torch.save({"model": state, "args": argparse.Namespace(lr=1.0)}, path)
    with pytest.raises(ModelError, match="Namespace") as caught:
        checkpoints.load(path)
    advised = r"torch.save(torch.load(path, weights_only=False)[KEY], new_path)"
    assert advised in str(caught.value)
    names = {"torch": torch, "path": path, "new_path": alone, "KEY": "model"}
    exec(advised, names)  # the advice itself is under test
    assert checkpoints.load(alone)[0].source == "fatchord"


def _as_safetensors(path: Path, state: dict[str, torch.Tensor]) -> Path:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)
    return path


@pytest.mark.parametrize("dialect", builders.BUILDERS)
def test_a_state_dict_in_safetensors_is_read_without_pytorch(
    tmp_path: Path, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = dialect == "coqui"  # of which no tensor tells the hop length
    state = builders.BUILDERS[dialect](**({"n_mels": 80} if linear else {}))
    preset = "coqui" if linear else None
    plain, expected = checkpoints.load(builders.save(tmp_path / "m.pt", state), preset)
    named = {f"module.{name}": tensor for name, tensor in builders.to_torch(state).items()}
    path = _as_safetensors(tmp_path / "m.safetensors", named)
    monkeypatch.setitem(sys.modules, "torch", None)
    config, tensors = checkpoints.load(path, preset)
    assert config == plain
    assert all(same_bits(tensors[name], expected[name]) for name in expected)
    facts = checkpoints.inspect(path)
    assert (facts["kind"], facts["dialect"], facts["problems"] == []) == (
        "checkpoint",
        dialect,
        not linear,
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_floats_of_other_widths_in_safetensors_become_float32(tmp_path: Path, dtype: str) -> None:
    state = builders.to_torch(builders.fatchord(), dtype)
    path = _as_safetensors(tmp_path / "m.safetensors", state)
    torch.save(state, tmp_path / "m.pt")
    _, expected = checkpoints.load(tmp_path / "m.pt")
    _, tensors = checkpoints.load(path)
    assert all(same_bits(tensors[name], expected[name]) for name in expected)
    stored = {tensor["name"]: tensor["dtype"] for tensor in checkpoints.inspect(path)["tensors"]}
    codes = {"float16": "F16", "bfloat16": "BF16", "float64": "F64"}
    assert (stored["I.weight"], stored["step"]) == (codes[dtype], "I64")


def test_a_converted_model_that_lost_its_configuration_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for builder in (builders.fatchord, builders.deepmind, builders.univoc):
        config, tensors = checkpoints.load(builders.save(tmp_path / "m.pt", builder()))
        weights.write(tmp_path / "m.safetensors", config, tensors)
        bare = _as_safetensors(tmp_path / "bare.safetensors", load_file(tmp_path / "m.safetensors"))
        with pytest.raises(ModelError, match=r"bare\.safetensors: .*without its configuration"):
            checkpoints.load(bare)


def test_a_safetensors_file_that_is_no_model_says_why(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    state = builders.to_torch(builders.fatchord())
    state.pop("I.bias")
    with pytest.raises(
        ModelError, match=r"m\.safetensors: .*fatchord model(.|\n)*missing.*I\.bias"
    ):
        checkpoints.load(_as_safetensors(path, state))
    with pytest.raises(ModelError, match=r"m\.safetensors: .*no known layout"):
        checkpoints.load(_as_safetensors(path, {"lm_head.weight": torch.zeros(2, 2)}))
    strange = state | {"I.bias": torch.zeros(16, dtype=torch.float8_e4m3fn)}
    with pytest.raises(ModelError, match=r"I\.bias has dtype F8_E4M3, expected F64, .* or BF16"):
        checkpoints.load(_as_safetensors(path, strange))
    whole = _as_safetensors(path, state).read_bytes()
    for size in (9, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="truncated"):
            checkpoints.load(path)


def test_weights_pruned_by_pytorch_are_put_together(tmp_path: Path) -> None:
    """As `torch.nn.utils.prune` leaves them: values and mask, in place of the weight."""
    from torch.nn.utils import prune

    gru = torch.nn.GRU(16, 16)
    prune.l1_unstructured(gru, "weight_hh_l0", amount=0.5)
    assert {"weight_hh_l0_orig", "weight_hh_l0_mask"} <= set(gru.state_dict())
    state = builders.to_torch(builders.fatchord())
    for name, tensor in gru.state_dict().items():
        state[f"rnn1.{name}"] = tensor
    state.pop("rnn1.weight_hh_l0")
    torch.save(state, tmp_path / "pruned.pt")
    _, tensors = checkpoints.load(tmp_path / "pruned.pt")
    assert np.array_equal(tensors["gru1.w_recurrent"], gru.weight_hh_l0.detach().numpy())
    assert (tensors["gru1.w_recurrent"] == 0).mean() == 0.5
    state["rnn1.weight_hh_l0_mask"] = torch.ones(3)  # not one of it: both are named
    torch.save(state, tmp_path / "wrong.pt")
    with pytest.raises(ModelError, match="weight_hh_l0_mask"):
        checkpoints.load(tmp_path / "wrong.pt")


def test_averaged_weights_are_read(tmp_path: Path) -> None:
    """As AveragedModel of torch.optim.swa_utils saves them, with a number beside."""
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(1, 1)).state_dict()
    assert set(averaged) == {"n_averaged", "module.weight", "module.bias"}
    state = builders.fatchord()
    named = {f"module.{name}": tensor for name, tensor in builders.to_torch(state).items()}
    torch.save({"n_averaged": averaged["n_averaged"], **named}, tmp_path / "ema.pt")
    found = open_checkpoint(tmp_path / "ema.pt").state
    assert {name: array.shape for name, array in found.items()} == {
        name: array.shape for name, array in state.items()
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_tensors_of_other_float_types_become_float32(tmp_path: Path, dtype: str) -> None:
    state = builders.deepmind()
    _, tensors = checkpoints.load(builders.save(tmp_path / "m.pyt", state, dtype=dtype))
    rounded = torch.from_numpy(state["O2.weight"]).to(getattr(torch, dtype)).float().numpy()
    assert tensors["coarse_fc2.weight"].dtype == np.float32
    assert np.array_equal(tensors["coarse_fc2.weight"], rounded)


def test_loaded_arrays_do_not_depend_on_the_file(tmp_path: Path) -> None:
    path = builders.save(tmp_path / "m.pyt", builders.fatchord())
    tensors = open_checkpoint(path).state
    before = {name: array.copy() for name, array in tensors.items()}
    path.write_bytes(b"\0" * path.stat().st_size)
    assert all(np.array_equal(before[name], tensors[name]) for name in before)


def test_an_optimizer_file_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "latest_optim.pyt"
    module = torch.nn.Linear(2, 2)
    torch.save(torch.optim.Adam(module.parameters()).state_dict(), path)
    with pytest.raises(ModelError, match="optimizer, not a model"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"hidden_size: 512\nbits: 9\n", "a text file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "a PNG image"),
        (b"RIFF\x24\x00\x00\x00WAVE", "a WAV file"),
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (bytes(range(1, 128)), "of an unknown kind"),
        (b"PK\x03\x04" + bytes(100), "truncated or damaged"),
        (b"\x80\x02" + bytes(100), "damaged"),
    ],
)
def test_files_of_other_kinds_are_refused_by_kind(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        checkpoints.load(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, legacy: bool) -> None:
    path = builders.save(tmp_path / "m.pyt", builders.deepmind(), legacy=legacy)
    whole = path.read_bytes()
    for size in (1, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            checkpoints.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no file"):
        checkpoints.load(tmp_path / "none.pt")
    with pytest.raises(ModelError, match="Cannot read"):
        checkpoints.load(tmp_path)


class _Bomb:
    """Pickles as a call that leaves a mark on the disk."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("how", ["zip", "legacy", 2, 4, 5])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, how: str | int) -> None:
    path, mark = tmp_path / "evil.pt", tmp_path / "mark"
    content = {**builders.to_torch(builders.deepmind()), "x": _Bomb(mark)}
    if isinstance(how, int):
        path.write_bytes(pickle.dumps({"x": _Bomb(mark)}, protocol=how))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(ModelError, match="nothing was run"):
        checkpoints.load(path)
    assert not mark.exists()


def test_a_whole_pickled_module_is_refused_with_advice(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(ModelError, match="state_dict"):
        checkpoints.load(tmp_path / "module.pt")


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    with pytest.raises(ModelError, match="TorchScript"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list"),
        ({}, "holds no tensors"),
        ({"hparams": {"a": 1}}, "its keys: hparams"),
        ({"a": torch.zeros(2), "b": "text"}, "b is str, expected a tensor"),
        ({"a": torch.zeros(2), 3: torch.zeros(2)}, "a key of the state dict is int"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "complex64"),
        ({"a": torch.zeros(2).to_sparse()}, "not a plain dense tensor"),
        ({"a": torch.zeros([1] * 9)}, "9 dimensions"),
    ],
)
def test_other_contents_are_refused_by_content(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ModelError, match=words):
        checkpoints.load(tmp_path / "m.pt")


def test_a_huge_shape_over_a_small_buffer_is_refused_before_allocation(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match=r"bytes, limit \d+; its largest tensor is a"):
        checkpoints.load(tmp_path / "m.pt")


def test_an_archive_written_without_checksums_is_loaded(tmp_path: Path) -> None:
    _, expected = checkpoints.load(builders.save(tmp_path / "a.pyt", builders.deepmind()))
    torch.serialization.set_crc32_options(False)
    try:
        path = builders.save(tmp_path / "b.pyt", builders.deepmind())
    finally:
        torch.serialization.set_crc32_options(True)
    assert path.read_bytes() != (tmp_path / "a.pyt").read_bytes()
    _, tensors = checkpoints.load(path)
    assert all(np.array_equal(expected[name], tensors[name]) for name in expected)


def test_an_archive_packed_by_another_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(builders.save(tmp_path / "a.pyt", builders.deepmind()), "a.pyt")
    with pytest.raises(ModelError, match=r"a compressed archive \(a\.pyt\).*choose the checkpoint"):
        checkpoints.load(path)


def test_too_many_tensors_are_refused(tmp_path: Path) -> None:
    one = torch.zeros(1)
    torch.save({f"t{i}": one for i in range(4097)}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match="4097 tensors, limit 4096"):
        checkpoints.load(tmp_path / "m.pt")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_checkpoint_never_raises_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = builders.save(folder / "m.pyt", builders.deepmind(), legacy=data.draw(st.booleans()))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        checkpoints.load(path)
    except ModelError:
        pass  # refused; PyTorch files carry no checksum of their weights, so some still load
    finally:
        path.unlink()


def test_an_old_pytorch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = builders.save(tmp_path / "m.pyt", builders.deepmind())
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(MissingDependencyError, match=r"2\.9\.1\+cpu is too old"):
        checkpoints.load(path)


def test_an_absent_pytorch_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = builders.save(tmp_path / "m.pyt", builders.deepmind())
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"wavernn-fast\[torch\]"):
        checkpoints.load(path)
