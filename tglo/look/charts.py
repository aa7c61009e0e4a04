"""Histograms as shapes: the template draws them, in colours that fit light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tglo.look.scores import Histogram

TICKS = 5
"""Numbers under a chart, about."""
_GAP = 0.06  # of a bar's width, between two bars


@dataclass(frozen=True)
class Mark:
    """A line or a number at a place from 0 (left) to 100 (right)."""

    place: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Bars of both sides as paths in a square of 100, and what stands at them; band: from, to, shaded.

    label: what the chart shows, for those who do not see it. most: what the highest bar stands for.
    """

    label: str
    positives: str
    negatives: str
    most: str
    ticks: list[Mark]
    lines: list[Mark] = field(default_factory=list)
    band: tuple[float, float] | None = None
    beyond: str = ""


def chart(
    bars: Histogram,
    label: str,
    *,
    lines: Sequence[tuple[float, str]] = (),
    band: tuple[float, float] | None = None,
    weights: bool = False,
) -> Chart:
    """Return the chart of a histogram. lines, band: in units of the scores. weights: bars are weights, not counts."""
    above, below = bars.positives, bars.negatives
    if weights:
        above, below = bars.positive_weights, bars.negative_weights  # type: ignore[assignment]
    highest = max(map(sum, zip(above, below, strict=True)), default=0) or 1
    lower = [100 * number / highest for number in below]
    upper = [100 * number / highest for number in above]

    def place(value: float) -> float:
        return min(100.0, max(0.0, 100 * (value - bars.low) / (bars.high - bars.low)))

    beyond = bars.below + bars.above
    return Chart(
        label,
        positives=_path(upper, lower),
        negatives=_path(lower, [0.0] * len(lower)),
        most=f"a weight of {amount(highest)}" if weights else f"{highest:,} samples",
        ticks=[Mark(place(value), text) for value, text in _ticks(bars.low, bars.high)],
        lines=[Mark(place(value), text) for value, text in lines],
        band=None if band is None else (place(band[0]), place(band[1])),
        beyond=f"{bars.below:,} scores are below and {bars.above:,} above what is drawn."
        if beyond
        else "",
    )


def amount(number: float) -> str:
    """Return a total as people write it."""
    return f"{number:,.0f}" if 1000 <= abs(number) < 1e12 else f"{number:.4g}"


def _path(heights: Sequence[float], bases: Sequence[float]) -> str:
    width = 100 / len(heights)
    return "".join(
        f"M{(number + _GAP / 2) * width:.3f} {100 - base:.2f}v{-height:.2f}"
        f"h{(1 - _GAP) * width:.3f}v{height:.2f}z"
        for number, (height, base) in enumerate(zip(heights, bases, strict=True))
        if height > 0
    )


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return round numbers between two, and how they are written."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if last - first > 4 * TICKS or digits > 9 or max(abs(low), abs(high)) >= 1e7:
        return [(low, f"{low:.6g}"), (high, f"{high:.6g}")]
    return [(n * step, f"{n * step:.{digits}f}") for n in range(first, last + 1)]
