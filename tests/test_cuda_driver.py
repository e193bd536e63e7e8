"""Which GPUs there are, and why there is none: each fault by a scripted stand-in for the driver."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fakes import Fake

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError

ROOT = Path(__file__).resolve().parents[1]

# --- what is there --------------------------------------------------------------------------------


def test_every_device_is_asked_for_its_own_limits(fake: Fake) -> None:
    fake.script(
        devices="name=NVIDIA Big,sms=132,arch=90,watchdog=0,shared=232448;"
        "name=NVIDIA Big MIG 1g,sms=14,arch=90;name=NVIDIA Desk,sms=28,arch=86,watchdog=1,"
        "shared=101376,l2=3145728,clock=1777000,registers=65536",
        memory=8 << 30,
    )
    devices = _C.cuda_devices()
    assert [(d["ordinal"], d["name"], d["multiprocessors"]) for d in devices] == [
        (0, "NVIDIA Big", 132),
        (1, "NVIDIA Big MIG 1g", 14),
        (2, "NVIDIA Desk", 28),
    ]
    assert devices[2] == {
        "ordinal": 2,
        "name": "NVIDIA Desk",
        "arch": 86,
        "multiprocessors": 28,
        "registers": 65536,
        "shared_per_block": 101376,
        "l2_bytes": 3145728,
        "clock_khz": 1777000,
        "cooperative": True,
        "watchdog": True,
        "memory_bytes": 8 << 30,
        "problem": "",
    }
    assert not devices[0]["watchdog"]
    assert "cuDevicePrimaryCtxRetain" not in fake.counts()  # a question makes no context


def test_the_slice_of_a_gpu_has_its_own_number_of_blocks(fake: Fake) -> None:
    fake.script(devices="name=Whole,sms=132;name=Slice,sms=14")
    whole, part = _C.CudaDevice(0), _C.CudaDevice(1)
    fake.load(whole, blocks=132)
    with pytest.raises(DeviceError, match=r"15 blocks.*device 1, Slice has room for 14 \(1 on "):
        fake.load(part, blocks=15)
    fake.load(part, blocks=14).launch()


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("name=Old,arch=52", "compute capability is 5.2, needed is 6.0"),
        ("name=Odd,cooperative=0", "no cooperative launches"),
        ("name=Closed,mode=2", "compute mode is 'prohibited'"),
    ],
)
def test_a_device_that_cannot_run_the_kernels_says_why(
    device: str, sentence: str, fake: Fake
) -> None:
    fake.script(devices=device)
    assert sentence in _C.cuda_devices()[0]["problem"]
    with pytest.raises(DeviceError, match=rf"device 0, \w+ cannot run the kernels: .*{sentence}"):
        _C.CudaDevice()
    assert "cuDevicePrimaryCtxRetain" not in fake.counts()


def test_a_device_beyond_the_last_is_refused_with_their_number(fake: Fake) -> None:
    for ordinal in (1, -1):
        with pytest.raises(DeviceError, match=rf"no CUDA device {ordinal}: this machine shows 1"):
            _C.CudaDevice(ordinal)


# --- no driver, no device -------------------------------------------------------------------------

# what the driver does -> what is said; every row another sentence
NO_DEVICE = {
    "no device": ("cuInit@*=100", r"NO_DEVICE \(100\).*nvidia-smi.*VISIBLE_DEVICES is not set"),
    "too old for the library": ("cuInit@*=35", r"\(35\).*driver is too old: update it"),
    "stub of a toolkit": ("cuInit@*=34", "stub of a toolkit.*LD_LIBRARY_PATH"),
    "driver was updated": ("cuInit@*=803", "differ, as after an update: restart the machine"),
    "compatibility library": ("cuInit@*=804", "compatibility library"),
    "fabric manager": ("cuInit@*=802", "still starting"),
    "operating system": ("cuInit@*=304", r"OPERATING_SYSTEM \(304\).*/dev/nvidia"),
    "unknown": ("cuInit@*=999", r"UNKNOWN \(999\).*/dev/nvidia"),
    "mps": ("cuInit@*=805", "MPS server does not answer"),
    "forked by others": ("cuInit@*=3", "forked"),
    "a number never seen": ("cuInit@*=4242", r"error \(4242\)\. `wavernn-fast doctor`"),
    "count": ("cuDeviceGetCount@1=999", "cuDeviceGetCount failed"),
}


@pytest.mark.parametrize(("failing", "sentence"), NO_DEVICE.values(), ids=NO_DEVICE.keys())
def test_why_there_is_no_device_is_said(failing: str, sentence: str, fake: Fake) -> None:
    fake.script(fail=failing)
    with pytest.raises(DeviceError, match=f"(?s){sentence}"):
        _C.cuda_devices()


def test_every_error_with_an_advice_is_in_the_documentation() -> None:
    advice = (ROOT / "csrc/cuda/advice.cpp").read_text()
    names = dict(
        re.findall(r"Result (k\w+) = (\d+);", (ROOT / "csrc/cuda/driver_calls.h").read_text())
    )
    cases = {int(names.get(case, case)) for case in re.findall(r"case (\w+):", advice)}
    documented: set[int] = set()
    for cell in re.findall(r"^\| ([\d, to]+) \|", (ROOT / "docs/cuda.md").read_text(), re.M):
        for part in cell.split(", "):
            first, _, last = part.partition(" to ")
            documented |= set(range(int(first), int(last or first) + 1))
    assert {2, 100, 700, 720} <= cases
    assert cases == documented


def test_hidden_devices_are_named_as_the_reason(fake: Fake) -> None:
    fake.monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    fake.script(fail="cuInit@*=100")
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES is ''"):
        _C.cuda_devices()
    fake.install("cuda")
    fake.script(fail="", devices="")
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES is ''"):
        _C.cuda_devices()


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAVERNN_FAST_LIBCUDA", "/nowhere/libcuda.so")
    with pytest.raises(DeviceError, match=r"no NVIDIA driver here: /nowhere/libcuda\.so"):
        _C.cuda_devices()


def test_a_library_that_is_no_driver_lists_what_it_lacks(fake: Fake) -> None:
    fake.monkeypatch.setenv("WAVERNN_FAST_LIBCUDA", str(fake.copy("nvrtc-12")))
    with pytest.raises(DeviceError, match=r"has no cuInit, .*, cuLaunchCooperativeKernel: it is"):
        _C.cuda_devices()


def test_a_driver_without_a_function_is_refused_not_crashed_into(fake: Fake) -> None:
    fake.install("cuda-old")
    with pytest.raises(DeviceError, match=r"has no cuLaunchCooperativeKernel: it is too old"):
        _C.cuda_devices()
    assert fake.calls() == []


def test_a_driver_of_an_older_cuda_is_refused_with_both_versions(fake: Fake) -> None:
    fake.script(version=11080)
    with pytest.raises(DeviceError, match=r"it is for CUDA 11\.8, needed is CUDA 12\.0"):
        _C.cuda_devices()


def test_a_failed_start_is_tried_again(fake: Fake) -> None:
    fake.script(fail="cuInit@1=802")
    with pytest.raises(DeviceError):
        _C.cuda_devices()
    assert len(_C.cuda_devices()) == 1


def test_an_exclusive_gpu_in_use_is_said(fake: Fake) -> None:
    fake.script(fail="cuDevicePrimaryCtxRetain@1=46")
    with pytest.raises(DeviceError, match=r"(?s)\(46\).*Another process holds the GPU alone"):
        _C.CudaDevice()
    assert "cuDevicePrimaryCtxRelease_v2" not in fake.counts()
