"""`wavernn-fast doctor`: what this machine has, and does the engine work on it."""

from __future__ import annotations

from typing import Any

import click

from . import common


@click.command(
    "doctor",
    epilog=common.examples(
        "wavernn-fast doctor",
        "wavernn-fast doctor --json > report.json",
    ),
)
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool) -> None:
    """Report versions, instruction sets, threads, extras and devices, and test the engine.

    Exit code 3 if the engine does not work here. Put the report into a bug report.
    """
    from ..doctor import examine

    facts = examine()
    if as_json:
        common.print_json(facts)
    else:
        click.echo("\n".join(_lines(facts)))
    ctx.exit(0 if facts["ok"] else 3)


def _lines(facts: dict[str, Any]) -> list[str]:
    test = facts["self_test"]
    quota = facts["cgroup_cpus"]
    rows = [
        ("wavernn_fast", facts["wavernn_fast"]),
        ("python", f"{facts['python']} ({facts['python_path']})"),
        ("platform", facts["platform"]),
        ("engine", facts["engine"]),
        ("instruction sets", ", ".join(facts["isas"]) or "none"),
        ("threads", f"{facts['threads']} used by default"),
        ("processors", f"{facts['cpus_allowed']} allowed to this process"),
        ("container quota", "none" if quota is None else f"{quota:g} processors"),
        *((f"package {name}", state) for name, state in facts["packages"].items()),
        *((f"device {name}", state) for name, state in facts["devices"].items()),
        *((f"GPU {gpu['ordinal']}", _gpu(gpu)) for gpu in facts["gpus"]),
        ("NVRTC", ", ".join(facts["nvrtc"]) or 'none of pip: pip install "wavernn-fast[cuda]"'),
        *((name, value) for name, value in facts["environment"].items()),
        ("self-test", "passed" if test["passed"] else f"FAILED: {test['reason']}"),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _gpu(gpu: dict[str, Any]) -> str:
    words = [
        gpu["name"],
        f"compute capability {gpu['arch'] // 10}.{gpu['arch'] % 10}",
        f"{gpu['multiprocessors']} multiprocessors",
        f"{gpu['memory_bytes'] / 2**30:.1f} GiB",
        *(["drives a display"] if gpu["watchdog"] else []),
        *([f"cannot be used: {gpu['problem']}"] if gpu["problem"] else []),
    ]
    return ", ".join(words)
