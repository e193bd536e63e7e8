"""Which convention made a mel: what its values tell, beside the presets.

A mel made for another model than the one that hears it is the commonest mistake there is, and gives
noise without an error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .config import MelConfig
from .mel_conversion import advice, framing_differences
from .presets import PRESETS, fatchord_mel

_EDGE = 0.02  # share of the value range that a mel may exceed before it counts as outside
_MIN_SPREAD = 0.25  # share of the value range that real speech uses at the least
_MOST_NAMES = 5  # of presets that a mel looks like
_BUNDLE = "torchaudio (natural-log mel of its bundle)"
_MIN_FRAMES = 20  # frames below which a narrow value range proves nothing


def _inside(low: float, high: float, value_range: tuple[float, float]) -> bool:
    slack = _EDGE * (value_range[1] - value_range[0])
    return value_range[0] - slack <= low and high <= value_range[1] + slack


class MelStatistics(NamedTuple):
    """What the checks of a mel look at."""

    low: float
    high: float
    mean: float
    n_frames: int


def mel_statistics(mel: Any, xp: Any = np) -> MelStatistics | None:
    """Sum up a mel where it lies.

    Parameters
    ----------
    mel : array of shape [n_mels, n_frames]
        Of the array module `xp`; for numpy whatever it can read.
    xp : module
        Array module in the style of the array API standard.

    Returns
    -------
    MelStatistics or None
        None for a mel that is empty or not finite.
    """
    values = xp.asarray(mel, dtype=xp.float64)
    if math.prod(values.shape) == 0 or not xp.isfinite(values).all():
        return None
    frames = int(values.shape[1]) if values.ndim == 2 else 0
    return MelStatistics(float(values.min()), float(values.max()), float(values.mean()), frames)


def _closest(
    mel: ArrayLike | MelStatistics, origins: Mapping[str, tuple[MelConfig, tuple[float, float]]]
) -> list[str]:
    """Name the origins whose value range a mel fits best; see `closest_presets`."""
    values = mel if isinstance(mel, MelStatistics) else mel_statistics(mel)
    if values is None:
        return []
    low, high, mean, _ = values
    spans: dict[str, float] = {}
    at_floor: dict[str, float] = {}
    for name, (_, value_range) in origins.items():
        bottom, top = value_range
        span = top - bottom
        used = high - low >= _MIN_SPREAD * span
        centred = bottom + _EDGE * span <= mean <= top - _EDGE * span
        if used and centred and _inside(low, high, value_range):
            spans[name] = span
            if low <= bottom + _EDGE * span:
                at_floor[name] = span
    spans = at_floor or spans
    return [name for name, span in spans.items() if span <= 1.01 * min(spans.values())]


def _origins() -> dict[str, tuple[MelConfig, tuple[float, float]]]:
    """Mel convention and value range of every preset that has a mel."""
    return {
        name: (preset.mel, preset.value_range)
        for name, preset in PRESETS.items()
        if preset.mel is not None
    }


def closest_presets(mel: ArrayLike | MelStatistics) -> list[str]:
    """Name the presets whose value range a mel fits best.

    A preset fits if minimum and maximum lie in its range, they span at least a quarter of it and
    the mean is not stuck at an edge. Of those that fit, the ones whose range begins where the mel
    does are likelier, as speech has silence in it, and then the ones with the narrowest range win:
    a mel in [0, 1] lies in [-4, 4] too, but was not made for it.

    Parameters
    ----------
    mel : array of shape [n_mels, n_frames], or MelStatistics
        Any values; only minimum, maximum and mean are looked at.

    Returns
    -------
    list of str
        In the order of `PRESETS`; empty if none fits, or if the mel is empty or not finite.
    """
    return _closest(mel, _origins())


def mismatch_warning(mel: ArrayLike | MelStatistics, expected: str) -> str | None:
    """Say in a sentence that a mel does not look like the model's preset; None if it may be one.

    The likeliest origin is named: of the conventions whose range fits, the one whose frames differ
    least from the model's; and how its values become the model's.

    Parameters
    ----------
    mel : array of shape [n_mels, n_frames], or MelStatistics
    expected : str
        The model's preset; of an unknown or unconditioned one nothing can be said (None).
    """
    preset = PRESETS.get(expected)
    if preset is None or preset.mel is None:
        return None
    values = mel if isinstance(mel, MelStatistics) else mel_statistics(mel)
    if values is None:
        return None
    low, high, mean, n_frames = values
    closest = closest_presets(values)
    inside = _inside(low, high, preset.value_range)
    long_enough = n_frames >= _MIN_FRAMES
    if inside and (expected in closest or not closest or not long_enough):
        return None
    return (
        f"The mel has values from {low:.3g} to {high:.3g} (mean {mean:.3g}), but preset {expected} "
        f"has {preset.value_range[0]:g} to {preset.value_range[1]:g}: "
        f"{likely_origin(values, preset.mel)}."
    )


def likely_origin(mel: MelStatistics, target: MelConfig) -> str:
    """Say which convention a mel looks like and how it becomes one of `target`: a clause."""
    origins = _origins()
    # The bundle's vocoder takes this mel and converts it before its network, which takes [0, 1].
    bundle = dataclasses.replace(fatchord_mel("", log="ln"), scale=1.0, offset=0.0, clip=None)
    origins[_BUNDLE] = bundle, PRESETS["forwardtacotron"].value_range

    def distance(name: str) -> int:
        return len(framing_differences(origins[name][0], target))

    likely: list[str] = []
    for name in sorted(_closest(mel, origins), key=distance):
        if all(framing_differences(origins[name][0], origins[n][0]) for n in likely):
            likely.append(name)  # one name for presets that share a mel
    if not likely:
        return "it fits no known preset; check the log base and the normalisation"
    names = " or ".join(likely[:_MOST_NAMES])
    return f"this looks like the {names} preset; {advice(origins[likely[0]][0], target)}"
