"""For all tests: no network, one thread a process (parallel tests stay fast), `tests` importable."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for processes that tests start
os.environ["PYTHONSAFEPATH"] = "1"  # they take the installed package, not the folder they start in

import torch

# At the end: the installed package, which has the extension, comes before the source folder.
sys.path.append(str(Path(__file__).parents[1]))
torch.set_num_threads(1)
