"""The arrows of docs/architecture.md point down: every include and every import is looked at.

A checker that finds nothing proves nothing, so each rule is also tried on a copy of the sources
with one forbidden line planted in it.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import shutil
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from wavernn_fast import config

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "wavernn_fast"

# --- the rules ------------------------------------------------------------------------------------

# Folder or file of csrc -> what it may include besides itself. cpu, reference, cuda and emulate are
# siblings; cuda/kernels is a layer of its own, which the emulator compiles for the host.
_CORE = ("common", "model", "plan", "engine")
_ENGINES = ("cpu", "reference", "cuda", "emulate")
CPP_LAYERS: dict[str, tuple[str, ...]] = {
    "common": (),
    "model": _CORE[:1],
    "cuda/kernels": (),
    "plan": (*_CORE[:2], "cuda/kernels"),
    "engine": _CORE[:3],
    "cpu": _CORE,
    "reference": _CORE,
    "gpu": (*_CORE, "cuda/kernels"),
    "cuda": (*_CORE, "cuda/kernels", "gpu"),
    "emulate": (*_CORE, "cuda/kernels", "gpu"),
    "backends": (*_CORE, "gpu", *_ENGINES),
    "bindings": (*_CORE, "gpu", *_ENGINES, "backends"),
}
PYTHON_HEADERS = re.compile(r"(Python\.h|pybind11/.*|numpy/.*)$")  # in bindings only
TORCH_HEADERS = re.compile(r"(torch/.*|ATen/.*|c10/.*)$")  # nowhere
CUDA_HEADERS = re.compile(r"(cuda|nvrtc|cooperative).*")  # nowhere yet

# Compiled once per instruction set: a standard template instantiated here could be the copy that
# the linker keeps for the whole program, and crash on an older processor.
KERNEL_FILES = re.compile(
    r"(cpu/(kernels\.(cpp|h)|kernel_\w+\.h|vec_\w+\.h)|plan/sparse_format\.h)$"
)
KERNEL_HEADERS = re.compile(
    r"(cstddef|cstdint|cstring|immintrin\.h|arm_neon\.h|cpu/kernels\.h|cpu/kernel_\w+\.h|"
    r"plan/sparse_format\.h|WF_VEC_HEADER)$"
)

# Layer of the package -> its modules. The subpackages are layers of their own.
MODULES: dict[str, str] = {
    "errors": "errors",
    "config": "config config_checks config_json network_config subscale_config",
    "data": "arrays audio bench_rows canonical codes conditioning conditioning_convolutions "
    "conditioning_frames conditioning_network conditioning_products conditioning_recurrent "
    "encoding features files fold job_history job_report job_style mel_conversion mel_origin "
    "mel_prediction "
    "metrics pictures pictures_bench pictures_latency pictures_mel pictures_split "
    "pictures_subscale places pqmf preset presets presets_embedded presets_residual samples "
    "scalars scoring subscale subscale_network svg synthetic upsampling visible voices weights "
    "words",
    "checkpoints": "checkpoints",
    "models": "models",
    "train": "train",
    "voice": "arriving batch devices kernels lanes likelihood live live_rounds loaded mel_rows "
    "nvrtc rows_ahead selfcheck stream stream_facts subscale_job subscale_run subscale_utterance "
    "utterance vocoder workers",
    "jobs": "jobs",
    "baselines": "baselines",
    "tools": "doctor evaluation evaluation_report floors machine matvec verification",
    "bench": "bench",
    "compat": "compat",
    "serve": "serve",
    "cli": "cli",
    "main": "__main__",
}
# Layer -> layers it may import besides itself.
_DATA = ("errors", "config", "data")
PYTHON_LAYERS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "config": ("errors",),
    "data": ("errors", "config"),
    "checkpoints": _DATA,
    "models": _DATA,
    "train": (*_DATA, "models"),
    "voice": (*_DATA, "checkpoints"),
    "jobs": (*_DATA, "checkpoints", "voice"),
    "baselines": (*_DATA, "models"),
    "tools": (*_DATA, "checkpoints", "models", "voice"),
    "bench": (*_DATA, "checkpoints", "models", "voice", "baselines", "tools"),
    "compat": (*_DATA, "checkpoints", "voice"),
    "serve": (*_DATA, "voice"),
    "cli": (
        *_DATA,
        "checkpoints",
        "models",
        "train",
        "voice",
        "jobs",
        "tools",
        "serve",
        "baselines",
        "bench",
    ),
    "main": ("cli",),
}
TORCH_LAYERS = {"baselines", "checkpoints", "models", "train"}
NATIVE_LAYERS = {"voice", "tools", "bench"}
# A filter and a recurrence over frames, with the same in Python beside each.
NATIVE_MODULES = {"samples", "conditioning_recurrent"}


# --- includes -------------------------------------------------------------------------------------


class Reference(NamedTuple):
    """One include or import."""

    line: int
    target: str
    quoted: bool = False  # include "...", or an import that only type checkers see


def includes(path: Path) -> list[Reference]:
    """Every include of a file: <...>, "..." and the name of a macro, comments left out."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), path.read_text(), flags=re.S)
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        match = re.match(r'\s*#\s*include\w*\s*(?:<([^>]+)>|"([^"]+)"|(\w+))', line)
        if match:
            name = match[1] or match[2] or match[3]
            found.append(Reference(number, name, match[2] is not None))
    return found


def cpp_layer(name: str) -> str:
    """Layer of a path relative to csrc: its folder, or for a file at the top its stem."""
    if name.startswith("cuda/kernels/"):
        return "cuda/kernels"
    return name.partition("/")[0] if "/" in name else Path(name).stem


def include_problem(csrc: Path, name: str, include: Reference) -> str | None:
    """Say what is wrong with one include of file `name` (relative to csrc)."""
    layer, target = cpp_layer(name), include.target
    if layer not in CPP_LAYERS:
        return f"layer {layer} is not in CPP_LAYERS"
    if KERNEL_FILES.match(name) and not KERNEL_HEADERS.match(target):
        return f"kernel files may not include {target}"
    if not include.quoted:
        if target == "WF_VEC_HEADER":
            return None if name == "cpu/kernels.cpp" else "only kernels.cpp chooses a vec_*.h"
        if PYTHON_HEADERS.match(target) and layer != "bindings":
            return f"{target} belongs in bindings"
        if TORCH_HEADERS.match(target) or CUDA_HEADERS.match(target):
            return f"{target} belongs nowhere in csrc"
        return None
    if not (csrc / target).is_file():
        return f'"{target}" is not a file of csrc (paths start there)'
    below = cpp_layer(target)
    if below != layer and below not in CPP_LAYERS[layer]:
        return f"{layer} may not include {below} ({target})"
    return None


def cpp_problems(csrc: Path) -> list[str]:
    """List every include that points up or sideways, as "file:line: sentence"."""
    found = []
    for path in sorted(csrc.rglob("*")):
        if path.suffix not in (".h", ".cpp", ".cu", ".cuh"):
            continue
        name = path.relative_to(csrc).as_posix()
        for include in includes(path):
            sentence = include_problem(csrc, name, include)
            if sentence:
                found.append(f"{name}:{include.line}: {sentence}")
    return found


# --- imports --------------------------------------------------------------------------------------


def _type_checking_lines(tree: ast.Module) -> set[int]:
    """Lines below `if TYPE_CHECKING:`, which no program runs."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for inner in node.body:
                lines.update(range(inner.lineno, (inner.end_lineno or inner.lineno) + 1))
    return lines


def _targets(node: ast.AST, package: list[str]) -> Iterator[str]:
    """Dotted names an import statement, or a call of import_module with a literal, may mean."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        base = [*base, *(node.module or "").split(".")] if node.module else base
        yield from (".".join([*base, alias.name]) for alias in node.names)
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name, called = node.args[0].value, ast.unparse(node.func).rpartition(".")[2]
        if called in ("import_module", "__import__") and isinstance(name, str):
            yield ".".join([*package, name[1:]]) if name.startswith(".") else name


def imports(path: Path, root: Path) -> list[Reference]:
    """Every import of a module, at any depth; `quoted` marks those for type checkers."""
    package = list(path.relative_to(root).parent.parts)
    tree = ast.parse(path.read_text(), str(path))
    quoted = _type_checking_lines(tree)
    return [
        Reference(node.lineno, target, node.lineno in quoted)
        for node in ast.walk(tree)
        for target in _targets(node, package)
    ]


def python_layer(part: str) -> str | None:
    """Layer of a module or subpackage directly below the package."""
    return next((layer for layer, names in MODULES.items() if part in names.split()), None)


def import_problem(root: Path, part: str, target: str) -> str | None:
    """Say what is wrong with one import of module or subpackage `part`."""
    layer = python_layer(part)
    if layer is None:
        return f"module {part} has no layer in MODULES"
    first, _, rest = target.partition(".")
    if first == "torch" and layer not in TORCH_LAYERS:
        return f"torch belongs in {', '.join(sorted(TORCH_LAYERS))}"
    if first in ("tests", "benchmarks", "pybind11"):
        return f"the package may not import {first}"
    name = rest.partition(".")[0]
    if first != PACKAGE or not name:
        return None
    if name == "_C":
        allowed = layer in NATIVE_LAYERS or part in NATIVE_MODULES
        return None if allowed else "_C belongs to the vocoder layer"
    if not any((root / PACKAGE / end).exists() for end in (f"{name}.py", name)):
        return None  # a name of the package itself, such as __version__
    below = python_layer(name)
    if below is None or below == layer or below in PYTHON_LAYERS[layer]:
        return None
    return f"{layer} may not import {below} ({target})"


def _modules(root: Path) -> Iterator[tuple[str, Path]]:
    """(module or subpackage below the package, file); the lazy __init__ of the package is left."""
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], path


def file_problems(root: Path, part: str, path: Path) -> list[str]:
    """List every forbidden import of one file, as "file:line: sentence"."""
    found = []
    for reference in imports(path, root):
        sentence = import_problem(root, part, reference.target)
        if sentence:
            found.append(f"{path.relative_to(root)}:{reference.line}: {sentence}")
    return found


def python_problems(root: Path) -> list[str]:
    """List every import that points up or to what its layer may not know."""
    return [problem for part, path in _modules(root) for problem in file_problems(root, part, path)]


def import_cycle(root: Path) -> list[str]:
    """Modules and subpackages that import each other in a circle; empty if there is none."""
    parts = {part for part, _ in _modules(root)}
    graph: dict[str, set[str]] = {part: set() for part in parts}
    for part, path in _modules(root):
        for reference in imports(path, root):
            names = reference.target.split(".")
            if names[0] == PACKAGE and len(names) > 1 and not reference.quoted:
                graph[part] |= {names[1]} & parts - {part}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


# --- the sources as they are ----------------------------------------------------------------------


def test_no_include_points_up_or_sideways() -> None:
    assert cpp_problems(ROOT / "csrc") == []


def test_no_import_points_up() -> None:
    assert python_problems(ROOT) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert import_cycle(ROOT) == []


def test_every_source_file_is_looked_at() -> None:
    """A checker that reads no file would pass; the known ends of the house must be among them."""
    read = {path.name for _, path in _modules(ROOT)}
    assert {"errors.py", "vocoder.py", "container.py", "vocode.py"} <= read
    assert "plan/plan.h" in {i.target for i in includes(ROOT / "csrc/plan/dual.h")}
    assert "pybind11/pybind11.h" in {i.target for i in includes(ROOT / "csrc/bindings/module.cpp")}
    assert f"{PACKAGE}._C" in {i.target for i in imports(ROOT / PACKAGE / "devices.py", ROOT)}


# --- one planted fault a rule ---------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources in a folder of their own, to be spoiled."""
    skip = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("csrc", PACKAGE):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skip)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "sentence"),
    [
        ("common/rng.h", '#include "plan/plan.h"', "common may not include plan"),
        ("engine/engine.cpp", '  #  include "cpu/isa.h"', "engine may not include cpu"),
        (
            "cpu/dual.cpp",
            '#include "reference/engine_reference.h"',
            "cpu may not include reference",
        ),
        ("reference/engine_reference.cpp", '#include "cpu/isa.h"', "reference may not include cpu"),
        ("cpu/threads.cpp", '#include "backends.h"', "cpu may not include backends"),
        ("backends.cpp", '#include "bindings/bindings.h"', "backends may not include bindings"),
        ("cpu/dual.cpp", "#include <Python.h>", "Python.h belongs in bindings"),
        ("backends.h", "#include <pybind11/numpy.h>", "pybind11/numpy.h belongs in bindings"),
        ("bindings/module.cpp", "#include <torch/extension.h>", "belongs nowhere in csrc"),
        (
            "cuda/kernels/args.h",
            '#include "common/config.h"',
            "cuda/kernels may not include common",
        ),
        ("gpu/device.h", '#include "emulate/fiber.h"', "is not a file of csrc"),
        ("cuda/kernels/args.h", '#include "gpu/device.h"', "cuda/kernels may not include gpu"),
        ("cpu/engine_cpu.cpp", "#include <cuda_runtime.h>", "belongs nowhere in csrc"),
        ("cpu/kernels.cpp", "#include <algorithm>", "kernel files may not include algorithm"),
        ("cpu/vec_avx2.h", "#include <vector>", "kernel files may not include vector"),
        ("plan/sparse_format.h", "#include <vector>", "kernel files may not include vector"),
        ("cpu/kernels.h", '#include "common/config.h"', "kernel files may not include common"),
        ("cpu/isa.cpp", "#include WF_VEC_HEADER", "only kernels.cpp chooses"),
        ("plan/dual.cpp", '#include "../cpu/isa.h"', "is not a file of csrc"),
    ],
)
def test_a_planted_include_is_reported(copy: Path, file: str, line: str, sentence: str) -> None:
    path = copy / "csrc" / file
    path.write_text(f"{line}\n{path.read_text()}")
    [problem] = cpp_problems(copy / "csrc")
    assert problem.startswith(f"{file}:1: ")
    assert sentence in problem


def test_a_folder_without_a_layer_is_reported(copy: Path) -> None:
    (copy / "csrc" / "metal").mkdir()
    (copy / "csrc" / "metal" / "new.cu").write_text('#include "common/config.h"\n')
    assert cpp_problems(copy / "csrc") == ["metal/new.cu:1: layer metal is not in CPP_LAYERS"]


def test_an_include_in_a_comment_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.h").write_text("// #include <a>\n/*\n#include <b>\n*/\n#include <c> // <d>\n")
    assert includes(tmp_path / "x.h") == [Reference(5, "c")]


@pytest.mark.parametrize(
    ("file", "line", "sentence"),
    [
        ("errors.py", "from . import config", "errors may not import config"),
        ("config.py", "from .presets import PRESETS", "config may not import data"),
        ("weights.py", "from .vocoder import Vocoder", "data may not import voice"),
        ("features.py", "import torch", "torch belongs"),
        ("vocoder.py", "if print(): from torch import nn", "torch belongs"),
        ("doctor.py", 'import importlib; importlib.import_module("torch")', "torch belongs"),
        ("conditioning.py", "from . import _C", "_C belongs to the vocoder layer"),
        ("models/eager.py", "from .._C import Engine", "_C belongs to the vocoder layer"),
        ("train/loop.py", "from wavernn_fast import _C", "_C belongs to the vocoder layer"),
        ("train/loop.py", "import wavernn_fast.vocoder", "train may not import voice"),
        ("models/eager.py", "from ..checkpoints import load", "models may not import checkpoints"),
        ("checkpoints/fir.py", "from ..models import eager", "checkpoints may not import models"),
        ("vocoder.py", "from .models import eager", "voice may not import models"),
        ("floors.py", "from .cli import main", "tools may not import cli"),
        ("bench/rows.py", "from ..cli import common", "bench may not import cli"),
        ("bench/rows.py", "import torch", "torch belongs"),
        ("compat/rtvc.py", "import torch", "torch belongs"),
        ("compat/rtvc.py", "from .. import _C", "_C belongs to the vocoder layer"),
        ("vocoder.py", "from .compat import fatchord", "voice may not import compat"),
        ("vocoder.py", "from .serve import create_app", "voice may not import serve"),
        ("serve/engine.py", "from ..cli import common", "serve may not import cli"),
        ("serve/engine.py", "from .. import _C", "_C belongs to the vocoder layer"),
        ("audio.py", "from wavernn_fast.cli.common import PIPE", "data may not import cli"),
        ("samples.py", "import tests.cases", "the package may not import tests"),
        ("brand_new.py", "import numpy", "module brand_new has no layer"),
    ],
)
def test_a_planted_import_is_reported(copy: Path, file: str, line: str, sentence: str) -> None:
    path, part = copy / PACKAGE / file, file.partition("/")[0].removesuffix(".py")
    path.parent.mkdir(exist_ok=True)
    old = path.read_text() if path.exists() else ""
    path.write_text(f"{old}\n{line}\n")
    [problem] = [p for p in file_problems(copy, part, path) if sentence in p]
    assert problem.startswith(f"{PACKAGE}/{file}:{old.count(chr(10)) + 2}: ")
    assert (part, path) in list(_modules(copy))


def test_a_planted_circle_is_reported(copy: Path) -> None:
    path = copy / PACKAGE / "presets.py"
    path.write_text(path.read_text() + "\ndef late():\n    from . import features\n")
    assert file_problems(copy, "presets", path) == []  # both are of one layer
    assert {"presets", "features"} <= set(import_cycle(copy))


# --- one configuration in two languages -----------------------------------------------------------


def native_fields(header: str) -> set[str]:
    """Names of the data members of struct ModelConfig."""
    [body] = re.findall(r"struct ModelConfig \{(.*?)\n\};", header, flags=re.S)
    return set(re.findall(r"^  (?:Core|Head|bool|int|float|double) (\w+) = ", body, flags=re.M))


def native_values(header: str, name: str) -> tuple[str, ...]:
    """Names of the values of an enum class."""
    [body] = re.findall(rf"enum class {name} \{{(.*?)\}}", header)
    return tuple(value.strip() for value in body.split(","))


def test_every_field_of_the_native_configuration_is_one_of_the_package() -> None:
    header = (ROOT / "csrc/common/config.h").read_text()
    native = native_fields(header)
    assert {"core", "hidden_size", "first_input"} <= native
    assert native <= {field.name for field in dataclasses.fields(config.ModelConfig)}
    assert native_values(header, "Core") == get_args(config.Core)
    assert native_values(header, "Head") == get_args(config.Head)


def test_a_renamed_native_field_would_be_found() -> None:
    header = (ROOT / "csrc/common/config.h").read_text()
    spoiled = header.replace("int fc_size = 0;", "int width = 0;")
    assert native_fields(spoiled) - native_fields(header) == {"width"}
