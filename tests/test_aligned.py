"""Buffers of the core (csrc/common/aligned.h)."""

from __future__ import annotations

from pathlib import Path

from programs import run_program


def test_large_buffers_lie_on_fresh_huge_pages(tmp_path: Path) -> None:
    """On small ones, which malloc had before, one stream of 896 units took an eighth longer."""
    run_program(tmp_path, "aligned")
