"""What a model of the step benchmark states about itself: its parts at several sizes, and the lines in which
the step without tglo differs from one model to another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextConfig

TOKENS = 77
"""Of a prompt, for CLIP."""
VOCABULARY = 514
"""Of the tokenizer, a byte alphabet in two forms and two special tokens; the text encoders have as many rows, at
every size: looking a row up costs the same whatever their number.
"""


class Noised(NamedTuple):
    """Noised latents, what the denoiser is told of the noise, and what it should answer."""

    noisy: Tensor
    timesteps: Tensor
    target: Tensor


@dataclass(frozen=True, kw_only=True)
class ModelSize(ABC):
    """One model and its images: arguments of the parts' configurations."""

    name: str
    resolution: int
    """Side of the images in pixels."""
    vae_channels: tuple[int, ...]
    vae_groups: int
    engine: Mapping[str, Any] = field(default_factory=dict)
    """What tglo's configuration says of the engine at this size."""

    model: ClassVar[str]
    """The name of the model that this is a size of."""
    planned: ClassVar[str]
    """The name by which `tglo plan` knows it at its true size."""
    denoiser_part: ClassVar[str]
    denoiser_class: ClassVar[Any]
    text_classes: ClassVar[Mapping[str, Any]]
    """The text encoders by their folders' names."""
    tokenizer_classes: ClassVar[Mapping[str, Any]]
    latent_channels: ClassVar[int]
    lora_targets: ClassVar[tuple[str, ...]]
    vae_options: ClassVar[Mapping[str, Any]]

    @property
    def latent_side(self) -> int:
        return self.resolution // 2 ** (len(self.vae_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.latent_channels, self.latent_side, self.latent_side

    @abstractmethod
    def make_denoiser(self) -> Any:
        """Make the denoiser with random weights, on torch's default device."""

    @abstractmethod
    def make_text_encoder(self, part: str) -> Any:
        """Make one of `text_classes` with random weights, on torch's default device."""

    @abstractmethod
    def make_pipeline(self, parts: Mapping[str, Any]) -> Any:
        """Make the pipeline of the parts, with its tokenizers and its scheduler."""

    @abstractmethod
    def example(self) -> dict[str, Any]:
        """Return the denoiser's arguments for one image, without values, on torch's default device."""

    @abstractmethod
    def text_tokens(self, part: str) -> int:
        """Return how many tokens of a prompt a text encoder gets."""

    # The step without tglo.

    @abstractmethod
    def make_scheduler(self, folder: Path) -> Any:
        """Load the scheduler that training noises with."""

    @abstractmethod
    def random_index(self, scheduler: Any, batch: int, device: torch.device) -> Tensor:
        """Draw timesteps (B,), as indices that rise with the noise."""

    @abstractmethod
    def noised(self, scheduler: Any, latents: Tensor, noise: Tensor, index: Tensor) -> Noised: ...

    @abstractmethod
    def predict(self, denoiser: Any, draw: Noised, text: Tensor, pooled: Tensor) -> Tensor:
        """Return the denoiser's answer (B, C, h, w)."""

    @abstractmethod
    def embed(self, tokens: Sequence[Tensor], encoders: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Return hidden states (B, tokens, width) and a pooled embedding (B, width) of prompts."""

    # What follows from it.

    def make_vae(self) -> Any:
        levels = len(self.vae_channels)
        return AutoencoderKL(
            block_out_channels=self.vae_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=2,
            latent_channels=self.latent_channels,
            norm_num_groups=self.vae_groups,
            sample_size=self.resolution,
            force_upcast=True,
            **self.vae_options,
        )

    def save(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Write a model folder as diffusers does; weights are drawn on `device`, kept in `dtype`."""
        torch.manual_seed(0)
        makers = {self.denoiser_part: self.make_denoiser, "vae": self.make_vae}
        parts = {}
        for name in (*makers, *self.text_classes):
            with device:
                part = makers[name]() if name in makers else self.make_text_encoder(name)
            parts[name] = part.to(dtype).eval()
        self.make_pipeline(parts).save_pretrained(folder)


def clip_numbers(width: int, layers: int, heads: int) -> dict[str, int]:
    """Return what a CLIP text encoder's configuration says of its size."""
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": width,
        "vocab_size": VOCABULARY,
    }


def clip_config(numbers: Mapping[str, int], hidden_act: str = "quick_gelu") -> CLIPTextConfig:
    special = VOCABULARY - 2
    return CLIPTextConfig(
        hidden_act=hidden_act,
        max_position_embeddings=TOKENS,
        bos_token_id=special,
        eos_token_id=special + 1,
        pad_token_id=special + 1,
        **numbers,
    )
