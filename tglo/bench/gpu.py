"""Times on a GPU: a CUDA graph of many steps is replayed, so that the host's cost does not count.

Beside them what a step launches, and the memory that it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tglo.bench.cases import Case
from tglo.bench.clock import Spread, spread
from tglo.bench.memory import Peak
from tglo.bench.record import Record


def copy_bandwidth(gigabytes: float = 1.0) -> float:
    """Return the bytes per second that a device-to-device copy reads and writes: the floor's denominator."""
    source = torch.ones(int(gigabytes * 2**30), dtype=torch.uint8, device="cuda")
    destination = torch.empty_like(source)
    times = between_events(lambda: destination.copy_(source), repeats=30)
    return 2 * source.numel() / (times.median * 1e-6)


def between_events(run: Callable[[], object], *, repeats: int, warmup: int = 5) -> Spread:
    """Return the GPU time of each `run`, between events on the stream."""
    for _ in range(warmup):
        run()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in events:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return spread([start.elapsed_time(end) * 1e3 for start, end in events])


def share_of_cache(case: Case) -> float:
    """Return the bytes of the three predictions and the gradient over those of the L2 cache."""
    cache: int = torch.cuda.get_device_properties(case.policy.device).L2_cache_size
    return 4 * case.policy.numel() * case.policy.element_size() / cache


def rotation(case: Case) -> list[Case]:
    """Make enough copies to exceed the L2 cache two and a half times, at least three."""
    count = max(3, math.ceil(2.5 / share_of_cache(case)))
    return [case] + [case.copy() for _ in range(count - 1)]


def in_graph(
    step: Callable[[Case], Tensor], cases: Sequence[Case], *, keep: bool, repeats: int = 50
) -> Spread:
    """Return the microseconds of one step inside a graph of one step for each case.

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
    whole = between_events(graph.replay, repeats=repeats)
    graph.reset()
    return whole.over(len(cases))


def measure(step: Callable[[Case], Tensor], cases: Sequence[Case], *, repeats: int = 50) -> Record:
    """Measure a step on `cases` as `rotation` makes them, and return what a row gets:

    time_us: inputs and gradients come from and go to memory; in_cache_us: they stay in the L2 cache, None
    where they do not fit; launches: see `count_launches`; peak_bytes: allocated at the peak, the gradient
    included.
    """
    rotated, cached = in_graph(step, cases, keep=True, repeats=repeats), None
    if share_of_cache(cases[0]) <= 0.5:
        cached = in_graph(step, [cases[0]] * 20, keep=False, repeats=repeats)
    launches = count_launches(lambda: step(cases[0]))
    peak = Peak(cuda=True)
    step(cases[0])
    return {
        "time_us": rotated._asdict(),
        "in_cache_us": cached and cached._asdict(),
        "launches": launches,
        "peak_bytes": peak.read(),
    }


def count_launches(run: Callable[[], object]) -> int | None:
    """Count the kernels, copies and fills that `run` starts on the device; None without a profiler."""
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
