"""What a threshold makes of the scores: sides, weights, and what each side counts for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tglo.threshold.frozen import Threshold
from tglo.threshold.summary import Summary, describe
from tglo.threshold.weights import weighing

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """Samples at or above their threshold, or those below.

    effective: as many samples of one weight would tell as much, (sum of w)^2 / (sum of w^2).
    """

    count: int
    weight: float
    effective: float


@dataclass(frozen=True)
class Labelled:
    """Scores (N,) under a threshold."""

    threshold: Threshold
    summary: Summary
    tau: Floats
    positive: NDArray[np.bool_]
    weight: Floats
    positives: Side
    negatives: Side


def label(
    scores: Floats,
    threshold: Threshold,
    prompts: list[str],
    confidence: float,
    *,
    normalised: bool = False,
    balance: bool = False,
) -> Labelled:
    """Label and weigh scores (N,) as training does. Errors are those of `describe`."""
    options = {"normalised": normalised, "balance": balance}
    summary = describe(scores, threshold, confidence, prompts, **options)
    tau = threshold.for_prompts(prompts)
    positive = scores >= tau
    weight = weighing(scores, tau, confidence, scale=threshold.scale, **options).of(scores, tau)
    return Labelled(
        threshold,
        summary,
        tau,
        positive,
        weight,
        positives=_side(weight[positive]),
        negatives=_side(weight[~positive]),
    )


def _side(weight: Floats) -> Side:
    largest = float(weight.max(initial=0.0))
    share = weight / largest if largest else weight  # so that squares neither overflow nor vanish
    squares = float(share @ share)
    return Side(
        count=int(weight.size),
        weight=float(weight.sum()),
        effective=float(share.sum()) ** 2 / squares if squares else 0.0,
    )
