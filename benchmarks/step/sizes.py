"""The models of the step benchmark: SDXL at its true size, and two small ones of its kind.

The numbers are those of SDXL base 1.0's configuration files. Weights are random: how long a step
takes does not depend on their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.tiny import build_tokenizer

TOKENS = 77
_SPECIAL = 512  # the tokenizer's first special token, behind a byte alphabet in two forms


@dataclass(frozen=True)
class ModelSize:
    """One model and its images: arguments of the parts' configurations."""

    name: str
    resolution: int
    """Side of the images in pixels."""
    channels: tuple[int, int, int]
    """The UNet's, by level; heads and transformers likewise."""
    heads: tuple[int, int, int]
    transformers: tuple[int, int, int]
    layers: int
    """Residual blocks of a level."""
    time_width: int
    """Width of the embedding of each number that tells the image's size."""
    vae_channels: tuple[int, ...]
    vae_groups: int
    text: Mapping[str, Any]
    text_2: Mapping[str, Any]
    unet_groups: int = 32

    @property
    def latent_side(self) -> int:
        return self.resolution // 2 ** (len(self.vae_channels) - 1)

    @property
    def text_width(self) -> int:
        """The width of the two text encoders' hidden states together."""
        return int(self.text["hidden_size"] + self.text_2["hidden_size"])

    def make_unet(self) -> Any:
        """Make the UNet with random weights, on torch's default device."""
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

    def make_vae(self) -> Any:
        levels = len(self.vae_channels)
        return AutoencoderKL(
            block_out_channels=self.vae_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=self.vae_groups,
            sample_size=self.resolution,
            scaling_factor=0.13025,
            force_upcast=True,
        )

    def make_text_encoders(self) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
        first = _text_config(hidden_act="quick_gelu", **self.text)
        return CLIPTextModel(first), CLIPTextModelWithProjection(_text_config(**self.text_2))

    def save(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Write a model folder as diffusers does; weights are drawn on `device`, kept in `dtype`."""
        torch.manual_seed(0)
        with device:
            unet, vae = self.make_unet(), self.make_vae()
            text, text_2 = self.make_text_encoders()
        parts: dict[str, Any] = {
            "unet": unet,
            "vae": vae,
            "text_encoder": text,
            "text_encoder_2": text_2,
        }
        pipeline: Any = StableDiffusionXLPipeline(
            **{name: part.to(dtype).eval() for name, part in parts.items()},
            tokenizer=build_tokenizer(),
            tokenizer_2=build_tokenizer(pad_token="!"),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                timestep_spacing="leading",
                steps_offset=1,
            ),
            add_watermarker=False,
        )
        pipeline.save_pretrained(folder)


def _text_config(hidden_act: str = "gelu", **numbers: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_act=hidden_act,
        max_position_embeddings=TOKENS,
        bos_token_id=_SPECIAL,
        eos_token_id=_SPECIAL + 1,
        pad_token_id=_SPECIAL + 1,
        **numbers,
    )


def _text(width: int, layers: int, heads: int, vocabulary: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": width,
        "vocab_size": vocabulary,
    }


SIZES = {
    size.name: size
    for size in (
        ModelSize(
            "sdxl", 1024, (320, 640, 1280), (5, 10, 20), (1, 2, 10), layers=2, time_width=256,
            vae_channels=(128, 256, 512, 512), vae_groups=32,
            text=_text(768, 12, 12, 49408), text_2=_text(1280, 32, 20, 49408),
        ),  # CLIP-L and OpenCLIP-bigG
        ModelSize(
            "small", 256, (32, 64, 128), (1, 2, 4), (1, 1, 3), layers=2, time_width=32,
            vae_channels=(16, 32, 64, 64), vae_groups=8,
            text=_text(96, 3, 3, 514), text_2=_text(160, 6, 5, 514),
        ),
        ModelSize(
            "tiny", 32, (8, 16, 16), (1, 1, 2), (1, 1, 1), layers=1, time_width=8,
            vae_channels=(8, 8), vae_groups=4,
            text=_text(16, 2, 2, 514), text_2=_text(16, 2, 2, 514), unet_groups=4,
        ),
    )
}  # fmt: skip
"""By name: `sdxl`; `small` for the CPU (11 million weights, 4x32x32 latents); `tiny` for CI."""
