"""The threshold that turns a score into a label: estimate it once, freeze it, look at it."""

from __future__ import annotations

from tglo.threshold.baselines import BASELINES
from tglo.threshold.frozen import SCORE_SCALES, SOURCES, Threshold, estimate
from tglo.threshold.summary import Summary, describe

__all__ = ["BASELINES", "SCORE_SCALES", "SOURCES", "Summary", "Threshold", "describe", "estimate"]
