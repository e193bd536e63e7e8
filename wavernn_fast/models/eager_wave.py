"""From the eager sampler to a waveform, by the end of the pipe of the original projects.

For measuring how good and how fast the original step and the original folding are on real mels;
the package's own pipe does not use it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import pqmf
from ..config import ModelConfig
from .eager import EagerModel


def join_folds(
    folds: NDArray[np.float64], overlap: int, flavour: Literal["constant_power", "legacy"]
) -> NDArray[np.float64]:
    """Crossfade folds [B, target + 2 overlap] into one line (docs/formats.md, folding)."""
    length, silence = folds.shape[1], overlap // 2
    t = np.linspace(-1.0, 1.0, overlap - silence)
    quiet = np.zeros(silence)
    fade_in = np.concatenate([quiet, np.sqrt(0.5 * (1.0 + t))])
    out = np.sqrt(0.5 * (1.0 - t))
    fade_out = np.concatenate([quiet + 1.0, out] if flavour != "legacy" else [out, quiet])
    stride = length - overlap
    joined = np.zeros(stride * len(folds) + overlap)
    for i, piece in enumerate(folds):
        piece = piece.copy()
        piece[:overlap] *= fade_in
        piece[length - overlap :] *= fade_out
        joined[i * stride : i * stride + length] += piece
    return joined


def resynthesise(
    model: EagerModel,
    mel: NDArray[np.float32],
    *,
    fold: tuple[int, int] | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Mel [n_mels, n_frames] -> waveform, by the original step and the original end of the pipe.

    Decoding is always the exact one: `OutputConfig.label_decode` is not consulted.

    Returns
    -------
    float64 [n], cut by the model's length rule, in [-1, 1] (de-emphasis may leave it)
    """
    config, output = model.config, model.config.output
    x = to_unit(config, model.generate(mel=mel, fold=fold, seed=seed).samples)

    def decode(y: NDArray[np.float64]) -> NDArray[np.float64]:
        mu = config.n_classes - 1.0
        expand = output.mu_law and config.head == "softmax"
        return np.sign(y) / mu * ((1.0 + mu) ** np.abs(y) - 1.0) if expand else y

    if output.decode_before_crossfade:
        x = decode(x)
    bands = config.bands
    wave = np.stack(  # each band by itself
        [
            x[0, k::bands]
            if fold is None
            else join_folds(x[:, k::bands], fold[1] // bands, output.crossfade)
            for k in range(bands)
        ],
        axis=1,
    ).reshape(-1)
    if not output.decode_before_crossfade:
        wave = decode(wave)
    if output.deemphasis:
        for i in range(1, len(wave)):
            wave[i] += output.deemphasis * wave[i - 1]
    wave = wave[: model.config.n_output_frames(mel.shape[1]) * config.hop_length]
    if bands > 1:
        wave = pqmf.synthesise(wave, bands)
    wave = wave[: config.n_samples(mel.shape[1])]
    fade = output.fade_out_frames * config.hop_length
    if 0 < fade <= len(wave):
        wave[-fade:] *= np.linspace(1.0, 0.0, fade)
    return wave


def to_unit(config: ModelConfig, samples: NDArray[Any]) -> NDArray[np.float64]:
    """Drawn samples to [-1, 1]: dual by its scale, labels 2 k / (C - 1) - 1, values as they are."""
    x = np.asarray(samples, np.float64)
    if config.core == "dual":
        exact = config.output.dual_scale == "int16"
        return (x - 32768.0) / 32768.0 if exact else x / 32767.5 - 1.0
    return x if config.draws_values else 2.0 * x / (config.n_classes - 1) - 1.0
