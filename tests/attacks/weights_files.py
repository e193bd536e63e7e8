"""Tensors that are larger than their bytes, not numbers, or of shapes that no model has."""

from __future__ import annotations

import io
import json
import struct
import tempfile
from hashlib import sha256
from pathlib import Path

import checkpoint_builders as builders
import model_bin_writer
import torch

from .archives import checkpoint
from .kinds import Attack


def legacy(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def _with(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**builders.to_torch(builders.fatchord()), name: tensor}


def _expanded() -> dict[str, torch.Tensor]:
    """Every tensor of a model of 16,384 units, over one number."""
    small = builders.to_torch(builders.fatchord())
    shapes = {n: [16384 if s in (16, 48) else s for s in t.shape] for n, t in small.items()}
    return {n: torch.zeros([]).expand(shapes[n]) for n in small}


def _wide_single_gru(width: int) -> dict[str, torch.Tensor]:
    """A model with one GRU, which is read as one of two with an identity of [width, width]."""
    state = builders.to_torch(builders.geneing(classes=4))
    state["fc1.weight"] = torch.zeros(width, state["fc1.weight"].shape[1])
    state["fc1.bias"] = torch.zeros(width)
    state["fc3.weight"] = torch.zeros(len(state["fc3.weight"]), width)
    return state


def _sparse_bin(rows: int, columns: int) -> bytes:
    """A model.bin whose input layer is a matrix of zeros, of which only the ends of rows are there.

    Nothing follows it: the matrix is refused, or made, before the file ends.
    """
    state = builders.geneing()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bin"
        whole = model_bin_writer.write(path, state, (2, 2, 3), 1).read_bytes()
    start = whole.index(model_bin_writer.layer("Linear"))
    head = model_bin_writer.layer("Linear") + struct.pack("<3i", 4, rows, columns)
    return whole[:start] + head + struct.pack("<2i", 0, rows) + b"\xff" * rows


def _states() -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    """By name: a state dict, and what must be said of it."""
    nan = torch.full((16,), float("nan"))
    shared = torch.zeros(1 << 18)
    return {
        "nan": (_with("I.bias", nan), "I.bias.*nan|I.bias.*finite"),
        "infinite": (_with("I.bias", torch.full((16,), float("inf"))), "I.bias"),
        "variance_below_zero": (
            _with("upsample.resnet.batch_norm.running_var", torch.full((12,), -1.0)),
            "running_var",
        ),
        "scale_that_overflows": (
            {
                **_with("upsample.resnet.batch_norm.weight", torch.full((12,), 3.3e38)),
                "upsample.resnet.batch_norm.running_var": torch.zeros(12),
            },
            "conv_in.*finite",
        ),
        "expanded": (_expanded(), "bytes, limit"),
        "wide_view": ({"I.weight": torch.zeros(1).expand(1 << 15, 1 << 15)}, "bytes, limit"),
        "shared_by_many": ({f"t{n}": shared for n in range(1000)}, "bytes, limit"),
        "nothing": ({"I.weight": torch.zeros(0, 1 << 40)}, "I.weight|no known layout"),
        "all_empty": (
            {n: t[:0] for n, t in builders.to_torch(builders.fatchord()).items() if t.dim()},
            "I.weight|step|expected",
        ),
        "long_filter": (
            _with("upsample.up_layers.1.weight", torch.zeros(1, 1, 1, (1 << 21) + 1)),
            "filters|samples a frame|samples",
        ),
        "blocks_of_a_high_number": (
            _with("upsample.resnet.layers.99999999.conv1.weight", torch.zeros(12, 12, 1)),
            "layers",
        ),
        "stage_of_a_high_number": (
            _with("upsample.up_layers.99999999.weight", torch.zeros(1, 1, 1, 5)),
            "up_layers",
        ),
        "identity_of_a_wide_layer": (_wide_single_gru(1 << 16), "fc1 has 65536 units, limit"),
        "names_that_are_long": ({"I" * (1 << 20): torch.zeros(2)}, "no known layout"),
    }


def _safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + data


def _tensor(shape: list[int], end: int, begin: int = 0) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


def _with_config(config: str) -> bytes:
    """A file without tensors and with the right checksum."""
    meta = {"format": "wavernn_fast", "version": "1", "config": config}
    return _safetensors({"__metadata__": meta | {"sha256": sha256(config.encode()).hexdigest()}})


def _canonical() -> list[Attack]:
    deep = b'{"__metadata__":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    files = {
        "config_deep": (_with_config("[" * 100_000), "configuration is not valid JSON"),
        "header_beyond_the_file": (_safetensors({}, length=1 << 19), "truncated"),
        "header_beyond_the_limit": (_safetensors(b"{}" + bytes(64), length=1 << 19), "truncated"),
        "header_deep": (_safetensors(deep), "header|not a wavernn_fast"),
        "header_no_json": (_safetensors(b"{" + b"x" * 40), "header"),
        "header_numbers": (_safetensors(b'{"a": ' + b"9" * 5000 + b"}"), "header|not a wavernn"),
        "tensor_huge": (_safetensors({"a": _tensor([1 << 40], 1 << 42)}), "wavernn_fast|metadata"),
        "tensor_negative": (_safetensors({"a": _tensor([-4], -16)}), "wavernn_fast|metadata"),
    }
    return [Attack(f"st_{n}", *f, suffix=".safetensors") for n, f in files.items()]


def attacks() -> list[Attack]:
    found = []
    for name, (state, words) in _states().items():
        found.append(Attack(f"weights_{name}", checkpoint(state), words))
        found.append(Attack(f"weights_{name}_legacy", legacy(state), words))
    wide = _sparse_bin(1 << 20, 1 << 20)
    return [
        *found,
        *_canonical(),
        Attack("bin_of_zeros", wide, "weights, limit", suffix=".bin"),
    ]
