#!/usr/bin/env bash
# One node, a process for each GPU. SIGTERM saves a checkpoint; the same command resumes from it.
#   examples/launch/one_node.sh CONFIG.toml [--key value ...]
set -euo pipefail

GPUS=${GPUS:-8} # processes

exec "$(dirname "$0")/torchrun_with_signals.sh" --standalone --nproc-per-node "$GPUS" \
    -m tglo.cli train "$@"
