"""What every route shares: the model, its limits, the hall, the engine and the counters."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__, voices
from ..config import ModelConfig
from .admission import Hall
from .engine import Engine, Utterance, Wish
from .limits import Limits
from .metrics import Metrics

if TYPE_CHECKING:
    from ..vocoder import Vocoder


@dataclass
class Service:
    """One model behind a door.

    Parameters
    ----------
    voc : Vocoder
    limits : Limits
    voice : str, optional
        Name of the voice of the package that `voc` is.
    hall : Hall
    metrics : Metrics
    engine : Engine, optional
        Only while the application runs.
    """

    voc: Vocoder
    limits: Limits
    voice: str | None
    hall: Hall
    metrics: Metrics
    engine: Engine | None = None

    @property
    def config(self) -> ModelConfig:
        """Configuration of the model."""
        return self.voc.config

    @property
    def running(self) -> Engine:
        """The engine of a running application."""
        assert self.engine is not None, "the application has not been started (ASGI lifespan)"
        return self.engine

    @contextmanager
    def sounding(self, wish: Wish) -> Iterator[Utterance]:
        """One utterance on the engine; ended and counted whatever happens to its client."""
        utterance = self.running.open(wish)
        try:
            yield utterance
        finally:
            utterance.cancel()
            if utterance.samples:
                self.metrics.ended(
                    utterance.samples, self.config.sample_rate, utterance.took, utterance.first
                )

    def summary(self, utterance: Utterance) -> dict[str, Any]:
        """Figures of an utterance that has ended."""
        seconds = utterance.samples / self.config.sample_rate
        return {
            "samples": utterance.samples,
            "sample_rate": self.config.sample_rate,
            "audio_seconds": round(seconds, 6),
            "wall_seconds": round(utterance.took, 6),
            "real_time_factor": round(utterance.took / seconds, 4) if seconds else None,
            "first_chunk_ms": None if utterance.first is None else round(1e3 * utterance.first, 1),
        }

    def facts(self) -> dict[str, Any]:
        """What a client may know of the model; nothing of where it lies."""
        c = self.config
        return {
            "version": __version__,
            "model": {
                "core": c.core,
                "hidden_size": c.hidden_size,
                "head": c.head,
                "n_classes": c.n_classes,
                "sample_rate": c.sample_rate,
                "hop_length": c.hop_length,
                "n_mels": c.n_mels,
                "lookahead_frames": c.lookahead_frames,
                "lookahead_ms": round(1e3 * c.lookahead_frames * c.hop_length / c.sample_rate, 1),
                "mel": None if c.mel is None else dataclasses.asdict(c.mel),
            },
            "engine": {
                "device": self.voc.device,
                "isa": self.voc.isa,
                "dtype": self.voc.dtype,
                "threads": self.voc.cpu_threads,
            },
            "voice": self._voice(),
            "limits": {
                name: getattr(self.limits, name)
                for name in ("max_streams", "max_queue", "max_body", "max_seconds", "timeout")
            },
        }

    def sentence(self) -> bytes | None:
        """Mel of the voice's sentence as .npy; None where the model is no voice of the package."""
        if self.voice is None:
            return None
        target = io.BytesIO()
        np.save(target, voices.mel(self.voice), allow_pickle=False)
        return target.getvalue()

    def _voice(self) -> dict[str, Any] | None:
        if self.voice is None:
            return None
        known = voices.facts(self.voice)
        return {"name": self.voice} | {
            key: known[key] for key in ("kind", "language", "about", "temperature")
        }
