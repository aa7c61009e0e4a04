"""The VAE between pixels and scaled latents.

scaled = (latent - shift) * factor      factor = scaling_factor, or scaling_factor / latents_std
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

# Decoding one 1024 x 1024 image in float32 takes about 4 GB of activations.
PIXELS_AT_ONCE = 1024 * 1024


def vae_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """float32 for float16, in which these VAEs overflow, and where the config asks for it."""
    # diffusers takes a missing entry as True, so SD1.x's VAE counts as one to upcast.
    if dtype == torch.float16 or config.get("force_upcast", True):
        return torch.promote_types(dtype, torch.float32)
    return dtype


@torch.no_grad()
def encode(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """pixels (B, 3, H, W) in [-1, 1] -> mean, standard deviation of scaled latents, float32."""
    with own_precision(vae):
        posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    shift, factor = _scaling(vae)
    return (posterior.mean.float() - shift) * factor, posterior.std.float() * factor


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Scaled latents (B, C, h, w) -> pixels (B, 3, H, W) in [-1, 1], float32."""
    shift, factor = _scaling(vae)
    latents = (latents.float() / factor + shift).to(vae.dtype)
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    pixels = latents.shape[-2] * latents.shape[-1] * scale**2
    chunks = latents.split(max(1, PIXELS_AT_ONCE // pixels))
    with own_precision(vae):
        decoded = [vae.decode(chunk, return_dict=False)[0].float() for chunk in chunks]
    return torch.cat(decoded).clamp_(-1, 1)


def own_precision(vae: Any) -> AbstractContextManager[None]:
    """No autocast inside: it would bring back the half precision that overflows."""
    return torch.autocast(vae.device.type, enabled=False)


def _scaling(vae: Any) -> tuple[Tensor, Tensor]:
    """shift and factor, broadcastable to (B, C, h, w)."""
    config = vae.config
    factor = torch.tensor(float(config.scaling_factor), device=vae.device)
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean, std = (
            torch.tensor(config[name], device=vae.device).view(1, -1, 1, 1)
            for name in ("latents_mean", "latents_std")
        )
        return mean, factor / std
    return torch.tensor(float(config.get("shift_factor") or 0.0), device=vae.device), factor
