"""What a model is once loaded: its weights on devices, its sizes, what it can be given."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import arrays, places, scalars, utterance
from .batch import default_streams
from .codes import TABLES as CODE_TABLES
from .codes import features as features_of_codes
from .config import ModelConfig
from .devices import Device, EngineOptions, default_threads, make_devices, resolve_devices
from .errors import InputError
from .fold import Folding

if TYPE_CHECKING:
    from . import _C
    from .conditioning import Conditioner
    from .subscale_network import SubscaleNetwork

CONDITIONING = ("host", "device")

Self = TypeVar("Self", bound="LoadedModel")  # typing.Self is of Python 3.11


class LoadedModel:
    """A model on its devices; `vocoder.Vocoder` is one that sounds.

    Parameters
    ----------
    config : ModelConfig
    tensors : mapping of str to float32 array
        Canonical weights (docs/formats.md).
    device, dtype, cpu_threads, gpu_streams, gpu_cluster, conditioning
        As in `from_pretrained`.

    Raises
    ------
    ModelError
        If the weights do not match the configuration, listing every difference.
    DeviceError, InputError
        As in `from_pretrained`.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, NDArray[np.float32]],
        *,
        device: str = "auto",
        dtype: str = "auto",
        cpu_threads: int | None = None,
        gpu_streams: int = 1,
        gpu_cluster: int = 0,
        conditioning: str = "host",
    ) -> None:
        from . import canonical, conditioning_network, subscale_network, upsampling

        canonical.validate(config, tensors)
        self._config = config
        self._tables = {name: tensors[name] for name in CODE_TABLES if name in tensors}
        cell = upsampling.engine_cell(config, tensors)
        if config.subscale is not None:
            cell = subscale_network.cell_of(config, tensors)
            gpu_streams = scalars.to_count(gpu_streams, "gpu_streams", 0) * config.subscale.factor
        how = EngineOptions(dtype, cpu_threads, gpu_streams, gpu_cluster)
        self._devices = self._open_devices(cell, device, how)
        self._engine = self._devices[0].engine
        # An engine on a GPU leaves the processors alone.
        on_cpu = self._engine.device == "cpu"
        self._row_threads = 1 if on_cpu else cpu_threads or default_threads()
        self._memory = arrays.Memory(self._devices[0].name, self._home(conditioning))
        self._network: SubscaleNetwork | None = None
        if config.subscale is not None:
            slices = subscale_network.slices_of(self._engine.device, how.gpu_cluster)
            self._network = subscale_network.SubscaleNetwork(config, tensors, slices)
        self._conditioner: Conditioner | None = None
        if config.n_mels:
            self._conditioner = conditioning_network.make_conditioner(config, tensors)
        self._elsewhere: dict[places.Place, utterance.Elsewhere] = {}  # for arrays on a GPU

    def _home(self, conditioning: str) -> places.Place:
        """Where mels of the host are conditioned."""
        if conditioning not in CONDITIONING:
            names = " or ".join(CONDITIONING)
            raise InputError(f"There is no conditioning {conditioning!r}; choose {names}.")
        if conditioning == "host" or not self._config.n_mels:
            return places.HOST
        if len(self._devices) > 1:
            raise InputError(
                "conditioning='device' goes with one GPU: rows on one are of no use to another. "
                "Use conditioning='host', or a process for each GPU."
            )
        return places.home_on(self._devices[0].name)

    def _open_devices(
        self,
        cell: tuple[ModelConfig, Mapping[str, NDArray[np.float32]]],
        device: str,
        how: EngineOptions,
    ) -> list[Device]:
        """Engines over the model as they see it; `bench` opens some that time themselves."""
        return make_devices(*cell, device, how)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse `pickle` and `copy` in a sentence; the error would name a class within."""
        raise TypeError(
            f"A {type(self).__name__} holds the engine of its process, so it can be neither "
            "pickled nor copied: call from_pretrained in each process. Threads may share one."
        )

    @classmethod
    def from_pretrained(
        cls: type[Self],
        path_or_name: str | os.PathLike[str],
        device: str = "auto",
        dtype: str = "auto",
        preset: str | None = None,
        cpu_threads: int | None = None,
        gpu_streams: int = 1,
        gpu_cluster: int = 0,
        conditioning: str = "host",
    ) -> Self:
        """Load a checkpoint: a canonical .safetensors file, or a .pt file of a known family.

        Parameters
        ----------
        path_or_name : path or str
            The file, or the name of a voice that ships in the package ("kerstin"), where there
            is no file of that name. PyTorch files need the extra ``wavernn-fast[torch]`` and are
            read without running any code from them; `wavernn-fast convert` makes a file that needs
            no torch.
        device : str
            "auto" takes the best there is and logs why; "cpu"; "cuda" or a GPU by number,
            "cuda:1"; "emu". "cuda:0,1" and "cuda:all" put the model on several GPUs, which share
            the utterances of a batch; `generate` and `stream` run on the first.
        dtype : {"auto", "fp32", "fp16", "bf16", "int8", "int8-fast"}
            How weights are stored while running; sums are float32. "auto" is fp32. "int8" rounds
            activations to 14 bits, "int8-fast" to 7: half the work, several times the error.
        preset : str, optional
            Mel and output rules, for checkpoints that do not carry them.
        cpu_threads : int, optional
            Default: what the environment variable WAVERNN_FAST_THREADS says, or else the processors
            this process may use. On a GPU they make its conditioning.
        gpu_streams : int
            On a GPU: utterances that are to run side by side. 1 makes one utterance as fast as
            can be; more (0: as many as give most samples a second) makes many at once many times
            as fast, with weights and activations in fp16 ("auto" is fp16 then). Another kernel,
            and so other samples; for each, the same ones in any batch.
        gpu_cluster : int
            On a GPU of compute capability 9.0 or newer: blocks (2 to 16) that hand each other
            values through their own memory, not through L2: of a dual model, or the teams of many
            streams; a pruned model then runs as a dense one. 0 leaves the choice to the planner,
            which makes none yet, as few have been measured; in fp16, 8 made one utterance of 896
            units 10 to 20 % faster on an H200 (docs/kernel.md). Samples of a seed may change by
            rounding.
        conditioning : {"host", "device"}
            Where mels of the host become what the kernel hears: on the processors, or on the GPU by
            CuPy (or PyTorch, if it is imported), so that many streams do not wait for the host.
            Rows then differ in the last bit, and samples of a seed may. On the CPU both are the
            same.

        Raises
        ------
        ModelError
            If the file is unreadable, of no known family, incomplete or misshapen.
        MissingDependencyError
            If the file needs PyTorch, or the device CuPy or PyTorch for conditioning, and it is
            not installed.
        DeviceError
            If the device or instruction set is not available here.
        InputError
            If an argument has no meaning (an unknown preset or dtype).
        """
        from . import checkpoints

        if device != "auto":
            resolve_devices(device)  # before a long load
        config, tensors = checkpoints.load(path_or_name, preset=preset)
        return cls(
            config,
            tensors,
            device=device,
            dtype=dtype,
            cpu_threads=cpu_threads,
            gpu_streams=gpu_streams,
            gpu_cluster=gpu_cluster,
            conditioning=conditioning,
        )

    # --- what it is ---

    @property
    def config(self) -> ModelConfig:
        """Sizes, mel convention and output rule."""
        return self._config

    @property
    def sample_rate(self) -> int:
        """Samples per second of the audio, in Hz."""
        return self._config.sample_rate

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda" or "emu"."""
        return self._engine.device

    @property
    def devices(self) -> tuple[str, ...]:
        """Every device that it runs on, such as "cuda:0" and "cuda:1"."""
        return tuple(device.name for device in self._devices)

    @property
    def dtype(self) -> str:
        """How weights are stored: "fp32", "fp16", "bf16", "int8" or "int8-fast"."""
        return self._engine.dtype

    @property
    def isa(self) -> str:
        """Instruction set in use, such as "avx2"; a GPU's name, or the emulator's schedule."""
        return self._engine.isa

    @property
    def cpu_threads(self) -> int:
        """Threads that work on one call; on a GPU and in the emulator, blocks of the kernel."""
        return self._engine.threads

    @property
    def streams(self) -> int:
        """Utterances that a batch runs side by side by default, all devices together."""
        rows = self._config.subscale_factor
        return sum(max(1, default_streams(device.engine) // rows) for device in self._devices)

    @property
    def lag_samples(self) -> int:
        """Samples of the utterance that are begun before the first one is complete.

        0 but for a subscale model, whose first row runs so far ahead of its last: the first chunk
        of a stream takes so many columns to draw, and needs the mel of so many samples
        (docs/subscale.md).
        """
        if self._network is None:
            return 0
        rows = self._config.subscale_factor
        return (rows - 1) * self._network.lag * rows

    @property
    def engine(self) -> _C.Engine:
        """The compiled engine below (of the first device), for benchmarks and verification."""
        return self._engine

    @property
    def conditioner(self) -> Conditioner | None:
        """Mel frames to conditioning rows; None for an unconditioned model."""
        return self._conditioner

    def __repr__(self) -> str:
        c = self._config
        return (
            f"{type(self).__name__}({c.core} {c.hidden_size}, {c.head}, {c.sample_rate} Hz, "
            f"{f'{c.subscale.factor} rows, ' if c.subscale else ''}"
            f"{f'{c.bands} bands, ' if c.bands > 1 else ''}"
            f"{self.device}/{self.isa}/{self.dtype}, {self.cpu_threads} "
            f"{'threads' if self.device == 'cpu' else 'blocks'}"
            f"{f' on each of {len(self.devices)} devices' if len(self.devices) > 1 else ''})"
        )

    # --- what it can be given ---

    def features(self, codes: Any, speaker: Any) -> NDArray[np.float32]:
        """Features of a model over codes (ZeroSpeech, VectorQuantizedCPC), in place of a mel.

        Parameters
        ----------
        codes : int array [n], or float array [code_size, n]
            Codes, or where they come from elsewhere or the model holds none, their vectors.
        speaker : int, or float array [speaker_size]
            One of the model's speakers by number, or a vector.

        Returns
        -------
        float32 array [n_mels, repeat * n]
            For `generate` and the others, as their `mel`.

        Raises
        ------
        InputError
            If the model hears a mel, or codes or speaker are none of its.
        """
        return features_of_codes(self._config, self._tables, codes, speaker)

    def check_mel(self, mel: Any) -> NDArray[np.float32]:
        """Return `mel` as numpy float32 [n_mels, n_frames] if this model can sound it.

        Raises
        ------
        InputError
            Saying what is wrong with it. Values that do not look like the model's convention give
            a `features.MelRangeWarning` only.
        """
        checked: NDArray[np.float32] = arrays.to_mel(mel, self._config).array
        return checked

    def voice(self, fade_out: bool = True, fold: utterance.Fold = None) -> utterance.Voice:
        """What the functions of `utterance` need of it; without the fade-out at will."""
        config = fold.applied(self._config) if isinstance(fold, Folding) else self._config
        if not fade_out and config.output.fade_out_frames:
            output = dataclasses.replace(config.output, fade_out_frames=0)
            config = dataclasses.replace(config, output=output)
        return utterance.Voice(
            config,
            self._engine,
            self._conditioner,
            self._elsewhere,
            self._memory,
            self._network,
            self._row_threads,
        )

    def _request(
        self, mel: Any, n_samples: int | None, seed: Any, speaker: Any
    ) -> utterance.Request:
        return utterance.make_request(self._config, mel, n_samples, seed, self._memory, speaker)
