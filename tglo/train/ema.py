"""Exponential moving average of the trained weights, float32, kept by rank 0 only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from tglo.train import processes, stored
from tglo.train.contents import Files, write
from tglo.train.engines.choose import Engine

FILE = "ema.safetensors"


class Ema:
    """average <- decay * average + (1 - decay) * weights after each update.

    The decay is capped at (1 + step) / (10 + step), so that the first weights are soon forgotten.
    """

    def __init__(self, decay: float, engine: Engine) -> None:
        self.decay = decay
        self.engine = engine
        self.average: dict[str, Tensor] = {}
        self.start()

    def start(self) -> None:
        """Set the average to the weights as they are now; collective."""
        # Under ZeRO each weight is gathered for a moment, so every rank takes part in the walk.
        for name, weight in self.engine.master_weights():
            if processes.rank() == 0:
                self.average[name] = weight.clone()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update number `step` (from 0); collective."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, weight in self.engine.master_weights():
            if name in self.average:
                self.average[name].lerp_(weight, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """On rank 0: the module carries the averaged weights inside the block (not ZeRO 3)."""
        live = {name: self.engine.trained[name].detach().clone() for name in self.average}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(live)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, value in weights.items():
            self.engine.trained[name].copy_(value)

    def files(self) -> Files:
        """Return the average (rank 0) as a file of a checkpoint, not copied."""
        return {FILE: self.average} if processes.rank() == 0 else {}

    def save(self, folder: Path) -> None:
        """Write the average (rank 0)."""
        write(self.files(), folder)

    def check(self, folder: Path) -> None:
        """Raise DamagedFile or OSError unless `load` can restore the average from a folder (rank 0)."""
        if processes.rank() == 0:
            stored.check(folder / FILE, self.average)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote."""
        if processes.rank() == 0:
            for name, value in stored.read(folder / FILE).items():
                self.average[name].copy_(value)
