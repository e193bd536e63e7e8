"""Where a training process runs: its device, its arithmetic, its fellows under torchrun."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DeviceError, InputError
from .settings import Precision

_GROUP = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # that torchrun sets beside WORLD_SIZE
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


@dataclass(frozen=True)
class Processes:
    """One process of `world` that share the batch; rank 0 writes files."""

    rank: int
    world: int
    device: torch.device

    def mean_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its mean over all processes: one message for all of them."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.world
        parts = torch.split(flat, [g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a small tensor over all processes."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
            values /= self.world
        return values

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of rank 0: what was measured apart may differ in rounding."""
        if self.world > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            torch.distributed.barrier()

    def close(self) -> None:
        """Leave the group."""
        if self.world > 1:
            torch.distributed.destroy_process_group()


def start(device: str, threads: int | None) -> Processes:
    """Choose the device and join the group that torchrun announces (RANK, WORLD_SIZE).

    Parameters
    ----------
    device : "auto", "cpu" or "cuda"
        auto takes a GPU where PyTorch finds one; each process its own.
    threads : int, optional
        CPU threads of this process; PyTorch's choice by default.

    Raises
    ------
    InputError
        If there is no such device, or WORLD_SIZE is set without what belongs to it.
    DeviceError
        If "cuda" is asked for and PyTorch finds none, or there are fewer GPUs than processes.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"Training runs on auto, cpu or cuda, not on {device!r}.")
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and not gpus:
        raise DeviceError("PyTorch finds no CUDA device here; use --device cpu, or auto.")
    if gpus and device != "cpu" and local >= gpus:
        raise DeviceError(f"Process {local} has no GPU of its own: this machine has {gpus}.")
    use_gpu = bool(gpus) and device != "cpu"
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = torch.device("cuda", local) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(chosen)
    else:
        _keep_memory()
    if world > 1 and not torch.distributed.is_initialized():
        _check_group(world)
        torch.distributed.init_process_group("nccl" if use_gpu else "gloo")
    return Processes(rank, world, chosen)


def _check_group(world: int) -> None:
    missing = [name for name in _GROUP if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {world}, but {' and '.join(missing)} are missing beside it, so the "
            "processes cannot find each other. Start them by torchrun, or unset WORLD_SIZE to "
            "train in one."
        )


def _keep_memory() -> None:
    """Let the C library keep freed memory instead of returning it to the system.

    A step of training frees and asks for about a gigabyte. Given back, its pages must be mapped
    and cleared again every time, which took 40 % of the time of a step.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def low_precision(precision: Precision, device: torch.device) -> bool:
    """Whether to multiply in bfloat16: as asked, or where the hardware has units for it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    probe: Any = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe and probe())


def autocast(low: bool, device: torch.device) -> AbstractContextManager[Any]:
    """Context in which large products run in bfloat16, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if low else nullcontext()
