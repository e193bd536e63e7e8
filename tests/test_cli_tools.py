"""The commands about models and machines: convert, inspect, verify, bench, doctor."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import cases
import checkpoint_builders
import numpy as np
import pytest
from cli_runner import run
from voices import DTYPES, preset_mel, save_voice

from wavernn_fast import verification, weights
from wavernn_fast.vocoder import Vocoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_voice(tmp_path_factory.mktemp("model"))


# --- convert, inspect, verify ---------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    state = checkpoint_builders.fatchord(n_mels=80, scales=(5, 5, 11))
    return checkpoint_builders.save(tmp_path / "latest.pyt", state)


def test_a_converted_model_sounds_like_the_checkpoint(checkpoint, tmp_path):
    target = tmp_path / "voice.safetensors"
    result = run("convert", checkpoint, "-o", target, "--verify", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["bytes"] == target.stat().st_size
    assert facts["verified"]["difference"] <= facts["verified"]["tolerance"]
    frames = preset_mel(4)
    expected = Vocoder.from_pretrained(checkpoint).generate(frames)
    assert np.array_equal(Vocoder.from_pretrained(target).generate(frames), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.pyt", "voice.safetensors"]


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_files_are_half_as_large_and_verified(dtype, checkpoint, tmp_path):
    for kind in ("fp32", dtype):
        target = tmp_path / f"{kind}.safetensors"
        result = run("convert", checkpoint, "-o", target, "--dtype", kind, "--verify")
        assert result.exit_code == 0, result.stderr
    sizes = [(tmp_path / f"{k}.safetensors").stat().st_size for k in ("fp32", dtype)]
    assert sizes[1] < 0.7 * sizes[0]


def test_convert_refuses_and_writes_nothing(checkpoint, model, tmp_path, tmp_path_factory):
    out = tmp_path / "out.safetensors"
    folder = tmp_path_factory.mktemp("a") / "folder.safetensors"
    folder.mkdir()
    for arguments in (
        (tmp_path / "none.pt", "-o", out),
        (checkpoint, "-o", tmp_path / "out.bin"),
        (checkpoint, "-o", out, "--preset", "nope"),
        (checkpoint, "-o", tmp_path / "no" / "folder" / "out.safetensors"),
        (model, "-o", model),
        (checkpoint, "-o", folder, "--verify"),
    ):
        before = model.read_bytes()
        result = run("convert", *arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr
        assert result.stderr
        assert [p.name for p in tmp_path.iterdir()] == ["latest.pyt"]
        assert model.read_bytes() == before


def test_inspect_shows_layout_sizes_and_problems(checkpoint, model, tmp_path):
    shown = run("inspect", checkpoint)
    assert shown.exit_code == 0
    assert "fatchord" in shown.stdout
    assert "hop_length" in shown.stdout
    facts = json.loads(run("inspect", model, "--json").stdout)
    assert (facts["kind"], facts["preset"]) == ("canonical", "fatchord-raw9")
    assert "gru1.w_recurrent" in run("inspect", model, "--tensors").stdout
    state = checkpoint_builders.fatchord()
    del state["fc3.bias"]
    broken = checkpoint_builders.save(tmp_path / "broken.pt", state)
    result = run("inspect", broken)
    assert result.exit_code == 2
    assert "missing tensor fc3.bias" in result.stdout


@pytest.mark.parametrize("dtype", DTYPES)
def test_verify_prints_the_worst_logit_beside_the_tolerance(dtype, model):
    result = run("verify", model, "--dtype", dtype, "--steps", 600, "--json")
    assert result.exit_code == 0, result.stdout + result.stderr
    facts = json.loads(result.stdout)
    assert facts["passed"]
    assert facts["steps"] == 600
    assert 0.0 < facts["worst"] <= facts["tolerance"]
    difference = abs(facts["engine_logit"] - facts["torch_logit"])
    assert difference == pytest.approx(facts["worst"])


def test_verify_exits_with_1_beyond_the_tolerance(model, monkeypatch):
    forced = verification._forced
    monkeypatch.setattr(verification, "_forced", lambda *given: forced(*given) + np.float32(1e-3))
    result = run("verify", model, "--steps", 50)
    assert result.exit_code == 1
    assert "BEYOND" in result.stdout


def test_verify_asks_no_more_of_single_precision_than_pytorch_has_in_it(tmp_path):
    """Units hear the small difference of two loud things: a bias, and the last sample."""
    config = cases.dual_config(32, 16)
    tensors = cases.random_tensors(config)
    gain = np.full(3 * 32, 3e3, np.float32)
    tensors["gru.w_sample"] = np.outer(gain, np.array([1.0, 1.0 / 256.0, 0.0], np.float32))
    tensors["gru.b_input"] = gain * np.linspace(-1.0, 1.0, 3 * 32, dtype=np.float32)
    path = tmp_path / "m.safetensors"
    weights.write(path, config, tensors)
    result = run("verify", path, "--steps", 200, "--json")
    assert result.exit_code == 0, result.stdout
    facts = json.loads(result.stdout)
    assert facts["passed"]
    assert 1e-4 < facts["worst"] <= facts["tolerance"] < facts["torch_float32"]
    assert facts["tolerance"] == pytest.approx(4e-4, rel=0.1)
    assert "PyTorch's own float32" in run("verify", path, "--steps", 200).stdout
    wrong = {**tensors, "gru.b_input": tensors["gru.b_input"] + np.float32(1.0)}
    found = verification.compare(Vocoder(config, wrong, device="cpu"), tensors, steps=200)
    assert not found.passed


@pytest.mark.parametrize(
    ("builder", "frames", "least"), [("fatchord", 0, 1), ("gibiansky", 12, 13)]
)
def test_verify_on_a_mel_that_is_too_short_says_what_it_takes(tmp_path, builder, frames, least):
    state = checkpoint_builders.BUILDERS[builder]()
    voice = checkpoint_builders.save(tmp_path / "m.pt", state)
    np.save(tmp_path / "mel.npy", np.zeros((8, frames), np.float32))
    result = run("verify", voice, "--mel", tmp_path / "mel.npy")
    assert result.exit_code == 2
    assert f"The mel has {frames} frames and none of them sounds" in result.stderr
    assert f"needs {least} or more" in result.stderr
    np.save(tmp_path / "mel.npy", np.zeros((8, least), np.float32))
    assert run("verify", voice, "--mel", tmp_path / "mel.npy", "--steps", 9).exit_code == 0


def test_convert_keeps_no_file_that_fails_its_verification(checkpoint, tmp_path, monkeypatch):
    forced = verification._forced
    monkeypatch.setattr(verification, "_forced", lambda *given: forced(*given) + np.float32(1e-3))
    result = run("convert", checkpoint, "-o", tmp_path / "voice.safetensors", "--verify")
    assert result.exit_code == 2
    assert "BEYOND" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["latest.pyt"]


def test_verify_without_torch_says_what_to_install(model, monkeypatch):
    for name in [n for n in sys.modules if n == "torch" or n.startswith("torch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("verify", model)
    assert result.exit_code == 2
    assert "pip install" in result.stderr
    assert "[torch]" in result.stderr


# --- doctor ---------------------------------------------------------------------------------------


def test_pytorch_has_its_threads_back_after_a_baseline():
    import torch

    from wavernn_fast.models.eager import torch_threads

    before = torch.get_num_threads()
    with contextlib.suppress(ZeroDivisionError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_doctor_tests_the_engine_and_reports(monkeypatch):
    monkeypatch.setenv("WAVERNN_FAST_LIBCUDA", "/nowhere/libcuda.so")
    result = run("doctor", "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["self_test"]["passed"]
    assert facts["isas"]
    assert facts["threads"] >= 1
    assert "not available: there is no NVIDIA driver" in facts["devices"]["cuda"]
    assert facts["gpus"] == []
    assert facts["environment"]["WAVERNN_FAST_LIBCUDA"] == "/nowhere/libcuda.so"
    shown = run("doctor").stdout
    assert "passed" in shown
    assert "package torch" in shown
    assert "package uvicorn" in shown


def test_doctor_says_when_the_engine_does_not_work(monkeypatch):
    monkeypatch.setenv("WAVERNN_FAST_ISA", "altivec")
    result = run("doctor")
    assert result.exit_code == 3
    assert "FAILED" in result.stdout
    assert "altivec" in result.stdout
    monkeypatch.delenv("WAVERNN_FAST_ISA")
    monkeypatch.setenv("WAVERNN_FAST_THREADS", "many")
    result = run("doctor")
    assert result.exit_code == 3
    assert "WAVERNN_FAST_THREADS is 'many'" in result.stdout


@pytest.mark.parametrize("missing", ["Engine", "available_isas", "cuda_devices"])
def test_doctor_bears_an_extension_of_another_version(missing, monkeypatch):
    """As after a change of the sources that was not followed by an installation."""
    monkeypatch.delattr(f"wavernn_fast._C.{missing}")
    facts = json.loads(run("doctor", "--json").stdout)
    assert facts["ok"] == (missing != "Engine")
    assert facts["self_test"]["passed"] or missing in facts["self_test"]["reason"]
    assert facts["engine"] == "found" or missing == "available_isas"


def test_a_container_quota_is_read(tmp_path):
    from wavernn_fast.doctor import cgroup_cpus

    assert cgroup_cpus(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cgroup_cpus(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cgroup_cpus(tmp_path) is None
    (tmp_path / "own").write_text("0::/a.service\n")
    (tmp_path / "a.service").mkdir()
    (tmp_path / "a.service/cpu.max").write_text("50000 100000\n")
    assert cgroup_cpus(tmp_path, tmp_path / "own") == 0.5
