"""The time of each form from bytes, waves, latencies and instructions; docs/gpu-predictions.md has the
formulas in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.predictions.geometry import (
    VECTOR,
    backward_part,
    most_clusters,
    part_elements,
    parts_of,
    plan_one_launch,
)
from benchmarks.predictions.gpus import COSTS, Gpu
from benchmarks.predictions.kernels import Code, Loop

Codes = Mapping[tuple[str, bool], Code]
HALF = 2  # bytes of an element


class Time(NamedTuple):
    """Microseconds, and what most of the longest part of them goes to."""

    us: float
    bound: str

    def plus(self, other: Time) -> Time:
        return Time(self.us + other.us, max(self, other).bound)


class Pass(NamedTuple):
    """A pass of all threads over predictions: what it moves, and how."""

    loop: Loop
    vectors: float  # of the whole pass
    vectors_of_thread: float
    waves: float  # of blocks
    memory: float  # bytes read from memory and written to it
    cache: float  # bytes read from the second-level cache or through it
    stored: float  # bytes written
    store_bytes: int
    from_cache: bool = False  # loads find the second-level cache


def pass_time(gpu: Gpu, work: Pass) -> Time:
    """Return the longest of four limits, after the first load's latency."""
    latency = gpu.cache_latency if work.from_cache else gpu.latency
    trips = trips_of(work)
    # A loop that stores goes through all its vectors, also where the thread has fewer.
    idle = max(1.0, work.loop.vectors / work.vectors_of_thread) if work.stored else 1.0
    amplified = work.cache + work.stored * 16 / work.store_bytes
    limits = {
        "memory": work.memory / gpu.copy / 1e6,
        "L2": amplified / gpu.cache_bandwidth / 1e6,
        "latency": (math.ceil(work.waves) * trips - 1) * latency,
        "instructions": work.vectors * idle / 32 * work.loop.instructions
        / (4 * gpu.multiprocessors * gpu.clock * 1e3),
    }  # fmt: skip
    bound = max(limits, key=lambda name: limits[name])
    if limits[bound] < latency:
        bound = "latency"
    return Time(latency + limits[bound], bound)


def trips_of(work: Pass) -> int:
    """Return how often a thread waits for loads: what is left of the sums is taken by twos and ones."""
    whole, rest = divmod(math.ceil(work.vectors_of_thread), work.loop.vectors)
    return whole + (min(rest, 1) if work.stored else rest.bit_count())


def fixed(us: float) -> Time:
    return Time(us, "launch")


def forward(gpu: Gpu, codes: Codes, batch: int, elements: int, reference: bool) -> Time:
    """Sums over parts of every row; the last block finishes the loss."""
    code = codes["loss.forward", reference]
    part = part_elements(elements)
    parts = parts_of(elements, part)
    blocks = batch * parts
    each = part / VECTOR / code.threads
    moved = (2 + reference) * HALF * batch * elements
    vectors = batch * elements / VECTOR
    waves = blocks / (code.resident(gpu.capability) * gpu.multiprocessors)
    work = Pass(code.sums[0], vectors, each, waves, moved, moved, 0, 16)
    warps = code.threads // 32
    reads = math.ceil(parts / 32 / 4)  # four loads of a lane are under way together
    rows = math.ceil(batch / warps) * (reads * gpu.cache_latency + COSTS.finish_row)
    last = 2 * gpu.cache_latency + rows + COSTS.block_sum
    known = fixed(COSTS.launch + COSTS.head + COSTS.block_sum + last)
    return pass_time(gpu, work).plus(known)


def backward(gpu: Gpu, codes: Codes, batch: int, elements: int) -> Time:
    """The gradient: two predictions are read, from the second-level cache if they are still there, and
    one is written.
    """
    code = codes["loss.backward", False]
    assert code.gradient is not None
    part = backward_part(batch, elements)
    blocks = batch * parts_of(elements, part)
    each = part / VECTOR / code.threads
    size = HALF * batch * elements
    kept = 3 * size <= gpu.cache // 2
    waves = blocks / (code.resident(gpu.capability) * gpu.multiprocessors)
    vectors = batch * elements / VECTOR
    memory = size if kept else 3 * size
    work = Pass(
        code.gradient, vectors, each, waves, memory, 2 * size, size, code.store_bytes, kept
    )  # fmt: skip
    return pass_time(gpu, work).plus(fixed(COSTS.launch + COSTS.head))


def two_launches(gpu: Gpu, codes: Codes, batch: int, elements: int, reference: bool) -> Time:
    return forward(gpu, codes, batch, elements, reference).plus(
        backward(gpu, codes, batch, elements)
    )


def one_launch(gpu: Gpu, codes: Codes, batch: int, elements: int, reference: bool) -> Time:
    """Loss and gradient by a cluster for each sample, or by groups of a cooperative grid."""
    resident = codes["cooperative.loss_and_grad", reference].resident(gpu.capability)
    plan = plan_one_launch(gpu, batch, elements, HALF, resident)
    if plan.cluster:
        return _cluster(gpu, codes, batch, elements, reference, plan.blocks)
    return _cooperative(gpu, codes, batch, elements, reference, plan.blocks, plan.groups)


def _cluster(
    gpu: Gpu, codes: Codes, batch: int, elements: int, reference: bool, blocks: int
) -> Time:
    code = codes["cluster.loss_and_grad", reference]
    held = 4 * elements / blocks
    on_one = max(1, code.resident(gpu.capability, int(held)))
    clusters = on_one * most_clusters(gpu, blocks)
    waves = math.ceil(batch / clusters)
    at_once = min(batch, clusters) * elements
    each = elements / blocks / VECTOR / code.threads
    read = (2 + reference) * HALF * at_once
    sums = Pass(code.sums[0], at_once / VECTOR, each, 1, read, read, 0, 16)
    written = HALF * at_once
    write = max(
        written / gpu.copy / 1e6,
        written * 16 / code.store_bytes / gpu.cache_bandwidth / 1e6,
    )
    between = COSTS.block_sum + COSTS.cluster_sync + 2 * COSTS.finish_row
    total = pass_time(gpu, sums).plus(fixed(between)).plus(Time(write, "memory"))
    ends = COSTS.launch + COSTS.more_cluster + COSTS.head + 2 * gpu.cache_latency
    return Time(waves * total.us + ends, total.bound if waves * total.us > ends else "launch")


def _cooperative(
    gpu: Gpu, codes: Codes, batch: int, elements: int, reference: bool, blocks: int, groups: int
) -> Time:
    code = codes["cooperative.loss_and_grad", reference]
    assert code.gradient is not None
    rounds = math.ceil(batch / groups)
    at_once = min(groups, batch) * elements
    each = elements / blocks / VECTOR / code.threads
    size = HALF * at_once
    read = (2 + reference) * size
    sums = Pass(code.sums[0], at_once / VECTOR, each, 1, read, read, 0, 16)
    kept = 2 * size <= gpu.cache  # p and y of the samples in work
    gradient = Pass(
        code.gradient, at_once / VECTOR, each, 1,
        size if kept else 3 * size, 2 * size, size, code.store_bytes, from_cache=kept,
    )  # fmt: skip
    work = pass_time(gpu, sums).plus(pass_time(gpu, gradient))
    meeting = COSTS.block_sum + COSTS.meeting + gpu.cache_latency + 2 * COSTS.finish_row
    # While one half of the groups meets, the other one works; the last meeting has nobody beside it.
    hidden = work.us / 2 if groups > 1 else 0.0
    exposed = meeting + (rounds - 1) * max(0.0, meeting - hidden)
    ends = COSTS.launch + COSTS.more_cooperative + COSTS.head + 2 * gpu.cache_latency
    whole = Time(rounds * work.us, work.bound)
    return whole.plus(Time(exposed, "meeting")).plus(fixed(ends))


def noise(gpu: Gpu, codes: Codes, batch: int, elements: int) -> Time:
    """The noising: one prediction is read, one is written."""
    code = codes["noise.diffuse_rows", False]
    assert code.gradient is not None
    size = HALF * batch * elements
    blocks = batch * elements / VECTOR / code.threads
    waves = blocks / (code.resident(gpu.capability) * gpu.multiprocessors)
    vectors = batch * elements / VECTOR
    work = Pass(code.gradient, vectors, 1, waves, 2 * size, size, size, code.store_bytes)
    row = gpu.latency  # the row's scales are read before its elements
    return pass_time(gpu, work).plus(fixed(COSTS.launch + COSTS.head + row))


def tokens(gpu: Gpu, codes: Codes, rows: int, vocabulary: int) -> Time:
    """The row kernels of one chunk of float32 logits, without the matrix products around them."""
    whole = fixed(0.0)
    size = 4 * rows * vocabulary
    kept = size <= gpu.cache // 2
    for name, stored in (("tokens.token_rows", 0), ("tokens.token_rows_gradient", size // 2)):
        code = codes[name, False]
        loop = code.gradient or code.sums[0]
        each = vocabulary / VECTOR / code.threads
        waves = rows / (code.resident(gpu.capability) * gpu.multiprocessors)
        memory = stored + (0 if kept else size)
        vectors = rows * vocabulary / VECTOR
        work = Pass(loop, vectors, each, waves, memory, size, stored, code.store_bytes, kept)
        ends = COSTS.launch + COSTS.head + COSTS.block_sum
        whole = whole.plus(pass_time(gpu, work)).plus(fixed(ends))
    return whole


def floor(gpu: Gpu, batch: int, elements: int, bytes_per_element: int) -> float:
    """Return the microseconds that bytes take at the bandwidth of a copy."""
    return bytes_per_element * batch * elements / gpu.copy / 1e6
