"""The training loop: batches, losses, the moving average, pruning, checkpoints, the log."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import weights
from ..canonical import Tensors, validate, without_masks
from ..config import ModelConfig
from ..errors import AudioError, EngineError, InputError, ModelError
from ..files import PARTS, write_atomic
from ..models.mel_scale import measure
from ..models.subscale import autocorrelation
from ..models.wavernn import Batch, WaveRNN, to_canonical
from . import state
from .corpus import Corpus
from .processes import Processes, autocast, low_precision
from .prune import Pruner, stored_masks, with_masks
from .settings import TrainSettings

MODEL, LOG = "model.safetensors", "log.jsonl"  # in the folder of the run
VALID_SEGMENTS = 64  # held-out segments looked at now and then; `eval` measures whole recordings


@dataclass(frozen=True)
class Every:
    """How often, in steps, something happens; the last step always counts."""

    log: int = 20
    validate: int = 500
    checkpoint: int = 500


def segment_frames(config: ModelConfig, samples: int) -> int:
    """Frames of a segment of at least so many samples; whole columns of a subscale model."""
    frames = max(1, -(-samples // config.hop_length))
    unit = config.subscale_factor if config.hop_length == 1 else 1  # else columns fill a frame
    return -(-frames // unit) * unit


class Trainer:
    """One training run.

    Parameters
    ----------
    folder : Path
        Of the run; state.pt, model.safetensors and log.jsonl go there.
    config : ModelConfig
    settings : TrainSettings
    data : (Corpus, Corpus or None)
        Recordings to learn from, and held-out ones. Segments of both have the frames of
        `segment_frames(config, settings.warmup)` and `segment_frames(config, settings.segment)`
        together (`total_frames`).
    processes : Processes

    Attributes
    ----------
    source : dict
        What its checkpoints say of the recordings; `run.make_trainer` fills it.

    Raises
    ------
    InputError
        If the processes cannot share the batch evenly, or the blocks do not divide a matrix.
    """

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        settings: TrainSettings,
        data: tuple[Corpus, Corpus | None],
        processes: Processes,
    ) -> None:
        if settings.batch % processes.world:
            raise InputError(
                f"A batch of {settings.batch} cannot be shared evenly by {processes.world} "
                "processes; choose a --batch that is a multiple of their number."
            )
        self.folder, self.config, self.settings = folder, config, settings
        self._train, self._valid = data
        self._processes = processes
        self._low = low_precision(settings.precision, processes.device)
        torch.manual_seed(settings.seed)
        self.model = WaveRNN(config)
        if config.n_mels:
            self.model.mel.set(measure(recording.mel for recording in self._train.recordings))
        if config.subscale is not None:
            recordings = (recording.samples for recording in self._train.recordings)
            self.model.subscale.set_correlation(autocorrelation(config.subscale, recordings))
        self.model.to(processes.device)
        with torch.no_grad():
            # Measured apart, whitening and the weights that rest on it may differ.
            processes.share([*self.model.buffers(), *self.model.parameters()])
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self._parameters = dict(self.model.named_parameters())
        self._averages = dict(self.average.named_parameters())
        self._optimizer = torch.optim.Adam(
            _groups(self.model, settings), lr=settings.lr, fused=True
        )
        self.pruner = Pruner(self._parameters, settings.prune) if settings.prune else None
        self.source: dict[str, Any] = {}
        self.step = 0  # updates done
        self._sums = torch.zeros(4)  # since the last line of the log: coarse, fine, norm, updates

    # -- beginning and going on --------------------------------------------------------------------

    def start_from(self, config: ModelConfig, tensors: Tensors) -> None:
        """Begin with the weights, and the masks, of a canonical model of the same sizes.

        Raises
        ------
        ModelError
            If it does not fit, or is pruned and this run is not set to keep its zeros.
        InputError
            If it is pruned in other blocks, or in other matrices, than this run.
        """
        if config.pruned and self.pruner is None:
            raise ModelError(
                "The model to start from is pruned; train it with the same blocks "
                f"({config.block_shape}), or its zeros would fill again."
            )
        validate(config, tensors)
        self.model.load_canonical(without_masks(tensors))
        self.average.load_canonical(without_masks(tensors))
        if config.pruned and self.pruner:
            self.pruner.load(stored_masks(config, tensors))

    def resume(self, saved: state.State) -> None:
        """Go on where a checkpoint was written."""
        self.model.load_state_dict(saved.model)
        self.average.load_state_dict(saved.average)
        self._optimizer.load_state_dict(saved.optimizer)
        if self.pruner:
            self.pruner.load(saved.masks)
        self.step = saved.step
        self._sums = torch.tensor(saved.sums)
        self._tidy()

    # -- the loop ----------------------------------------------------------------------------------

    def run(self, every: Every, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Train until `settings.steps` updates are done.

        Parameters
        ----------
        every : Every
        tell : function
            Gets every line of the log: step, and what is known of loss, coarse, fine, lr,
            grad_norm, samples_per_s, valid_nll (nats per sample), sparsity, seconds.

        Returns
        -------
        dict
            The last line with a `valid_nll`, or the last one.

        Raises
        ------
        EngineError
            If the loss is not finite any more; the last checkpoint is intact.
        ModelError
            If a checkpoint or the log cannot be written.
        """
        if self.step == 0:
            self._tidy()
        last: dict[str, Any] = {"step": self.step}
        started, seen = time.perf_counter(), 0
        if self.step >= self.settings.steps:
            self.save()  # a run killed after its last checkpoint may lack the model
        while self.step < self.settings.steps:
            losses, norm = self.update()
            self._sums += torch.tensor([*losses, norm, 1.0])
            seen += 1
            end = self.step == self.settings.steps
            line: dict[str, Any] = {}
            if end or self.step % every.log == 0:
                line = self._line(time.perf_counter() - started, seen)
                self._sums.zero_()
                started, seen = time.perf_counter(), 0
            if self._valid is not None and (end or self.step % every.validate == 0):
                begun = time.perf_counter()
                line = {"step": self.step, **line, "valid_nll": self.validate()}
                started += time.perf_counter() - begun  # it is no part of the speed
            if line:
                last = line if "valid_nll" in line or "valid_nll" not in last else last
                self._write_line(line)
                tell(line)
            if end or self.step % every.checkpoint == 0:
                self.save()
        return last

    def update(self) -> tuple[tuple[float, float], float]:
        """One update: (coarse, fine) nats per sample of this batch, norm of the gradient."""
        settings, device = self.settings, self._processes.device
        for group in self._optimizer.param_groups:
            group["lr"] = group["share"] * settings.learning_rate(self.step)
        count = settings.batch // self._processes.world
        batch = self._train.random(settings.seed, self.step, self._processes.rank, count)
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(self._low, device):
            losses = self._losses(self.model, _to(batch, device))
        (losses[0] + losses[1]).backward()  # type: ignore[no-untyped-call]
        self._processes.mean_gradients(self._parameters.values())
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), settings.clip)
        values = self._processes.mean(torch.stack([*losses.detach(), norm.detach()]))
        coarse, fine, size = values.tolist()
        if not math.isfinite(coarse + fine + size):
            raise EngineError(
                f"The loss is not finite at step {self.step} (coarse {coarse}, fine {fine}, "
                f"gradient {size}); the last checkpoint is intact. Start a new run from its model "
                "with --from and a lower --lr."
            )
        self._optimizer.step()
        self.step += 1
        if self.pruner:
            self.pruner.step(self.step)
        self._move_average()
        return (coarse, fine), size

    def _losses(self, model: WaveRNN, batch: Batch) -> Tensor:
        """Coarse and fine nats per sample [2], after running the warm-up without learning."""
        frames = segment_frames(self.config, self.settings.warmup) if self.settings.warmup else 0
        h = None
        if frames:
            first, batch = cut(batch, frames, self.config)
            with torch.no_grad():
                _, h = model.hidden(first)
        losses, _ = model.losses(batch, h)
        return torch.stack([losses.coarse, losses.fine])

    def _move_average(self) -> None:
        decay = self.settings.ema_decay(self.step)
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self._averages.values()), list(self._parameters.values()), 1.0 - decay
            )
        if self.pruner:
            self.pruner.apply(self._averages)

    def validate(self) -> float:
        """Nats per sample of held-out segments under the averaged weights."""
        assert self._valid is not None
        batch = _to(self._valid.spread(VALID_SEGMENTS), self._processes.device)
        with torch.no_grad(), autocast(self._low, self._processes.device):
            return float(self._losses(self.average, batch).sum())

    # -- files -------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Leave nothing in the folder that a run wrote after its last checkpoint, or before any."""
        if self._processes.rank == 0:
            _cut_log(self.folder / LOG, self.step)
            for part in self.folder.glob(PARTS):  # of a checkpoint that was being written
                part.unlink(missing_ok=True)

    def save(self) -> None:
        """Write the checkpoint, then the averaged weights as a canonical model."""
        if self._processes.rank == 0:
            masks = {n: m.cpu() for n, m in self.pruner.masks.items()} if self.pruner else {}
            saved = state.State(
                self.config,
                self.settings,
                self.step,
                self.model.state_dict(),
                self.average.state_dict(),
                self._optimizer.state_dict(),
                masks,
                self._sums.tolist(),
                self.source,
            )
            state.write(self.folder, saved)
            weights.write(self.folder / MODEL, *self.canonical())
        self._processes.wait()

    def canonical(self) -> tuple[ModelConfig, Tensors]:
        """The averaged weights as a canonical model, with the masks of what is pruned."""
        tensors = to_canonical(self.config, self.average.state_dict())
        if self.pruner is None:
            return self.config, tensors
        return with_masks(self.config, tensors, self.pruner)

    def _line(self, seconds: float, steps: int) -> dict[str, Any]:
        """Means since the last line; `steps` updates took `seconds`."""
        coarse, fine, norm = (self._sums[:3] / self._sums[3]).tolist()
        samples = steps * self.settings.batch * self.config.hop_length
        samples *= segment_frames(self.config, self.settings.segment)
        line = {
            "step": self.step,
            "loss": coarse + fine,
            "coarse": coarse,
            "fine": fine,
            "lr": self.settings.learning_rate(self.step - 1),
            "grad_norm": norm,
            "samples_per_s": samples / seconds,
        }
        if self.pruner:
            line["sparsity"] = self.pruner.sparsity
        return line

    def _write_line(self, line: dict[str, Any]) -> None:
        if self._processes.rank:
            return
        try:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise ModelError(
                f"The log {str(self.folder / LOG)!r} cannot be written ({error.strerror})."
            ) from error


def _groups(model: WaveRNN, settings: TrainSettings) -> list[dict[str, Any]]:
    """Parameters by the share of the learning rate they get."""
    shares = {"": 1.0, "conditioning": settings.lr_conditioning, "output": settings.lr_output}
    parts: dict[str, list[Tensor]] = {kind: [] for kind in shares}
    for name, parameter in model.named_parameters():
        kind = ""
        if name == "gru.w_conditioning" or name.startswith("aux."):
            kind = "conditioning"
        elif "_fc" in name and settings.lr_output != 1.0:
            kind = "output"  # else as in runs from before there was a rate for them
        parts[kind].append(parameter)
    return [{"params": parts[kind], "share": shares[kind]} for kind in parts if parts[kind]]


def cut(batch: Batch, frames: int, config: ModelConfig) -> tuple[Batch, Batch]:
    """Cut segments after so many frames: the first part, and the rest with its own context."""
    at, rows, radius = frames * config.hop_length, config.subscale_factor, config.aux_radius
    before = batch.samples[:, at - rows : at].view_as(batch.before)
    first = Batch(
        batch.samples[:, :at],
        batch.before,
        batch.mel[:, :, : frames + 2 * radius],
        batch.around[:, : at + 2 * config.horizon_samples],
    )
    rest = Batch(batch.samples[:, at:], before, batch.mel[:, :, frames:], batch.around[:, at:])
    return first, rest


def _to(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))


def _cut_log(path: Path, step: int) -> None:
    """Drop lines that were written after the checkpoint, and what is no line of a log."""
    if not path.exists():
        return
    kept = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ModelError(
            f"The log {str(path)!r} cannot be read ({error.strerror}); move it away."
        ) from error
    for line in text.splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    try:
        write_atomic(path, [line.encode() for line in kept])
    except AudioError as error:
        raise ModelError(f"The log {str(path)!r} cannot be rewritten ({error}).") from error
