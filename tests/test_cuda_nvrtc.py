"""The compiler: one that suits device and driver is found, and says what it cannot do. It is a
stand-in, but for the last section, which compiles with NVRTC for real targets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import SOURCE, Fake, entries, origin_elsewhere, python

from wavernn_fast import _C, nvrtc
from wavernn_fast.errors import DeviceError, InputError

ROOT = Path(__file__).resolve().parents[1]

# --- the compiler ---------------------------------------------------------------------------------


def test_options_say_target_registers_macros_and_exact_rounding(fake: Fake) -> None:
    macros = {"WF_HIDDEN": "896", "WF_BLOCKS": "56"}
    fake.load(_C.CudaDevice(), defines=macros, max_registers=128)
    [line] = fake.compilations()
    assert {
        "--gpu-architecture=sm_90",
        "--maxrregcount=128",
        "--define-macro=WF_HIDDEN=896",
        "--define-macro=WF_BLOCKS=56",
        "--ptxas-options=-v",
        "--fmad=false",
        "--ftz=false",
        "--prec-div=true",
        "--prec-sqrt=true",
    } <= set(line.split())
    assert "fast" not in line


def test_a_program_that_does_not_compile_shows_the_log(fake: Fake) -> None:
    fake.monkeypatch.setenv("FAKE_NVRTC_ERROR", "probe.cu(3): error: identifier is undefined")
    with pytest.raises(
        DeviceError, match=r"(?s)NVRTC 12\.9 .* cannot compile probe\.cu for sm_90.*probe\.cu\(3\)"
    ):
        fake.load(_C.CudaDevice())
    assert entries(fake.cache) == []


def test_a_compiler_newer_than_the_driver_is_refused_before_it_compiles(fake: Fake) -> None:
    fake.install("nvrtc-13")
    fake.script(version=12040)
    with pytest.raises(
        DeviceError,
        match=r"(?s)NVRTC 13\.5 .*drivers of CUDA 13 .*for CUDA 12\.4.*wavernn-fast\[cuda\]",
    ):
        fake.load(_C.CudaDevice())
    assert fake.compilations() == []


def test_a_compiler_that_has_dropped_the_device_is_refused_with_its_oldest(fake: Fake) -> None:
    fake.install("nvrtc-13")
    fake.script(version=13000, devices="name=Tesla P100,arch=60")
    with pytest.raises(
        DeviceError, match=r"(?s)no compute capability 6\.0 any more, its oldest is 7\.5.*12\.9"
    ):
        fake.load(_C.CudaDevice())


def test_a_compiler_too_old_for_the_language_is_refused(fake: Fake) -> None:
    fake.install("nvrtc-11")
    with pytest.raises(DeviceError, match=r"is NVRTC 11\.8, needed is 12\.0"):
        fake.load(_C.CudaDevice())


def test_a_compiler_without_a_function_is_refused_not_crashed_into(fake: Fake) -> None:
    fake.install("nvrtc-poor")
    with pytest.raises(DeviceError, match="has no nvrtcGetCUBINSize, nvrtcGetCUBIN: too old"):
        fake.load(_C.CudaDevice())


def test_a_device_newer_than_the_compiler_gets_ptx_of_the_nearest_below(fake: Fake) -> None:
    fake.script(devices="name=Next,arch=123")
    device = _C.CudaDevice()
    assert fake.load(device).origin == "compiler"
    [loaded] = fake.calls("cuModuleLoadData")
    assert loaded.details.startswith("/ compute_121 by 1209")
    assert "-compute_121-" in entries(fake.cache)[0].name
    assert origin_elsewhere(f"{SOURCE}// {fake.folder} 0\n") == "cache"


def test_ptx_newer_than_the_driver_is_refused_before_it_is_made(fake: Fake) -> None:
    fake.script(devices="name=Next,arch=123", version=12040)
    with pytest.raises(DeviceError, match=r"PTX needs a driver for CUDA 12\.9, this is for 12\.4"):
        fake.load(_C.CudaDevice())
    assert fake.compilations() == []


def test_the_first_library_that_suits_is_taken(fake: Fake) -> None:
    thirteen, twelve = fake.copy("nvrtc-13"), fake.copy("nvrtc-12")
    fake.monkeypatch.delenv("WAVERNN_FAST_NVRTC")
    paths = ["/nowhere/libnvrtc.so", str(thirteen), str(twelve)]
    for version in (12040, 13010):
        fake.script(version=version)
        result = python(  # of its own: no other test has loaded a compiler there
            "from wavernn_fast import _C\n"
            f"_C.CudaDevice(nvrtc={paths}).load('probe', '// {version}')\n"
        )
        assert result.stderr == ""
    assert [line.split()[0] for line in fake.compilations()] == ["1209", "1305"]


def test_a_named_library_is_the_only_one_tried(fake: Fake) -> None:
    fake.monkeypatch.setenv("WAVERNN_FAST_NVRTC", "/nowhere/libnvrtc.so")
    device = _C.CudaDevice(nvrtc=[str(fake.copy("nvrtc-12"))])
    with pytest.raises(DeviceError) as caught:
        fake.load(device)
    assert str(caught.value).count("\n  - ") == 1
    assert "/nowhere/libnvrtc.so" in str(caught.value)


def test_a_folder_that_cannot_be_written_is_an_error_when_it_was_asked_for(fake: Fake) -> None:
    (fake.folder / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write the kernel"):
        _C.compile_kernel(
            "probe",
            SOURCE,
            "sm_90",
            nvrtc=os.environ["WAVERNN_FAST_NVRTC"],
            folder=str(fake.folder / "file" / "cubins"),
        )


# --- libraries of pip -----------------------------------------------------------------------------


def test_libraries_of_pip_are_found_without_importing_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for site, name in (
        ("a", "cu13/lib/libnvrtc.so.13"),
        ("a", "cu13/lib/libnvrtc-builtins.so.13.5"),
        ("b", "cuda_nvrtc/lib/libnvrtc.so.12"),
        ("b", "cuda_nvrtc/lib/libnvrtc.alt.so.12"),
        ("b", "cublas/lib/libcublas.so.12"),
    ):
        path = tmp_path / site / "nvidia" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "a"), str(tmp_path / "b")])
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert [Path(path).name for path in nvrtc.libraries()] == ["libnvrtc.so.12", "libnvrtc.so.13"]
    assert "nvidia" not in sys.modules
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert nvrtc.libraries() == []


def test_the_folder_of_packaged_kernels_is_named_only_if_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvrtc, "__file__", str(tmp_path / "nvrtc.py"))
    assert nvrtc.packaged_kernels() == ""
    (tmp_path / "cubins").mkdir()
    assert nvrtc.packaged_kernels() == str(tmp_path / "cubins")


# --- the compiler itself: no GPU, no driver, but real programs for real targets -------------------

REAL = r"""
#include "cuda/kernels/args.h"
#include "own/scale.h"

extern "C" __global__ void __launch_bounds__(256) mirror(wavernn_fast::gpu::KernelArgs args) {
  extern __shared__ float values[];
  const float* weights = static_cast<const float*>(args.weights);
  values[threadIdx.x] = scaled(weights[threadIdx.x]) + kOffset;
  __syncthreads();
  args.state[threadIdx.x] = values[SIZE - 1 - threadIdx.x];
}
"""


@pytest.fixture(scope="module")
def real() -> str:
    paths = [path for path in nvrtc.libraries() if path.endswith(".so.12")]
    if not paths:
        pytest.skip('NVRTC 12 is not installed: pip install "wavernn-fast[cuda]"')
    return paths[0]


def compile_real(real: str, target: str, **arguments: object) -> tuple[bytes, str]:
    headers = {
        "cuda/kernels/args.h": (ROOT / "csrc/cuda/kernels/args.h").read_text(),
        "own/scale.h": "constexpr float kOffset = 1.0f;\n"
        "inline float scaled(float x) { return x * 3.0f; }\n",
    }
    return _C.compile_kernel(
        "mirror", REAL, target, nvrtc=real, headers=headers, defines={"SIZE": "256"}, **arguments
    )  # type: ignore[call-overload]


@pytest.mark.parametrize("target", ["sm_60", "sm_70", "sm_80", "sm_90", "sm_100", "sm_120"])
def test_nvrtc_makes_a_program_and_tells_its_registers(target: str, real: str) -> None:
    image, log = compile_real(real, target)
    assert image.startswith(b"\x7fELF")
    assert b"mirror" in image
    assert re.search(r"Used \d+ registers", log)
    assert f"for '{target}'" in log


def test_products_are_not_contracted(real: str) -> None:
    source = 'extern "C" __global__ void f(float* x) { x[0] = x[1] * x[2] + x[3]; }'
    image, _ = _C.compile_kernel("f", source, "compute_90", nvrtc=real)
    assert b"mul.rn.f32" in image or b"mul.f32" in image
    assert b"fma" not in image


def test_nvrtc_makes_ptx_for_devices_to_come(real: str) -> None:
    image, _ = compile_real(real, "compute_90")
    assert b".target sm_90" in image
    assert image.endswith(b"\0")


def test_nvrtc_says_what_it_does_not_compile(real: str) -> None:
    with pytest.raises(DeviceError, match=r"(?s)wrong\.cu\(2\): error: .*nowhere_defined"):
        _C.compile_kernel("wrong", "void f() {\nnowhere_defined();\n}", "sm_90", nvrtc=real)
    with pytest.raises(DeviceError, match=r"no compute capability 3\.5 any more"):
        compile_real(real, "sm_35")


def test_a_library_that_is_loaded_already_is_taken_first(real: str, fake: Fake) -> None:
    fake.monkeypatch.delenv("WAVERNN_FAST_NVRTC")
    code = (
        "import ctypes, sys\nfrom wavernn_fast import _C\n"
        "if sys.argv[3] == 'load': ctypes.CDLL(sys.argv[1])\n"
        "source = f'extern \"C\" __global__ void probe() {{}}  // {sys.argv[3]}'\n"
        "print(_C.CudaDevice(nvrtc=[sys.argv[2]]).load('probe', source).log)\n"
    )
    logs = [
        subprocess.run(
            [sys.executable, "-c", code, real, fake.copy("nvrtc-12"), word],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for word in ("load", "leave")
    ]
    assert "Compiling entry function 'probe'" in logs[0]
    assert logs[1] == "ptxas info    : Used 200 registers\n"


def test_a_program_by_nvrtc_is_loaded_as_it_is(real: str, fake: Fake) -> None:
    """All of the path but the GPU: the real compiler, the cache, a driver that takes the image."""
    fake.monkeypatch.setenv("WAVERNN_FAST_NVRTC", real)
    fake.script(devices="name=P100,arch=60")
    source = f'extern "C" __global__ void probe() {{}}  // {fake.folder}\n'
    kernel = _C.CudaDevice().load("probe", source)
    assert kernel.origin == "compiler"
    assert "registers" in kernel.log
    kernel.launch()
    [path] = entries(fake.cache)
    assert path.name.endswith("-sm_60-nvrtc12.9.kernel")
    assert origin_elsewhere(source) == "cache"
    shutil.rmtree(fake.cache)
    assert origin_elsewhere(source) == "compiler"
