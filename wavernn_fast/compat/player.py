"""What the drop-in classes share: a loaded model that draws for them, and the seeds of calls."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from .. import scalars
from ..batch import draw_batch
from ..config import Core, ModelConfig
from ..errors import InputError
from ..utterance import Drawing, Fold, Sampling, fold_sizes, make_request
from ..vocoder import Vocoder

_Same = TypeVar("_Same", bound="Player")


class Player:
    """A vocoder behind the face of another program.

    Parameters
    ----------
    vocoder : Vocoder
        Of the core that the class is for, by default two residual GRUs and three dense layers; of
        one band, and without a speaker's vector.
    seed : int or None
        Every call gives the audio of this seed, item i of a batch that of ``seed + i``. None: a
        new seed a call, taken from PyTorch's global generator where PyTorch is loaded (so that
        ``torch.manual_seed`` makes a program repeatable, as before), else from the system.

    Raises
    ------
    InputError
        If the model is of another kind, or the seed is none.
    """

    core: ClassVar[Core] = "residual"  # that the class plays

    def __init__(self, vocoder: Vocoder, *, seed: int | None = 0) -> None:
        config = vocoder.config
        if config.core != self.core or not config.n_mels:
            raise InputError(
                f"This class plays models with the {self.core} core that hear a mel; this is "
                f"{vocoder!r}. Use its own generate()."
            )
        if config.bands > 1 or config.speaker_size:
            what = "draws several bands a step" if config.bands > 1 else "hears a speaker"
            raise InputError(
                f"The model {what}, which this class has no place for: {vocoder!r}. Use its own "
                "generate()."
            )
        self.vocoder = vocoder
        self.seed = seed if seed is None else scalars.to_seed(seed)

    @classmethod
    def from_checkpoint(
        cls: type[_Same],
        path: str | os.PathLike[str],
        device: str = "auto",
        dtype: str = "auto",
        preset: str | None = None,
        cpu_threads: int | None = None,
        **options: Any,
    ) -> _Same:
        """Load a checkpoint as `Vocoder.from_pretrained` does.

        Parameters
        ----------
        path, device, dtype, preset, cpu_threads
            As there.
        **options
            Keyword arguments of the class.
        """
        voc = Vocoder.from_pretrained(path, device, dtype, preset, cpu_threads)
        return cls(voc, **options)

    @property
    def config(self) -> ModelConfig:
        """Sizes and conventions of the model."""
        return self.vocoder.config

    @property
    def n_classes(self) -> int:
        """Outputs of the last layer."""
        return self.config.n_classes

    @property
    def hop_length(self) -> int:
        """Samples of a frame."""
        return self.config.hop_length

    @property
    def sample_rate(self) -> int:
        """Samples a second, in Hz."""
        return self.config.sample_rate

    # Programs call these on a module; the engine has one mode and one place.

    def eval(self: _Same) -> _Same:
        """Do nothing; return the object, as a module does."""
        return self

    def train(self: _Same, mode: bool = True) -> _Same:
        """Do nothing, likewise."""
        return self

    def to(self: _Same, *args: Any, **kwargs: Any) -> _Same:
        """Do nothing, likewise: the device is chosen when the model is loaded."""
        return self

    def draw(
        self,
        mels: Sequence[Any],
        fold: Fold = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Drawing]:
        """Draw for mels, float [n_mels, n_frames] or [1, n_mels, n_frames], all in one batch.

        Raises
        ------
        InputError, EngineError
            As `Vocoder.generate`.
        """
        first = fresh_seed() if self.seed is None else self.seed
        voice = self.vocoder.voice()
        requests = [
            make_request(self.config, mel, None, (first + i) % 2**64, voice.memory)
            for i, mel in enumerate(mels)
        ]
        sampling = Sampling(1.0, False, fold_sizes(self.config, fold))
        return draw_batch(voice, requests, sampling, progress=progress)


def fresh_seed() -> int:
    """A seed of 62 bits from PyTorch's global generator if PyTorch is loaded, else the system's."""
    torch = sys.modules.get("torch")
    if torch is None:
        return secrets.randbits(62)
    return int(torch.randint(2**62, (1,)))
