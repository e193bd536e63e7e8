"""What else samples a dual-softmax WaveRNN today, in plain form, for the tables of the benchmarks.

Every peer runs the same unconditioned model (hidden 896 unless told otherwise) from the same
canonical tensors. Before it may be timed, `check` runs the very loop that is timed with its logits
kept, and compares them with the float64 reference fed with the samples the peer drew.

    peer = make("torch", batch=16, threads=1)
    peer.check()               # largest absolute logit error; small, or the row is worthless
    peer.samples_per_s(5.0)    # all streams together

Benchmark-only packages: torch, onnx, onnxruntime, threadpoolctl.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "tests")]

import cases  # noqa: E402
import reference  # noqa: E402

from wavernn_fast.config import ModelConfig  # noqa: E402
from wavernn_fast.models.eager import EagerDual  # noqa: E402

Samples = NDArray[np.int32]  # [batch, n], 256 coarse + fine
Logits = NDArray[np.float32]  # [batch, n, 512], coarse then fine

CHECK_STEPS = 48  # long enough for every weight to have acted through the recurrence
CHUNK_STEPS = 200  # steps between two looks at the clock, divided by the batch, at least 20


class Peer(ABC):
    """One way of sampling `batch` independent streams with `threads` CPU threads.

    Attributes
    ----------
    name : str, what it is called in a table
    batch, threads : int
    """

    name = ""

    def __init__(
        self, config: ModelConfig, tensors: cases.Tensors, batch: int = 1, threads: int = 1
    ) -> None:
        if config.core != "dual" or config.n_mels:
            raise ValueError("The peers run the unconditioned dual core only.")
        self.config, self.tensors, self.batch, self.threads = config, tensors, batch, threads
        self.random = np.random.default_rng(0)
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Make the weights resident."""

    @abstractmethod
    def sample(self, n_steps: int, keep_logits: bool) -> tuple[Samples, Logits | None]:
        """Run `n_steps` steps of all streams from a state of zeros."""

    def run(self, n_steps: int) -> int:
        """Sample `n_steps` steps of every stream; returns the number of samples made."""
        samples, _ = self.sample(n_steps, keep_logits=False)
        if samples.shape != (self.batch, n_steps):
            raise RuntimeError(f"{self.name} made {samples.shape}, not {(self.batch, n_steps)}.")
        return int(samples.size)

    def check(self) -> float:
        """Return the largest |logit - reference| of the first and last stream's own samples.

        Raises
        ------
        RuntimeError
            If a logit is not finite or the streams all drew the same samples.
        """
        samples, logits = self.sample(CHECK_STEPS, keep_logits=True)
        if logits is None or not np.isfinite(logits).all():
            raise RuntimeError(f"{self.name}: a logit is not finite.")
        if self.batch > 1 and (samples[0] == samples[-1]).all():
            raise RuntimeError(f"{self.name}: every stream drew the same samples.")
        worst = 0.0
        for b in {0, self.batch - 1}:
            expected = reference.run(
                self.config, self.tensors, n_steps=CHECK_STEPS, forced=samples[b]
            )["logits"]
            worst = max(worst, float(np.abs(logits[b] - expected).max()))
        return worst

    def samples_per_s(self, seconds: float) -> float:
        """Samples a second of all streams together, over at least `seconds` after a warm-up."""
        steps = max(20, CHUNK_STEPS // self.batch)
        self.run(steps)
        made, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds or not made:
            made += self.run(steps)
        return made / elapsed


class Eager(Peer):
    """One torch call an operation, one `Categorical` a draw: how the original projects sample."""

    name = "eager"

    def build(self) -> None:
        self.model = EagerDual(self.config, self.tensors)
        self.seed = 0

    def sample(self, n_steps: int, keep_logits: bool) -> tuple[Samples, Logits | None]:
        import torch

        torch.set_num_threads(self.threads)
        self.seed += 1
        made = self.model.generate(
            n_steps, batch=self.batch, seed=self.seed, return_logits=keep_logits
        )
        return made.samples, made.logits


# --- numpy ----------------------------------------------------------------------------------------


class ArrayLoop(Peer):
    """A careful loop over arrays in single precision: one product for R, halves cut as views.

    `build` sets `xp`, numpy or a module like it, and `w`, the stacked weights as its arrays.
    """

    xp: Any
    w: dict[str, Any]

    def _loop(self, n_steps: int, keep_logits: bool) -> tuple[Any, Any]:
        """(samples [batch, n], logits [batch, n, 512] or None), both arrays of `xp`."""
        xp, w, batch, half = self.xp, self.w, self.batch, self.config.hidden_size // 2
        uniforms = xp.asarray(self.random.random((n_steps, 2, batch, 1), np.float32))
        h = [xp.zeros((batch, half), np.float32) for _ in range(2)]
        x = xp.full((batch, 3), self.config.first_input, np.float32)  # c, f, c now
        samples = xp.zeros((batch, n_steps), np.int32)
        logits = xp.zeros((batch, n_steps, 512), np.float32) if keep_logits else None
        for t in range(n_steps):
            r = xp.concatenate(h, axis=1) @ w["R"] + w["R_b"]
            inputs = x[:, :2] @ w["I_coarse"] + w["I_coarse_b"]
            h[0] = self._cell(r[:, : 3 * half], inputs, h[0])
            coarse_logits = self._output("O1", "O2", h[0])
            coarse = self._draw(coarse_logits, uniforms[t, 0])
            x[:, 2] = coarse / 127.5 - 1.0
            inputs = x @ w["I_fine"] + w["I_fine_b"]
            h[1] = self._cell(r[:, 3 * half :], inputs, h[1])
            fine_logits = self._output("O3", "O4", h[1])
            fine = self._draw(fine_logits, uniforms[t, 1])
            x[:, 0] = x[:, 2]
            x[:, 1] = fine / 127.5 - 1.0
            samples[:, t] = 256 * coarse + fine
            if logits is not None:
                logits[:, t] = xp.concatenate([coarse_logits, fine_logits], axis=1)
        return samples, logits

    def _cell(self, recurrent: Any, inputs: Any, h: Any) -> Any:
        xp, half = self.xp, h.shape[1]
        gates = recurrent[:, : 2 * half] + inputs[:, : 2 * half]
        gates = 1.0 / (1.0 + xp.exp(-gates))
        reset, update = gates[:, :half], gates[:, half:]
        candidate = xp.tanh(reset * recurrent[:, 2 * half :] + inputs[:, 2 * half :])
        return candidate + update * (h - candidate)

    def _output(self, first: str, second: str, y: Any) -> Any:
        w = self.w
        hidden = self.xp.maximum(y @ w[first] + w[f"{first}_b"], 0.0)
        return hidden @ w[second] + w[f"{second}_b"]

    def _draw(self, logits: Any, uniform: Any) -> Any:
        xp = self.xp
        cumulative = xp.cumsum(xp.exp(logits - logits.max(axis=1, keepdims=True)), axis=1)
        return xp.minimum((cumulative <= uniform * cumulative[:, -1:]).sum(axis=1), 255)


class NumpyLoop(ArrayLoop):
    """The loop in numpy, which the BLAS behind it makes fast."""

    name = "numpy"

    def build(self) -> None:
        self.xp = np
        self.w = stacked_weights(self.config, self.tensors)  # transposed views: BLAS takes them

    def sample(self, n_steps: int, keep_logits: bool) -> tuple[Samples, Logits | None]:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(self.threads):
            return self._loop(n_steps, keep_logits)


# --- compiled and batched -------------------------------------------------------------------------


def half_rows(hidden_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the coarse and of the fine half of all three gates, [3 H / 2] each."""
    rows = np.arange(3 * hidden_size).reshape(3, 2, hidden_size // 2)
    return rows[:, 0].ravel(), rows[:, 1].ravel()


def stacked_weights(config: ModelConfig, t: cases.Tensors) -> dict[str, NDArray[np.float32]]:
    """Weights [in, out] and biases [out] with the gates of each half side by side."""
    rows = half_rows(config.hidden_size)
    both = np.concatenate(rows)
    weights = {
        "R": t["gru.w_recurrent"][both].T,
        "R_b": t["gru.b_recurrent"][both],
        "I_coarse": t["gru.w_sample"][rows[0], :2].T,
        "I_coarse_b": t["gru.b_input"][rows[0]],
        "I_fine": t["gru.w_sample"][rows[1]].T,
        "I_fine_b": t["gru.b_input"][rows[1]],
    }
    for i, name in enumerate(("coarse_fc1", "coarse_fc2", "fine_fc1", "fine_fc2"), start=1):
        weights |= {f"O{i}": t[f"{name}.weight"].T, f"O{i}_b": t[f"{name}.bias"]}
    return weights


class TorchLoop(Peer):
    """torch.inference_mode, fused gates, inverse-CDF draws from numbers drawn ahead."""

    name = "torch"

    def build(self) -> None:
        import torch
        import torch_loop

        # transposed views of row-major weights: the layout torch.nn.Linear hands to the BLAS
        weights = stacked_weights(self.config, self.tensors)
        self.weights = {name: torch.from_numpy(array) for name, array in weights.items()}
        self.loop: Any = torch_loop.loop

    def sample(self, n_steps: int, keep_logits: bool) -> tuple[Samples, Logits | None]:
        import torch

        torch.set_num_threads(self.threads)
        uniforms = torch.from_numpy(self.random.random((n_steps, 2, self.batch, 1), np.float32))
        with torch.inference_mode():
            samples, logits = self.loop(
                self.weights, uniforms, float(self.config.first_input), keep_logits
            )
        return samples.numpy(), logits.numpy() if keep_logits else None


class TorchScript(TorchLoop):
    """The same loop compiled by torch.jit.script: no Python runs between samples."""

    name = "torch.jit.script"

    def build(self) -> None:
        super().build()
        import torch
        import torch_loop

        with warnings.catch_warnings():  # deprecated, and still what people deploy
            warnings.simplefilter("ignore", DeprecationWarning)
            self.loop = torch.jit.script(torch_loop.loop)
        for _ in range(3):  # its profiling runs and their optimisation
            self.sample(20, keep_logits=False)


class OnnxScan(Peer):
    """ONNX Runtime running the whole loop as one Scan operator."""

    name = "onnxruntime-scan"

    def build(self) -> None:
        import onnx_scan

        weights = stacked_weights(self.config, self.tensors)
        self.sessions = {
            keep: onnx_scan.session(weights, keep_logits=keep, threads=self.threads)
            for keep in (False, True)
        }

    def sample(self, n_steps: int, keep_logits: bool) -> tuple[Samples, Logits | None]:
        first = np.full((self.batch, 1), self.config.first_input, np.float32)
        found = self.sessions[keep_logits].run(
            None,
            {
                "h_0": np.zeros((self.batch, self.config.hidden_size), np.float32),
                "coarse_0": first,
                "fine_0": first,
                "uniforms": self.random.random((n_steps, 2, self.batch, 1), np.float32),
            },
        )
        samples = found[0][:, :, 0].T
        return samples, found[1].transpose(1, 0, 2) if keep_logits else None


PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Eager, NumpyLoop, TorchLoop, TorchScript, OnnxScan)
}


def make(
    name: str, *, batch: int = 1, threads: int = 1, hidden_size: int = 896, seed: int = 0
) -> Peer:
    """Build the peer `name` (a key of `PEERS`) on random weights of the given hidden size.

    Raises
    ------
    KeyError
        If there is no such peer.
    ImportError
        If the package it measures is not installed.
    """
    config = cases.dual_config(hidden_size, hidden_size // 2, sample_rate=24000)
    return PEERS[name](config, cases.random_tensors(config, seed), batch, threads)


def main() -> None:
    """Check and time every peer at the given batches; one line each."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--hidden-size", type=int, default=896)
    options = parser.parse_args()
    print(f"{'peer':18s} {'batch':>5s} {'threads':>7s} {'logit error':>12s} {'samples/s':>10s}")
    for name in options.peers:
        for batch in options.batch:
            peer = make(name, batch=batch, threads=options.threads, hidden_size=options.hidden_size)
            error, rate = peer.check(), peer.samples_per_s(options.seconds)
            print(
                f"{name:18s} {batch:5d} {options.threads:7d} {error:12.1e} {rate:10.0f}", flush=True
            )


if __name__ == "__main__":
    main()
