"""The engine over the CUDA runtime: real plans and kernels by NVRTC, on a stand-in for the driver.
It computes nothing, so the samples mean nothing; calls, slices and faults are what is looked at."""

from __future__ import annotations

import dataclasses
import logging
import re

import numpy as np
import pytest
from fakes import Fake, python

from wavernn_fast import _C, nvrtc, weights
from wavernn_fast.devices import EngineOptions, make_devices
from wavernn_fast.errors import DeviceError, EngineError
from wavernn_fast.synthetic import random_model
from wavernn_fast.vocoder import Vocoder

CONFIG, TENSORS = random_model("dual:64")


@pytest.fixture
def gpu(fake: Fake) -> Fake:
    """A GPU on which launches end well, and the real compiler."""
    paths = nvrtc.libraries()
    if not paths:
        pytest.skip('NVRTC is not installed: pip install "wavernn-fast[cuda]"')
    fake.monkeypatch.setenv("WAVERNN_FAST_NVRTC", paths[0])
    fake.script(run=1, devices="name=NVIDIA Big,sms=132,arch=90")
    fake.monkeypatch.setenv("WAVERNN_FAST_GPU_CHECK", "0")  # it computes nothing
    return fake


@pytest.mark.slow
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_that_computes_something_else_is_not_used(device: str, gpu: Fake, caplog) -> None:
    gpu.monkeypatch.delenv("WAVERNN_FAST_GPU_CHECK")
    sentence = "logits differ from the CPU's"
    if device == "cuda":
        with pytest.raises(DeviceError, match=sentence):
            make_devices(CONFIG, TENSORS, device)
        return
    with caplog.at_level(logging.WARNING, "wavernn_fast"):
        assert make_devices(CONFIG, TENSORS, device)[0].engine.device == "cpu"
    assert sentence in caplog.text


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("failing", ["cuLaunchCooperativeKernel@1=719", "cuMemAlloc_v2@5=2"])
def test_a_gpu_that_fails_in_the_check_is_not_used(
    failing: str, device: str, gpu: Fake, caplog
) -> None:
    gpu.monkeypatch.delenv("WAVERNN_FAST_GPU_CHECK")
    gpu.script(fail=failing)
    sentence = f"compared with the CPU before use, and it failed ({failing.partition('@')[0][:10]}"
    if device == "cuda":
        with pytest.raises(DeviceError, match=re.escape(sentence)):
            make_devices(CONFIG, TENSORS, device)
        return
    with caplog.at_level(logging.WARNING, "wavernn_fast"):
        assert make_devices(CONFIG, TENSORS, device)[0].engine.device == "cpu"
    assert sentence in caplog.text


def labels_of(wav: np.ndarray) -> np.ndarray:
    """What was drawn: 256 coarse + fine."""
    return np.round(wav * 32768 + 32768).astype(int)


def test_an_utterance_goes_through_the_runtime(gpu: Fake) -> None:
    voc = Vocoder(CONFIG, TENSORS, device="cuda")
    assert voc.device == "cuda"
    wav = voc.generate(n_samples=300, seed=5)
    assert labels_of(wav).tolist() == list(range(300))
    launches = gpu.calls("cuLaunchCooperativeKernel")
    assert len(launches) >= 2  # slices
    [function] = gpu.calls("cuModuleGetFunction")
    assert function.details == "wavernn_persistent"


def test_a_residual_model_goes_to_the_gpu_by_itself(gpu: Fake) -> None:
    config, tensors = random_model("residual:32")
    engine = make_devices(config, tensors, "auto")[0].engine
    assert engine.device == "cuda"
    rows = [np.zeros((9, engine.interp_size)), np.zeros((9, engine.hold_size))]
    [(labels, _)] = engine.run([engine.open(1)], [300], [rows[0]], [rows[1]])
    assert labels.tolist() == list(range(300))
    [function] = gpu.calls("cuModuleGetFunction")
    assert function.details == "wavernn_residual"


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_is_chosen_and_kept(device: str, gpu: Fake) -> None:
    engine = make_devices(CONFIG, TENSORS, device)[0].engine
    assert (engine.device, engine.isa) == ("cuda", "NVIDIA Big")
    del engine
    counts = gpu.counts()
    assert counts["cuMemAlloc_v2"] == counts["cuMemFree_v2"] > 0
    assert counts["cuDevicePrimaryCtxRetain"] == counts["cuDevicePrimaryCtxRelease_v2"] == 1


def test_a_fault_in_a_launch_stops_the_voice_with_the_reason(gpu: Fake) -> None:
    voc = Vocoder(CONFIG, TENSORS, device="cuda")
    gpu.script(fail="cuLaunchCooperativeKernel@2=719")
    with pytest.raises(DeviceError, match=r"\(719\).*start a new process"):
        voc.generate(n_samples=5000)
    with pytest.raises(DeviceError, match="cannot be used any more"):
        voc.generate(n_samples=10)


def test_a_launch_of_too_many_blocks_is_planned_again_with_fewer(gpu: Fake) -> None:
    voc = Vocoder(CONFIG, TENSORS, device="cuda")
    gpu.script(fail="cuLaunchCooperativeKernel@2=720")
    wav = voc.generate(n_samples=300, seed=5)
    # Labels of the stand-in count from the beginning of a launch; none is lost or made twice.
    assert len(labels_of(wav)) == 300
    launches = gpu.calls("cuLaunchCooperativeKernel")
    sizes = [int(re.findall(r"grid=(\d+)", launch.details)[0]) for launch in launches]
    assert sizes[1] == sizes[0] > sizes[2] == sizes[-1]


@pytest.mark.slow
def test_clusters_that_do_not_fit_together_are_planned_again_with_fewer(gpu: Fake) -> None:
    gpu.script(devices="name=Hopper,sms=132,arch=90,shared=232448,clusters=1")
    config, tensors = random_model("dual:512")
    engine = _C.Engine(dataclasses.asdict(config), tensors, device="cuda", cluster=8, dtype="fp16")
    engine.run([engine.open(1)], [10], [None], [None])
    grids = {int(re.findall(r"grid=(\d+)", c.details)[0]) for c in gpu.calls("cuLaunchKernelEx")}
    assert grids == {8}  # it would have been 16


def test_many_streams_have_as_many_teams_as_clusters_fit(fake: Fake) -> None:
    """Its 132 multiprocessors would be 16 teams; they need not run together."""
    fake.script(devices="name=Hopper,sms=132,arch=90,shared=232448,clusters=15")
    config, tensors = random_model("dual:512")
    options = {"device": "cuda", "cluster": 8, "dtype": "fp16", "streams": 120}
    engine = _C.Engine(dataclasses.asdict(config), tensors, **options)
    assert "15 teams of 8 blocks of 8 warps, 8 streams a team, 120 in all" in engine.describe()
    with pytest.raises(EngineError, match="ended without a reason"):  # the stand-in draws nothing
        engine.run([engine.open(s) for s in range(120)], [10] * 120, [None] * 120, [None] * 120)
    [launch] = fake.calls("cuLaunchKernelEx")
    assert launch.details.startswith("grid=120,1,1 block=256,1,1")
    assert launch.details.endswith("cluster=8 cooperative=0")


HOPPER = "name=Hopper,sms=132,arch=90,shared=232448,clusters=16"


@pytest.mark.parametrize("streams", [1, 16])
def test_a_vocoder_makes_the_clusters_it_is_asked_for(streams: int, fake: Fake) -> None:
    fake.monkeypatch.setenv("WAVERNN_FAST_GPU_CHECK", "0")
    fake.script(devices=HOPPER)
    config, tensors = random_model("dual:256")
    options = {"dtype": "fp16", "gpu_streams": streams}
    voc = Vocoder(config, tensors, device="cuda", gpu_cluster=4, **options)
    assert ("clusters of 4" if streams == 1 else "every team a cluster") in voc.engine.describe()
    with pytest.raises(EngineError, match="without a reason"):  # the stand-in draws nothing
        voc.generate(n_samples=100)
    launches = fake.calls("cuLaunchKernelEx")
    assert launches
    assert all(" cluster=4 " in launch.details for launch in launches)
    plain = Vocoder(config, tensors, device="cuda", **options)
    assert "cluster" not in plain.engine.describe()


def test_clusters_on_a_gpu_without_them_are_refused_and_mean_nothing_on_the_cpu(gpu: Fake) -> None:
    gpu.script(devices="name=Ampere,sms=108,arch=80,shared=166912")
    with pytest.raises(DeviceError, match=r"Ampere has no clusters .* use gpu_cluster=0"):
        Vocoder(CONFIG, TENSORS, device="cuda", gpu_cluster=4)
    voc = Vocoder(CONFIG, TENSORS, device="cpu", gpu_cluster=4)
    plain = Vocoder(CONFIG, TENSORS, device="cpu")
    assert np.array_equal(voc.generate(n_samples=50), plain.generate(n_samples=50))


def test_too_many_blocks_that_were_asked_for_are_an_error(gpu: Fake) -> None:
    engine = _C.Engine(dataclasses.asdict(CONFIG), TENSORS, device="cuda", blocks=8)
    gpu.script(fail="cuLaunchCooperativeKernel@1=720")
    with pytest.raises(DeviceError, match="720"):
        engine.run([engine.open(1)], [10], [None], [None])


def test_memory_that_runs_out_while_loading_is_given_back(gpu: Fake) -> None:
    gpu.script(memory=30_000)
    with pytest.raises(DeviceError, match="bytes were needed"):
        Vocoder(CONFIG, TENSORS, device="cuda")
    counts = gpu.counts()
    assert counts["cuDevicePrimaryCtxRetain"] == counts["cuDevicePrimaryCtxRelease_v2"] == 1


@pytest.mark.parametrize(
    ("model", "script", "sentence"),
    [
        ("residual:512", {"devices": "name=Tiny,sms=2,arch=60"}, "does not fit on Tiny"),
        ("dual:512", {"devices": "name=Tiny,sms=2,arch=60"}, "does not fit on Tiny"),
        ("dual:64", {"memory": 30_000}, "bytes were needed"),
        ("dual:64", {"fail": "cuDevicePrimaryCtxRetain@*=46"}, "holds the GPU alone"),
    ],
)
def test_auto_goes_on_with_the_cpu_where_the_gpu_cannot_take_the_model(
    model: str, script: dict[str, str | int], sentence: str, gpu: Fake, caplog, tmp_path
) -> None:
    gpu.script(**script)
    config, tensors = random_model(model)
    weights.write(tmp_path / "voice.safetensors", config, tensors)
    with caplog.at_level(logging.INFO, "wavernn_fast"):
        voc = Vocoder.from_pretrained(tmp_path / "voice.safetensors")
    assert voc.device == "cpu"
    [record] = caplog.records
    assert record.getMessage().startswith("Running on the CPU, not on a GPU: ")
    assert sentence in record.getMessage()
    with pytest.raises(DeviceError, match=sentence):
        Vocoder(config, tensors, device="cuda")


# --- fork -----------------------------------------------------------------------------------------

FORKED = """
import os, signal, threading, time
from wavernn_fast.devices import EngineOptions, make_devices
from wavernn_fast.errors import DeviceError, EngineError
from wavernn_fast.synthetic import random_model

options = EngineOptions(gpu_streams={streams})
engine = make_devices(*random_model("dual:64"), "cuda", options)[0].engine
draw = lambda: engine.run([engine.open(1)], [16], [None], [None])

def draw_in_vain():  # the stand-in computes nothing
    try: draw()
    except EngineError: pass

threads = [threading.Thread(target=draw_in_vain) for _ in range(4)]  # some wait for others
for thread in threads: thread.start()
while "cuLaunch" not in open(os.environ["FAKE_CUDA_CALLS"]).read(): time.sleep(0.01)
time.sleep(0.1)
child = os.fork()
if child == 0:
    signal.alarm(20)
    refused = 0
    for call in (draw, engine.stage_ticks, engine.counts):
        try: call()
        except DeviceError as error: refused += "use spawn" in str(error)
    del draw, engine, call
    os._exit(0 if refused == 3 else 9)
print(os.waitpid(child, 0)[1])
for thread in threads: thread.join()
"""


@pytest.mark.parametrize("streams", [1, 4])
def test_a_child_forked_while_threads_draw_is_told_to_spawn(streams: int, fake: Fake) -> None:
    fake.script(pause=300, devices="name=NVIDIA Big,sms=132,arch=90")
    fake.monkeypatch.setenv("WAVERNN_FAST_GPU_CHECK", "0")
    result = python(FORKED.format(streams=streams))
    assert result.stdout == "0\n", result.stderr


STARTING = """
import os, signal, threading
from wavernn_fast import _C
from wavernn_fast.errors import DeviceError

thread = threading.Thread(target=_C.cuda_devices)
thread.start()
while not os.path.exists(os.environ["FAKE_CUDA_CALLS"]): pass
child = os.fork()
if child == 0:
    signal.alarm(20)
    try: _C.cuda_devices()
    except DeviceError as error: os._exit(0 if "use spawn" in str(error) else 8)
    os._exit(9)
print(os.waitpid(child, 0)[1])
thread.join()
"""


def test_a_child_forked_while_the_driver_starts_is_told_to_spawn(fake: Fake) -> None:
    fake.script(start=300)
    result = python(STARTING)
    assert result.stdout == "0\n", result.stderr


def test_auto_has_the_dtype_of_the_cpu_there_whatever_the_gpu_would_have_had(fake: Fake) -> None:
    fake.script(devices="name=NVIDIA Big,sms=132,arch=90")  # it computes nothing
    for streams, dtype, expected in ((1, "auto", "fp32"), (4, "auto", "fp32"), (4, "fp16", "fp16")):
        options = EngineOptions(dtype, gpu_streams=streams)
        [(_, engine)] = make_devices(CONFIG, TENSORS, "auto", options)
        assert (engine.device, engine.dtype) == ("cpu", expected)
