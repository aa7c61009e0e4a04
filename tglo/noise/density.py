"""Densities of the training's timesteps: how often each part of a noise schedule is drawn.

A density maps a draw's uniform u in (0, 1) to where in the schedule it lies, from the least noise at 0 to
the most at 1, so that stratified draws stay stratified. By name, as in `data.timesteps`:

    uniform                    u
    logit_normal(mean, std)    sigmoid(mean + std x), x the standard normal quantile of u (arXiv 2403.03206)
    shift(s)                   s u / (1 + (s - 1) u): more noise for s above 1
    resolution                 such a shift, by the number of patches of the image, as the scheduler states it
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Density = Callable[[Tensor], Tensor]
"""u (B,) -> the place in the schedule (B,), both float64 in (0, 1)."""
NAMES = ("default", "uniform", "logit_normal(MEAN, STD)", "shift(S)", "resolution")


def uniform(unit: Tensor) -> Tensor:
    """The density by which every timestep is as likely as any other."""
    return unit


@dataclass(frozen=True)
class LogitNormal:
    """The density of sigmoid(x), x normal: mostly the middle of the schedule."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, unit: Tensor) -> Tensor:
        return (self.mean + self.std * torch.special.ndtri(unit)).sigmoid()


@dataclass(frozen=True)
class Shift:
    """The uniform density, shifted as flow-matching schedulers shift their sigmas."""

    factor: float

    def __call__(self, unit: Tensor) -> Tensor:
        return self.factor * unit / (1 + (self.factor - 1) * unit)


@dataclass(frozen=True)
class Resolution:
    """A shift by exp(base + slope * patches); `at` makes it a density, for images of one size."""

    base: float
    slope: float
    patch: int

    def at(self, shape: tuple[int, ...]) -> Shift:
        """Return the density for latents of a shape (C, h, w) or (C, F, h, w)."""
        patches = math.prod(shape[1:]) // self.patch**2
        return Shift(math.exp(self.base + self.slope * patches))

    def __call__(self, unit: Tensor) -> Tensor:
        raise TypeError("a shift by resolution needs the latents' shape; use at(shape)")


def name_of(density: Density) -> str:
    """Return what tells one density from another."""
    return str(getattr(density, "__name__", density))


def parse(text: str, key: str = "timesteps") -> Density | None:
    """Return the density of that name; None for "default" and "resolution", which a family knows.

    key: what the caller's user calls it. ValueError for any other, and for a std or shift that is not positive.
    """
    if text in ("default", "resolution"):
        return None
    if text == "uniform":
        return uniform
    found = re.fullmatch(r"(logit_normal|shift)\(([^()]*)\)", text.replace(" ", ""))
    try:
        numbers = [float(number) for number in found[2].split(",")] if found else []
    except ValueError:
        numbers = []
    wanted = {"logit_normal": 2, "shift": 1}[found[1]] if found else 0
    if found is None or len(numbers) != wanted or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{key} is {text!r}; use one of {', '.join(NAMES)}")
    if numbers[-1] <= 0:
        raise ValueError(f"{key} is {text!r}; its last number must be above 0")
    return LogitNormal(*numbers) if wanted == 2 else Shift(*numbers)
