"""A draw of cached samples on the device: what a denoiser is called with, and what it should answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tglo.noise import masking, noising
from tglo.noise.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Draw:
    """One draw of each of B samples. In brackets: what stands there for a masked model."""

    index: Tensor
    """(B,) int64: timesteps as indices into the schedule (the number of hidden tokens)."""
    noisy: Tensor
    """(B, C, h, w) latents at that timestep (tokens (B, h, w) int64, with the mask's id in the hidden
    places).
    """
    target: Tensor
    """(B, C, h, w): what the denoiser should answer (the true tokens (B, h, w) int64)."""
    conditions: dict[str, Any]
    """The denoiser's other inputs, (B, ...) each."""


def draw_latents(
    mean: Tensor,
    std: Tensor,
    key: noising.Key,
    own: noising.Key,
    schedule: Schedule,
    strata: int,
    dtype: torch.dtype,
    conditions: dict[str, Any],
    noise: Tensor | None = None,
) -> Draw:
    """Sample the posterior (mean and std, (B, C, h, w) each) and noise the sample, in `dtype`.

    key: whose timestep and noise the rows take; own: their own, for the sample of the posterior; noise:
    (B, C, h, w), in place of the key's.
    """
    mean, std = mean.float(), std.float()
    epsilon = noising.normal(own, mean.shape[1:], device=mean.device)
    latents = (mean + std * epsilon).to(dtype)
    index = noising.draw_index(key, schedule, strata, tuple(mean.shape[1:]))
    if noise is not None:
        noisy, target = (f(latents, noise, index) for f in (schedule.diffuse, schedule.target))
        return Draw(index, noisy, target, conditions)
    return Draw(
        index=index,
        noisy=noising.diffuse(latents, index, key, schedule),
        target=noising.target(latents, index, key, schedule),
        conditions=conditions,
    )


def draw_tokens(
    tokens: Tensor,
    key: noising.Key,
    schedule: masking.MaskSchedule,
    strata: int,
    conditions: dict[str, Any],
) -> Draw:
    """Hide a share of the tokens (B, h, w), by the rows' key."""
    tokens = tokens.long()
    height, width = tokens.shape[1:]
    mask = masking.draw_mask(key, schedule, (height, width), strata)
    return Draw(
        index=mask.sum((1, 2)),
        noisy=torch.where(mask, schedule.mask_token, tokens),
        target=tokens,
        conditions=conditions,
    )
