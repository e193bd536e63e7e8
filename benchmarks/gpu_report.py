"""Facts of the GPU, and one JSON and one table out of what the parts of the GPU check left.

python benchmarks/gpu_report.py facts --work build/gpu_check --out benchmarks/out --command "..."
python benchmarks/gpu_report.py merge --work build/gpu_check --out benchmarks/out
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import cuda_driver
from gpu_record import finite

NO_GPU = 3
FIELDS = (
    "driver_version",
    "pci.bus_id",
    "memory.total",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks_event_reasons.active",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "persistence_mode",
    "mig.mode.current",
    "compute_mode",
)
PACKAGES = ("torch", "cupy-cuda13x", "cupy-cuda12x", "numpy", "triton", "pybind11", "pytest")


def output_of(*command: str) -> str:
    """What a program prints.

    Raises
    ------
    RuntimeError
        If it is missing or fails, with its words.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(str(error)) from error
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def smi() -> dict[str, str]:
    """First GPU as nvidia-smi shows it.

    Raises
    ------
    RuntimeError
        If nvidia-smi is missing or shows no GPU.
    """
    found = query("name")
    try:
        return found | query(*FIELDS)
    except RuntimeError:  # a field that this version does not know: ask for each by itself
        for field in FIELDS:
            with contextlib.suppress(RuntimeError):
                found |= query(field)
        return found


def query(*fields: str) -> dict[str, str]:
    lines = output_of("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    if not lines.strip():
        raise RuntimeError("nvidia-smi shows no GPU")
    values = [value.strip() for value in lines.splitlines()[0].split(",")]
    return dict(zip(fields, values, strict=False))


def driver_facts() -> dict[str, Any]:
    try:
        return cuda_driver.Driver().facts()
    except (cuda_driver.CudaError, AttributeError) as error:
        return {"error": str(error)}


def nvrtc_facts() -> dict[str, str]:
    try:
        compiler = cuda_driver.Nvrtc()
        return {"path": compiler.path, "version": compiler.version()}
    except cuda_driver.CudaError as error:
        return {"error": str(error)}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Commit of the tree, marked where files differ from it; empty outside a repository."""
    try:
        name = output_of("git", "rev-parse", "HEAD").strip()
        changed = output_of("git", "status", "--porcelain", "--untracked-files=no").strip()
    except RuntimeError:
        return ""
    return name + ("+changes" if changed else "")


def facts(work: Path, command: str) -> int:
    """Write `work`/facts.json; returns 3 where there is no GPU."""
    found: dict[str, Any] = {
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "system": platform.platform(),
        "versions": versions(),
        "nvrtc": nvrtc_facts(),
    }
    code = 0
    try:
        found["nvidia_smi"] = smi()
        found["driver"] = driver_facts()
    except RuntimeError as error:
        found["no_gpu"] = str(error)
        print(f"No GPU: {found['no_gpu']}", file=sys.stderr)
        code = NO_GPU
    work.mkdir(parents=True, exist_ok=True)
    (work / "facts.json").write_text(json.dumps(finite(found), indent=1) + "\n")
    if code == 0:
        print(", ".join(f"{k} {v}" for k, v in found["nvidia_smi"].items()))
    return code


# --- one JSON, one table --------------------------------------------------------------------------


def part_record(work: Path, name: str, limit: int) -> dict[str, Any]:
    """What a part left: its own record, and what the shell knows of it."""
    record: dict[str, Any] = {"part": name, "state": "not run", "result": ""}
    path = work / f"{name}.json"
    if path.exists():
        record |= json.loads(path.read_text())
    record["limit_s"] = limit
    status = work / f"{name}.status"
    if not status.exists():
        return record
    code, seconds, *why = status.read_text().split(maxsplit=2)
    record["seconds"] = float(seconds)
    if code == "skipped":
        return record | {"state": "not run", "result": "".join(why).strip()}
    record["exit_code"] = int(code)
    if int(code) != 0 and record["state"] in ("running", "not run", "done"):
        record["state"] = "failed"
        record.setdefault("error", "".join(why).strip() or last_lines(work / f"{name}.log"))
    return record


def last_lines(path: Path, count: int = 12) -> str:
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:])


def merged(work: Path) -> dict[str, Any]:
    path = work / "facts.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    rows = [line.split("\t") for line in (work / "parts.tsv").read_text().splitlines()]
    result["parts"] = {name: part_record(work, name, int(limit)) for name, limit, _ in rows}
    return result


def table(result: dict[str, Any]) -> str:
    lines = [f"{'part':10s} {'state':9s} {'s':>6s}  result"]
    for name, part in result["parts"].items():
        text = str(part["result"] or part.get("error", "")).splitlines()
        failures = len(part.get("failures", []))
        more = f" ({failures} failed)" if failures else ""
        last = text[-1][:150] if text else ""
        lines.append(f"{name:10s} {part['state']:9s} {part.get('seconds', 0):6.0f}  {last}{more}")
    return "\n".join(lines)


def add_ratios(result: dict[str, Any]) -> dict[str, Any] | None:
    """Put the ratio to the engine's best fp32 row into the baselines; returns that row."""
    ours = [
        row
        for row in result["parts"].get("speed", {}).get("rows", [])
        if (row.get("model"), row.get("dtype"), row.get("exact")) == ("dual 896", "fp32", False)
    ]
    best: dict[str, Any] | None = max(ours, key=lambda row: row["samples_per_s"], default=None)
    for row in result["parts"].get("baselines", {}).get("rows", []):
        if best and row.get("batch") == 1:
            row["ratio"] = best["samples_per_s"] / row["samples_per_s"]
    return best


def comparison(result: dict[str, Any]) -> list[str]:
    """The engine beside the baselines of the same run."""
    best = add_ratios(result)
    if best is None:
        return []
    lines = ["", f"fp32 dual 896, samples/s: {best['samples_per_s']:.0f} ({best['plan']})"]
    for row in result["parts"].get("baselines", {}).get("rows", []):
        if "ratio" in row:
            lines.append(f"  {row['name']}: {row['samples_per_s']:.0f}, ratio {row['ratio']:.1f}")
    return lines


def merge(work: Path, out: Path) -> None:
    result = merged(work)
    save(result, out)
    print(table(result))
    lines = comparison(result)
    save(result, out)
    print("\n".join(lines))


def save(result: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / "gpu_check.tmp"
    temporary.write_text(json.dumps(finite(result), indent=1) + "\n")
    temporary.replace(out / "gpu_check.json")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("facts", "merge"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--command", default="")
    options = parser.parse_args()
    if options.what == "facts":
        return facts(options.work, options.command)
    merge(options.work, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
