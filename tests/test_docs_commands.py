"""Links, commands and programs of README.md and the pages lead somewhere, parse and run."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
import page_files
import pytest
import soundfile
from cli_runner import run
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from wavernn_fast.cli import main

ROOT = page_files.ROOT
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
README_LINES = 120  # a screen of text, the tables of figures, and where to go on
GROUP = click.Context(main, info_name="wavernn-fast")

# --- links ----------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """A page without its code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", "`code`", re.sub(r"^    .*$", "", text, flags=re.M))


def slugs(heading: str) -> set[str]:
    """What GitHub and mkdocs call a heading."""
    words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    github = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
    return {github, re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip())}


def anchors(text: str) -> set[str]:
    """Anchors that lead to a heading both on GitHub and on the site, and those set by hand."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    both = (slugs(heading) for heading in re.findall(r"^#+ (.+)$", text, flags=re.M))
    return {s.pop() for s in both if len(s) == 1} | set(re.findall(r'<a id="([\w-]+)"', text))


def link_problems(path: Path, text: str) -> list[str]:
    """Relative links of a page that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        where = (path.parent / name).resolve() if name else path
        if where != path and not where.exists():
            found.append(f"{path.name}: there is no {target}")
        elif anchor and anchor not in anchors(text if where == path else where.read_text()):
            found.append(f"{path.name}: {where.name} has no heading for #{anchor}")
        elif path.is_relative_to(ROOT / "docs") and not where.is_relative_to(ROOT / "docs"):
            found.append(f"{path.name}: {target} leads out of the site")
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    assert link_problems(path, path.read_text()) == []


def test_a_wrong_link_is_found() -> None:
    path = ROOT / "docs" / "made-up.md"
    text = (
        "# One two\n[a](gone.md) [b](limits.md#gone) [c](#one-two) [d](#one) [e](limits.md#gpus) "
        "[f](../README.md) [g](https://example.org) `[h](gone.md)`\n"
    )
    assert link_problems(path, text) == [
        "made-up.md: there is no gone.md",
        "made-up.md: limits.md has no heading for #gone",
        "made-up.md: made-up.md has no heading for #one",
        "made-up.md: ../README.md leads out of the site",
    ]


# --- commands -------------------------------------------------------------------------------------


def commands(text: str) -> list[str]:
    """Command lines of `wavernn-fast` in a page: in blocks, and between backticks."""
    joined = re.sub(r"\\\n\s*", " ", text)
    blocks = re.findall(r"^```\w*\n(.*?)^```", joined, flags=re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines()]
    rest = re.sub(r"^```.*?^```", "", joined, flags=re.S | re.M)
    lines += re.findall(r"^    (.+)$", rest, flags=re.M)
    lines += re.findall(r"`([^`\n]+)`", rest)
    found = []
    for line in lines:
        match = re.search(r"(?:^|[|;&] *|^[A-Z_]+=\S+ +)(wavernn-fast(?: .*)?)$", line.strip())
        if match:
            found.append(re.split(r" \|| &&|;| > | < |\.\.\.", match[1])[0])
    return found


def command_problem(line: str) -> str | None:
    """What the command says to a line, without running it: unknown options, wrong values."""
    try:
        words = shlex.split(line, comments=True)[1:]
        given, words, _ = main.make_parser(GROUP).parse_args(words)
        if not words or words[0].isupper():  # `wavernn-fast --help`; `wavernn-fast COMMAND`
            return None
        command = main.get_command(GROUP, words[0])
        if command is None:
            return f"{line}: there is no command {words[0]}"
        context = click.Context(command, parent=GROUP)
        given, _, _ = command.make_parser(context).parse_args(words[1:])
        for parameter in command.params:
            value = given.get(parameter.name or "")
            checked = isinstance(parameter.type, click.Choice | click.types.IntParamType)
            if isinstance(value, str) and checked and not value.isupper():
                parameter.type.convert(value, parameter, context)
    except (click.UsageError, ValueError) as error:
        return f"{line}: {error}"
    return None


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_of_a_page_parses(path: Path) -> None:
    problems = [command_problem(line) for line in commands(path.read_text())]
    assert [problem for problem in problems if problem] == []


def test_wrong_commands_are_found() -> None:
    text = (
        "```\nwavernn-fast vocode a.npy -m v.pt --no-such  # comment\nwavernn-fast gone\n```\n\n"
        "    A=1 wavernn-fast bench --threads 1 \\\n        --rounds many\n\n"
        "Say `wavernn-fast -v resynth a.wav --dtype fp99` or `wavernn-fast mel a.wav -o` or "
        "`wavernn-fast COMMAND --help`, `wavernn-fast eval` and `wavernn_fast`.\n"
    )
    found = commands(text)
    assert len(found) == 7
    problems = [command_problem(line) or "" for line in found]
    ends = ["--no-such", "no command gone", "many", "fp99", "requires an argument", "", ""]
    for problem, end in zip(problems, ends, strict=True):
        assert end in problem
        assert bool(problem) == bool(end)


def test_the_page_of_commands_has_all_of_them() -> None:
    shown = {line.split()[1] for line in commands((ROOT / "docs" / "commands.md").read_text())}
    assert set(main.list_commands(GROUP)) <= shown


def test_the_page_of_commands_has_every_extra() -> None:
    text = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    extras = set(re.findall(r"^([a-z]+) = \[", text.partition("\n[")[0], flags=re.M))
    shown = set(re.findall(r"\.\[([a-z]+)\]", (ROOT / "docs" / "commands.md").read_text()))
    assert {"torch", "cuda", "serve"} <= extras
    assert extras - {"docs", "test"} <= shown


# --- programs -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of the pages; one processor, as models this small are slower on several."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    monkeypatch.chdir(tmp_path)
    page_files.write_checkpoints()
    page_files.write_inputs()
    yield tmp_path
    os.sched_setaffinity(0, before)


def test_the_commands_of_the_quick_start_make_what_they_say(folder: Path) -> None:
    """Those with files of one's own; `demo`, `doctor` and `bench` have tests of their own."""
    text = (ROOT / "docs" / "quick-start.md").read_text().partition("## On an NVIDIA")[0]
    own = ("inspect", "convert", "resynth", "vocode")
    lines = [line for line in commands(text) if line.split()[1] in own]
    assert [line.split()[1] for line in lines] == [*own, "vocode"]
    for line in lines:
        done = run(*shlex.split(line)[1:])
        assert done.exit_code == 0, (line, done.stderr, done.exception)
    for name in ("speech.wav", "wavs/a.wav", "wavs/b.wav"):
        assert soundfile.info(folder / name).frames == 23 * 275
    assert soundfile.info(folder / "again.wav").frames == 24 * 275


@pytest.mark.parametrize("page", ["README.md", "docs/quick-start.md"])
def test_the_programs_run(page: str, folder: Path) -> None:
    assert run("convert", "latest_weights.pyt", "-o", "voice.safetensors").exit_code == 0
    [code] = page_files.examples(ROOT / page)
    names: dict[str, Any] = {}
    exec(code, names)
    assert np.abs(names["wav"]).max() > 0.01
    assert names["wav"].shape == (23 * 275,)


def test_the_replacements_run(folder: Path) -> None:
    """Each makes the sound that its original is asked for."""
    codes = page_files.examples(ROOT / "docs" / "coming-from.md")
    assert len(codes) == 6
    for code in codes:
        names = page_files.given()
        names["torchaudio_model"] = page_files.live_torchaudio()
        exec(code, names)
        made = next(names[n] for n in ("wave", "waves", "waveform", "wav") if n in names)
        sounds = made if isinstance(made, list) else [made]
        assert all(np.abs(np.asarray(sound)).max() > 0.01 for sound in sounds), code
    assert soundfile.info(folder / "speech.wav").frames == 23 * 275


# --- the README -----------------------------------------------------------------------------------


def test_the_readme_stays_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= README_LINES


def test_the_readme_has_the_commands_that_ci_reads() -> None:
    text = (ROOT / "README.md").read_text()
    firsts = {
        part.partition("\n")[0]: "".join(
            re.findall(r"^```\n(.*?)^```", part, flags=re.S | re.M)[:1]
        )
        for part in text.split("\n## ")
    }
    assert firsts["Install and make audio"].splitlines()[0] == "pip install ."
    assert firsts["Install and make audio"].splitlines()[1] == "wavernn-fast demo -o demo.wav"
    assert firsts["Install and test"].startswith("pip install -c constraints.txt")
    assert "pytest" in firsts["Install and test"]


def test_every_python_of_the_readme_finds_the_versions_that_it_is_told_to_install() -> None:
    """A version that needs a newer Python, and nothing else for the older, ends pip."""
    pins = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    # pip builds with one of them in an environment of its own.
    installed = {one.metadata["Name"].lower().replace("_", "-") for one in metadata.distributions()}
    seen = 0
    for minor in range(10, 15):
        python = {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.1"}
        mine = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(python)]
        assert sorted({pin.name for pin in mine}) == sorted(pin.name for pin in mine)
        assert {pin.name for pin in mine} == {pin.name for pin in pins}
        for pin in mine:
            if pin.name.lower().replace("_", "-") not in installed:
                continue
            if not pin.specifier.contains(Version(metadata.version(pin.name)).public):
                continue  # another one is installed here
            needs = metadata.metadata(pin.name)["Requires-Python"] or ">=3"
            assert SpecifierSet(needs).contains(f"3.{minor}.1"), (str(pin), needs)
            seen += 1
    assert seen >= 100
