"""From one mel convention to another: the formula of the values, and what no formula mends."""

from __future__ import annotations

import math

from .config import MelConfig

_DECIBELS = {"db": 1.0, "log10": 20.0, "ln": 20.0 / math.log(10.0)}  # of a unit of the logarithm
_FRAMING = {
    "sample_rate": "sample rate",
    "hop_length": "hop length",
    "n_fft": "FFT",
    "win_length": "window",
    "f_min": "lowest frequency",
    "f_max": "highest frequency",
    "preemphasis": "pre-emphasis",
    "n_mels": "bins",
    "power": "power of the magnitude",
    "mel_scale": "mel scale",
    "mel_norm": "norm of the filters",
    "center": "centred frames",
}


def value_map(source: MelConfig, target: MelConfig) -> tuple[float, float]:
    """Factor a and offset b with ``target = a * source + b``, before the target's clip.

    Both conventions are linear in the logarithm of the same mel, so each is linear in the other
    wherever neither floor nor clip has cut. The logarithm of a mel of powers is twice that of one
    of magnitudes for a single bin of the spectrum, and nearly so for a filter.
    """
    share = _DECIBELS[source.log] / _DECIBELS[target.log] * target.power / source.power
    factor = target.scale * share / source.scale
    level = (source.ref_db - source.offset / source.scale) * share  # target's logarithm at source 0
    return factor, target.scale * (level - target.ref_db) + target.offset


def framing_differences(source: MelConfig, target: MelConfig) -> list[str]:
    """Say in which settings frames of the two conventions differ, such as "FFT 1024, not 2048"."""
    return [
        f"{words} {_show(getattr(source, name))}, not {_show(getattr(target, name))}"
        for name, words in _FRAMING.items()
        if getattr(source, name) != getattr(target, name)
    ]


def advice(source: MelConfig, target: MelConfig) -> str:
    """How a mel of one convention becomes one of another, as the end of a sentence."""
    factor, offset = value_map(source, target)
    formula = f"{factor:.6g} * mel {'-' if offset < 0 else '+'} {abs(offset):.6g}"
    if target.clip is not None:
        formula = f"np.clip({formula}, {target.clip[0]:g}, {target.clip[1]:g})"
    differences = framing_differences(source, target)
    if not differences:
        return f"convert it with {formula}"
    return (
        f"its values convert with {formula}, but its frames are others ({'; '.join(differences)}), "
        "so better make the mel again with the model's settings"
    )


def _show(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
