"""docs/api.md is what the docstrings say, and the site of all pages builds."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import wavernn_fast

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_docstrings_say(maker: ModuleType) -> None:
    assert (ROOT / "docs" / "api.md").read_text() == maker.page(), "run python docs/make_api.py"


def test_the_page_tells_nothing_of_the_machine_it_was_made_on(maker: ModuleType) -> None:
    page = maker.page()
    assert "site-packages" not in page
    assert str(ROOT) not in page
    assert " at 0x" not in page
    assert "<module" not in page


def test_every_public_name_is_on_the_page(maker: ModuleType) -> None:
    shown = {line[5:-1] for line in maker.page().splitlines() if line.startswith("### `")}
    assert set(wavernn_fast.__all__) - {"__version__"} <= shown


def test_a_changed_docstring_changes_the_page(
    maker: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = maker.page()
    monkeypatch.setattr(wavernn_fast.Vocoder.generate, "__doc__", "Another sentence.")
    assert "Another sentence." in maker.page()
    assert maker.page() != before


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_every_page_has_a_place(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = (ROOT / "mkdocs.yml").read_text()
    for path in sorted((ROOT / "docs").rglob("*.md")):
        assert f" {path.relative_to(ROOT / 'docs')}" in listed, path
    # A link that leads nowhere is found.
    (tmp_path / "docs" / "index.md").write_text("[gone](gone.md)")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode != 0
