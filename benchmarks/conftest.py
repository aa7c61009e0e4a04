"""What a record of the benchmarks says of the machine."""

from __future__ import annotations

from typing import Any

import torch


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Keep what explains the figures, drop the machine's name; add torch and the GPU."""
    machine_info.pop("node", None)
    machine_info["torch"] = torch.__version__
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine_info["gpu"] = gpu
