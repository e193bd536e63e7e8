"""docs/reliability.md says nothing that no test holds: every row has tests, and they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
TEST_ID = re.compile(r"`(tests/\w+\.py)::(test_\w+)(?:\[([^`\]]+)\])?`")
PROMISES, FAULTS = set(range(1, 11)), set(range(1, 41))


def rows(page: str) -> list[tuple[str, int, list[str]]]:
    """(heading, number, cells) of every row of a table whose first column is "#"."""
    found, heading, table = [], "", False
    for line in page.splitlines():
        if line.startswith("#"):
            heading, table = line.lstrip("# "), False
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] == "#":
            table = True
        elif table and cells[0].isdigit():
            found.append((heading, int(cells[0]), cells[1:]))
    return found


@cache
def functions_of(path: Path) -> dict[str, bool]:
    """Test functions of a file, and whether they are parametrised."""
    if not path.is_file():
        return {}
    return {
        node.name: any("parametrize" in ast.unparse(d) for d in node.decorator_list)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def problems(page: str) -> list[str]:
    """What is wrong with a page: rows without tests, tests that are not there."""
    found = []
    for heading, number, cells in rows(page):
        ids = TEST_ID.findall(cells[-1])
        if not ids or cells[-1].count("`") != 2 * len(ids):
            found.append(f"{heading} {number}: no test, or one that is not written as an id")
        for file, name, parameter in ids:
            known = functions_of(ROOT / file)
            if name not in known:
                found.append(f"{heading} {number}: {file}::{name} does not exist")
            elif parameter and not known[name]:
                found.append(f"{heading} {number}: {file}::{name} has no parameters")
    return found


def test_every_promise_and_every_fault_has_tests_that_exist() -> None:
    assert problems(PAGE) == []


def test_no_promise_and_no_fault_is_left_out_or_told_twice() -> None:
    promises = [number for heading, number, _ in rows(PAGE) if heading == "Promises"]
    faults = [number for heading, number, _ in rows(PAGE) if heading.startswith("Faults of")]
    assert set(promises) == PROMISES
    assert len(promises) == len(PROMISES)
    assert set(faults) >= FAULTS
    assert len(faults) == len(set(faults))


HOSTILE = "tests/test_attacks.py::test_hostile_files_are_refused"
SOUND = "tests/test_attacks.py::test_a_sound_file_is_loaded_beside_them"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (HOSTILE, "tests/test_attacks.py::test_x", "test_x does not exist"),
        (HOSTILE, "tests/test_no.py::test_x", "test_x does not exist"),
        (f"`{HOSTILE}`", "by hand", "not written as"),
        (f"{HOSTILE}[pickles]", f"{SOUND}[pickles]", "no parameters"),
    ],
)
def test_a_planted_fault_of_the_page_is_found(old: str, new: str, words: str) -> None:
    assert old in PAGE
    found = set(problems(PAGE.replace(old, new))) - set(problems(PAGE))
    assert any(words in problem for problem in found)
