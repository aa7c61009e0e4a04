"""Samplers: from noise to latents, and from hidden tokens to an image's (MaskGIT decoding).

Both take `predict`, which gives the guided prediction of B latents (or tokens) at one of the scheduler's
timesteps, and a scheduler whose timesteps are set.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tglo.noise.starting import starting_noise

Predict = Callable[[Tensor, Tensor], Tensor]
"""(noisy (B, ...), timestep ()) -> prediction: (B, ...), of tokens logits (B, V, h, w)."""
Generators = Sequence[torch.Generator]
"""A CPU generator for each image."""
Shape = tuple[int, ...]
"""The shape of one image's latents or tokens."""
Sampler = Callable[[Predict, Any, Generators, Shape, torch.device], Tensor]
"""(predict, scheduler, generators, shape, device) -> (B, *shape)."""


def denoise(
    predict: Predict, scheduler: Any, generators: Generators, shape: Shape, device: torch.device
) -> Tensor:
    """Return latents (B, *shape) float32, from noise through all of the scheduler's timesteps."""
    latents = starting_noise(generators, shape).to(device)
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    # Ancestral schedulers draw noise in each step: from the image's own generator.
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    chance = {"generator": list(generators)} if takes_generator else {}
    for timestep in scheduler.timesteps:
        noisy = latents
        if hasattr(scheduler, "scale_model_input"):
            noisy = scheduler.scale_model_input(latents, timestep)
        prediction = predict(noisy, timestep)
        latents = scheduler.step(prediction, timestep, latents, **chance, return_dict=False)[0]
    return latents


def unmask(
    predict: Predict, scheduler: Any, generators: Generators, shape: Shape, device: torch.device
) -> Tensor:
    """Return tokens (B, *shape) int64: all are hidden at first, and each step fixes the surest.

    The scheduler draws and hides tokens with one generator, so each image takes a step of its own;
    its numbers come from its own CPU generator, whatever the batch.
    """
    mask_token = scheduler.config.mask_token_id
    rows = [
        torch.full((1, *shape), mask_token, dtype=torch.int64, device=device) for _ in generators
    ]
    for timestep in scheduler.timesteps:
        logits = predict(torch.cat(rows), timestep)
        rows = [
            scheduler.step(row, timestep, known, generator=generator, return_dict=False)[0]
            for row, known, generator in zip(logits.split(1), rows, generators, strict=True)
        ]
    return torch.cat(rows)
