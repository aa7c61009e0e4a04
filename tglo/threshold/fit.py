"""What a baseline found in the scores that it was estimated from; kept with the threshold."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

METHODS = ("mean", "prompt means", "ridge")
OUTLYING = 10.0
"""Robust standard deviations from the median beyond which a score is called an outlier."""


@dataclass(frozen=True)
class Fit:
    """The variances and the shrinkage behind a threshold; None where the method has no such number."""

    method: str
    """One of METHODS: what was done, where the baseline leaves a choice."""
    prompts: int
    """Different prompts; 0 where they were not given."""
    several: int = 0
    """Those of them with several scores."""
    explained: float = 0.0
    """The share of the scores' variance that prompts account for; for ridge R^2, leave-one-out."""
    within: float | None = None
    """sigma_w, the standard deviation of the scores of one prompt."""
    between: float | None = None
    """sigma_b, the standard deviation of the prompts' true means."""
    factor: float | None = None
    """B_x, averaged over the prompts: the share of a mean's distance from the global one that is kept."""
    factor_least: float | None = None
    factor_most: float | None = None
    strength: float | None = None
    """lambda of the ridge regression, in units of the embeddings' mean eigenvalue."""
    unexplained: str | None = None
    """Why the embeddings were not used, where the mean stands for what was asked."""
    outliers: int = 0
    value_without: float | None = None
    """The global value without the outliers."""
    factor_without: float | None = None
    """`factor` without the outliers."""

    def lines(self) -> list[str]:
        """Return what was found, for the summary."""
        if self.method == "mean":
            return []
        if self.method == "ridge":
            return [
                f"baseline  ridge regression on the embeddings of {self.prompts} prompts, strength "
                f"{self.strength:.3g}: explains {self.explained:.1%} of the variance of the prompts' "
                "scores, leave-one-out"
            ]
        return [
            f"baseline  means of {self.prompts} prompts, B {self.factor:.3g} on average "
            f"({self.factor_least:.3g} to {self.factor_most:.3g}); prompts explain {self.explained:.1%} "
            "of the variance of the scores"
        ]

    def notes(self) -> list[str]:
        """Say where the fit amounts to a simpler one, which is no fault."""
        notes = []
        if self.unexplained is not None:
            notes.append(f"every prompt gets the mean of all scores: {self.unexplained}.")
        if self.method == "prompt means" and not self.between:
            notes.append(
                "the means of the prompts differ no more than chance makes them (B = 0), so every "
                "prompt gets the global mean, as with baseline mean."
            )
        return notes

    def warnings(self) -> list[str]:
        """Return sentences that a person should read before the training starts."""
        warnings = []
        if self.method == "prompt means" and self.several < 10:
            warnings.append(
                f"prompts with several scores: only {self.several}. B, which follows from how scores of "
                "one prompt and the means of prompts differ, is a rough guess; score several images of more "
                "prompts, or use baseline ridge if many have one."
            )
        if self.outliers and self.value_without is not None:
            instead = f"the threshold would be {self.value_without:.6g}"
            if self.factor_without is not None:
                instead += f" and B {self.factor_without:.3g}"
            warnings.append(
                f"scores more than {OUTLYING:g} robust standard deviations from the median: "
                f"{self.outliers}. Means and variances follow them: without them {instead}. Look at "
                "these rows; leave them out, or cut their scores off, if they are mistakes."
            )
        return warnings

    def plain(self) -> dict[str, Any]:
        """Return JSON."""
        plain = asdict(self)
        if self.unexplained is None:
            del plain["unexplained"]
        return plain

    def validate(self) -> None:
        """Raise ValueError unless all fields are what a baseline makes."""
        if self.method not in METHODS:
            raise ValueError(f"fit has the unknown method {self.method!r}")
        if not isinstance(self.unexplained, str | None):
            raise ValueError(f"unexplained of fit is {self.unexplained!r}, not a reason")
        needed = {"prompt means": ("factor", "factor_least", "factor_most"), "ridge": ("strength",)}
        for name, number in asdict(self).items():
            if name in ("method", "unexplained") or (
                number is None and name not in needed.get(self.method, ())
            ):
                continue
            if type(number) not in (int, float) or not math.isfinite(number):
                raise ValueError(f"{name} of fit is {number!r}, not a finite number")
