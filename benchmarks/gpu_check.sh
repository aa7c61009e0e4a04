#!/usr/bin/env bash
# Everything that needs a GPU, in one command of at most eight minutes, from a checkout with torch, Triton and nvcc at
# hand and no network:
#
#     bash benchmarks/gpu_check.sh [OUTPUT_FOLDER]
#
# Builds the extension if tglo/_C.so is absent; GPU tests; resources of every kernel; the benchmark suite with its
# accuracy table; time, memory and accuracy of the token losses; compute-sanitizer (memcheck and racecheck) on the tests
# named small. Goes on after a failure; the exit status is the number of failed parts. The folder gets nine files:
# summary.txt, checks.log, memcheck.log, racecheck.log, benchmarks.log, benchmarks.json, tokens.json, resources.json and
# resources.md.
set -uo pipefail
deadline=470
# shellcheck source=benchmarks/parts.sh
. "$(dirname "$0")/parts.sh" "${1:-gpu-check}"
rm -f "$out"/{summary.txt,checks.log,memcheck.log,racecheck.log,benchmarks.log,benchmarks.json,tokens.json,resources.json,resources.md}

# shellcheck disable=SC2329 # called through bash -c, so that it has a time limit
build() {
  local include sm
  command -v cmake || { echo "cmake is absent: pip install cmake ninja, or bring a built tglo/_C.so"; return 1; }
  include=$("$python" -c 'import torch; print(torch.__path__[0] + "/include")') || return
  sm=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader --id=0 | tr -d '.') || return
  cmake -S . -B build/gpu-check -DTGLO_TORCH_INCLUDE="$include" -DCMAKE_CUDA_ARCHITECTURES="$sm-real" || return
  cmake --build build/gpu-check --parallel && cp build/gpu-check/_C.so tglo/_C.so
}
export -f build
export python

# Those of training and models import what a GPU machine may lack: gpu_step_check.sh runs them.
mapfile -t files < <(grep -rl --include='*.py' 'mark\.gpu' tests/kernels)

resources_log=$(mktemp)
trap 'rm -f "$resources_log"' EXIT
gpu=no
part gpu checks.log 60 "$python" -c \
  'import torch; torch.cuda.init(); print(torch.cuda.get_device_name(), "torch", torch.__version__)' && gpu=yes
if [ "$gpu" = yes ]; then
  part machine checks.log 20 nvidia-smi
  [ -e tglo/_C.so ] || part build checks.log 120 bash -c build
fi
part doctor checks.log 60 "$python" -c 'from tglo.doctor import print_report; print_report()'

# The resource table needs no GPU: it is made beside the tests, but not beside what is timed.
timeout --kill-after=5 150 "$python" benchmarks/resources.py --output "$out" > "$resources_log" 2>&1 &
resources=$!
[ "$gpu" = yes ] && part tests checks.log 120 "${pytest[@]}" "${files[@]}"
if wait "$resources"; then
  say "resources: ok; $(wc -l < "$out/resources.md") lines in resources.md"
else
  failed+=(resources)
  say "resources: FAILED; $(tail -n 1 "$resources_log")"
fi
{ printf '\n== resources\n'; cat "$resources_log"; } >> "$out/checks.log"
if [ "$gpu" = yes ]; then
  # Prints and saves each size when it is done, those with targets first.
  part benchmarks benchmarks.log 230 "$python" -c '
import logging, sys
from pathlib import Path
from tglo.bench.suite import bench
logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
sys.exit(min(bench(output=Path(sys.argv[1])), 1))' "$out/benchmarks.json"
  if command -v compute-sanitizer > /dev/null; then
    # One allocation for each tensor, so that a step beyond it is seen.
    part memcheck memcheck.log 110 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool memcheck --target-processes application-only --error-exitcode 9 \
      "${pytest[@]}" -k small "${files[@]}"
    part racecheck racecheck.log 110 \
      compute-sanitizer --tool racecheck --target-processes application-only --error-exitcode 9 \
      "${pytest[@]}" -k small "${files[@]}"
  else
    failed+=(sanitizer)
    say "sanitizer: FAILED, compute-sanitizer is not on PATH"
  fi
  part tokens benchmarks.log 120 "$python" -m benchmarks.tokens --device cuda --dtype bfloat16 --backend cuda \
    --size meissonic-1024 amused-512 amused-256 --rounds 20 --output "$out/tokens.json"
else
  say "tests, benchmarks, sanitizer: not run, there is no GPU"
fi

end
