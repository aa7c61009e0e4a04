"""Noise schedules and masks, and the draws that training takes from them."""

from __future__ import annotations

from tglo.noise.noising import Key, diffuse, draw_index, draw_unit, normal, target
from tglo.noise.schedule import PREDICTION_TYPES, Schedule

__all__ = [
    "PREDICTION_TYPES",
    "Key",
    "Schedule",
    "diffuse",
    "draw_index",
    "draw_unit",
    "normal",
    "target",
]
