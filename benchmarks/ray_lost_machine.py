"""A job on a Ray cluster of two machines, one of which is lost in the middle.

Both are raylets on this machine, with one processor each. When some files are done one is killed
with all that it runs; the other must do its work, and the files must be those of a local run.

    python benchmarks/ray_lost_machine.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from wavernn_fast import weights
from wavernn_fast.synthetic import random_mel, random_model

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback only; before ray


def make_job(folder: Path, count: int, frames: int) -> list[str]:
    """A small model and mels; the command but for its output."""
    config, tensors = random_model("residual:32")
    weights.write(folder / "voice.safetensors", config, tensors)
    (folder / "mels").mkdir()
    for i in range(count):
        np.save(folder / "mels" / f"{i:04d}.npy", random_mel(config, frames, seed=i))
    model = ["-m", str(folder / "voice.safetensors"), "--device", "cpu", "--threads", "1"]
    return [sys.executable, "-m", "wavernn_fast", "-q", "vocode", str(folder / "mels"), *model]


def waves(folder: Path) -> dict[str, bytes]:
    """Every file but the journals; parts too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {p.name: p.read_bytes() for p in files if ".wavernn-fast" not in p.parts}


def lose_one(command: list[str], out: Path, after: int, limit: float) -> dict[str, Any]:
    """Run a job on two raylets, kill one of them."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        other = cluster.add_node(**small)
        ray = ["--engine", "ray", "--ray-address", cluster.address, "--workers", "2"]
        begun = time.monotonic()
        job = subprocess.Popen([*command, "-o", str(out), "--streams", "1", *ray])
        while len(waves(out)) < after and job.poll() is None:
            time.sleep(0.02)
        done = len(waves(out))
        cluster.remove_node(other, allow_graceful=False)
        code = job.wait(limit)
        return {"done_when_lost": done, "exit_code": code, "seconds": time.monotonic() - begun}
    finally:
        cluster.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--after", type=int, default=10, help="Files done when it is lost.")
    parser.add_argument("--limit", type=float, default=300.0, help="Seconds.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = make_job(folder, args.items, args.frames)
        subprocess.run([*command, "-o", str(folder / "local")], check=True)
        result = lose_one(command, folder / "out", args.after, args.limit)
        result["files_equal"] = waves(folder / "out") == waves(folder / "local")
    print(json.dumps(result))
    return 0 if result["files_equal"] and result["exit_code"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
