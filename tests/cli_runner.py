"""Running the command inside the test process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from wavernn_fast.cli import main


def run(*arguments: object, **options: object) -> Result:
    """Run the command inside this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments], **options)  # type: ignore[arg-type]


def refused(result: Result, folder: Path, *words: str) -> None:
    """Exit code 2, the words in one message without a traceback, nothing written."""
    assert result.exit_code == 2, (result.exit_code, result.stderr, result.exception)
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (folder / "out").exists()
