"""The threshold that turns a score into a label: estimate it once, freeze it, look at it."""

from __future__ import annotations

from tglo.threshold.frozen import SCORE_SCALES, SOURCES, Threshold, describe, estimate
from tglo.threshold.summary import Summary

__all__ = ["SCORE_SCALES", "SOURCES", "Summary", "Threshold", "describe", "estimate"]
