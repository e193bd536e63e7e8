"""Choosing a device: "auto" never fails and says why it stays on the CPU; "cuda" says why not."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from cli_runner import run
from fakes import Fake
from voices import save_voice

from wavernn_fast import _C, devices
from wavernn_fast.devices import EngineOptions, device_problem, resolve_device
from wavernn_fast.errors import DeviceError, InputError
from wavernn_fast.vocoder import Vocoder

# what the driver does -> why there is no GPU
REASONS = {
    "no device": ({"fail": "cuInit@*=100"}, "NO_DEVICE"),
    "old driver": ({"version": 11040}, r"CUDA 11\.4, needed is CUDA 12\.0"),
    "closed": ({"devices": "name=Closed,mode=2"}, "GPU 0, Closed: its compute mode is 'prohib"),
    "old device": ({"devices": "name=Old,arch=37"}, "capability is 3.7, needed is 6.0"),
    "operating system": ({"fail": "cuInit@*=999"}, "/dev/nvidia"),
}


def with_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this build has the engine, so that only the machine decides."""
    monkeypatch.setattr(_C, "available_devices", lambda: ["cpu", "reference", "cuda"])


@pytest.mark.parametrize(("script", "sentence"), REASONS.values(), ids=REASONS.keys())
def test_auto_stays_on_the_cpu_and_says_why_once(
    script: dict[str, str | int], sentence: str, fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    with_engine(fake.monkeypatch)
    fake.script(**script)
    with caplog.at_level(logging.INFO, "wavernn_fast"):
        assert resolve_device("auto") == "cpu"
    [record] = caplog.records
    assert record.levelno == logging.INFO
    message = record.getMessage()
    assert message.startswith("Running on the CPU, not on a GPU: ")
    with pytest.raises(DeviceError, match=sentence):
        raise DeviceError(message)


@pytest.mark.parametrize(("script", "sentence"), REASONS.values(), ids=REASONS.keys())
def test_cuda_is_refused_with_the_reason_and_the_way_out(
    script: dict[str, str | int], sentence: str, fake: Fake, tmp_path
) -> None:
    with_engine(fake.monkeypatch)
    fake.script(**script)
    with pytest.raises(
        DeviceError, match=f"(?s)'cuda' is not available: .*{sentence}.*'cpu'.*wavernn-fast doctor"
    ):
        Vocoder.from_pretrained(tmp_path / "never read", device="cuda")


def test_auto_takes_a_gpu_that_can_be_used(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    with_engine(fake.monkeypatch)
    with caplog.at_level(logging.INFO, "wavernn_fast"):
        assert resolve_device("auto") == resolve_device("cuda") == "cuda"
    assert caplog.records == []
    assert fake.counts()["cuDevicePrimaryCtxRetain"] == 0  # asking takes nothing


def test_a_build_without_the_engine_says_so(fake: Fake) -> None:
    fake.monkeypatch.setattr(_C, "available_devices", lambda: ["cpu", "reference"])
    assert device_problem("cuda") == "this build has no CUDA engine"
    assert device_problem("emu") == "this build has no emulator"


def test_the_emulator_needs_no_gpu(fake: Fake) -> None:
    fake.script(fail="cuInit@*=100")
    fake.monkeypatch.setattr(_C, "available_devices", lambda: ["cpu", "emu", "reference"])
    assert resolve_device("emu") == "emu"
    assert fake.calls() == []


def test_only_devices_of_the_list_exist() -> None:
    assert devices.DEVICES == ("auto", "cpu", "cuda", "emu")
    with pytest.raises(InputError, match="no device 'gpu'; choose auto, cpu, cuda, emu"):
        resolve_device("gpu")
    with pytest.raises(InputError, match="no device 'None'; choose auto, cpu, cuda, emu"):
        resolve_device(None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is not understood: after emu: come numbers"):
        resolve_device(f"emu:{'9' * 5000}")


def test_a_device_of_torch_counts_as_its_name() -> None:
    assert resolve_device(torch.device("cpu")) == "cpu"  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no device 'meta'"):
        resolve_device(torch.device("meta"))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [1025, 70_000, 1 << 40])
def test_numbers_beyond_what_an_engine_takes_are_refused_by_their_names(number: int) -> None:
    with pytest.raises(InputError, match=f"cpu_threads is {number}, expected at most 1024"):
        EngineOptions(cpu_threads=number).checked()
    if number > 65536:
        with pytest.raises(InputError, match=f"gpu_streams is {number}, expected at most 65536"):
            EngineOptions(gpu_streams=number).checked()
    with pytest.raises(InputError, match=f"gpu_cluster is {number}, expected at most 16"):
        EngineOptions(gpu_cluster=number).checked()


@pytest.mark.parametrize("text", ["1025", "9" * 5000])
def test_a_number_of_threads_that_cannot_be_is_refused_by_its_variable(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(devices.THREADS, text)
    with pytest.raises(InputError, match=r"WAVERNN_FAST_THREADS is .*at most 1024"):
        devices.default_threads()


def test_the_cpu_asks_no_driver(fake: Fake, tmp_path) -> None:
    Vocoder.from_pretrained(save_voice(tmp_path), device="cpu")
    assert fake.calls() == []


def test_synthesis_goes_on_where_the_driver_fails(fake: Fake, tmp_path) -> None:
    fake.script(fail="cuInit@*=999")
    model = save_voice(tmp_path)
    frames = np.full((80, 3), 0.5, np.float32)
    expected = Vocoder.from_pretrained(model, device="cpu").generate(frames)
    assert np.array_equal(Vocoder.from_pretrained(model, device="auto").generate(frames), expected)


def test_doctor_lists_the_gpus(fake: Fake) -> None:
    fake.script(
        devices="name=NVIDIA Big,sms=132;name=NVIDIA Desk,arch=86,sms=28,watchdog=1,mode=2",
        memory=24 << 30,
    )
    facts = json.loads(run("doctor", "--json").stdout)
    assert [gpu["name"] for gpu in facts["gpus"]] == ["NVIDIA Big", "NVIDIA Desk"]
    shown = run("doctor").stdout
    assert "NVIDIA Big, compute capability 9.0, 132 multiprocessors, 24.0 GiB\n" in shown
    assert "24.0 GiB, drives a display, cannot be used: its compute mode is 'prohibited'" in shown


def test_doctor_reports_the_reason_where_there_is_no_gpu(fake: Fake) -> None:
    fake.script(fail="cuInit@*=803")
    facts = json.loads(run("doctor", "--json").stdout)
    assert facts["ok"]  # the CPU works
    assert "restart the machine" in facts["devices"]["cuda"]
