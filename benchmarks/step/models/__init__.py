"""The models of the step benchmark, a file each, at their true sizes and at small ones."""

from __future__ import annotations

from benchmarks.step.models import flux, sdxl, wan
from benchmarks.step.models.model import ModelSize

SIZES: dict[str, ModelSize] = {size.name: size for size in (*sdxl.SIZES, *flux.SIZES, *wan.SIZES)}
"""By name."""
MODELS = tuple(dict.fromkeys(size.model for size in SIZES.values()))
