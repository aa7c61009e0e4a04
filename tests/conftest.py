"""What holds for all tests: no network, and one thread a process, so that parallel tests stay fast."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for processes that tests start

import torch

torch.set_num_threads(1)
