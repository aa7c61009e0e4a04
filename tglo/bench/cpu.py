"""Times on the CPU. Contenders take turns, so that a change of the machine's speed hits all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from tglo.bench.cases import Case
from tglo.bench.contenders import Contender, gradient


class Spread(NamedTuple):
    """Times of one call in microseconds."""

    median: float
    low: float  # 10th percentile
    high: float  # 90th percentile
    minimum: float
    samples: int


def spread(microseconds: Sequence[float]) -> Spread:
    ordered = sorted(microseconds)
    last = len(ordered) - 1
    return Spread(
        statistics.median(ordered),
        ordered[round(0.1 * last)],
        ordered[round(0.9 * last)],
        ordered[0],
        len(ordered),
    )


def in_turns(
    steps: Mapping[str, Callable[[], object]], *, rounds: int = 20, seconds: float = 0.02
) -> dict[str, Spread]:
    """Every round gives each step about `seconds` of calls after one that is not counted."""
    calls = {}
    for name, step in steps.items():
        step()
        start = time.perf_counter()
        step()
        took = time.perf_counter() - start
        calls[name] = min(max(round(seconds / max(took, 1e-7)), 1), 200)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()
            for _ in range(calls[name]):
                start = time.perf_counter_ns()
                step()
                times[name].append((time.perf_counter_ns() - start) / 1e3)
    return {name: spread(values) for name, values in times.items()}


class HostCost(NamedTuple):
    """CPU time of a call in microseconds, medians: what a training step pays without the kernels.

    `backward` is None where one launch does both.
    """

    forward: float
    backward: float | None
    both: float


def host_cost(
    contender: Contender,
    case: Case,
    *,
    synchronize: Callable[[], None] = lambda: None,
    rounds: int = 50,
    calls: int = 10,
) -> HostCost:
    """Cost of a call on a tiny case. On a GPU `calls` of them are queued before it is waited for,
    few enough not to fill its queue.
    """
    forward, backward = [], []
    for index in range(rounds + 5):
        synchronize()
        start = time.perf_counter_ns()
        results: list[Tensor] = [(contender.forward or contender.step)(case) for _ in range(calls)]
        middle = time.perf_counter_ns()
        if contender.forward is not None:
            for loss in results:
                gradient(loss, case)
        end = time.perf_counter_ns()
        if index >= 5:
            forward.append((middle - start) / 1e3 / calls)
            backward.append((end - middle) / 1e3 / calls)
    synchronize()
    first = statistics.median(forward)
    if contender.forward is None:
        return HostCost(first, None, first)
    second = statistics.median(backward)
    return HostCost(first, second, first + second)
