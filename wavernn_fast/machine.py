"""What figures were measured on: processor, cores, versions, the moment and its load."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from typing import Any

import numpy as np

_VARIABLES = ("WAVERNN_FAST_ISA", "WAVERNN_FAST_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def machine() -> dict[str, Any]:
    """Collect the facts that belong beside a measurement.

    Returns
    -------
    dict
        JSON-ready; `date` is UTC, `load_average` that of the last minute.
    """
    from . import __version__

    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "cpus_allowed": allowed_cpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": _version_of("torch"),
        "onnxruntime": _version_of("onnxruntime"),
        "wavernn_fast": __version__,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def allowed_cpus() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Model of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
