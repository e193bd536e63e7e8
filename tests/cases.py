"""Models and inputs for the tests: small, odd-sized and lively, made from a seed.

`enumerate_configs` lists the shapes every backend must get right; `random_tensors` fills one with
weights under which the state moves, the logits spread and the last sample matters, so that a
forgotten bias, a swapped gate or a lost feedback path shows within a few steps.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_fast.config import MelConfig, ModelConfig
from wavernn_fast.network_config import NetworkConfig
from wavernn_fast.subscale_config import SubscaleConfig

Tensors = dict[str, NDArray[np.float32]]


def dual_config(hidden_size: int, fc_size: int, **fields: Any) -> ModelConfig:
    """Return a dual-softmax model; unconditioned (hop 1) unless `fields` say otherwise."""
    defaults: dict[str, Any] = {"sample_rate": 8000, "hop_length": 1}
    return ModelConfig(
        core="dual",
        head="dual_softmax",
        n_classes=256,
        hidden_size=hidden_size,
        fc_size=fc_size,
        **(defaults | fields),
    )


def subscale_config(
    factor: int, horizon: int, blocks: int, *, channels: int = 6, **fields: Any
) -> ModelConfig:
    """Return a small subscale model; unconditioned (hop 1) unless `fields` say otherwise."""
    subscale = SubscaleConfig(factor=factor, horizon=horizon, channels=channels, blocks=blocks)
    return dual_config(32, 16, subscale=subscale, **fields)


def predicted_config(
    factor: int, horizon: int, blocks: int, reach: int, *, hop_length: int, **fields: Any
) -> ModelConfig:
    """Return a small subscale model whose rows are also predicted from the mel.

    `fields` of `MelConfig` and of `ModelConfig` both; the mel has 7 bands.
    """
    convention: dict[str, Any] = {"sample_rate": 8000, "n_mels": 7, "hop_length": hop_length}
    names = {field.name for field in dataclasses.fields(MelConfig)} - convention.keys()
    bands = {"n_fft": 64, "win_length": 48, "f_min": 100.0, "f_max": 3500.0, "log": "ln"}
    bands |= {"scale": 0.9, "offset": 5.9}  # about what `random_mel` has
    bands |= {name: fields.pop(name) for name in names & fields.keys()}
    config = subscale_config(factor, horizon, blocks, **convention, **fields)
    assert config.subscale is not None
    return dataclasses.replace(
        config,
        subscale=dataclasses.replace(config.subscale, prediction_reach=reach),
        mel=MelConfig(**convention, **bands),
    )


def residual_config(
    hidden_size: int, fc_size: int, *, bits: int | None = None, mixtures: int = 10, **fields: Any
) -> ModelConfig:
    """Return a residual model: softmax of 2**bits labels, or a mixture of logistics without.

    `fields` may name another head: ``head="beta", n_classes=2``.
    """
    defaults: dict[str, Any] = {"sample_rate": 8000, "hop_length": 4, "n_mels": 6}
    head: dict[str, Any] = {"head": "mol", "n_classes": 3 * mixtures}
    if bits is not None:
        head = {"head": "softmax", "n_classes": 2**bits}
    return ModelConfig(
        core="residual",
        hidden_size=hidden_size,
        fc_size=fc_size,
        **(defaults | head | fields),
    )


def embedded_config(
    hidden_size: int,
    fc_size: int,
    bits: int,
    network: tuple[str, int, int, int] | None = None,
    **fields: Any,
) -> ModelConfig:
    """Return an embedded model; `network` is its kind, layers, size and kernel."""
    defaults: dict[str, Any] = {"sample_rate": 8000, "hop_length": 4, "n_mels": 6}
    if network is not None:
        kind, layers, size, kernel = network
        fields["network"] = NetworkConfig(kind=kind, layers=layers, size=size, kernel=kernel)
    defaults |= {"embedding_size": 10, "first_label": 2 ** (bits - 1)}
    return ModelConfig(
        core="embedded",
        head="softmax",
        n_classes=2**bits,
        hidden_size=hidden_size,
        fc_size=fc_size,
        **(defaults | fields),
    )


def framed_config(
    hidden_size: int,
    fc_size: int,
    layers: int = 2,
    size: int = 7,
    kernel: int = 3,
    lstm: int = 0,
    **fields: Any,
) -> ModelConfig:
    """Return a dual model that hears residual convolutions over its mel, and LSTMs if any."""
    network = NetworkConfig(
        kind="residual_conv", layers=layers, size=size, kernel=kernel, lstm_layers=lstm
    )
    defaults: dict[str, Any] = {"hop_length": 4, "n_mels": 6, "network": network}
    return dual_config(hidden_size, fc_size, **(defaults | fields))


_AUX: dict[str, Any] = {"aux_size": 3, "aux_channels": 10, "aux_blocks": 2, "aux_kernel": 5}


def _conditioned(hop: int, n_mels: int, left: int, right: int, **fields: Any) -> dict[str, Any]:
    return {
        "hop_length": hop,
        "n_mels": n_mels,
        "upsample_left": left,
        "upsample_right": right,
    } | fields


def small_configs() -> list[ModelConfig]:
    """Return every shape question in a model small enough for hundreds of steps in the tests."""
    return [
        # dual: unconditioned, sizes that fill vectors and sizes that leave tails
        dual_config(32, 16),
        dual_config(64, 32),
        dual_config(96, 48),
        dual_config(32, 40),  # fc wider than half the state
        dual_config(96, 23),  # odd fc
        dual_config(64, 32, first_input=-1.0),
        # dual, conditioned: 1, 2 and 5 taps, one-sided and centred, both paddings, aux
        dual_config(32, 16, **_conditioned(5, 7, 0, 0)),
        dual_config(64, 33, **_conditioned(4, 5, 1, 0)),
        dual_config(64, 32, **_conditioned(4, 5, 0, 1)),
        dual_config(96, 48, **_conditioned(8, 20, 2, 2)),
        dual_config(32, 16, **_conditioned(3, 4, 1, 1, pad="none")),
        dual_config(32, 16, **_conditioned(3, 4, 1, 1), **_AUX),
        # residual (sizes are multiples of 16): 8, 9, 10 bits and mixtures, with and without aux
        residual_config(48, 16, bits=8, **_conditioned(4, 6, 0, 0)),
        residual_config(32, 32, bits=9, **_conditioned(5, 7, 2, 2), **_AUX),
        residual_config(80, 48, bits=10, **_conditioned(3, 5, 1, 1), **_AUX),
        residual_config(48, 64, bits=9, **_conditioned(4, 6, 1, 0, pad="none")),
        residual_config(112, 80, **_conditioned(4, 6, 0, 1)),
        residual_config(64, 48, **_conditioned(6, 8, 2, 2), **_AUX),
        residual_config(32, 32, mixtures=1, **_conditioned(2, 3, 1, 1, pad="none"), **_AUX),
        residual_config(16, 16, bits=8, n_mels=0, hop_length=1),
        # embedded: the mel itself, networks of one and of both kinds, both paddings, no mel
        embedded_config(48, 32, 8),
        embedded_config(64, 48, 10, ("gru", 2, 7, 1)),
        embedded_config(32, 64, 9, ("conv", 2, 9, 3)),
        embedded_config(80, 16, 8, ("conv", 3, 12, 5), pad="none", first_label=127),
        embedded_config(128, 16, 3, embedding_size=3, first_label=0, n_mels=0, hop_length=1),
        residual_config(48, 32, head="gaussian", n_classes=2, **_conditioned(4, 6, 1, 1), **_AUX),
        residual_config(32, 48, head="beta", n_classes=2, **_conditioned(5, 7, 2, 2), **_AUX),
        residual_config(16, 32, head="beta", n_classes=2, **_conditioned(3, 5, 0, 0, pad="none")),
    ]


def band_configs() -> list[ModelConfig]:
    """Return models that draw two or four sub-bands a step; hop lengths are of the waveform."""
    return [
        residual_config(48, 32, bits=8, bands=2, **_conditioned(6, 6, 1, 1)),
        residual_config(32, 48, bits=9, bands=4, **_conditioned(20, 7, 2, 2), **_AUX),
        residual_config(80, 16, bits=4, bands=4, **_conditioned(4, 5, 0, 1, pad="none"), **_AUX),
        residual_config(64, 64, bits=8, bands=4, first_input=-0.5, **_conditioned(8, 5, 0, 0)),
    ]


def full_size_configs() -> list[ModelConfig]:
    """Return the sizes people run: the paper's 896 and the usual 512/512 residual vocoders."""
    aux = {"aux_size": 32, "aux_channels": 128, "aux_blocks": 10, "aux_kernel": 5}
    vocoder = _conditioned(275, 80, 2, 2, sample_rate=22050) | aux
    return [
        dual_config(896, 448, sample_rate=24000),
        dual_config(896, 896, **_conditioned(64, 80, 1, 1, sample_rate=22050)),
        residual_config(512, 512, bits=9, **vocoder),
        residual_config(512, 512, **vocoder),
        embedded_config(896, 1024, 10, ("gru", 2, 128, 1), **_UNIVOC),
    ]


_UNIVOC: dict[str, Any] = {"sample_rate": 16000, "hop_length": 200, "n_mels": 80} | {
    "embedding_size": 256
}


def enumerate_configs(*, full_size: bool = True) -> list[ModelConfig]:
    """Return every model shape of the tests; `full_size=False` leaves the large ones out."""
    return small_configs() + (full_size_configs() if full_size else [])


def case_id(config: ModelConfig) -> str:
    """Name of a case in test reports, such as ``dual-96-fc48-mel20-taps5``."""
    head = (
        config.core if config.core == "dual" else f"{config.core}-{config.head}{config.n_classes}"
    )
    parts = [head, str(config.hidden_size), f"fc{config.fc_size}"]
    if config.n_mels:
        taps = f"{config.upsample_left}+1+{config.upsample_right}"
        parts += [f"mel{config.n_mels}", f"taps{taps}", f"hop{config.hop_length}"]
    if config.aux_size:
        parts.append(f"aux{config.aux_size}")
    if config.pad != "zeros":
        parts.append(f"pad-{config.pad}")
    if config.upsample != "kernel":
        parts.append(f"{config.upsample}{config.upsample_pad}")
    if config.pad_value:
        parts.append(f"floor{config.pad_value:g}")
    if config.bands > 1:
        parts.append(f"bands{config.bands}")
    if config.speaker_size:
        parts.append(f"speaker{config.speaker_size}")
    if config.first_input:
        parts.append(f"first{config.first_input:g}")
    if config.network is not None:
        network = config.network
        sizes = (network.kind, network.layers, network.size, network.kernel)
        parts.append("x".join(str(size) for size in sizes))
        if network.lstm_layers:
            parts.append(f"lstm{network.lstm_layers}")
    if config.subscale is not None:
        sizes = dataclasses.astuple(config.subscale)
        if not config.subscale.prediction_reach:  # the name of older cases, which seeds weights
            sizes = sizes[:-1]
        parts.append("subscale" + "x".join(str(size) for size in sizes))
    return "-".join(parts)


# --- weights --------------------------------------------------------------------------------------


class _Maker:
    """Draws normal arrays from one generator, in a fixed order."""

    def __init__(self, seed: int, gain: float) -> None:
        self.random = np.random.default_rng(seed)
        self.gain = gain

    def normal(self, shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
        return (self.random.standard_normal(shape) * std).astype(np.float32)

    def matrix(self, rows: int, columns: int, std: float = 1.0) -> NDArray[np.float32]:
        """Weights that turn inputs of unit size into outputs of size `std * gain`."""
        return self.normal((rows, columns), std * self.gain / np.sqrt(max(columns, 1)))


def random_tensors(config: ModelConfig, seed: int = 0, gain: float = 1.0) -> Tensors:
    """Canonical tensors of a lively model.

    Parameters
    ----------
    config : the shapes
    seed : the same seed gives the same tensors
    gain : multiplies every weight matrix (not the biases); 1 gives logits of standard deviation
        1 to 2, so that an entropy is well below log C and well above zero

    Returns
    -------
    dict of float32 arrays, C-contiguous
    """
    make = _Maker(seed ^ zlib.crc32(case_id(config).encode()), gain)
    tensors = {"dual": _dual, "residual": _residual, "embedded": _embedded}[config.core](
        config, make
    )
    held = config.core == "embedded" or config.network is not None
    if config.core == "dual" and config.network is not None:
        tensors |= _residual_conv(config, make)
    if config.n_mels and not held and config.upsample == "kernel":
        tensors["upsample.kernel"] = _kernel(config, make)
    if config.aux_size:
        tensors |= _aux(config, make)
    if config.subscale is not None:
        tensors |= _subscale(config.subscale, make)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}


def _dual(config: ModelConfig, make: _Maker) -> Tensors:
    h, half, fc = config.hidden_size, config.hidden_size // 2, config.fc_size
    w_sample = make.normal((3 * h, 3), 0.8 * make.gain)
    for gate in range(3):
        w_sample[gate * h : gate * h + half, 2] = 0.0  # c_t reaches the fine half only
    tensors = {
        "gru.w_recurrent": make.matrix(3 * h, h, 2.0),  # states are about 0.5 in size
        "gru.b_recurrent": make.normal((3 * h,), 0.3),
        "gru.b_input": make.normal((3 * h,), 0.3),
        "gru.w_sample": w_sample,
    }
    if config.conditioning_size:
        tensors["gru.w_conditioning"] = make.matrix(3 * h, config.conditioning_size)
    for name in ("coarse", "fine"):
        tensors |= _layer(make, f"{name}_fc1", fc, half, 2.0)
        tensors |= _layer(make, f"{name}_fc2", 256, fc, 2.2)
    return tensors


def _residual(config: ModelConfig, make: _Maker) -> Tensors:
    r, k, a, c = config.hidden_size, config.fc_size, config.aux_size, config.n_classes
    bands = config.bands
    tensors = _layer(make, "input", r, bands + config.n_mels + a + config.speaker_size, 1.0)
    for band in range(bands):
        tensors["input.weight"][:, band] = make.normal((r,), 0.8 * make.gain)
    for name, columns in (("gru1", r), ("gru2", r + a)):
        tensors[f"{name}.w_input"] = make.matrix(3 * r, columns, 0.8)
        tensors[f"{name}.w_recurrent"] = make.matrix(3 * r, r, 2.0)
        tensors[f"{name}.b_input"] = make.normal((3 * r,), 0.3)
        tensors[f"{name}.b_recurrent"] = make.normal((3 * r,), 0.3)
    tensors |= _layer(make, "fc1", k, r + a, 1.3)
    tensors |= _layer(make, "fc2", k, k + a, 1.5)
    tensors |= _layer(make, "fc3", bands * c, k, 1.8)
    if config.head == "mol":
        n = c // 3
        tensors["fc3.weight"][n : 2 * n] *= 0.4  # means mostly inside [-1, 1]
        tensors["fc3.weight"][2 * n :] *= 0.4
        tensors["fc3.bias"][2 * n :] -= 3.0  # scales of about exp(-3) = 0.05
    if config.head == "gaussian":
        tensors["fc3.weight"][:] *= 0.4
        tensors["fc3.bias"][1] -= 2.0  # deviations of about exp(-2) = 0.14
    if config.head == "beta":
        tensors["fc3.bias"][:] += 2.0  # parameters of about exp(2): deviations of about 0.25
    return tensors


def _embedded(config: ModelConfig, make: _Maker) -> Tensors:
    h, embedding, channels = config.hidden_size, config.embedding_size, config.conditioning_size
    tensors = {
        "embedding.weight": make.normal((config.n_classes, embedding), 1.0),
        "gru.w_label": make.matrix(3 * h, embedding),
        "gru.w_recurrent": make.matrix(3 * h, h, 2.0),
        "gru.b_recurrent": make.normal((3 * h,), 0.3),
        "gru.b_input": make.normal((3 * h,), 0.3),
    }
    if channels:
        tensors["gru.w_conditioning"] = make.matrix(3 * h, channels)
    tensors |= _layer(make, "fc1", config.fc_size, h, 2.0)
    tensors |= _layer(make, "fc2", config.n_classes, config.fc_size, 1.8)
    if config.speakers:
        tensors["speakers.weight"] = make.normal((config.speakers, config.speaker_size), 1.0)
    network = config.network
    for i in range(0 if network is None else network.layers):
        assert network is not None
        size, inputs = network.size, network.in_size(i, config.n_mels + config.speaker_size)
        if network.dilated:
            tensors |= _dilated(config, make, i)
            continue
        if network.kind == "conv":
            weight = make.matrix(size, inputs * network.kernel, 1.5)
            tensors[f"network.{i}.weight"] = weight.reshape(size, inputs, network.kernel)
            tensors[f"network.{i}.bias"] = make.normal((size,), 0.2)
            continue
        for way in ("forward", "backward"):
            tensors[f"network.{i}.{way}.w_input"] = make.matrix(3 * size, inputs, 1.5)
            tensors[f"network.{i}.{way}.w_recurrent"] = make.matrix(3 * size, size, 2.0)
            tensors[f"network.{i}.{way}.b_input"] = make.normal((3 * size,), 0.3)
            tensors[f"network.{i}.{way}.b_recurrent"] = make.normal((3 * size,), 0.3)
    return tensors


def _dilated(config: ModelConfig, make: _Maker, i: int) -> Tensors:
    """Layer `i` of dilated convolutions, and with the first the dense layer before them."""
    network, name = config.network, f"network.{i}"
    assert network is not None
    size, narrow, tensors = network.size, network.size // 4, {}

    def conv(part: str, rows: int, columns: int) -> None:
        weight = make.matrix(rows, 3 * columns, 0.7).reshape(rows, columns, 3)
        tensors[f"{name}.{part}.weight"], tensors[f"{name}.{part}.bias"] = (
            weight,
            make.normal((rows,), 0.2),
        )

    if i == 0:
        tensors |= _layer(make, "network.pre", size, config.n_mels + config.speaker_size, 1.0)
    if network.kind == "dilated_conv":
        conv("conv", size, size)
        return tensors
    tensors[f"{name}.gain"] = make.normal((size,), 1.0)
    tensors[f"{name}.shift"] = make.normal((size,), 0.5)
    tensors |= _layer(make, f"{name}.conv1", narrow, size, 1.5)
    conv("conv2", narrow, narrow)
    return tensors | _layer(make, f"{name}.conv3", size, narrow, 1.0)


def _residual_conv(config: ModelConfig, make: _Maker) -> Tensors:
    network, mels = config.network, config.n_mels
    assert network is not None
    tensors: Tensors = {}
    for i in range(network.layers):
        weight = make.matrix(mels, mels * network.kernel, 1.5)
        tensors[f"network.{i}.weight"] = weight.reshape(mels, mels, network.kernel)
        tensors[f"network.{i}.bias"] = make.normal((mels,), 0.2)
    tensors |= _layer(make, "network.dense0", network.size, mels, 1.5)
    tensors |= _layer(make, "network.dense1", network.size, network.size, 1.5)
    for i in range(network.lstm_layers):
        name, gates = f"network.lstm{i}", 4 * network.size
        tensors[f"{name}.w_input"] = make.matrix(gates, network.size, 1.5)
        tensors[f"{name}.w_recurrent"] = make.matrix(gates, network.size, 1.5)
        tensors[f"{name}.bias"] = make.normal((gates,), 0.3)
    return tensors


def _layer(make: _Maker, name: str, rows: int, columns: int, std: float) -> Tensors:
    return {
        f"{name}.weight": make.matrix(rows, columns, std),
        f"{name}.bias": make.normal((rows,), 0.2),
    }


def _kernel(config: ModelConfig, make: _Maker) -> NDArray[np.float32]:
    """Rows that interpolate between frames (they sum to about 1), plus a ripple of 5 %."""
    taps = config.upsample_left + 1 + config.upsample_right
    steps = config.hop_length // config.bands
    position = (np.arange(steps)[:, None] + 0.5) / steps - 0.5
    distance = np.abs(np.arange(taps)[None, :] - config.upsample_left - position)
    kernel = np.maximum(0.0, 1.2 - distance)
    kernel /= np.maximum(kernel.sum(axis=1, keepdims=True), 0.5)
    return (kernel + make.normal(kernel.shape, 0.05)).astype(np.float32)


def _aux(config: ModelConfig, make: _Maker) -> Tensors:
    channels, taps = config.aux_channels, config.aux_kernel
    slices = 1 if config.core == "dual" else 4
    conv_in = make.matrix(channels, config.n_mels * taps, 1.4)
    tensors = {
        "aux.conv_in.weight": conv_in.reshape(channels, config.n_mels, taps),
        "aux.conv_in.bias": make.normal((channels,), 0.2),
    }
    for i in range(config.aux_blocks):
        tensors |= _layer(make, f"aux.blocks.{i}.conv1", channels, channels, 1.0)
        tensors |= _layer(make, f"aux.blocks.{i}.conv2", channels, channels, 0.5)
    return tensors | _layer(make, "aux.conv_out", slices * config.aux_size, channels, 1.0)


def _subscale(config: SubscaleConfig, make: _Maker) -> Tensors:
    rows, wide, taps = config.factor, config.channels, 2 * config.reach + 1
    weight = make.matrix(rows * wide, rows * taps, 3.0).reshape(rows, wide, rows, taps)
    for row in range(rows):
        weight[row, :, row:] = 0.0  # a row sees the rows before it only
    tensors = {
        "subscale.input.weight": weight,
        "subscale.input.bias": make.normal((rows, wide), 0.3),
    }
    for i in range(config.blocks):
        name = f"subscale.blocks.{i}"
        tensors |= _layer(make, f"{name}.conv1", wide, 3 * wide, 1.0)
        tensors[f"{name}.conv1.weight"] = tensors[f"{name}.conv1.weight"].reshape(wide, wide, 3)
        tensors |= _layer(make, f"{name}.conv2", wide, wide, 0.7)
    return tensors


# --- inputs ---------------------------------------------------------------------------------------


def random_mel(config: ModelConfig, n_frames: int, seed: int = 0) -> NDArray[np.float32]:
    """Frames of unit size that drift as speech does, float32 [n_mels, n_frames]."""
    random = np.random.default_rng([seed, config.n_mels, 1])
    mel = np.zeros((config.n_mels, n_frames))
    frame = random.standard_normal(config.n_mels)
    for n in range(n_frames):
        frame = 0.8 * frame + 0.6 * random.standard_normal(config.n_mels)
        mel[:, n] = frame
    return mel.astype(np.float32)


def mel_for(config: ModelConfig, n_steps: int, seed: int = 0) -> NDArray[np.float32] | None:
    """Return a mel just long enough for `n_steps` samples; None for an unconditioned model."""
    if not config.n_mels:
        return None
    frames = -(-n_steps // config.hop_length)
    if config.pad == "none":
        frames += config.lookback_frames + config.lookahead_frames
    return random_mel(config, frames, seed)


def random_uniforms(config: ModelConfig, n_steps: int, seed: int = 0) -> NDArray[np.float64]:
    """Return float64 [n_steps, draws_per_step] in [0, 1)."""
    return np.random.default_rng([seed, 2]).random((n_steps, config.draws_per_step))


def random_samples(config: ModelConfig, n_steps: int, seed: int = 0) -> NDArray[Any]:
    """Outcomes to force, [n_steps]: int32 256 c + f or labels, or float32 x in [-1, 1] (values)."""
    random = np.random.default_rng([seed, 3])
    if config.draws_values:
        return random.uniform(-1.0, 1.0, n_steps).astype(np.float32)
    classes = 65536 if config.core == "dual" else config.n_classes
    return random.integers(0, classes, n_steps).astype(np.int32)
