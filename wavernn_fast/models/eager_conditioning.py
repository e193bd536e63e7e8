"""Conditioning of the eager samplers: every sample's mel and aux row, whole or cut into folds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def per_sample(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    mel: NDArray[np.float32] | None,
    dtype: Any,
) -> tuple[Tensor, Tensor]:
    """Upsample by the canonical kernel, and repeat the auxiliary network's frames.

    Parameters
    ----------
    config : sizes, padding
    tensors : canonical tensors of torch dtype `dtype`
    mel : float32 [n_mels, n_frames]; ignored by an unconditioned model

    Returns
    -------
    (mel [T, n_mels], aux [T, S * aux_size]), T = hop_length * output frames; [0, 0] each when
    the model is unconditioned; a network's output [T, size] in place of the mel where there is one

    Raises
    ------
    InputError
        If the mel is missing or misshapen.
    """
    import torch

    if not config.n_mels:
        return torch.zeros(0, 0, dtype=dtype), torch.zeros(0, 0, dtype=dtype)
    if mel is None or mel.ndim != 2 or mel.shape[0] != config.n_mels:
        found = "none" if mel is None else f"shape {mel.shape}"
        raise InputError(f"The mel must be [{config.n_mels}, n_frames]; found {found}.")
    x = torch.from_numpy(np.array(mel)).to(dtype)
    first = config.lookback_frames if config.pad == "none" else 0
    frames = slice(first, first + config.n_output_frames(x.shape[1]))
    if config.upsample == "linear":
        return _linear(config, tensors, x)
    if config.network is not None:
        held = _residual_conv(config, tensors, x).repeat_interleave(config.hop_length, dim=0)
        return held, held.new_zeros(len(held), 0)
    kernel = tensors["upsample.kernel"]
    beyond = (config.upsample_left, config.upsample_right)
    padded = torch.nn.functional.pad(x, beyond, value=config.pad_value)
    windows = padded.unfold(1, kernel.shape[1], 1)[:, frames]  # [M, n, taps]
    mel_up = torch.einsum("pj,mnj->npm", kernel, windows).reshape(-1, config.n_mels)
    mel_up = mel_up.repeat_interleave(config.bands, dim=0)  # the samples of a step hear the same
    if not config.aux_size:
        return mel_up, mel_up.new_zeros(len(mel_up), 0)
    aux = _aux_network(config, tensors, x)[frames]
    return mel_up, aux.repeat_interleave(config.hop_length, dim=0)


def _linear(
    config: ModelConfig, tensors: Mapping[str, Tensor], mel: Tensor
) -> tuple[Tensor, Tensor]:
    """Mel [M, n] -> (mel [T, M], aux [T, S * aux_size]), as the original programs interpolate."""
    from torch.nn.functional import interpolate, pad

    def stretched(x: Tensor) -> Tensor:
        longer: Tensor = interpolate(
            x[None], scale_factor=config.hop_length, mode="linear", align_corners=True
        )[0]
        return longer

    cut = config.upsample_pad * config.hop_length
    padded = pad(mel, (config.upsample_pad, config.upsample_pad), value=config.pad_value)
    mel_up = stretched(padded)[:, cut:-cut].T
    if not config.aux_size:
        return mel_up, mel_up.new_zeros(len(mel_up), 0)
    return mel_up, stretched(_aux_network(config, tensors, mel).T).T


def _residual_conv(config: ModelConfig, tensors: Mapping[str, Tensor], mel: Tensor) -> Tensor:
    """Mel [M, n] -> [n, size]: see `NetworkConfig`, kind residual_conv."""
    import torch
    from torch.nn.functional import conv1d, linear

    network = config.network
    assert network is not None
    x = mel[None]
    for i in range(network.layers):
        weight, bias = tensors[f"network.{i}.weight"], tensors[f"network.{i}.bias"]
        x = torch.tanh(conv1d(x, weight, bias, padding=network.kernel // 2))
    x = (x[0] + mel).T
    for i in range(2):
        weight, bias = tensors[f"network.dense{i}.weight"], tensors[f"network.dense{i}.bias"]
        x = torch.tanh(linear(x, weight, bias))
    for i in range(network.lstm_layers):
        x = _lstm(tensors, f"network.lstm{i}", x)
    return x


def _lstm(tensors: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Run one LSTM over x [n, size], from the first frame on; [n, size]."""
    import torch

    size = x.shape[1]
    lstm = torch.nn.LSTM(size, size, batch_first=True, dtype=x.dtype)
    bias = tensors[f"{name}.bias"]
    lstm.load_state_dict(
        {
            "weight_ih_l0": tensors[f"{name}.w_input"],
            "weight_hh_l0": tensors[f"{name}.w_recurrent"],
            "bias_ih_l0": bias,
            "bias_hh_l0": torch.zeros_like(bias),
        }
    )
    out: Tensor = lstm(x[None])[0][0]
    return out.detach()


def _aux_network(config: ModelConfig, tensors: Mapping[str, Tensor], mel: Tensor) -> Tensor:
    """Mel [M, n] -> [n, S * aux_size]; padded frames beyond both ends."""
    import torch
    from torch.nn.functional import conv1d, linear, pad

    def layer(x: Tensor, name: str) -> Tensor:
        return linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    weight, bias = tensors["aux.conv_in.weight"], tensors["aux.conv_in.bias"]
    padded = pad(mel, (config.aux_radius, config.aux_radius), value=config.pad_value)
    x = torch.relu(conv1d(padded[None], weight, bias))[0].T
    for i in range(config.aux_blocks):
        inner = torch.relu(layer(x, f"aux.blocks.{i}.conv1"))
        x = x + layer(inner, f"aux.blocks.{i}.conv2")
    return layer(x, "aux.conv_out")


def fold_starts(n_samples: int, target: int, overlap: int) -> list[int]:
    """First sample of every fold of `target + 2 * overlap` samples; the last may reach beyond."""
    if target < 1 or overlap < 0 or n_samples <= overlap:
        raise InputError(
            f"{n_samples} samples give no fold of target {target}, overlap {overlap}: "
            "the utterance must be longer than the overlap."
        )
    stride = target + overlap
    return [i * stride for i in range(math.ceil((n_samples - overlap) / stride))]


def cut_folds(x: Tensor, starts: Sequence[int], length: int) -> Tensor:
    """Cut x [T, D] into [folds, length, D]; zeros beyond T."""
    import torch

    x = torch.nn.functional.pad(x, (0, 0, 0, starts[-1] + length - len(x)))
    return torch.stack([x[start : start + length] for start in starts])
