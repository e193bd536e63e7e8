"""A careful loop over arrays: numpy, whose products are the BLAS behind it, and CuPy likewise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .loops import LOG_SCALE_FLOOR, FusedLoop


class ArrayLoop(FusedLoop):
    """One step as few array operations as it takes: gates cut as views, sums made in place."""

    def _start(self) -> Any:
        xp, config = self.xp, self.config
        dual = config.core == "dual"
        size = config.hidden_size // 2 if dual else config.hidden_size
        x = xp.full((2 if dual else 1, self.streams), config.first_input, np.float32)
        return [xp.zeros((size, self.streams), np.float32) for _ in range(2)], x

    def _run(
        self, state: Any, rows: Any, numbers: Any, keep: bool
    ) -> tuple[Any, NDArray[Any], NDArray[np.float32] | None]:
        xp, config = self.xp, self.config
        step = self._dual if config.core == "dual" else self._residual
        many = len(rows) > 1
        h, x = state
        n, _, batch = numbers.shape
        samples = xp.empty((n, batch), np.float32 if config.draws_values else np.int32)
        logits = xp.empty((n, config.logits_size, batch), np.float32) if keep else None
        for t in range(n):
            x, *step_logits = step(h, x, rows[t if many else 0], numbers[t], samples[t])
            if logits is not None:
                logits[t] = xp.concatenate(step_logits, axis=0)
        return (h, x), self._host(samples), None if logits is None else self._host(logits)

    def _host(self, array: Any) -> Any:
        """Array of `xp` -> numpy."""
        return array

    def _dual(self, h: list[Any], x: Any, row: Any, numbers: Any, sample: Any) -> tuple[Any, ...]:
        """One sample of every stream.

        h (two halves [H / 2, B]) is replaced in place, x [2, B] holds the last coarse and fine in
        [-1, 1], row [3 H, 1], numbers [512, B], and `sample` [B] is written.
        Returns the new x and the logits, coarse and fine.
        """
        xp, w, cut = self.xp, self.weights, 3 * h[0].shape[0]
        r = w["R"] @ xp.concatenate(h, axis=0)
        r += w["R_b"]
        inputs = w["I"] @ x
        inputs += row
        h[0] = self._cell(r[:cut], inputs[:cut], h[0])
        coarse_logits = self._output("O1", "O2", h[0])
        coarse = self._draw(coarse_logits, numbers[:256])
        x = xp.empty_like(x)
        xp.subtract(coarse / 127.5, 1.0, out=x[0])
        inputs = inputs[cut:]
        inputs += w["I_now"] * x[0]
        h[1] = self._cell(r[cut:], inputs, h[1])
        fine_logits = self._output("O3", "O4", h[1])
        fine = self._draw(fine_logits, numbers[256:])
        xp.subtract(fine / 127.5, 1.0, out=x[1])
        sample[:] = 256 * coarse + fine
        return x, coarse_logits, fine_logits

    def _cell(self, recurrent: Any, inputs: Any, h: Any) -> Any:
        """Products [3 n, B] (reset, update, candidate) of state and inputs, h [n, B] -> new h.

        `recurrent` is used up. The logistic function is taken from tanh, which cannot overflow.
        """
        xp, n = self.xp, h.shape[0]
        gates = recurrent[: 2 * n]
        gates += inputs[: 2 * n]
        gates *= 0.5
        xp.tanh(gates, out=gates)
        gates += 1.0
        gates *= 0.5
        candidate = recurrent[2 * n :]
        candidate *= gates[:n]
        candidate += inputs[2 * n :]
        xp.tanh(candidate, out=candidate)
        new = h - candidate
        new *= gates[n:]
        new += candidate
        return new

    def _dense(self, name: str, x: Any, bias: Any, relu: bool = True) -> Any:
        y = self.weights[name] @ x
        y += bias
        return self.xp.maximum(y, 0.0, out=y) if relu else y

    def _output(self, first: str, second: str, y: Any) -> Any:
        hidden = self._dense(first, y, self.weights[f"{first}_b"])
        return self._dense(second, hidden, self.weights[f"{second}_b"], relu=False)

    def _residual(
        self, h: list[Any], x: Any, row: Any, numbers: Any, sample: Any
    ) -> tuple[Any, ...]:
        """One sample of every stream: x [1, B], row [7 H + 2 K, 1]; see `_dual`."""
        xp, w, n = self.xp, self.weights, h[0].shape[0]
        heard = w["I"] * x
        heard += row[: 4 * n]
        recurrent = self._dense("R1", h[0], w["R1_b"], relu=False)
        h[0] = self._cell(recurrent, heard[n:], h[0])
        v = heard[:n]
        v += h[0]
        inputs = self._dense("W2", v, row[4 * n : 7 * n], relu=False)
        recurrent = self._dense("R2", h[1], w["R2_b"], relu=False)
        h[1] = self._cell(recurrent, inputs, h[1])
        v += h[1]
        width = self.config.fc_size
        p = self._dense("F1", v, row[7 * n : 7 * n + width])
        q = self._dense("F2", p, row[7 * n + width :])
        logits = self._dense("F3", q, w["F3_b"], relu=False)
        if self.config.head == "mol":
            x = self._logistic(logits, numbers)
            sample[:] = x[0]
        else:
            label = self._draw(logits, numbers)
            sample[:] = label
            x = xp.empty_like(x)
            scale = 2.0 / (len(logits) - 1)
            xp.subtract(label * scale, 1.0, out=x[0])
        return x, logits

    def _draw(self, logits: Any, numbers: Any) -> Any:
        """Classes [B] from logits and Gumbel numbers, both [C, B]."""
        return (logits + numbers).argmax(axis=0)

    def _logistic(self, logits: Any, numbers: Any) -> Any:
        """Draw x [1, B] in [-1, 1] from mixtures of logistics [3 n, B]."""
        xp, n = self.xp, len(logits) // 3
        k = self._draw(logits[:n], numbers[:n])[None]
        mean = xp.take_along_axis(logits, k + n, axis=0)
        log_scale = xp.take_along_axis(logits, k + 2 * n, axis=0)
        scale = xp.exp(xp.maximum(log_scale, LOG_SCALE_FLOOR))
        return xp.clip(mean + scale * numbers[n:], -1.0, 1.0)


class NumpyLoop(ArrayLoop):
    """The loop in numpy."""

    name: ClassVar[str] = "numpy"
    title: ClassVar[str] = "a loop in numpy, gates side by side"
    packages: ClassVar[tuple[str, ...]] = ("threadpoolctl",)

    def _run(
        self, state: Any, rows: Any, numbers: Any, keep: bool
    ) -> tuple[Any, NDArray[Any], NDArray[np.float32] | None]:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(self.threads, user_api="blas"):
            return super()._run(state, rows, numbers, keep)


class CupyLoop(ArrayLoop):
    """The loop in CuPy: products of cuBLAS, a kernel an operation, launched from Python."""

    name: ClassVar[str] = "cupy"
    title: ClassVar[str] = "a loop in CuPy: cuBLAS and a kernel an operation"
    packages: ClassVar[tuple[str, ...]] = ("cupy",)
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def _prepare(self) -> None:
        import cupy

        self.xp = cupy

    def _place(self, array: NDArray[Any]) -> Any:
        return self.xp.asarray(array)

    def _uniform(self, seed: int) -> Callable[[tuple[int, ...]], Any]:
        random = self.xp.random.RandomState(seed)
        return lambda shape: random.random_sample(shape, dtype=np.float32)

    def _host(self, array: Any) -> Any:
        return self.xp.asnumpy(array)
