"""SDXL at its true size, and two small models of its kind.

The numbers are those of SDXL base 1.0's configuration files. Weights are random: how long a step
takes does not depend on their values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import (
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from benchmarks.step.models.model import TOKENS, ModelSize, Noised, clip_config, clip_numbers
from tests.tiny import build_tokenizer


@dataclass(frozen=True, kw_only=True)
class SDXL(ModelSize):
    """A UNet conditioned on two CLIP text encoders and the image's sizes."""

    channels: tuple[int, int, int]
    """The UNet's, by level; heads and transformers likewise."""
    heads: tuple[int, int, int]
    transformers: tuple[int, int, int]
    layers: int
    """Residual blocks of a level."""
    time_width: int
    """Width of the embedding of each number that tells the image's size."""
    text: Mapping[str, int]
    text_2: Mapping[str, int]
    unet_groups: int = 32

    model: ClassVar[str] = "sdxl"
    planned: ClassVar[str] = "sdxl"
    denoiser_part: ClassVar[str] = "unet"
    denoiser_class: ClassVar[Any] = UNet2DConditionModel
    text_classes: ClassVar[Mapping[str, Any]] = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    tokenizer_classes: ClassVar[Mapping[str, Any]] = {
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer,
    }
    latent_channels: ClassVar[int] = 4
    lora_targets: ClassVar[tuple[str, ...]] = ("to_k", "to_q", "to_v", "to_out.0")
    vae_options: ClassVar[Mapping[str, Any]] = {"scaling_factor": 0.13025}

    @property
    def text_width(self) -> int:
        """The width of the two text encoders' hidden states together."""
        return self.text["hidden_size"] + self.text_2["hidden_size"]

    def make_denoiser(self) -> Any:
        return UNet2DConditionModel(
            sample_size=self.latent_side,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            use_linear_projection=True,
            addition_embed_type="text_time",
            cross_attention_dim=self.text_width,
            projection_class_embeddings_input_dim=self.text_2["projection_dim"]
            + 6 * self.time_width,
            addition_time_embed_dim=self.time_width,
            block_out_channels=self.channels,
            attention_head_dim=self.heads,  # diffusers' name for the number of heads
            transformer_layers_per_block=self.transformers,
            layers_per_block=self.layers,
            norm_num_groups=self.unet_groups,
        )

    def make_text_encoder(self, part: str) -> Any:
        if part == "text_encoder":
            return CLIPTextModel(clip_config(self.text))
        return CLIPTextModelWithProjection(clip_config(self.text_2, "gelu"))

    def make_pipeline(self, parts: Mapping[str, Any]) -> Any:
        scheduler = EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        )
        return StableDiffusionXLPipeline(
            **parts,
            tokenizer=build_tokenizer(),
            tokenizer_2=build_tokenizer(pad_token="!"),
            scheduler=scheduler,
            add_watermarker=False,
        )

    def example(self) -> dict[str, Any]:
        added = {
            "text_embeds": torch.empty(1, self.text_2["projection_dim"]),
            "time_ids": torch.empty(1, 6),
        }
        return {
            "sample": torch.empty(1, *self.latent_shape),
            "timestep": torch.empty(1),
            "encoder_hidden_states": torch.empty(1, TOKENS, self.text_width),
            "added_cond_kwargs": added,
        }

    def text_tokens(self, part: str) -> int:
        return TOKENS

    def make_scheduler(self, folder: Path) -> Any:
        return DDPMScheduler.from_pretrained(folder, subfolder="scheduler")

    def random_index(self, scheduler: Any, batch: int, device: torch.device) -> Tensor:
        steps = scheduler.config.num_train_timesteps
        return torch.randint(0, steps, (batch,), device=device).long()

    def noised(self, scheduler: Any, latents: Tensor, noise: Tensor, index: Tensor) -> Noised:
        return Noised(scheduler.add_noise(latents, noise, index), index, noise)

    def predict(self, denoiser: Any, draw: Noised, *text: Tensor) -> Tensor:
        hidden, pooled = text
        side = float(self.resolution)
        time_ids = torch.tensor([[side, side, 0, 0, side, side]], device=hidden.device)
        added = {"text_embeds": pooled, "time_ids": time_ids.expand(len(hidden), -1)}
        prediction: Tensor = denoiser(
            draw.noisy, draw.timesteps, encoder_hidden_states=hidden, added_cond_kwargs=added
        ).sample
        return prediction

    def embed(self, tokens: Sequence[Tensor], encoders: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Return both encoders' hidden states (B, 77, width) and the second's projection (B, width)."""
        outputs = [
            encoder(ids, output_hidden_states=True)
            for encoder, ids in zip(encoders, tokens, strict=True)
        ]
        hidden = [output.hidden_states[-2] for output in outputs]
        return torch.cat(hidden, dim=-1), outputs[1][0]


SIZES = (
    SDXL(
        name="sdxl", resolution=1024, channels=(320, 640, 1280), heads=(5, 10, 20),
        transformers=(1, 2, 10), layers=2, time_width=256,
        vae_channels=(128, 256, 512, 512), vae_groups=32,
        text=clip_numbers(768, 12, 12), text_2=clip_numbers(1280, 32, 20),
    ),  # CLIP-L and OpenCLIP-bigG
    SDXL(
        name="small", resolution=256, channels=(32, 64, 128), heads=(1, 2, 4),
        transformers=(1, 1, 3), layers=2, time_width=32,
        vae_channels=(16, 32, 64, 64), vae_groups=8,
        text=clip_numbers(96, 3, 3), text_2=clip_numbers(160, 6, 5),
    ),
    SDXL(
        name="tiny", resolution=32, channels=(8, 16, 16), heads=(1, 1, 2),
        transformers=(1, 1, 1), layers=1, time_width=8, vae_channels=(8, 8), vae_groups=4,
        text=clip_numbers(16, 2, 2), text_2=clip_numbers(16, 2, 2), unet_groups=4,
    ),
)  # fmt: skip
"""`sdxl`; `small` for the CPU (11 million weights, 4x32x32 latents); `tiny` for CI."""
