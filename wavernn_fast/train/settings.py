"""What a training run is, apart from the model and the data: numbers that a checkpoint keeps."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError, ModelError
from .prune import PruneSettings

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Numbers of a run. A resumed run must have the same, but for `steps` if it is raised.

    Raises
    ------
    InputError
        Naming every value that is impossible.
    """

    steps: int  # updates
    batch: int = 64  # segments an update, of all processes together
    segment: int = 960  # samples, rounded up to whole frames (960: the paper's)
    warmup: int = 0  # samples run before a segment without learning, to fill the state
    lr: float = 1e-3  # highest learning rate of Adam
    lr_final: float = 1e-5  # lowest, at the end of the cosine
    lr_conditioning: float = 1.0  # share of the rate that the weights of the conditioning get
    lr_output: float = 1.0  # times the rate that the weights of the output layers get
    lr_warmup: int = 500  # steps over which it rises from 0
    clip: float = 1.0  # largest norm of the gradient of all weights together
    ema: float = 0.999  # decay of the moving average of the weights
    seed: int = 0  # of the weights and of the segments
    precision: Precision = "auto"
    prune: PruneSettings | None = None

    def __post_init__(self) -> None:
        need = (
            (self.steps >= 1, f"steps is {self.steps}, must be at least 1"),
            (self.batch >= 1, f"batch is {self.batch}, must be at least 1"),
            (self.segment >= 1, f"segment is {self.segment}, must be at least 1"),
            (self.warmup >= 0, f"warmup is {self.warmup}, must not be negative"),
            (0 < self.lr < 1, f"lr is {self.lr}, must lie between 0 and 1"),
            (0 <= self.lr_final <= self.lr, f"lr_final is {self.lr_final}, must lie in [0, lr]"),
            (
                0 < self.lr_conditioning <= 1,
                f"lr_conditioning is {self.lr_conditioning}, must lie in (0, 1]",
            ),
            (
                self.lr_output > 0 and self.lr * self.lr_output < 1,
                f"lr_output is {self.lr_output}, must be positive, and lr times it below 1",
            ),
            (self.lr_warmup >= 0, f"lr_warmup is {self.lr_warmup}, must not be negative"),
            (self.clip > 0, f"clip is {self.clip}, must be positive"),
            (0 <= self.ema < 1, f"ema is {self.ema}, must lie in [0, 1)"),
            (self.seed >= 0, f"seed is {self.seed}, must not be negative"),
        )
        problems = [sentence for ok, sentence in need if not ok]
        if problems:
            raise InputError(f"Training is not possible like this: {'; '.join(problems)}.")

    def learning_rate(self, step: int) -> float:
        """Rate of the update that makes `step` + 1 of them: linear rise, then half a cosine."""
        if step < self.lr_warmup:
            return self.lr * (step + 1) / self.lr_warmup
        progress = (step - self.lr_warmup) / max(1, self.steps - self.lr_warmup)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        return self.lr_final + (self.lr - self.lr_final) * cosine

    def ema_decay(self, step: int) -> float:
        """Decay after `step` updates: smaller at first, so that the start is soon forgotten."""
        return min(self.ema, (1.0 + step) / (10.0 + step))

    def to_json(self) -> str:
        """Serialise for a checkpoint."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TrainSettings:
        """Read what `to_json` wrote.

        Raises
        ------
        ModelError
            If it was written by another version.
        """
        try:
            raw = json.loads(text)
            prune = raw.pop("prune")
            if prune is not None:
                prune = PruneSettings(**{**prune, "block": tuple(prune["block"])})
            return cls(**raw, prune=prune)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"The settings of the training run cannot be read ({error})."
            ) from error
