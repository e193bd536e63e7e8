"""Models with random weights, for benchmarks and self-tests: real sizes, no voice."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .canonical import Tensors, expected_shapes
from .config import Head, ModelConfig
from .errors import InputError
from .features import expected_range
from .network_config import NetworkConfig
from .presets import Preset, get_preset
from .subscale_config import SubscaleConfig

_AUX: dict[str, Any] = {"aux_size": 32, "aux_channels": 128, "aux_blocks": 10, "aux_kernel": 5}

_SPEC = re.compile(
    r"(dual|dual-mel|subscale|residual|residual-(?:mol|gaussian|beta)|embedded):(\d{1,5})"
    r"(?::(\d{1,2})x(\d{1,2}):(\d{1,2}(?:\.\d+)?))?"
)
_PRUNED = re.compile(r"(gru\d?\.w_recurrent|gru2\.w_input|(coarse_|fine_)?fc\d\.weight)")


def random_model(spec: str, seed: int = 0) -> tuple[ModelConfig, Tensors]:
    """Make a model of a given shape.

    Parameters
    ----------
    spec : str
        "dual:896": the unconditioned 16-bit model of that hidden size at 24 kHz.
        "dual-mel:256": the same conditioned on 80 mel bins, 22.05 kHz, hop 64.
        "subscale:256": 16 rows a horizon of 8 columns apart, with 80 mel bins, 22.05 kHz, hop 240.
        "residual:512" and "residual-mol:512": the usual two-GRU vocoder, 9-bit labels or a
        mixture of 10 logistics, 80 mel bins, 22.05 kHz, hop 275. "residual-gaussian:512" and
        "residual-beta:512": with those heads, hop 256.
        "embedded:896": univoc's model, 10-bit labels, two bidirectional GRUs of 128 units over 80
        mel bins, output layers of 1024 units (8/7 of the size), 16 kHz, hop 200.
        Any of them with ":4x4:95" after it is pruned: 95 % of the blocks of 4 outputs and 4 inputs
        are zero, drawn evenly, in every recurrent matrix and output layer.
    seed : int
        The same seed gives the same weights.

    Returns
    -------
    config : ModelConfig
    tensors : dict of str to float32 array
        Uniform in +-1/sqrt(inputs), as PyTorch initialises such layers; in pruned matrices the
        inputs that are left.

    Raises
    ------
    InputError
        If the spec is not of this form.
    """
    match = _SPEC.fullmatch(spec)
    if match is None or not int(match[2]) or (match[3] and not int(match[3]) * int(match[4])):
        raise InputError(
            f"There is no synthetic model {spec!r}; write dual:896, dual-mel:256, "
            "subscale:896, residual:512, residual-mol:512, residual-gaussian:512, "
            "residual-beta:512 or embedded:896 (or another size that 32 divides), and :4x4:95 "
            "after it for one that is pruned by 95 % in blocks of 4x4."
        )
    config = _config(match[1], int(match[2]))
    random = np.random.default_rng(seed)
    tensors: Tensors = {}
    for name, shape in expected_shapes(config).items():
        bound = 1.0 / np.sqrt(shape[1] if len(shape) > 1 else config.hidden_size)
        tensors[name] = random.uniform(-bound, bound, shape).astype(np.float32)
    if config.core == "dual":  # the coarse half never sees the coarse sample being drawn
        columns = tensors["gru.w_sample"].reshape(3, config.hidden_size, 3)
        columns[:, : config.hidden_size // 2, 2] = 0.0
    if match[3]:
        shape, share = (int(match[3]), int(match[4])), float(match[5]) / 100.0
        for name in tensors:
            if _PRUNED.fullmatch(name):
                tensors[name] = drop_blocks(tensors[name], shape, share, random)
    if "upsample.kernel" in tensors:
        taps = tensors["upsample.kernel"].shape[1]
        tensors["upsample.kernel"] = np.full_like(tensors["upsample.kernel"], 1.0 / taps)
    if config.subscale is not None:  # a row hears those before it
        before = np.tri(config.subscale.factor, k=-1, dtype=np.float32)[:, None, :, None]
        tensors["subscale.input.weight"] *= before
    return config, tensors


def drop_blocks(
    weight: NDArray[np.float32],
    shape: tuple[int, int],
    sparsity: float,
    random: np.random.Generator,
) -> NDArray[np.float32]:
    """Zero a share of the blocks of a matrix, drawn evenly, and scale up what is left.

    Parameters
    ----------
    weight : float32 [rows, columns]
    shape : rows and columns of a block, from the first row and column on
    sparsity : share of the blocks that become zero, in [0, 1)
    random : where the choice comes from

    Returns
    -------
    float32 array of the same shape
    """
    rows, columns = weight.shape
    down, across = -(-rows // shape[0]), -(-columns // shape[1])
    kept = np.ones(down * across, np.float32)
    kept[random.permutation(kept.size)[: round(sparsity * kept.size)]] = 0.0
    blocks = kept.reshape(down, across)
    mask = np.repeat(np.repeat(blocks, shape[0], axis=0), shape[1], axis=1)[:rows, :columns]
    return np.asarray(weight * mask / np.float32(np.sqrt(1.0 - sparsity)), np.float32)


def _config(kind: str, size: int) -> ModelConfig:
    if kind == "dual":
        return ModelConfig(
            core="dual",
            head="dual_softmax",
            hidden_size=size,
            fc_size=max(1, size // 2),
            n_classes=256,
            sample_rate=24000,
            hop_length=1,
            source="synthetic",
        )
    if kind in ("dual-mel", "subscale"):
        fields = _conditioned(get_preset("mkotha" if kind == "dual-mel" else "native-22k"))
        if kind == "subscale":
            rows = SubscaleConfig(factor=16, horizon=8, channels=64, blocks=3, prediction_reach=2)
            fields |= {"subscale": rows, "upsample_left": 0, "upsample_right": 0}
        return ModelConfig(
            core="dual",
            head="dual_softmax",
            hidden_size=size,
            fc_size=size,
            n_classes=256,
            **fields,
        )
    if kind == "embedded":
        return _embedded_config(size)
    preset_name, head, n_classes = _RESIDUAL[kind]
    return ModelConfig(
        core="residual",
        head=head,
        hidden_size=size,
        fc_size=size,
        n_classes=n_classes,
        **_conditioned(get_preset(preset_name)),
        **_AUX,
    )


def _embedded_config(size: int) -> ModelConfig:
    preset = get_preset("univoc-v0.2")
    return ModelConfig(
        core="embedded",
        head="softmax",
        hidden_size=size,
        fc_size=16 * max(1, round(size / 14)),
        n_classes=1024,
        embedding_size=256,
        first_label=512,
        network=NetworkConfig(kind="gru", layers=2, size=128),
        **(_conditioned(preset) | {"upsample_left": 0, "upsample_right": 0}),
    )


# kind -> preset, head, outputs
_RESIDUAL: dict[str, tuple[str, Head, int]] = {
    "residual": ("fatchord-raw9", "softmax", 512),
    "residual-mol": ("fatchord-mol", "mol", 30),
    "residual-gaussian": ("gwang-gauss", "gaussian", 2),
    "residual-beta": ("gwang-beta", "beta", 2),
}


def _conditioned(preset: Preset) -> dict[str, Any]:
    """The fields of a model that hears the mel of a preset, three frames a sample."""
    return {
        "sample_rate": preset.sample_rate,
        "hop_length": preset.hop_length,
        "n_mels": 80,
        "upsample_left": 1,
        "upsample_right": 1,
        "mel": preset.mel,
        "output": preset.output,
        "preset": preset.name,
        "source": "synthetic",
    }


def random_mel(config: ModelConfig, n_frames: int, seed: int = 0) -> NDArray[np.float32]:
    """Frames [n_mels, n_frames], float32, spread over the value range of the model's mel."""
    low, high = (0.0, 1.0) if config.mel is None else expected_range(config.mel)
    random = np.random.default_rng(seed)
    frames = random.uniform(low, high, (config.n_mels, n_frames))
    return frames.astype(np.float32)


def random_speaker(config: ModelConfig, seed: int = 0) -> NDArray[np.float64]:
    """Make a vector of about unit length for a model that hears a speaker.

    Parameters
    ----------
    config : ModelConfig
    seed : int
        Equal seeds give equal vectors.

    Returns
    -------
    float64 array [speaker_size]
    """
    size = config.speaker_size
    return np.random.default_rng(seed).normal(0.0, size**-0.5, size)
