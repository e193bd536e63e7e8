"""The pages for people: one to hear the voice, one with the routes; both whole in themselves."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #dedbd2; --soft: #625f70; --accent: #4b3fd6; }
body { background: #f6f5f1; color: #1d1b26; }
@media (prefers-color-scheme: dark) {
  :root { --line: #34323f; --soft: #a5a1b5; --accent: #a89ffb; }
  body { background: #131219; color: #efedf6; }
}
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; max-width: 860px;
  margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.05rem; margin: 2em 0 .3em; }
h2 code { font-size: 1.05rem; } a { color: var(--accent); }
p { margin: .4em 0; overflow-wrap: anywhere; } .soft { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: .92rem; margin: .5em 0; }
th, td { text-align: left; vertical-align: top; padding: 5px 12px 5px 0;
  border-top: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; } tr > :first-child { width: 13em; }
@media (max-width: 560px) { tr > :first-child { width: 8em; } }
"""


def front() -> tuple[str, str]:
    """Page at "/" and its Content-Security-Policy, which names its script and style by hash."""
    text = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    [script] = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    [style] = re.findall(r"<style>(.*?)</style>", text, flags=re.S)
    return text, _policy(style, script)


def reference(schema: dict[str, Any]) -> tuple[str, str]:
    """Page of the routes, from the OpenAPI document, and its Content-Security-Policy."""
    info = schema["info"]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{_text(info['title'])}: routes</title><link rel='icon' href='data:,'>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{_text(info['title'])} {_text(info['version'])}</h1>",
        "<p><a href='/'>Try it</a> · <a href='/openapi.json'>OpenAPI document</a></p>",
        *_paragraphs(info["description"]),
        *_routes(schema),
        "</body></html>",
    ]
    return "".join(parts), _policy(_STYLE)


# --- helpers ---


def _policy(style: str, script: str | None = None) -> str:
    rules = ["default-src 'none'", f"style-src '{_hash(style)}'", "img-src data: blob:"]
    if script is not None:
        rules += [f"script-src '{_hash(script)}'", "connect-src 'self'", "media-src blob:"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(value: object) -> str:
    return html.escape(str(value))


def _routes(schema: dict[str, Any]) -> Iterable[str]:
    for path, methods in schema["paths"].items():
        for method, facts in methods.items():
            yield f"<h2><code>{method.upper()} {_text(path)}</code></h2>"
            yield f"<p>{_text(facts.get('summary', ''))}</p>"
            yield from _paragraphs(facts.get("description", ""))
            yield _table("query", [_parameter(p) for p in facts.get("parameters", ())])
            body = facts.get("requestBody", {}).get("content", {})
            yield _table("body", [(kind, "") for kind in body])
            replies = facts.get("responses", {}).items()
            yield _table("reply", [(code, reply.get("description", "")) for code, reply in replies])


def _paragraphs(text: str) -> Iterable[str]:
    return (f"<p class='soft'>{_text(part)}</p>" for part in text.strip().split("\n\n") if part)


def _parameter(known: dict[str, Any]) -> tuple[str, str]:
    kind = known["schema"]
    values = " | ".join(map(str, kind.get("enum", ()))) or kind.get("type", "")
    return known["name"], (
        f"{values}, {kind.get('default')} where it is left out. {known.get('description', '')}"
    )


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    cells = "".join(f"<tr><td>{_text(a)}</td><td>{_text(b)}</td></tr>" for a, b in rows)
    return f"<table><tr><th>{title}</th><th></th></tr>{cells}</table>"
