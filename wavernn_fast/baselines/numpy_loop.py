"""A careful loop over arrays: numpy, whose products are the BLAS behind it, and CuPy likewise."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .loops import LOG_SCALE_FLOOR, FusedLoop


class ArrayLoop(FusedLoop):
    """One step as few array operations as it takes, halves and gates cut as views."""

    def _start(self) -> Any:
        xp, config = self.xp, self.config
        width = 2 if config.core == "dual" else 1
        x = xp.full((self.streams, width), config.first_input, np.float32)
        size = config.hidden_size if config.core == "residual" else config.hidden_size // 2
        return [xp.zeros((self.streams, size), np.float32) for _ in range(2)], x

    def _run(
        self, state: Any, rows: Any, numbers: NDArray[np.float32], keep: bool
    ) -> tuple[Any, NDArray[Any], NDArray[np.float32] | None]:
        xp, config = self.xp, self.config
        step = self._dual if config.core == "dual" else self._residual
        placed = self._place(numbers)
        h, x = state
        n, batch = numbers.shape[:2]
        samples = xp.empty((n, batch), np.float32 if config.draws_values else np.int32)
        logits = xp.empty((n, batch, config.logits_size), np.float32) if keep else None
        many = len(rows) > 1
        for t in range(n):
            x = step(h, x, rows[t if many else 0], placed[t], samples[t])
            if logits is not None:
                logits[t] = xp.concatenate(self._logits, axis=1)
        drawn = self._host(samples).T
        return (h, x), drawn, None if logits is None else self._host(logits).transpose(1, 0, 2)

    def _host(self, array: Any) -> Any:
        return array

    def _dual(self, h: list[Any], x: Any, row: Any, numbers: Any, sample: Any) -> Any:
        """One sample of every stream.

        h is replaced in place, x [B, 2] holds the last coarse and fine in [-1, 1], row [3 H],
        numbers [B, 2], and `sample` [B] is written. Returns the new x.
        """
        xp, w, cut = self.xp, self.weights, 3 * h[0].shape[1]
        r = xp.concatenate(h, axis=1) @ w["R"] + w["R_b"]
        h[0] = self._cell(r[:, :cut], x @ w["I_coarse"] + row[:cut], h[0])
        coarse_logits = self._output("O1", "O2", h[0])
        coarse = self._draw(coarse_logits, numbers[:, :1])
        now = coarse / np.float32(127.5) - np.float32(1.0)
        x = xp.concatenate([x, now], axis=1, dtype=np.float32)
        h[1] = self._cell(r[:, cut:], x @ w["I_fine"] + row[cut:], h[1])
        fine_logits = self._output("O3", "O4", h[1])
        fine = self._draw(fine_logits, numbers[:, 1:])
        sample[:] = (256 * coarse + fine)[:, 0]
        self._logits = (coarse_logits, fine_logits)
        then = fine / np.float32(127.5) - np.float32(1.0)
        return xp.concatenate([now, then], axis=1, dtype=np.float32)

    def _cell(self, recurrent: Any, inputs: Any, h: Any) -> Any:
        """Products [B, 3 n] (reset, update, candidate) of state and inputs, h [B, n] -> new h."""
        xp, half = self.xp, h.shape[1]
        gates = recurrent[:, : 2 * half] + inputs[:, : 2 * half]
        gates = 1.0 / (1.0 + xp.exp(-gates))
        reset, update = gates[:, :half], gates[:, half:]
        candidate = xp.tanh(reset * recurrent[:, 2 * half :] + inputs[:, 2 * half :])
        return candidate + update * (h - candidate)

    def _output(self, first: str, second: str, y: Any) -> Any:
        w = self.weights
        hidden = self.xp.maximum(y @ w[first] + w[f"{first}_b"], 0.0)
        return hidden @ w[second] + w[f"{second}_b"]

    def _draw(self, logits: Any, uniform: Any) -> Any:
        """First class [B, 1] whose cumulative probability exceeds the uniform [B, 1]."""
        xp = self.xp
        cumulative = xp.cumsum(xp.exp(logits - logits.max(axis=1, keepdims=True)), axis=1)
        below = cumulative <= uniform * cumulative[:, -1:]
        return xp.minimum(below.sum(axis=1, keepdims=True), logits.shape[1] - 1)

    def _residual(self, h: list[Any], x: Any, row: Any, numbers: Any, sample: Any) -> Any:
        """One sample of every stream: x [B, 1], row [7 H + 2 K]; see `_dual`."""
        xp, w, units = self.xp, self.weights, h[0].shape[1]
        heard = x @ w["I"] + row[: 4 * units]
        h[0] = self._cell(h[0] @ w["R1"] + w["R1_b"], heard[:, units:], h[0])
        v = heard[:, :units] + h[0]
        inputs = v @ w["W2"] + row[4 * units : 7 * units]
        h[1] = self._cell(h[1] @ w["R2"] + w["R2_b"], inputs, h[1])
        first, second = row[7 * units :].reshape(2, -1)
        p = xp.maximum((v + h[1]) @ w["F1"] + first, 0.0)
        logits = xp.maximum(p @ w["F2"] + second, 0.0) @ w["F3"] + w["F3_b"]
        self._logits = (logits,)
        if self.config.head == "mol":
            x = self._logistic(logits, numbers)
            sample[:] = x[:, 0]
            return x
        drawn = self._draw(logits, numbers)
        sample[:] = drawn[:, 0]
        return (drawn * (2.0 / (logits.shape[1] - 1.0)) - 1.0).astype(np.float32)

    def _logistic(self, logits: Any, numbers: Any) -> Any:
        """Draw x [B, 1] in [-1, 1] from mixtures of logistics [B, 3 n]."""
        xp, n = self.xp, logits.shape[1] // 3
        k = self._draw(logits[:, :n], numbers[:, :1])
        mean = xp.take_along_axis(logits, k + n, axis=1)
        log_scale = xp.take_along_axis(logits, k + 2 * n, axis=1)
        scale = xp.exp(xp.maximum(log_scale, LOG_SCALE_FLOOR))
        return xp.clip(mean + scale * numbers[:, 1:], -1.0, 1.0)


class NumpyLoop(ArrayLoop):
    """The loop in numpy."""

    name: ClassVar[str] = "numpy"
    title: ClassVar[str] = "a loop in numpy, gates side by side"
    packages: ClassVar[tuple[str, ...]] = ("threadpoolctl",)

    def _run(
        self, state: Any, rows: Any, numbers: NDArray[np.float32], keep: bool
    ) -> tuple[Any, NDArray[Any], NDArray[np.float32] | None]:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(self.threads):
            return super()._run(state, rows, numbers, keep)
