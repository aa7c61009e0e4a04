"""A denoiser without weights (on the meta device), for counting what a step needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tglo.models import lora


@dataclass(frozen=True)
class Skeleton(ABC):
    """Builds and calls a family's denoiser without weights."""

    config: dict[str, Any]
    """The denoiser's configuration."""
    spatial_scale: int
    """Pixels per latent along a side."""
    lora_targets: tuple[str, ...]
    source: str = "the configuration"
    """Where the configuration is from, for errors."""
    prompt_chunks: int = field(default=1, kw_only=True)
    """Chunks of a prompt, where the family encodes long ones in several."""

    @property
    @abstractmethod
    def default_size(self) -> tuple[int, int]:
        """The height and width in pixels of the images that the model was trained on."""

    @property
    @abstractmethod
    def size_step(self) -> int:
        """The sides of images must be a multiple of this many pixels."""

    @property
    def default_frames(self) -> int | None:
        """The frames of the videos that the model was trained on; None for a model of images."""
        return None

    @abstractmethod
    def latent_shape(self, height: int, width: int, frames: int | None = None) -> tuple[int, ...]:
        """Return the shape of the latents of one image of height x width pixels, or of a video of so many frames,
        `default_frames` by default; ValueError for frames that the VAE cannot have.
        """

    def tokens(self, height: int, width: int, frames: int | None = None) -> int | None:
        """Return the number of patches that the denoiser attends over; None if it is no transformer."""
        return None

    @abstractmethod
    def make(self) -> nn.Module:
        """Return the denoiser, on the default device."""

    @abstractmethod
    def inputs(
        self, denoiser: Any, batch: int, height: int, width: int, frames: int | None = None
    ) -> dict[str, Any]:
        """Return the keyword arguments of a call of the denoiser on images of height x width pixels (or videos), on
        the meta device and in its dtype. The call returns a tuple whose first entry is the prediction.
        """

    @abstractmethod
    def text_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Return the shapes of what a cache keeps of a prompt, by name; None for its number of tokens."""

    @abstractmethod
    def stored_bytes(self, height: int, width: int, frames: int | None = None) -> int:
        """Return the bytes of what a cache keeps of one image of height x width pixels, or of one video."""

    def build(self, dtype: torch.dtype, lora_rank: int | None = None) -> nn.Module:
        """Return the denoiser in train mode on the meta device; with a rank, frozen and with a LoRA."""
        with torch.device("meta"):
            denoiser = self.make()
            if lora_rank is not None:
                lora.add(denoiser, lora_rank, lora_rank, self.lora_targets)
        for parameter in denoiser.parameters():
            parameter.data = parameter.data.to(dtype)
        return denoiser.train()
