"""torchaudio's own source files, where they are at hand, as oracles; the package is not imported.

Found in the folder that the environment variable WAVERNN_FAST_TORCHAUDIO names (what a wheel of
torchaudio holds below ``torchaudio/``; CONTRIBUTING.md), or in an installed torchaudio.
"""

from __future__ import annotations

import ast
import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

VARIABLE = "WAVERNN_FAST_TORCHAUDIO"
MISSING = f"torchaudio's files are not at hand; set {VARIABLE} (CONTRIBUTING.md)"


def folder() -> Path | None:
    """The package's folder, or None."""
    given = os.environ.get(VARIABLE)
    if given is None:
        spec = importlib.util.find_spec("torchaudio")
        given = str(Path(spec.origin).parent) if spec and spec.origin else None
    if given is None or not (Path(given) / "models" / "wavernn.py").is_file():
        return None
    return Path(given)


def wavernn() -> Any:
    """The module `torchaudio.models.wavernn`."""
    path = folder()
    assert path is not None
    spec = importlib.util.spec_from_file_location(
        "wavernn_of_torchaudio", path / "models/wavernn.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _definition(file: str, name: str, names: dict[str, Any]) -> Any:
    """Run one function or class of a file, with `names` in place of what it imports."""
    path = folder()
    assert path is not None
    tree = ast.parse((path / file).read_text())
    [node] = [n for n in tree.body if getattr(n, "name", None) == name]
    exec(compile(ast.Module([node], []), file, "exec"), names)
    return names[name]


def bundle_vocoder() -> Any:
    """The class of the vocoder of the Tacotron 2 bundles."""
    base = {"torch": torch, "Tensor": torch.Tensor, "Any": Any}
    tts = "pipelines/_tts/"
    unnormalize = _definition(f"{tts}utils.py", "_unnormalize_waveform", dict(base))
    decode = _definition("functional/functional.py", "mu_law_decoding", dict(base))
    names = {
        **base,
        "Optional": __import__("typing").Optional,
        "WaveRNN": Any,
        "Tacotron2TTSBundle": SimpleNamespace(Vocoder=object),
        "utils": SimpleNamespace(_unnormalize_waveform=unnormalize),
        "mu_law_decoding": decode,
    }
    return _definition(f"{tts}impl.py", "_WaveRNNVocoder", names)
