#!/usr/bin/env bash
# A model's whole training step on one GPU, in one command of at most eight minutes, from a checkout and without a
# network; of SDXL, or with --model flux of FLUX.1 dev with a LoRA:
#
#     bash benchmarks/gpu_step_check.sh [--rehearse] [OUTPUT_FOLDER] [FLAGS OF python -m benchmarks.step]
#
# Needs torch, Triton, transformers, peft and accelerate in place, about 40 GB of host memory and 15 GB under TMPDIR. FLUX
# needs deepspeed too, which keeps its frozen weights in half precision, 80 GB on the GPU, 100 GB of host memory and 40 GB
# under TMPDIR: its transformer has 24 GB in bfloat16, and its text encoders and VAE 10 GB.
# What else is missing can be brought as wheels, for the GPU machine's Python and platform (see pip download --help);
# they are unpacked into the output folder and come first on PYTHONPATH, and nothing is installed:
#
#     pip download --no-deps -c constraints.txt -d wheels \
#         diffusers importlib_metadata zipp safetensors msgspec filelock tqdm pytest scikit-learn tomli_w
#     (for FLUX also deepspeed einops hjson msgpack ninja psutil py-cpuinfo pydantic pydantic_core)
#     WHEELS=wheels bash benchmarks/gpu_step_check.sh
#
# The fused loss runs on the CUDA kernels where tglo/_C.so has them (benchmarks/gpu_check.sh builds it), else on
# Triton's; TGLO_BACKEND=auto, cuda, triton or reference overrides that. Contenders come in the order of their
# importance and the record is written after every batch, so a time limit leaves what was measured. SDXL's LoRA comes
# last; to have all of it: --contenders with the names that end in LoRA, and --ablation-batch 0.
# The folder gets summary.txt, step.log and step.json; the exit status is the number of failed parts.
# --rehearse needs no GPU: the same commands with the smallest model on the CPU; GPU tests are imported and skipped.
set -uo pipefail
deadline=475
rehearse=no
if [ "${1:-}" = --rehearse ]; then
  rehearse=yes
  shift
fi
# shellcheck source=benchmarks/parts.sh
. "$(dirname "$0")/parts.sh" "${1:-gpu-step-check}"
shift || true
rm -f "$out"/{step.log,step.json}
export HF_HUB_OFFLINE=1 device=cuda
if [ "$rehearse" = yes ]; then
  device=cpu
  export TGLO_BACKEND=auto
  set -- --quick "$@"
fi

if [ -n "${WHEELS:-}" ]; then
  part wheels step.log 60 "$python" -m pip install --no-index --no-deps --upgrade --target "$out/site" "$WHEELS"/*.whl
  export PYTHONPATH="$out/site:$PYTHONPATH"
fi
if [ -z "${TGLO_BACKEND:-}" ]; then
  TGLO_BACKEND=$("$python" -c \
    'from tglo.ops import EXTENSION; print("cuda" if EXTENSION.architectures else "triton")') || TGLO_BACKEND=auto
fi
export TGLO_BACKEND
say "backend: $TGLO_BACKEND"

# A loss that does not run would be found only after the models are built.
part loss step.log 60 "$python" -c '
import os, torch, tglo
there = os.environ["device"]
p, q, y = (torch.randn(4, 4, 128, 128, device=there, dtype=torch.bfloat16, requires_grad=i == 0) for i in range(3))
tglo.tgo_loss(p, y, torch.rand(4, device=there), 0.5, reference_pred=q).backward()
print(torch.cuda.get_device_name(), "torch", torch.__version__, p.grad.abs().max().item())' || {
  say "step: not run; TGLO_BACKEND=triton or TGLO_BACKEND=reference may do"
  end
}
# Forking saves every process its imports, if none of them has looked at CUDA.
part imports step.log 60 "$python" -c '
import os, signal, torch, benchmarks.step.suite
if os.fork() == 0:
    signal.alarm(30)
    torch.ones(1, device=os.environ["device"]).item()
    print("a fork can use", os.environ["device"], flush=True)
    os._exit(0)
os.wait()' || {
  say "step: not run; bring what is missing as WHEELS"
  end
}
fork=--no-fork
grep -q '^a fork can use' "$out/step.log" && fork=--fork
say "processes: $fork"
# The GPU tests of training and models: attention, checkpointing, CUDA graphs, a step without device reads.
part tests step.log 70 "${pytest[@]}" tests/train tests/models
left=$((deadline - SECONDS))
part step step.log "$left" "$python" -m benchmarks.step --device "$device" "$fork" \
  --seconds $((left - 25)) --output "$out/step.json" "$@"
sed -n '/^[a-z-]*; .*torch /,$p' "$out/step.log" # the tables

end
