#!/usr/bin/env bash
# One node, a process for each GPU.
#   examples/launch/one_node.sh CONFIG.toml [--key value ...]
set -euo pipefail

GPUS=${GPUS:-8}         # processes
PATIENCE=${PATIENCE:-600} # seconds that a checkpoint may take after SIGTERM

# exec: a signal to this script reaches torchrun, which hands SIGTERM on to the trainers. They finish
# the step, save a checkpoint and end; the same command goes on from it.
exec torchrun --standalone --nproc-per-node "$GPUS" --shutdown-timeout "$PATIENCE" \
    -m tglo.cli train "$@"
