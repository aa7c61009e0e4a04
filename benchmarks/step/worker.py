"""The processes of a run: one builds what all work on, each other one has a single contender."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.step import workplace as workplaces
from benchmarks.step.contenders import Contender
from benchmarks.step.draws import ScoredSamples
from benchmarks.step.operations import calls, count
from benchmarks.step.workplace import Workplace
from tglo.bench import gpu
from tglo.bench.clock import matrix_rate, timed, wait
from tglo.bench.record import describe
from tglo.devices import DTYPES
from tglo.ops.choice import backend_for
from tglo.train.reports.metrics import Clock

NECESSARY = frozenset({"encode", "reference", "policy", "backward", "update"})
"""Parts that are model, optimizer or communication; the rest of a step is the loop's own cost."""


class WaitingClock(Clock):
    """The training loop's own clock, made to time each part from an idle device to an idle device.
    Between parts nothing overlaps, so a step under it is slower; shares of it are what it is for.
    """

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        wait()
        with super().part(name):
            yield
            wait()

    def outside(self, whole: float) -> float:
        """Return the share of `whole` seconds that was none of NECESSARY."""
        necessary = sum(spent for name, spent in self.seconds.items() if name in NECESSARY)
        return 1 - necessary / whole


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
        """Make two updates with tglo's draws, before any others, and return the losses of both, what the
        first must be, and the norm of its gradient.
        """
        self.running.use(batch)
        expected = ScoredSamples(self.workplace).first_loss(self.running.rows())
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
        """Return the microseconds of a step, the mean of `steps` without a wait between them."""

        def run() -> None:
            for _ in range(steps):
                self.running.step(Clock())

        return timed(run) / steps

    def finish(self, steps: int) -> dict[str, Any]:
        """Return the peak memory so far, then where the time of `steps` more steps goes.

        Bytes allocated on a GPU; on the CPU how far the process grew beyond its start.
        """
        peak = torch.cuda.max_memory_allocated() if self.on_gpu else _peak_resident()
        clock = WaitingClock()
        whole = 1e-6 * sum(timed(lambda: self.running.step(clock)) for _ in range(steps))
        return {
            "peak_bytes": peak - (0 if self.on_gpu else self.resident),
            "outside": clock.outside(whole),
            "parts_s": {name: spent / steps for name, spent in clock.seconds.items()},
        }

    def launches(self) -> int | None:
        """Count kernels, copies and fills of a step; on the CPU operators that compute. None for compiled
        code on the CPU, which would be counted as it is without the compiler.
        """
        if self.running.compiled() and not self.on_gpu:
            return None
        counted = gpu.count_launches if self.on_gpu else calls
        return counted(lambda: self.running.step(Clock()))


def _peak_resident() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
