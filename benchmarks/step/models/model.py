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
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling
from torch import Tensor
from transformers import CLIPTextConfig

TOKENS = 77
"""Of a prompt, for CLIP."""
VOCABULARY = 514
"""Of the tokenizer, a byte alphabet in two forms and two special tokens; the text encoders have as many rows, at
every size: looking a row up costs the same whatever their number.
"""
T5_VOCABULARY = 98  # of the tokenizer: a token for each letter


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
    frames: int | None = None
    """Of a video; None for images."""
    vae_channels: tuple[int, ...]
    vae_groups: int = 32
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
    vae_class: ClassVar[Any] = AutoencoderKL
    vae_options: ClassVar[Mapping[str, Any]] = {}
    cached_text: ClassVar[tuple[str, ...]] = ("prompt_embeds", "pooled_prompt_embeds")
    """What a cache has of a prompt, in the order in which `predict` takes it."""

    @property
    def latent_side(self) -> int:
        return self.resolution // 2 ** (len(self.vae_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.latent_channels, self.latent_side, self.latent_side

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        frames = () if self.frames is None else (self.frames,)
        return 3, *frames, self.resolution, self.resolution

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
    def predict(self, denoiser: Any, draw: Noised, *text: Tensor) -> Tensor:
        """Return the denoiser's answer (B, C, h, w); text as `embed` gives it."""

    @abstractmethod
    def embed(self, tokens: Sequence[Tensor], encoders: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return `cached_text` of prompts: hidden states (B, tokens, width), pooled embeddings (B, width)."""

    # What follows from it.

    def scaled(self, vae: Any, latents: Tensor) -> Tensor:
        """Return the VAE's latents as the denoiser takes them."""
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

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


class FlowSize(ModelSize):
    """One of flow matching: at sigma s, (1 - s) latents + s noise, at timesteps that are all as likely."""

    def make_scheduler(self, folder: Path) -> Any:
        return FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")

    def random_index(self, scheduler: Any, batch: int, device: torch.device) -> Tensor:
        unit = compute_density_for_timestep_sampling("none", batch)  # in host memory
        return (unit * scheduler.config.num_train_timesteps).long()

    def noised(self, scheduler: Any, latents: Tensor, noise: Tensor, index: Tensor) -> Noised:
        place = (
            scheduler.config.num_train_timesteps - 1 - index.cpu()
        )  # it starts with the most noise
        timesteps = scheduler.timesteps[place].to(latents.device)
        sigma = scheduler.sigmas[place].to(latents.device, latents.dtype)
        sigma = sigma.view(-1, *(1,) * (latents.dim() - 1))
        return Noised((1.0 - sigma) * latents + sigma * noise, timesteps, noise - latents)


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


def t5_numbers(width: int, layers: int, heads: int, hidden: int) -> dict[str, int]:
    """Return what a T5 text encoder's configuration says of its size."""
    return {
        "d_model": width,
        "d_kv": 64,
        "d_ff": hidden,
        "num_layers": layers,
        "num_heads": heads,
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
