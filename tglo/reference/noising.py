"""Noised latents."""

from __future__ import annotations

import torch
from torch import Tensor


def noised(latents: Tensor, noise: Tensor, scale: Tensor, noise_scale: Tensor) -> Tensor:
    """scale x0 + noise_scale eps, (B, ...) in latents.dtype, the scales (B,): computed in float32
    (float64 for float64 latents), each operation rounded, then rounded once to the dtype.
    """
    dtype = torch.promote_types(latents.dtype, torch.float32)
    shape = (-1,) + (1,) * (latents.dim() - 1)
    scale, noise_scale = (x.to(dtype).reshape(shape) for x in (scale, noise_scale))
    return (scale * latents + noise_scale * noise).to(latents.dtype)
