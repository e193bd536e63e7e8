"""Memory, contexts, launches and their faults, over a scripted stand-in for the driver: what is
said, what is called, and what is never called again. Nothing here needs or uses a GPU."""

from __future__ import annotations

import ctypes
import gc
import threading

import pytest
from fakes import Fake, python
from quick import first_is_quick

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError

# --- memory ---------------------------------------------------------------------------------------


def test_memory_comes_back_as_it_went_and_zeroed_memory_is_zero(fake: Fake) -> None:
    device = _C.CudaDevice()
    address = device.allocate(1000)
    assert address % 256 == 0
    device.upload(address, bytes(range(250)) * 4)
    assert device.download(address, 1000) == bytes(range(250)) * 4
    device.zero(address + 100, 200)
    assert device.download(address + 90, 20) == bytes(range(90, 100)) + bytes(10)
    device.upload(address, b"")
    assert device.download(address, 0) == b""
    empty = device.allocate(0)
    device.release(empty)
    device.release(address)
    device.release(0)  # as free() does
    counts = fake.counts()
    assert counts["cuMemAlloc_v2"] == counts["cuMemFree_v2"] == 2


def test_an_upload_is_over_when_it_returns(fake: Fake) -> None:
    device = _C.CudaDevice()
    address = device.allocate(8)
    before = len(fake.calls())
    device.upload(address, b"12345678")
    names = [call.name for call in fake.calls()[before:]]
    assert names == [
        "cuCtxPushCurrent_v2",
        "cuMemcpyHtoDAsync_v2",
        "cuStreamSynchronize",
        "cuCtxPopCurrent_v2",
    ]


def test_too_little_memory_is_said_with_both_numbers(fake: Fake) -> None:
    fake.script(memory=10_000)
    device = _C.CudaDevice()
    device.allocate(4_000)
    with pytest.raises(DeviceError, match=r"7000 bytes were needed, 6000 of 10000 are free.*cpu"):
        device.allocate(7_000)
    device.allocate(6_000)  # the device goes on


def test_running_out_at_the_second_allocation_keeps_the_first(fake: Fake) -> None:
    fake.script(fail="cuMemAlloc_v2@2=2")
    device = _C.CudaDevice()
    first = device.allocate(16)
    with pytest.raises(DeviceError, match="OUT_OF_MEMORY"):
        device.allocate(16)
    device.upload(first, b"still here")
    assert device.download(first, 10) == b"still here"


# --- contexts, streams, endings -------------------------------------------------------------------


def test_everything_taken_is_given_back(fake: Fake) -> None:
    device = _C.CudaDevice()
    address = device.allocate(64)
    kernel = fake.load(device, blocks=2)
    kernel.launch()
    device.release(address)
    del device, kernel
    counts = fake.counts()
    for taken, given in (
        ("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2"),
        ("cuStreamCreate", "cuStreamDestroy_v2"),
        ("cuMemAlloc_v2", "cuMemFree_v2"),
        ("cuModuleLoadData", "cuModuleUnload"),
        ("cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2"),
    ):
        assert counts[taken] == counts[given] > 0, taken
    assert fake.calls()[-1].name == "cuDevicePrimaryCtxRelease_v2"


def test_a_kernel_outlives_the_device_it_came_from(fake: Fake) -> None:
    device = _C.CudaDevice()
    kernel = fake.load(device)
    del device
    kernel.launch()
    assert fake.counts()["cuDevicePrimaryCtxRelease_v2"] == 0
    del kernel
    assert fake.counts()["cuDevicePrimaryCtxRelease_v2"] == 1


def test_contexts_are_given_back_after_every_kind_of_failure(fake: Fake) -> None:
    fake.script(
        fail="cuStreamCreate@1=999 cuMemAlloc_v2@1=999 cuModuleGetFunction@1=999 "
        "cuLaunchCooperativeKernel@1=999 cuMemcpyHtoDAsync_v2@1=999"
    )
    with pytest.raises(DeviceError, match="cuStreamCreate"):
        _C.CudaDevice()
    assert fake.counts()["cuDevicePrimaryCtxRelease_v2"] == 1
    device = _C.CudaDevice()
    with pytest.raises(DeviceError, match="cuMemAlloc"):
        device.allocate(1)
    with pytest.raises(DeviceError, match="cuModuleGetFunction"):
        fake.load(device)
    assert fake.counts()["cuModuleUnload"] == 1
    kernel, address = fake.load(device), device.allocate(1)
    with pytest.raises(DeviceError, match="cuLaunchCooperativeKernel"):
        kernel.launch()
    with pytest.raises(DeviceError, match="cuMemcpyHtoDAsync"):
        device.upload(address, b"1")
    counts = fake.counts()
    assert counts["cuCtxPushCurrent_v2"] == counts["cuCtxPopCurrent_v2"]


def test_the_stream_of_the_caller_is_used_and_left(fake: Fake) -> None:
    device = _C.CudaDevice(stream=0x5000)
    address = device.allocate(8)
    device.upload(address, b"12345678")
    device.zero(address, 8)
    device.download(address, 8)
    fake.load(device).launch()
    del device
    counts = fake.counts()
    assert counts["cuStreamCreate"] == counts["cuStreamDestroy_v2"] == 0
    users = [call for call in fake.calls() if "stream=" in call.details]
    assert len(users) >= 6
    assert all("stream=0x5000" in call.details for call in users)


def test_the_default_stream_of_the_caller_is_no_missing_stream(fake: Fake) -> None:
    device = _C.CudaDevice(stream=0)
    fake.load(device).launch()
    [launch] = fake.calls("cuLaunchCooperativeKernel")
    assert "stream=(nil)" in launch.details
    assert fake.counts()["cuStreamCreate"] == 0


def test_an_own_stream_does_not_wait_for_the_default_one(fake: Fake) -> None:
    _C.CudaDevice()
    [made] = fake.calls("cuStreamCreate")
    assert made.details == "1"  # CU_STREAM_NON_BLOCKING


def test_threads_share_a_device(fake: Fake) -> None:
    device = _C.CudaDevice()
    failures: list[BaseException] = []

    def work(mark: int) -> None:
        try:
            for _ in range(20):
                address = device.allocate(64)
                device.upload(address, bytes([mark]) * 64)
                assert device.download(address, 64) == bytes([mark]) * 64
                device.release(address)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_end_of_the_interpreter_is_quiet_even_without_a_driver(fake: Fake) -> None:
    fake.script(fail="cuStreamDestroy_v2@*=4 cuDevicePrimaryCtxRelease_v2@*=4 cuModuleUnload@*=4")
    result = python(
        "from wavernn_fast import _C\n"
        "device = _C.CudaDevice()\n"
        "kernel = device.load('probe', '// end of the interpreter')\n"
        "class Late:\n"
        "    def __del__(self, kept=(kernel, device)): pass\n"
        "late = Late()\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# --- launches -------------------------------------------------------------------------------------


class KernelArgs(ctypes.Structure):
    """csrc/cuda/kernels/args.h up to what the test sets."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weights", "base", "interp", "upsample", "words")),
        *((name, ctypes.c_void_p) for name in ("state", "uniforms", "forced", "labels", "logits")),
        *((name, ctypes.c_void_p) for name in ("status", "clocks")),
        ("seed", ctypes.c_ulonglong),
        ("step0", ctypes.c_ulonglong),
        ("item", ctypes.c_uint),
        ("fold", ctypes.c_uint),
        ("steps", ctypes.c_uint),
    )


def test_a_launch_is_cooperative_waits_and_passes_its_arguments_by_value(fake: Fake) -> None:
    fake.script(args=ctypes.sizeof(KernelArgs))
    device = _C.CudaDevice()
    kernel = fake.load(device, blocks=56, threads=256, shared_bytes=43_000)
    kernel.launch(weights=0x1000, state=0x2000, labels=0x3000, status=0x4000, seed=2**63, steps=7)
    after = [call.name for call in fake.calls()]
    assert after[-3:] == ["cuLaunchCooperativeKernel", "cuStreamSynchronize", "cuCtxPopCurrent_v2"]
    [launch] = fake.calls("cuLaunchCooperativeKernel")
    assert launch.details.startswith("grid=56,1,1 block=256,1,1 shared=43000 stream=0x")
    args = KernelArgs.from_buffer_copy(bytes.fromhex(launch.details.partition("args=")[2]))
    assert (args.weights, args.state, args.labels) == (0x1000, 0x2000, 0x3000)
    assert (args.status, args.seed, args.steps) == (0x4000, 2**63, 7)
    assert args.base is None
    assert (args.step0, args.item, args.fold) == (0, 0, 0)


def test_shared_memory_beyond_the_default_is_asked_for(fake: Fake) -> None:
    device = _C.CudaDevice()
    kernel = fake.load(device, shared_bytes=200_000)
    [asked] = fake.calls("cuFuncSetAttribute")
    assert asked.details == "8 200000"
    kernel.launch()
    with pytest.raises(DeviceError, match=r"needs 232449 bytes of shared.*Fake has 232448"):
        fake.load(device, shared_bytes=232_449)


def test_a_grid_that_cannot_be_resident_is_refused_before_the_launch(fake: Fake) -> None:
    fake.script(devices="name=Small,sms=10,resident=2")
    device = _C.CudaDevice()
    fake.load(device, blocks=20, threads=64)
    with pytest.raises(
        DeviceError, match=r"21 blocks of 64 threads .* room for 20 \(2 on each of 10 multip"
    ):
        fake.load(device, blocks=21, threads=64)
    assert fake.counts()["cuLaunchCooperativeKernel"] == 0
    assert fake.counts()["cuModuleUnload"] == 1 + 1  # the first kernel was dropped, too


def test_clusters_are_launched_together_and_as_clusters(fake: Fake) -> None:
    fake.script(devices="name=Hopper,sms=132,clusters=15")
    device = _C.CudaDevice()
    kernel = fake.load(device, blocks=120, threads=64, shared_bytes=1000, cluster=8)
    kernel.launch()
    [asked] = fake.calls("cuOccupancyMaxActiveClusters")
    assert asked.details == "cluster=8 shared=1000"
    [launch] = fake.calls("cuLaunchKernelEx")
    assert launch.details.endswith("shared=1000 cluster=8 cooperative=1")
    assert launch.details.startswith("grid=120,1,1 block=64,1,1")
    with pytest.raises(DeviceError, match=r"16 clusters of 8 blocks .* has room for 15"):
        fake.load(device, blocks=128, threads=64, cluster=8)
    fake.script(fail="cuLaunchKernelEx@2=720")
    with pytest.raises(DeviceError, match=r"720.*120 blocks of 64 threads.*clusters of 8"):
        kernel.launch()


def test_large_clusters_are_asked_for(fake: Fake) -> None:
    device = _C.CudaDevice()
    fake.load(device, blocks=8, cluster=8)
    assert not fake.calls("cuFuncSetAttribute")
    fake.load(device, blocks=16, cluster=16, tag=1)
    assert [call.details for call in fake.calls("cuFuncSetAttribute")] == ["14 1"]


def test_a_launch_too_large_says_so_and_leaves_the_device_usable(fake: Fake) -> None:
    fake.script(fail="cuLaunchCooperativeKernel@1=720")
    device = _C.CudaDevice()
    kernel = fake.load(device, blocks=132, threads=256)
    with pytest.raises(DeviceError, match=r"720.*132 blocks of 256 threads.*MPS.*cpu"):
        kernel.launch()
    kernel.launch()


@pytest.mark.parametrize("code", first_is_quick([700, 702, 714, 717, 719]))
def test_a_broken_context_refuses_everything_with_one_sentence(code: int, fake: Fake) -> None:
    fake.script(fail=f"cuStreamSynchronize@2={code}")
    device = _C.CudaDevice()
    address, kernel = device.allocate(16), fake.load(device)
    device.upload(address, b"fine")
    with pytest.raises(DeviceError, match=rf"\({code}\).*start a new process"):
        kernel.launch()
    done = fake.counts()
    sentences = set()
    refused = [
        (kernel.launch, ()),
        (device.allocate, (1,)),
        (device.upload, (address, b"1")),
        (device.download, (address, 1)),
        (device.zero, (address, 1)),
        (device.load, ("probe", "// another")),
    ]
    for call, arguments in refused:
        with pytest.raises(DeviceError) as caught:
            call(*arguments)
        sentences.add(str(caught.value))
    [sentence] = sentences
    assert "device 0, Fake cannot be used any more in this process since cuStream" in sentence
    assert f"({code})" in sentence
    device.release(address)
    assert fake.counts() == done  # the driver is left alone
    del device, kernel, refused, call, caught
    gc.collect()  # tracebacks hold the device
    assert fake.counts()["cuDevicePrimaryCtxRelease_v2"] == 1


def test_the_watchdog_is_explained(fake: Fake) -> None:
    fake.script(devices="name=Desk,watchdog=1", fail="cuStreamSynchronize@1=702")
    device = _C.CudaDevice()
    assert device.limits["watchdog"]
    with pytest.raises(DeviceError, match="watchdog ended the kernel: let it work in shorter"):
        fake.load(device).launch()


def test_an_error_that_is_not_sticky_leaves_the_device_usable(fake: Fake) -> None:
    fake.script(fail="cuStreamSynchronize@1=999")
    device = _C.CudaDevice()
    kernel = fake.load(device)
    with pytest.raises(DeviceError, match="999"):
        kernel.launch()
    kernel.launch()


# --- fork -----------------------------------------------------------------------------------------

FORKED = """
import os, sys
from wavernn_fast import _C
from wavernn_fast.errors import DeviceError
device = _C.CudaDevice()
address = device.allocate(8)
kernel = device.load("probe", "// fork {folder}")
child = os.fork()
if child == 0:
    calls = [kernel.launch, lambda: device.allocate(1), lambda: device.download(address, 1),
             _C.cuda_devices, _C.CudaDevice, lambda: device.load("probe", "// other")]
    refused = 0
    for call in calls:
        try: call()
        except DeviceError as error: refused += "use spawn" in str(error)
    device.release(address)
    del device, kernel, calls
    os._exit(0 if refused == 6 else 9)
_, status = os.waitpid(child, 0)
device.upload(address, b"parent")
assert device.download(address, 6) == b"parent"
print(child, os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_is_told_to_spawn_and_touches_nothing(fake: Fake) -> None:
    result = python(FORKED.replace("{folder}", str(fake.folder)))
    assert result.stderr == ""
    child, code = map(int, result.stdout.split())
    assert code == 0
    assert child not in {call.pid for call in fake.calls()}


def test_a_child_forked_before_the_gpu_is_opened_may_open_it(fake: Fake) -> None:
    result = python(
        "import os\nfrom wavernn_fast import _C\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(0 if _C.CudaDevice().allocate(1) else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert result.stdout == "0\n", result.stderr
