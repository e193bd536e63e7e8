"""Linear upsampling over a whole utterance: conditioning rows sample by sample.

Some residual models have no filters: the padded mel of N = n + 2 P frames is interpolated to N H
samples so that first and last of both fall together ("align corners"), and P H samples are cut at
each end. Sample i lies at frame

    (i + P H) (N - 1) / (N H - 1) - P

of the mel, which drifts against i / H by a frame over the utterance: how a sample is made up of
frames depends on the utterance's length. No kernel says that, so here every sample has a row of its
own. The output of the auxiliary network is interpolated likewise, without padding: sample i lies at
its frame i (n - 1) / (n H - 1).

Interpolation and the product with the weights are both linear, so rows of frames are interpolated,
not mels. Positions are exact: integers up to the last division.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .conditioning_products import unwarned
from .config import ModelConfig

# Samples of a lane that are drawn at once: rows of a sample take 8 to 27 kB at hidden size 512.
SLICE_STEPS = 256


class Positions(NamedTuple):
    """Where samples lie between frames."""

    frame: NDArray[np.int64]  # the frame before or at each sample
    share: NDArray[np.float32]  # of the next frame, in [0, 1)


def _between(index: NDArray[np.int64], frames: int, hop: int, first: int) -> Positions:
    """Sample `index` of frames * hop, whose first and last lie on the first and last frame."""
    last = max(frames * hop - 1, 1)
    whole, rest = np.divmod(index * (frames - 1), last)
    return Positions(whole + first, (rest / last).astype(np.float32))


def mel_positions(config: ModelConfig, n_frames: int, samples: NDArray[np.int64]) -> Positions:
    """Where samples [k] of an utterance of `n_frames` lie in its mel; frame -1 is padding."""
    pad, hop = config.upsample_pad, config.hop_length
    return _between(samples + pad * hop, n_frames + 2 * pad, hop, -pad)


def aux_positions(config: ModelConfig, n_frames: int, samples: NDArray[np.int64]) -> Positions:
    """Where samples [k] lie in the output of the auxiliary network."""
    return _between(samples, n_frames, config.hop_length, 0)


def interpolate(rows: Any, first: int, positions: Positions, xp: Any) -> Any:
    """Rows at positions between frames.

    Parameters
    ----------
    rows : float32 array [frames, channels] of `xp`
        The first is of frame `first`. The last is used for the frame after it, too.
    first : int
    positions : Positions
        Of k samples.
    xp : module
        Array module in the style of the array API standard.

    Returns
    -------
    float32 array [k, channels]
    """
    low = positions.frame - first
    high = np.minimum(low + 1, rows.shape[0] - 1)
    share = xp.asarray(positions.share)[:, None]
    with unwarned():
        return rows[xp.asarray(low)] * (1.0 - share) + rows[xp.asarray(high)] * share


def engine_cell(
    config: ModelConfig, tensors: Mapping[str, NDArray[np.float32]]
) -> tuple[ModelConfig, dict[str, NDArray[np.float32]]]:
    """What an engine is made of: the model without what conditioning rows contain already.

    The columns of a speaker's vector are left out, and a model with linear upsampling hears one row
    a sample (`mel_rows.SampleRows`), so that to the engine its hop length is 1. What the network
    of a dual core gives is a mel to the engine, held for a frame.

    Returns
    -------
    config : ModelConfig
    tensors : dict of str to float32 array
    """
    cell = dict(tensors)
    plain = dataclasses.replace(config, speaker_size=0, speakers=0)
    cell.pop("speakers.weight", None)
    if config.speaker_size and config.core == "residual":
        cell["input.weight"] = np.ascontiguousarray(
            tensors["input.weight"][:, : -config.speaker_size]
        )
    if config.core == "dual" and config.network is not None:
        cell = {name: array for name, array in cell.items() if not name.startswith("network.")}
        cell["upsample.kernel"] = np.ones((config.hop_length, 1), np.float32)
        plain = dataclasses.replace(plain, n_mels=config.network.out_size, network=None, mel=None)
    if config.upsample == "kernel":
        return plain, cell
    cell["upsample.kernel"] = np.ones((1, 1), np.float32)
    plain = dataclasses.replace(
        plain,
        hop_length=1,
        mel=None,
        upsample="kernel",
        upsample_left=0,
        upsample_right=0,
        upsample_pad=0,
    )
    return plain, cell
