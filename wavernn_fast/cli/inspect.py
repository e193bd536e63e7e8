"""`wavernn-fast inspect`: what is in a model file."""

from __future__ import annotations

from typing import Any

import click

from . import common


@click.command(
    "inspect",
    epilog=common.examples(
        "wavernn-fast inspect checkpoint.pt",
        "wavernn-fast inspect voice.safetensors --tensors",
        "wavernn-fast inspect voice.safetensors --json",
    ),
)
@click.argument("model", metavar="FILE")
@click.option("--tensors", is_flag=True, help="List every tensor.")
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, model: str, tensors: bool, as_json: bool) -> None:
    """Show the layout, sizes, mel convention and problems of a model file.

    Exit code 2 if the file cannot be used as a model; the reasons are listed.
    """
    from .. import checkpoints

    facts = checkpoints.inspect(model)
    if as_json:
        common.print_json(facts)
    else:
        click.echo(_table(facts, tensors))
    ctx.exit(2 if facts["problems"] else 0)


def _table(facts: dict[str, Any], with_tensors: bool) -> str:
    rows: list[tuple[str, str]] = [
        ("file", facts["path"]),
        ("kind", facts["kind"]),
        ("layout", facts["dialect"] or "not recognised"),
        ("parameters", f"{facts['parameters']:,}"),
        ("preset", facts["preset"] or "none fits"),
        ("presets that fit", ", ".join(facts["presets"]) or "none"),
    ]
    rows += [(f"size {name}", str(value)) for name, value in facts["sizes"].items()]
    config = facts["config"] or {}
    for name, value in config.items():
        if isinstance(value, dict):
            rows += [(f"{name}.{key}", _show(inner)) for key, inner in value.items()]
        elif name == "block_shape" and value:
            rows.append((name, "x".join(str(n) for n in value)))
        else:
            rows.append((name, _show(value)))
    if with_tensors:
        rows += [
            (tensor["name"], f"{tensor['dtype']} {list(tensor['shape'])}")
            for tensor in facts["tensors"]
        ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    if facts["problems"]:
        lines += ["", "This file cannot be used:"]
        lines += [f"  - {problem}" for problem in facts["problems"]]
    return "\n".join(lines)


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        texts = [_show(item) for item in value]
        names = any(isinstance(item, str) for item in value)
        return (", " if names or not texts else " to ").join(texts) or "none"
    return "none" if value is None else str(value)
