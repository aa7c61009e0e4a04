#!/usr/bin/env bash
# Everything that needs a GPU, in one command of at most eight minutes, from a checkout with torch, Triton and nvcc at
# hand and no network:
#
#     bash benchmarks/gpu_check.sh [--rehearse] [OUTPUT_FOLDER]
#
# In this order: the extension, built if tglo/_C.so has no CUDA kernels; the self-check of every form of the kernels; GPU
# tests of the CUDA kernels, and beside them the resources of every kernel; compute-sanitizer (memcheck and racecheck) on
# the tests named small; the benchmark suite with its accuracy table; time, memory and accuracy of the token losses; the
# measured times beside the predicted ones; GPU tests of the Triton kernels, which spend most of their time in a compiler
# and get what is left. Goes on after a failure; the exit status is the number of failed parts. Whatever ends the
# script, the folder has the results so far: summary.txt, checks.log, sanitizers.log, benchmarks.log, benchmarks.json,
# tokens.json, resources.json and predictions.md.
#
# --rehearse needs no GPU: the same commands run with stand-ins for nvidia-smi, compute-sanitizer and cmake, without the
# packages that a GPU machine may lack, on the CPU's kernels and with tiny sizes; GPU tests are imported and skipped.
# REHEARSE_FAIL and REHEARSE_HANG name a part that fails or hangs on purpose, REHEARSE_ONLY the parts that run.
set -uo pipefail
deadline=470
rehearse=no
if [ "${1:-}" = --rehearse ]; then
  rehearse=yes
  shift
fi
# shellcheck source=benchmarks/parts.sh
. "$(dirname "$0")/parts.sh" "${1:-gpu-check}"
rm -f "$out"/{checks.log,sanitizers.log,benchmarks.log,benchmarks.json,tokens.json,resources.json,predictions.md}

device=cuda library=tglo/_C.so folder=build/gpu-check bench=() sm=(80 90 100)
tokens=(--device cuda --dtype bfloat16 --backend cuda --size meissonic-1024 amused-512 amused-256 --rounds 20)
if [ "$rehearse" = yes ]; then
  device=cpu library=$out/_C.so folder=$out/build bench=(--quick) sm=(90 --no-triton)
  tokens=(--device cpu --dtype float32 --backend auto --size tiny --task loss --rounds 1 --batch 1 --contenders eager tglo)
  export REHEARSE_WITHOUT="accelerate datasets deepspeed diffusers ftfy matplotlib msgspec peft PIL pyarrow pytest_timeout
    safetensors sklearn tomli_w transformers tyro xdist"
fi

# shellcheck disable=SC2329 # called through bash -c, so that it has a time limit
build() {
  local include capability
  command -v cmake || { echo "cmake is absent: pip install cmake ninja, or bring a built tglo/_C.so"; return 1; }
  include=$("$python" -c 'from importlib.util import find_spec as find
print(find("torch").submodule_search_locations[0] + "/include")') || return
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader --id=0 | tr -d '.') || return
  cmake -S . -B "$folder" -DTGLO_TORCH_INCLUDE="$include" -DTGLO_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES="$capability-real" || return
  # Moved into place: a process may have the old one in memory.
  cmake --build "$folder" --parallel && cp "$folder/_C.so" "$library.new" && mv "$library.new" "$library"
}
export -f build
export python library folder

# Those of training and models import what a GPU machine may lack: gpu_step_check.sh runs them.
mapfile -t files < <(grep -rl --include='*.py' 'mark\.gpu' tests/kernels)

gpu=no
part gpu checks.log 60 "$python" -c \
  'import torch; torch.cuda.init(); print(torch.cuda.get_device_name(), "torch", torch.__version__)' && gpu=yes
if [ "$gpu" = yes ]; then
  part machine checks.log 20 nvidia-smi
  if wanted build; then
    "$python" -c 'import sys; from tglo.ops import EXTENSION; sys.exit(not EXTENSION.architectures)' 2> /dev/null ||
      part build checks.log 120 bash -c build
  fi
fi
part doctor checks.log 60 "$python" -c 'from tglo.doctor import print_report; print_report()'
[ "$gpu" = yes ] && part self-check checks.log 60 "$python" -m benchmarks.self_check --device "$device"

# The resources need no GPU: they are read beside the tests, but not beside what is timed.
resources_log=$(mktemp)
trap 'rm -f "$resources_log"' EXIT
if wanted resources; then
  timeout --kill-after=5 100 "$python" -m benchmarks.resources --output "$out/resources.json" --sm "${sm[@]}" \
    > "$resources_log" 2>&1 &
  beside=$!
fi
[ "$gpu" = yes ] && part tests checks.log 100 "${pytest[@]}" -k 'not triton' "${files[@]}"
if [ -n "$beside" ]; then
  status=ok
  wait "$beside" || { status=FAILED && failed+=(resources); }
  beside=''
  { printf '\n== resources\n'; cat "$resources_log"; } >> "$out/checks.log"
  say "resources: $status; $(tail -n 1 "$resources_log")"
fi

if [ "$gpu" = yes ]; then
  if command -v compute-sanitizer > /dev/null; then
    # One allocation for each tensor, so that a step beyond it is seen.
    part memcheck sanitizers.log 55 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool memcheck --target-processes application-only --error-exitcode 9 \
      "${pytest[@]}" -k 'small and cuda' "${files[@]}"
    part racecheck sanitizers.log 55 \
      compute-sanitizer --tool racecheck --target-processes application-only --error-exitcode 9 \
      "${pytest[@]}" -k 'small and cuda' "${files[@]}"
  else
    failed+=(sanitizer)
    say "sanitizer: FAILED, compute-sanitizer is not on PATH"
  fi
  # Prints and saves each size when it is done, those with targets first. The tokens get a minute of what is left.
  part benchmarks benchmarks.log $((deadline - SECONDS - 70)) "$python" -c '
import logging, sys
from pathlib import Path
from tglo.bench.suite import bench
logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
sys.exit(min(bench(output=Path(sys.argv[1]), quick="--quick" in sys.argv), 1))' "$out/benchmarks.json" "${bench[@]}"
  part tokens benchmarks.log $((deadline - SECONDS - 8)) "$python" -m benchmarks.tokens "${tokens[@]}" \
    --output "$out/tokens.json"
  part predictions benchmarks.log 10 "$python" -m benchmarks.predictions --measured "$out/benchmarks.json" \
    --output "$out/predictions.md"
  part triton checks.log 200 "${pytest[@]}" -k triton "${files[@]}"
else
  say "self-check, tests, sanitizer, benchmarks: not run, there is no GPU"
fi

end
