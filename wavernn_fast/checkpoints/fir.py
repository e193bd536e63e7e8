"""The upsampling stages as one polyphase kernel, exactly.

Each stage repeats every value s times and runs a centred FIR over the result. Repetition and FIR
are linear, and shifting the input by a frame shifts the output by a hop, so a whole chain is one
small matrix: mel_up[n * hop + p] = sum_j kernel[p, j] * mel[n - left + j].
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_HOP = 1 << 16  # samples per frame; a bound on what a file can make us allocate
MAX_STAGES = 32  # a bound on the tensors that one high number can make us miss
_USUAL_STAGES = 3  # of the published models
_LEAST_HOP = 40  # samples per frame, 5 ms at 8 kHz


def expected_stages(scales: Sequence[int]) -> int:
    """How many stages a file has that has these, of which those that it lost are 0.

    The programs make any number of them, and no tensor tells the number: what a file that lost its
    last ones still has is a shorter chain. It is known by its frames, which are too short for
    speech; then the usual number was meant.
    """
    found = min(len(scales), MAX_STAGES)
    hop = math.prod(max(1, scale) for scale in scales[:found])
    return max(found, _USUAL_STAGES) if hop < _LEAST_HOP else found


def few_problems(scales: Sequence[int]) -> list[str]:
    """Say why stages are missed where `expected_stages` expects more than there are."""
    if not scales or expected_stages(scales) == len(scales):
        return []
    return [
        f"{len(scales)} upsampling filter{'s' * (len(scales) > 1)} would lead to "
        f"{math.prod(scales)} samples a frame: fewer than {_USUAL_STAGES} are taken for all that "
        f"the model has only where they lead to {_LEAST_HOP} or more"
    ]


def taps_of(sizes: Mapping[str, int]) -> list[int]:
    """The taps S0, S1, ... among solved sizes, in the order of the stages."""
    found = [name for name in sizes if re.fullmatch(r"S\d+", name)]
    return [sizes[name] for name in sorted(found, key=lambda name: int(name[1:]))]


class Upsampler(NamedTuple):
    """A composite kernel, float64 [hop, left + 1 + right], and how far it reaches in frames."""

    kernel: NDArray[np.float64]
    left: int
    right: int


def reach(scales: Sequence[int], radii: Sequence[int]) -> tuple[int, int]:
    """Frames before and after the current one that its samples read.

    Walks the stages backwards: sample i of a stage reads i - r to i + r of the repeated signal,
    which are samples (i - r) // s to (i + r) // s of the stage before.
    """
    low, high = 0, math.prod(scales) - 1
    for scale, radius in zip(reversed(scales), reversed(radii), strict=True):
        low, high = (low - radius) // scale, (high + radius) // scale
    return -low, high


def radius_in_samples(scales: Sequence[int], radii: Sequence[int]) -> int:
    """Sum of the FIR radii of all stages, in samples of the output."""
    total, after = 0, 1
    for scale, radius in zip(reversed(scales), reversed(radii), strict=True):
        total += radius * after
        after *= scale
    return total


def compose(scales: Sequence[int], firs: Sequence[NDArray[Any]]) -> Upsampler:
    """Run the stages, in float64, on one impulse a frame and read the kernel off.

    Parameters
    ----------
    scales : sequence of int
        Repetitions of each stage.
    firs : sequence of array [2 * radius + 1]
        Centred taps of each stage, cross-correlated as PyTorch's convolutions are.
    """
    radii = [len(fir) // 2 for fir in firs]
    left, right = reach(scales, radii)
    hop, frames = math.prod(scales), left + 1 + right
    # Row j is the response to an impulse in frame j. All that the middle frame reads, in every
    # stage, lies inside these frames, so zeros beyond their ends change nothing.
    signal = np.eye(frames)
    for scale, fir, radius in zip(scales, firs, radii, strict=True):
        stretched = np.pad(np.repeat(signal, scale, axis=1), ((0, 0), (radius, radius)))
        windows = np.lib.stride_tricks.sliding_window_view(stretched, len(fir), axis=1)
        signal = windows @ np.asarray(fir, dtype=np.float64)
    kernel = signal[:, left * hop : (left + 1) * hop].T
    return Upsampler(np.ascontiguousarray(kernel), left, right)
