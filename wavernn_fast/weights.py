"""The canonical model file: reading, writing, and what may be in it (names: `canonical`).

The file is plain safetensors. Its metadata holds four strings: ``format`` ("wavernn_fast"),
``version``, ``config`` (JSON of `ModelConfig`) and ``sha256`` of the stored tensors and of the
configuration. The same model always gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .canonical import Tensors, expected_shapes, problems, show_shape, validate
from .config import FORMAT_VERSION, ModelConfig
from .errors import AudioError, InputError, MissingDependencyError, ModelError
from .files import write_atomic

Storage = Literal["fp32", "fp16", "bf16"]

__all__ = [
    "Storage",
    "Tensors",
    "expected_shapes",
    "is_foreign",
    "read",
    "read_foreign",
    "read_metadata",
    "stored_dtypes",
    "validate",
    "write",
]

FORMAT = "wavernn_fast"
MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096
MAX_BYTES = 2 << 30

_CODES: dict[str, str] = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
_FOREIGN = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
_FOREIGN |= {"I8": "i1", "U8": "u1", "BOOL": "?"}  # of other programs, which have BF16 as well
_MAX_FINITE = {"fp16": 65504.0, "bf16": 3.3895314e38}
_MAX_DIMS = 8


# ---------------------------------------------------------------- number formats


def _to_bytes(name: str, values: NDArray[np.float32], dtype: str) -> bytes:
    """Round to the storage type (nearest, ties to even), little-endian."""
    if dtype in _MAX_FINITE:
        with np.errstate(over="ignore"):
            large = int(np.count_nonzero(np.abs(values) > _MAX_FINITE[dtype]))
        if large:
            raise ModelError(
                f"{name} has {large} values beyond {_MAX_FINITE[dtype]:g}, the largest that {dtype}"
                " can hold. Store the model as fp32."
            )
    if dtype == "fp32":
        return values.astype("<f4").tobytes()
    if dtype == "fp16":
        return values.astype("<f2").tobytes()
    bits = np.ascontiguousarray(values).view(np.uint32)
    # Adding 0x7fff plus the lowest kept bit, then cutting, rounds to nearest with ties to even.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return rounded.astype("<u2").tobytes()


def _from_bytes(code: str, data: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Widen stored numbers to float32; exact for all three storage types."""
    if code == "BF16":
        raw = np.frombuffer(data, dtype="<u2").astype(np.uint32) << np.uint32(16)
        return np.ascontiguousarray(raw.view(np.float32).reshape(shape))
    stored = np.frombuffer(data, dtype="<f4" if code == "F32" else "<f2")
    return np.array(stored, dtype=np.float32, order="C").reshape(shape)


def _digest(config: str, stored: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> str:
    """SHA-256 over name, type, shape and bytes of every tensor by name, then the configuration."""
    total = hashlib.sha256()
    for name in sorted(stored):
        code, shape, data = stored[name]
        total.update(f"{name}\0{code}\0{show_shape(shape)}\0".encode())
        total.update(data)
    total.update(config.encode())
    return total.hexdigest()


# ---------------------------------------------------------------- writing


def _encode(
    config: ModelConfig, tensors: Mapping[str, NDArray[np.float32]], dtype: str
) -> list[bytes]:
    """Lay out the file: length, header padded to 8 bytes, tensors in the order of their names."""
    stored = {
        name: (_CODES[dtype], array.shape, _to_bytes(name, array, dtype))
        for name, array in tensors.items()
    }
    text = config.to_json()
    header: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": str(FORMAT_VERSION),
            "config": text,
            "sha256": _digest(text, stored),
        }
    }
    offset, chunks = 0, []
    for name in sorted(stored):
        code, shape, data = stored[name]
        header[name] = {
            "dtype": code,
            "shape": list(shape),
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
        chunks.append(data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return [struct.pack("<Q", len(head)), head, *chunks]


def write(
    path: str | os.PathLike[str],
    config: ModelConfig,
    tensors: Mapping[str, NDArray[np.float32]],
    dtype: Storage = "fp32",
) -> None:
    """Write a canonical model file; on failure no file is left behind and none is damaged.

    Parameters
    ----------
    path : path
        Usually ends in ``.safetensors``. Replaced in one step if it exists.
    config : ModelConfig
    tensors : mapping of str to float32 array
        Canonical weights; checked by `validate`.
    dtype : {"fp32", "fp16", "bf16"}
        How numbers are stored; they are widened to float32 when read.

    Raises
    ------
    InputError
        If `dtype` is not one of the three.
    ModelError
        If the weights are not usable, do not fit the type, or the file cannot be written.
    """
    if dtype not in _CODES:
        raise InputError(f"A model is stored as {', '.join(_CODES)}, not {dtype!r}.")
    target = Path(path)
    validate(config, tensors)
    chunks = _encode(config, tensors, dtype)
    try:
        write_atomic(target, chunks)
    except AudioError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ModelError(
            f"Cannot write {target}: {reason}. Check that the folder exists, can be written to and "
            f"has {sum(map(len, chunks)) / 1e6:.1f} MB free."
        ) from error


# ---------------------------------------------------------------- reading


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(
                f"{path} has {size} bytes, more than the {MAX_BYTES} a model file may have."
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"There is no file {path}.") from None
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror or error}.") from error


def _header(path: Path, data: bytes) -> dict[str, Any]:
    """Read the header within its limits, before any tensor is looked at."""
    wrong = f"{path} is not a wavernn_fast model (safetensors) file"
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else None
    # Every header starts with "{"; another kind of file gives some huge length instead.
    if length is None or (len(data) > 8 and data[8:9] != b"{"):
        raise ModelError(
            f"{wrong}: it does not start with a header. Make one of a "
            "checkpoint with 'wavernn-fast convert'."
        )
    if length > MAX_HEADER_BYTES:
        raise ModelError(f"{wrong}: its header has {length} bytes, limit {MAX_HEADER_BYTES}.")
    if length > len(data) - 8:
        raise ModelError(
            f"{path} is truncated: its header needs {length + 8} bytes, the file has {len(data)}. "
            "Copy or download it again."
        )
    try:
        header = json.loads(data[8 : 8 + length].decode())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{wrong}: its header is not JSON ({error}).") from error
    if not isinstance(header, dict):
        raise ModelError(f"{wrong}: its header is not a JSON object.")
    if len(header) > MAX_TENSORS + 1:
        raise ModelError(f"{path} lists {len(header)} tensors, limit {MAX_TENSORS}.")
    return header


def _metadata(path: Path, header: Mapping[str, Any]) -> dict[str, str]:
    meta = header.get("__metadata__")
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ModelError(
            f"{path} is a safetensors file but not a wavernn_fast model (its metadata lacks "
            f'format "{FORMAT}"). Convert the original checkpoint with `wavernn-fast convert`.'
        )
    version = str(meta.get("version"))
    if version != str(FORMAT_VERSION):
        newer = version.isdecimal() and int(version) > FORMAT_VERSION
        advice = "Update wavernn_fast." if newer else "Convert the original checkpoint again."
        raise ModelError(
            f"{path} has format version {version}, this release reads {FORMAT_VERSION}. {advice}"
        )
    keys = ("config", "sha256")
    lost = [f"missing metadata {key!r}" for key in keys if not isinstance(meta.get(key), str)]
    if lost:
        raise ModelError(f"{path} is incomplete:", lost)
    return meta


def _size_problems(
    data: bytes, header: Mapping[str, Any], codes: Sequence[str] = tuple(_CODES.values())
) -> list[str]:
    """Compare what the header promises with the bytes there are; nothing is allocated."""
    found, end = [], 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict):
            found.append(f"{name} is described by {type(entry).__name__}, expected an object")
            continue
        shape, offsets = entry.get("shape"), entry.get("data_offsets")
        if entry.get("dtype") not in codes:
            expected = f"{', '.join(codes[:-1])} or {codes[-1]}"
            found.append(f"{name} has dtype {entry.get('dtype')}, expected {expected}")
        if not isinstance(shape, list) or len(shape) > _MAX_DIMS:
            found.append(f"{name} has no usable shape")
        if isinstance(offsets, list) and len(offsets) == 2 and isinstance(offsets[1], int):
            end = max(end, offsets[1])
    (length,) = struct.unpack("<Q", data[:8])
    have = len(data) - 8 - length
    if have < end:
        found.append(f"it is truncated: the tensors need {end} bytes, the file has {have}")
    return found


def _decode(path: Path, data: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Let safetensors check offsets, overlaps and sizes, and cut the file into tensors."""
    try:
        from safetensors import SafetensorError, deserialize
    except ImportError as error:
        raise MissingDependencyError(
            "Reading a model needs safetensors: pip install safetensors"
        ) from error
    try:
        items = deserialize(data)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({error}). Copy or download it again.") from error
    return {
        name: (str(entry["dtype"]), tuple(entry["shape"]), bytes(entry["data"]))
        for name, entry in items
    }


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the metadata of a canonical model file: format, version, config (JSON), sha256.

    Raises
    ------
    ModelError
        If the file is not a canonical model file.
    """
    file = Path(path)
    return _metadata(file, _header(file, _read_bytes(file)))


def stored_dtypes(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return how each tensor of a canonical file is stored: "F32", "F16" or "BF16".

    Raises
    ------
    ModelError
        If the file is not a canonical model file.
    """
    file = Path(path)
    header = _header(file, _read_bytes(file))
    _metadata(file, header)
    return {name: str(entry["dtype"]) for name, entry in header.items() if name[:2] != "__"}


def is_foreign(path: str | os.PathLike[str]) -> bool:
    """Whether it is a safetensors file of another program, by its header alone."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            data = head + file.read(min(int.from_bytes(head, "little"), MAX_HEADER_BYTES))
        meta = _header(Path(path), data).get("__metadata__")
    except (OSError, ModelError):
        return False
    return not isinstance(meta, dict) or meta.get("format") != FORMAT


def read_foreign(
    path: str | os.PathLike[str],
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read all tensors of a safetensors file of another program.

    Parameters
    ----------
    path : path
        With floats of 16 to 64 bits, integers and booleans.

    Returns
    -------
    tensors : dict of str to array
        Floats as float32, all else as int64.
    dtypes : dict of str to str
        As stored, such as "F16".

    Raises
    ------
    ModelError
        If the file is missing, truncated or damaged, or holds tensors of other types.
    """
    data = _read_bytes(file := Path(path))
    found = _size_problems(data, _header(file, data), (*_FOREIGN, "BF16"))
    try:
        stored = {} if found else _decode(file, data)
    except ModelError as error:
        found = [str(error)]
    if found:
        what = "neither a wavernn_fast model nor a usable checkpoint of another program"
        raise ModelError(f"{file} is a safetensors file, but {what}:", found)
    arrays: dict[str, NDArray[Any]] = {}
    for name, (code, shape, raw) in stored.items():
        if code == "BF16":
            arrays[name] = _from_bytes(code, raw, shape)
        else:
            kind = np.float32 if code[0] == "F" else np.int64
            with np.errstate(over="ignore"):  # infinity is found by the checks of a model
                arrays[name] = np.frombuffer(raw, _FOREIGN[code]).astype(kind).reshape(shape)
    return arrays, {name: code for name, (code, _, _) in stored.items()}


def read(path: str | os.PathLike[str]) -> tuple[ModelConfig, Tensors]:
    """Read a canonical model file, strictly.

    Parameters
    ----------
    path : path
        A file written by `write`.

    Returns
    -------
    config : ModelConfig
    tensors : dict of str to float32 array
        C-contiguous; fp16 and bf16 storage is widened.

    Raises
    ------
    ModelError
        If the file is missing, of another kind, of another version, truncated, altered (its
        sha256 is compared), or its weights do not match its configuration.
    """
    file = Path(path)
    data = _read_bytes(file)
    header = _header(file, data)
    meta = _metadata(file, header)
    found = _size_problems(data, header)
    if found:
        raise ModelError(f"{file} is not usable:", found)
    stored = _decode(file, data)
    if _digest(meta["config"], stored) != meta["sha256"]:
        raise ModelError(
            f"{file} is damaged: the sha256 of its tensors and configuration is not the one "
            "written into it. Copy or download it again, or convert the original checkpoint again."
        )
    try:
        config = ModelConfig.from_json(meta["config"])
    except ModelError as error:
        raise ModelError(f"{file} has an unusable configuration. {error}") from error
    tensors = {name: _from_bytes(code, raw, shape) for name, (code, shape, raw) in stored.items()}
    found = problems(config, tensors)
    if found:
        raise ModelError(f"The weights in {file} do not match its configuration:", found)
    return config, tensors
