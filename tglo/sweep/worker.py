"""`LAUNCHER tglo.sweep.worker POINT.json`: one training of a sweep, in the launcher's processes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tglo.files import read_json
from tglo.train import train
from tglo.train.config_files import parse_config

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    path = Path(sys.argv[1])
    finished = train(parse_config(read_json(path), str(path))).finished
    sys.exit(0 if finished else 1)
