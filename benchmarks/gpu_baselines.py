"""Other ways to sample a dual-softmax WaveRNN on a GPU, to set the persistent kernel beside.

    python benchmarks/gpu_baselines.py --output out.json
    python benchmarks/gpu_baselines.py --device cpu --hidden 64 --seconds 0.2   # the same code here

Each peer must first agree with the float64 reference on its own samples (`Peer.check`). On a CPU
nothing is captured: the step that a graph would replay is called instead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import gpu_record
import numpy as np
import torch
import torch_loop
from baselines import ArrayLoop, Logits, Peer, Samples, stacked_weights
from torch import Tensor

from wavernn_fast.models.eager import EagerDual

STEPS_A_REPLAY = 64
WORST_LOGIT_ERROR = 1e-3  # of a row that may be shown; fp32 gives about 1e-5


class DevicePeer(Peer):
    """A peer on a torch device or on the GPU of CuPy."""

    device = "cuda"

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


class EagerOnDevice(DevicePeer):
    """`models/eager.py` with its modules on the device: what the original projects do."""

    name = "torch eager"

    def build(self) -> None:
        self.model = EagerDual(self.config, self.tensors)
        for key, value in vars(self.model).items():
            if isinstance(value, (torch.nn.Module, Tensor)):
                setattr(self.model, key, value.to(self.device))

    def sample(self, n_steps: int, keep_logits: bool) -> tuple[Samples, Logits | None]:
        samples, logits = [], []
        with torch.inference_mode(), torch.device(self.device):
            nothing = torch.zeros(self.batch, n_steps, 0)
            for sample, step_logits in self.model._steps(n_steps, nothing, nothing):
                samples.append(sample)
                if keep_logits:
                    logits.append(step_logits)
            joined = torch.stack(samples, dim=1).cpu().numpy().astype(np.int32)
            kept = torch.stack(logits, dim=1).cpu().numpy() if keep_logits else None
        return joined, kept


class FusedStep:
    """One sample as few torch calls as it takes, on buffers that stay where they are.

    A graph replays addresses, so state, inputs, random numbers and results live in tensors made
    once: h [B, H], c and f [B, 1], uniforms [K, 2, B, 1], samples [K, B], logits [K, B, 512].
    """

    def __init__(self, peer: Peer, device: str) -> None:
        self.weights = {
            name: torch.from_numpy(array).to(device)
            for name, array in stacked_weights(peer.config, peer.tensors).items()
        }
        batch, hidden = peer.batch, peer.config.hidden_size
        self.half, self.first = hidden // 2, float(peer.config.first_input)
        make: Callable[..., Tensor] = lambda *shape: torch.zeros(*shape, device=device)  # noqa: E731
        self.h, self.coarse, self.fine = make(batch, hidden), make(batch, 1), make(batch, 1)
        self.uniforms = make(STEPS_A_REPLAY, 2, batch, 1)
        self.samples = make(STEPS_A_REPLAY, batch).to(torch.int32)
        self.logits = make(STEPS_A_REPLAY, batch, 512)
        self.compute: Callable[..., Any] = torch_loop.step

    def reset(self) -> None:
        self.h.zero_()
        self.coarse.fill_(self.first)
        self.fine.fill_(self.first)

    def steps(self, keep_logits: bool) -> None:
        """STEPS_A_REPLAY samples, in place."""
        h, coarse, fine = self.h, self.coarse, self.fine
        for t in range(STEPS_A_REPLAY):
            h, coarse, fine, sample, coarse_logits, fine_logits = self.compute(
                self.weights, h, coarse, fine, self.uniforms[t]
            )
            self.samples[t].copy_(sample)
            if keep_logits:
                self.logits[t, :, :256].copy_(coarse_logits)
                self.logits[t, :, 256:].copy_(fine_logits)
        self.h.copy_(h)
        self.coarse.copy_(coarse)
        self.fine.copy_(fine)


class TorchLoopOnDevice(DevicePeer):
    """The fused step, one Python iteration a sample."""

    name = "torch fused"
    captures = False
    compiles = False

    def build(self) -> None:
        self.step = FusedStep(self, self.device)
        if self.compiles:
            self.step.compute = torch.compile(torch_loop.step, dynamic=False)
        self.replays: dict[bool, Callable[[], None]] = {}

    def replay(self, keep_logits: bool) -> Callable[[], None]:
        """STEPS_A_REPLAY samples as one call: a captured graph, or the steps themselves."""
        if keep_logits not in self.replays:
            self.replays[keep_logits] = self._make(keep_logits)
        return self.replays[keep_logits]

    def _make(self, keep_logits: bool) -> Callable[[], None]:
        def plain() -> None:
            self.step.steps(keep_logits)

        if self.device != "cuda" or not self.captures:
            return plain
        side = torch.cuda.Stream()  # torch wants warm-ups on another stream before a capture
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                plain()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            plain()
        replay: Callable[[], None] = graph.replay
        return replay

    def sample(self, n_steps: int, keep_logits: bool) -> tuple[Samples, Logits | None]:
        step, rounds = self.step, -(-n_steps // STEPS_A_REPLAY)
        samples, logits = [], []
        with torch.inference_mode():
            replay = self.replay(keep_logits)
            step.reset()
            for _ in range(rounds):
                step.uniforms.uniform_()  # drawn on the device
                replay()
                samples.append(step.samples.clone())
                if keep_logits:
                    logits.append(step.logits.clone())
            joined = torch.cat(samples).cpu().numpy()[:n_steps].T
            kept = torch.cat(logits).cpu().numpy()[:n_steps] if keep_logits else None
        return joined, None if kept is None else kept.transpose(1, 0, 2)


class TorchGraph(TorchLoopOnDevice):
    """The fused step captured STEPS_A_REPLAY times into one CUDA graph; no Python in between."""

    name = "torch CUDA graph"
    captures = True


class TorchCompiledGraph(TorchGraph):
    """The same after torch.compile has fused what lies between the products."""

    name = "torch.compile, CUDA graph"
    compiles = True


class CupyLoop(DevicePeer, ArrayLoop):
    """cuBLAS products and CuPy's element kernels, one Python iteration a sample."""

    name = "cupy"

    def build(self) -> None:
        if self.device == "cuda":
            import cupy

            self.xp = cupy
        else:
            self.xp = np
        weights = stacked_weights(self.config, self.tensors)
        self.w = {k: self.xp.asarray(v) for k, v in weights.items()}

    def sample(self, n_steps: int, keep_logits: bool) -> tuple[Samples, Logits | None]:
        samples, logits = self._loop(n_steps, keep_logits)
        return self._host(samples), None if logits is None else self._host(logits)

    def _host(self, array: Any) -> Any:
        return array if self.xp is np else self.xp.asnumpy(array)


PEERS: dict[str, type[DevicePeer]] = {
    peer.name: peer
    for peer in (EagerOnDevice, TorchLoopOnDevice, CupyLoop, TorchGraph, TorchCompiledGraph)
}


def make(name: str, device: str, batch: int, hidden: int) -> DevicePeer:
    """Build a peer with its weights on the device."""
    config = cases.dual_config(hidden, hidden // 2, sample_rate=24000)
    peer = type(name, (PEERS[name],), {"device": device, "__doc__": PEERS[name].__doc__})
    result: DevicePeer = peer(config, cases.random_tensors(config, 0), batch)
    return result


def measure(peer: DevicePeer, seconds: float) -> dict[str, Any]:
    """Check, then time: samples a second of all streams, the median of five runs of a fifth."""
    error = peer.check()
    if not error < WORST_LOGIT_ERROR:
        raise RuntimeError(f"{peer.name}: logits are off by {error}, at most {WORST_LOGIT_ERROR}")
    n, took = STEPS_A_REPLAY, 0.0
    timed(peer, n)
    while (took := timed(peer, n)) < seconds / 20 and n < 1 << 20:
        n *= 2
    n = max(STEPS_A_REPLAY, round(n * seconds / 5 / took / STEPS_A_REPLAY) * STEPS_A_REPLAY)
    times = sorted(timed(peer, n) for _ in range(5))
    made = n * peer.batch
    return {
        "name": peer.name,
        "batch": peer.batch,
        "samples_per_s": made / times[2],
        "samples_per_s_best": made / times[0],
        "samples_per_s_worst": made / times[-1],
        "logit_error": error,
        "n_steps": n,
    }


def timed(peer: DevicePeer, n_steps: int) -> float:
    peer.synchronize()
    begin = time.perf_counter()
    peer.run(n_steps)
    peer.synchronize()
    return time.perf_counter() - begin


def run(record: gpu_record.Record, options: argparse.Namespace) -> None:
    for batch in options.batch:
        for name in options.peers:
            with record.attempt(f"{name}, batch {batch}"):
                row = measure(make(name, options.device, batch, options.hidden), options.seconds)
                record["rows"].append(row)
                print(
                    f"{name:26s} batch {batch:3d} {row['samples_per_s']:10.0f} samples/s, "
                    f"largest logit error {row['logit_error']:.1e}",
                    flush=True,
                )
            record.save()
    best = max(record["rows"], key=lambda r: r["samples_per_s"] * (r["batch"] == 1), default=None)
    if best:
        record.result = f"fastest of batch 1: {best['name']}, {best['samples_per_s']:.0f} samples/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one peer")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    with gpu_record.Record("baselines", options.output, rows=[]) as record:
        run(record, options)


if __name__ == "__main__":
    main()
