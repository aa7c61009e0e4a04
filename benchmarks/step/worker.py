"""The processes of a run: one builds what all work on, each other one has a single contender."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.step import workplace as workplaces
from benchmarks.step.clock import WaitingClock, wait
from benchmarks.step.contenders import Contender
from benchmarks.step.draws import Samples
from benchmarks.step.operations import count
from benchmarks.step.workplace import Workplace
from tglo.bench import gpu
from tglo.bench.rate import matrix_rate
from tglo.bench.record import describe
from tglo.devices import DTYPES
from tglo.ops.choice import backend_for
from tglo.train.reports.metrics import Clock

NO_MEMORY = "out of memory"


class Builder:
    """Makes the workplace, and says what is known of the machine and the size."""

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace

    def describe(self) -> dict[str, Any]:
        return {
            **describe(),
            "backend": backend_for(
                "tgo_loss", self.workplace.device, DTYPES[self.workplace.precision]
            ),
            "operations": count(self.workplace.size).as_dict(),
            "matrix_flops_per_second": matrix_rate(self.workplace.device),
        }

    def build(self, samples: int) -> None:
        workplaces.build(self.workplace, samples)


class Worker:
    """Checks and times one contender; each method is a question of the parent process."""

    def __init__(self, contender: Contender, workplace: Workplace) -> None:
        self.workplace = workplace
        self.on_gpu = workplace.device.type == "cuda"
        self.resident = _peak_resident()
        torch.manual_seed(workplaces.SEED)
        self.running = contender.start(workplace)

    def check(self, batch: int) -> dict[str, float]:
        """Two updates with tglo's draws, before any others: the losses of both, what the first
        must be, and the norm of its gradient.
        """
        self.running.use(batch)
        expected = Samples(self.workplace).first_loss(self.running.rows())
        first, norm = self.running.checked_step()
        second, _ = self.running.checked_step()
        return {
            "expected_loss": expected,
            "first_loss": first,
            "gradient_norm": norm,
            "second_loss": second,
        }

    def use(self, batch: int) -> None:
        """Change the batch, and take two steps that do not count."""
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.running.use(batch)
        self.round(2)

    def round(self, steps: int) -> float:
        """Microseconds of a step, the mean of `steps` from an idle device to an idle device."""

        def run() -> None:
            for _ in range(steps):
                self.running.step(Clock())

        return _timed(run) * 1e6 / steps

    def finish(self, steps: int) -> dict[str, Any]:
        """Peak memory so far, then where the time of `steps` more steps goes.

        Bytes allocated on a GPU; on the CPU how far the process grew beyond its start.
        """
        peak = torch.cuda.max_memory_allocated() if self.on_gpu else _peak_resident()
        clock = WaitingClock()
        whole = sum(_timed(lambda: self.running.step(clock)) for _ in range(steps))
        return {
            "peak_bytes": peak - (0 if self.on_gpu else self.resident),
            "outside": clock.outside(whole),
            "parts_s": {name: spent / steps for name, spent in clock.seconds.items()},
        }

    def launches(self) -> int | None:
        """Kernels, copies and fills of a step; on the CPU operators that compute. None for compiled
        code on the CPU, which would be counted as it is without the compiler.
        """
        if self.running.compiled() and not self.on_gpu:
            return None
        counted = gpu.count_launches if self.on_gpu else _operator_calls
        return counted(lambda: self.running.step(Clock()))


def serve(
    connection: Connection, kind: Callable[..., Any], arguments: tuple[Any, ...], threads: int
) -> None:
    """Make kind(*arguments), then answer (method, *arguments) until None comes.

    An answer is (True, value) or (False, why there is none); the first is about the making.
    """
    torch.set_num_threads(threads)
    made, served = _attempt(kind, *arguments)
    connection.send((made, None if made else served))
    while made and (question := connection.recv()) is not None:
        method, *rest = question
        connection.send(_attempt(getattr(served, method), *rest))


def _attempt(run: Callable[..., Any], *arguments: Any) -> tuple[bool, Any]:
    try:
        return True, run(*arguments)
    except torch.OutOfMemoryError:
        return False, NO_MEMORY
    except Exception as error:  # the row says so; others go on
        lines = str(error).strip().splitlines() or [""]
        return False, f"{type(error).__name__}: {lines[0]}"


def _timed(run: Callable[[], object]) -> float:
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


class _Calls(TorchDispatchMode):
    """Counts the operators that compute something; views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        self.count += not function.is_view
        return function(*arguments, **(named or {}))


def _operator_calls(run: Callable[[], object]) -> int:
    with _Calls() as calls:
        run()
    return calls.count


def _peak_resident() -> int:
    """The largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
