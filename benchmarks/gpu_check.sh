#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command; docs/gpu-check.md says how long parts take:
#
#   benchmarks/gpu_check.sh [--dry-run] [part ...]
#
# Parts, in this order if none is named: build exchange tests sanitize speed residual embedded sparse
# many subscale baselines stages ncu.
# Needs a GPU with its driver, python3 with numpy, pybind11 and pytest, a C++ compiler, cmake and
# ninja; torch and cupy for the baselines. Downloads nothing, changes no setting of the GPU.
# Results: $OUT/gpu_check.json and $OUT/gpu_check.log (OUT: benchmarks/out). docs/gpu-check.md tells
# how to read them. A part that fails or runs too long costs only its own results.
# Exit code: 0 all parts done, 1 some failed, 2 usage, 3 no GPU.
set -u
cd "$(dirname "$0")/.." || exit 2

parts_known="build exchange tests sanitize speed residual embedded sparse many subscale baselines stages ncu"
seconds_all=${GPU_CHECK_SECONDS:-1500}
OUT=${OUT:-benchmarks/out}
python=${PYTHON:-python3}
work=build/gpu_check
command_line="benchmarks/gpu_check.sh $*"

usage() { sed -n '2,14s/^# \{0,1\}//p' "$0"; }

dry=0
parts=()
for word in "$@"; do
  case " $parts_known " in
    *" $word "*) parts+=("$word"); continue ;;
  esac
  case $word in
    --dry-run) dry=1 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "There is no part '$word'; parts: $parts_known" >&2; exit 2 ;;
  esac
done
[ ${#parts[@]} -gt 0 ] || read -r -a parts <<< "$parts_known"

# Seconds that a part may take.
limit_of() {
  case $1 in
    build) echo 180 ;; exchange) echo 75 ;; tests) echo 280 ;; sanitize) echo 120 ;;
    speed) echo 200 ;; residual) echo 120 ;; embedded) echo 90 ;; sparse) echo 150 ;; many) echo 160 ;; subscale) echo 75 ;;
    baselines) echo 120 ;; stages) echo 45 ;; ncu) echo 75 ;;
  esac
}

# What a part runs, into the array `command`.
set_command() {
  local result="$work/$1.json"
  case $1 in
    build) command=(bash benchmarks/gpu_build.sh "$work") ;;
    ncu) command=("$python" benchmarks/gpu_tools.py ncu --output "$result" --raw "$OUT/ncu.txt") ;;
    tests | sanitize) command=("$python" benchmarks/gpu_tools.py "$1" --output "$result") ;;
    exchange) command=("$python" benchmarks/exchange.py --output "$result") ;;
    *) command=("$python" "benchmarks/gpu_$1.py" --output "$result") ;;
  esac
}

report() { "$python" benchmarks/gpu_report.py "$1" --work "$work" --out "$OUT" "${@:2}"; }

mkdir -p "$OUT" "$work"
export OUT PYTHON=$python PYTHONUNBUFFERED=1
export PYTHONPATH="$PWD:$PWD/benchmarks:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}"
# Kernels compiled by one part serve the next, and nothing is left in the user's home.
export WAVERNN_FAST_CACHE="$PWD/$work/kernels"
# One compiler for the engine and the exchange benchmark, wherever pip or a toolkit put it.
if [ -z "${WAVERNN_FAST_NVRTC:-}" ]; then
  found=$("$python" -c 'import cuda_driver; print(cuda_driver.Nvrtc().path)' 2> /dev/null) &&
    export WAVERNN_FAST_NVRTC=$found
fi
rm -f "$work"/*.json "$work"/*.status
for part in "${parts[@]}"; do
  set_command "$part"
  printf '%s\t%s\t%s\n' "$part" "$(limit_of "$part")" "${command[*]}"
done > "$work/parts.tsv"

if [ "$dry" = 1 ]; then
  echo "part, seconds, command:"
  cat "$work/parts.tsv"
fi
report facts --command "$command_line"
code=$?
if [ "$code" != 0 ] || [ "$dry" = 1 ]; then
  report merge > /dev/null
  echo "$OUT/gpu_check.json"
  [ "$code" = 3 ] && echo "No GPU: nothing was measured."
  exit "$code"
fi

: > "$OUT/gpu_check.log"
begin=$SECONDS
failed=0
for part in "${parts[@]}"; do
  left=$((seconds_all - (SECONDS - begin)))
  limit=$(limit_of "$part")
  [ "$limit" -le "$left" ] || limit=$left
  if [ "$limit" -lt 5 ]; then
    echo "$part: no time left of $seconds_all s" | tee -a "$OUT/gpu_check.log"
    echo "skipped 0 no time left" > "$work/$part.status"
    failed=1
    continue
  fi
  echo "== $part (at most $limit s)" | tee -a "$OUT/gpu_check.log"
  started=$SECONDS
  set_command "$part"
  timeout -k 5 "$limit" "${command[@]}" > "$work/$part.log" 2>&1
  code=$?
  cat "$work/$part.log" >> "$OUT/gpu_check.log"
  grep -E '^(MEASURED|  +[0-9]+ blocks:)' "$work/$part.log"
  grep '^FAILED' "$work/$part.log" | head -4 | cut -c1-200
  [ "$code" = 0 ] || failed=1
  echo "$code $((SECONDS - started)) $([ "$code" = 124 ] && echo "stopped after $limit s")" \
    > "$work/$part.status"
  report merge > /dev/null  # a run cut short keeps what it has
done
report merge
exit "$failed"
