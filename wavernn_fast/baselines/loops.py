"""The frame of every fused loop: conditioning and random numbers by chunks, then the steps."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from .base import Baseline, Made
from .cells import fused, loop_weights
from .conditions import Conditions

CHUNK_STEPS = 1024  # whose rows of conditioning exist at a time: 19 MB of a residual model of 512
CLIP = 1e-5  # uniforms of the logistic draw stay in [CLIP, 1 - CLIP], as in the original samplers
LOG_SCALE_FLOOR = -32.236  # ln(1e-14), the lowest logistic log-scale


class FusedLoop(Baseline):
    """A loop over steps that make few calls, on arrays of one module.

    A subclass sets `xp` in `_prepare`, and runs steps in `_run`. The state passes from chunk to
    chunk, so that an utterance of any length takes no more memory than a chunk.
    """

    xp: Any = np

    @classmethod
    def supports(cls, config: Any) -> bool:
        """See `Baseline.supports`; `cells.fused` says which models."""
        return fused(config)

    def _build(self) -> None:
        self._prepare()
        weights = loop_weights(self.config, self.tensors)
        self.weights = {name: self._place(array) for name, array in weights.items()}
        self.conditions = Conditions(self.config, self.tensors, self.xp, self._place)
        self._ready()

    def _prepare(self) -> None:  # noqa: B027  # most have nothing to do
        """Before the weights are placed: `xp`."""

    def _ready(self) -> None:  # noqa: B027
        """After the weights are placed: buffers, compilation, warm-up."""

    def _place(self, array: NDArray[Any]) -> Any:
        """Array of numpy -> where the loop runs."""
        return array

    @abstractmethod
    def _start(self) -> Any:
        """State before the first sample."""

    @abstractmethod
    def _run(
        self, state: Any, rows: Any, numbers: NDArray[np.float32], keep: bool
    ) -> tuple[Any, NDArray[Any], NDArray[np.float32] | None]:
        """Run the steps of a chunk.

        Parameters
        ----------
        state : what `_start` or the last chunk returned
        rows : [n, size], or [1, size] which serves all steps; see `Conditions`
        numbers : float32 [n, B, draws], see `random_numbers`
        keep : also return logits

        Returns
        -------
        state, samples [B, n], logits [B, n, logits_size] or None
        """

    def sample(
        self,
        n_steps: int,
        mel: NDArray[np.float32] | None = None,
        *,
        seed: int = 0,
        keep_logits: bool = False,
    ) -> Made:
        """See `Baseline.sample`."""
        self.conditions.check(n_steps, mel)
        kind = np.float32 if self.config.draws_values else np.int32
        samples = np.empty((self.streams, n_steps), kind)
        size = self.config.logits_size
        logits = np.empty((self.streams, n_steps, size), np.float32) if keep_logits else None
        random = np.random.default_rng(seed)
        state = self._start()
        for first in range(0, n_steps, CHUNK_STEPS):
            count = min(CHUNK_STEPS, n_steps - first)
            numbers = random_numbers(self.config, random, count, self.streams)
            rows = self.conditions.rows(mel, first, count)
            state, drawn, kept = self._run(state, rows, numbers, keep_logits)
            samples[:, first : first + count] = drawn
            if logits is not None and kept is not None:
                logits[:, first : first + count] = kept
        return Made(samples, logits)


def random_numbers(
    config: ModelConfig, random: np.random.Generator, n_steps: int, streams: int
) -> NDArray[np.float32]:
    """What the draws of some steps need, [n, B, draws_per_step] float32.

    Uniform in [0, 1): the class is the first whose cumulative probability exceeds it. The second of
    a mixture of logistics is already the standard logistic number that its scale multiplies.
    """
    numbers = random.random((n_steps, streams, config.draws_per_step), np.float32)
    if config.head == "mol":
        v = np.clip(numbers[:, :, 1].astype(np.float64), CLIP, 1.0 - CLIP)
        numbers[:, :, 1] = np.log(v) - np.log1p(-v)
    return numbers
