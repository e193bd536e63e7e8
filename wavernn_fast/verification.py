"""The engine against the PyTorch model in float64, under teacher forcing.

Free-running audio parts at the first draw that falls the other way, so logits are compared while
both follow the same samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .likelihood import draw, teacher_forced_logits
from .scoring import negative_log_likelihood
from .synthetic import random_mel, random_speaker
from .utterance import Sampling, make_request

if TYPE_CHECKING:
    from .config import ModelConfig
    from .vocoder import Vocoder

# The one table of tolerances: by how much a logit may differ under teacher forcing, as
# (absolute, share of the largest |logit|), both added. Reasons: tests/tolerances.py.
TOLERANCES: dict[str, tuple[float, float]] = {
    "fp32": (1e-4, 5e-7),
    "fp16": (0.0, 2e-2),
    "bf16": (0.0, 2e-2),
    "int8": (0.0, 4e-2),
    "int8-fast": (0.0, 1.5e-1),
}


_WIDEST = 4.0  # times the tolerance, where PyTorch in float32 is beyond it


@dataclass(frozen=True)
class Comparison:
    """How far the engine's logits lie from those of PyTorch."""

    dtype: str
    steps: int
    worst: float  # largest absolute difference of a logit
    worst_step: int  # where it is: sample
    worst_logit: int  # and output
    engine_logit: float
    torch_logit: float
    largest: float  # largest absolute logit
    tolerance: float  # largest difference allowed
    engine_nll: float  # nats per sample of the forced samples
    torch_nll: float
    # largest difference of PyTorch's own logits in float32, where that widened the tolerance
    torch_float32: float | None = None

    @property
    def passed(self) -> bool:
        """Whether every logit is within the tolerance."""
        return self.worst <= self.tolerance


def compare(
    voc: Vocoder,
    tensors: Mapping[str, NDArray[np.float32]],
    *,
    steps: int = 2000,
    mel: NDArray[np.float32] | None = None,
    seed: int = 0,
    stored: str = "fp32",
) -> Comparison:
    """Draw samples, then compare the logits of both models while they follow these.

    Where single precision itself cannot tell logits to the tolerance, as where a unit hears the
    small difference of two loud things, an fp32 engine is asked for what PyTorch in float32 has,
    or four times the tolerance, whichever is less.

    Parameters
    ----------
    voc : Vocoder
    tensors : canonical tensors of the PyTorch side, usually those that `voc` was made from
    steps : int
        Samples compared, 1 or more (of several bands, made whole steps); fewer if the mel is
        shorter.
    mel : float32 [n_mels, n_frames], optional
        By default random values over the model's range. A model that hears a speaker hears a
        random one.
    seed : int
        Of the samples and of the random mel.
    stored : str
        Type that the weights of `voc` were rounded to in a file; the coarser of it and of the
        engine's dtype sets the tolerance.

    Raises
    ------
    InputError
        If the mel has too few frames to sound.
    MissingDependencyError
        If torch is not installed.
    """
    from .models.eager import make_eager
    from .vocoder import Vocoder

    config = voc.config
    steps += -steps % config.bands
    torch_model = make_eager(config, tensors, "float64")
    if mel is None and config.n_mels:
        frames = -(-steps // config.hop_length)
        if config.pad == "none":
            frames += config.lookback_frames + config.lookahead_frames
        mel = random_mel(config, frames, seed)
    if mel is not None:
        steps = min(steps, _most_steps(config, mel.shape[1]))
    # Drawn in fp32: samples that a coarser engine drew itself would flatter it.
    drawing = voc if voc.dtype == stored == "fp32" else Vocoder(config, tensors, dtype="fp32")
    speaker = None
    if config.speaker_size:
        speaker = random_speaker(config, seed)
        torch_model.hear(speaker)
    samples = _draw(drawing, mel, steps, seed, speaker)
    ours = _forced(voc, mel, samples, speaker)
    theirs = torch_model.teacher_forced_logits(samples, mel)
    dtype = max((voc.dtype, stored), key=lambda name: TOLERANCES[name][1])
    found = _compare_logits(config, dtype, samples, ours, theirs)
    if found.passed or dtype != "fp32":
        return found
    single = make_eager(config, tensors, "float32")
    if speaker is not None:
        single.hear(speaker)
    own = float(np.abs(single.teacher_forced_logits(samples, mel) - theirs).max())
    if own <= found.tolerance:
        return found
    wider = min(own, _WIDEST * found.tolerance)
    return dataclasses.replace(found, tolerance=wider, torch_float32=own)


def _most_steps(config: ModelConfig, n_frames: int) -> int:
    """Samples that a mel makes; some models hear its first and last frames as context only."""
    frames = config.n_output_frames(n_frames)
    if not frames:
        around = config.lookback_frames + config.lookahead_frames
        least = 1 + (around if config.pad == "none" else 0)
        raise InputError(
            f"The mel has {n_frames} frames and none of them sounds: this model needs {least} or "
            "more."
        )
    return frames * config.hop_length


def _compare_logits(
    config: ModelConfig,
    dtype: str,
    samples: NDArray[Any],
    ours: NDArray[np.float32],
    theirs: NDArray[np.float64],
) -> Comparison:
    difference = np.abs(ours.astype(np.float64) - theirs)
    step, logit = (int(i) for i in np.unravel_index(difference.argmax(), difference.shape))
    largest = float(np.abs(theirs).max())
    absolute, relative = TOLERANCES[dtype]
    return Comparison(
        dtype=dtype,
        steps=len(samples),
        worst=float(difference.max()),
        worst_step=step,
        worst_logit=logit,
        engine_logit=float(ours[step, logit]),
        torch_logit=float(theirs[step, logit]),
        largest=largest,
        tolerance=absolute + relative * largest,
        engine_nll=float(negative_log_likelihood(config, ours, samples).mean()),
        torch_nll=float(negative_log_likelihood(config, theirs, samples).mean()),
    )


def _draw(
    voc: Vocoder,
    mel: NDArray[np.float32] | None,
    steps: int,
    seed: int,
    speaker: NDArray[np.float64] | None,
) -> NDArray[Any]:
    n_samples = steps if mel is None else None
    request = make_request(voc.config, mel, n_samples, seed, speaker=speaker)
    return draw(voc.voice(), request, Sampling(1.0, False, None), steps)


def _forced(
    voc: Vocoder,
    mel: NDArray[np.float32] | None,
    samples: NDArray[Any],
    speaker: NDArray[np.float64] | None,
) -> NDArray[np.float32]:
    n_samples = len(samples) if mel is None else None
    request = make_request(voc.config, mel, n_samples, 0, speaker=speaker)
    logits = np.empty((len(samples), voc.engine.logits_size), np.float32)
    for numbers, part in teacher_forced_logits(voc.voice(), request, samples):
        logits[numbers] = part
    return logits
