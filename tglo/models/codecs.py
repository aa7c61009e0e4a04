"""Codecs of autoencoders that are not AutoencoderKL: of frames, of patches, and deep ones."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from tglo.models.autoencoder import LatentCodec


class FrameCodec(LatentCodec):
    """Wan's and Qwen-Image's VAE: of frames, with a mean and a std for each channel."""

    autoencoders: ClassVar[tuple[str, ...]] = ("AutoencoderKLQwenImage", "AutoencoderKLWan")
    video = True

    @property
    def channels(self) -> int:
        """The latents' channels."""
        return int(self._entry("z_dim"))

    @property
    def spatial_scale(self) -> int:
        """Pixels per latent along a side."""
        # Wan 2.2's patches count too, and only its own entry knows them.
        return int(
            self.config.get("scale_factor_spatial") or 2 ** len(self._entry("temperal_downsample"))
        )


class VideoCodec(FrameCodec):
    """Wan's VAE for what it was made for: the first frame, and then so many together, are one of latents."""

    @property
    def temporal_scale(self) -> int:
        """Frames per frame of latents, after the first."""
        return int(
            self.config.get("scale_factor_temporal") or 2 ** sum(self._entry("temperal_downsample"))
        )

    def shape(self, height: int, width: int, frames: int = 1) -> tuple[int, ...]:
        """(C, F, h, w)."""
        channels, h, w = super().shape(height, width)
        return (channels, (frames - 1) // self.temporal_scale + 1, h, w)

    def stored_bytes(self, height: int, width: int, frames: int = 1) -> int:
        """Mean and std in float32."""
        return 2 * 4 * math.prod(self.shape(height, width, frames))


class LtxCodec(VideoCodec):
    """LTX's VAE: its normalisation is part of its weights, and its decoder may be told of a timestep."""

    autoencoders: ClassVar[tuple[str, ...]] = ("AutoencoderKLLTXVideo",)

    @property
    def channels(self) -> int:
        """The latents' channels."""
        return int(self._entry("latent_channels"))

    @property
    def spatial_scale(self) -> int:
        """Pixels per latent along a side."""
        halved = sum(self._entry("spatio_temporal_scaling"))
        return int(
            self.config.get("spatial_compression_ratio") or self._entry("patch_size") * 2**halved
        )

    @property
    def temporal_scale(self) -> int:
        """Frames per frame of latents, after the first."""
        halved = sum(self._entry("spatio_temporal_scaling"))
        return int(
            self.config.get("temporal_compression_ratio") or self._entry("patch_size_t") * 2**halved
        )

    def scaling(self, vae: Any) -> tuple[Tensor, Tensor]:
        """Return shift and factor of each channel, (1, C, 1, 1, 1) each."""
        mean, std = (
            part.float().view(1, -1, 1, 1, 1) for part in (vae.latents_mean, vae.latents_std)
        )
        return mean, self._entry("scaling_factor") / std

    def _decoded(self, vae: Any, latents: Tensor) -> Tensor:
        told = self.config.get("timestep_conditioning")
        timestep = latents.new_zeros(len(latents)) if told else None
        decoded: Tensor = vae.decode(latents, timestep, return_dict=False)[0]
        return decoded


class DeepCodec(LatentCodec):
    """SANA's deep compression autoencoder, which gives latents and no distribution."""

    autoencoders = ("AutoencoderDC",)
    posterior = False

    @property
    def spatial_scale(self) -> int:
        """Pixels per latent along a side."""
        return int(2 ** (len(self._entry("encoder_block_out_channels")) - 1))


class PatchCodec(LatentCodec):
    """FLUX.2's VAE: 2 x 2 latents are one, normalised by the mean and variance that its batch norm keeps."""

    autoencoders = ("AutoencoderKLFlux2",)

    @property
    def channels(self) -> int:
        """The latents' channels, of a whole patch."""
        return 4 * super().channels

    @property
    def spatial_scale(self) -> int:
        """Pixels per patch along a side."""
        return 2 * super().spatial_scale

    @torch.no_grad()
    def encode(self, vae: Any, pixels: Tensor) -> dict[str, Tensor]:
        """Return mean and std of the normalised posterior, (B, 4C, h, w) float32 each."""
        found = super().encode(vae, pixels)
        mean, std = (pixel_unshuffle(found[name], 2) for name in ("mean", "std"))
        shift, factor = self._statistics(vae)
        return {"mean": (mean - shift) * factor, "std": std * factor}

    @torch.no_grad()
    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """Turn normalised patches (B, 4C, h, w) into pixels (B, 3, H, W) in [-1, 1], float32."""
        shift, factor = self._statistics(vae)
        latents = latents.float() / factor + shift
        return super().decode(vae, pixel_shuffle(latents, 2))

    def scaling(self, vae: Any) -> tuple[Tensor, Tensor]:
        """Return shift 0 and factor 1: the statistics are those of patches."""
        return torch.zeros((), device=vae.device), torch.ones((), device=vae.device)

    def _statistics(self, vae: Any) -> tuple[Tensor, Tensor]:
        variance = vae.bn.running_var.float() + vae.config.batch_norm_eps
        view = (1, -1, 1, 1)
        return vae.bn.running_mean.float().view(view), variance.rsqrt().view(view)
