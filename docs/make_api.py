"""Writes docs/api.md from the docstrings of the public names.

    python docs/make_api.py

A test (tests/test_api_page.py) fails while the page is not what this script would write.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("api.md")

# heading -> (module, names); the order of the page
CONTENTS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "Sound": (
        ("wavernn_fast.vocoder", ("Vocoder",)),
        ("wavernn_fast.stream", ("PushStream",)),
        ("wavernn_fast.live", ("LivePool", "LiveStream")),
        ("wavernn_fast.stream_facts", ("StreamFacts",)),
        ("wavernn_fast.batch", ("BatchReport",)),
        ("wavernn_fast.fold", ("Folding",)),
    ),
    "Configuration": (
        ("wavernn_fast.config", ("ModelConfig", "MelConfig", "OutputConfig")),
        ("wavernn_fast.network_config", ("NetworkConfig", "CodesConfig")),
        ("wavernn_fast.subscale_config", ("SubscaleConfig",)),
    ),
    "Files": (
        ("wavernn_fast.checkpoints", ("load", "inspect")),
        ("wavernn_fast.weights", ("read", "write")),
        ("wavernn_fast.audio", ("read_wav", "write_wav", "read_mel", "write_mel")),
    ),
    "Jobs": (
        ("wavernn_fast.jobs.items", ("collect", "Item")),
        ("wavernn_fast.jobs.manifest", ("read_manifest",)),
        ("wavernn_fast.jobs.settings", ("Settings",)),
        ("wavernn_fast.jobs.job", ("Job", "Policy", "Summary")),
        ("wavernn_fast.jobs.work", ("LocalWorker", "Outcome")),
        ("wavernn_fast.jobs.journal", ("history", "lines")),
        ("wavernn_fast.jobs.child", ("ChildWorker", "child_worker")),
        ("wavernn_fast.jobs.places", ("Care",)),
        ("wavernn_fast.jobs.shard", ("parse_shard",)),
        ("wavernn_fast.jobs.ray_engine", ("RayWorker", "RayOptions", "ray_worker")),
    ),
    "Features": (
        ("wavernn_fast.features", ("log_mel", "check_mel", "MelRangeWarning")),
        ("wavernn_fast.presets", ("get_preset", "with_preset", "fitting_presets")),
    ),
    "In an existing program": (
        ("wavernn_fast.compat.acceleration", ("accelerate", "Accelerated")),
        ("wavernn_fast.compat.fatchord", ("WaveRNN",)),
        ("wavernn_fast.compat.rtvc", ("WaveRNN",)),
        ("wavernn_fast.compat.coqui", ("Wavernn",)),
        ("wavernn_fast.compat.torchaudio", ("WaveRNN", "Vocoder")),
        ("wavernn_fast.compat.univoc", ("Vocoder",)),
        ("wavernn_fast.compat.zerospeech", ("Vocoder",)),
    ),
    "Errors": (
        (
            "wavernn_fast.errors",
            (
                "WaveRNNError",
                "ModelError",
                "InputError",
                "AudioError",
                "DeviceError",
                "EngineError",
                "PoolFullError",
                "MissingDependencyError",
            ),
        ),
    ),
}
_INTRODUCTION = """# API

Made from the docstrings by `docs/make_api.py`. Arrays are numpy's unless it says otherwise; shapes
stand in brackets. Names without a module are imported from `wavernn_fast` itself.
"""
_SECTION = re.compile(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", flags=re.M)
_LISTED = ("Parameters", "Returns", "Yields", "Raises", "Attributes")


def page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for heading, modules in CONTENTS.items():
        parts.append(f"## {heading}\n")
        for module, names in modules:
            for name in names:
                parts += _entry(module, name)
    return "\n".join(parts).rstrip() + "\n"


def _entry(module: str, name: str) -> Iterator[str]:
    thing = getattr(import_module(module), name)
    package = import_module("wavernn_fast")
    public = getattr(package, name, None) is thing if name in package.__all__ else False
    full = name if public else f"{module}.{name}"
    yield f"### `{full}`\n"
    yield from _described(name, thing)
    if inspect.isclass(thing) and not issubclass(thing, BaseException):
        for member, value in _members(thing):
            yield f"#### `{name}.{member}`\n"
            yield from _described(member, value)


def _members(thing: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties in their order, those of private bases and of ours too."""
    seen: set[str] = set()
    for base in thing.__mro__:
        if not base.__module__.startswith("wavernn_fast"):
            continue
        for name, value in vars(base).items():
            documented = isinstance(value, (property, classmethod)) or inspect.isfunction(value)
            if name.startswith("_") or name in seen or not documented:
                continue
            seen.add(name)
            yield name, value


def _described(name: str, thing: Any) -> Iterator[str]:
    signature = _signature(name, thing)
    if signature:
        yield f"```python\n{signature}\n```\n"
    text = inspect.getdoc(thing.__func__ if isinstance(thing, classmethod) else thing) or ""
    pieces = _SECTION.split(text)
    yield _prose(pieces[0])
    for title, body in zip(pieces[1::2], pieces[2::2], strict=True):
        yield f"**{title}**\n"
        yield _list(body) if title in _LISTED else _prose(body)


def _signature(name: str, thing: Any) -> str:
    """As it is called; one parameter a line where it would be long."""
    if isinstance(thing, property):
        return ""
    function = thing.__func__ if isinstance(thing, classmethod) else thing
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""
    words: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        starred = any(word.startswith("*") for word in words)
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words.append("*")
        words.append(_parameter(parameter))
    result = signature.return_annotation
    tail = "" if inspect.isclass(thing) or result is signature.empty else f" -> {result}"
    line = f"{name}({', '.join(words)}){tail}"
    if len(line) <= 88:
        return line
    return f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){tail}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = stars + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {parameter.annotation}"
    if parameter.default is parameter.empty:
        return text
    value = parameter.default
    if inspect.ismodule(value) or inspect.isroutine(value):
        default = str(value.__name__)  # its representation would tell where it is installed
    else:
        default = "..." if "factory" in repr(value) else repr(value)
    return f"{text} = {default}".replace("'", '"')


def _list(body: str) -> str:
    """Entries "name : type" with indented text -> a list; two blanks at an end break the line."""
    lines: list[str] = []
    for line in body.strip().splitlines():
        if line and not line.startswith(" "):
            names, _, kind = line.partition(" : ")
            lines.append(f"- `{names}`" + (f" : {_inline(kind)}" if kind else "") + "  ")
        elif line.strip():
            lines.append(f"    {_inline(line.strip())}")
    return "\n".join(lines) + "\n"


def _prose(text: str) -> str:
    """Paragraphs; indented ones are code."""
    found = []
    for paragraph in text.strip().split("\n\n"):
        if paragraph.startswith((" ", ">>>")):
            code = inspect.cleandoc(paragraph.replace("  # doctest: +SKIP", ""))
            found.append(f"```python\n{code}\n```")
        else:
            found.append(_inline(paragraph))
    return "\n\n".join(found) + "\n"


def _inline(text: str) -> str:
    return text.replace("``", "`").replace("<", "&lt;").rstrip(":") + (
        ":" if text.endswith(":") and not text.endswith("::") else ""
    )


if __name__ == "__main__":
    PAGE.write_text(page())
