"""Kernels: found in memory, on disk, in the package, or compiled; by a compiler that suits the
device and the driver. Driver and compiler are stand-ins, but for the last section."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import SOURCE, Fake

from wavernn_fast import _C, nvrtc
from wavernn_fast.errors import DeviceError, InputError

ROOT = Path(__file__).resolve().parents[1]


def entries(folder: Path) -> list[Path]:
    """Files of a kernel folder."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def load_elsewhere(source: str, **environment: str) -> subprocess.Popen[str]:
    """Load a kernel in another process; it prints where the kernel came from."""
    code = (
        "import sys\nfrom wavernn_fast import _C\n"
        "print(_C.CudaDevice(cubins=sys.argv[2]).load('probe', sys.argv[1]).origin)\n"
    )
    cubins = environment.pop("cubins", "")
    return subprocess.Popen(
        [sys.executable, "-c", code, source, cubins],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def origin_elsewhere(source: str, **environment: str) -> str:
    """Where a process of its own gets a kernel from."""
    process = load_elsewhere(source, **environment)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output.strip()


# --- the order: memory, cache, package, compiler --------------------------------------------------


def test_a_kernel_is_compiled_once_and_found_in_memory_then_on_disk(fake: Fake) -> None:
    device = _C.CudaDevice()
    first, second = fake.load(device), fake.load(_C.CudaDevice())
    assert (first.origin, second.origin) == ("compiler", "memory")
    assert "200 registers" in first.log
    assert first.log == second.log
    assert len(fake.compilations()) == 1
    source = f"{SOURCE}// {fake.folder} 0\n"
    assert origin_elsewhere(source) == "cache"
    assert len(fake.compilations()) == 1
    images = {call.details for call in fake.calls("cuModuleLoadData")}
    assert len(images) == 1  # all three loads had the same bytes
    assert images.pop().startswith("ELF sm_90 by 1209")


def test_every_part_of_a_kernel_makes_another_one(fake: Fake) -> None:
    device = _C.CudaDevice()
    variants: list[dict[str, object]] = [
        {},
        {"headers": {"a.h": "int a;"}},
        {"headers": {"b.h": "int a;"}},
        {"headers": {"a.h": "int b;"}},
        {"defines": {"SIZE": "1"}},
        {"defines": {"SIZE": "2"}},
        {"defines": {"SIZE": "1", "MORE": "1"}},
        {"max_registers": 128},
    ]
    for arguments in variants:
        assert fake.load(device, **arguments).origin == "compiler", arguments
        assert fake.load(device, **arguments).origin == "memory"
    assert fake.load(device, blocks=7, threads=64).origin == "memory"  # of the launch, not of it
    assert len(entries(fake.cache)) == len(variants)


def test_devices_of_two_kinds_get_two_kernels(fake: Fake) -> None:
    fake.script(devices="name=New,arch=90;name=Old,arch=60")
    for ordinal in (0, 1, 0, 1):
        fake.load(_C.CudaDevice(ordinal))
    assert [line.rpartition("=")[2] for line in fake.compilations()] == ["sm_90", "sm_60"]
    assert [path.name.partition("-")[2] for path in entries(fake.cache)] == [
        "sm_60-nvrtc12.9.kernel",
        "sm_90-nvrtc12.9.kernel",
    ]


def test_another_compiler_compiles_anew(fake: Fake) -> None:
    source = f"{SOURCE}// {fake.folder}\n"
    fake.script(version=13000)
    assert origin_elsewhere(source) == "compiler"
    fake.install("nvrtc-13")
    assert origin_elsewhere(source) == "compiler"
    assert origin_elsewhere(source) == "cache"
    names = {path.name.partition("-")[2] for path in entries(fake.cache)}
    assert names == {"sm_90-nvrtc12.9.kernel", "sm_90-nvrtc13.5.kernel"}


def test_without_a_compiler_the_cache_still_serves_what_the_driver_can_take(fake: Fake) -> None:
    source = f"{SOURCE}// {fake.folder}\n"
    fake.script(version=13000)
    assert origin_elsewhere(source) == "compiler"
    fake.install("nvrtc-13")
    assert origin_elsewhere(source) == "compiler"
    fake.monkeypatch.setenv("WAVERNN_FAST_NVRTC", "/nowhere")
    assert origin_elsewhere(source) == "cache"
    assert fake.calls("cuModuleLoadData")[-1].details.startswith("ELF sm_90 by 1305")
    assert origin_elsewhere(source, FAKE_CUDA_VERSION="12040") == "cache"
    assert fake.calls("cuModuleLoadData")[-1].details.startswith("ELF sm_90 by 1209")


def test_the_package_serves_where_there_is_neither_cache_nor_compiler(fake: Fake) -> None:
    source, cubins = f"{SOURCE}// {fake.folder}\n", fake.folder / "cubins"
    image, log = _C.compile_kernel(
        "probe", source, "sm_90", nvrtc=os.environ["WAVERNN_FAST_NVRTC"], folder=str(cubins)
    )
    assert image.startswith(b"\x7fELF sm_90")
    assert "200 registers" in log
    assert len(entries(cubins)) == 1
    fake.monkeypatch.setenv("WAVERNN_FAST_NVRTC", "/nowhere")
    assert origin_elsewhere(source, cubins=str(cubins)) == "package"
    process = load_elsewhere(source, cubins=str(cubins), FAKE_CUDA_DEVICES="name=Other,arch=86")
    errors = process.communicate(timeout=120)[1]
    assert "no NVRTC that can compile kernels for this GPU" in errors
    assert 'pip install "wavernn-fast[cuda]"' in errors


def test_what_the_driver_refuses_is_compiled_anew(fake: Fake) -> None:
    source = f"{SOURCE}// {fake.folder}\n"
    assert origin_elsewhere(source) == "compiler"
    for code in (200, 209, 218, 222):
        fake.script(fail=f"cuModuleLoadData@1={code}")
        assert origin_elsewhere(source) == "compiler"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (209, r"(?s)NO_BINARY_FOR_GPU \(209\).*another GPU.*wavernn-fast\[cuda\]"),
        (222, r"(?s)\(222\).*driver for CUDA 12\.9.*update the driver, or pip install"),
        (200, r"(?s)\(200\).*damaged: empty the kernel cache"),
    ],
)
def test_a_kernel_that_the_driver_never_takes_is_explained(
    code: int, sentence: str, fake: Fake
) -> None:
    fake.script(fail=f"cuModuleLoadData@*={code}")
    with pytest.raises(DeviceError, match=sentence):
        fake.load(_C.CudaDevice())
    assert entries(fake.cache) == []  # such a kernel is not kept


def test_an_image_refused_when_its_function_is_asked_for_is_compiled_anew(fake: Fake) -> None:
    source = f"{SOURCE}// {fake.folder}\n"
    assert origin_elsewhere(source) == "compiler"
    fake.script(fail="cuModuleGetFunction@1=209")
    assert origin_elsewhere(source) == "compiler"
    counts = fake.counts()
    assert counts["cuModuleLoadData"] == counts["cuModuleUnload"] == 3


def test_a_refused_kernel_and_no_compiler_are_told_together(fake: Fake) -> None:
    source = f"{SOURCE}// {fake.folder}\n"
    assert origin_elsewhere(source) == "compiler"
    fake.monkeypatch.setenv("WAVERNN_FAST_NVRTC", "/nowhere")
    fake.script(fail="cuModuleLoadData@1=209")
    device = _C.CudaDevice()
    with pytest.raises(DeviceError, match=r"(?s)209.*did not help: there is no NVRTC.*/nowhere"):
        device.load("probe", source)


# --- the cache ------------------------------------------------------------------------------------


def damage(content: bytes, kind: str) -> bytes:
    """One way in which a file breaks."""
    return {
        "empty": b"",
        "no line": content[:20],
        "truncated": content[:-1],
        "flipped": content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        "log length": content.replace(b" 34\n", b" 99999999999\n", 1),
        "other magic": b"x" + content[1:],
        "header only": content[: content.index(b"\n") + 1],
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["empty", "no line", "truncated", "flipped", "log length", "other magic", "header only"],
)
def test_a_damaged_entry_is_made_anew(kind: str, fake: Fake) -> None:
    source = f"{SOURCE}// {fake.folder}\n"
    assert origin_elsewhere(source) == "compiler"
    [path] = entries(fake.cache)
    whole = path.read_bytes()
    path.write_bytes(damage(whole, kind))
    assert path.read_bytes() != whole
    assert origin_elsewhere(source) == "compiler"
    assert path.read_bytes() == whole
    assert origin_elsewhere(source) == "cache"


def test_an_entry_states_the_hash_of_its_content(fake: Fake) -> None:
    fake.load(_C.CudaDevice())
    [path] = entries(fake.cache)
    head, _, rest = path.read_bytes().partition(b"\n")
    *_, digest, log_bytes = head.decode().split()
    assert digest == hashlib.sha256(rest).hexdigest()
    assert rest[int(log_bytes) :].startswith(b"\x7fELF")


def test_the_hash_is_sha256_at_every_padding(fake: Fake) -> None:
    device, sizes = _C.CudaDevice(), set()
    for size in range(140):
        fake.monkeypatch.setenv("FAKE_NVRTC_LOG", "x" * size)
        fake.load(device, size)
    for path in entries(fake.cache):
        head, _, rest = path.read_bytes().partition(b"\n")
        assert head.split()[3].decode() == hashlib.sha256(rest).hexdigest()
        sizes.add(len(rest) % 64)
    assert sizes == set(range(64))


def test_a_cache_that_cannot_be_written_is_no_error(fake: Fake) -> None:
    (fake.folder / "file").write_text("in the way")
    fake.monkeypatch.setenv("WAVERNN_FAST_CACHE", str(fake.folder / "file" / "cache"))
    assert fake.load(_C.CudaDevice()).origin == "compiler"
    assert fake.load(_C.CudaDevice()).origin == "memory"


def test_a_full_disk_leaves_no_half_entry(fake: Fake) -> None:
    code = (
        "import resource\nfrom wavernn_fast import _C\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "device = _C.CudaDevice()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))\n"
        "print(device.load('probe', '// full disk').origin)\n"
    )
    fake.monkeypatch.delenv("FAKE_CUDA_CALLS")
    fake.monkeypatch.delenv("FAKE_NVRTC_CALLS")
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "compiler\n"
    assert entries(fake.cache) == []


def test_the_folder_is_where_the_desktop_rules_say(fake: Fake, tmp_path: Path) -> None:
    fake.monkeypatch.delenv("WAVERNN_FAST_CACHE")
    fake.monkeypatch.setenv("HOME", str(tmp_path / "home"))
    fake.monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    device = _C.CudaDevice()
    fake.load(device, 1)
    assert len(entries(tmp_path / "xdg" / "wavernn_fast")) == 1
    fake.monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/invalid")
    fake.load(device, 2)
    assert len(entries(tmp_path / "home" / ".cache" / "wavernn_fast")) == 1
    fake.monkeypatch.delenv("XDG_CACHE_HOME")
    fake.monkeypatch.delenv("HOME")
    assert fake.load(device, 3).origin == "compiler"


def test_processes_at_once_leave_one_whole_entry(fake: Fake) -> None:
    source = f"{SOURCE}// {fake.folder}\n"
    processes = [load_elsewhere(source) for _ in range(4)]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert output.strip() in ("compiler", "cache"), errors
    assert len(entries(fake.cache)) == 1
    assert origin_elsewhere(source) == "cache"


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
    fake.script(version=12040)
    fake.load(_C.CudaDevice(nvrtc=paths), 1)
    fake.script(version=13010)
    fake.install("cuda")
    fake.load(_C.CudaDevice(nvrtc=paths), 2)
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
