"""Reading models: canonical files at once, PyTorch checkpoints through one module a dialect.

torch is imported only in `container`, and only when a PyTorch file is opened.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import canonical, voices, weights
from ..canonical import Tensors
from ..config import ModelConfig
from ..errors import ModelError
from ..presets import fitting_presets, get_preset, with_preset
from . import (
    anandaswarup,
    begeekmyfriend,
    conventions,
    coqui,
    deepmind,
    fatchord,
    geneing,
    gibiansky,
    mkotha,
    multiband,
    scwavernn,
    torchaudio,
    univoc,
    yanggeng,
    yukarin,
    zerospeech,
)
from .layout import Converted, Dialect

if TYPE_CHECKING:
    from .container import Checkpoint

__all__ = ["DIALECTS", "detect", "inspect", "load", "load_state"]

_log = logging.getLogger("wavernn_fast")

# Where two explain a file equally well, the first: variants stand before what they vary.
DIALECTS: dict[str, Dialect] = {
    # univoc first: a file of it that has lost its embedding has names of fatchord's alone
    module.DIALECT.name: module.DIALECT
    for module in (
        zerospeech,
        univoc,
        coqui,
        begeekmyfriend,
        scwavernn,
        multiband,
        geneing,
        fatchord,
        torchaudio,
        deepmind,
        yanggeng,
        mkotha,
        anandaswarup,
        gibiansky,
        yukarin,
    )
}
_ENDINGS = (".safetensors", ".pt", ".pth", ".pyt", ".ckpt", ".bin")  # of files in a folder
_MOST_NAMES = 8
_LEAST_SHARE = 0.5  # of a file's tensors that must bear names of the dialect

# Published layouts that are told apart by one name, and are not read yet.
_UNSUPPORTED: tuple[tuple[str, str], ...] = (
    (r"overtone\.|encoder\.(?!encoder|conv)|vq\.", "an mkotha VQ-VAE or overtone model"),
)


def detect(state: Mapping[str, NDArray[Any]]) -> str:
    """Name the dialect of a state dict by the names of its tensors.

    The dialect that explains the largest share of the names wins, so a file with a tensor missing
    is still recognised and its fault can be named.

    Raises
    ------
    ModelError
        If the layout is known but not supported, or not known.
    """
    if any(name.endswith(".w_recurrent") for name in state):
        raise ModelError(
            "These are the tensors of a converted model without its configuration, which a program "
            "that wrote the file anew left out. Use the file that `wavernn-fast convert` wrote."
        )
    for pattern, family in _UNSUPPORTED:
        if any(re.match(pattern, name) for name in state):
            raise ModelError(
                f"The checkpoint is {family}, which is not supported. "
                f"Supported layouts: {', '.join(DIALECTS)}."
            )
    shares = {name: _share(dialect, state) for name, dialect in DIALECTS.items()}
    best = max(shares, key=lambda name: shares[name])
    if shares[best] < _LEAST_SHARE:
        tried = ", ".join(f"{name} ({share:.0%})" for name, share in shares.items())
        first = ", ".join(list(state)[:5])
        raise ModelError(
            "The checkpoint is of no known layout. Share of its tensor names that each layout "
            f"knows: {tried}. Its first tensors: {first}."
        )
    return best


def _share(dialect: Dialect, state: Mapping[str, NDArray[Any]]) -> float:
    """Share of the names that the dialect explains; 0 if it is not this one of several alike."""
    if dialect.fits is not None and not dialect.fits(state):
        return 0.0
    return sum(1 for tensor in state if dialect.names.match(tensor)) / max(1, len(state))


def _is_safetensors(path: Path) -> bool:
    """Tell a safetensors file by its first bytes, or by its name where they say nothing."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError:
        return path.suffix == ".safetensors"
    if len(head) == 9 and head[8:] == b"{":
        return bool(struct.unpack("<Q", head[:8])[0] <= weights.MAX_HEADER_BYTES)
    return path.suffix == ".safetensors"


def _file_of(path: str | os.PathLike[str]) -> Path:
    """The file that is meant; what is none may be an address, or a voice with a slip in its name.

    Raises
    ------
    ModelError
        Saying so.
    """
    text, file = os.fspath(path), voices.resolve(path)
    if "://" in text:
        raise ModelError(f"{text} is a URL. Nothing is downloaded: fetch the file, give its path.")
    if os.path.isdir(file):
        raise ModelError(f"Cannot read {file}: it is a folder. {_models_in(file)}")
    if file.suffix or os.path.lexists(file):
        return file
    if text == file.name:
        raise ModelError(
            f"There is no file {file}, and no voice of that name in the package (there are: "
            f"{', '.join(voices.names()) or 'none'})."
        )
    raise ModelError(f"There is no file {file}. Nothing is downloaded: give the path of a file.")


def _models_in(folder: Path) -> str:
    """Say which files of a folder may be meant, by their endings."""
    try:
        names = sorted(name for name in os.listdir(folder) if Path(name).suffix in _ENDINGS)
    except OSError:
        names = []
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    shown = ", ".join(names[:_MOST_NAMES]) or "none that ends like a model"
    return f"In it: {shown}{more}."


def load(path: str | os.PathLike[str], preset: str | None = None) -> tuple[ModelConfig, Tensors]:
    """Read a model file of any supported kind into its configuration and canonical weights.

    Parameters
    ----------
    path : path
        A canonical ``.safetensors`` file, a PyTorch checkpoint of a dialect in `DIALECTS`, the
        tensors of one in a safetensors file, or the name of a voice of the package. Only
        PyTorch's own files need PyTorch.
    preset : str, optional
        Convention for sample rate, mel and output. Default: what the file says, else the most
        likely one for the dialect and sizes, which is logged to logger ``wavernn_fast``.

    Returns
    -------
    config : ModelConfig
    tensors : dict of str to float32 array
        Names and shapes as `wavernn_fast.canonical.expected_shapes` says.

    Raises
    ------
    ModelError
        If the file cannot be used; all problems are listed.
    InputError
        If the preset is unknown or does not fit the model.
    MissingDependencyError
        If a PyTorch file is given and PyTorch is absent or too old.
    """
    file = _file_of(path)
    if preset is not None:
        get_preset(preset)  # an unknown name is refused before any work
    if _is_safetensors(file):
        if weights.is_foreign(file):
            return _to_model(_open(file), preset, {})
        config, tensors = weights.read(file)
        return (
            config if preset is None else conventions.apply_preset(file, config, preset)
        ), tensors
    return _to_model(_open(file), preset, {})


def load_state(
    state: Mapping[str, Any],
    label: str,
    preset: str | None = None,
    told: Mapping[str, Any] | None = None,
    wrapper: str = "",
) -> tuple[ModelConfig, Tensors]:
    """Take the state dict of a live PyTorch module as `load` takes a file.

    Parameters
    ----------
    state : mapping of str to torch.Tensor
        ``module.state_dict()``; every value is copied.
    label : str
        What it is called in messages, in place of a file.
    preset : str, optional
        As in `load`.
    told : mapping, optional
        "hop_length" and "head", as the module has them, for tensors that do not tell.
    wrapper : str
        Key under which the module's program saves its tensors, which hints at the preset.

    Returns
    -------
    config, tensors
        As `load` returns them.

    Raises
    ------
    ModelError, InputError
        As `load`.
    """
    from .container import checkpoint_of_state

    if preset is not None:
        get_preset(preset)
    return _to_model(checkpoint_of_state(state, label, wrapper), preset, told or {})


def _open(path: Path) -> Checkpoint:
    """Open a checkpoint of another program, in PyTorch's container or in safetensors."""
    from .container import open_checkpoint, open_foreign

    return open_foreign(path) if _is_safetensors(path) else open_checkpoint(path)


def _to_model(
    checkpoint: Checkpoint, preset: str | None, told: Mapping[str, Any]
) -> tuple[ModelConfig, Tensors]:
    """Convert, complete by a preset, check; messages begin with the name of the checkpoint."""
    path = checkpoint.path
    try:
        dialect = _dialect_of(checkpoint.state)
        converted = _convert(dialect, checkpoint)
        if preset is not None:
            conventions.refuse_unfitting(path, converted.fields, preset)
        converted = conventions.complete(dialect, checkpoint.wrapper, converted, preset, told)
        if preset is None:
            config = conventions.configure(path, dialect, checkpoint.wrapper, converted)
        else:
            config = conventions.apply_preset(
                path, conventions.without_preset(dialect, converted.fields), preset
            )
        canonical.validate(config, converted.tensors)
    except ModelError as error:
        message = str(error).split("\n  - ")[0]
        raise ModelError(f"{path}: {message}", error.problems) from error
    return config, converted.tensors


def _dialect_of(state: Mapping[str, NDArray[Any]]) -> Dialect:
    """The dialect that the tensor names tell, with the presets of its version."""
    dialect = DIALECTS[detect(state)]
    if dialect.presets_of is None:
        return dialect
    return dialect._replace(presets=dialect.presets_of(state))


def _convert(dialect: Dialect, checkpoint: Checkpoint) -> Converted:
    """Run the dialect; what overflows is found by `validate`."""
    with np.errstate(invalid="ignore", over="ignore"):
        return dialect.convert(checkpoint.state)


def _table(arrays: Mapping[str, NDArray[Any]], dtypes: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(array.shape), "dtype": dtypes.get(name, str(array.dtype))}
        for name, array in arrays.items()
    ]


def _inspect_canonical(path: Path) -> dict[str, Any]:
    config, tensors = weights.read(path)
    meta = weights.read_metadata(path)
    fields = dataclasses.asdict(config)
    return {
        "path": str(path),
        "kind": "canonical",
        "dialect": config.source,
        "wrapper": "",
        "sha256": meta["sha256"],
        "config": fields,
        "preset": config.preset,
        "presets": fitting_presets(**conventions.sizes(fields)),
        "sizes": {},
        "parameters": sum(array.size for array in tensors.values()),
        "tensors": _table(tensors, weights.stored_dtypes(path)),
        "problems": [],
    }


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Collect facts about a model file without refusing a faulty one.

    Parameters
    ----------
    path : path
        As for `load`.

    Returns
    -------
    dict
        JSON-ready: ``path``, ``kind`` ("canonical" or "checkpoint"), ``dialect`` (None if not
        recognised), ``wrapper``, ``tensors`` (name, shape, stored dtype), ``parameters``,
        ``sizes`` (implied by the shapes), ``preset`` (that `load` would assume; None if no preset
        fits), ``presets`` (that fit), ``config`` (None if unusable) and ``problems``.

    Raises
    ------
    ModelError
        If the file cannot be opened at all.
    """
    file = _file_of(path)
    ours = _is_safetensors(file) and not weights.is_foreign(file)
    return _inspect_canonical(file) if ours else _inspect_checkpoint(file)


def _inspect_checkpoint(path: Path) -> dict[str, Any]:
    checkpoint = _open(path)
    facts: dict[str, Any] = {
        "path": str(path),
        "kind": "checkpoint",
        "dialect": None,
        "wrapper": checkpoint.wrapper,
        "config": None,
        "preset": None,
        "presets": [],
        "sizes": {},
        "parameters": sum(array.size for array in checkpoint.state.values()),
        "tensors": _table(checkpoint.state, checkpoint.dtypes),
        "problems": [],
    }
    try:
        _add_model_facts(facts, checkpoint)
    except ModelError as error:
        facts["problems"] = list(error.problems) or [str(error)]
    return facts


def _add_model_facts(facts: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Fill in what each step of loading tells, up to the step that fails."""
    dialect = _dialect_of(checkpoint.state)
    facts.update(dialect=dialect.name, sizes=dialect.sizes(checkpoint.state))
    converted = _convert(dialect, checkpoint)
    facts["presets"] = fitting_presets(**conventions.sizes(converted.fields))
    converted = conventions.complete(dialect, checkpoint.wrapper, converted, None, {})
    preset = conventions.default_preset(dialect, checkpoint.wrapper, converted)
    facts.update(presets=fitting_presets(**conventions.sizes(converted.fields)), preset=preset)
    config = conventions.without_preset(dialect, converted.fields)
    if preset is not None:
        config = with_preset(config, preset)
    canonical.validate(config, converted.tensors)
    facts["config"] = dataclasses.asdict(config)
