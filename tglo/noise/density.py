"""Densities of training timesteps: functions that map a draw's uniform u in (0, 1) to where in the
schedule it lies, in (0, 1), both (B,) float64.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Density = Callable[[Tensor], Tensor]


def uniform(unit: Tensor) -> Tensor:
    """Every timestep is as likely as any other."""
    return unit
