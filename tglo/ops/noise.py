"""The noising operator: scale * latents + noise_scale * eps, with eps computed from its key."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tglo import philox, reference
from tglo.ops.choice import choose
from tglo.ops.library import define, operator


def _fake(latents: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(latents)


# latents contiguous; scale and noise_scale (B,) float32; sample_ids and draws (B,) int64.
define(
    "diffuse",
    "(Tensor latents, Tensor scale, Tensor noise_scale, Tensor sample_ids, Tensor draws, "
    "int seed, int purpose) -> Tensor",
    "noise",
    _fake,
)


def diffuse(
    latents: Tensor,
    scale: Tensor,
    noise_scale: Tensor,
    seed: int,
    sample_ids: Tensor,
    draws: Tensor,
    purpose: int,
    backend: str,
) -> Tensor:
    """Compute the noised latents; scales are (B,) on the latents' device. Errors are those of
    `tglo.noise.diffuse`.
    """
    if latents.requires_grad:
        raise ValueError("latents require a gradient, which noising has not; pass latents.detach()")
    if sample_ids.shape != latents.shape[:1]:
        raise ValueError(
            f"sample_ids {tuple(sample_ids.shape)} must have one id for each of the "
            f"{latents.shape[0]} rows of latents"
        )
    device = latents.device
    chosen = choose("diffuse", latents, backend)
    if chosen == "reference":
        eps = philox.normal(seed, sample_ids, draws, latents.shape[1:], purpose, device)
        return reference.noised(latents, eps, scale, noise_scale)
    run = operator("diffuse", chosen == "triton")
    return run(  # type: ignore[no-any-return]
        latents.contiguous(),
        scale.float(),
        noise_scale.float(),
        sample_ids.to(device, non_blocking=True).contiguous(),
        draws.to(device, non_blocking=True).contiguous(),
        seed,
        purpose,
    )
