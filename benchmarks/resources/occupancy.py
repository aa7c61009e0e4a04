"""How many blocks of a kernel fit on a multiprocessor."""

from __future__ import annotations

from typing import NamedTuple

WARP = 32
REGISTERS = 65536  # of a multiprocessor, on each architecture below
RESERVED = 1024  # bytes of shared memory that the system keeps for each block


class Architecture(NamedTuple):
    """Limits of a multiprocessor, from the CUDA C++ Programming Guide's table of compute capabilities."""

    threads: int
    blocks: int
    shared: int  # bytes
    shared_of_block: int


ARCHITECTURES = {
    80: Architecture(2048, 32, 164 * 1024, 163 * 1024),
    89: Architecture(1536, 24, 100 * 1024, 99 * 1024),
    90: Architecture(2048, 32, 228 * 1024, 227 * 1024),
    100: Architecture(2048, 32, 228 * 1024, 227 * 1024),
}
"""By compute capability. 89 runs the code of 80."""


class Occupancy(NamedTuple):
    blocks: int
    warps: int
    limit: str  # what allows no more: "registers", "shared", "threads" or "blocks"


def occupancy(capability: int, threads: int, registers: int, shared: int) -> Occupancy:
    """Return what fits of blocks with so many threads, registers a thread and bytes of shared memory."""
    limits = ARCHITECTURES[capability]
    warps = -(-threads // WARP)
    of_a_warp = -(-max(registers, 1) * WARP // 256) * 256  # registers are given out by 256 a warp
    warps_by_registers = REGISTERS // of_a_warp // 4 * 4  # and evenly to four schedulers
    by = {
        "threads": limits.threads // (warps * WARP),
        "registers": warps_by_registers // warps,
        "shared": limits.shared // (-(-(shared + RESERVED) // 128) * 128),
        "blocks": limits.blocks,
    }
    limit = min(by, key=lambda name: by[name])
    return Occupancy(by[limit], by[limit] * warps, limit)
