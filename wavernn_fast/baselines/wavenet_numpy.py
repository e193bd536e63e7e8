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
        """Numbers for every draw, [n, B, 1]; an InputError if there is nothing to sample."""
        if mel is not None:
            raise InputError("This WaveNet hears no mel; leave it out.")
        if n_steps < 1:
            raise InputError(f"The number of samples must be at least 1; found {n_steps}.")
        return np.random.default_rng(seed).random((n_steps, self.streams, 1), np.float32)


def hoisted_weights(config: WaveNetConfig, t: Any) -> dict[str, Any]:
    """Weights for loops with hoisted taps: matrices [in, out], views of row-major [out, in].

    sigmoid(x) = (1 + tanh(x / 2)) / 2, so one tanh serves both kinds of rows: those of the gates
    are halved here, and so is what is multiplied with z afterwards. Both are exact in floating
    point.

    Returns
    -------
    dict
        old [L, R, 2 G] and old_b [L, 1, 2 G] (the bias of the block); new, residual: lists of
        [R, 2 G] and [G, R]; residual_b: list of [R]; skip [L G, S] and skip_b [S] of all blocks
        together; embedding, output1, output2 and their biases.
    """
    half = np.ones((2 * config.gate_size, 1), np.float32)
    half[config.gate_size :] = 0.5
    blocks = [f"blocks.{i}" for i in range(config.n_blocks)]
    old = np.stack([half * t[f"{b}.old.weight"] for b in blocks])
    skip = np.concatenate([0.5 * t[f"{b}.skip.weight"] for b in blocks], axis=1)
    return {
        "embedding": np.ascontiguousarray(t["embedding.weight"]),
        "old": old.transpose(0, 2, 1),
        "old_b": np.stack([half.T * t[f"{b}.bias"] for b in blocks]),
        "new": [(half * t[f"{b}.new.weight"]).T for b in blocks],
        "residual": [(np.float32(0.5) * t[f"{b}.residual.weight"]).T for b in blocks[:-1]],
        "residual_b": [t[f"{b}.residual.bias"] for b in blocks[:-1]],
        "skip": np.asarray(skip, np.float32).T,
        "skip_b": np.sum([t[f"{b}.skip.bias"] for b in blocks], axis=0, dtype=np.float32),
        "output1": t["output1.weight"].T,
        "output1_b": t["output1.bias"],
        "output2": t["output2.weight"].T,
        "output2_b": t["output2.bias"],
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
        blocks, gates = config.n_blocks, config.gate_size
        rows = int(self.length.sum())
        self.past = np.zeros((rows, batch, config.residual_size), np.float32)
        self.x = np.zeros((blocks, batch, config.residual_size), np.float32)  # inputs of blocks
        self.sums = np.zeros((blocks, batch, 2 * gates), np.float32)
        self.a = np.zeros((batch, 2 * gates), np.float32)
        self.z = np.zeros((batch, blocks, gates), np.float32)

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
            self.x[0] = self.w["embedding"][labels]
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
                kept[:, t] = logits
        return Made(samples, kept)

    def _old_taps(self, places: NDArray[np.int64]) -> None:
        """What all blocks hear of the past, [L, B, 2 G]."""
        np.matmul(self.past[places], self.w["old"], out=self.sums)
        self.sums += self.w["old_b"]

    def _dilated(self, i: int) -> None:
        """The first product of block i: the tap of now."""
        np.matmul(self.x[i], self.w["new"][i], out=self.a)

    def _gate(self, i: int) -> None:
        self.a += self.sums[i]
        np.tanh(self.a, out=self.a)
        size = self.config.gate_size
        gate = self.a[:, size:]
        gate += 1.0
        np.multiply(self.a[:, :size], gate, out=self.z[:, i])

    def _residual(self, i: int) -> None:
        """The second product of block i: its channels for the next block."""
        x = self.x[i + 1]
        np.matmul(self.z[:, i], self.w["residual"][i], out=x)
        x += self.w["residual_b"][i]
        x += self.x[i]

    def _skip(self) -> Any:
        """What all blocks add to the output, [B, S]."""
        z = self.z.reshape(self.streams, -1)
        return np.maximum(z @ self.w["skip"] + self.w["skip_b"], 0.0)

    def _output1(self, skip: Any) -> Any:
        return np.maximum(skip @ self.w["output1"] + self.w["output1_b"], 0.0)

    def _output2(self, hidden: Any) -> Any:
        return hidden @ self.w["output2"] + self.w["output2_b"]

    def _draw(self, logits: Any, uniform: NDArray[np.float32]) -> Any:
        """First class [B] whose cumulative probability exceeds the uniform [B, 1]."""
        cumulative = np.cumsum(np.exp(logits - logits.max(axis=1, keepdims=True)), axis=1)
        chosen = (cumulative <= uniform * cumulative[:, -1:]).sum(axis=1)
        return np.minimum(chosen, self.config.n_classes - 1)
