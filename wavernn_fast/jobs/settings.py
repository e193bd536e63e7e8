"""How the items of a job are made: plain values, which travel to other processes and machines."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..files import number_of
from .identity import identity

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..utterance import Fold
    from ..vocoder import Vocoder
    from .items import Item

# Where and how fast it runs. Not part of a digest: a job that moves to another machine, or is given
# more threads, must not do again what is done.
_ELSEWHERE = ("model", "device", "threads", "gpu_cluster", "conditioning", "streams")


@dataclass(frozen=True)
class Settings:
    """Everything that the items of a job have in common; picklable, and JSON after `to_dict`."""

    model: str  # file, or the name of a voice of the package
    preset: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    gpu_streams: int = 1
    gpu_cluster: int = 0
    conditioning: str = "host"
    streams: int | None = None  # side by side on each device; None: as many as are best
    seed: int = 0  # of an item that has none of its own
    temperature: float = 1.0
    greedy: bool = False
    fold: Any = None  # None, True, [target, overlap], or the fields of a `fold.Folding`
    speaker: str | None = None  # file with the vector, or number, of an item that names none
    format: str = "wav"  # ending of an output whose name has none
    subtype: str = "PCM_16"
    reads: str = "mel"  # what a source is: "mel" or "recording"

    def of(self, item: Item) -> Settings:
        """The settings of one item: its own seed and speaker where it has them."""
        if item.seed is None and item.speaker is None:
            return self
        return dataclasses.replace(
            self,
            seed=self.seed if item.seed is None else item.seed,
            speaker=self.speaker if item.speaker is None else item.speaker,
        )

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of what changes the audio; a speaker's file by its content.

        The model has a hash of its own (`identity.model_hash`). Device and threads do not count:
        they change samples by rounding at most (docs/numerics.md).

        Raises
        ------
        AudioError
            If the file of the speaker cannot be read.
        """
        kept = {name: value for name, value in self.to_dict().items() if name not in _ELSEWHERE}
        kept["gpu_streams"] = min(self.gpu_streams, 2) if self.gpu_streams else 2  # one, or many
        if self.dtype == "auto" and self.gpu_streams == 1:
            kept["dtype"] = "fp32"
        if self.speaker is not None and number_of(self.speaker) is None:
            kept["speaker"] = identity(self.speaker)
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON and for `Settings(**fields)`."""
        return dataclasses.asdict(self)

    def folding(self) -> Fold:
        """`fold` as `Vocoder.generate` takes it."""
        from ..fold import Folding

        if isinstance(self.fold, dict):
            return Folding(**self.fold)
        return tuple(self.fold) if isinstance(self.fold, (list, tuple)) else self.fold

    def config(self) -> ModelConfig:
        """Sizes and conventions of the model, for a process that has no engine of its own."""
        from .. import checkpoints

        return checkpoints.load(self.model, preset=self.preset)[0]

    def load(self) -> Vocoder:
        """`Vocoder.from_pretrained` with these values."""
        from ..vocoder import Vocoder

        return Vocoder.from_pretrained(
            self.model,
            device=self.device,
            dtype=self.dtype,
            preset=self.preset,
            cpu_threads=self.threads,
            gpu_streams=self.gpu_streams,
            gpu_cluster=self.gpu_cluster,
            conditioning=self.conditioning,
        )
