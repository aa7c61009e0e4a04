"""Started by torchrun in tests: trains each TOML file of its arguments, one after another."""

from __future__ import annotations

import logging
import sys

from tglo.train import load_config, train

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    for path in sys.argv[1:]:
        train(load_config(path))
