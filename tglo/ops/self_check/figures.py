"""What a form of the kernels computed, held against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]


class Figure(NamedTuple):
    """The output of a form that came nearest to its limit, or went furthest beyond it."""

    form: str
    output: str
    error: float
    """Largest absolute difference from float64; of bits, how many elements differ."""
    limit: float
    problem: str = ""
    """What went wrong besides; "" if nothing did."""

    @property
    def passed(self) -> bool:
        """Say whether the form is right; NaN is not."""
        return not self.problem and self.error <= self.limit

    def __str__(self) -> str:
        if self.problem:
            return f"{self.form}: {self.problem}"
        if not self.limit:
            return f"{self.form}: {self.error:.0f} elements differ in {self.output}, none may"
        return f"{self.form}: {self.output} off by {self.error:.2g}, limit {self.limit:.2g}"


class Form(NamedTuple):
    """A call of the kernels, and how its outputs are judged on the CPU."""

    name: str
    launch: Callable[[bool, torch.device], Outputs]
    """From whether Triton's kernels are asked, and the device, to outputs on it; may run twice."""
    judge: Callable[[Outputs], Figure]
    brief: bool = False
    """Whether it is among the few that are tried where each form is compiled at its first call."""


def worst(form: str, compared: Iterable[tuple[str, Tensor, Tensor, float]]) -> Figure:
    """Return the figure of the output whose error is the largest share of its limit.

    compared: name, what was found, what is exact, and the limit of each output.
    """
    figures = []
    for name, found, exact, limit in compared:
        if found.shape != exact.shape:
            shapes = f"{tuple(found.shape)}, not {tuple(exact.shape)}"
            return Figure(form, name, float("inf"), limit, f"{name} has shape {shapes}")
        error = (found.double() - exact.double()).abs().max().item() if found.numel() else 0.0
        # NaN compares as False everywhere, also in the choice of the worst.
        figures.append(Figure(form, name, float("inf") if error != error else error, limit))
    return max(figures, key=lambda figure: figure.error / figure.limit)


def same_bits(form: str, name: str, found: Tensor, exact: Tensor) -> Figure:
    """Return how many elements differ in their bits; none may."""
    if found.shape != exact.shape or found.dtype != exact.dtype:
        return Figure(form, name, float("inf"), 0.0, f"{name} has another shape or dtype")
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[found.element_size()]
    different = found.view(integers) != exact.view(integers)
    return Figure(form, name, float(different.sum()), 0.0)
