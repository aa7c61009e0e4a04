"""Codecs between pixels and what a cache keeps of an image: latents or tokens.

scaled latent = (latent - shift) * factor    factor = scaling_factor / latents_std, each 1 if not given
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor

from tglo.models.tiling import tiled

# Decoding one 1024 x 1024 image in float32 takes about 4 GB of activations.
PIXELS_AT_ONCE = 1024 * 1024


class Codec(ABC):
    """Encodes and decodes images with a family's autoencoder, which is given to each call.

    config: the autoencoder's config.json, so that shapes are known before it is loaded, or without.
    """

    autoencoders: ClassVar[tuple[str, ...]] = ()
    """The classes that it is for; (): any."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.tiling = False
        """Encode in tiles (tiling.py)."""

    @property
    def spatial_scale(self) -> int:
        """Pixels per latent (or token) along a side."""
        return 2 ** (len(self._entry("block_out_channels")) - 1)

    @abstractmethod
    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape that one image of height x width pixels is encoded to."""

    @abstractmethod
    def stored_bytes(self, height: int, width: int, frames: int = 1) -> int:
        """Return the bytes of what a cache keeps of one image of height x width pixels, or one video."""

    @abstractmethod
    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the autoencoder's dtype in a model of `dtype`."""

    @abstractmethod
    def encode(self, vae: Any, pixels: Tensor) -> dict[str, Tensor]:
        """Return what a cache keeps of images (B, 3, H, W) in [-1, 1], by name; each tensor (B, ...)."""

    @abstractmethod
    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """Turn scaled latents or tokens (B, ...) into pixels (B, 3, H, W) in [-1, 1], float32;
        NaN where they are not finite.
        """

    def _entry(self, name: str) -> Any:
        if name not in self.config:
            raise ValueError(
                f"the autoencoder's config.json has no {name}; a family with such an autoencoder needs "
                f"a codec of its own ({type(self).__name__} cannot know it)"
            )
        return self.config[name]

    def _chunks(self, latents: Tensor) -> tuple[Tensor, ...]:
        """Split the batch (B, ..., h, w), of videos (B, C, F, h, w), into parts of at most PIXELS_AT_ONCE
        pixels.
        """
        places = latents.shape[-3:] if latents.dim() == 5 else latents.shape[-2:]
        pixels = math.prod(places) * self.spatial_scale**2
        return latents.split(max(1, PIXELS_AT_ONCE // pixels))


class LatentCodec(Codec):
    """A VAE: a cache keeps mean and std of the scaled posterior, (B, C, h, w) float32 each."""

    autoencoders: ClassVar[tuple[str, ...]] = ("AutoencoderKL", "AsymmetricAutoencoderKL")
    posterior: ClassVar[bool] = True
    """The encoder gives a distribution; where it does not, std is 0."""
    video: ClassVar[bool] = False
    """The autoencoder takes (B, 3, F, H, W). Videos are given so, and their latents kept as (B, C, F, h, w);
    an image (B, 3, H, W) is one frame of it, and its latents are kept as (B, C, h, w) all the same.
    """

    @property
    def channels(self) -> int:
        """The latents' channels."""
        return self._entry("latent_channels")

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """(C, h, w)."""
        return (self.channels, height // self.spatial_scale, width // self.spatial_scale)

    def stored_bytes(self, height: int, width: int, frames: int = 1) -> int:
        """Mean and std in float32."""
        return 2 * 4 * math.prod(self.shape(height, width))

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return float32 for float16, in which these VAEs overflow, and where the config asks for it."""
        # diffusers takes a missing entry as True, so SD1.x's VAE counts as one to upcast.
        if dtype == torch.float16 or self.config.get("force_upcast", True):
            return torch.promote_types(dtype, torch.float32)
        return dtype

    @torch.no_grad()
    def encode(self, vae: Any, pixels: Tensor) -> dict[str, Tensor]:
        """Return mean and std of the scaled posterior, (B, C, h, w) float32 each, of videos (B, C, F, h, w)."""
        pixels = pixels.to(vae.device, vae.dtype)
        one_frame = self.video and pixels.dim() == 4
        with own_precision(vae), tiled(vae, self.tiling):
            whole = pixels.unsqueeze(2) if one_frame else pixels
            encoded = [self._encoded(vae, part) for part in _videos_apart(whole)]
        mean, std = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        shift, factor = self.scaling(vae)
        mean, std = (mean - shift) * factor, std * factor
        if one_frame:
            mean, std = mean.squeeze(2), std.squeeze(2)
        return {"mean": mean, "std": std}

    @torch.no_grad()
    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """Turn scaled latents (B, C, h, w) into pixels (B, 3, H, W) in [-1, 1], float32, and those of videos
        (B, C, F, h, w) into (B, 3, frames, H, W).
        """
        shift, factor = self.scaling(vae)
        one_frame = self.video and latents.dim() == 4
        latents = latents.float().unsqueeze(2) if one_frame else latents.float()
        latents = (latents / factor + shift).to(vae.dtype)
        with own_precision(vae):
            decoded = [self._decoded(vae, chunk).float() for chunk in self._chunks(latents)]
        pixels = bounded(torch.cat(decoded), -1, 1)
        return pixels.squeeze(2) if one_frame else pixels

    def _encoded(self, vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std in float32, not scaled yet."""
        encoded = vae.encode(pixels)
        if self.posterior:
            return encoded.latent_dist.mean.float(), encoded.latent_dist.std.float()
        mean = encoded.latent.float()
        return mean, torch.zeros_like(mean)

    def _decoded(self, vae: Any, latents: Tensor) -> Tensor:
        decoded: Tensor = vae.decode(latents, return_dict=False)[0]
        return decoded

    def scaling(self, vae: Any) -> tuple[Tensor, Tensor]:
        """Return shift and factor, of all channels or of each, broadcastable to the autoencoder's latents."""
        config = vae.config
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            view = (1, -1, 1, 1, 1) if self.video else (1, -1, 1, 1)
            mean, std = (
                torch.tensor(config[name], device=vae.device).view(view)
                for name in ("latents_mean", "latents_std")
            )
            return mean, torch.tensor(
                float(config.get("scaling_factor", 1.0)), device=vae.device
            ) / std
        shift, factor = float(config.get("shift_factor") or 0.0), float(config.scaling_factor)
        return torch.tensor(shift, device=vae.device), torch.tensor(factor, device=vae.device)


class TokenCodec(Codec):
    """A VQ model: a cache keeps tokens, the numbers of codebook vectors. Its pixels are in [0, 1]."""

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """(h, w)."""
        return (height // self.spatial_scale, width // self.spatial_scale)

    def stored_bytes(self, height: int, width: int, frames: int = 1) -> int:
        """A token in int32."""
        return 4 * math.prod(self.shape(height, width))

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return at least float32: a rounded latent may be nearest to another codebook vector."""
        return torch.promote_types(dtype, torch.float32)

    @torch.no_grad()
    def encode(self, vae: Any, pixels: Tensor) -> dict[str, Tensor]:
        """Return tokens (B, h, w) int32."""
        pixels = (pixels.to(vae.device, vae.dtype) + 1) / 2
        with own_precision(vae):
            latents = vae.encode(pixels).latents
            if not latents.isfinite().all():  # the tokens nearest to NaN look like any others
                raise ValueError(
                    f"the autoencoder returned NaN or inf (in {vae.dtype}): use fp32; if it is that "
                    "already, its weights are damaged, download them again"
                )
            _, _, (_, _, tokens) = vae.quantize(latents)
        batch, _, height, width = latents.shape
        return {"tokens": tokens.reshape(batch, height, width).to(torch.int32)}

    @torch.no_grad()
    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """Turn tokens (B, h, w) int64 into pixels (B, 3, H, W) in [-1, 1], float32."""
        with own_precision(vae):
            decoded = [
                vae.decode(
                    chunk,
                    force_not_quantize=True,
                    shape=(*chunk.shape, vae.config.latent_channels),
                    return_dict=False,
                )[0].float()
                for chunk in self._chunks(latents)
            ]
        return bounded(torch.cat(decoded), 0, 1) * 2 - 1


def _videos_apart(pixels: Tensor) -> tuple[Tensor, ...]:
    """Split a batch of videos (B, 3, F, H, W) into parts of at most PIXELS_AT_ONCE pixels; not one of images."""
    if pixels.dim() == 4 or pixels.shape[2] == 1:
        return (pixels,)
    return pixels.split(max(1, PIXELS_AT_ONCE // math.prod(pixels.shape[2:])))


def bounded(pixels: Tensor, low: float, high: float) -> Tensor:
    """Return pixels within bounds, and NaN where they are not finite: inf must not become white."""
    return pixels.clamp(low, high).masked_fill_(~pixels.isfinite(), torch.nan)


def own_precision(vae: Any) -> AbstractContextManager[None]:
    """Turn autocast off inside: it would bring back the half precision that overflows."""
    return torch.autocast(vae.device.type, enabled=False)
