"""WaveNet sampled with cached queues in numpy, and what all its samplers share.

Every block keeps its inputs until the dilated tap reaches them, so a sample costs the products of
one step and no convolution (Le Paine et al. 2016, Fast Wavenet generation algorithm). Two things
are hoisted: the taps that reach back are known before the step begins and are one batched product
for all blocks, and the skip connections are one product over all blocks at the end. What is left
between the samples is the chain of `WaveNetConfig.sequential` products that must wait for each
other. Each operation is a method, so that its time can be told apart (`wavernn_fast.bench`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .base import Baseline, Made
from .wavenet import WaveNetConfig, expected_shapes, teacher_forced_logits


class WaveNetBaseline(Baseline):
    """A way to sample WaveNet: takes a `WaveNetConfig` and nothing else."""

    @classmethod
    def supports(cls, config: Any) -> bool:
        """Whether it is a WaveNet."""
        return isinstance(config, WaveNetConfig)

    def reference_logits(
        self, samples: NDArray[Any], mel: NDArray[np.float32] | None = None
    ) -> NDArray[np.float64]:
        """Logits [n, n_classes] of one stream's samples [n], by whole convolutions in float64."""
        return teacher_forced_logits(self.config, self.tensors, samples)

    @property
    def macs_per_step(self) -> int:
        """Multiply-adds of a sample of one stream: as many as there are weights in matrices."""
        shapes = expected_shapes(self.config).items()
        return sum(
            shape[0] * shape[1]
            for name, shape in shapes
            if len(shape) == 2 and name != "embedding.weight"
        )

    def _uniforms(self, n_steps: int, mel: Any, seed: int) -> NDArray[np.float32]:
        """Numbers for every draw, [n, B]; an InputError if there is nothing to sample."""
        if mel is not None:
            raise InputError("This WaveNet hears no mel; leave it out.")
        if n_steps < 1:
            raise InputError(f"The number of samples must be at least 1; found {n_steps}.")
        return np.random.default_rng(seed).random((n_steps, self.streams), np.float32)


def hoisted_weights(config: WaveNetConfig, t: Any) -> dict[str, Any]:
    """Weights for loops with hoisted taps: matrices [out, in], row-major, and biases [out, 1].

    The state of a loop is [in, B]: products W h were faster than h W^T with more than one stream,
    in numpy and in PyTorch, and as fast with one.

    sigmoid(x) = (1 + tanh(x / 2)) / 2, so one tanh serves both kinds of rows: those of the gates
    are halved here, and so is what is multiplied with z afterwards. Both are exact in floating
    point.

    Returns
    -------
    dict
        old [L, 2 G, R] and old_b [L, 2 G, 1] (the bias of the block); new, residual: lists of
        [2 G, R] and [R, G]; residual_b: list of [R, 1]; skip [S, L G] and skip_b [S, 1] of all
        blocks together; embedding [C, R], output1, output2 and their biases.
    """
    half = np.ones((2 * config.gate_size, 1), np.float32)
    half[config.gate_size :] = 0.5
    blocks = [f"blocks.{i}" for i in range(config.n_blocks)]
    skip = np.concatenate([0.5 * t[f"{b}.skip.weight"] for b in blocks], axis=1)
    skip_b = np.stack([t[f"{b}.skip.bias"] for b in blocks], axis=1).sum(axis=1, keepdims=True)
    return {
        "embedding": np.ascontiguousarray(t["embedding.weight"]),
        "old": np.stack([half * t[f"{b}.old.weight"] for b in blocks]),
        "old_b": np.stack([half * t[f"{b}.bias"][:, None] for b in blocks]),
        "new": [half * t[f"{b}.new.weight"] for b in blocks],
        "residual": [np.float32(0.5) * t[f"{b}.residual.weight"] for b in blocks[:-1]],
        "residual_b": [t[f"{b}.residual.bias"][:, None] for b in blocks[:-1]],
        "skip": np.asarray(skip, np.float32),
        "skip_b": np.asarray(skip_b, np.float32),
        "output1": np.ascontiguousarray(t["output1.weight"]),
        "output1_b": t["output1.bias"][:, None],
        "output2": np.ascontiguousarray(t["output2.weight"]),
        "output2_b": t["output2.bias"][:, None],
    }


def queue_places(config: WaveNetConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First row of each block's ring in the common store, and its length; [L] each."""
    lengths = np.array([config.dilation(i) for i in range(config.n_blocks)])
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths


class WaveNetNumpy(WaveNetBaseline):
    """A careful loop in single precision, which the BLAS behind numpy makes fast."""

    name = "wavenet-numpy"
    title = "WaveNet with cached queues, a loop in numpy"
    packages = ("threadpoolctl",)

    def _build(self) -> None:
        self.w = hoisted_weights(self.config, self.tensors)
        self.first, self.length = queue_places(self.config)

    def sample(
        self,
        n_steps: int,
        mel: NDArray[np.float32] | None = None,
        *,
        seed: int = 0,
        keep_logits: bool = False,
    ) -> Made:
        """See `Baseline.sample`."""
        from threadpoolctl import threadpool_limits

        uniforms = self._uniforms(n_steps, mel, seed)
        with threadpool_limits(self.threads):
            return self._loop(uniforms, keep_logits)

    def _start(self) -> None:
        """Queues of zeros, and room for what a step makes."""
        config, batch = self.config, self.streams
        blocks, gates, rows = config.n_blocks, config.gate_size, int(self.length.sum())
        self.past = np.zeros((rows, config.residual_size, batch), np.float32)
        self.x = np.zeros((blocks, config.residual_size, batch), np.float32)  # inputs of blocks
        self.sums = np.zeros((blocks, 2 * gates, batch), np.float32)
        self.a = np.zeros((2 * gates, batch), np.float32)
        self.z = np.zeros((blocks, gates, batch), np.float32)

    def _loop(self, uniforms: NDArray[np.float32], keep_logits: bool) -> Made:
        config, batch, n_steps = self.config, self.streams, len(uniforms)
        self._start()
        labels = np.full(batch, config.first_label)
        samples = np.zeros((batch, n_steps), np.int32)
        kept = np.zeros((batch, n_steps, config.n_classes), np.float32) if keep_logits else None
        last = config.n_blocks - 1
        for t in range(n_steps):
            places = self.first + t % self.length
            self._old_taps(places)
            self.x[0] = self.w["embedding"][labels].T
            for i in range(last):
                self._dilated(i)
                self._gate(i)
                self._residual(i)
            self._dilated(last)
            self._gate(last)
            self.past[places] = self.x
            logits = self._output2(self._output1(self._skip()))
            labels = self._draw(logits, uniforms[t])
            samples[:, t] = labels
            if kept is not None:
                kept[:, t] = logits.T
        return Made(samples, kept)

    def _old_taps(self, places: NDArray[np.int64]) -> None:
        """What all blocks hear of the past, [L, 2 G, B]."""
        np.matmul(self.w["old"], self.past[places], out=self.sums)
        self.sums += self.w["old_b"]

    def _dilated(self, i: int) -> None:
        """The first product of block i: the tap of now."""
        np.matmul(self.w["new"][i], self.x[i], out=self.a)

    def _gate(self, i: int) -> None:
        self.a += self.sums[i]
        np.tanh(self.a, out=self.a)
        size = self.config.gate_size
        gate = self.a[size:]
        gate += 1.0
        np.multiply(self.a[:size], gate, out=self.z[i])

    def _residual(self, i: int) -> None:
        """The second product of block i: its channels for the next block."""
        x = self.x[i + 1]
        np.matmul(self.w["residual"][i], self.z[i], out=x)
        x += self.w["residual_b"][i]
        x += self.x[i]

    def _skip(self) -> Any:
        """What all blocks add to the output, [S, B]."""
        z = self.z.reshape(-1, self.streams)
        return np.maximum(self.w["skip"] @ z + self.w["skip_b"], 0.0)

    def _output1(self, skip: Any) -> Any:
        return np.maximum(self.w["output1"] @ skip + self.w["output1_b"], 0.0)

    def _output2(self, hidden: Any) -> Any:
        return self.w["output2"] @ hidden + self.w["output2_b"]

    def _draw(self, logits: Any, uniform: NDArray[np.float32]) -> Any:
        """First class [B] whose cumulative probability exceeds the uniform [B]."""
        cumulative = np.cumsum(np.exp(logits - logits.max(axis=0)), axis=0)
        chosen = (cumulative <= uniform * cumulative[-1]).sum(axis=0)
        return np.minimum(chosen, self.config.n_classes - 1)
