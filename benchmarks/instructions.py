"""Instructions of a sample on the CPU, counted by callgrind: a figure without noise.

    python benchmarks/instructions.py             # what they are here, beside what is committed
    python benchmarks/instructions.py --update    # and commit them

The steps of the shipped extension run under Valgrind, without threads, slices or clocks; what twice
as many steps take more is divided by the steps. Valgrind has no AVX-512, so the instruction sets
are AVX2 and plain C++ (`scalar`). Counts depend on the compiler; the results have a table for each.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from wavernn_fast import _C, machine
from wavernn_fast.synthetic import random_model

RESULTS = Path(__file__).resolve().parent / "results" / "instructions.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "instructions.md"
BEGIN, END = "<!-- counts -->", "<!-- end of counts -->"
ISAS = ("scalar", "avx2")
LIMIT = 1.02  # of the committed count, of the same compiler
# Of a compiler that nobody has committed counts of: the largest that is committed, and a half more.
STRANGE_LIMIT = 1.5


_WARM_UP = 4  # steps in which the loader still looks functions up


class Case(NamedTuple):
    """A model and how its weights are kept."""

    spec: str
    dtype: str
    isa: str
    steps: int  # of the first stretch; the second has twice as many
    clocks: bool = False

    @property
    def name(self) -> str:
        return f"{self.spec} {self.dtype}" + (", clocks on" if self.clocks else "")


# Plain C++ imitates the fused multiply-add, some fifty instructions each: small models do.
CASES = (
    Case("dual:896", "fp32", "avx2", 8),
    Case("dual:896", "fp16", "avx2", 8),
    Case("dual:896", "int8", "avx2", 8),
    Case("residual:512", "fp32", "avx2", 8),
    Case("residual:512", "int8", "avx2", 8),
    Case("dual:896:16x1:95", "fp32", "avx2", 16),
    Case("dual:896:16x1:95", "int8", "avx2", 16),
    Case("dual:128", "fp32", "scalar", 8),
    Case("dual:128", "int8", "scalar", 8),
    Case("residual:64", "fp32", "scalar", 8),
)


def valgrind() -> str | None:
    """Where it is; None: it is not installed."""
    return shutil.which("valgrind")


def measure(cases: tuple[Case, ...] = CASES) -> dict[str, dict[str, float]]:
    """Count the instructions of a sample of every case that this processor can run.

    Returns
    -------
    dict
        isa -> case -> instructions a sample
    """
    program = valgrind()
    if program is None:
        raise SystemExit("This needs valgrind, which is not installed (Debian: valgrind).")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind"
        command = [program, "--tool=callgrind", "--instr-atstart=no", "-q"]
        command += [f"--callgrind-out-file={out}", sys.executable, __file__, "--child"]
        command += [json.dumps([case._asdict() for case in cases])]
        paths = [str(Path(_C.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OPENBLAS_NUM_THREADS": "1",
        }
        environment.pop("WAVERNN_FAST_ISA", None)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            raise SystemExit(f"The program under Valgrind failed:\n{done.stderr}")
        counts = _read(Path(folder))
    found: dict[str, dict[str, float]] = {}
    for case in json.loads(done.stdout.splitlines()[-1]):
        case = Case(**case)
        label = f"{case.isa} {case.name}"
        more, fewer = counts[f"{label} {2 * case.steps}"], counts[f"{label} {case.steps}"]
        found.setdefault(case.isa, {})[case.name] = (more - fewer) / case.steps
    return found


def _read(folder: Path) -> dict[str, int]:
    """Label of every dump of callgrind -> instructions."""
    found = {}
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8", errors="replace")
        label = re.search(r"^desc: Trigger: Client Request: (.+)$", text, re.MULTILINE)
        count = re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)
        if label is not None and count is not None:
            found[label[1]] = int(count[1])
    return found


def _child(cases: list[dict[str, Any]]) -> None:
    """Run the steps; prints the cases that this processor can run."""
    models: dict[str, Any] = {}
    ran = []
    for case in (Case(**fields) for fields in cases):
        if case.isa not in _C.available_isas():
            continue
        if case.spec not in models:
            models = {case.spec: random_model(case.spec)}  # one at a time in memory
        config, tensors = models[case.spec]
        _C.run_counted(
            dataclasses.asdict(config),
            tensors,
            [_WARM_UP, case.steps, 2 * case.steps],
            label=f"{case.isa} {case.name}",
            dtype=case.dtype,
            isa=case.isa,
            clocks=case.clocks,
        )
        ran.append(case._asdict())
    print(json.dumps(ran))


# --- what is committed ----------------------------------------------------------------------------


def committed() -> dict[str, Any]:
    """Compiler -> counts, as `measure` gives them, and where they were made."""
    if not RESULTS.exists():
        return {}
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))["compilers"]
    return found


def problems(found: dict[str, dict[str, float]], compiler: str) -> list[str]:
    """Say which counts are too high."""
    known = committed()
    found_problems = []
    for isa, counts in found.items():
        for name, count in counts.items():
            if compiler in known:
                limit, of = LIMIT * known[compiler]["counts"][isa][name], compiler
            else:
                rows = [row["counts"].get(isa, {}).get(name, 0.0) for row in known.values()]
                limit, of = STRANGE_LIMIT * max(rows, default=0.0), "other compilers"
            if count > limit:
                found_problems.append(
                    f"{name} on {isa}: {count:,.0f} instructions a sample, at most {limit:,.0f} "
                    f"expected (from those of {of}). If the change is worth it, run "
                    "`python benchmarks/instructions.py --update`."
                )
    return found_problems


def update(found: dict[str, dict[str, float]], compiler: str) -> None:
    """Commit the counts of this compiler."""
    facts = machine.machine()
    row = {"counts": found, "cpu": facts["cpu"], "date": facts["date"], "valgrind": _version()}
    report = {
        "command": "python benchmarks/instructions.py --update",
        "unit": "instructions a sample of one stream on one thread",
        "compilers": {**committed(), compiler: row},
    }
    RESULTS.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text[: text.index(BEGIN)], text[text.index(END) :]
    PAGE.write_text(head + BEGIN + "\n" + table() + "\n" + tail, encoding="utf-8")


def table() -> str:
    """The committed counts, in Markdown."""
    known = committed()
    lines = ["| model | weights | instruction set |", "|---|---|---|"]
    rows = [lines[0] + "".join(f" {compiler} |" for compiler in known)]
    rows.append(lines[1] + "---|" * len(known))
    for case in CASES:
        counts = [row["counts"][case.isa][case.name] for row in known.values()]
        cells = "".join(f" {count:,.0f} |" for count in counts)
        rows.append(f"| {case.spec} | {case.dtype} | {case.isa} |{cells}")
    return "\n".join(rows)


def _version() -> str:
    done = subprocess.run(
        [valgrind() or "", "--version"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="commit what is counted")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(json.loads(options.child))
        return
    found, compiler = measure(), _C.compiler()
    known = committed().get(compiler, {}).get("counts", {})
    print(f"{compiler}\n\n| isa | model | instructions a sample | committed |\n|---|---|---|---|")
    for isa, counts in found.items():
        for name, count in counts.items():
            before = known.get(isa, {}).get(name)
            beside = (
                "" if before is None else f"{before:,.0f} ({100 * (count / before - 1):+.2f} %)"
            )
            print(f"| {isa} | {name} | {count:,.0f} | {beside} |")
    if options.update:
        update(found, compiler)


if __name__ == "__main__":
    main()
