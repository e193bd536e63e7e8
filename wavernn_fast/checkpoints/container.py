"""Opening a PyTorch file safely: no code is run, limits come before allocation.

Files are of two kinds, a zip archive (PyTorch >= 1.6) and a bare pickle stream (older); both are
read by ``torch.load(weights_only=True)``, which builds tensors and plain containers only.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..canonical import show_shape
from ..errors import MissingDependencyError, ModelError
from ..weights import MAX_BYTES, MAX_TENSORS, read_foreign
from . import model_bin

_WRAPPERS = ("model_state", "state_dict", "model", "decoder", "vocoder")
# left by DataParallel and AveragedModel, torch.compile, and modules of PyTorch Lightning
_PREFIXES = ("module.", "_orig_mod.", "model.")
_PRUNED = "_orig"
_AVERAGES = "n_averaged"  # counted by AveragedModel beside its "module."
_CODEBOOK = re.compile(r"(module\.)?codebook\.embedding(\.weight)?")
_MIN_TORCH = (2, 10)
_MAX_DIMS = 8
_MOST_EXPANSION = 8  # bytes of float32 a byte of the file: of 8-bit floats four, and some tied
_HEAD_BYTES = 512
_ADVICE = "Save the weights alone: torch.save(model.state_dict(), path)."
_TRUSTED = (
    " Of a file whose maker you trust, in Python: torch.save(torch.load(path, weights_only=False)"
    "[KEY], new_path), where KEY is what the weights are under, such as 'model' or 'state_dict'."
)
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"RIFF", "a WAV file"),
    (b"fLaC", "a FLAC file"),
    (b"OggS", "an Ogg file"),
    (b"\x93NUMPY", "a NumPy array (a mel?)"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the real file with `git lfs pull`"),
)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint file and what was around them."""

    path: Path  # of a live module: what it is called
    state: dict[str, NDArray[Any]]  # floats widened or narrowed to float32, integers as they are
    wrapper: str  # key the tensors were under; "" for a plain state dict
    dtypes: dict[str, str] = field(default_factory=dict)  # as stored, such as "float16"


def _load_torch() -> Any:
    """Import torch, or say how to get a release whose loader is safe."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            "Reading a PyTorch checkpoint needs PyTorch: "
            'pip install "wavernn-fast[torch]". A converted model (.safetensors) does not need it.'
        ) from error
    found = re.match(r"(\d+)\.(\d+)", str(torch.__version__))
    if found is None or (int(found[1]), int(found[2])) < _MIN_TORCH:
        raise MissingDependencyError(
            f"PyTorch {torch.__version__} is too old to read untrusted files safely; "
            f"{_MIN_TORCH[0]}.{_MIN_TORCH[1]} or newer is needed: "
            'pip install --upgrade "wavernn-fast[torch]".'
        )
    return torch


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    """Name the kind of a file that is no checkpoint at all."""
    kind = next((kind for mark, kind in _SIGNATURES if head.startswith(mark)), None)
    text = head.lstrip().lower()
    if not head:
        kind = "empty"
    elif text.startswith((b"<!doctype", b"<html")):
        kind = "a web page: the download gave a page instead of the file"
    elif kind is None and not head.startswith((b"PK\x03\x04", b"\x80")):
        printable = all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)
        kind = "a text file" if printable else "of an unknown kind"
    if kind is not None:
        raise ModelError(
            f"{path} is not a model file, it is {kind}. Expected a PyTorch checkpoint "
            "(.pt, .pth, .pyt) or a converted model (.safetensors)."
        )


def _damaged(path: Path, what: object) -> ModelError:
    return ModelError(f"{path} is truncated or damaged ({what}). Copy or download it again.")


def _check_parts(archive: zipfile.ZipFile) -> None:
    """Compare every part with its checksum, which torch itself does not look at.

    Checksums are all 0 in files written after ``torch.serialization.set_crc32_options(False)``.
    """
    for entry in archive.infolist():
        if entry.CRC != 0:
            with archive.open(entry) as part:
                while part.read(1 << 20):
                    pass


def _check_entries(path: Path, entries: list[zipfile.ZipInfo], advice: str) -> None:
    """Refuse what unpacks to more than the file has, and what is not weights."""
    total = sum(entry.file_size for entry in entries)
    if total > MAX_BYTES or len(entries) > 2 * MAX_TENSORS:
        raise ModelError(
            f"{path} unpacks to {total} bytes in {len(entries)} parts; "
            f"limits are {MAX_BYTES} bytes and {2 * MAX_TENSORS} parts."
        )
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise ModelError(f"{path} is a TorchScript archive, which holds a program. {advice}")
    packed = next((e for e in entries if e.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise ModelError(
            f"{path} is a compressed archive ({packed.filename}); PyTorch compresses nothing. "
            "If it was packed by another program, unpack it and choose the checkpoint in it."
        )
    if total > path.stat().st_size:
        raise ModelError(f"{path} unpacks to {total} bytes, more than it has: its parts overlap.")


def _check_zip(path: Path, advice: str) -> None:
    """Refuse broken, oversized and TorchScript archives before torch sees them."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(path, archive.infolist(), advice)
            _check_parts(archive)
    except ModelError:
        raise
    except Exception as error:  # a broken archive makes zipfile raise nearly any type
        raise _damaged(path, error) from error


def _read_head(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise ModelError(f"There is no file {path}.") from None
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror or error}.") from error
    if size > MAX_BYTES:
        raise ModelError(f"{path} has {size} bytes, more than the {MAX_BYTES} a model may have.")
    return head


def _first_line(error: Exception) -> str:
    """Cut torch's long advice down to the line that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "WeightsUnpickler error" in line] or lines
    return telling[0][:200] if telling else type(error).__name__


def unpickle(path: Path, advice: str, trusted: str = "") -> Any:
    """Read tensors and plain containers; whatever else the file asks for is refused.

    Parameters
    ----------
    path : Path
        A file written by ``torch.save``.
    advice : str
        How to write one that can be used, in a sentence.
    trusted : str
        What more can be done with one that asks to run code, where it is known to be harmless.

    Raises
    ------
    ModelError
        If the file is missing, damaged, of another kind, too large, or asks to run code.
    MissingDependencyError
        If PyTorch is absent or older than 2.10.
    """
    head = _read_head(path)
    _refuse_other_kinds(path, head)
    is_zip = head.startswith(b"PK\x03\x04")
    if is_zip:
        _check_zip(path, advice)
    return _unpickle(path, is_zip, advice, trusted)


def _unpickle(path: Path, is_zip: bool, advice: str, trusted: str) -> Any:
    torch = _load_torch()
    try:
        with warnings.catch_warnings():  # on odd pickle protocols; what matters is raised
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise ModelError(
                f"{path} asks to run code ({named[1]}), which is refused; nothing was run. {advice}"
                f"{trusted}"
            ) from None
        raise ModelError(
            f"{path} is damaged, or holds more than tensors and plain values "
            f"({_first_line(error)}); nothing was run. {advice}"
        ) from None
    except Exception as error:  # a broken file makes torch raise nearly any type
        raise _damaged(path, f"{type(error).__name__}: {_first_line(error)}") from None


def _is_optimizer(content: Mapping[Any, Any]) -> bool:
    return "param_groups" in content and "state" in content


def _codebook(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """The vectors of codes, which ZeroSpeech saves with the encoder, beside the decoder."""
    encoder = content.get("encoder")
    if not isinstance(encoder, Mapping):
        return {}
    return {n: t for n, t in encoder.items() if isinstance(n, str) and _CODEBOOK.fullmatch(n)}


def _unwrap(path: Path, content: Any) -> tuple[Mapping[Any, Any], str]:
    """Find the state dict in whatever the training program saved around it."""
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{path} holds a {type(content).__name__}, expected a state dict (names to tensors)."
        )
    for key in _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            beside = _codebook(content) if key == "decoder" else {}
            return {**content[key], **beside}, key
    if _is_optimizer(content):
        raise ModelError(
            f"{path} is the state of an optimizer, not a model. Training programs save it beside "
            "the weights (latest_optim.pyt beside latest_weights.pyt): choose the weights."
        )
    return content, ""


def tensor_problem(name: Any, value: Any, torch: Any) -> str | None:
    """Say why an entry of the state dict cannot become an array; None if it can."""
    if not isinstance(name, str):
        return f"a key of the state dict is {type(name).__name__}, expected str"
    if not isinstance(value, torch.Tensor):
        return f"{name} is {type(value).__name__}, expected a tensor"
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return f"{name} is not a plain dense tensor"
    if value.is_complex():
        return f"{name} has dtype {value.dtype}, expected a floating-point type"
    if value.dim() > _MAX_DIMS:
        return f"{name} has {value.dim()} dimensions, limit {_MAX_DIMS}"
    return None


def _to_numpy(value: Any, torch: Any) -> NDArray[Any]:
    """Copy, so that no array depends on the mapped file; floats of any width become float32."""
    kind = torch.float32 if value.is_floating_point() else torch.int64
    array = value.detach().to(dtype=kind, device="cpu").contiguous().numpy()
    return np.array(array, order="C")


def short_names(names: Iterable[str]) -> dict[str, str]:
    """By name: what is left without the names of modules that the whole model was put into."""
    found = {name: name for name in names}
    if any(name.startswith("module.") for name in found):
        found.pop(_AVERAGES, None)
    while found and (prefix := _common_prefix(found.values())):
        found = {name: short.removeprefix(prefix) for name, short in found.items()}
    return found


def _common_prefix(names: Collection[str]) -> str:
    return next((p for p in _PREFIXES if all(name.startswith(p) for name in names)), "")


def _to_arrays(
    path: Path, state: Mapping[Any, Any], torch: Any, limit: int = MAX_BYTES
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    if len(state) > MAX_TENSORS:
        raise ModelError(f"{path} has {len(state)} tensors, limit {MAX_TENSORS}.")
    if not any(isinstance(value, torch.Tensor) for value in state.values()):
        # Only names: to write out what else may be a key could take for ever.
        named = [key[:40] if isinstance(key, str) else type(key).__name__ for key in state]
        keys = ", ".join(named[:8]) or "none"
        raise ModelError(
            f"{path} holds no tensors where a state dict was expected (its keys: {keys}). "
            f"A state dict may stand alone or under {', '.join(_WRAPPERS)}."
        )
    found = [p for name, value in state.items() if (p := tensor_problem(name, value, torch))]
    if found:
        raise ModelError(f"{path} is not a state dict of plain tensors:", found)
    # A stored tensor can be a small buffer seen through a huge shape, or by many names.
    total = sum(4 * value.numel() for value in state.values())
    if total > limit:
        largest = max(state, key=lambda name: int(state[name].numel()))
        raise ModelError(
            f"{path} needs {total} bytes, limit {limit}; its largest tensor is {largest} of "
            f"shape {show_shape(state[largest].shape)}."
        )
    arrays, dtypes = {}, {}
    for name, short in short_names(state).items():
        value = state[name]
        arrays[short] = _to_numpy(value, torch)
        dtypes[short] = str(value.dtype).removeprefix("torch.")
    apply_masks(arrays, dtypes)
    return arrays, dtypes


def apply_masks(arrays: dict[str, NDArray[Any]], dtypes: dict[str, str]) -> None:
    """Put weights that `torch.nn.utils.prune` keeps as two tensors together: values and mask."""
    for name in [name for name in arrays if name.endswith(_PRUNED)]:
        whole = name.removesuffix(_PRUNED)
        mask = arrays.get(f"{whole}_mask")
        if mask is not None and mask.shape == arrays[name].shape and whole not in arrays:
            values = arrays.pop(name)
            arrays[whole] = (values * arrays.pop(f"{whole}_mask")).astype(values.dtype)
            dtypes[whole] = dtypes.pop(name)


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a PyTorch checkpoint file into arrays without running any code from it.

    Parameters
    ----------
    path : Path
        A file written by ``torch.save``: a state dict alone, or under ``model_state``,
        ``state_dict`` or ``model``; or a ``model.bin``, for which PyTorch is not needed.

    Raises
    ------
    ModelError
        If the file is missing, truncated, of another kind, too large, an optimizer's, or asks to
        run code.
    MissingDependencyError
        If PyTorch is absent or older than 2.10.
    """
    head = _read_head(path)
    if model_bin.is_model_bin(head):
        return Checkpoint(path=path, state=model_bin.read(path), wrapper="model.bin")
    state, wrapper = _unwrap(path, unpickle(path, _ADVICE, _TRUSTED))
    limit = min(MAX_BYTES, _MOST_EXPANSION * path.stat().st_size)
    arrays, dtypes = _to_arrays(path, state, _load_torch(), limit)
    return Checkpoint(path=path, state=arrays, wrapper=wrapper, dtypes=dtypes)


def open_foreign(path: Path) -> Checkpoint:
    """Read the state dict of another program from a safetensors file, without PyTorch.

    Raises
    ------
    ModelError
        As `weights.read_foreign`.
    """
    stored, codes = read_foreign(path)
    names = short_names(stored)
    arrays = {short: stored[name] for name, short in names.items()}
    dtypes = {short: codes[name] for name, short in names.items()}
    apply_masks(arrays, dtypes)
    return Checkpoint(path=path, state=arrays, wrapper="", dtypes=dtypes)


def checkpoint_of_state(state: Mapping[Any, Any], label: str, wrapper: str = "") -> Checkpoint:
    """Copy the state dict of a live module; no file is read, so any release of PyTorch will do.

    Raises
    ------
    ModelError
        If an entry is no plain dense tensor of real numbers, or all together are too large.
    """
    import torch

    arrays, dtypes = _to_arrays(Path(label), state, torch)
    return Checkpoint(path=Path(label), state=arrays, wrapper=wrapper, dtypes=dtypes)
