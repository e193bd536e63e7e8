"""PyTorch without autograd, with everything made ahead; as it is, scripted and compiled."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..models.eager import torch_threads
from .base import Made
from .loops import FusedLoop

STEPS_A_CALL = 4  # of torch.compile; the time to compile grows with them


class TorchInference(FusedLoop):
    """Inference mode, gates side by side, draws by Gumbel numbers that are made ahead."""

    name: ClassVar[str] = "torch-inference"
    title: ClassVar[str] = "PyTorch in inference mode, a fused step, everything made ahead"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def _prepare(self) -> None:
        import torch

        from . import torch_steps

        self.xp = torch
        steps = {"dual_softmax": torch_steps.dual_step, "softmax": torch_steps.label_step}
        self.step: Any = steps.get(self.config.head, torch_steps.logistic_step)

    def _place(self, array: NDArray[Any]) -> Any:
        return self.xp.from_numpy(array).to(self.device)

    def _uniform(self, seed: int) -> Callable[[tuple[int, ...]], Any]:
        if self.device == "cpu":
            made = super()._uniform(seed)
            return lambda shape: self._place(made(shape))
        generator = self.xp.Generator(self.device).manual_seed(seed)
        return lambda shape: self.xp.rand(shape, generator=generator, device=self.device)

    def _start(self) -> Any:
        torch, config = self.xp, self.config
        dual = config.core == "dual"
        size = config.hidden_size if dual else 2 * config.hidden_size
        h = torch.zeros(size, self.streams, device=self.device)
        x = torch.full((2 if dual else 1, self.streams), config.first_input, device=self.device)
        return h, x

    def sample(
        self,
        n_steps: int,
        mel: NDArray[np.float32] | None = None,
        *,
        seed: int = 0,
        keep_logits: bool = False,
    ) -> Made:
        """See `Baseline.sample`."""
        with self.xp.inference_mode(), torch_threads(self.threads):
            return super().sample(n_steps, mel, seed=seed, keep_logits=keep_logits)

    def _warm_up(self, times: int) -> None:
        """Sample a little of what it will be given."""
        config = self.config
        frames = config.lookback_frames + config.lookahead_frames + -(-20 // config.hop_length)
        mel = np.zeros((config.n_mels, frames), np.float32) if config.n_mels else None
        for _ in range(times):
            self.sample(20, mel)

    def _run(
        self, state: Any, rows: Any, numbers: Any, keep: bool
    ) -> tuple[Any, NDArray[Any], NDArray[np.float32] | None]:
        state, samples, logits = self._steps(state, rows, numbers, keep)
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


class TorchScript(TorchInference):
    """The whole loop compiled by `torch.jit.script`: no Python runs between samples."""

    name: ClassVar[str] = "torch-script"
    title: ClassVar[str] = "the same loop as TorchScript"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    def _ready(self) -> None:
        from . import torch_steps

        with warnings.catch_warnings():  # deprecated, and still what people deploy
            warnings.simplefilter("ignore", DeprecationWarning)
            self.loop: Any = self.xp.jit.script(torch_steps.loop)
        self._warm_up(3)  # its profiling runs and their optimisation

    def _steps(self, state: Any, rows: Any, numbers: Any, keep: bool) -> tuple[Any, Any, Any]:
        rows = rows.expand(len(numbers), -1, -1)
        head, (h, x) = self.config.head, state
        h, x, samples, logits = self.loop(head, self.weights, h, x, rows, numbers, keep)
        return (h, x), samples, logits


class TorchCompile(TorchInference):
    """`STEPS_A_CALL` steps compiled by `torch.compile`: what lies between the products is fused.

    A call costs more than a step of a small model computes, so that several steps share one, and
    Inductor writes its code about the kernels in C++ too (`cpp_wrapper`).
    """

    name: ClassVar[str] = "torch-compile"
    title: ClassVar[str] = f"{STEPS_A_CALL} of the same steps compiled by torch.compile"
    unit = STEPS_A_CALL

    def _ready(self) -> None:
        options = {"cpp_wrapper": True} if self.device == "cpu" else {}
        self.call = compiled(self.xp, self.step, self.weights, options)
        self._strict = False
        self._warm_up(2)  # compiles here, not when timed
        self._strict = True

    def _steps(self, state: Any, rows: Any, numbers: Any, keep: bool) -> tuple[Any, Any, Any]:
        # what is timed must be what was compiled: compiling again, or giving up, is an error
        with self.xp._dynamo.config.patch(error_on_recompile=self._strict):
            return self._calls(state, rows, numbers, keep)

    def _calls(self, state: Any, rows: Any, numbers: Any, keep: bool) -> tuple[Any, Any, Any]:
        torch, (h, x), n = self.xp, state, len(numbers)
        samples: list[Any] = []
        logits: list[Any] = []
        if lacking := -n % STEPS_A_CALL:  # at the end of an utterance
            numbers = torch.nn.functional.pad(numbers, (0, 0, 0, 0, 0, lacking))
            if self.config.n_mels:
                rows = torch.nn.functional.pad(rows, (0, 0, 0, 0, 0, lacking))
        if not self.config.n_mels:
            rows = rows.expand(len(numbers), -1, -1)
        for first in range(0, n, STEPS_A_CALL):
            part = slice(first, first + STEPS_A_CALL)
            h, x, drawn, *step_logits = self.call(h, x, rows[part], numbers[part])
            samples.append(drawn)
            logits.extend(step_logits if keep else ())
        return (h, x), torch.cat(samples)[:n], torch.stack(logits)[:n] if keep else None


_compilations = itertools.count()


def compiled(torch: Any, step: Any, weights: dict[str, Any], options: dict[str, Any]) -> Any:
    """Some steps with their weights bound: a module's buffers cost fewer guards than a dictionary.

    Returns a function of the state h and x, rows [k, size, 1] and numbers [k, D, B], for any k, one
    compilation each, that returns h, x, samples [k, B] and the logits [L, B] of every step.
    """

    class Bound(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for name, array in weights.items():
                self.register_buffer(name, array)

        def forward(self, h: Any, x: Any, rows: Any, numbers: Any) -> Any:
            bound = {name: getattr(self, name) for name in weights}
            samples, logits = [], []
            for t in range(len(numbers)):
                h, x, drawn, step_logits = step(bound, h, x, rows[t], numbers[t])
                samples.append(drawn)
                logits.append(step_logits)
            return (h, x, torch.stack(samples), *logits)

    # code of its own: what is compiled is kept with the code, and after eight it is no longer done
    code = Bound.forward.__code__
    Bound.forward.__code__ = code.replace(co_name=f"forward_{next(_compilations)}")
    return torch.compile(Bound().eval(), dynamic=False, fullgraph=True, options=options)
