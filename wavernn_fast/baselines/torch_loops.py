"""PyTorch without autograd, with everything made ahead."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..models.eager import torch_threads
from .loops import FusedLoop


class TorchInference(FusedLoop):
    """Inference mode, gates side by side, draws by inversion from numbers drawn ahead."""

    name: ClassVar[str] = "torch-inference"
    title: ClassVar[str] = "PyTorch in inference mode, a fused step, everything made ahead"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def _prepare(self) -> None:
        import torch

        from . import torch_steps

        self.xp = torch
        steps = {"dual_softmax": torch_steps.dual_step, "softmax": torch_steps.label_step}
        self.step = steps.get(self.config.head, torch_steps.logistic_step)

    def _place(self, array: NDArray[Any]) -> Any:
        return self.xp.from_numpy(array).to(self.device)

    def _start(self) -> Any:
        torch, config = self.xp, self.config
        dual = config.core == "dual"
        size = config.hidden_size if dual else 2 * config.hidden_size
        h = torch.zeros(size, self.streams, device=self.device)
        x = torch.full((2 if dual else 1, self.streams), config.first_input, device=self.device)
        return h, x

    def _run(
        self, state: Any, rows: Any, numbers: NDArray[np.float32], keep: bool
    ) -> tuple[Any, NDArray[Any], NDArray[np.float32] | None]:
        with self.xp.inference_mode(), torch_threads(self.threads):
            state, samples, logits = self._steps(state, rows, self._place(numbers), keep)
            return state, samples.cpu().numpy(), logits.cpu().numpy() if keep else None

    def _steps(self, state: Any, rows: Any, numbers: Any, keep: bool) -> tuple[Any, Any, Any]:
        """The loop; see `FusedLoop._run`, with tensors for arrays."""
        torch, config, step, weights = self.xp, self.config, self.step, self.weights
        h, x = state
        n, _, batch = numbers.shape
        kind = torch.float32 if config.draws_values else torch.int32
        samples = torch.empty(n, batch, dtype=kind, device=self.device)
        logits = []
        places = zip(rows.expand(n, -1, -1), numbers, samples, strict=True)
        for row, now, place in places:
            h, x, drawn, step_logits = step(weights, h, x, row, now)
            place.copy_(drawn)
            if keep:
                logits.append(step_logits)
        return (h, x), samples, torch.stack(logits) if keep else None
