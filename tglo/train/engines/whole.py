"""Trained weights and their optimizer state in a checkpoint, each tensor whole: of the plain engine, and of DeepSpeed
without ZeRO.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from tglo.train import stored
from tglo.train.contents import Files
from tglo.train.engines.optimizers import ELEMENTWISE, check_state, read_states, state_files

FILE = "model.safetensors"
WEIGHT = "weight"
"""What `fill` calls a weight beside the keys of its optimizer state."""


def files(optimizer: Optimizer, weights: Mapping[str, Tensor]) -> Files:
    """Return weights, those that the optimizer updates, and their state as files of a checkpoint, not copied."""
    values = {name: weight.detach() for name, weight in weights.items()}
    return {FILE: values, **state_files(optimizer, weights)}


class Whole:
    """Reads them, by memory map."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return stored.read(self.folder / FILE)

    @cached_property
    def _states(self) -> dict[str, dict[str, Any]]:
        return read_states(self.folder)

    def check(self, optimizer: Optimizer, wanted: Mapping[str, Tensor]) -> None:
        """Raise DamagedFile or OSError unless weights and states have the form of the wanted weights and theirs."""
        stored.check(self.folder / FILE, wanted)
        check_state(optimizer, wanted, self.folder)

    def weight(self, name: str) -> Tensor:
        """Return a weight."""
        return self._weights[name]

    def state(self, name: str) -> dict[str, Any]:
        """Return the optimizer's state of a weight; empty if it had none."""
        return self._states.get(name, {})

    def numbers(self, name: str) -> dict[str, float]:
        """Return what is one number of that state, of an optimizer in ELEMENTWISE."""
        keys = {key for keys in ELEMENTWISE.values() for key in keys}
        return {key: float(value) for key, value in self.state(name).items() if key not in keys}

    def fill(self, target: Tensor, name: str, key: str, start: int) -> None:
        """Copy the elements of a flattened weight, or of one of its states, from `start` on; nothing if it has none."""
        source = self.weight(name) if key == WEIGHT else self.state(name).get(key)
        if source is not None:
            target.copy_(source.flatten().narrow(0, start, target.numel()))
