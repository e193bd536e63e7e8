"""The ways to sample WaveNet, by name."""

from __future__ import annotations

from .base import Baseline
from .wavenet_numpy import WaveNetNumpy
from .wavenet_torch import WaveNetEager, WaveNetInference, WaveNetScript

WAVENETS: dict[str, type[Baseline]] = {
    kind.name: kind for kind in (WaveNetNumpy, WaveNetEager, WaveNetInference, WaveNetScript)
}
