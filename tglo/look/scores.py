"""The scores in numbers, and their distribution as bars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BARS = 60  # at most
QUANTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
_SHOWN = (0.1, 99.9)  # percentiles; what lies far beyond is counted, not drawn

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreFacts:
    """Mean, standard deviation, quantiles (percent -> score) and the number of different scores."""

    mean: float
    deviation: float
    quantiles: dict[int, float]
    distinct: int


def facts_of(values: Floats) -> ScoreFacts:
    """Describe scores (N,), N >= 1."""
    centre = float(np.median(values))
    rest = values - centre  # large offsets lose no digits
    largest = float(np.abs(rest).max())
    unit = largest if largest > 1e150 else 1.0  # so that squares do not overflow
    found = np.percentile(values, QUANTILES)
    return ScoreFacts(
        mean=centre + unit * float((rest / unit).mean()),
        deviation=unit * float((rest / unit).std()),
        quantiles=dict(zip(QUANTILES, found.tolist(), strict=True)),
        distinct=int(np.unique(values).size),
    )


@dataclass(frozen=True)
class Histogram:
    """Bars from `low`, each `width` wide: how many samples of each side are in it, and what they weigh.

    below, above: samples beyond the first bar and the last.
    """

    low: float
    width: float
    positives: list[int]
    negatives: list[int]
    positive_weights: list[float]
    negative_weights: list[float]
    below: int
    above: int

    @property
    def high(self) -> float:
        """Where the last bar ends."""
        return self.low + self.width * len(self.positives)


def histogram(
    values: Floats, positive: NDArray[np.bool_] | None = None, weights: Floats | None = None
) -> Histogram:
    """Count values (N,) in bars, apart by side. Few different values have a bar each.

    positive: at or above the threshold, None where there is none: all count as negatives. weights: 1 by default.
    """
    side = np.zeros(values.size, dtype=bool) if positive is None else positive
    weight = np.ones(values.size) if weights is None else weights
    low, width, count = _bars(values)
    place = np.floor((values - low) / width).astype(np.int64)
    inside = (place >= 0) & (place < count)

    def summed(of: NDArray[np.bool_], weight: Floats | None) -> list[float]:
        chosen = inside & of
        found = np.bincount(
            place[chosen], None if weight is None else weight[chosen], minlength=count
        )
        listed: list[float] = found.tolist()
        return listed

    return Histogram(
        low=low,
        width=width,
        positives=[int(n) for n in summed(side, None)],
        negatives=[int(n) for n in summed(~side, None)],
        positive_weights=summed(side, weight),
        negative_weights=summed(~side, weight),
        below=int((place < 0).sum()),
        above=int((place >= count).sum()),
    )


def _bars(values: Floats) -> tuple[float, float, int]:
    """Return where the bars start, how wide they are and how many there are."""
    distinct = np.unique(values)
    if distinct.size == 1:
        width = max(1.0, abs(float(distinct[0])) * 1e-6)
        return float(distinct[0]) - width / 2, width, 1
    gap = float(np.diff(distinct).min())
    span = float(distinct[-1] - distinct[0])
    if distinct.size <= BARS and span / gap < BARS:
        return float(distinct[0]) - gap / 2, gap, math.floor(span / gap + 1.5)
    low, high = np.percentile(values, _SHOWN).tolist()
    # Nothing is left out for being a little beyond.
    reach = 0.25 * (high - low)
    low = max(float(distinct[0]), low - reach)
    high = min(float(distinct[-1]), high + reach)
    if not high > low:
        low, high = float(distinct[0]), float(distinct[-1])
    width = (high - low) / BARS
    # The highest score is in the last bar, not beyond it.
    return low, width * (1 + 1e-9), BARS
