"""Other ways to sample the same models: what the engine is compared with.

A baseline is the fastest honest form of one way to run a model: a loop in numpy, PyTorch's modules
as the original projects call them, PyTorch without autograd and with everything made ahead, the
same compiled or captured, ONNX Runtime. Each is checked against the readable engine before it is
timed (`wavernn_fast.bench`), and against the float64 reference in the tests.
"""

from typing import Any

from ..errors import InputError
from .base import Baseline, Made, Tensors
from .cuda_graph import CudaGraph, CudaGraphCompiled
from .numpy_loop import CupyLoop, NumpyLoop
from .onnx_loops import OnnxScan, OnnxStep
from .torch_eager import TorchEager
from .torch_loops import TorchCompile, TorchInference, TorchScript
from .wavenet_all import WAVENETS

# name -> class, in the order of tables
BASELINES: dict[str, type[Baseline]] = {
    baseline.name: baseline
    for baseline in (
        NumpyLoop,
        TorchEager,
        TorchInference,
        TorchScript,
        TorchCompile,
        OnnxStep,
        OnnxScan,
        CudaGraph,
        CudaGraphCompiled,
        CupyLoop,
    )
}
BASELINES |= WAVENETS


def make(
    name: str,
    config: Any,
    tensors: Tensors,
    *,
    streams: int = 1,
    threads: int = 1,
    device: str = "cpu",
) -> Baseline:
    """Build a baseline with its weights resident.

    Parameters
    ----------
    name : str
        A key of `BASELINES`.
    config, tensors, streams, threads, device : see `Baseline`

    Raises
    ------
    InputError
        If there is no baseline of that name, or it does not run this model or on this device.
    MissingDependencyError
        If a package it needs is not installed.
    """
    if name not in BASELINES:
        raise InputError(f"There is no baseline {name!r}; there are {', '.join(BASELINES)}.")
    return BASELINES[name](config, tensors, streams=streams, threads=threads, device=device)


__all__ = ["BASELINES", "Baseline", "Made", "make"]
