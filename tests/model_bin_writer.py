"""Writes a state dict of the single-GRU model as geneing's program writes it, layer by layer."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

State = dict[str, np.ndarray]

NUMBERS = {"Conv1d": 1, "Conv2d": 2, "BatchNorm1d": 3, "Linear": 4, "GRU": 5, "Stretch2d": 6}


def layer(kind: str) -> bytes:
    return struct.pack("<i64s", NUMBERS[kind], f"{kind}(what PyTorch prints of it)".encode())


def matrix(weight: np.ndarray, group: int) -> bytes:
    values, places = [], []
    for row in weight.reshape(len(weight), -1, group):
        for number, part in enumerate(row):
            if part.any():
                values.append(part)
                places.append(number)
        places.append(255)
    places.append(255)  # an end too many, as there
    data = np.concatenate([np.zeros(0), *values]).astype("<f4")
    listed = np.array(places, dtype=np.uint8)
    return (
        struct.pack("<i", data.size)
        + data.tobytes()
        + struct.pack("<i", listed.size)
        + listed.tobytes()
    )


def linear(state: State, name: str, group: int) -> bytes:
    weight = state[f"{name}.weight"]
    head = struct.pack("<3i", 4, *weight.shape)
    return layer("Linear") + head + matrix(weight, group) + state[f"{name}.bias"].tobytes()


def gru(state: State, name: str, group: int) -> bytes:
    w_input, w_recurrent = state[f"{name}.weight_ih_l0"], state[f"{name}.weight_hh_l0"]
    data = layer("GRU") + struct.pack("<3i", 4, w_recurrent.shape[1], w_input.shape[1])
    for weight in (w_input, w_recurrent):
        for gate in np.split(weight, 3):
            data += matrix(gate, group)
    return data + state[f"{name}.bias_ih_l0"].tobytes() + state[f"{name}.bias_hh_l0"].tobytes()


def conv(state: State, name: str) -> bytes:
    weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
    out, inputs, kernel = weight.shape
    head = struct.pack("<5i", 4, bias is not None, inputs, out, kernel)
    data = layer("Conv1d") + head + weight.tobytes()
    return data if bias is None else data + bias.tobytes()


def norm(state: State, name: str, eps: float) -> bytes:
    head = struct.pack("<2if", 4, state[f"{name}.weight"].size, eps)
    parts = ("weight", "bias", "running_mean", "running_var")
    return layer("BatchNorm1d") + head + b"".join(state[f"{name}.{p}"].tobytes() for p in parts)


def stretch(scale: int) -> bytes:
    return layer("Stretch2d") + struct.pack("<2i", scale, 1)


def write(path: Path, state: State, scales: tuple[int, ...], group: int, eps: float = 1e-5) -> Path:
    prefix, hop = "upsample.resnet", int(np.prod(scales))
    blocks = sum(1 for name in state if name.endswith("conv1.weight"))
    pad = state[f"{prefix}.conv_in.weight"].shape[2] // 2
    data = struct.pack("<4i", blocks, len(scales), hop, pad)
    data += conv(state, f"{prefix}.conv_in") + norm(state, f"{prefix}.batch_norm", eps)
    for i in range(blocks):
        for k in (1, 2):
            data += conv(state, f"{prefix}.layers.{i}.conv{k}")
            data += norm(state, f"{prefix}.layers.{i}.batch_norm{k}", eps)
    data += conv(state, f"{prefix}.conv_out") + stretch(hop)
    for k, scale in enumerate(scales):
        taps = state[f"upsample.up_layers.{2 * k + 1}.weight"].reshape(-1)
        data += stretch(scale) + layer("Conv2d") + struct.pack("<2i", 4, taps.size) + taps.tobytes()
    data += linear(state, "I", group) + gru(state, "rnn1", group)
    data += linear(state, "fc1", group) + linear(state, "fc3", group)
    path.write_bytes(data)
    return path
