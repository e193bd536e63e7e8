"""The compiled engine. Nothing here checks music or mels: the package above does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__version__: str

class Stream:
    """One utterance in flight: GRU state, last output, step counter, generator key."""

    @property
    def step(self) -> int: ...
    def copy(self) -> Stream: ...

class _OnDevice(Protocol):
    """float32 [n, channels], C-contiguous, in memory that the engine's device reads."""

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]: ...

class Engine:
    """Resident weights plus the sampling loop on one device."""

    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, NDArray[np.float32]],
        *,
        device: str = ...,
        dtype: str = ...,
        threads: int = ...,
        isa: str = ...,
        sparse: str = ...,
        gpu: str = ...,
        exchanges: int = ...,
        blocks: int = ...,
        warps: int = ...,
        cluster: int = ...,
        streams: int = ...,
        split: bool = ...,
        exact: bool = ...,
        clocks: bool = ...,
        ordinal: int = ...,
        stream: int | None = ...,
        nvrtc: Sequence[str] = ...,
        cubins: str = ...,
    ) -> None: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def lanes(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def macs_per_step(self) -> int: ...
    @property
    def interp_size(self) -> int: ...
    @property
    def hold_size(self) -> int: ...
    @property
    def hold_bias(self) -> NDArray[np.float32]: ...
    @property
    def logits_size(self) -> int: ...
    @property
    def draws_per_step(self) -> int: ...
    @property
    def sparse(self) -> str: ...
    @property
    def compiled(self) -> bool: ...
    def describe(self) -> str: ...
    def stage_ticks(self) -> list[tuple[str, int]]: ...
    def counts(self) -> list[tuple[str, int]]: ...
    def open(
        self,
        seed: int,
        *,
        item: int = ...,
        fold: int = ...,
        start: int = ...,
        temperature: float = ...,
        greedy: bool = ...,
    ) -> Stream: ...
    def run(
        self,
        streams: Sequence[Stream],
        n_steps: Sequence[int],
        interp: Sequence[NDArray[np.float32] | _OnDevice | None],
        hold: Sequence[NDArray[np.float32] | _OnDevice | None],
        *,
        uniforms: Sequence[NDArray[np.float64] | None] | None = ...,
        forced: Sequence[NDArray[np.int32] | NDArray[np.float32] | None] | None = ...,
        return_logits: bool = ...,
        lanes: int = ...,
        interrupt: Callable[[], None] | None = ...,
    ) -> list[tuple[NDArray[np.int32] | NDArray[np.float32], NDArray[np.float32] | None]]: ...

class CudaKernel:
    """A kernel loaded on one device."""

    @property
    def origin(self) -> str: ...
    @property
    def log(self) -> str: ...
    def launch(
        self,
        *,
        weights: int = ...,
        state: int = ...,
        labels: int = ...,
        status: int = ...,
        seed: int = ...,
        steps: int = ...,
    ) -> None: ...

class CudaDevice:
    """Memory and kernels of one NVIDIA GPU, for doctor and tests."""

    def __init__(
        self,
        ordinal: int = ...,
        *,
        stream: int | None = ...,
        nvrtc: Sequence[str] = ...,
        cubins: str = ...,
    ) -> None: ...
    @property
    def limits(self) -> dict[str, Any]: ...
    def allocate(self, bytes: int) -> int: ...
    def release(self, address: int) -> None: ...
    def upload(self, to: int, data: bytes) -> None: ...
    def download(self, address: int, bytes: int) -> bytes: ...
    def zero(self, address: int, bytes: int) -> None: ...
    def load(
        self,
        name: str,
        source: str,
        *,
        headers: Mapping[str, str] = ...,
        defines: Mapping[str, str] = ...,
        max_registers: int = ...,
        blocks: int = ...,
        threads: int = ...,
        shared_bytes: int = ...,
        cluster: int = ...,
    ) -> CudaKernel: ...

def cuda_devices() -> list[dict[str, Any]]: ...
def compile_kernel(
    name: str,
    source: str,
    target: str,
    *,
    nvrtc: str,
    headers: Mapping[str, str] = ...,
    defines: Mapping[str, str] = ...,
    max_registers: int = ...,
    folder: str = ...,
) -> tuple[bytes, str]: ...
def unpack_plan(
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[np.float32]],
    *,
    dtype: str = ...,
    threads: int = ...,
    sparse: str = ...,
) -> dict[str, NDArray[np.float32]]: ...
def known_gpus() -> list[str]: ...
def known_gpu(name: str) -> dict[str, Any]: ...
def gpu_plan(
    config: Mapping[str, Any],
    *,
    gpu: str = ...,
    dtype: str = ...,
    exchanges: int = ...,
    blocks: int = ...,
    warps: int = ...,
    cluster: int = ...,
    exact: bool = ...,
    clocks: bool = ...,
    full: bool = ...,
) -> dict[str, Any]: ...
def compile_plan(
    config: Mapping[str, Any],
    target: str,
    *,
    nvrtc: str,
    gpu: str = ...,
    dtype: str = ...,
    exact: bool = ...,
    full: bool = ...,
    folder: str = ...,
) -> tuple[bytes, str]: ...
def unpack_gpu_plan(
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[np.float32]],
    *,
    gpu: str = ...,
    dtype: str = ...,
    exchanges: int = ...,
    blocks: int = ...,
    warps: int = ...,
    cluster: int = ...,
) -> dict[str, NDArray[np.float32]]: ...
def sparse_plan(
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[np.float32]],
    *,
    gpu: str = ...,
    dtype: str = ...,
    warps: int = ...,
    cluster: int = ...,
    exact: bool = ...,
    many: bool = ...,
    tile: str = ...,
    full: bool = ...,
) -> dict[str, Any]: ...
def unpack_sparse_plan(
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[np.float32]],
    *,
    gpu: str = ...,
    dtype: str = ...,
    warps: int = ...,
    cluster: int = ...,
    tile: str = ...,
) -> dict[str, NDArray[np.float32]]: ...
def many_plan(
    config: Mapping[str, Any],
    *,
    gpu: str = ...,
    streams: int = ...,
    split: bool = ...,
    blocks: int = ...,
    warps: int = ...,
    cluster: int = ...,
    exact: bool = ...,
    full: bool = ...,
) -> dict[str, Any]: ...
def fill_slots(lengths: Sequence[int], slots: int, steps: int) -> list[list[tuple[int, int]]]: ...
def unpack_many_plan(
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[np.float32]],
    *,
    gpu: str = ...,
    blocks: int = ...,
    warps: int = ...,
    cluster: int = ...,
) -> dict[str, NDArray[np.float32]]: ...
def kernel_sources() -> list[tuple[str, str]]: ...
def available_isas() -> list[str]: ...
def available_devices() -> list[str]: ...

class TeamChoice:
    def __init__(self, threads: int) -> None: ...
    @property
    def members(self) -> int: ...
    def record(self, lanes: int, seconds_per_step: float, held_up: bool = ...) -> None: ...

class Shares:
    def __init__(self, members: int) -> None: ...
    def open(self, member: int, count: int) -> None: ...
    def next(self, member: int) -> int: ...
    def last(self, other: int) -> int: ...

def cpu_quota(cgroup_root: str = ..., own: str = ...) -> float: ...
def available_threads(cgroup_root: str = ..., own: str = ...) -> int: ...
def philox(seed: int, step: int, item: int = ..., fold: int = ...) -> tuple[int, int, int, int]: ...
def draw_real(
    head: str,
    outputs: NDArray[np.float32],
    words: NDArray[np.uint32],
    *,
    temperature: float = ...,
    greedy: bool = ...,
) -> NDArray[np.float32]: ...
def deemphasis(
    wave: NDArray[np.float64], coefficient: float, state: float
) -> tuple[NDArray[np.float64], float]: ...
def bidirectional_gru(
    inputs: NDArray[np.float64], weights: NDArray[np.float64], biases: NDArray[np.float64]
) -> NDArray[np.float64]: ...
def matvec(
    weight: NDArray[np.float32],
    *,
    dtype: str = ...,
    sparse: str = ...,
    threads: int = ...,
    seconds: float = ...,
    isa: str = ...,
) -> dict[str, Any]: ...
def probe(
    kind: str, bytes_per_thread: int, threads: int, seconds: float, isa: str = ...
) -> float: ...
def run_counted(
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[np.float32]],
    stretches: Sequence[int],
    *,
    label: str = ...,
    dtype: str = ...,
    isa: str = ...,
    sparse: str = ...,
    clocks: bool = ...,
) -> list[float]: ...
def compiler() -> str: ...
