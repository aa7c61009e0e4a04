"""How the CUDA kernels cut their work: the same arithmetic as csrc/loss, tested against it."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.predictions.gpus import Gpu
from benchmarks.resources.occupancy import ARCHITECTURES

VECTOR = 8
SMALLEST_SLICE = 2048
LARGEST_CLUSTER = 8
CLUSTER_STATIC = 2544  # bytes: what the kernel holds beside the prediction, and the system's 1 KiB
CLUSTERS_OF_EIGHT = 16  # that an H100 or H200 is taken to hold at one block a multiprocessor
THREADS = 256  # of the two launches
ENOUGH_BLOCKS = 512


def part_elements(elements: int) -> int:
    """Return the elements of a block of the forward launch."""
    if elements <= 131072:
        return 4096
    return 8192 if elements <= 1048576 else 16384


def backward_part(rows: int, elements: int) -> int:
    """Return the elements of a block of the backward launch."""
    part = 4 * THREADS * VECTOR
    while part > THREADS * VECTOR and rows * elements < ENOUGH_BLOCKS * part:
        part //= 2
    return part


def parts_of(elements: int, part: int) -> int:
    return max(1, -(-elements // part))


def most_clusters(gpu: Gpu, blocks: int) -> int:
    """Return the clusters that the GPU holds at once, with a block on each multiprocessor."""
    most = gpu.multiprocessors // blocks
    return min(most, CLUSTERS_OF_EIGHT) if blocks == 8 else most


def slice_of(elements: int, blocks: int) -> int:
    """Return the elements of a row that one of its blocks works on."""
    vectors = (elements + VECTOR - 1) // VECTOR
    return (vectors + blocks - 1) // blocks * VECTOR


class OneLaunch(NamedTuple):
    """The plan of loss_and_grad, for one draw a sample."""

    cluster: bool
    blocks: int  # of a cluster or a group
    groups: int

    @property
    def name(self) -> str:
        return (
            f"cluster of {self.blocks}" if self.cluster else f"{self.groups} x {self.blocks} blocks"
        )


def plan_one_launch(gpu: Gpu, batch: int, elements: int, size: int, resident: int) -> OneLaunch:
    """Plan as csrc/loss does. size: bytes of an element; resident: blocks of the cooperative kernel
    that a multiprocessor holds.
    """
    shared = ARCHITECTURES[gpu.capability].shared_of_block - CLUSTER_STATIC

    def held(blocks: int) -> int:
        return slice_of(elements, blocks) * 4

    blocks = 1
    while blocks < LARGEST_CLUSTER and held(blocks) > shared:
        blocks *= 2
    if gpu.capability >= 90 and held(blocks) <= shared:
        while (
            blocks < LARGEST_CLUSTER
            and batch <= most_clusters(gpu, 2 * blocks)
            and slice_of(elements, blocks) >= 2 * SMALLEST_SLICE
        ):
            blocks *= 2
        return OneLaunch(True, blocks, batch)
    in_work = 2 * elements * size
    most = resident * gpu.multiprocessors
    groups = min(2 * max(1, gpu.cache // 4 // in_work), batch, most)
    return OneLaunch(False, min(max(1, elements // SMALLEST_SLICE), most // groups), groups)
