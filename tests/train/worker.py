"""Started by torchrun in tests: trains each TOML file of its arguments, one after another."""

from __future__ import annotations

import atexit
import logging
import sys

import torch.distributed as dist

# Registered first, so it runs after whatever training registers.
atexit.register(lambda: print(f"in a group at the end: {dist.is_initialized()}", flush=True))

from tglo.train import load_config, train  # noqa: E402

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    for path in sys.argv[1:]:
        train(load_config(path))
