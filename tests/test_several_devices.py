"""One model on several devices: the samples of one, and errors that say which device."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import cases
import numpy as np
import pytest
from cli_runner import run
from fakes import Fake
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import soon, within
from voices import mel, preset_mel, same_bits, save_voice

from wavernn_fast import _C, arrays, devices, nvrtc
from wavernn_fast.batch import BatchReport
from wavernn_fast.devices import Device, Target, resolve_devices
from wavernn_fast.errors import DeviceError, EngineError, InputError
from wavernn_fast.vocoder import Vocoder

CONFIG = cases.dual_config(32, 16, hop_length=3, n_mels=5, upsample_left=1, upsample_right=1)
TENSORS = cases.random_tensors(CONFIG, seed=2)
FRAMES = [9, 1, 30, 4, 4, 0, 17, 2, 6, 11]
MELS = [mel(CONFIG, n, seed) for seed, n in enumerate(FRAMES)]


class Watched:
    """An engine that counts its calls, begins with the others, and fails when it is told to."""

    def __init__(self, engine: _C.Engine, others: threading.Barrier) -> None:
        self._engine, self._others = engine, others
        self.error: Exception | None = None
        self.at = 2  # call in which it fails
        self.calls = self.jobs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, streams: Any, *args: Any, **how: Any) -> Any:
        self.calls += 1
        self.jobs += len(streams)
        if self.calls == 1:
            self._others.wait(timeout=30)
        if self.error is not None and self.calls == self.at:
            raise self.error
        return self._engine.run(streams, *args, **how)


def watched(device: str, *, begin: int = 0) -> tuple[Vocoder, list[Watched]]:
    """A vocoder whose engines are watched; `begin` of them wait for each other: by default all."""
    voc = Vocoder(CONFIG, TENSORS, device=device)
    together = threading.Barrier(begin or len(voc.devices))
    engines = [Watched(one.engine, together) for one in voc._devices]
    voc._devices = [Device(name, e) for name, e in zip(voc.devices, engines, strict=True)]  # type: ignore[arg-type]
    return voc, engines


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    """The waveforms of one emulated device, each alone."""
    voc = Vocoder(CONFIG, TENSORS, device="emu")
    return [voc.generate(one, seed=seed) for seed, one in enumerate(MELS)]


def alive() -> list[str]:
    """Threads of batches that have not ended; those of pools end when they are collected."""
    names = [t.name for t in threading.enumerate()]
    return [n for n in names if n.startswith("wavernn_fast") and n != "wavernn_fast live"]


# --- in the emulator ------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["emu:0,1", "emu:2,0,1"])
def test_several_devices_draw_the_samples_of_one(device: str, expected: list[np.ndarray]) -> None:
    voc, engines = watched(device)
    assert voc.devices == tuple(f"emu:{n}" for n in device[4:].split(","))
    assert voc.device == "emu"
    assert f"on each of {len(engines)} devices)" in repr(voc)
    seen: list[int] = []
    reports: list[BatchReport] = []
    batch = voc.generate_batch(
        MELS * 8, [*range(len(MELS))] * 8, streams=1, progress=seen.append, report=reports.append
    )
    assert all(same_bits(a, b) for a, b in zip(batch, expected * 8, strict=True))
    assert all(engine.calls for engine in engines)  # the work was shared
    assert sum(engine.jobs for engine in engines) >= 8 * sum(n > 0 for n in FRAMES)
    assert seen == sorted(seen)
    assert seen[-1] == reports[0].samples == 8 * sum(map(len, expected))
    assert reports[0].slots == len(engines)
    assert 0.0 < reports[0].occupancy <= 1.0
    assert alive() == []


@settings(deadline=None, max_examples=15)
@given(
    frames=st.lists(st.integers(0, 12), max_size=12),
    streams=st.one_of(st.none(), st.integers(1, 5)),
    fold=st.sampled_from([None, (12, 3)]),
)
def test_any_batch_is_shared_without_a_trace(frames, streams, fold):
    one, two = (made(device) for device in ("emu", "emu:0,1"))
    mels = [mel(CONFIG, n, seed) for seed, n in enumerate(frames)]
    shared = two.generate_batch(mels, streams=streams, fold=fold)
    alone = one.generate_batch(mels, streams=streams, fold=fold)
    assert all(same_bits(a, b) for a, b in zip(shared, alone, strict=True))


def made(device: str, kept: dict[str, Vocoder] = {}) -> Vocoder:  # noqa: B006  (a cache)
    if device not in kept:
        kept[device] = Vocoder(CONFIG, TENSORS, device=device)
    return kept[device]


def test_generate_and_stream_run_on_the_first(expected: list[np.ndarray]) -> None:
    voc, engines = watched("emu:0,1", begin=1)
    voc._engine = engines[0]  # type: ignore[assignment]
    assert same_bits(voc.generate(MELS[2], seed=2), expected[2])
    assert same_bits(np.concatenate([*voc.stream(MELS[2], seed=2)]), expected[2])
    assert engines[0].calls > 0 == engines[1].calls


def test_a_few_items_are_dealt_to_all_devices() -> None:
    voc, engines = watched("emu:0,1")
    voc.generate_batch([mel(CONFIG, 300)] * 4)
    assert all(engine.jobs == 2 * engine.calls for engine in engines)


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("kind", [DeviceError, EngineError])
def test_a_device_that_fails_stops_the_batch_and_is_named(
    failing: int, kind: type[Exception], expected: list[np.ndarray]
) -> None:
    voc, engines = watched("emu:0,1")
    engines[failing].error = kind("the cable was cut.")
    sentence = rf"Device emu:{failing} \(.*\) failed, and the batch was stopped .*cable was cut\."
    with pytest.raises(kind, match=sentence) as caught:
        voc.generate_batch([mel(CONFIG, 300)] * 4, streams=1)
    assert caught.value.__cause__ is engines[failing].error
    assert alive() == []
    again = voc.generate_batch(MELS, streams=1)  # nothing is left behind
    assert all(same_bits(a, b) for a, b in zip(again, expected, strict=True))


def test_a_device_in_the_middle_of_a_long_slice_is_stopped_when_another_fails() -> None:
    """What it draws would take a minute."""
    voc, engines = watched("emu:0,1")
    engines[1].error, engines[1].at = DeviceError("gone."), 1
    begun = time.perf_counter()
    with pytest.raises(DeviceError, match="emu:1"):
        voc.generate_batch([mel(CONFIG, 20_000)] * 2, streams=1)
    assert time.perf_counter() - begun < 10.0
    assert alive() == []


def test_an_error_that_is_none_of_the_package_comes_as_it_is() -> None:
    voc, engines = watched("emu:0,1")
    engines[1].error = MemoryError("rows")
    with pytest.raises(MemoryError) as caught:
        voc.generate_batch([mel(CONFIG, 300)] * 4, streams=1)
    assert caught.value is engines[1].error
    assert alive() == []


def test_a_caller_that_raises_in_progress_leaves_no_thread() -> None:
    voc, _ = watched("emu:0,1")

    def stop(samples: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        voc.generate_batch([mel(CONFIG, 300)] * 4, streams=1, progress=stop)
    assert alive() == []


CTRL_C = """
import signal, sys, threading
sys.path.insert(0, {tests!r})
from test_several_devices import *
signal.signal(signal.SIGINT, signal.default_int_handler)
voc = Vocoder(CONFIG, TENSORS, device="emu:0,1")
print("go", flush=True)
try:
    voc.generate_batch([mel(CONFIG, 20_000)] * 2)
except KeyboardInterrupt:
    print("stopped", alive(), flush=True)
"""


@soon
def test_ctrl_c_stops_all_devices() -> None:
    code = CTRL_C.format(tests=os.path.dirname(__file__))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "go\n"
    time.sleep(0.5)
    begin = time.monotonic()
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "stopped []\n"
    stopped = time.monotonic()
    assert child.wait(60) == 0
    within(3.0, begin, stopped)


def test_lanes_that_get_lost_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from wavernn_fast import batch

    lanes = batch._Queue.lanes
    monkeypatch.setattr(batch._Queue, "lanes", lambda self: itertools.islice(lanes(self), 1, None))
    for device in ("emu", "emu:0,1"):
        with pytest.raises(EngineError, match=r"^90 samples of the batch were never drawn"):
            made(device).generate_batch(MELS)


def test_mels_on_a_device_pass_through_the_host_where_several_share_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    brought: list[str] = []
    to_array = arrays.to_array
    monkeypatch.setattr(
        arrays, "to_array", lambda value, what: (brought.append(what), to_array(value, what))[1]
    )
    mels = [torch.from_numpy(one) for one in MELS]
    batch = made("emu:0,1").generate_batch(mels)
    assert brought == ["mel"] * len(mels)
    made("emu:0,1").generate(mels[0])  # only the first device runs, which reads them where they are
    assert brought == ["mel"] * len(mels)
    for wave, one, seed in zip(batch, MELS, range(len(MELS)), strict=True):
        assert isinstance(wave, torch.Tensor)
        assert same_bits(wave.numpy(), made("emu").generate(one, seed=seed))


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("gpu:0", "no device 'gpu:0'; choose auto, cpu, cuda, emu, or GPUs by number"),
        ("cuda:0,0", "'cuda:0,0' names number 0 twice"),
        ("cuda:0,1,2,1", "names number 1 twice"),
        ("cuda:0,cpu", "names more than one kind; all must be of one, such as cuda:0,1"),
        ("cuda:0,cuda:1", "names more than one kind|all must be of one"),
        ("emu:0,cuda:1", "names more than one kind"),
        ("cpu:0", "cpu has no numbers; write 'cpu'"),
        ("auto:1", "auto has no numbers"),
        ("cuda:", "after cuda: come numbers, such as cuda:0,1, or all"),
        ("cuda:-1", "after cuda: come numbers"),
        ("cuda:0,,1", "after cuda: come numbers"),
        ("cuda:0;1", "after cuda: come numbers"),
        ("emu:all", r"after emu: come numbers, such as emu:0,1\."),
    ],
)
def test_what_names_no_devices_is_refused_before_the_model_is_read(
    device: str, sentence: str, tmp_path
) -> None:
    with pytest.raises(InputError, match=sentence):
        Vocoder.from_pretrained(tmp_path / "never read", device=device)


def test_spaces_and_order_are_the_callers() -> None:
    assert resolve_devices("emu:3, 1") == [Target("emu", 3), Target("emu", 1)]
    assert [t.name for t in resolve_devices("emu")] == ["emu:0"]
    assert resolve_devices("cpu")[0].name == "cpu"


def test_the_memory_of_an_engine_is_that_of_its_gpu() -> None:
    memory = {name: arrays._memory(name) for name in ("cpu", "emu:1", "cuda", "cuda:2")}
    assert memory["cpu"] == ()
    assert memory["emu:1"] == ((1, 0),)  # the host's
    assert memory["cuda"] == ((2, 0), (13, 0))
    assert memory["cuda:2"] == ((2, 2), (13, 2))


# --- with a stand-in for the driver ---------------------------------------------------------------


@pytest.fixture
def two(fake: Fake) -> Fake:
    """Two GPUs on which launches end well, and the real compiler."""
    paths = nvrtc.libraries()
    if not paths:
        pytest.skip('NVRTC is not installed: pip install "wavernn-fast[cuda]"')
    fake.monkeypatch.setenv("WAVERNN_FAST_NVRTC", paths[0])
    fake.script(run=1, devices="name=NVIDIA Big,sms=132;name=NVIDIA Other,sms=60")
    fake.monkeypatch.setenv("WAVERNN_FAST_GPU_CHECK", "0")  # it computes nothing
    return fake


def opened(gpus: Fake) -> list[str]:
    """Numbers of the GPUs whose context was taken."""
    return [call.details for call in gpus.calls("cuDevicePrimaryCtxRetain")]


@pytest.mark.parametrize("device", ["cuda:0,1", "cuda:all"])
def test_two_gpus_are_opened_and_share_a_batch(device: str, two: Fake) -> None:
    voc, _ = watched(device)
    assert opened(two) == ["0", "1"]
    assert voc.devices == ("cuda:0", "cuda:1")
    assert [one.engine.isa for one in voc._devices] == ["NVIDIA Big", "NVIDIA Other"]
    waves = voc.generate_batch(MELS * 8, streams=1)
    assert [len(wave) for wave in waves] == [n * CONFIG.hop_length for n in FRAMES * 8]
    launches = two.calls("cuLaunchCooperativeKernel")
    streams = {call.details.split("stream=")[1].split()[0] for call in launches}
    assert len(streams) == 2  # each GPU has one of its own


def test_one_gpu_by_its_number(two: Fake) -> None:
    voc = Vocoder(CONFIG, TENSORS, device="cuda:1")
    assert opened(two) == ["1"]
    assert (voc.devices, voc.isa) == (("cuda:1",), "NVIDIA Other")
    assert len(voc.generate(MELS[2])) == 90


def test_each_gpu_is_compared_with_the_cpu_before_use(two: Fake) -> None:
    two.monkeypatch.delenv("WAVERNN_FAST_GPU_CHECK")
    checked: list[str] = []

    def problem(engine: _C.Engine, twin: _C.Engine, config: object, share: float) -> str:
        assert twin.device == "cpu"
        checked.append(engine.isa)
        return "its logits differ" if engine.isa == "NVIDIA Other" else ""

    two.monkeypatch.setattr(devices.selfcheck, "problem", problem)
    with pytest.raises(DeviceError, match=r"The kernel on NVIDIA Other \(cuda:1\) was .* differ"):
        Vocoder(CONFIG, TENSORS, device="cuda:0,1")
    assert checked == ["NVIDIA Big", "NVIDIA Other"]


@pytest.mark.parametrize("device", ["cuda:2", "cuda:0,2", "cuda:0,1,2"])
def test_a_number_that_no_gpu_has_is_refused_with_those_there_are(device: str, two: Fake) -> None:
    words = r"there is no GPU 2, there is GPU 0, NVIDIA Big; GPU 1, NVIDIA Other\. Use device 'cpu'"
    with pytest.raises(DeviceError, match=f"{device}.*{words}"):
        resolve_devices(device)
    assert opened(two) == []


def test_all_leaves_out_what_cannot_run_and_says_so(two: Fake, caplog) -> None:
    two.script(devices="name=Closed,mode=2;name=Open;name=Old,arch=37;name=Free")
    with caplog.at_level(logging.WARNING, "wavernn_fast"):
        assert [t.number for t in resolve_devices("cuda:all")] == [1, 3]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("GPU 0, Closed, is left out: its compute mode")
    with pytest.raises(DeviceError, match="GPU 0, Closed: its compute mode"):
        resolve_devices("cuda:0,1")


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ({"fail": "cuInit@*=100"}, "NO_DEVICE"),
        ({"devices": "name=Closed,mode=2;name=Old,arch=37"}, "GPU 0, Closed: its compute mode"),
    ],
)
def test_all_of_no_gpu_is_refused(script: dict[str, str], sentence: str, two: Fake) -> None:
    two.script(**script)
    with pytest.raises(DeviceError, match=f"'cuda:all' is not available: .*{sentence}"):
        resolve_devices("cuda:all")


def test_a_launch_that_fails_on_one_gpu_stops_both(two: Fake) -> None:
    voc, _ = watched("cuda:0,1")
    two.script(fail="cuLaunchCooperativeKernel@5=999")
    with pytest.raises(DeviceError, match=r"^Device cuda:[01] \(NVIDIA (Big|Other)\) failed.*999"):
        voc.generate_batch(MELS * 8, streams=1)
    assert alive() == []


def test_memory_short_on_the_second_gives_back_the_first(two: Fake) -> None:
    voc = Vocoder(CONFIG, TENSORS, device="cuda:0")
    first = two.counts()["cuMemAlloc_v2"]
    del voc
    two.script(fail=f"cuMemAlloc_v2@{2 * first + 2}=2")
    with pytest.raises(DeviceError, match=r"device 1, NVIDIA Other.*bytes were needed"):
        Vocoder(CONFIG, TENSORS, device="cuda:0,1")
    counts = two.counts()
    assert counts["cuDevicePrimaryCtxRetain"] == counts["cuDevicePrimaryCtxRelease_v2"] == 3


def test_the_command_line_takes_the_same_names(two: Fake, tmp_path) -> None:
    model = save_voice(tmp_path)
    np.save(tmp_path / "mel.npy", preset_mel(3))
    arguments = ("vocode", tmp_path / "mel.npy", "-m", model, "-o", tmp_path / "out.wav")
    refused = run(*arguments, "--device", "cuda:0,7")
    assert refused.exit_code == 3
    assert "there is no GPU 7, there is GPU 0, NVIDIA Big; GPU 1, NVIDIA Other" in refused.stderr
    twice = run(*arguments, "--device", "cuda:1,1")
    assert twice.exit_code == 2
    assert "names number 1 twice" in twice.stderr
