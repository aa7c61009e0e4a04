"""How validation prompts are sampled, and whether a model can."""

from __future__ import annotations

from tglo.models.families.base import Family
from tglo.models.tiling import check_tiling
from tglo.settings import SamplingOptions
from tglo.train.config import OutputConfig


def validation_options(output: OutputConfig) -> SamplingOptions:
    """Return how validation prompts are sampled."""
    return SamplingOptions(
        output.validation_steps,
        output.validation_guidance,
        height=output.validation_height,
        width=output.validation_width,
        frames=output.validation_frames,
        vae_tiling=output.validation_vae_tiling,
    )


def check_validation(output: OutputConfig, family: Family) -> None:
    """Raise ValueError for validation that a model, loaded with its encoders, cannot sample."""
    options = validation_options(output)
    options.check_sides(family.size_step)
    resolved = options.resolved(family.default_size, family.default_frames)
    family.latent_shape(*resolved.size, resolved.frames)
    family.step_options(resolved)
    if output.validation_vae_tiling:
        check_tiling(family.vae)
