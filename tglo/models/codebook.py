"""The VQ model between pixels and tokens, the numbers of codebook vectors. Its pixels are in [0, 1]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tglo.models.autoencoder import PIXELS_AT_ONCE, own_precision


@torch.no_grad()
def encode(vqvae: Any, pixels: Tensor) -> Tensor:
    """pixels (B, 3, H, W) in [-1, 1] -> tokens (B, h, w) int32."""
    pixels = (pixels.to(vqvae.device, vqvae.dtype) + 1) / 2
    with own_precision(vqvae):
        latents = vqvae.encode(pixels).latents
        _, _, (_, _, tokens) = vqvae.quantize(latents)
    batch, _, height, width = latents.shape
    return tokens.reshape(batch, height, width).to(torch.int32)


@torch.no_grad()
def decode(vqvae: Any, tokens: Tensor) -> Tensor:
    """tokens (B, h, w) int64 -> pixels (B, 3, H, W) in [-1, 1], float32."""
    scale = 2 ** (len(vqvae.config.block_out_channels) - 1)
    pixels = tokens.shape[-2] * tokens.shape[-1] * scale**2
    with own_precision(vqvae):
        decoded = [
            vqvae.decode(
                chunk,
                force_not_quantize=True,
                shape=(*chunk.shape, vqvae.config.latent_channels),
                return_dict=False,
            )[0].float()
            for chunk in tokens.split(max(1, PIXELS_AT_ONCE // pixels))
        ]
    return torch.cat(decoded).clamp_(0, 1) * 2 - 1
