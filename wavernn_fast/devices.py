"""Which device runs, and the engine on it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import arrays
from .config import ModelConfig
from .errors import DeviceError, InputError

if TYPE_CHECKING:
    from . import _C

logger = logging.getLogger("wavernn_fast")

DTYPES = ("auto", "fp32", "fp16", "bf16", "int8", "int8-fast")


def resolve_device(device: str) -> str:
    """Name the device that will run.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "emu"}
        "auto" never fails; why it is not a GPU is logged at level INFO.

    Raises
    ------
    DeviceError
        If the device is not available, saying what is.
    InputError
        If there is no such device.
    """
    if device == "cpu":
        return device
    if device == "auto":
        logger.info("Running on the CPU: this build has no CUDA engine.")
        return "cpu"
    if device in ("cuda", "emu"):
        raise DeviceError(
            f"Device {device!r} is not available: this build runs on 'cpu' only. "
            "Use device='cpu' or 'auto'; `wavernn-fast doctor` reports what this machine has."
        )
    raise InputError(f"There is no device {device!r}; choose auto, cpu, cuda or emu.")


def make_engine(
    config: ModelConfig,
    tensors: Mapping[str, NDArray[np.float32]],
    device: str,
    dtype: str,
    cpu_threads: int | None,
) -> _C.Engine:
    """Make the compiled engine with resident weights; see `Vocoder` for the arguments.

    Raises
    ------
    DeviceError
        If device, instruction set or compiled extension is not available, or memory is short.
    InputError
        If an argument has no meaning.
    """
    device = resolve_device(device)
    if dtype not in DTYPES:
        raise InputError(f"There is no dtype {dtype!r}; choose {', '.join(DTYPES)}.")
    try:
        from . import _C
    except ImportError as error:
        raise DeviceError(
            f"The compiled engine cannot be imported ({error}). Install the package with "
            "`pip install .`; `wavernn-fast doctor` reports what this machine has."
        ) from error
    threads = 0 if cpu_threads is None else arrays.to_count(cpu_threads, "cpu_threads", 1)
    try:
        return _C.Engine(
            dataclasses.asdict(config),
            tensors,
            device=device,
            dtype=dtype,
            threads=threads or _C.available_threads(),
            isa="auto",
        )
    except MemoryError as error:
        raise DeviceError(f"There is not enough memory for this model ({error}).") from error
