"""The frame of every fused loop: conditioning and random numbers by chunks, then the steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from .base import Baseline, Made
from .cells import fused, loop_weights
from .conditions import Conditions

LOG_SCALE_FLOOR = -32.236  # ln(1e-14), the lowest logistic log-scale
CLIP = 1e-5  # uniforms of the logistic draw stay in [CLIP, 1 - CLIP], as in the original samplers
_CHUNK_NUMBERS = 2**22  # about so many random numbers exist at a time


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

    def _prepare(self) -> None:
        """Before the weights are placed: `xp`."""
        return

    def _ready(self) -> None:
        """After the weights are placed: buffers, compilation, warm-up."""
        return

    def _place(self, array: NDArray[Any]) -> Any:
        """Array of numpy -> where the loop runs."""
        return array

    def _uniform(self, seed: int) -> Callable[[tuple[int, ...]], Any]:
        """Shape -> numbers of [0, 1), float32, made where the loop runs."""
        random = np.random.default_rng(seed)
        return lambda shape: random.random(shape, np.float32)

    @property
    def chunk_steps(self) -> int:
        """Steps whose conditioning and random numbers are made at a time: whole frames."""
        numbers = self.streams * numbers_size(self.config)
        steps = min(1024, max(64, _CHUNK_NUMBERS // numbers))
        hop: int = self.config.hop_length
        return max(1, steps // hop) * hop

    @abstractmethod
    def _start(self) -> Any:
        """State before the first sample."""

    @abstractmethod
    def _run(
        self, state: Any, rows: Any, numbers: Any, keep: bool
    ) -> tuple[Any, NDArray[Any], NDArray[np.float32] | None]:
        """Run the steps of a chunk.

        Parameters
        ----------
        state : what `_start` or the last chunk returned
        rows : [n, size, 1], or [1, size, 1] which serves all steps; see `Conditions`
        numbers : float32 [n, numbers_size, B] where the loop runs, see `to_numbers`
        keep : also return logits

        Returns
        -------
        state, samples [n, B], logits [n, logits_size, B] or None
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
        uniform, chunk = self._uniform(seed), self.chunk_steps
        state = self._start()
        for first in range(0, n_steps, chunk):
            count = min(chunk, n_steps - first)
            shape = (count, numbers_size(self.config), self.streams)
            numbers = to_numbers(uniform(shape), self.config.head, self.xp)
            rows = self.conditions.rows(mel, first, count)
            state, drawn, kept = self._run(state, rows, numbers, keep_logits)
            samples[:, first : first + count] = drawn.T
            if logits is not None and kept is not None:
                logits[:, first : first + count] = kept.transpose(2, 0, 1)
        return Made(samples, logits)


def numbers_size(config: ModelConfig) -> int:
    """Random numbers of one sample: one a class, and one for the value of a mixture."""
    return config.n_classes // 3 + 1 if config.head == "mol" else config.logits_size


def to_numbers(uniform: Any, head: str, xp: Any) -> Any:
    """What draws need, made in place of numbers of [0, 1).

    Gumbel numbers: the class is where logit + number is largest, which is a draw from the softmax.
    The last number of a mixture of logistics is a standard logistic one, for its value.

    Parameters
    ----------
    uniform : float32 [n, numbers_size, B] of `xp`
    head : of the model
    xp : numpy, cupy or torch
    """
    value = None
    if head == "mol":
        v = xp.clip(uniform[:, -1], CLIP, 1.0 - CLIP)
        value = xp.log(v) - xp.log1p(-v)
    xp.clip(uniform, 2.0**-26, 1.0 - 2.0**-24, out=uniform)  # both ends have finite logarithms
    for _ in range(2):
        xp.log(uniform, out=uniform)
        xp.negative(uniform, out=uniform)
    if value is not None:
        uniform[:, -1] = value
    return uniform
