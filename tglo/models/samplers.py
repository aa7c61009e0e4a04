"""MaskGIT decoding: from hidden tokens to an image's, the surest first in each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tglo.settings import SamplingOptions

if TYPE_CHECKING:
    from tglo.models.families.masked import MaskedFamily


def unmask(
    family: MaskedFamily,
    denoiser: Callable[..., Any],
    scheduler: Any,
    conditions: dict[str, Tensor],
    generators: list[torch.Generator],
    shape: tuple[int, int],
    options: SamplingOptions,
) -> Tensor:
    """Tokens (B, *shape) int64. With guidance, conditions hold the empty prompts' rows first.

    The scheduler draws and hides tokens with one generator, so each image takes a step of its own;
    its numbers come from its own CPU generator, whatever the batch.
    """
    mask_token = scheduler.config.mask_token_id
    guidance, chance = options.guidance, {}
    if options.choice_temperature is not None:
        chance["temperature"] = (options.choice_temperature, 0)
    scheduler.set_timesteps(options.steps, device=family.device, **chance)
    rows = [
        torch.full((1, *shape), mask_token, dtype=torch.int64, device=family.device)
        for _ in generators
    ]
    for timestep in scheduler.timesteps:
        tokens = torch.cat(rows)
        tokens = torch.cat([tokens, tokens]) if guidance > 1 else tokens
        timesteps = timestep.to(torch.float32).expand(tokens.shape[0])
        logits = family.call(denoiser, tokens, timesteps, conditions).float()
        if guidance > 1:
            empty, prompted = logits.chunk(2)
            logits = empty + guidance * (prompted - empty)
        rows = [
            scheduler.step(row, timestep, known, generator=generator, return_dict=False)[0]
            for row, known, generator in zip(logits.split(1), rows, generators, strict=True)
        ]
    return torch.cat(rows)
