"""The embedded core from mel to sound: rows of the network, the engine against float64, streams."""

from __future__ import annotations

import dataclasses
import logging
import signal
import time
from typing import Any

import cases
import numpy as np
import pytest
import reference
import tolerances
from engine_work import DTYPES
from patience import soon, within
from voices import WHOLE, joined, mel, same_bits, voice

from wavernn_fast import _C, devices
from wavernn_fast.conditioning_network import HeldConditioner, make_conditioner
from wavernn_fast.conditioning_recurrent import BidirectionalGru
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import DeviceError, InputError, ModelError
from wavernn_fast.network_config import NetworkConfig
from wavernn_fast.synthetic import random_model
from wavernn_fast.vocoder import Vocoder

CONFIGS = [c for c in cases.small_configs() if c.core == "embedded"]
HEARING = [c for c in CONFIGS if c.n_mels]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=cases.case_id)
every_hearing = pytest.mark.parametrize("config", HEARING, ids=cases.case_id)
ENGINES: list[dict[str, Any]] = [{"device": "reference"}]
ENGINES += [{"isa": isa, "threads": threads} for isa in _C.available_isas() for threads in (1, 2)]

# --- conditioning ---------------------------------------------------------------------------------


def _rows(config: ModelConfig, tensors: cases.Tensors, frames: np.ndarray) -> np.ndarray:
    """Rows of `hold` as the reference would make them, float64."""
    wide = {name: np.asarray(array, np.float64) for name, array in tensors.items()}
    held = reference.network(config, wide, frames.astype(np.float64))
    return held @ wide["gru.w_conditioning"].T


@every_hearing
def test_rows_are_the_product_with_what_the_network_gives(config: ModelConfig) -> None:
    tensors, frames = cases.random_tensors(config), cases.random_mel(config, 33)
    interp, hold = make_conditioner(config, tensors).window(
        frames, 0, config.n_output_frames(frames.shape[1])
    )
    assert interp is None
    assert hold.dtype == np.float32
    expected = _rows(config, tensors, frames)
    assert hold.shape == expected.shape
    np.testing.assert_allclose(hold, expected, atol=2e-6 * np.abs(expected).max())


@every_hearing
def test_rows_have_the_same_bits_in_any_window_and_from_a_stream(config: ModelConfig) -> None:
    frames = cases.random_mel(config, 41)
    conditioner = make_conditioner(config, cases.random_tensors(config))
    n = config.n_output_frames(41)
    whole = conditioner.window(frames, 0, n)[1]
    window = conditioner.of(frames)
    for first, count in ((0, 1), (3, 9), (7, 0), (n - 8, 8), (n - 1, 1)):
        assert same_bits(window(first, count)[1], whole[first : first + count])
    stream = conditioner.stream()
    for first in range(0, 41, 6):
        stream.push(frames[:, first : first + 6])
    stream.finish()
    assert stream.ready == n
    parts = [stream.window(first, min(5, n - first))[1] for first in range(0, n, 5)]
    assert same_bits(np.concatenate(parts), whole)


def test_a_network_that_hears_the_whole_utterance_is_ready_at_its_end() -> None:
    stream = make_conditioner(WHOLE, cases.random_tensors(WHOLE)).stream()
    stream.push(mel(WHOLE, 9))
    assert stream.ready == 0
    with pytest.raises(InputError, match="there are 0"):
        stream.window(0, 1)
    stream.finish()
    assert stream.ready == 9


def test_convolutions_are_ready_as_soon_as_they_hear_enough() -> None:
    config = cases.embedded_config(32, 64, 9, ("conv", 2, 9, 3), pad="none")
    assert config.network is not None
    stream = make_conditioner(config, cases.random_tensors(config)).stream()
    stream.push(mel(config, 9))
    assert stream.ready == 9 - 2 * config.network.radius == 5
    before = stream.window(0, 5)[1]
    stream.push(mel(config, 9, seed=1))
    assert stream.ready == 14
    assert same_bits(stream.window(0, 5)[1], before)


@every_hearing
def test_weights_brought_to_another_module_give_the_same_rows(config: ModelConfig) -> None:
    import torch

    frames = cases.random_mel(config, 20)
    conditioner = make_conditioner(config, cases.random_tensors(config))
    n = config.n_output_frames(20)
    expected = conditioner.window(frames, 0, n)[1]
    twin = conditioner.on(np, None)
    assert isinstance(twin, HeldConditioner)
    assert same_bits(twin.window(frames, 0, n)[1], expected)
    found = conditioner.on(torch, None).window(torch.from_numpy(frames), 0, n)[1]
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6 * np.abs(expected).max())


# --- the engine -----------------------------------------------------------------------------------


def _forced(
    config: ModelConfig, tensors: cases.Tensors, n: int, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the engine, conditioned by the package, and of the float64 reference."""
    frames = cases.mel_for(config, n)
    rows = (None, None)
    if frames is not None:
        count = config.n_output_frames(frames.shape[1])
        rows = make_conditioner(config, tensors).window(frames, 0, count)
    forced = cases.random_samples(config, n)
    engine = _C.Engine(dataclasses.asdict(config), tensors, **options)
    [(_, logits)] = engine.run(
        [engine.open(1)], [n], [rows[0]], [rows[1]], forced=[forced], return_logits=True
    )
    expected = reference.run(config, tensors, frames, n_steps=n, forced=forced)["logits"]
    return logits, expected


@every_config
@pytest.mark.parametrize("options", ENGINES, ids=lambda o: "-".join(map(str, o.values())))
def test_forced_logits_match_the_float64_reference(
    config: ModelConfig, options: dict[str, Any]
) -> None:
    found, expected = _forced(config, cases.random_tensors(config), 96, **options)
    assert tolerances.logit_error(found, expected) <= tolerances.logit_limit(expected, "fp32")


@every_config
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_keeps_its_tolerance_against_float64(config: ModelConfig, dtype: str) -> None:
    found, expected = _forced(config, cases.random_tensors(config), 96, dtype=dtype, threads=2)
    assert tolerances.logit_error(found, expected) <= tolerances.logit_limit(expected, dtype)


@every_config
@pytest.mark.parametrize("threads", [1, 2])
def test_free_draws_are_those_of_the_reference(config: ModelConfig, threads: int) -> None:
    """Also of fewer labels than a vector holds, where padding must never be drawn."""
    tensors, frames = cases.random_tensors(config), cases.mel_for(config, 96)
    rows = (None, None)
    if frames is not None:
        count = config.n_output_frames(frames.shape[1])
        rows = make_conditioner(config, tensors).window(frames, 0, count)
    engine = _C.Engine(dataclasses.asdict(config), tensors, threads=threads)
    [(labels, _)] = engine.run([engine.open(5)], [96], [rows[0]], [rows[1]])
    expected = reference.run(config, tensors, frames, n_steps=96, seed=5)
    ties = np.flatnonzero(expected["margin"][:, 0] < tolerances.TIE_MARGIN_FP32)
    sure = int(ties[0]) if len(ties) else 96  # up to the first draw that may fall either way
    assert sure >= (96 if config.n_classes == 8 else 1)
    assert np.array_equal(labels[:sure], expected["samples"][:sure])
    assert labels.max() < config.n_classes


@pytest.mark.slow
def test_a_model_of_the_published_size_matches_with_overlapping_threads() -> None:
    [config] = [c for c in cases.full_size_configs() if c.core == "embedded"]
    tensors = cases.random_tensors(config)
    engine = _C.Engine(dataclasses.asdict(config), tensors, threads=2)
    assert "output layers beside the next recurrent product" in engine.describe()
    assert engine.macs_per_step == 3 * 896 * 896 + 1024 * 896 + 1024 * 1024
    found, expected = _forced(config, tensors, 60, threads=2)
    assert tolerances.logit_error(found, expected) <= tolerances.logit_limit(expected, "fp32")


@pytest.mark.parametrize(
    "name",
    [
        "embedding.weight",
        "gru.w_label",
        "gru.w_conditioning",
        "gru.w_recurrent",
        "gru.b_input",
        "gru.b_recurrent",
        "fc1.weight",
        "fc1.bias",
        "fc2.weight",
        "fc2.bias",
        "network.0.forward.w_input",
        "network.1.backward.w_recurrent",
        "network.1.forward.b_input",
        "network.0.backward.b_recurrent",
    ],
)
def test_every_tensor_is_heard(name: str) -> None:
    """A comparison that passes with a tensor left out would prove nothing."""
    [config] = [c for c in CONFIGS if c.network is not None and c.network.hears_whole]
    tensors = cases.random_tensors(config)
    spoiled = tensors | {name: np.zeros_like(tensors[name])}
    found, _ = _forced(config, spoiled, 24)
    _, expected = _forced(config, tensors, 24)
    assert tolerances.logit_error(found, expected) > 10 * tolerances.logit_limit(expected, "fp32")


def test_the_native_border_names_what_an_embedded_core_lacks() -> None:
    config = CONFIGS[0]
    fields, tensors = dataclasses.asdict(config), cases.random_tensors(config)
    with pytest.raises(InputError, match="first_label is 256, not a label"):
        _C.Engine(fields | {"first_label": 256}, tensors)
    with pytest.raises(InputError, match="embedding_size is 0, must be positive"):
        _C.Engine(fields | {"embedding_size": 0}, tensors)
    with pytest.raises(InputError, match="head mol does not belong to an embedded core"):
        _C.Engine(fields | {"head": "mol", "n_classes": 30}, tensors)
    with pytest.raises(InputError, match=r"gru.w_label has shape \[144, 10\], expected"):
        _C.Engine(fields | {"embedding_size": 11}, tensors)


def test_the_first_label_is_that_of_the_configuration() -> None:
    config = CONFIGS[0]
    other = dataclasses.replace(config, first_label=3)
    tensors = cases.random_tensors(config)
    one, two = (_forced(c, tensors, 8)[0] for c in (config, other))
    assert not np.array_equal(one[0], two[0])
    found, expected = _forced(other, tensors, 8)
    assert tolerances.logit_error(found, expected) <= tolerances.logit_limit(expected, "fp32")


# --- voices ---------------------------------------------------------------------------------------


def test_a_stream_of_frames_says_that_it_waits_for_the_end(caplog: Any) -> None:
    voc, frames = voice(WHOLE), mel(WHOLE, 12)
    with caplog.at_level(logging.WARNING, logger="wavernn_fast"):
        chunks = list(voc.stream(iter(frames.T), seed=4, chunk_frames=2))
    assert "nothing sounds before the last" in caplog.text
    assert len(chunks) > 3
    assert same_bits(joined(chunks), voc.generate(frames, seed=4))
    caplog.clear()
    list(voc.stream(frames, seed=4))  # a mel that is there in full waits for nothing
    assert caplog.text == ""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_batch_and_stream_have_the_bits_of_one_utterance(dtype: str, threads: int) -> None:
    voc, lengths = voice(WHOLE, threads, dtype), (9, 2, 30, 17, 1, 30)
    mels = [mel(WHOLE, n, seed) for seed, n in enumerate(lengths)]
    alone = [voice(WHOLE, 1, dtype).generate(m, seed=s) for s, m in enumerate(mels)]
    for streams in (2, 16):
        together = voc.generate_batch(mels, streams=streams)
        assert all(same_bits(a, b) for a, b in zip(together, alone, strict=True))
    streamed = joined(voc.stream(mels[2], seed=2, chunk_frames=3))
    assert same_bits(streamed, alone[2])


def test_the_kernel_for_many_streams_refuses_in_a_sentence() -> None:
    config, tensors = random_model("embedded:32")
    with pytest.raises(DeviceError, match=r"weights in fp16; .* gpu_streams=1"):
        Vocoder(config, tensors, device="emu", gpu_streams=8, dtype="fp32")


def test_auto_runs_on_the_cpu_where_the_gpu_has_no_kernel_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """As on a machine with a GPU: the emulator stands in for it."""
    config = cases.embedded_config(32, 16, 11)
    tensors = cases.random_tensors(config)
    monkeypatch.setattr(devices, "resolve_devices", lambda device: [devices.Target("emu")])
    with caplog.at_level(logging.INFO, logger="wavernn_fast"):
        voc = Vocoder(config, tensors, device="auto")
    assert voc.device == "cpu"
    said = "Running on the CPU, not on a GPU: The GPU kernel draws from at most 1024 labels"
    assert said in caplog.text


# --- configurations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"head": "mol"}, "an embedded core has head softmax, not mol"),
        ({"embedding_size": 0}, "embedding_size is 0, must be positive"),
        ({"first_label": 256}, r"first_label is 256, not a label \(0 to 255\)"),
        ({"aux_size": 3, "aux_channels": 4, "aux_kernel": 3}, "no auxiliary network"),
        ({"upsample_left": 1}, "no upsampling filters"),
        ({"hidden_size": 40}, "hidden_size is 40, not a multiple of 16"),
        ({"network": NetworkConfig(kind="conv", layers=1, size=4, kernel=2)}, "must be odd"),
        ({"network": NetworkConfig(kind="gru", layers=17, size=4)}, "must be 1 to 16"),
        ({"network": NetworkConfig(kind="gru", layers=1, size=4, kernel=3)}, "one frame at a time"),
        ({"network": NetworkConfig(kind="gru", layers=1, size=4), "pad": "none"}, "pad 'zeros'"),
        (
            {"network": NetworkConfig(kind="conv", layers=1, size=4), "n_mels": 0},
            "needs mel frames",
        ),
        ({"core": "residual"}, "a residual core has no embedding_size"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        dataclasses.replace(CONFIGS[0], **changes)


@every_config
def test_a_configuration_survives_its_json(config: ModelConfig) -> None:
    assert ModelConfig.from_json(config.to_json()) == config


def test_an_unknown_kind_of_network_is_named() -> None:
    text = CONFIGS[1].to_json().replace('"kind": "gru"', '"kind": "lstm"')
    with pytest.raises(ModelError, match="kind is 'lstm', expected one of gru, conv"):
        ModelConfig.from_json(text)


@pytest.mark.parametrize(("n", "size"), [(0, 3), (1, 1), (7, 5), (60, 32)])
def test_the_compiled_recurrence_of_frames_is_that_of_its_twin(n: int, size: int) -> None:
    config = cases.embedded_config(32, 16, 8, network=("gru", 2, size, 1))
    network = BidirectionalGru(config, cases.random_tensors(config, seed=size), np)
    rng = np.random.default_rng(n)
    for layer in network._layers:
        inputs = rng.normal(0.0, 4.0, (2, n, 3 * size))
        found = _C.bidirectional_gru(inputs, layer.w_recurrent, layer.b_recurrent[:, 0])
        assert found.shape == (n, 2 * size)
        assert np.abs(found - network._recursion(layer, inputs)).max(initial=0.0) <= 1e-14 * (n + 1)
    saturated = _C.bidirectional_gru(1e300 * inputs, layer.w_recurrent, layer.b_recurrent[:, 0])
    assert np.isfinite(saturated).all()


@soon
def test_a_signal_stops_the_compiled_recurrence_quickly() -> None:
    """The whole takes seconds, and a mel of hours minutes."""

    class Enough(Exception):
        pass

    def stop(*_: object) -> None:
        raise Enough

    shapes = (2, 20_000, 3 * 256), (2, 256, 3 * 256), (2, 3 * 256)
    arrays = [np.zeros(shape) for shape in shapes]
    before = signal.signal(signal.SIGALRM, stop)
    try:
        begun = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Enough):
            _C.bidirectional_gru(*arrays)
        within(1.0, begun)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("wrong", [(3, 2, 6), (2, 2, 5), (2, 6)])
def test_the_compiled_recurrence_refuses_other_shapes(wrong: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"inputs must be \[2, n, 3H\]"):
        _C.bidirectional_gru(np.zeros(wrong), np.zeros((2, 2, 6)), np.zeros((2, 6)))
