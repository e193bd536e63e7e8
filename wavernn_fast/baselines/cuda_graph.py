"""Many steps captured into one CUDA graph, replayed without Python in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from .loops import numbers_size
from .torch_loops import TorchInference, compiled

STEPS_A_REPLAY = 64


class CudaGraph(TorchInference):
    """The fused step captured `STEPS_A_REPLAY` times into one graph.

    A graph replays addresses, so state, inputs, numbers and results live in tensors made once. On
    a device without graphs the steps that a replay stands for are called one by one.
    """

    name: ClassVar[str] = "cuda-graph"
    title: ClassVar[str] = f"the same step, {STEPS_A_REPLAY} of them captured into a CUDA graph"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    @property
    def chunk_steps(self) -> int:
        """Whole replays, of which only the last of an utterance is not used up."""
        return max(1, super().chunk_steps // STEPS_A_REPLAY) * STEPS_A_REPLAY

    def _ready(self) -> None:
        torch, config = self.xp, self.config
        with torch.inference_mode():
            self.state = self._start()
            many = STEPS_A_REPLAY if config.n_mels else 1
            self.rows = torch.zeros(many, self.conditions.size, 1, device=self.device)
            shape = (STEPS_A_REPLAY, numbers_size(config), self.streams)
            self.numbers = torch.zeros(shape, device=self.device)
            kind = torch.float32 if config.draws_values else torch.int32
            drawn = (STEPS_A_REPLAY, self.streams)
            self.samples = torch.zeros(drawn, dtype=kind, device=self.device)
            shape = (STEPS_A_REPLAY, config.logits_size, self.streams)
            self.logits = torch.zeros(shape, device=self.device)
        self.replays: dict[bool, Callable[[], None]] = {}
        self._replay(False)

    def _replay(self, keep: bool) -> Callable[[], None]:
        """`STEPS_A_REPLAY` samples as one call; that with logits is made when it is asked for."""
        if keep not in self.replays:
            with self.xp.inference_mode():
                self.replays[keep] = self._capture(lambda: self._in_place(keep))
        return self.replays[keep]

    def _capture(self, steps: Callable[[], None]) -> Callable[[], None]:
        torch = self.xp
        if self.device != "cuda":
            return steps
        side = torch.cuda.Stream()  # torch wants warm-ups on another stream before a capture
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                steps()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            steps()
        replay: Callable[[], None] = graph.replay
        return replay

    def _in_place(self, keep: bool) -> None:
        """Steps from `state` back into it, by what lies in `rows` and `numbers`."""
        h, x = self.state
        for t in range(STEPS_A_REPLAY):
            row = self.rows[t if len(self.rows) > 1 else 0]
            h, x, drawn, logits = self.step(self.weights, h, x, row, self.numbers[t])
            self.samples[t].copy_(drawn)
            if keep:
                self.logits[t].copy_(logits)
        self.state[0].copy_(h)
        self.state[1].copy_(x)

    def _steps(self, state: Any, rows: Any, numbers: Any, keep: bool) -> tuple[Any, Any, Any]:
        torch, n = self.xp, len(numbers)
        for kept, given in zip(self.state, state, strict=True):
            kept.copy_(given)
        if not self.config.n_mels:
            self.rows.copy_(rows)
        replay, samples, logits = self._replay(keep), [], []
        for first in range(0, n, STEPS_A_REPLAY):
            count = min(STEPS_A_REPLAY, n - first)
            self.numbers[:count].copy_(numbers[first : first + count])
            if self.config.n_mels:
                self.rows[:count].copy_(rows[first : first + count])
            replay()
            samples.append(self.samples[:count].clone())
            if keep:
                logits.append(self.logits[:count].clone())
        state = tuple(part.clone() for part in self.state)
        return state, torch.cat(samples), torch.cat(logits) if keep else None


class CudaGraphCompiled(CudaGraph):
    """The same after `torch.compile` has fused what lies between the products."""

    name: ClassVar[str] = "cuda-graph-compiled"
    title: ClassVar[str] = "the same captured after torch.compile"

    def _ready(self) -> None:
        self.step = compiled(self.xp, self.step, self.weights)
        super()._ready()
