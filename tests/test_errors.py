"""Bad input is refused in a sentence that says what is wrong and what to do; nothing is written."""

from __future__ import annotations

import sys
import warnings

import cases
import checkpoint_builders
import numpy as np
import pytest
from voices import CONDITIONED, LABELS, UNCONDITIONED, mel, preset_mel, save_voice, voice

import wavernn_fast
from wavernn_fast import _C, weights
from wavernn_fast.errors import (
    DeviceError,
    EngineError,
    InputError,
    MissingDependencyError,
    ModelError,
    WaveRNNError,
)
from wavernn_fast.features import MelRangeWarning
from wavernn_fast.vocoder import Vocoder

# --- mels -----------------------------------------------------------------------------------------

GOOD = mel(LABELS, 8)


def with_value(value: float) -> np.ndarray:
    bad = GOOD.copy()
    bad[2, 5] = value
    return bad


BAD_MELS = {
    "transposed": (GOOD.T, "transposed"),
    "one bin too many": (np.zeros((7, 8), np.float32), "takes 6 bins"),
    "nan": (with_value(np.nan), r"NaN or infinite.*bin 2, frame 5"),
    "infinite": (with_value(np.inf), "NaN or infinite"),
    "too large for float32": (GOOD.astype(np.float64) * 1e300, "infinite"),
    "vector": (np.zeros(6, np.float32), r"shape \(6,\)"),
    "batch": (np.zeros((2, 6, 8), np.float32), "batch of 2"),
    "integers": (np.zeros((6, 8), np.int64), "int64"),
    "complex": (np.zeros((6, 8), np.complex64), "complex64"),
    "text": ("mel.npy", "a string; .*read it first"),
    "ragged": ([[1.0, 2.0], [3.0]], "array"),
    "nothing": (None, "give a mel"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_MELS.values(), ids=BAD_MELS.keys())
def test_an_unusable_mel_is_refused_by_every_entry(bad, message):
    voc = voice(LABELS)
    with pytest.raises(InputError, match=message):
        voc.generate(bad)
    with pytest.raises(InputError, match=rf"Item 1 of the batch: .*{message}"):
        voc.generate_batch([GOOD, bad])
    with pytest.raises(InputError, match=message):
        voc.stream(bad)
    with pytest.raises(InputError, match=message):
        voc.score(bad, np.zeros(32))


def test_a_mel_of_another_preset_is_sounded_with_a_warning(tmp_path):
    voc = Vocoder.from_pretrained(save_voice(tmp_path))
    with pytest.warns(MelRangeWarning, match=r"0 to 1.*geneing"):
        voc.generate(preset_mel(30) * 8 - 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        voc.generate(preset_mel(30))


# --- other arguments ------------------------------------------------------------------------------

BAD_ARGUMENTS = {
    "negative seed": ({"seed": -1}, "seed"),
    "seed of 65 bits": ({"seed": 2**64}, "seed"),
    "seed that is no integer": ({"seed": 1.5}, "seed"),
    "boolean seed": ({"seed": True}, "seed"),
    "temperature zero": ({"temperature": 0}, "greedy=True"),
    "negative temperature": ({"temperature": -1.0}, "temperature"),
    "temperature nan": ({"temperature": float("nan")}, "temperature"),
    "temperature word": ({"temperature": "hot"}, "temperature"),
    "samples and mel": ({"n_samples": 10}, "no n_samples"),
    "fold number": ({"fold": 100}, "fold"),
    "fold of three": ({"fold": (1, 2, 3)}, "fold"),
    "fold negative": ({"fold": (100, -1)}, "overlap"),
    "fold target too small": ({"fold": (5, 10)}, "target"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
def test_an_unusable_argument_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        voice(LABELS).generate(GOOD, **arguments)


def test_a_batch_needs_a_seed_for_each_mel():
    with pytest.raises(InputError, match="1 seeds for 2 mels"):
        voice(LABELS).generate_batch([GOOD, GOOD], [1])
    with pytest.raises(InputError, match="streams"):
        voice(LABELS).generate_batch([GOOD], streams=0)


def test_an_unconditioned_model_takes_no_mel():
    voc = voice(UNCONDITIONED)
    with pytest.raises(InputError, match="takes no mel"):
        voc.generate(GOOD)
    with pytest.raises(InputError, match="n_samples"):
        voc.generate()
    with pytest.raises(InputError, match="n_samples"):
        voc.generate(n_samples=-1)
    with pytest.raises(InputError, match="n_samples"):
        voc.stream(iter([GOOD]))


def test_score_refuses_what_does_not_belong_together():
    voc = voice(LABELS)
    with pytest.raises(InputError, match="same recording"):
        voc.score(GOOD, np.zeros(500))
    with pytest.raises(InputError, match="nothing to score"):
        voc.score(GOOD[:, :0], np.zeros(0))
    with pytest.raises(InputError, match="NaN"):
        voc.score(GOOD, np.full(32, np.nan))
    with pytest.raises(InputError, match="int16"):
        voc.score(GOOD, np.zeros(32, np.int16))


# --- devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "emu"])
def test_a_device_that_is_not_there_is_named_with_the_way_out(device, tmp_path, monkeypatch):
    monkeypatch.setenv("WAVERNN_FAST_LIBCUDA", "/nowhere/libcuda.so")
    monkeypatch.setattr(_C, "available_devices", lambda: ["cpu", "reference"])
    with pytest.raises(DeviceError, match=rf"{device}.*'cpu'.*wavernn-fast doctor"):
        Vocoder.from_pretrained(tmp_path / "never read", device=device)


def test_unknown_words_are_refused(tmp_path):
    model = save_voice(tmp_path)
    with pytest.raises(InputError, match="device 'gpu'"):
        Vocoder.from_pretrained(model, device="gpu")
    with pytest.raises(InputError, match="dtype 'fp8'"):
        Vocoder.from_pretrained(model, dtype="fp8")
    with pytest.raises(InputError, match="cpu_threads"):
        Vocoder.from_pretrained(model, cpu_threads=0)
    with pytest.raises(InputError, match=r"no preset 'melgan'.*fatchord-raw9"):
        Vocoder.from_pretrained(model, preset="melgan")
    with pytest.raises(InputError, match="does not fit"):
        Vocoder.from_pretrained(model, preset="mkotha")


def test_an_instruction_set_that_is_not_there_is_a_device_error(monkeypatch):
    monkeypatch.setenv("WAVERNN_FAST_ISA", "altivec")
    with pytest.raises(DeviceError, match="altivec"):
        Vocoder(LABELS, cases.random_tensors(LABELS))


def test_a_missing_engine_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "wavernn_fast._C", None)
    monkeypatch.delattr(wavernn_fast, "_C", raising=False)
    with pytest.raises(DeviceError, match="pip install"):
        Vocoder(LABELS, cases.random_tensors(LABELS))


# --- models ---------------------------------------------------------------------------------------


def test_every_fault_of_the_weights_is_listed_at_once():
    tensors = cases.random_tensors(LABELS)
    del tensors["fc3.bias"]
    tensors["gru1.w_input"] = tensors["gru1.w_input"][:, :-1].copy()
    tensors["extra.weight"] = np.zeros((2, 2), np.float32)
    tensors["fc1.weight"][0, 3] = np.nan
    with pytest.raises(ModelError) as caught:
        Vocoder(LABELS, tensors)
    message = str(caught.value)
    for part in (
        "missing tensor fc3.bias",
        "gru1.w_input has shape [48, 15], expected [48, 16]",
        "unexpected tensor extra.weight",
        "fc1.weight has 1 value not finite",
    ):
        assert part in message
    assert len(caught.value.problems) == 4


def damaged(path, kind):
    data = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(data[:-100])
    elif kind == "flipped":
        path.write_bytes(data[:-50] + bytes([data[-50] ^ 1]) + data[-49:])
    elif kind == "audio":
        path.write_bytes(b"RIFF" + bytes(100))
    elif kind == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize("kind", ["empty", "truncated", "flipped", "audio", "missing"])
def test_a_damaged_model_file_is_refused_by_name(kind, tmp_path):
    path = damaged(save_voice(tmp_path), kind)
    with pytest.raises(ModelError, match=r"voice\.safetensors"):
        Vocoder.from_pretrained(path)


def test_a_pytorch_file_without_torch_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "weights.pyt"
    checkpoint_builders.save(path, checkpoint_builders.fatchord())
    for name in [n for n in sys.modules if n == "torch" or n.startswith("torch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"wavernn-fast\[torch\]"):
        Vocoder.from_pretrained(path)


# --- the engine -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONDITIONED.values(), ids=CONDITIONED.keys())
def test_logits_that_overflow_stop_the_engine_with_stream_and_step(config):
    tensors = cases.random_tensors(config)
    last = {"dual": "coarse_fc2", "residual": "fc3", "embedded": "fc2"}[config.core]
    name = f"{last}.weight"
    tensors[name] = np.full_like(tensors[name], 3e38)
    voc = Vocoder(config, tensors)
    with pytest.raises(EngineError, match=r"(?s)stream.*step"):
        voc.generate(mel(config, 12))


def test_every_error_is_a_wavernn_error():
    for name in (
        "ModelError",
        "InputError",
        "AudioError",
        "DeviceError",
        "EngineError",
        "MissingDependencyError",
    ):
        assert issubclass(getattr(wavernn_fast, name), WaveRNNError)


def test_a_model_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ModelError, match="Cannot write"):
        weights.write(tmp_path / "no" / "voice.safetensors", LABELS, cases.random_tensors(LABELS))
    assert list(tmp_path.iterdir()) == []
