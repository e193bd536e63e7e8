"""Write the tables and pictures of the pages from the committed results, or check them.

python benchmarks/report.py          # after a new file in benchmarks/results/
python benchmarks/report.py --check  # exit code 1 if a page is not what the results give

benchmarks/report.json, the manifest, says which file feeds which table and picture. In a page a
table stands between <!-- report: NAME --> and <!-- end of NAME -->; everything else is written by
hand. It needs the package, and for pictures matplotlib.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import report_pictures
import report_readme
import report_tables
from report_tables import PAGE, ReportError

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = Path(__file__).resolve().with_suffix(".json")
MARKED = re.compile(r"(<!-- report: ([\w-]+) -->\n)(.*?)(<!-- end of \2 -->)", re.DOTALL)
OPENED = re.compile(r"<!-- (?:report:|end of) ([\w-]+) -->")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 written or as it should be, 1 something differs, 2 an unusable manifest."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; name what differs")
    parser.add_argument(
        "--only", nargs="*", metavar="FILE", help="pages or pictures [default: all]"
    )
    options = parser.parse_args(arguments)
    try:
        manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
        changed = update(manifest, check=options.check, only=options.only)
    except (ReportError, OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    for name in changed:
        print(f"{name} is not what the results give" if options.check else f"{name}: written")
    if changed and options.check:
        print("run: python benchmarks/report.py", file=sys.stderr)
    return int(bool(changed) and options.check)


def update(
    manifest: Mapping[str, Any], *, check: bool, only: Sequence[str] | None = None
) -> list[str]:
    """Write every page and picture that differs (or only name it), and return their names.

    Raises
    ------
    ReportError
        If a table has no place, a place no table, or a result is not as the manifest says.
    """
    changed, used = [], list[str]()
    for page in manifest["pages"]:
        path = ROOT / page
        before = path.read_text(encoding="utf-8")
        after, names = filled(before, page, manifest)
        used += names
        if after != before and (not only or page in only):
            changed.append(page)
            if not check:
                path.write_text(after, encoding="utf-8")
    check_places(manifest, used)
    for name, entry in manifest["pictures"].items():
        if (not only or name in only) and report_pictures.is_old(ROOT / name, name, entry):
            changed.append(name)
            if not check:
                report_pictures.draw(ROOT / name, name, entry)
    return changed


def filled(text: str, page: str, manifest: Mapping[str, Any]) -> tuple[str, list[str]]:
    """A page with all its tables as they should be, and their names."""
    names = [match[2] for match in MARKED.finditer(text)]
    marks = OPENED.findall(text)
    if odd := [n for n in dict.fromkeys(marks) if marks.count(n) != 2 or n not in names]:
        raise ReportError(
            f"{page}: a marker of {', '.join(odd)} has no partner, or is there twice."
        )

    def content(match: re.Match[str]) -> str:
        return f"{match[1]}{made(match[2], page, manifest)}\n{match[4]}"

    return MARKED.sub(content, text), names


def made(name: str, page: str, manifest: Mapping[str, Any]) -> str:
    """Markdown of one table."""
    if entry := manifest["tables"].get(name):
        if page != (own := entry.get("page", PAGE)):
            raise ReportError(f"{page}: {name} belongs into {own}, to which others link.")
        return "\n" + report_tables.table(name, entry) + "\n"
    if entry := manifest["summaries"].get(name):
        return "\n" + report_readme.summary(name, entry, manifest["tables"], page) + "\n"
    raise ReportError(f"{page}: {MANIFEST.name} has no table {name}.")


def check_places(manifest: Mapping[str, Any], used: Sequence[str]) -> None:
    """Raise a `ReportError` about a table that no page shows."""
    lost = [n for n in (*manifest["tables"], *manifest["summaries"]) if n not in used]
    if lost:
        raise ReportError(f"no page has a place <!-- report: NAME --> for {', '.join(lost)}.")


if __name__ == "__main__":
    sys.exit(main())
