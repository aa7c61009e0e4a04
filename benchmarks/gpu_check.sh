#!/usr/bin/env bash
# Everything that needs a GPU, in one command from a checkout with torch, Triton and nvcc at hand:
#
#     bash benchmarks/gpu_check.sh [OUTPUT_FOLDER]
#
# GPU tests, compute-sanitizer (memcheck and racecheck) on the smallest of them, the benchmark suite.
# Goes on after a failure and ends with a summary; the exit status is the number of failed parts.
# The extension is taken as it is (tglo/_C.so); without it the rest still runs.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-check}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
[ -e tglo/kernels ] || ln -s ../kernels tglo/kernels # a checkout is not an installation

failed=()
part() { # part NAME SECONDS COMMAND...: run, keep the log, remember a failure
  local name=$1 limit=$2
  shift 2
  printf '== %s (%ss)\n' "$name" "$SECONDS"
  if ! timeout "$limit" "$@" > "$out/$name.log" 2>&1; then
    failed+=("$name")
    tail -n 15 "$out/$name.log"
  else
    tail -n 1 "$out/$name.log"
  fi
}

part machine 30 nvidia-smi
part doctor 60 python3 -c 'from tglo.doctor import print_report; print_report()'
part tests 180 python3 -m pytest tests -m gpu -q -p no:cacheprovider
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    part "$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      python3 -m pytest tests/kernels -m gpu -k small -q -p no:cacheprovider
  done
else
  failed+=("compute-sanitizer not found")
fi
part benchmarks 120 python3 -m pytest benchmarks -q -p no:cacheprovider \
  --benchmark-json "$out/benchmarks.json"

printf '\n%s failed: %s\n' "${#failed[@]}" "${failed[*]:-none}"
exit "${#failed[@]}"
