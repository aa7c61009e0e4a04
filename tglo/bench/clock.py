"""Times by the host's clock, from an idle device to an idle device."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
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

    def over(self, calls: int) -> Spread:
        """Divide the times by the number of calls that they are of."""
        median, low, high, minimum = (time / calls for time in self[:4])
        return Spread(median, low, high, minimum, self.samples)


def spread(microseconds: Sequence[float]) -> Spread:
    """Summarize the times of calls."""
    ordered = sorted(microseconds)
    last = len(ordered) - 1
    return Spread(
        statistics.median(ordered),
        ordered[round(0.1 * last)],
        ordered[round(0.9 * last)],
        ordered[0],
        len(ordered),
    )


def wait() -> None:
    """Wait until the GPU, if this process uses one, has done all that was asked of it."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def timed(run: Callable[[], object]) -> float:
    """Return the microseconds that `run` takes, its work on the GPU included."""
    wait()
    start = time.perf_counter_ns()
    run()
    wait()
    return (time.perf_counter_ns() - start) / 1e3


def in_turns(
    turns: Mapping[str, Callable[[], Sequence[float]]], rounds: int, *, enough: float = math.inf
) -> dict[str, list[float]]:
    """Give each contender a turn in every round, so that a change of the machine's speed hits all, and
    return the times that its turns returned. From the third turn on, one whose times add up to `enough`
    has no more of them.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        for name, turn in turns.items():
            if number < 3 or sum(times[name]) < enough:
                times[name] += turn()
    return times


def turn_of(step: Callable[[], object], seconds: float) -> Callable[[], list[float]]:
    """Return a turn for `in_turns`: about `seconds` of calls after one that is not counted."""
    step()
    calls = min(max(round(1e6 * seconds / max(timed(step), 0.1)), 1), 200)

    def turn() -> list[float]:
        step()
        return [timed(step) for _ in range(calls)]

    return turn


def matrix_rate(
    device: torch.device,
    dtype: torch.dtype | None = None,
    *,
    side: int | None = None,
    repeats: int = 10,
) -> float:
    """Return the operations per second of a large square matrix product, which a step with many of them
    is compared with; by default in bfloat16 on a GPU and in float32 on a CPU.
    """
    on_gpu = device.type == "cuda"
    side = side or (8192 if on_gpu else 1536)
    dtype = dtype or (torch.bfloat16 if on_gpu else torch.float32)
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(first)
    times = [timed(lambda: torch.mm(first, second, out=out)) for _ in range(repeats + 3)]
    return 2e6 * side**3 / statistics.median(times[3:])


def host_cost(
    contender: Contender, case: Case, *, rounds: int = 50, calls: int = 10
) -> dict[str, float | None]:
    """Measure the CPU time of a call on a tiny case, which a training step pays besides the kernels:
    medians of forward, backward (None where one launch does both) and both, in microseconds.

    On a GPU `calls` of them are queued before it is waited for, few enough not to fill its queue.
    """
    forward, backward = [], []
    for _ in range(rounds + 5):
        wait()
        start = time.perf_counter_ns()
        results: list[Tensor] = [(contender.forward or contender.step)(case) for _ in range(calls)]
        middle = time.perf_counter_ns()
        if contender.forward is not None:
            for loss in results:
                gradient(loss, case)
        backward.append((time.perf_counter_ns() - middle) / 1e3 / calls)
        forward.append((middle - start) / 1e3 / calls)
    wait()
    first, second = statistics.median(forward[5:]), statistics.median(backward[5:])
    if contender.forward is None:
        return {"forward": first, "backward": None, "both": first}
    return {"forward": first, "backward": second, "both": first + second}
