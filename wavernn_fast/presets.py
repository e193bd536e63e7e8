"""Named conventions: how the mel of a published model was made and what its samples mean.

Weights do not tell the sample rate, the mel normalisation or the end of the pipe; a preset does.
Values are those of the published training code of each family (docs/checkpoints.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from . import presets_embedded
from .config import Head, MelConfig, ModelConfig, OutputConfig
from .errors import InputError
from .preset import Preset as Preset
from .presets_residual import RESIDUAL_PRESETS


def fatchord_mel(
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
        mel=fatchord_mel(name),
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
        mel=fatchord_mel("torchaudio-ljspeech"),
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
        mel=fatchord_mel("mkotha", hop_length=64, win_length=1024),
        output=OutputConfig(dual_scale="symmetric"),
    )


def _yanggeng() -> Preset:
    """Fatchord's mel at 16 kHz; samples are written as drawn, whole frames."""
    mel = fatchord_mel("yanggeng", hop_length=200, win_length=800)
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
            fatchord_mel("native-22k", hop_length=240, win_length=1024), n_fft=1024
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
