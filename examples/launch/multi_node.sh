#!/usr/bin/env bash
# Several nodes without a scheduler: run this on each of them, with the same HEAD and RUN.
#   HEAD=node0:29400 RUN=sdxl-1 examples/launch/multi_node.sh CONFIG.toml [--key value ...]
set -euo pipefail

NODES=${NODES:-4}
GPUS=${GPUS:-8} # processes on each node
HEAD=${HEAD:?host:port of one of the nodes, which all can reach}
RUN=${RUN:?a name for this run, the same on all nodes}

# All nodes need the code, the data and the output folder under the same paths (a shared file system).
# SIGTERM on one node is enough: the trainers agree on the step after which they save and end.
exec "$(dirname "$0")/torchrun_with_signals.sh" --nnodes "$NODES" --nproc-per-node "$GPUS" \
    --max-restarts 0 --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "$RUN" \
    -m tglo.cli train "$@"
