"""Kernels are found in memory, on disk, in the package, or compiled. Driver and compiler are
stand-ins."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import SOURCE, Fake, entries, load_elsewhere, origin_elsewhere, python
from quick import first_is_quick

from wavernn_fast import _C
from wavernn_fast.errors import DeviceError

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


def test_a_damaged_entry_gives_way_to_the_next_one_where_there_is_no_compiler(fake: Fake) -> None:
    source = f"{SOURCE}// {fake.folder}\n"
    fake.script(version=13000)
    assert origin_elsewhere(source) == "compiler"
    fake.install("nvrtc-13")
    assert origin_elsewhere(source) == "compiler"
    [newest] = [path for path in entries(fake.cache) if "nvrtc13.5" in path.name]
    newest.write_bytes(newest.read_bytes()[:-1])
    fake.monkeypatch.setenv("WAVERNN_FAST_NVRTC", "/nowhere")
    assert origin_elsewhere(source) == "cache"
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
    errors = process.communicate(timeout=600)[1]
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
    first_is_quick(
        ["flipped", "empty", "no line", "truncated", "log length", "other magic", "header only"]
    ),
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


def test_what_a_killed_process_left_is_not_in_the_way_of_the_next_of_its_number(fake: Fake) -> None:
    source = f"{SOURCE}// {fake.folder}\n"
    assert origin_elsewhere(source) == "compiler"
    [path] = entries(fake.cache)
    path.unlink()
    result = python(
        "import os\nfrom wavernn_fast import _C\n"
        f"open(f'{path}.part-{{os.getpid()}}-0', 'w').close()\n"
        f"_C.CudaDevice().load('probe', {source!r})\n"
    )
    assert result.stderr == ""
    assert path.is_file()
    assert origin_elsewhere(source) == "cache"


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
        output, errors = process.communicate(timeout=600)
        assert output.strip() in ("compiler", "cache"), errors
    assert len(entries(fake.cache)) == 1
    assert origin_elsewhere(source) == "cache"
