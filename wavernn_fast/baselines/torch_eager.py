"""PyTorch's modules called as the original projects call them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..errors import InputError
from ..models.eager import make_eager, torch_threads
from ..synthetic import random_speaker
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
        if self.config.speaker_size:
            self.model.hear(random_speaker(self.config))
        if self.device == "cpu":
            return
        if self.config.subscale is not None:
            raise InputError(f"The baseline {self.name} runs subscale models on cpu only.")
        import torch

        for name, value in vars(self.model).items():
            if isinstance(value, (torch.nn.Module, torch.Tensor)):
                setattr(self.model, name, value.to(self.device))

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
            if self.device != "cpu":
                return self._on_device(n_steps, mel, seed, keep_logits)
            made = self.model.generate(
                n_steps, mel, batch=self.streams, seed=seed, return_logits=keep_logits
            )
        return Made(made.samples, made.logits)

    def _on_device(
        self, n_steps: int, mel: NDArray[np.float32] | None, seed: int, keep: bool
    ) -> Made:
        """What `generate` does, with the conditioning brought to the device before the loop."""
        import torch

        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed)
            heard = self.model.conditions(mel)
            n_steps = self.model._covered(n_steps, heard[0])
            placed = [x[:n_steps].expand(self.streams, -1, -1).to(self.device) for x in heard]
            with torch.device(self.device):  # where the loop makes its tensors
                samples, logits = self.model._collect(n_steps, placed[0], placed[1], keep)
        kind = np.float32 if self.config.draws_values else np.int32
        drawn = samples.cpu().numpy().astype(kind)
        return Made(drawn, None if logits is None else logits.cpu().numpy())
