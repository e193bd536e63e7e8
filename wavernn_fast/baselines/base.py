"""What all baselines share: how they are built, what they return, when they can run."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MissingDependencyError

Tensors = Mapping[str, NDArray[np.float32]]


class Made(NamedTuple):
    """What `Baseline.sample` made: B streams of n samples."""

    samples: NDArray[Any]  # [B, n] int32: 256 coarse + fine, or labels; else float32 in [-1, 1]
    logits: NDArray[np.float32] | None  # [B, n, logits_size], if they were asked for


class Baseline(ABC):
    """One way to sample a model, with weights resident.

    Parameters
    ----------
    config : ModelConfig, or the configuration of a model that only baselines run (WaveNet)
    tensors : canonical tensors (docs/formats.md)
    streams : int
        Utterances side by side; each draws for itself.
    threads : int
        Processor threads it may use. A baseline leaves the process' settings as they were.
    device : str
        "cpu", or "cuda" where `devices` has it.

    Raises
    ------
    InputError
        If the model is of a kind that this baseline does not run, or it does not run on the device.
    MissingDependencyError
        If a package it needs is not installed.
    """

    name: ClassVar[str]  # in tables, in results, on the command line: lower case, no spaces
    title: ClassVar[str]  # half a sentence for documentation
    packages: ClassVar[tuple[str, ...]] = ()  # modules that must be importable
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    def __init__(
        self,
        config: Any,
        tensors: Tensors,
        *,
        streams: int = 1,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        if not self.supports(config):
            raise InputError(f"The baseline {self.name} does not run this kind of model.")
        if device not in self.devices:
            raise InputError(f"The baseline {self.name} runs on {', '.join(self.devices)} only.")
        if lacking := self.missing():
            raise MissingDependencyError(
                f"The baseline {self.name} needs {', '.join(lacking)}, which is not installed."
            )
        self.config, self.tensors = config, tensors
        self.streams, self.threads, self.device = streams, threads, device
        self._build()

    @classmethod
    @abstractmethod
    def supports(cls, config: Any) -> bool:
        """Whether it runs models of this configuration."""

    @classmethod
    def missing(cls) -> list[str]:
        """Packages it needs that are not installed."""
        return [name for name in cls.packages if importlib.util.find_spec(name) is None]

    @abstractmethod
    def _build(self) -> None:
        """Make the weights resident and everything that a user would make once."""

    @abstractmethod
    def sample(
        self,
        n_steps: int,
        mel: NDArray[np.float32] | None = None,
        *,
        seed: int = 0,
        keep_logits: bool = False,
    ) -> Made:
        """Sample every stream freely from a state of zeros.

        Parameters
        ----------
        n_steps : int
            Samples of each stream.
        mel : float32 [n_mels, n_frames]
            What all streams hear, covering `n_steps`; None for a model without conditioning.
        seed : int
            Different seeds draw differently; streams differ from each other too.
        keep_logits : bool
            Also keep the logits of every step: the very loop that is timed is the one checked.
        """
