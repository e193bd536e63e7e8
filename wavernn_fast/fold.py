"""Folding: one long utterance run as a batch of overlapping pieces, joined by crossfades.

A fold is `target` samples long with `overlap` samples on either side, and fold i starts at sample
i * (target + overlap), with hidden state and last sample zero::

    fold 0   |<overlap>|<--- target --->|<overlap>|
    fold 1                              |<overlap>|<--- target --->|<overlap>|

Starts are arbitrary sample positions inside a frame. What lies beyond the utterance is zero.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from . import pqmf
from .config import Crossfade, ModelConfig
from .errors import InputError
from .samples import Samples, decode_samples, deemphasize, mu_law_expand, shape_end


@dataclass(frozen=True, kw_only=True)
class Folding:
    """How utterances are folded; what is left None is as the model's preset says.

    Parameters
    ----------
    target, overlap : int, optional
        Samples of a fold between its overlaps, and those shared with a neighbour; target is the
        larger.
    crossfade : {"constant_power", "legacy"}, optional
        "legacy" has the hole of power in its middle that older programs have; see `fade_curves`.
    decode_before_crossfade : bool, optional
        For mu-law labels: fade waveforms (True) or companded values (False, older programs).
    """

    target: int | None = None
    overlap: int | None = None
    crossfade: Crossfade | None = None
    decode_before_crossfade: bool | None = None

    def applied(self, config: ModelConfig) -> ModelConfig:
        """Return `config` with an output rule that says the same.

        Raises
        ------
        InputError
            If the sizes cannot be, the crossfade is unknown, or an order of decoding is asked of
            a model without mu-law labels or after the crossfade of one with several bands.
        """
        output = config.output
        target, overlap = (
            preset if mine is None else to_samples(mine, name)
            for mine, preset, name in (
                (self.target, output.fold_target, "target"),
                (self.overlap, output.fold_overlap, "overlap"),
            )
        )
        check_steps(config, target=target, overlap=overlap)
        fold_plan(0, target, overlap)
        if self.crossfade not in (None, *get_args(Crossfade)):
            raise InputError(
                f"Unknown crossfade {self.crossfade!r}; "
                f"expected {' or '.join(get_args(Crossfade))}."
            )
        before = self.decode_before_crossfade
        if before is not None and not (output.mu_law and config.head == "softmax"):
            raise InputError(
                "The model has no mu-law labels, so there is nothing to decode before or after the "
                "crossfade; leave decode_before_crossfade out."
            )
        if before is False and config.bands > 1:
            raise InputError(
                f"The {config.bands} bands of this model are decoded before folds are joined; "
                "leave decode_before_crossfade out."
            )
        output = dataclasses.replace(
            output,
            fold_target=target,
            fold_overlap=overlap,
            crossfade=self.crossfade or output.crossfade,
            decode_before_crossfade=output.decode_before_crossfade if before is None else before,
        )
        return dataclasses.replace(config, output=output)


def check_steps(config: ModelConfig, **samples: int) -> None:
    """Refuse numbers of samples that are no whole steps of a model of several bands.

    Raises
    ------
    InputError
        Naming the first of them, and the next number that is.
    """
    for name, count in samples.items():
        if count % config.bands:
            more = count + -count % config.bands
            raise InputError(
                f"{name} is {count} samples, but this model draws {config.bands} of them a step; "
                f"give a multiple, such as {more}."
            )


def to_samples(value: Any, what: str) -> int:
    """Check a number of samples; its range is that of `fold_plan`."""
    try:
        return operator.index(value)
    except TypeError:
        raise InputError(f"{what} is {value!r}, expected an integer.") from None


@dataclass(frozen=True)
class FoldPlan:
    """Where the folds of one utterance lie; made by `fold_plan`."""

    n_samples: int  # samples of the utterance
    target: int  # samples of a fold between its overlaps
    overlap: int  # samples shared by neighbouring folds
    num_folds: int
    starts: tuple[int, ...]  # [num_folds] first sample of each fold
    lengths: tuple[int, ...]  # [num_folds] samples to draw; the rest of the last fold is cut off
    plain: bool  # one fold as long as the utterance, without fades

    @property
    def fold_length(self) -> int:
        """Samples of one fold, padding included."""
        return self.n_samples if self.plain else self.target + 2 * self.overlap

    def frames(self, fold: int, hop_length: int) -> tuple[int, int, int]:
        """Conditioning of a fold: (first frame, number of frames, samples into the first)."""
        start, length = self.starts[fold], self.lengths[fold]
        if length == 0:
            return start // hop_length, 0, start % hop_length
        last = (start + length - 1) // hop_length
        first = start // hop_length
        return first, last - first + 1, start % hop_length


def whole(n_samples: int) -> FoldPlan:
    """Plan of an utterance in one piece."""
    return FoldPlan(n_samples, n_samples, 0, 1, (0,), (n_samples,), plain=True)


def fold_plan(n_samples: int, target: int, overlap: int) -> FoldPlan:
    """Cut an utterance of `n_samples` samples into folds.

    There are (n_samples - overlap) div (target + overlap) folds, and one more for a remainder;
    its end beyond the utterance need not be drawn. An utterance no longer than `overlap`, of
    which that rule makes no fold, becomes one plain fold without fades.

    Parameters
    ----------
    n_samples : int
        Samples of the utterance (frames * hop_length), 0 or more.
    target, overlap : int
        Samples; target must be larger than overlap, overlap 0 or more.

    Returns
    -------
    FoldPlan

    Raises
    ------
    InputError
        If target is not larger than overlap or a number is negative.
    """
    if n_samples < 0 or overlap < 0 or target <= overlap:
        raise InputError(
            f"Cannot fold {n_samples} samples with target {target} and overlap {overlap}: the"
            " target must be larger than the overlap and nothing negative; 11000 and 550 are usual."
        )
    if n_samples <= overlap or n_samples == 0:
        return FoldPlan(n_samples, target, overlap, 1, (0,), (n_samples,), plain=True)
    stride = target + overlap
    num_folds = -((overlap - n_samples) // stride)  # rounded up
    starts = tuple(i * stride for i in range(num_folds))
    lengths = tuple(min(target + 2 * overlap, n_samples - start) for start in starts)
    return FoldPlan(n_samples, target, overlap, num_folds, starts, lengths, plain=False)


def fade_curves(overlap: int, flavour: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fade-in and fade-out curves, each float64 [overlap].

    With s = overlap div 2 and t from -1 to 1 over the other overlap - s samples:
    "constant_power" fades in by s zeros then sqrt((1 + t) / 2) and out by s ones then
    sqrt((1 - t) / 2), whose squares sum to one everywhere; "legacy" (older copies) fades out by
    sqrt((1 - t) / 2) then s zeros, which leaves a hole in the middle.

    Raises
    ------
    InputError
        If the flavour is neither.
    """
    silence = overlap // 2
    t = np.linspace(-1.0, 1.0, overlap - silence)
    fade_in = np.concatenate([np.zeros(silence), np.sqrt((1.0 + t) / 2.0)])
    ramp = np.sqrt((1.0 - t) / 2.0)
    if flavour == "constant_power":
        return fade_in, np.concatenate([np.ones(silence), ramp])
    if flavour == "legacy":
        return fade_in, np.concatenate([ramp, np.zeros(silence)])
    raise InputError(f"Unknown crossfade {flavour!r}; expected constant_power or legacy.")


def crossfade(
    folds: Sequence[NDArray[np.float64]] | NDArray[np.float64],
    plan: FoldPlan,
    flavour: str = "constant_power",
) -> NDArray[np.float64]:
    """Join folds into one wave, fading each in over its first and out over its last overlap.

    The very beginning is faded in too, and the end faded out where the last fold is full, as in
    the public implementations.

    Parameters
    ----------
    folds : float64 array [num_folds, target + 2 * overlap], or num_folds arrays
        Values of each fold; at least `plan.lengths[i]` of them, the rest counts as zero.
    plan : FoldPlan
        Where they lie.
    flavour : {"constant_power", "legacy"}
        See `fade_curves`.

    Returns
    -------
    float64 array [plan.n_samples]

    Raises
    ------
    InputError
        If folds are missing or too short.
    """
    found = [len(fold) for fold in folds]
    if len(found) != plan.num_folds or any(n < m for n, m in zip(found, plan.lengths, strict=True)):
        raise InputError(
            f"The folds hold {found} samples, but the plan needs at least {list(plan.lengths)}."
        )
    if plan.plain:
        return np.array(folds[0][: plan.n_samples], dtype=np.float64)
    fade_in, fade_out = fade_curves(plan.overlap, flavour)
    wave = np.zeros(plan.n_samples)
    tail = plan.fold_length - plan.overlap  # where a fold begins to fade out
    for fold, start, length in zip(folds, plan.starts, plan.lengths, strict=True):
        piece = np.array(fold[:length], dtype=np.float64)
        head = min(plan.overlap, length)
        piece[:head] *= fade_in[:head]
        if length > tail:
            piece[tail:] *= fade_out[: length - tail]
        wave[start : start + length] += piece
    return wave


def _joined(
    folds: Sequence[NDArray[np.float64]], plan: FoldPlan, config: ModelConfig
) -> NDArray[np.float64]:
    """`crossfade`; several bands each by themselves, so that all samples of a step fade alike."""
    bands, flavour = config.bands, config.output.crossfade
    if bands == 1:
        return crossfade(folds, plan, flavour)
    steps = FoldPlan(
        plan.n_samples // bands,
        plan.target // bands,
        plan.overlap // bands,
        plan.num_folds,
        tuple(start // bands for start in plan.starts),
        tuple(length // bands for length in plan.lengths),
        plan.plain,
    )
    joined = [crossfade([fold[k::bands] for fold in folds], steps, flavour) for k in range(bands)]
    return pqmf.synthesise(np.stack(joined, axis=1).reshape(-1), bands)


def join_folds(
    folds: Sequence[Samples], plan: FoldPlan, config: ModelConfig
) -> NDArray[np.float32]:
    """Waveform of a folded utterance, float32 [n_samples]: `unfold`, rounded."""
    return unfold(folds, plan, config).astype(np.float32)


def unfold(folds: Sequence[Samples], plan: FoldPlan, config: ModelConfig) -> NDArray[np.float64]:
    """Waveform of a folded utterance: decode, crossfade, de-emphasis, cut, fade-out.

    Mu-law is undone before or after the crossfade as `config.output.decode_before_crossfade` says.
    Several bands are joined one by one, and then become a waveform.

    Parameters
    ----------
    folds : sequence of num_folds arrays
        What the engine drew for each fold (see `samples.decode_samples`), `plan.lengths[i]` long.
    plan : FoldPlan
        Where they lie.
    config : ModelConfig
        Output rule.

    Returns
    -------
    float64 array [n_samples]
        After the length rule.
    """
    output = config.output
    before = output.decode_before_crossfade
    values = [decode_samples(fold, config, expand=before) for fold in folds]
    wave = _joined(values, plan, config)
    if output.mu_law and config.head == "softmax" and not before:
        wave = mu_law_expand(wave, config.n_classes)
    if output.deemphasis:
        wave, _ = deemphasize(wave, output.deemphasis)
    return shape_end(wave, config)
