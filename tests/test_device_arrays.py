"""Arrays in the memory of an engine's device stay there, from the mel to the kernel.

The emulator's device memory is the host's, so PyTorch on the host and a stand-in for CuPy take the
way that arrays on a GPU take. Calls on a GPU are looked at with a stand-in for the driver.
"""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace
from typing import Any

import cases
import fake_cupy
import numpy as np
import pytest
import torch
from fakes import Fake

from wavernn_fast import _C, arrays, places
from wavernn_fast.conditioning import Conditioner
from wavernn_fast.conditioning_network import make_conditioner
from wavernn_fast.config import MelConfig
from wavernn_fast.errors import DeviceError, InputError, MissingDependencyError
from wavernn_fast.features import MelRangeWarning
from wavernn_fast.presets import get_preset
from wavernn_fast.vocoder import Vocoder

PLAIN = cases.dual_config(64, 32, hop_length=4, n_mels=5, upsample_left=1, upsample_right=1)
AUX = dataclasses.replace(
    PLAIN, hidden_size=32, fc_size=16, aux_size=3, aux_channels=10, aux_blocks=2, aux_kernel=5
)
FRAMES = 12
_PARTS = ("hop_length", "n_mels", "upsample_left", "upsample_right")
_PARTS += ("aux_size", "aux_channels", "aux_blocks", "aux_kernel")
RESIDUAL = cases.residual_config(32, 16, bits=8, **{name: getattr(AUX, name) for name in _PARTS})
EMBEDDED = cases.embedded_config(32, 16, 8, n_mels=5)
every_model = pytest.mark.parametrize(
    "config",
    [PLAIN, AUX, RESIDUAL, EMBEDDED],
    ids=["plain", "aux", "residual", "embedded"],
)


def tensors_of(config: Any) -> Any:
    return cases.random_tensors(config, seed=3)


def mel_of(config: Any, frames: int = FRAMES, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=(config.n_mels, frames)).astype(np.float32)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """CuPy of host memory."""
    module = fake_cupy.module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def given(kind: str, values: Any) -> Any:
    return fake_cupy.Array(values) if kind == "cupy" else torch.from_numpy(values)


def values_of(wave: Any, kind: str) -> Any:
    """Values of a result, which must be of the kind."""
    assert type(wave) is (fake_cupy.Array if kind == "cupy" else torch.Tensor)
    values = wave.values if kind == "cupy" else wave.numpy()
    assert values.dtype == np.float32
    return values


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes to the host is an error."""

    to_array = arrays.to_array

    def numpy_only(value: Any, what: str) -> Any:
        assert type(value) is np.ndarray, "an array came to the host"
        return to_array(value, what)

    monkeypatch.setattr(arrays, "to_array", numpy_only)
    monkeypatch.delattr(torch.Tensor, "__array__")


# --- from mel to sound, in the emulator -----------------------------------------------------------


@every_model
@pytest.mark.usefixtures("cupy", "in_place")
def test_cupy_gives_the_samples_of_numpy_and_stays_on_its_device(config: Any) -> None:
    """The stand-in computes what numpy computes, so every bit must come back."""
    voc, mel = Vocoder(config, tensors_of(config), device="emu"), mel_of(config)
    expected, theirs = voc.generate(mel, seed=4), given("cupy", mel)
    for found in (
        voc.generate(theirs, seed=4),
        voc.generate(fake_cupy.Array(np.asfortranarray(mel)), seed=4),
        voc.generate(fake_cupy.Array(mel[None].astype(np.float64)), seed=4),
        voc.generate_batch([mel, theirs], seeds=[9, 4])[1],
    ):
        assert values_of(found, "cupy").tobytes() == expected.tobytes()
    pieces = (fake_cupy.Array(part) for part in (mel[:, 0], mel[:, 1:4], mel[:, 4:]))
    for chunks in (voc.stream(theirs, seed=4), voc.stream(pieces, seed=4)):
        parts = [values_of(chunk, "cupy") for chunk in chunks]
        assert np.concatenate(parts).tobytes() == expected.tobytes()


_SMALL = {"aux_size": 3, "aux_channels": 8, "aux_blocks": 1, "aux_kernel": 3}
HEARD: dict[str, Any] = {  # what is made before the first row is asked for
    "speaker": cases.residual_config(16, 16, bits=8, speaker_size=4, **_SMALL),
    "speaker_in_dilated": cases.embedded_config(
        16, 16, 8, ("dilated_conv", 2, 6, 3), speaker_size=4, speakers=3
    ),
    "speaker_in_grus": cases.embedded_config(16, 16, 8, ("gru", 1, 4, 1), speaker_size=4),
    "lstm": cases.framed_config(32, 16, lstm=2),
}


@pytest.mark.parametrize("config", HEARD.values(), ids=HEARD.keys())
@pytest.mark.usefixtures("cupy", "in_place")
def test_what_all_rows_hear_is_made_on_the_device_of_the_mel(config: Any) -> None:
    voc, mel = Vocoder(config, tensors_of(config), device="emu"), mel_of(config)
    speaker = np.linspace(-1, 1, 4) if config.speaker_size else None
    expected = voc.generate(mel, speaker=speaker, seed=4)
    found = voc.generate(given("cupy", mel), speaker=speaker, seed=4)
    assert values_of(found, "cupy").tobytes() == expected.tobytes()


@every_model
def test_mels_of_the_host_are_conditioned_on_the_device_where_that_is_asked_for(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numpy in and out, with the samples of mels that lie there; whole, in a batch, in pieces."""
    tensors, mel = tensors_of(config), mel_of(config)
    there = Vocoder(config, tensors, device="emu").generate(given("torch", mel), seed=4).numpy()
    voc = Vocoder(config, tensors, device="emu", conditioning="device")
    assert voc.conditioner is not None
    monkeypatch.setattr(type(voc.conditioner), "_of_blocks", _not_by_numpy(voc.conditioner))
    pieces = (mel[:, :1], mel[:, 1:4], mel[:, 4:])
    for found in (
        voc.generate(mel, seed=4),
        voc.generate_batch([mel[:, :3], mel, mel], seeds=[1, 2, 4])[2],
        np.concatenate([*voc.stream(mel, seed=4)]),
        np.concatenate([*voc.stream(iter(pieces), seed=4)]),
    ):
        assert type(found) is np.ndarray
        assert found.tobytes() == there.tobytes()
    sound = voc.open_stream(seed=4)
    parts = [*map(sound.push, pieces), sound.finish()]
    assert np.concatenate(parts).tobytes() == there.tobytes()
    assert voc.score(mel, there) == voc.score(given("torch", mel), there)


def _not_by_numpy(conditioner: Conditioner) -> Any:
    made = type(conditioner)._of_blocks

    def checked(self: Conditioner, mel: Any) -> Any:
        assert type(mel) is torch.Tensor, "rows were made by the host"
        return made(self, mel)

    return checked


def test_where_mels_are_conditioned_is_one_of_two_and_goes_with_one_device() -> None:
    tensors = tensors_of(PLAIN)
    with pytest.raises(InputError, match="no conditioning 'gpu'; choose host or device"):
        Vocoder(PLAIN, tensors, device="emu", conditioning="gpu")
    with pytest.raises(InputError, match="goes with one GPU"):
        Vocoder(PLAIN, tensors, device="emu:0,1", conditioning="device")
    bare = cases.dual_config(32, 16)
    Vocoder(bare, tensors_of(bare), device="emu:0,1", conditioning="device")  # has nothing to make
    cpu = Vocoder(PLAIN, tensors, device="cpu", conditioning="device")
    host = Vocoder(PLAIN, tensors, device="cpu")
    assert cpu.generate(mel_of(PLAIN)).tobytes() == host.generate(mel_of(PLAIN)).tobytes()


def test_the_home_of_mels_is_cupys_or_torchs_place_on_the_gpu(
    cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert places.home_on("cpu") is places.HOST
    assert places.home_on("cuda:1") is places.place_of(cupy, 1)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(MissingDependencyError, match="device cuda needs CuPy, or PyTorch where"):
        places.home_on("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert places.home_on("cuda:1") is places.place_of(torch, torch.device("cuda", 1))
    monkeypatch.delitem(sys.modules, "torch")  # not imported for this alone
    with pytest.raises(MissingDependencyError, match="on the emulator needs PyTorch"):
        places.home_on("emu")


@every_model
@pytest.mark.usefixtures("in_place")
def test_torch_stays_on_its_device_and_streams_what_it_generates(config: Any) -> None:
    voc, mel = Vocoder(config, tensors_of(config), device="emu"), mel_of(config)
    wave = values_of(voc.generate(given("torch", mel), seed=4), "torch")
    assert len(wave) == len(voc.generate(mel))
    chunks = [*voc.stream(given("torch", mel), seed=4)]
    assert torch.cat(chunks).numpy().tobytes() == wave.tobytes()


@every_model
@pytest.mark.parametrize("kind", ["cupy", "torch"])
@pytest.mark.usefixtures("cupy")
def test_a_score_is_that_of_numpy(config: Any, kind: str) -> None:
    voc, mel = Vocoder(config, tensors_of(config), device="emu"), mel_of(config)
    wave = voc.generate(mel)
    assert voc.score(given(kind, mel), wave) == pytest.approx(voc.score(mel, wave), rel=1e-5)


@pytest.mark.usefixtures("cupy")
def test_pieces_of_another_kind_join_those_of_the_first() -> None:
    voc, mel = Vocoder(AUX, tensors_of(AUX), device="emu"), mel_of(AUX)
    expected = voc.generate(mel)
    pieces = [given("cupy", mel[:, :3]), mel[:, 3:5], torch.from_numpy(mel[:, 5:])]
    found = [values_of(chunk, "cupy") for chunk in voc.stream(iter(pieces))]
    assert np.concatenate(found).tobytes() == expected.tobytes()


def test_a_stream_keeps_a_copy_of_the_mel() -> None:
    voc = Vocoder(AUX, tensors_of(AUX), device="emu")
    mel = torch.from_numpy(mel_of(AUX, 60))  # more than is conditioned at once
    expected = voc.generate(mel)
    chunks = voc.stream(mel, chunk_frames=2)
    first = next(chunks)
    mel[:] = 0.0
    assert torch.equal(torch.cat([first, *chunks]), expected)


def test_weights_are_brought_to_a_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    brought, bring = [], Conditioner.on
    monkeypatch.setattr(Conditioner, "on", lambda *a: brought.append(1) or bring(*a))
    voc, mel = Vocoder(AUX, tensors_of(AUX), device="emu"), torch.from_numpy(mel_of(AUX))
    voc.generate_batch([mel, mel])
    list(voc.stream(iter([mel])))
    assert len(brought) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_the_engine_cannot_read_passes_through_the_host(device: str, cupy: Any) -> None:
    """Memory of the host for the CPU and for a GPU; of the second GPU for the first."""
    mel = mel_of(PLAIN)
    far = fake_cupy.Array(mel)
    far.__class__ = type("Far", (fake_cupy.Array,), {"__module__": "cupy", "get": lambda s: mel})
    for value in (mel, torch.from_numpy(mel), far):
        found = arrays.take(value, "mel", device)
        assert found.place is places.HOST
        assert type(found.array) is np.ndarray
        found.restore(mel)  # CuPy's on the device of the mel, whichever is the current one


@pytest.mark.parametrize("kind", ["cupy", "torch"])
@pytest.mark.usefixtures("cupy", "in_place")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: m.T.copy(), "looks transposed.*Pass mel.T"),
        (lambda m: m.astype(np.int32), "int32"),
        (lambda m: np.where(np.arange(12) == 4, np.nan, m), "5 values .* first at bin 0, frame 4"),
    ],
)
def test_a_wrong_mel_is_refused_where_it_lies(kind: str, spoil: Any, words: str) -> None:
    voc = Vocoder(PLAIN, tensors_of(PLAIN), device="emu")
    with pytest.raises(InputError, match=words):
        voc.generate(given(kind, spoil(mel_of(PLAIN))))


@pytest.mark.usefixtures("cupy", "in_place")
@pytest.mark.parametrize("kind", ["cupy", "torch"])
def test_a_mel_of_another_convention_warns_where_it_lies(kind: str) -> None:
    convention = get_preset("fatchord-raw9").mel
    assert isinstance(convention, MelConfig)
    config = dataclasses.replace(
        PLAIN, n_mels=80, sample_rate=22050, hop_length=275, mel=convention
    )
    mel = np.linspace(-4.0, 4.0, 80 * 30, dtype=np.float32).reshape(80, 30)
    with pytest.warns(MelRangeWarning, match="geneing"):
        arrays.to_mel(given(kind, mel), config, arrays.Memory("emu"))


# --- rows by the interface ------------------------------------------------------------------------


def rows_of(config: Any, n: int = FRAMES) -> tuple[Any, Any]:
    interp, hold = make_conditioner(config, tensors_of(config)).window(mel_of(config), 0, n)
    return interp, hold


def engine_of(config: Any, **options: Any) -> Any:
    return _C.Engine(dataclasses.asdict(config), tensors_of(config), **options)


def shown(rows: Any, **fields: Any) -> Any:
    """An object that shows rows by the interface and nothing else."""
    interface = {
        "shape": rows.shape,
        "typestr": rows.dtype.str,
        "data": (rows.ctypes.data, True),
        "strides": None if rows.flags.c_contiguous else rows.strides,
        "version": 3,
    }
    return SimpleNamespace(__cuda_array_interface__=interface | fields, keep=rows)


@every_model
def test_rows_on_the_device_give_the_bits_of_rows_on_the_host(config: Any) -> None:
    """In slices, from any frame on; `hold` contains the biases, in the arithmetic of the engine."""
    made, (interp, hold) = engine_of(config, device="emu", blocks=2), rows_of(config)
    expected, logits = made.run([made.open(7)], [40], [interp], [hold], return_logits=True)[0]
    held = None if hold is None else hold + made.hold_bias
    stream, labels, found = made.open(7), [], []
    for done, n in ((0, 1), (1, 6), (7, 30), (37, 3)):
        row = done // config.hop_length
        given = [None if rows is None else shown(rows[row:]) for rows in (interp, held)]
        result = made.run([stream], [n], [given[0]], [given[1]], return_logits=True)[0]
        labels.append(result[0])
        found.append(result[1])
    assert np.array_equal(np.concatenate(labels), expected)
    assert np.concatenate(found).tobytes() == logits.tobytes()


def test_an_engine_that_adds_no_bias_on_the_device_has_none() -> None:
    assert engine_of(PLAIN, device="emu").hold_bias.shape == (0,)
    assert engine_of(AUX, device="cpu").hold_bias.shape == (0,)
    assert engine_of(AUX, device="emu").hold_bias.shape == (3 * AUX.hidden_size,)
    assert engine_of(RESIDUAL, device="emu").hold_bias.shape == (7 * 32 + 2 * 16,)
    assert engine_of(EMBEDDED, device="emu").hold_bias.shape == (3 * 32,)


@every_model
def test_a_conditioner_on_a_device_gives_the_rows_of_the_host_and_the_bias(config: Any) -> None:
    host = make_conditioner(config, tensors_of(config))
    bias = np.linspace(-1.0, 1.0, host.hold_size, dtype=np.float32)
    place = arrays.take(torch.zeros(1), "mel", "emu").place
    twin = host.on(place.xp, bias)
    mel = mel_of(config)
    interp, hold = twin.window(torch.from_numpy(mel), 2, 7)
    expected = host.window(mel, 2, 7)
    if interp is not None:
        np.testing.assert_allclose(interp.numpy(), expected[0], atol=1e-6)
    if hold is not None:
        np.testing.assert_allclose(hold.numpy(), expected[1] + bias, atol=1e-6)


_SPEAKER = {"speakers": 3, "speaker_size": 2}
NETWORKS = {
    "convolutions": cases.framed_config(32, 16),
    "lstm": cases.framed_config(32, 16, 2, 7, 3, 2),
    "gru": cases.embedded_config(32, 16, 8, ("gru", 2, 5, 1), **_SPEAKER),
    "dilated": cases.embedded_config(32, 16, 8, ("dilated_conv", 2, 6, 3), **_SPEAKER),
    "bottleneck": cases.embedded_config(32, 16, 8, ("bottleneck_conv", 2, 8, 3), **_SPEAKER),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_on_a_device_give_the_rows_of_the_host(network: str) -> None:
    """Whole and, where a stream may, frame by frame; for a speaker who is named afterwards."""
    config = NETWORKS[network]
    host, mel = make_conditioner(config, tensors_of(config)), mel_of(config, 20)
    place = arrays.take(torch.zeros(1), "mel", "emu").place
    twin = host.on(place.xp, None)
    if config.speakers:
        host, twin = (one.of_speaker(np.array(2.0)) for one in (host, twin))
    part = 1 if config.core == "embedded" else 0
    expected = host.window(mel, 2, 17)[part]
    found = values_of(twin.window(torch.from_numpy(mel), 2, 17)[part], "torch")
    np.testing.assert_allclose(found, expected, atol=2e-6 * expected.max())
    stream = twin.stream()
    for first in range(0, 20, 5):
        stream.push(torch.from_numpy(np.ascontiguousarray(mel[:, first : first + 5])))
    stream.finish()
    rows = [values_of(stream.window(n, 1)[part], "torch") for n in range(20)]
    assert np.concatenate(rows)[2:19].tobytes() == found.tobytes()


@pytest.mark.parametrize(("handle", "named"), [(0, 1), (77, 77)])
def test_rows_name_the_stream_of_their_library(
    handle: int, named: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module(stream=handle))
    rows = fake_cupy.Array(np.zeros((3, 4), np.float32))
    place = arrays.take(rows, "rows", "emu").place
    interface = place.export(rows).__cuda_array_interface__
    assert (interface["version"], interface["stream"]) == (3, named)
    assert interface["data"] == (rows.data.ptr, True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: shown(r.astype(np.float64)), "type <f8, expected float32"),
        (lambda r: shown(np.asfortranarray(r)), "not C-contiguous"),
        (lambda r: shown(r[:, ::2]), "not C-contiguous"),
        (lambda r: shown(r[:3]), r"shape \[3, 192\], expected at least \[14, 192\]"),
        (lambda r: shown(r[:, :96].copy()), r"shape \[14, 96\]"),
        (lambda r: shown(r, mask=r), "has a mask"),
        (lambda r: shown(r, stream=0), "stream 0"),
        (lambda r: shown(r, data=(r.ctypes.data + 4, True)), "multiple of 8"),
    ],
)
def test_rows_that_the_engine_cannot_take_are_refused(spoil: Any, words: str) -> None:
    made, (interp, _) = engine_of(PLAIN, device="emu"), rows_of(PLAIN)
    with pytest.raises(InputError, match=f"interp of stream 0 .*{words}"):
        made.run([made.open(7)], [48], [spoil(interp)], [None])


def test_an_engine_of_the_host_refuses_rows_on_a_device() -> None:
    made, (interp, _) = engine_of(PLAIN, device="cpu"), rows_of(PLAIN)
    with pytest.raises(InputError, match="memory of a GPU, and the engine on cpu reads the host's"):
        made.run([made.open(7)], [48], [shown(interp)], [None])


# --- calls of the driver --------------------------------------------------------------------------


@pytest.fixture
def gpu(fake: Fake) -> Fake:
    """A GPU on which launches end well, beside another."""
    fake.script(run=1, devices="name=NVIDIA Big,sms=132,arch=90;name=Other", args=96)
    return fake


def test_rows_on_a_gpu_are_awaited_and_not_copied(gpu: Fake) -> None:
    interp, hold = rows_of(AUX)
    made = engine_of(AUX, device="cuda")
    hold += made.hold_bias
    gpu.script(pointers=0)
    before = len(gpu.calls())
    made.run([made.open(7)], [30], [shown(interp, stream=1)], [shown(hold, stream=77)])
    calls = gpu.calls()[before:]
    waits = [c.details for c in calls if c.name == "cuStreamSynchronize"]
    assert waits[:2] == ["stream=0x1", "stream=0x4d"]
    awaited = [c.details for c in calls].index("stream=0x4d")
    launches = [i for i, c in enumerate(calls) if c.name == "cuLaunchCooperativeKernel"]
    assert awaited < launches[0]
    sizes = [int(c.details.split()[0]) for c in calls if c.name == "cuMemcpyHtoDAsync_v2"]
    assert max(sizes) < min(interp.nbytes, hold.nbytes)  # state and status
    assert len(launches) == 2
    for i, frame in zip(launches, (0, 16 // AUX.hop_length), strict=True):
        sent = bytes.fromhex(calls[i].details.rpartition("args=")[2])
        for rows in (interp, hold):
            assert rows[frame:].ctypes.data.to_bytes(8, "little") in sent


def test_rows_without_a_stream_wait_for_none(gpu: Fake) -> None:
    interp, _ = rows_of(PLAIN)
    made = engine_of(PLAIN, device="cuda")
    gpu.script(pointers=0)
    made.run([made.open(7)], [10], [shown(interp)], [None])
    assert len({c.details for c in gpu.calls("cuStreamSynchronize")}) == 1  # the engine's own


@pytest.mark.parametrize(
    ("pointers", "words"),
    [
        (1, "interp of stream 0 lies on device 1, the engine runs on device 0, NVIDIA Big"),
        (None, "interp of stream 0 does not lie in the memory of a GPU"),
    ],
)
def test_rows_elsewhere_are_refused(pointers: int | None, words: str, gpu: Fake) -> None:
    interp, _ = rows_of(PLAIN)
    made = engine_of(PLAIN, device="cuda")
    if pointers is not None:
        gpu.script(pointers=pointers)
    with pytest.raises(InputError, match=words):
        made.run([made.open(7)], [10], [shown(interp)], [None])
    assert gpu.calls("cuLaunchCooperativeKernel") == []


def test_no_rows_need_no_address(gpu: Fake) -> None:
    """Of an empty array the libraries give none."""
    made = engine_of(PLAIN, device="cuda")
    empty = shown(np.zeros((0, made.interp_size), np.float32), data=(0, True))
    [(samples, _)] = made.run([made.open(7)], [0], [empty], [None])
    assert len(samples) == 0
    with pytest.raises(InputError, match="interp of stream 0 does not lie in the memory of a GPU"):
        made.run([made.open(7)], [1], [empty], [None])


def test_a_fault_of_the_one_who_makes_the_rows_is_reported(gpu: Fake) -> None:
    interp, _ = rows_of(PLAIN)
    made = engine_of(PLAIN, device="cuda")
    count = gpu.counts()["cuStreamSynchronize"]
    gpu.script(pointers=0, fail=f"cuStreamSynchronize@{count + 1}=700")
    with pytest.raises(DeviceError, match="stream that an array names"):
        made.run([made.open(7)], [10], [shown(interp, stream=2)], [None])
    with pytest.raises(DeviceError, match="cannot be used any more"):
        made.run([made.open(7)], [10], [interp], [None])
