"""The cores as plain PyTorch modules, sampled the way the original projects do it.

One Python iteration a sample, one library call an operation, `softmax` and `Categorical` for every
draw. This is the other opinion for `verify` (engine against torch under teacher forcing) and the
baseline for `bench`; nothing here is meant to be fast. torch is imported when a class is built.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..errors import InputError, MissingDependencyError
from .eager_conditioning import cut_folds, fold_starts, per_sample

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Mapping[str, NDArray[np.float32]]


class Generated(NamedTuple):
    """What `generate` made: B streams of n samples."""

    samples: NDArray[Any]  # [B, n] int32: 256 coarse + fine, or labels; else float32 in [-1, 1]
    logits: NDArray[np.float32] | None  # [B, n, logits_size], if asked for


class EagerModel(ABC):
    """What both cores share: weights as modules, conditioning, folds, the collecting loop.

    Parameters
    ----------
    config : ModelConfig
    tensors : canonical tensors (docs/formats.md)
    dtype : "float32" or "float64", of weights and arithmetic

    Raises
    ------
    MissingDependencyError
        If torch is not installed.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Tensors,
        dtype: Literal["float32", "float64"] = "float32",
    ) -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingDependencyError(
                "The PyTorch reference model needs torch, which is not installed: "
                'pip install "wavernn-fast[torch]".'
            ) from error
        self.config = config
        self.dtype = getattr(torch, dtype)
        self._tensors = {
            name: torch.from_numpy(np.array(value)).to(self.dtype)
            for name, value in tensors.items()
        }
        self.hear(np.zeros(config.speaker_size))
        self._build()

    def hear(self, speaker: NDArray[Any]) -> None:
        """Take the vector [speaker_size] that the model hears from now on; zeros at first."""
        import torch

        self._speaker = torch.from_numpy(np.array(speaker, np.float64)).to(self.dtype)

    # -- what a core supplies ----------------------------------------------------------------------

    @abstractmethod
    def _build(self) -> None:
        """Make the modules from `self._tensors`."""

    @abstractmethod
    def _steps(self, n_steps: int, mel: Tensor, aux: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (samples [B], logits [B, logits_size]) for mel [B, n, M] and aux [B, n, S A]."""

    @abstractmethod
    def _forced(self, samples: Tensor, mel: Tensor, aux: Tensor) -> Tensor:
        """Logits [n, logits_size] for samples [n], mel [n, M], aux [n, S A]."""

    # -- what users call ---------------------------------------------------------------------------

    def generate(
        self,
        n_steps: int | None = None,
        mel: NDArray[np.float32] | None = None,
        *,
        batch: int = 1,
        fold: tuple[int, int] | None = None,
        seed: int = 0,
        return_logits: bool = False,
    ) -> Generated:
        """Sample freely, as the original loops do.

        Parameters
        ----------
        n_steps : samples of each stream; default all that the mel covers
        mel : float32 [n_mels, n_frames]; None for an unconditioned model
        batch : streams that hear the same mel (or none); each draws for itself
        fold : (target, overlap) in samples: cut the utterance into folds and run them as the batch
        seed : of torch's generator; the global state is left as it was
        return_logits : also keep every step's logits

        Raises
        ------
        InputError
            If the mel is missing, misshapen, too short, or gives no whole fold, or the model
            cannot be folded.
        """
        import torch

        if fold is not None and self.config.subscale is not None:
            raise InputError("A subscale model draws an utterance as a whole; leave `fold` out.")
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            mel_up, aux = self.conditions(mel)
            n_steps = self._covered(n_steps, mel_up)
            self._check_steps(n_steps, *(fold or ()))
            if fold is None:
                mel_up, aux = (x[:n_steps].expand(batch, -1, -1) for x in (mel_up, aux))
            else:
                starts, length = fold_starts(n_steps, *fold), fold[0] + 2 * fold[1]
                mel_up, aux = (cut_folds(x[:n_steps], starts, length) for x in (mel_up, aux))
                n_steps = length
            samples, logits = self._collect(n_steps, mel_up, aux, return_logits)
        kind = np.float32 if self.config.draws_values else np.int32
        return Generated(samples.numpy().astype(kind), None if logits is None else logits.numpy())

    def teacher_forced_logits(
        self, samples: NDArray[Any], mel: NDArray[np.float32] | None = None
    ) -> NDArray[Any]:
        """Logits of every step when `samples` are fed back, by whole-sequence GRUs.

        Parameters
        ----------
        samples : [n], of the kind `generate` returns; logits t come before sample t is known
        mel : float32 [n_mels, n_frames] covering n samples; None for an unconditioned model

        Returns
        -------
        array [n, logits_size] of the model's dtype
        """
        import torch

        with torch.inference_mode():
            mel_up, aux = self.conditions(mel)
            n = self._covered(len(samples), mel_up)
            self._check_steps(n)
            forced = torch.from_numpy(np.asarray(samples, np.float64)).to(self.dtype)
            result: NDArray[Any] = self._forced(forced, mel_up[:n], aux[:n]).numpy()
        return result

    def conditions(self, mel: NDArray[np.float32] | None) -> tuple[Tensor, Tensor]:
        """Per-sample conditioning: mel [n_mels, n] -> (mel [T, M], aux [T, S * aux_size])."""
        return per_sample(self.config, self._tensors, mel, self.dtype)

    # -- pieces ------------------------------------------------------------------------------------

    def _collect(
        self, n_steps: int, mel: Tensor, aux: Tensor, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Samples [B, n] and, if they are to be kept, logits [B, n, logits_size]; see `_steps`."""
        import torch

        samples, logits = [], []
        for sample, step_logits in self._steps(n_steps, mel, aux):
            samples.append(sample)
            if keep:
                logits.append(step_logits)
        return torch.stack(samples, dim=1), torch.stack(logits, dim=1) if keep else None

    def _covered(self, n_steps: int | None, mel_up: Tensor) -> int:
        if self.config.n_mels:
            n_steps = len(mel_up) if n_steps is None else n_steps
            if n_steps > len(mel_up):
                raise InputError(f"{n_steps} samples wanted, the mel covers {len(mel_up)}.")
        if not n_steps or n_steps < 1:
            raise InputError(f"The number of samples must be at least 1; found {n_steps}.")
        return n_steps

    def _check_steps(self, *counts: int) -> None:
        bands = self.config.bands
        for count in counts:
            if count % bands:
                raise InputError(f"{count} samples are no whole steps of {bands} bands.")

    def _linear(self, weight: Tensor, bias: Tensor | None) -> Any:
        rows, columns = weight.shape
        state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        return self._module("Linear", state, columns, rows, bias=bias is not None)

    def _layer(self, name: str) -> Any:
        return self._linear(self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"])

    def _gru(self, w_input: Tensor, name: str, kind: Literal["GRU", "GRUCell"]) -> Any:
        """`nn.GRU` (batch first) or `nn.GRUCell` with the weights of the canonical `name`."""
        end = "_l0" if kind == "GRU" else ""
        state = {
            f"weight_ih{end}": w_input,
            f"weight_hh{end}": self._tensors[f"{name}.w_recurrent"],
            f"bias_ih{end}": self._tensors[f"{name}.b_input"],
            f"bias_hh{end}": self._tensors[f"{name}.b_recurrent"],
        }
        options = {"batch_first": True} if kind == "GRU" else {}
        return self._module(kind, state, w_input.shape[1], w_input.shape[0] // 3, **options)

    def _module(self, kind: str, state: dict[str, Tensor], *sizes: int, **options: bool) -> Any:
        """`nn.<kind>` holding `state`; no random initial weights, so no random state is used."""
        from torch import nn

        module = getattr(nn, kind)(*sizes, dtype=self.dtype, device="meta", **options)
        module.to_empty(device="cpu").load_state_dict(state)
        return module


def _categorical(logits: Tensor) -> Tensor:
    """Draw classes [B] from logits [B, C] the way the originals do."""
    import torch

    posterior = torch.softmax(logits, dim=1)
    distribution: Any = torch.distributions.Categorical(posterior)
    drawn: Tensor = distribution.sample()
    return drawn


class EagerDual(EagerModel):
    """Dual-softmax core: R, I_coarse, I_fine and O1 to O4 as separate layers, both halves a step.

    Kalchbrenner et al. 2018, equation 2; gates reset, update, candidate.
    """

    def _build(self) -> None:
        import torch

        t = self._tensors
        size, half = self.config.hidden_size, self.config.hidden_size // 2
        recurrent_bias = t["gru.b_recurrent"]
        self.R = self._linear(
            t["gru.w_recurrent"], recurrent_bias if recurrent_bias.any() else None
        )
        rows = torch.arange(3 * size).reshape(3, 2, half)
        coarse, fine = rows[:, 0].flatten(), rows[:, 1].flatten()
        inputs = t["gru.w_sample"]
        conditioning = t.get("gru.w_conditioning", inputs[:, :0])
        self.I_coarse = self._linear(
            torch.cat([inputs[coarse, :2], conditioning[coarse]], dim=1), None
        )
        self.I_fine = self._linear(torch.cat([inputs[fine], conditioning[fine]], dim=1), None)
        self.bias_coarse = t["gru.b_input"][coarse]
        self.bias_fine = t["gru.b_input"][fine]
        self.O1, self.O2 = self._layer("coarse_fc1"), self._layer("coarse_fc2")
        self.O3, self.O4 = self._layer("fine_fc1"), self._layer("fine_fc2")

    def _steps(self, n_steps: int, mel: Tensor, aux: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        import torch

        h = torch.zeros(len(mel), self.config.hidden_size, dtype=self.dtype)
        last = torch.full((len(mel), 2), self.config.first_input, dtype=self.dtype)
        for i in range(n_steps):
            now = [] if not self.config.n_mels else [mel[:, i], aux[:, i]]
            h, last, drawn, logits = self._step(h, last, now, lambda part, x: _categorical(x))
            yield drawn, logits

    def _step(
        self, h: Tensor, last: Tensor, now: list[Tensor], draw: Callable[[int, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One sample of N streams.

        Parameters
        ----------
        h, last : state [N, H], and coarse and fine of the last sample [N, 2] in [-1, 1]
        now : conditioning of this sample, [N, ...] each
        draw : (0 for coarse or 1 for fine, logits [N, 256]) -> int64 [N]

        Returns
        -------
        h and last for the next sample, samples [N] int64, logits [N, 512]
        """
        import torch

        half = self.config.hidden_size // 2
        h_coarse, h_fine = torch.split(h, half, dim=1)
        gates = torch.split(self.R(h), half, dim=1)  # r, r, u, u, e, e

        inputs = self.I_coarse(torch.cat([last, *now], dim=1)) + self.bias_coarse
        h_coarse = _half_cell(gates[0::2], torch.split(inputs, half, dim=1), h_coarse)
        logits_coarse = self.O2(torch.relu(self.O1(h_coarse)))
        coarse = draw(0, logits_coarse)
        coarse_now = coarse.unsqueeze(1).to(self.dtype) / 127.5 - 1.0

        inputs = self.I_fine(torch.cat([last, coarse_now, *now], dim=1)) + self.bias_fine
        h_fine = _half_cell(gates[1::2], torch.split(inputs, half, dim=1), h_fine)
        logits_fine = self.O4(torch.relu(self.O3(h_fine)))
        fine = draw(1, logits_fine)
        fine_now = fine.unsqueeze(1).to(self.dtype) / 127.5 - 1.0
        return (
            torch.cat([h_coarse, h_fine], dim=1),
            torch.cat([coarse_now, fine_now], dim=1),
            coarse * 256 + fine,
            torch.cat([logits_coarse, logits_fine], dim=1),
        )

    def _forced(self, samples: Tensor, mel: Tensor, aux: Tensor) -> Tensor:
        now = [mel[None], aux[None]] if self.config.n_mels else []
        return self._follow(samples[None], now)[0]

    def _follow(self, samples: Tensor, now: list[Tensor]) -> Tensor:
        """Logits [N, n, 512] of sequences [N, n] with conditioning [N, n, ...].

        The masked cell is one standard GRU: c_t is known and its coarse column is zero.
        """
        import torch

        coarse, fine = torch.div(samples, 256, rounding_mode="floor"), samples % 256
        halves = torch.stack([coarse, fine], dim=2) / 127.5 - 1.0
        first = torch.full_like(halves[:, :1], self.config.first_input)
        x = torch.cat([first, halves[:, :-1]], dim=1)
        w_input = self._tensors["gru.w_sample"]
        if now:
            w_input = torch.cat([w_input, self._tensors["gru.w_conditioning"]], dim=1)
        y, _ = self._gru(w_input, "gru", "GRU")(torch.cat([x, halves[:, :, :1], *now], dim=2))
        y_coarse, y_fine = torch.split(y, self.config.hidden_size // 2, dim=2)
        logits_coarse = self.O2(torch.relu(self.O1(y_coarse)))
        logits_fine = self.O4(torch.relu(self.O3(y_fine)))
        return torch.cat([logits_coarse, logits_fine], dim=2)


def _half_cell(recurrent: Sequence[Tensor], inputs: Sequence[Tensor], h: Tensor) -> Tensor:
    """Gates r, u, e of one half, each [B, H/2] -> its new state."""
    import torch

    reset = torch.sigmoid(recurrent[0] + inputs[0])
    update = torch.sigmoid(recurrent[1] + inputs[1])
    candidate = torch.tanh(reset * recurrent[2] + inputs[2])
    return update * h + (1.0 - update) * candidate


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch compute with `count` threads, and as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_eager(
    config: ModelConfig, tensors: Tensors, dtype: Literal["float32", "float64"] = "float32"
) -> EagerModel:
    """Return the eager model of the core, as the configuration says."""
    from .eager_embedded import EagerEmbedded
    from .eager_residual import EagerBands, EagerResidual
    from .eager_subscale import EagerSubscale

    if config.subscale is not None:
        return EagerSubscale(config, tensors, dtype)
    if config.bands > 1:
        return EagerBands(config, tensors, dtype)
    cores: dict[str, type[EagerModel]] = {
        "dual": EagerDual,
        "residual": EagerResidual,
        "embedded": EagerEmbedded,
    }
    return cores[config.core](config, tensors, dtype)
