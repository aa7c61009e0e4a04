"""What a sample counts for: w by its distance from the threshold, normalised and balanced over a data set.

    w = f (1 + c |s - tau| / scale)        finite c; f = 1 in arXiv 2605.04653
    w = f |s - tau| / scale                c = inf

f is one number for the samples at or above the threshold and one for the others. `balance` chooses the
two so that both sides have the same total, which leaves the sum of all as it is:

    f = (W+ + W-) / (2 W+), (W+ + W-) / (2 W-)      W+, W-: the sides' totals for f = 1

`normalised` then divides both by the mean weight, so that a sample counts 1 on average whatever c and the
unit of the scores are. All in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Weighing:
    """Weights w of scores, by numbers that are found once for a data set and then frozen.

    confidence: c per unit of score (c / scale), or inf.
    positive, negative: f of samples at or above the threshold, and of the others.
    """

    confidence: float
    positive: float = 1.0
    negative: float = 1.0

    @property
    def published(self) -> bool:
        """Whether w is 1 + c |s - tau|, which the loss computes by itself."""
        return self.confidence < math.inf and self.positive == self.negative == 1.0

    def plain(self) -> dict[str, float | str]:
        """Return JSON, which has no inf."""
        return asdict(self) | ({"confidence": "inf"} if self.confidence == math.inf else {})

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Weighing:
        """Return what `plain` made of one; an error of any class for anything else."""
        found = cls(**{name: float(number) for name, number in plain.items()})
        if not (found.confidence >= 0 and 0 <= min(found.positive, found.negative) < math.inf):
            raise ValueError(f"weights of {dict(plain)}")
        return found

    def of(self, scores: Floats, thresholds: Floats) -> Floats:
        """Return w of each sample, (N,) float64."""
        distance = np.abs(scores - thresholds)
        weight = distance if self.confidence == math.inf else 1.0 + self.confidence * distance
        return weight * np.where(scores >= thresholds, self.positive, self.negative)


def weighing(
    scores: Floats,
    thresholds: Floats,
    confidence: float,
    *,
    scale: float = 1.0,
    normalised: bool = False,
    balance: bool = False,
) -> Weighing:
    """Find the factors for scores and thresholds (N,); confidence is c, from 0 to inf.

    Raises ValueError when a side that is to be balanced weighs nothing, or all samples together do.
    """
    if confidence == math.inf:
        found = Weighing(math.inf, 1.0 / scale, 1.0 / scale)
    else:
        found = Weighing(confidence / scale)
    if not (normalised or balance):
        return found
    weight, positive = found.of(scores, thresholds), scores >= thresholds
    sides = [float(weight[side].sum()) for side in (positive, ~positive)]
    total, factors = sum(sides), [found.positive, found.negative]
    if not 0 < total < math.inf:
        raise ValueError(
            f"the weights |s - tau| of all {scores.size} samples sum to {total:g}, which cannot be "
            "normalised: every score is at its threshold, or they overflow. Choose a finite "
            "confidence, or another threshold"
        )
    if balance:
        if not all(sides):
            raise ValueError(
                f"balance wants both sides to weigh the same, but samples at or above the threshold "
                f"weigh {sides[0]:g} in all and the others {sides[1]:g}; choose another threshold, or "
                "balance = false"
            )
        factors = [f * total / (2 * side) for f, side in zip(factors, sides, strict=True)]
    if normalised:
        factors = [f * scores.size / total for f in factors]
    return Weighing(found.confidence, *factors)
