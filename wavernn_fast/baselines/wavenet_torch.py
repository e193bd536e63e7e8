"""WaveNet sampled with cached queues in PyTorch: eager modules, everything made ahead, TorchScript.

torch is imported when a baseline is built.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.eager import torch_threads
from .base import Made
from .wavenet_numpy import WaveNetBaseline, hoisted_weights, queue_places


class WaveNetEager(WaveNetBaseline):
    """One call an operation, queues as lists, `Categorical` draws: how public WaveNets sample."""

    name = "wavenet-torch-eager"
    title = "WaveNet with cached queues, PyTorch modules as public implementations call them"
    packages = ("torch",)

    def _build(self) -> None:
        config, t = self.config, self.tensors
        pair = [
            np.concatenate([t[f"blocks.{i}.old.weight"], t[f"blocks.{i}.new.weight"]], axis=1)
            for i in range(config.n_blocks)
        ]
        blocks = [f"blocks.{i}" for i in range(config.n_blocks)]
        self.dilated = [_linear(w, t[f"{b}.bias"]) for w, b in zip(pair, blocks, strict=True)]
        self.skips = [_linear(t[f"{b}.skip.weight"], t[f"{b}.skip.bias"]) for b in blocks]
        self.residuals = [
            _linear(t[f"{b}.residual.weight"], t[f"{b}.residual.bias"]) for b in blocks[:-1]
        ]
        self.output1 = _linear(t["output1.weight"], t["output1.bias"])
        self.output2 = _linear(t["output2.weight"], t["output2.bias"])
        self.embedding = _embedding(t["embedding.weight"])

    def sample(
        self,
        n_steps: int,
        mel: NDArray[np.float32] | None = None,
        *,
        seed: int = 0,
        keep_logits: bool = False,
    ) -> Made:
        """See `Baseline.sample`."""
        import torch

        self._uniforms(n_steps, mel, seed)  # the same refusals; the draws are torch's own
        with torch_threads(self.threads), torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            samples, kept = self._loop(n_steps, keep_logits)
            logits = torch.stack(kept, dim=1).numpy() if keep_logits else None
            return Made(torch.stack(samples, dim=1).numpy().astype(np.int32), logits)

    def _loop(self, n_steps: int, keep_logits: bool) -> tuple[list[Any], list[Any]]:
        import torch

        config, samples, kept = self.config, [], []
        queues = [
            [torch.zeros(self.streams, config.residual_size)] * config.dilation(i)
            for i in range(config.n_blocks)
        ]
        label = torch.full((self.streams,), config.first_label)
        for t in range(n_steps):
            x, skips = self._embed(label), []
            for i, queue in enumerate(queues):
                place = t % len(queue)
                old, queue[place] = queue[place], x
                z = self._gate(self._dilated(i, old, x))
                skips.append(self._skip(i, z))
                if i < len(self.residuals):
                    x = self._residual(i, x, z)
            hidden = self._output1(sum(skips))
            logits = self._output2(hidden)
            label = self._draw(logits)
            samples.append(label)
            if keep_logits:
                kept.append(logits)
        return samples, kept

    def _embed(self, label: Any) -> Any:
        return self.embedding(label)

    def _dilated(self, i: int, old: Any, x: Any) -> Any:
        import torch

        return self.dilated[i](torch.cat([old, x], dim=1))

    def _gate(self, a: Any) -> Any:
        import torch

        filtered, gate = torch.chunk(a, 2, dim=1)
        return torch.tanh(filtered) * torch.sigmoid(gate)

    def _skip(self, i: int, z: Any) -> Any:
        return self.skips[i](z)

    def _residual(self, i: int, x: Any, z: Any) -> Any:
        return x + self.residuals[i](z)

    def _output1(self, skip: Any) -> Any:
        import torch

        return torch.relu(self.output1(torch.relu(skip)))

    def _output2(self, hidden: Any) -> Any:
        return self.output2(hidden)

    def _draw(self, logits: Any) -> Any:
        import torch

        distribution: Any = torch.distributions.Categorical(torch.softmax(logits, dim=1))
        return distribution.sample()


class WaveNetInference(WaveNetBaseline):
    """The numpy loop's plan in torch: inference mode, no allocation between the blocks."""

    name = "wavenet-torch-inference"
    title = "WaveNet with cached queues, PyTorch with inference mode and everything made ahead"
    packages = ("torch",)

    def _build(self) -> None:
        import torch

        found = hoisted_weights(self.config, self.tensors)
        self.w: dict[str, Any] = {
            name: [torch.from_numpy(w) for w in value]
            if isinstance(value, list)
            else torch.from_numpy(value)
            for name, value in found.items()
        }
        first, length = queue_places(self.config)
        self.first, self.length = torch.from_numpy(first), torch.from_numpy(length)

    def sample(
        self,
        n_steps: int,
        mel: NDArray[np.float32] | None = None,
        *,
        seed: int = 0,
        keep_logits: bool = False,
    ) -> Made:
        """See `Baseline.sample`."""
        import torch

        uniforms = torch.from_numpy(self._uniforms(n_steps, mel, seed))
        with torch_threads(self.threads), torch.inference_mode():
            samples, logits = self._run(uniforms, keep_logits)
            return Made(samples.numpy(), logits.numpy() if keep_logits else None)

    def _run(self, uniforms: Any, keep_logits: bool) -> tuple[Any, Any]:
        """Samples [B, n] int32 and logits [B, n, C], or [B, 0, C], as tensors."""
        import torch

        config, batch, n_steps = self.config, self.streams, len(uniforms)
        self._start()
        label = torch.full((batch,), config.first_label)
        samples = torch.zeros(batch, n_steps, dtype=torch.int32)
        kept = torch.zeros(batch, n_steps if keep_logits else 0, config.n_classes)
        last = config.n_blocks - 1
        for t in range(n_steps):
            places = self.first + t % self.length
            self._old_taps(places)
            self.x[0].copy_(self.w["embedding"][label].T)
            for i in range(last):
                self._dilated(i)
                self._gate(i)
                self._residual(i)
            self._dilated(last)
            self._gate(last)
            self.past[places] = self.all_x
            logits = self._output2(self._output1(self._skip()))
            label = self._draw(logits, uniforms[t])
            samples[:, t] = label
            if keep_logits:
                kept[:, t] = logits.T
        return samples, kept

    def _start(self) -> None:
        """Queues of zeros, and room for what a step makes, as a tensor and as its blocks."""
        import torch

        config, batch = self.config, self.streams
        blocks, gates = config.n_blocks, config.gate_size
        self.past = torch.zeros(int(self.length.sum()), config.residual_size, batch)
        self.all_x = torch.zeros(blocks, config.residual_size, batch)
        self.all_sums = torch.zeros(blocks, 2 * gates, batch)
        self.all_z = torch.zeros(blocks * gates, batch)
        self.a = torch.zeros(2 * gates, batch)
        self.x, self.sums = self.all_x.unbind(), self.all_sums.unbind()
        self.z = torch.split(self.all_z, gates)
        self.tanh, self.gate = torch.split(self.a, gates)

    def _old_taps(self, places: Any) -> None:
        import torch

        torch.baddbmm(self.w["old_b"], self.w["old"], self.past[places], out=self.all_sums)

    def _dilated(self, i: int) -> None:
        import torch

        torch.addmm(self.sums[i], self.w["new"][i], self.x[i], out=self.a)

    def _gate(self, i: int) -> None:
        import torch

        self.a.tanh_()
        torch.addcmul(self.tanh, self.tanh, self.gate, out=self.z[i])

    def _residual(self, i: int) -> None:
        import torch

        torch.addmm(self.w["residual_b"][i], self.w["residual"][i], self.z[i], out=self.x[i + 1])
        self.x[i + 1].add_(self.x[i])

    def _skip(self) -> Any:
        import torch

        return torch.addmm(self.w["skip_b"], self.w["skip"], self.all_z).relu_()

    def _output1(self, skip: Any) -> Any:
        import torch

        return torch.addmm(self.w["output1_b"], self.w["output1"], skip).relu_()

    def _output2(self, hidden: Any) -> Any:
        import torch

        return torch.addmm(self.w["output2_b"], self.w["output2"], hidden)

    def _draw(self, logits: Any, uniform: Any) -> Any:
        import torch

        cumulative = torch.cumsum(torch.softmax(logits, dim=0), dim=0)
        return (cumulative <= uniform).sum(dim=0).clamp_(max=self.config.n_classes - 1)


class WaveNetScript(WaveNetInference):
    """The same loop compiled by `torch.jit.script`: no Python runs between the samples."""

    name = "wavenet-torch-script"
    title = "WaveNet with cached queues, the whole loop in TorchScript"

    def _build(self) -> None:
        super()._build()
        import torch

        from .wavenet_script import loop

        with warnings.catch_warnings():  # deprecated, and still what people deploy
            warnings.simplefilter("ignore", DeprecationWarning)
            self._loop: Any = torch.jit.script(loop)
        self.tensors_of_loop = {k: v for k, v in self.w.items() if not isinstance(v, list)}
        for seed in range(3):  # its profiling runs and their optimisation
            self.sample(4, seed=seed)

    def _run(self, uniforms: Any, keep_logits: bool) -> tuple[Any, Any]:
        found: tuple[Any, Any] = self._loop(
            self.tensors_of_loop,
            self.w["new"],
            self.w["residual"],
            self.w["residual_b"],
            self.first,
            self.length,
            uniforms,
            self.config.first_label,
            keep_logits,
        )
        return found


# --- helpers ---


def _linear(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> Any:
    """`nn.Linear` with these weights."""
    import torch

    module = torch.nn.Linear(weight.shape[1], weight.shape[0], device="meta").to_empty(device="cpu")
    state = {"weight": torch.from_numpy(np.array(weight)), "bias": torch.from_numpy(np.array(bias))}
    module.load_state_dict(state)
    return module


def _embedding(weight: NDArray[np.float32]) -> Any:
    """`nn.Embedding` with these weights."""
    import torch

    rows, columns = weight.shape
    module = torch.nn.Embedding(rows, columns, device="meta").to_empty(device="cpu")
    module.load_state_dict({"weight": torch.from_numpy(np.array(weight))})
    return module
