"""Settings that several commands share, as they travel from flags to the place of their use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingOptions:
    """How images are sampled from a model."""

    steps: int = 30
    """Denoising steps."""
    guidance: float = 5.0
    """Classifier-free guidance scale; 1 is off."""
    choice_temperature: float | None = None
    """Of masked models: chance in which tokens a step fixes; 2 by default."""
    height: int | None = None
    """Pixels; the model's own size by default."""
    width: int | None = None
    """Pixels; the model's own size by default."""
