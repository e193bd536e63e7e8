"""Programs run over the kernel: pytest, compute-sanitizer, ncu; what they said, as JSON.

python benchmarks/gpu_tools.py tests|sanitize|ncu --output out.json
"""

from __future__ import annotations

import argparse
import csv
import glob
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gpu_models
import gpu_record

HERE = Path(__file__).resolve().parent
SMALL = [sys.executable, str(HERE / "gpu_small.py")]
PLACES = ("/usr/local/cuda*/bin", "/opt/nvidia/nsight-compute/*", "/opt/nvidia/nsight-compute/*/*")


def tool(name: str) -> str:
    """Path of a program of the toolkit, which need not be on the PATH.

    Raises
    ------
    FileNotFoundError
        If it is in none of the usual places.
    """
    found = shutil.which(name)
    if found:
        return found
    for place in PLACES:
        for path in sorted(glob.glob(f"{place}/{name}"), reverse=True):
            return path
    raise FileNotFoundError(f"{name} is neither on the PATH nor in {', '.join(PLACES)}")


def run(command: list[str], seconds: float) -> tuple[int, str]:
    """(exit code, output) of a program; 124 if it ran too long."""
    print("$", " ".join(command), flush=True)
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        text = (error.stdout or b"").decode(errors="replace")
        print(text, f"stopped after {seconds} s", flush=True)
        return 124, text
    text = done.stdout.decode(errors="replace")
    print(text, flush=True)
    return done.returncode, text


# --- pytest ---------------------------------------------------------------------------------------


def tests(record: gpu_record.Record, options: argparse.Namespace) -> None:
    report = options.output.with_suffix(".xml") if options.output else Path("gpu_tests.xml")
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-q", "--maxfail=20"]
    command += ["--durations=10", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    if importlib.util.find_spec("xdist"):  # most of the time goes to compiling kernels
        command += ["-n", str(max(1, min(8, (os.cpu_count() or 1) // 2)))]
    files = sorted(HERE.parent.glob("tests/test_*.py"))
    code, text = run([*command, *map(str, of_a_gpu(files))], 270)
    record["exit_code"] = code
    record["summary"] = text.strip().splitlines()[-1] if text.strip() else ""
    record["tests"] = junit(report) if report.exists() else []
    for test in record["tests"]:
        if test["outcome"] in ("failure", "error"):
            record["failures"].append({"what": test["name"], "error": test["message"]})
    counts: dict[str, int] = {}
    for test in record["tests"]:
        counts[test["outcome"]] = counts.get(test["outcome"], 0) + 1
    record.result = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
    if code != 0 and not record["failures"]:
        raise RuntimeError(f"pytest ended with {code}: {record['summary']}")
    if not counts.get("passed"):
        raise RuntimeError(f"no test ran: {record.result or record['summary']}")


def of_a_gpu(files: Iterable[Path]) -> list[Path]:
    """Files of tests that want a GPU: those with the mark, and those that import it."""
    marks = ("mark.cuda", "pytestmark as pytestmark")
    return [path for path in files if any(mark in path.read_text() for mark in marks)]


def junit(path: Path) -> list[dict[str, Any]]:
    """Outcome and seconds of every test of a junit file."""
    found = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        problem = next((c for c in case if c.tag in ("failure", "error", "skipped")), None)
        found.append(
            {
                "name": f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}",
                "seconds": float(case.get("time", 0)),
                "outcome": "passed" if problem is None else problem.tag,
                "message": "" if problem is None else (problem.get("message") or "")[:2000],
                "properties": {p.get("name"): p.get("value") for p in case.iter("property")},
            }
        )
    return found


# --- compute-sanitizer ----------------------------------------------------------------------------

RACECHECK = ["--tool", "racecheck", "--racecheck-report", "all"]
MANY = ["--dtype", "fp16", "--streams", "8", "--steps", "12"]
# Name: (flags of the sanitizer, flags of the run)
SANITIZED = {
    "memcheck": (["--tool", "memcheck"], ["--exchanges", "2"]),
    "memcheck 4 exchanges, conditioned fp16": (
        ["--tool", "memcheck"],
        ["--exchanges", "4", "--conditioned", "--dtype", "fp16"],
    ),
    "racecheck": (RACECHECK, ["--exchanges", "2"]),
    "racecheck 4 exchanges": (RACECHECK, ["--exchanges", "4"]),
    "synccheck": (["--tool", "synccheck"], ["--exchanges", "2"]),
    "memcheck clusters": (["--tool", "memcheck"], ["--cluster", "8"]),
    "racecheck clusters": (RACECHECK, ["--cluster", "8"]),
    "synccheck clusters": (["--tool", "synccheck"], ["--cluster", "8"]),
    "memcheck sparse": (["--tool", "memcheck"], ["--sparse", "--cluster", "1"]),
    "racecheck sparse": (RACECHECK, ["--sparse", "--cluster", "1"]),
    "memcheck sparse clusters": (["--tool", "memcheck"], ["--sparse", "--cluster", "2"]),
    "racecheck sparse clusters": (RACECHECK, ["--sparse", "--cluster", "2"]),
    "memcheck residual": (["--tool", "memcheck"], ["--core", "residual", "--dtype", "fp16"]),
    "racecheck residual": (RACECHECK, ["--core", "residual"]),
    "memcheck embedded": (["--tool", "memcheck"], ["--core", "embedded", "--dtype", "fp16"]),
    "racecheck embedded": (RACECHECK, ["--core", "embedded"]),
    # The kernels for many streams.
    "memcheck many": (["--tool", "memcheck"], MANY),
    "racecheck many": (RACECHECK, MANY),
    "memcheck many residual": (["--tool", "memcheck"], ["--core", "residual", *MANY]),
    "racecheck many residual": (RACECHECK, ["--core", "residual", *MANY]),
    "memcheck many embedded": (["--tool", "memcheck"], ["--core", "embedded", *MANY]),
    "racecheck many embedded": (RACECHECK, ["--core", "embedded", *MANY]),
    "memcheck many clusters": (["--tool", "memcheck"], ["--cluster", "2", *MANY]),
    "racecheck many clusters": (RACECHECK, ["--cluster", "2", *MANY]),
    "synccheck many clusters": (["--tool", "synccheck"], ["--cluster", "2", *MANY]),
    "memcheck many clusters residual": (
        ["--tool", "memcheck"],
        ["--core", "residual", "--cluster", "4", *MANY],
    ),
    "memcheck many clusters embedded": (
        ["--tool", "memcheck"],
        ["--core", "embedded", "--cluster", "4", *MANY],
    ),
}


def sanitize(record: gpu_record.Record, options: argparse.Namespace) -> None:
    program = tool("compute-sanitizer")
    record["runs"] = {}
    for asked in dict.fromkeys(tuple(model) for _, model in SANITIZED.values()):
        run([*SMALL, *asked], 60)  # compiled before the clock of a run starts
    for name, (flags, model) in SANITIZED.items():
        if "clusters" in name and not gpu_models.has_clusters("cuda"):
            continue
        with record.attempt(name):
            command = [program, *flags, "--error-exitcode", "9", *SMALL, *model]
            code, text = run(command, options.seconds)
            record["runs"][name] = {"exit_code": code} | sanitizer_summary(text)
            if code != 0 or not record["runs"][name]["ran"]:
                raise RuntimeError(f"exit code {code}: {record['runs'][name]}")
        record.save()
    record.result = ", ".join(
        f"{name} {'clean' if r['exit_code'] == 0 else r['exit_code']}"
        for name, r in record["runs"].items()
    )


def sanitizer_summary(text: str) -> dict[str, Any]:
    """Summary lines, the first reports, and whether the run itself came to its end."""
    lines = [line for line in text.splitlines() if line.startswith("=========")]
    reports = [line for line in lines if re.search(r"Error|Warning|Hazard|hazard|Invalid", line)]
    return {
        "ran": "last samples" in text,
        "summary": [line for line in lines if "SUMMARY" in line],
        "reports": reports[:20],
        "n_reports": len(reports),
    }


# --- ncu ------------------------------------------------------------------------------------------

SECTIONS = (
    "SpeedOfLight",
    "SchedulerStats",
    "WarpStateStats",
    "InstructionStats",
    "LaunchStats",
    "MemoryWorkloadAnalysis",
    "MemoryWorkloadAnalysis_Tables",
)
# Asked for apart: a name that a version does not know must not cost the sections.
METRICS = {
    "local memory": "l1tex__t_bytes_pipe_lsu_mem_local_op_ld.sum,"
    "l1tex__t_bytes_pipe_lsu_mem_local_op_st.sum,"
    "smsp__inst_executed_op_local_ld.sum,smsp__inst_executed_op_local_st.sum",
    "l2": "lts__t_sectors_op_read.sum,lts__t_sectors_op_write.sum,"
    "lts__t_sectors_srcunit_tex.sum,lts__throughput.avg.pct_of_peak_sustained_elapsed,"
    "l1tex__m_xbar2l1tex_read_bytes.sum",
    "issue": "smsp__inst_executed.sum,smsp__issue_active.avg.pct_of_peak_sustained_active,"
    "sm__cycles_active.avg,sm__cycles_elapsed.max,smsp__cycles_active.avg",
}
# What the JSON shows first; all numbers are kept beside it.
STALLS = re.compile(r"issue_stalled_(\w+?)(_not_issued)?_(per_warp_active|per_issue_active)")


def ncu(record: gpu_record.Record, options: argparse.Namespace) -> None:
    program = tool("ncu")
    record["runs"], raw = {}, []
    small = [*SMALL, "--hidden", "896", "--steps", str(options.steps), "--runs", "8"]
    record["command"], record["steps"] = " ".join(small), options.steps
    run(small, 60)  # compiles
    base = [program, "--clock-control", "none", "--kernel-name", "wavernn_persistent"]
    # The first call is cut into short launches, which find the speed; by the seventh launch a call
    # is one launch of all its steps.
    base += ["--launch-skip", "6", "--launch-count", "1", "--csv", "--page", "raw"]
    asked = {"sections": [w for s in SECTIONS for w in ("--section", s)]}
    asked |= {name: ["--metrics", metrics] for name, metrics in METRICS.items()}
    for name, flags in asked.items():
        with record.attempt(name):
            code, text = run([*base, *flags, *small], options.seconds)
            raw.append(f"== {name}: {' '.join(flags)}\n{text}")
            metrics = parse_csv(text)
            record["runs"][name] = metrics
            if code != 0 or not metrics:
                raise RuntimeError(f"exit code {code}: {text.strip()[-1500:]}")
        if options.raw:
            options.raw.parent.mkdir(parents=True, exist_ok=True)
            options.raw.write_text("\n".join(raw))
        record.save()
    record["stalls"] = stalls(record["runs"].get("sections", {}))
    top = sorted(record["stalls"].items(), key=lambda item: -item[1])[:3]
    record.result = ", ".join(f"{k} {v:.2f}" for k, v in top) or "no stall reasons"


def parse_csv(text: str) -> dict[str, dict[str, Any]]:
    """{metric: {value, unit}} of one launch out of `--csv --page raw`: names, units, values."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return {}
    rows = list(csv.reader(io.StringIO("\n".join(lines[start:]))))
    if len(rows) < 3:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, unit, value in zip(rows[0], rows[1], rows[2], strict=False):
        if "__" not in name:
            if name in ("Kernel Name", "Grid Size", "Block Size"):
                found[name] = {"value": value, "unit": ""}
            continue
        try:
            found[name] = {"value": float(value.replace(",", "")), "unit": unit}
        except ValueError:
            found[name] = {"value": value, "unit": unit}
    return found


def stalls(metrics: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Reason -> warps stalled for it an issue (or its share), the larger first."""
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        match = STALLS.search(name)
        if match and not match[2] and isinstance(metric["value"], float):
            found[f"{match[1]} ({match[3]})"] = metric["value"]
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("tests", "sanitize", "ncu"))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--raw", type=Path, help="ncu: where its own output is kept")
    parser.add_argument("--steps", type=int, default=500, help="ncu: of the profiled launch")
    parser.add_argument("--seconds", type=float, default=30, help="of one sanitizer or ncu run")
    options = parser.parse_args()
    part = {"tests": tests, "sanitize": sanitize, "ncu": ncu}[options.what]
    with gpu_record.Record(options.what, options.output) as record:
        part(record, options)


if __name__ == "__main__":
    main()
