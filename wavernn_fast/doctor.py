"""Facts about this machine and installation, and a test of the engine, for support cases."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import sys
import time
from importlib import metadata
from typing import Any

import numpy as np

from . import nvrtc
from .devices import default_threads, device_problem
from .errors import DeviceError, WaveRNNError
from .machine import allowed_cpus

# package -> (what it is for, what installs it); "" is part of the package itself
_EXTRAS = {
    "numpy": ("arrays", ""),
    "safetensors": ("model files", ""),
    "soundfile": ("audio files", ""),
    "click": ("the command line", ""),
    "tqdm": ("progress bars", ""),
    "torch": ("PyTorch checkpoints, verify, bench baseline", "torch"),
    "soxr": ("resampling", "audio"),
    "pystoi": ("intelligibility in eval", "eval"),
    "matplotlib": ("pictures", "plot"),
    "fastapi": ("the service", "serve"),
    "uvicorn": ("the service", "serve"),
    "websockets": ("the service", "serve"),
    "prometheus_client": ("the service", "serve"),
    "ray": ("jobs on a cluster", "ray"),
}
_VARIABLES = (
    "WAVERNN_FAST_ISA",
    "WAVERNN_FAST_THREADS",
    "WAVERNN_FAST_LOG",
    "WAVERNN_FAST_LIBCUDA",
    "WAVERNN_FAST_NVRTC",
    "WAVERNN_FAST_CACHE",
    "WAVERNN_FAST_GPU_CHECK",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
)


def examine() -> dict[str, Any]:
    """Collect everything; nothing here raises.

    Returns
    -------
    dict
        JSON-ready: versions, CPU and threads, packages, devices, `self_test` and `ok`.
    """
    facts: dict[str, Any] = {
        "wavernn_fast": _own_version(),
        "python": platform.python_version(),
        "python_path": sys.executable,
        "platform": platform.platform(),
        "numpy": np.__version__,
        "cpus_allowed": allowed_cpus(),
        "cgroup_cpus": cgroup_cpus(),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "packages": {name: _package(name) for name in _EXTRAS},
        "devices": {"cpu": "available", "cuda": _state("cuda"), "emu": _state("emu")},
        "gpus": gpus(),
        "nvrtc": nvrtc.libraries(),
    }
    facts.update(_engine_facts())
    facts["self_test"] = self_test()
    facts["ok"] = facts["self_test"]["passed"]
    if not facts["ok"]:
        facts["devices"]["cpu"] = "not working: see the self-test"
    return facts


def gpus() -> list[dict[str, Any]]:
    """Facts of every visible NVIDIA GPU; empty where there is none."""
    try:
        from . import _C

        return _C.cuda_devices()
    except (ImportError, AttributeError, DeviceError):  # `self_test` says what of `_C` is missing
        return []


def self_test() -> dict[str, Any]:
    """Run a tiny random model: whole, in slices and on another thread count; all must agree."""
    from .synthetic import random_mel, random_model
    from .vocoder import Vocoder

    started = time.perf_counter()
    try:
        default_threads()  # what nobody could use fails here, with a reason
        config, tensors = random_model("residual:32")
        mel = random_mel(config, 3)
        first = Vocoder(config, tensors, device="cpu", cpu_threads=1)
        whole = first.generate(mel, seed=1)
        pieces = np.concatenate(list(first.stream(mel, seed=1, chunk_frames=1)))
        threads = min(2, allowed_cpus())
        second = Vocoder(config, tensors, device="cpu", cpu_threads=threads)
        other = second.generate(mel, seed=1)
    except WaveRNNError as error:
        return {"passed": False, "reason": str(error)}
    except Exception as error:  # an extension of another version can fail in any way
        return {"passed": False, "reason": f"{type(error).__name__}: {error}"}
    problems = []
    if len(whole) != config.n_samples(3) or not np.isfinite(whole).all():
        problems.append("the samples are not usable")
    if not np.array_equal(whole, pieces):
        problems.append("streamed samples differ from the whole")
    if not np.array_equal(whole, other):
        problems.append(f"{threads} threads give other samples than one")
    return {
        "passed": not problems,
        "reason": "; ".join(problems),
        "samples": len(whole),
        "seconds": round(time.perf_counter() - started, 4),
    }


def cgroup_cpus(
    root: str | os.PathLike[str] = "/sys/fs/cgroup",
    own: str | os.PathLike[str] = "/proc/self/cgroup",
) -> float | None:
    """Processors that the quota allows which the engine goes by; None if there is none."""
    try:
        from . import _C

        return _C.cpu_quota(os.fspath(root), os.fspath(own)) or None
    except (ImportError, AttributeError):  # `self_test` says what of `_C` is missing
        return None


def _state(device: str) -> str:
    try:
        reason = device_problem(device)
    except AttributeError as error:
        reason = f"the extension is of another version ({error})"
    return f"not available: {reason}" if reason else "available"


def _own_version() -> str:
    from . import __version__

    return __version__


def _package(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        purpose, extra = _EXTRAS[name]
        wanted = f'pip install "wavernn-fast[{extra}]"' if extra else f"pip install {name}"
        return f"missing ({purpose}): {wanted}"
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "found, version unknown"


def _engine_facts() -> dict[str, Any]:
    try:
        from . import _C
    except ImportError as error:
        return {"engine": f"missing ({error}): pip install .", "isas": [], "threads": 0}
    threads = 0
    with contextlib.suppress(WaveRNNError):  # `self_test` says why
        threads = default_threads()
    try:
        isas = list(_C.available_isas())
    except AttributeError:
        return {
            "engine": "found, of another version: pip install .",
            "isas": [],
            "threads": threads,
        }
    return {"engine": "found", "isas": isas, "threads": threads}
