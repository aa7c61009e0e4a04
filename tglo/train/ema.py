"""Exponential moving average of the trained weights, float32: each process averages the weights that it updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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

    The decay is capped at (1 + step) / (10 + step), so that the first weights are soon forgotten. Under ZeRO 1 to 3
    each rank averages its shard, where the shard is, and an update sends nothing; whole weights are put together
    where they are wanted. Without ZeRO rank 0 has the average.
    """

    def __init__(self, decay: float, engine: Engine) -> None:
        self.decay = decay
        self.engine = engine
        self._parts: list[Tensor] = []
        self._whole: dict[str, Tensor] | None = None
        self.start()

    def start(self) -> None:
        """Set the average to the weights as they are now."""
        self._parts = [part.clone() for part in self.engine.parts()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, part in zip(self._parts, self.engine.parts(), strict=True):
            average.lerp_(part, 1 - decay)

    def whole(self) -> dict[str, Tensor]:
        """Return the average by the weights' names on rank 0, and nothing elsewhere; collective. Under ZeRO it is put
        together in host memory, else it is not copied.
        """
        return self.engine.whole(self._parts)

    @contextmanager
    def applied(self, whole: Mapping[str, Tensor]) -> Iterator[None]:
        """On rank 0: the module carries these weights inside the block (not ZeRO 3)."""
        live = {name: self.engine.trained[name].detach().clone() for name in whole}
        self._put(whole)
        try:
            yield
        finally:
            self._put(live)

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            self.engine.trained[name].copy_(value)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside the block `files` and `save` are no collectives; entering it is one."""
        self._whole = self.whole()
        try:
            yield
        finally:
            self._whole = None

    def files(self) -> Files:
        """Return the average (rank 0) as a file of a checkpoint; collective, except inside `gathered`."""
        whole = self.whole() if self._whole is None else self._whole
        return {FILE: whole} if processes.rank() == 0 else {}

    def save(self, folder: Path) -> None:
        """Write the average (rank 0); collective, except inside `gathered`."""
        write(self.files(), folder)

    def check(self, folder: Path) -> None:
        """Raise DamagedFile or OSError unless `load` can restore the average from a folder (rank 0)."""
        if processes.rank() == 0:
            stored.check(folder / FILE, self.engine.wanted())

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, on any number of processes."""
        if self._parts:
            self.engine.fill(self._parts, stored.read(folder / FILE))
