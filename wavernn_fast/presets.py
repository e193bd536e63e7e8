"""Named conventions: how the mel of a published model was made and what its samples mean.

Weights do not tell the sample rate, the mel normalisation or the end of the pipe; a preset does.
Values are those of the published training code of each family (docs/checkpoints.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import presets_embedded
from .config import Head, MelConfig, ModelConfig, OutputConfig
from .errors import InputError
from .mel_conversion import advice, framing_differences
from .preset import Preset as Preset
from .presets_residual import RESIDUAL_PRESETS

_EDGE = 0.02  # share of the value range that a mel may exceed before it counts as outside
_MIN_SPREAD = 0.25  # share of the value range that real speech uses at the least
_MOST_NAMES = 5  # of presets that a mel looks like
_BUNDLE = "torchaudio (natural-log mel of its bundle)"
_MIN_FRAMES = 20  # frames below which a narrow value range proves nothing


def _fatchord_mel(
    name: str, *, hop_length: int = 275, win_length: int = 1100, log: Literal["db", "ln"] = "db"
) -> MelConfig:
    """clip((20 log10(max(1e-5, S)) + 100) / 100, 0, 1) of a slaney magnitude mel."""
    return MelConfig(
        preset=name,
        sample_rate=22050,
        n_fft=2048,
        hop_length=hop_length,
        win_length=win_length,
        n_mels=80,
        f_min=40.0,
        f_max=11025.0,
        log=log,
        scale=0.01,
        offset=1.0,
        clip=(0.0, 1.0),
    )


def _fatchord(name: str, head: Head, bits: int | None = None) -> Preset:
    return Preset(
        name=name,
        summary="22.05 kHz, hop 275, mel in [0, 1]; last sample-frame dropped, 20-frame fade-out",
        sample_rate=22050,
        hop_length=275,
        heads=(head,),
        value_range=(0.0, 1.0),
        mel=_fatchord_mel(name),
        output=OutputConfig(
            mu_law=head == "softmax",
            fold_target=11000,
            fold_overlap=550,
            length="frames_minus_one",
            fade_out_frames=20,
        ),
        bits=bits,
    )


def _rtvc() -> Preset:
    """Decibels over a 20 dB reference, [-100, 0] -> [-4, 4], then / 4, as that vocoder divides."""
    return Preset(
        name="rtvc",
        summary="16 kHz, hop 200, pre-emphasis 0.97, mel in [-1, 1] (already divided by 4)",
        sample_rate=16000,
        hop_length=200,
        heads=("softmax",),
        value_range=(-1.0, 1.0),
        mel=MelConfig(
            preset="rtvc",
            sample_rate=16000,
            n_fft=800,
            hop_length=200,
            win_length=800,
            n_mels=80,
            f_min=55.0,
            f_max=7600.0,
            preemphasis=0.97,
            ref_db=20.0,
            scale=0.02,
            offset=1.0,
            clip=(-1.0, 1.0),
        ),
        # The original crossfade has a hole of power in its middle; "legacy" brings it back.
        output=OutputConfig(
            mu_law=True,
            decode_before_crossfade=False,
            fold_target=8000,
            fold_overlap=800,
            deemphasis=0.97,
            length="frames_minus_one",
            fade_out_frames=20,
        ),
        wrapper="model_state",
    )


def _torchaudio() -> Preset:
    """The frames are the network's own input in [0, 1], not the bundle's natural-log mel."""
    return Preset(
        name="torchaudio-ljspeech",
        summary="22.05 kHz, hop 275, 8 bits mu-law, mel in [0, 1] (not the bundle's ln mel)",
        sample_rate=22050,
        hop_length=275,
        heads=("softmax",),
        value_range=(0.0, 1.0),
        mel=_fatchord_mel("torchaudio-ljspeech"),
        output=OutputConfig(mu_law=True, label_decode="torchaudio"),
    )


def _geneing() -> Preset:
    """Decibels over a 20 dB reference, [-100, 0] -> [-4, 4]; plain (not companded) labels."""
    return Preset(
        name="geneing",
        summary="16 kHz, hop 200, mel in [-4, 4], labels not companded",
        sample_rate=16000,
        hop_length=200,
        heads=("softmax",),
        value_range=(-4.0, 4.0),
        mel=MelConfig(
            preset="geneing",
            sample_rate=16000,
            n_fft=2048,
            hop_length=200,
            win_length=800,
            n_mels=80,
            f_min=95.0,
            f_max=7600.0,
            ref_db=20.0,
            scale=0.08,
            offset=4.0,
            clip=(-4.0, 4.0),
        ),
        output=OutputConfig(fold_target=8000, fold_overlap=400),
    )


def _mkotha() -> Preset:
    return Preset(
        name="mkotha",
        summary="22.05 kHz, hop 64, dual softmax 16 bits, mel in [0, 1]",
        sample_rate=22050,
        hop_length=64,
        heads=("dual_softmax",),
        value_range=(0.0, 1.0),
        mel=_fatchord_mel("mkotha", hop_length=64, win_length=1024),
        output=OutputConfig(dual_scale="symmetric"),
    )


def _yanggeng() -> Preset:
    """Fatchord's mel at 16 kHz; samples are written as drawn, whole frames."""
    mel = _fatchord_mel("yanggeng", hop_length=200, win_length=800)
    return Preset(
        name="yanggeng",
        summary="16 kHz, hop 200, dual softmax 16 bits, mel in [0, 1]",
        sample_rate=16000,
        hop_length=200,
        heads=("dual_softmax",),
        value_range=(0.0, 1.0),
        mel=dataclasses.replace(mel, sample_rate=16000, f_max=8000.0),
        output=OutputConfig(dual_scale="int16"),
    )


def _native() -> Preset:
    """Ours: fatchord's mel with a shorter frame and window; the sound is modelled pre-emphasised.

    960 samples, the paper's training segment, are four frames. Pre-emphasis lifts the upper band
    above the noise of the coarse byte; 0.85 is LPCNet's (Valin and Skoglund 2019, section 3.1).
    """
    return Preset(
        name="native-22k",
        summary="22.05 kHz, hop 240, dual softmax 16 bits, mel in [0, 1]; made by 'train'",
        sample_rate=22050,
        hop_length=240,
        heads=("dual_softmax",),
        value_range=(0.0, 1.0),
        mel=dataclasses.replace(
            _fatchord_mel("native-22k", hop_length=240, win_length=1024), n_fft=1024
        ),
        output=OutputConfig(deemphasis=0.85),
    )


def _deepmind() -> Preset:
    return Preset(
        name="deepmind",
        summary="24 kHz, dual softmax 16 bits, no conditioning",
        sample_rate=24000,
        hop_length=1,
        heads=("dual_softmax",),
        value_range=(0.0, 0.0),
        mel=None,
        output=OutputConfig(),
    )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            _fatchord("fatchord-raw9", "softmax", bits=9),
            _fatchord("fatchord-mol", "mol"),
            _fatchord("tomiinek-raw10", "softmax", bits=10),
            _rtvc(),
            _torchaudio(),
            _geneing(),
            _mkotha(),
            _yanggeng(),
            _native(),
            _deepmind(),
            *RESIDUAL_PRESETS,
            *(Preset(embedded=True, **fields) for fields in presets_embedded.CONVENTIONS),
        )
    }
)


def get_preset(name: str) -> Preset:
    """Return the preset called `name`.

    Raises
    ------
    InputError
        If there is none of that name; the message lists those there are.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise InputError(
            f"There is no preset {name!r}. Known presets: {', '.join(PRESETS)}."
        ) from None


def fitting_presets(
    *, head: str | None, hop_length: int, n_mels: int, embedded: bool = False, bands: int = 1
) -> list[str]:
    """Name the presets that a model of these sizes can use; see `Preset.problems`."""
    sizes: dict[str, Any] = {"head": head, "hop_length": hop_length, "n_mels": n_mels}
    sizes |= {"embedded": embedded, "bands": bands}
    return [name for name, preset in PRESETS.items() if not preset.problems(**sizes)]


def with_preset(config: ModelConfig, name: str) -> ModelConfig:
    """Return `config` with the sample rate, mel convention and output rule of preset `name`.

    The weights of an embedded core say nothing of its hop length, so it takes that of the preset.

    Raises
    ------
    InputError
        If the preset is unknown or made for another head, hop length, number of mel bins or bands.
    """
    preset = get_preset(name)
    sizes: dict[str, Any] = {
        "head": config.head,
        "hop_length": config.hop_length,
        "n_mels": config.n_mels,
        "embedded": config.core == "embedded",
        "bands": config.bands,
    }
    problems = preset.problems(**sizes)
    if problems:
        fitting = fitting_presets(**sizes)
        advice = f"Presets that fit: {', '.join(fitting)}." if fitting else "No preset fits it."
        raise InputError(
            f"Preset {name!r} does not fit this model: {'; '.join(problems)}. {advice}"
        )
    return dataclasses.replace(
        config,
        sample_rate=preset.sample_rate,
        hop_length=preset.hop_length if config.n_mels else 1,
        mel=preset.mel,
        output=preset.output,
        feedback=preset.feedback,
        preset=name,
    )


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
    bundle = dataclasses.replace(_fatchord_mel("", log="ln"), scale=1.0, offset=0.0, clip=None)
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
