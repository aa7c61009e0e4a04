"""The GPUs that times are predicted for. Nothing here was measured by this project."""

from __future__ import annotations

from typing import NamedTuple


class Gpu(NamedTuple):
    name: str
    named: str  # found in the name that the driver gives
    code: int  # architecture whose code it runs
    capability: int  # whose limits it has
    multiprocessors: int
    clock: float  # GHz, sustained
    peak: float  # TB/s, the vendor's memory bandwidth
    copy: float  # TB/s that a large copy reads and writes
    cache: int  # bytes of the second-level cache
    cache_bandwidth: float  # TB/s
    latency: float  # us of a load from memory, under load
    cache_latency: float  # us of a load from the second-level cache


GPUS = (
    Gpu("H200", "H200", 90, 90, 132, 1.755, 4.80, 4.3, 50 * 2**20, 5.5, 0.65, 0.27),
    Gpu("H100 SXM", "H100", 90, 90, 132, 1.755, 3.35, 3.0, 50 * 2**20, 5.5, 0.65, 0.27),
    Gpu("A100 SXM 80 GB", "A100", 80, 80, 108, 1.41, 2.04, 1.75, 40 * 2**20, 4.0, 0.60, 0.25),
    Gpu("RTX 4090", "RTX 4090", 80, 89, 128, 2.52, 1.01, 0.92, 72 * 2**20, 5.0, 0.55, 0.25),
)


class Costs(NamedTuple):
    """Times in microseconds that no table tells: guesses, the same for every GPU."""

    launch: float = 1.2
    """From the end of one kernel in a CUDA graph to the first instruction of the next."""
    more_cluster: float = 0.4
    more_cooperative: float = 1.0
    """What a cluster launch and a cooperative one take beyond that."""
    head: float = 0.25
    """Parameters and indices, until the first load is issued."""
    block_sum: float = 0.35
    """Sums over a block, and the write of its result."""
    finish_row: float = 0.5
    """A row's log-ratio, loss and slope in float64, by one warp."""
    cluster_sync: float = 0.6
    """Waiting for the other blocks of a cluster, and reading their sums."""
    meeting: float = 1.0
    """Waiting in a cooperative grid until the last arrival is seen."""


COSTS = Costs()


def gpu_of(name: str) -> Gpu | None:
    """Return the GPU that a driver's name stands for, or None."""
    return next((gpu for gpu in GPUS if gpu.named in name), None)
