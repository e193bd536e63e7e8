#!/usr/bin/env bash
# The extension, in place, with the cmake, ninja and pybind11 that are there; no network, no pip.
# The build folder stays, so the next call compiles only what changed.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
tag=$("$python" -c 'import sys; print(sys.implementation.cache_tag)')
folder="$1/cmake-$tag"
# A compiler that CXX names may link a C++ library of its own into the extension; beside the one that
# Python's packages have loaded, printing a number then crashed. The system's comes first.
if [ -x /usr/bin/c++ ]; then export CXX=/usr/bin/c++ CC=/usr/bin/cc; fi
cmake --version | head -1
"${CXX:-c++}" --version | head -1
cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/wavernn_fast" -DWF_VERSION="$version"
cmake --build "$folder" --target _C --parallel "$("$python" -c 'import os; print(os.cpu_count())')"
"$python" - "$1/build.json" <<'END'
import json, sys
import wavernn_fast._C as c
devices = c.available_devices()
problem = "" if "cuda" in devices else "this build has no CUDA engine"
try:
    gpus = c.cuda_devices()
    print(gpus)
    problem = problem or gpus[0]["problem"]
except Exception as error:  # built all the same
    problem = problem or str(error)
state = "failed" if problem else "done"
result = problem or f"devices {', '.join(devices)}"
record = {"part": "build", "state": state, "result": result, "failures": []}
json.dump(record, open(sys.argv[1], "w"))
END
