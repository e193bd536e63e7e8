"""Which device runs, and the engine on it."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import nvrtc, scalars, selfcheck
from .config import ModelConfig
from .errors import DeviceError, InputError

if TYPE_CHECKING:
    from . import _C

logger = logging.getLogger("wavernn_fast")

DEVICES = ("auto", "cpu", "cuda", "emu")
DTYPES = ("auto", "fp32", "fp16", "bf16", "int8", "int8-fast")
THREADS = "WAVERNN_FAST_THREADS"  # of the environment
_MOST_THREADS = 1024  # that an engine takes
_MOST_IN_CLUSTER = 16  # blocks, on any GPU


class Target(NamedTuple):
    """One device that an engine runs on."""

    kind: str  # "cpu", "cuda" or "emu"
    number: int = 0  # of the GPU, as the driver counts those it shows

    @property
    def name(self) -> str:
        """Such as "cuda:1"; "cpu" has no number."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.number}"


def resolve_device(device: str) -> str:
    """Name the kind of device that will run: "cpu", "cuda" or "emu"; see `resolve_devices`."""
    return resolve_devices(device)[0].kind


def resolve_devices(device: str) -> list[Target]:
    """Name the devices that will run.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda" (the first GPU) or "emu"; "cuda:1", "cuda:0,1" (several GPUs) or
        "cuda:all" (every one that can run the kernels); "emu:0,1" stands for several GPUs. A
        `torch.device` counts as its name.
        "auto" never fails; why it is not a GPU is logged at level INFO.

    Raises
    ------
    DeviceError
        If a device is not available, saying why and what is.
    InputError
        If there is no such device, or one is named twice.
    """
    device = str(device)
    kind, numbers = _parse(device)
    if kind == "cpu":
        return [Target(kind)]
    if kind == "auto":
        reason = device_problem("cuda")
        if reason:
            logger.info("Running on the CPU, not on a GPU: %s.", reason)
        return [Target("cpu" if reason else "cuda")]
    if numbers is None:
        numbers = _usable_gpus()
    for number in numbers:
        reason = device_problem(kind, number)
        if reason:
            raise DeviceError(
                f"Device {device!r} is not available: {reason}. Use device 'cpu' or 'auto'; "
                "`wavernn-fast doctor` reports what this machine has."
            )
    return [Target(kind, number) for number in numbers]


def _parse(device: str) -> tuple[str, tuple[int, ...] | None]:
    """Kind of a device, and which of them; None: all."""
    kind, colon, which = device.partition(":")
    if kind not in DEVICES:
        raise InputError(
            f"There is no device {device!r}; choose {', '.join(DEVICES)}, or GPUs by number, "
            "such as cuda:1, cuda:0,1 or cuda:all."
        )
    if not colon:
        return kind, (0,)
    if kind not in ("cuda", "emu"):
        raise InputError(f"Device {device!r}: {kind} has no numbers; write {kind!r}.")
    if which == "all" and kind == "cuda":
        return kind, None
    parts = [part.strip() for part in which.split(",")]
    if any(part.partition(":")[0] in (*DEVICES, "gpu") for part in parts):
        raise InputError(
            f"Device {device!r} names more than one kind; all must be of one, such as cuda:0,1."
        )
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise InputError(
            f"Device {device!r} is not understood: after {kind}: come numbers, such as {kind}:0,1"
            f"{', or all' if kind == 'cuda' else ''}."
        )
    numbers = tuple(map(int, parts))
    twice = next((n for i, n in enumerate(numbers) if n in numbers[:i]), None)
    if twice is not None:
        raise InputError(f"Device {device!r} names number {twice} twice; name each once.")
    return kind, numbers


def _usable_gpus() -> tuple[int, ...]:
    """Numbers of the GPUs that can run the kernels; if there are none, 0, to hear why."""
    try:
        from . import _C

        gpus = _C.cuda_devices()
    except (ImportError, DeviceError):
        return (0,)
    for gpu in gpus:
        if gpu["problem"]:
            logger.warning(
                "GPU %d, %s, is left out: %s.", gpu["ordinal"], gpu["name"], gpu["problem"]
            )
    return tuple(gpu["ordinal"] for gpu in gpus if not gpu["problem"]) or (0,)


def device_problem(device: str, number: int = 0) -> str:
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
        if number >= len(gpus):
            names = "; ".join(f"GPU {gpu['ordinal']}, {gpu['name']}" for gpu in gpus)
            return f"there is no GPU {number}, there is {names}"
        if gpus[number]["problem"]:
            return f"GPU {number}, {gpus[number]['name']}: {gpus[number]['problem']}"
    if device not in _C.available_devices():
        return f"this build has no {'CUDA engine' if device == 'cuda' else 'emulator'}"
    return ""


@dataclasses.dataclass(frozen=True)
class EngineOptions:
    """How an engine is made on whatever device; names and meanings as of `Vocoder`."""

    dtype: str = "auto"
    cpu_threads: int | None = None
    gpu_streams: int = 1
    gpu_cluster: int = 0
    clocks: bool = False  # it times the stages of a sample

    def checked(self) -> EngineOptions:
        """The same with plain integers; InputError for what has no meaning."""
        if self.dtype not in DTYPES:
            raise InputError(f"There is no dtype {self.dtype!r}; choose {', '.join(DTYPES)}.")
        threads = self.cpu_threads
        if threads is not None:
            threads = scalars.to_count(threads, "cpu_threads", 1, _MOST_THREADS)
        return dataclasses.replace(
            self,
            cpu_threads=threads,
            gpu_streams=scalars.to_count(self.gpu_streams, "gpu_streams", 0, 1 << 16),
            gpu_cluster=scalars.to_count(self.gpu_cluster, "gpu_cluster", 0, _MOST_IN_CLUSTER),
        )


class Device(NamedTuple):
    """A compiled engine with resident weights, and where it runs."""

    name: str  # such as "cpu" or "cuda:1"
    engine: _C.Engine


def default_threads() -> int:
    """Threads of a CPU engine for which no number is given.

    Returns
    -------
    int
        What the environment variable WAVERNN_FAST_THREADS says; without it, the processors that
        this process may use.

    Raises
    ------
    InputError
        If the variable is no whole number from 1 to 1024.
    """
    text = os.environ.get(THREADS, "")
    if not text:
        from . import _C

        return _C.available_threads()
    if not (
        text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= _MOST_THREADS
    ):
        raise InputError(
            f"The environment variable {THREADS} is {text!r}; set it to a number of threads, "
            f"1 or more (at most {_MOST_THREADS}), or unset it to use every processor that this "
            "process may."
        )
    return int(text)


def make_devices(
    config: ModelConfig,
    tensors: Mapping[str, NDArray[np.float32]],
    device: str,
    options: EngineOptions | None = None,
) -> list[Device]:
    """Make an engine on every device that is named; see `Vocoder` for `device`.

    Raises
    ------
    DeviceError
        If a device, instruction set or the compiled extension is not available, memory is short,
        or a GPU does not compute what the CPU does (`selfcheck`).
    InputError
        If an argument has no meaning.
    """
    targets = resolve_devices(device)
    options = (options or EngineOptions()).checked()

    def make(target: Target, dtype: str = options.dtype) -> Device:
        how = dataclasses.replace(options, dtype=dtype)
        return Device(target.name, _construct(config, tensors, target, how))

    cpu = Target("cpu")
    try:
        made = [make(target) for target in targets]
    except (DeviceError, InputError) as error:  # what is wrong with the model, the CPU says again
        if device != "auto" or targets == [cpu]:
            raise
        logger.info("Running on the CPU, not on a GPU: %s", error)
        return [make(cpu)]
    if targets[0].kind != "cuda":
        return made
    twin = make(cpu, made[0].engine.dtype)
    for one in made:
        share = selfcheck.SHARE if options.gpu_streams == 1 else selfcheck.MANY_SHARE
        wrong = selfcheck.problem(one.engine, twin.engine, config, share)
        if not wrong:
            continue
        name = f"{one.engine.isa}{f' ({one.name})' if len(made) > 1 else ''}"
        sentence = f"The kernel on {name} was compared with the CPU before use, and {wrong}."
        if device != "auto":
            raise DeviceError(
                f"{sentence} Use device 'cpu', and please report it with {one.engine.isa}."
            )
        logger.warning("%s Running on the CPU.", sentence)
        # Many streams are fp16 on a GPU only; here "auto" is what it is where there is none.
        many = options.gpu_streams != 1
        return [make(cpu) if options.dtype == "auto" and many else twin]
    return made


def _emulated_blocks(config: ModelConfig, dtype: str, cluster: int) -> int:
    """Few blocks that hold a model, in clusters of so many; 0 if none of those tried do.

    Every thread of the emulator takes its time, and its bits do not depend on the blocks.
    """
    from . import _C

    each = max(1, cluster)
    for blocks in range(each, 33, each) if each > 1 else (1, 2, 4, 8, 16, 32):
        try:
            _C.gpu_plan(
                dataclasses.asdict(config),
                dtype="fp32" if dtype == "auto" else dtype,
                blocks=blocks,
                cluster=cluster,
            )
        except (DeviceError, InputError):
            continue
        return blocks
    return 0


def _construct(
    config: ModelConfig,
    tensors: Mapping[str, NDArray[np.float32]],
    target: Target,
    options: EngineOptions,
) -> _C.Engine:
    device, dtype = target.kind, options.dtype
    cluster = 0 if device == "cpu" else options.gpu_cluster
    many = device != "cpu" and options.gpu_streams != 1
    if many and dtype == "auto":
        dtype = "fp16"  # the only one that many streams have
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
            threads=options.cpu_threads or default_threads(),
            isa="auto",
            blocks=_emulated_blocks(config, dtype, cluster) if device == "emu" and not many else 0,
            cluster=cluster,
            streams=options.gpu_streams if many else 1,
            ordinal=target.number if device == "cuda" else 0,
            clocks=options.clocks,
            exact=device == "emu",  # bits that any device repeats, or a GPU's own fast functions
            nvrtc=nvrtc.libraries() if device == "cuda" else (),
            cubins=nvrtc.packaged_kernels(),
        )
    except MemoryError as error:
        raise DeviceError(f"There is not enough memory for this model ({error}).") from error
    if engine.sparse:
        logger.info("Zeros of these weights are skipped: %s.", engine.sparse)
    if engine.compiled:
        logger.info(
            "A kernel was compiled for the sizes of this model on %s, as neither the package nor "
            "the cache had one. The cache keeps it for the next time.",
            engine.isa,
        )
    return engine
