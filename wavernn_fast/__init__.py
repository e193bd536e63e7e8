"""WaveRNN vocoder inference: checkpoint in, audio out.

>>> import wavernn_fast
>>> voc = wavernn_fast.Vocoder.from_pretrained("voice.safetensors")  # doctest: +SKIP
>>> wav = voc.generate(mel, seed=0)  # doctest: +SKIP

Names are imported when first used (PEP 562): importing the package loads only numpy and the
standard library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compat.acceleration import accelerate
    from .config import MelConfig, ModelConfig, OutputConfig
    from .errors import (
        AudioError,
        DeviceError,
        EngineError,
        InputError,
        MissingDependencyError,
        ModelError,
        PoolFullError,
        WaveRNNError,
    )
    from .fold import Folding
    from .live import LivePool
    from .vocoder import Vocoder

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "DeviceError",
    "EngineError",
    "Folding",
    "InputError",
    "LivePool",
    "MelConfig",
    "MissingDependencyError",
    "ModelConfig",
    "ModelError",
    "OutputConfig",
    "PoolFullError",
    "Vocoder",
    "WaveRNNError",
    "__version__",
    "accelerate",
]

_HOME = {"Vocoder": "vocoder", "ModelConfig": "config", "MelConfig": "config"}
_HOME |= {"OutputConfig": "config", "Folding": "fold", "accelerate": "compat.acceleration"}
_HOME["LivePool"] = "live"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
