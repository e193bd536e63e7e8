"""Fixtures that several files of tests share."""

from __future__ import annotations

import compileall
import gc
import os
import signal
from collections.abc import Generator
from pathlib import Path

import few_threads  # noqa: F401 (what it sets is read when numpy is loaded)
import pytest
from fakes import Fake, build
from hypothesis import settings

# Examples are the same in every run: what a tolerance was measured on is what it is asked of, and
# a red run is red again. WF_SEARCH=1 looks for new ones at random. Nothing is timed: a busy machine
# would make a test red.
settings.register_profile("repeat", derandomize=True, deadline=None)
settings.register_profile("search", derandomize=False, print_blob=True, deadline=None)
settings.load_profile("search" if os.environ.get("WF_SEARCH") else "repeat")

# Files are given out whole to processes side by side, which end together if the longest begin.
LONGEST = (
    *("test_full_size", "test_cross_isa", "test_emulation_sanitized", "test_sparse_compile"),
    *("test_cli_train", "test_real", "test_job_ray", "test_engine", "test_residual_compile"),
    *("test_many_compile", "test_baselines", "test_gpu_compile", "test_kernels", "test_gpu_check"),
    *("test_many_slots", "test_instructions", "test_service_page", "test_job_child"),
    *("test_many_emulation", "test_emulation"),
)
PACKAGE = Path(__file__).resolve().parents[1] / "wavernn_fast"


def pytest_configure(config: pytest.Config) -> None:
    """Keep that order: pytest-xdist, where it is there, would put files of many tests first.

    Compile the package, once for all processes. Tests start hundreds of programs; where the
    environment keeps no bytecode, as in many containers, a third of what each takes would go into
    compiling it again.

    Let those programs be interrupted: a shell without job control starts what it runs in the
    background with Ctrl-C ignored, and every program inherits that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.option.loadscopereorder = False
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(PACKAGE, quiet=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; the order within a file stays."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while tests are collected, and leave them and what they import out of the
    collections to come.

    Looking through it all takes a third of a second, which hundreds of tests that collect would
    spend each.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def fake_libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stand-ins for libcuda and libnvrtc, compiled once."""
    return build(tmp_path_factory.mktemp("fakes"))


@pytest.fixture
def fake(fake_libraries: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """One fake GPU and compiler, scripted by the test."""
    gc.collect()  # what tracebacks of earlier tests hold would be given back in this one's record
    return Fake(fake_libraries, tmp_path, monkeypatch)
