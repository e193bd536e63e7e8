"""Presets of the programs that took over fatchord's network: the same tensors, other mels.

Values are those of the published training code (docs/checkpoints.md).
"""

from __future__ import annotations

import dataclasses
import math

from .config import Head, MelConfig, OutputConfig
from .preset import Preset

# Ends of fatchord's program, which all of these kept: the last frame cut, 20 frames of fade-out.
_ENDS = OutputConfig(
    fold_target=11000, fold_overlap=550, length="frames_minus_one", fade_out_frames=20
)


def _mel_256(name: str, *, f_min: float, f_max: float) -> MelConfig:
    """Slaney magnitude mel at 22.05 kHz, FFT and window 1024, hop 256 = 4 * 8 * 8."""
    return MelConfig(
        preset=name,
        sample_rate=22050,
        n_fft=1024,
        hop_length=256,
        win_length=1024,
        n_mels=80,
        f_min=f_min,
        f_max=f_max,
    )


def _forwardtacotron() -> Preset:
    """as-ideas/ForwardTacotron of 2020: the natural logarithm of the mel, not scaled."""
    return Preset(
        name="forwardtacotron",
        summary="22.05 kHz, hop 256, natural-log mel ln(max(1e-5, S)), labels mu-law companded",
        sample_rate=22050,
        hop_length=256,
        heads=("softmax", "mol"),
        # The top is that of a filter around a sine at full scale; speech stays about 1 below.
        value_range=(math.log(1e-5), 2.5),
        mel=dataclasses.replace(_mel_256("forwardtacotron", f_min=0.0, f_max=8000.0), log="ln"),
        output=dataclasses.replace(_ENDS, mu_law=True),
        wrapper="",
        bits=9,
    )


def _coqui() -> Preset:
    """coqui-ai/TTS and mozilla/TTS: decibels over 20 dB, [-100, 0] -> [-4, 4].

    Folds are joined in the companded domain there, with a crossfade that has a hole of power;
    crossfade="legacy" brings the hole back.
    """
    mel = _mel_256("coqui", f_min=0.0, f_max=11025.0)
    return Preset(
        name="coqui",
        summary="22.05 kHz, hop 256, mel in [-4, 4] over a 20 dB reference; bits are mu-law",
        sample_rate=22050,
        hop_length=256,
        heads=("mol", "softmax", "gaussian"),
        value_range=(-4.0, 4.0),
        mel=dataclasses.replace(mel, ref_db=20.0, scale=0.08, offset=4.0, clip=(-4.0, 4.0)),
        output=dataclasses.replace(_ENDS, mu_law=True, decode_before_crossfade=False),
        wrapper="model",
    )


def _mozilla_libritts() -> Preset:
    """mozilla/TTS's configuration for LibriTTS. The mel is pre-emphasised, the waveform is not."""
    coqui = _coqui()
    assert coqui.mel is not None
    mel = dataclasses.replace(
        coqui.mel,
        preset="mozilla-libritts",
        sample_rate=24000,
        preemphasis=0.98,
        f_min=40.0,
        f_max=8000.0,
    )
    return dataclasses.replace(
        coqui,
        name="mozilla-libritts",
        summary="24 kHz, hop 256, pre-emphasis 0.98 of the mel alone, mel in [-4, 4]",
        sample_rate=24000,
        mel=mel,
    )


def _erogol_universal() -> Preset:
    """erogol/WaveRNN's universal model: no auxiliary network, linear upsampling."""
    return Preset(
        name="erogol-universal",
        summary="16 kHz, hop 200, pre-emphasis 0.98 of the mel alone, mel in [0, 1]",
        sample_rate=16000,
        hop_length=200,
        heads=("mol",),
        value_range=(0.0, 1.0),
        mel=MelConfig(
            preset="erogol-universal",
            sample_rate=16000,
            n_fft=2048,
            hop_length=200,
            win_length=800,
            n_mels=80,
            f_min=0.0,
            f_max=8000.0,
            preemphasis=0.98,
            ref_db=20.0,
            scale=0.01,
            offset=1.0,
            clip=(0.0, 1.0),
        ),
        output=_ENDS,
        wrapper="model",
    )


def _gwang(name: str, head: Head) -> Preset:
    """G-Wang/WaveRNN-Pytorch: decibels over 20 dB, [-100, 0] -> [0, 1].

    Its own frames come from the package lws, whose window is another one: the mel made here is
    near it, not equal.
    """
    mel = _mel_256(name, f_min=125.0, f_max=7600.0)
    return Preset(
        name=name,
        summary="22.05 kHz, hop 256, pre-emphasis 0.97 of the mel alone, mel in [0, 1]",
        sample_rate=22050,
        hop_length=256,
        heads=(head,),
        value_range=(0.0, 1.0),
        mel=dataclasses.replace(
            mel, preemphasis=0.97, ref_db=20.0, scale=0.01, offset=1.0, clip=(0.0, 1.0)
        ),
        output=OutputConfig(),
        wrapper="state_dict",
    )


def _gwang_mulaw() -> Preset:
    """The same with companded labels, of which it feeds back the wave that they mean."""
    return dataclasses.replace(
        _gwang("gwang-mulaw", "softmax"),
        summary="22.05 kHz, hop 256, mel in [0, 1]; labels mu-law companded, fed back expanded",
        output=OutputConfig(mu_law=True),
        feedback="mu_law",
    )


def _multiband() -> Preset:
    """Rongjiehuang/Multiband-WaveRNN: four sub-bands a step, then a synthesis filter bank.

    Rate, frames and lowest frequency are those of its settings. How levels are scaled is in a
    file that we have not seen: the logarithm is taken from its floor of -5 = log10(1e-5).
    """
    return Preset(
        name="multiband",
        summary="24 kHz, hop 128, four bands, log10 mel from -5 up (its scale is assumed); mu-law",
        sample_rate=24000,
        hop_length=128,
        heads=("softmax",),
        # As in forwardtacotron: a filter around a sine at full scale.
        value_range=(-5.0, 1.1),
        mel=MelConfig(
            preset="multiband",
            sample_rate=24000,
            n_fft=512,
            hop_length=128,
            win_length=512,
            n_mels=80,
            f_min=50.0,
            f_max=12000.0,
            log="log10",
        ),
        # Its folds are 5500 and 275 steps of four samples. Filters overshoot: 1 is the limit.
        output=OutputConfig(
            mu_law=True, label_decode="float32", fold_target=22000, fold_overlap=1100, limit=1.0
        ),
        wrapper="",
        bits=9,
        bands=4,
    )


RESIDUAL_PRESETS: tuple[Preset, ...] = (
    _forwardtacotron(),
    _coqui(),
    _mozilla_libritts(),
    _erogol_universal(),
    _multiband(),
    _gwang("gwang-gauss", "gaussian"),
    _gwang("gwang-beta", "beta"),
    _gwang("gwang-mol", "mol"),
    _gwang("gwang-bits", "softmax"),
    _gwang_mulaw(),
)
