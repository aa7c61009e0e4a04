"""Where a step's time goes: the training loop's own clock, made to wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tglo.train.reports.metrics import Clock

NECESSARY = frozenset({"encode", "reference", "policy", "backward", "update"})
"""Parts that are model, optimizer or communication; the rest of a step is the loop's own cost."""


class WaitingClock(Clock):
    """Times each part from an idle device to an idle device. Between parts nothing overlaps, so a
    step under it is slower; shares of it are what it is for.
    """

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        wait()
        with super().part(name):
            yield
            wait()

    def outside(self, whole: float) -> float:
        """The share of `whole` seconds that was none of NECESSARY."""
        necessary = sum(spent for name, spent in self.seconds.items() if name in NECESSARY)
        return 1 - necessary / whole


def wait() -> None:
    """Until the GPU, where there is one, has done all that was asked of it."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
