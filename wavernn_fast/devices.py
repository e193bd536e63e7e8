"""Which device runs, and the engine on it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import arrays, nvrtc, selfcheck
from .config import ModelConfig
from .errors import DeviceError, InputError

if TYPE_CHECKING:
    from . import _C

logger = logging.getLogger("wavernn_fast")

DEVICES = ("auto", "cpu", "cuda", "emu")
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
        If the device is not available, saying why and what is.
    InputError
        If there is no such device.
    """
    if device not in DEVICES:
        raise InputError(f"There is no device {device!r}; choose {', '.join(DEVICES)}.")
    if device == "cpu":
        return device
    if device == "auto":
        reason = device_problem("cuda")
        if reason:
            logger.info("Running on the CPU, not on a GPU: %s.", reason)
        return "cpu" if reason else "cuda"
    reason = device_problem(device)
    if reason:
        raise DeviceError(
            f"Device {device!r} is not available: {reason}. Use device='cpu' or 'auto'; "
            "`wavernn-fast doctor` reports what this machine has."
        )
    return device


def device_problem(device: str) -> str:
    """Why a device other than the CPU cannot run, without a full stop; empty if it can."""
    try:
        from . import _C
    except ImportError as error:
        return f"the compiled engine cannot be imported ({error})"
    if device == "cuda":
        try:
            gpus = _C.cuda_devices()
        except DeviceError as error:
            return str(error)
        if gpus[0]["problem"]:
            return f"GPU 0, {gpus[0]['name']}: {gpus[0]['problem']}"
    if device not in _C.available_devices():
        return f"this build has no {'CUDA engine' if device == 'cuda' else 'emulator'}"
    return ""


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
        If device, instruction set or compiled extension is not available, memory is short, or a
        GPU does not compute what the CPU does (`selfcheck`).
    InputError
        If an argument has no meaning.
    """
    chosen = resolve_device(device)
    if dtype not in DTYPES:
        raise InputError(f"There is no dtype {dtype!r}; choose {', '.join(DTYPES)}.")
    threads = None if cpu_threads is None else arrays.to_count(cpu_threads, "cpu_threads", 1)
    try:
        engine = _construct(config, tensors, chosen, dtype, threads)
    except (DeviceError, InputError) as error:  # what is wrong with the model, the CPU says again
        if device != "auto" or chosen == "cpu":
            raise
        logger.info("Running on the CPU, not on a GPU: %s", error)
        return _construct(config, tensors, "cpu", dtype, threads)
    if chosen != "cuda":
        return engine
    twin = _construct(config, tensors, "cpu", engine.dtype, threads)
    wrong = selfcheck.problem(engine, twin, config)
    if not wrong:
        return engine
    sentence = f"The kernel on {engine.isa} was compared with the CPU before use, and {wrong}."
    if device != "auto":
        raise DeviceError(f"{sentence} Use device='cpu', and please report it with {engine.isa}.")
    logger.warning("%s Running on the CPU.", sentence)
    return twin


def _emulated_blocks(config: ModelConfig, dtype: str) -> int:
    """Few blocks that hold a model, 0 if none of those tried do.

    Every thread of the emulator takes its time, and its bits do not depend on the blocks.
    """
    from . import _C

    for blocks in (1, 2, 4, 8, 16, 32):
        try:
            _C.gpu_plan(
                dataclasses.asdict(config),
                dtype="fp32" if dtype == "auto" else dtype,
                blocks=blocks,
            )
        except (DeviceError, InputError):
            continue
        return blocks
    return 0


def _construct(
    config: ModelConfig,
    tensors: Mapping[str, NDArray[np.float32]],
    device: str,
    dtype: str,
    threads: int | None,
) -> _C.Engine:
    try:
        from . import _C
    except ImportError as error:
        raise DeviceError(
            f"The compiled engine cannot be imported ({error}). Install the package with "
            "`pip install .`; `wavernn-fast doctor` reports what this machine has."
        ) from error
    try:
        engine = _C.Engine(
            dataclasses.asdict(config),
            tensors,
            device=device,
            dtype=dtype,
            threads=threads or _C.available_threads(),
            isa="auto",
            blocks=_emulated_blocks(config, dtype) if device == "emu" else 0,
            exact=device == "emu",  # bits that any device repeats, or a GPU's own fast functions
            nvrtc=nvrtc.libraries() if device == "cuda" else (),
            cubins=nvrtc.packaged_kernels(),
        )
    except MemoryError as error:
        raise DeviceError(f"There is not enough memory for this model ({error}).") from error
    if engine.sparse:
        logger.info("Zeros of these weights are skipped: %s.", engine.sparse)
    return engine
