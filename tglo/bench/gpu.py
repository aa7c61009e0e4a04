"""Times on a GPU: a CUDA graph of many steps is replayed, so that the host's cost does not count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tglo.bench.cases import Case
from tglo.bench.contenders import Contender
from tglo.bench.cpu import Spread, spread


def copy_bandwidth(gigabytes: float = 1.0) -> float:
    """Bytes read and written per second by a device-to-device copy: the floor's denominator."""
    source = torch.ones(int(gigabytes * 2**30), dtype=torch.uint8, device="cuda")
    destination = torch.empty_like(source)
    times = timed(lambda: destination.copy_(source), repeats=30)
    return 2 * source.numel() / (times.median * 1e-6)


def timed(run: Callable[[], object], *, repeats: int, warmup: int = 5) -> Spread:
    """GPU time of each `run`, between events on the stream."""
    for _ in range(warmup):
        run()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in events:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return spread([start.elapsed_time(end) * 1e3 for start, end in events])


def footprint(case: Case) -> int:
    """Bytes of the three predictions and the gradient."""
    return 4 * case.policy.numel() * case.policy.element_size()


def rotation(case: Case) -> list[Case]:
    """Enough copies to exceed the L2 cache two and a half times, at least three."""
    cache: int = torch.cuda.get_device_properties(case.policy.device).L2_cache_size
    count = max(3, math.ceil(2.5 * cache / footprint(case)))
    return [case] + [case.copy() for _ in range(count - 1)]


def fits_cache(case: Case) -> bool:
    """Whether inputs and gradient fit into half of the L2 cache."""
    cache: int = torch.cuda.get_device_properties(case.policy.device).L2_cache_size
    return 2 * footprint(case) <= cache


def in_graph(
    step: Callable[[Case], Tensor], cases: Sequence[Case], *, keep: bool, repeats: int = 50
) -> Spread:
    """Microseconds of one step inside a graph of one step for each case.

    keep: hold every gradient until the end, so that each is written to memory of its own; else the
    allocator gives all steps the same memory, which stays in the cache.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what allocates or compiles on its first calls does it here
        for _ in range(3):
            step(cases[0])
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    kept = []
    with torch.cuda.graph(graph):
        for case in cases:
            gradient = step(case)
            if keep:
                kept.append(gradient)
    whole = timed(graph.replay, repeats=repeats)
    graph.reset()
    median, low, high, minimum, samples = whole
    count = len(cases)
    return Spread(median / count, low / count, high / count, minimum / count, samples)


class GpuTimes(NamedTuple):
    rotated: Spread  # inputs and gradients come from and go to memory
    cached: Spread | None  # they stay in the L2 cache; None where they do not fit
    launches: int | None  # kernels, copies and fills of a step; None without a profiler
    peak_bytes: int  # allocated by a step at its peak, the gradient included


def measure(contender: Contender, cases: Sequence[Case], *, repeats: int = 50) -> GpuTimes:
    """`cases` as `rotation` makes them."""
    rotated = in_graph(contender.step, cases, keep=True, repeats=repeats)
    cached = None
    if fits_cache(cases[0]):
        cached = in_graph(contender.step, [cases[0]] * 20, keep=False, repeats=repeats)
    return GpuTimes(rotated, cached, launches(contender, cases[0]), peak(contender, cases[0]))


def launches(contender: Contender, case: Case) -> int | None:
    """What torch.profiler sees on the device during one step."""
    return count_launches(lambda: contender.step(case))


def count_launches(run: Callable[[], object]) -> int | None:
    """Kernels, copies and fills that `run` starts on the device; None without a profiler."""
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            run()
            torch.cuda.synchronize()
        seen = [
            event
            for event in profiler.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
            and not getattr(event, "is_user_annotation", False)
        ]
    except RuntimeError:  # another profiler, a sanitizer or missing rights
        return None
    return len(seen) or None


def peak(contender: Contender, case: Case) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    contender.step(case)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
