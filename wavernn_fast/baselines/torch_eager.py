"""PyTorch's modules called as the original projects call them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..models.eager import make_eager, torch_threads
from .base import Baseline, Made


class TorchEager(Baseline):
    """One library call an operation, `softmax` and `Categorical` for every draw (`models.eager`).

    Conditioning is what the original programs do too: mel and auxiliary rows are brought to the
    rate of the samples, and every layer hears them at every sample.
    """

    name: ClassVar[str] = "torch-eager"
    title: ClassVar[str] = "PyTorch as the original projects sample"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    @classmethod
    def supports(cls, config: Any) -> bool:
        """See `Baseline.supports`: every core that `make_eager` makes."""
        return isinstance(config, ModelConfig)

    def _build(self) -> None:
        self.model = make_eager(self.config, self.tensors)

    def sample(
        self,
        n_steps: int,
        mel: NDArray[np.float32] | None = None,
        *,
        seed: int = 0,
        keep_logits: bool = False,
    ) -> Made:
        """See `Baseline.sample`."""
        with torch_threads(self.threads):
            made = self.model.generate(
                n_steps, mel, batch=self.streams, seed=seed, return_logits=keep_logits
            )
        return Made(made.samples, made.logits)
