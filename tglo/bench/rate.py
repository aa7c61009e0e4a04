"""How fast this machine multiplies matrices: what a step with many of them is compared with."""

from __future__ import annotations

import statistics
import time

import torch


def matrix_rate(
    device: torch.device,
    dtype: torch.dtype | None = None,
    *,
    side: int | None = None,
    repeats: int = 10,
) -> float:
    """Operations per second of a large square matrix product; by default bfloat16 on a GPU, float32 on
    a CPU.
    """
    on_gpu = device.type == "cuda"
    side = side or (8192 if on_gpu else 1536)
    dtype = dtype or (torch.bfloat16 if on_gpu else torch.float32)
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(first)
    times = []
    for _ in range(repeats + 3):
        _wait(device)
        start = time.perf_counter()
        torch.mm(first, second, out=out)
        _wait(device)
        times.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(times[3:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
