"""Wan 2.1 1.3B at its true size, and two small models of its kind.

The numbers are those of Wan 2.1 1.3B's configuration files, weights are random. The step without tglo is that of
diffusers' script for a LoRA of FLUX, on latents with frames: flow matching at timesteps that are all as likely before
the scheduler's shift of 3, errors not weighted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import Tensor
from torch.nn.functional import pad
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from benchmarks.step.models.model import T5_VOCABULARY, FlowSize, Noised, t5_numbers
from tests.tiny_flow import build_t5_tokenizer

TOKENS = 512
SHIFT = 3.0


@dataclass(frozen=True, kw_only=True)
class Wan(FlowSize):
    """A transformer on patches of 1 x 2 x 2 latents, conditioned on UMT5's states."""

    frames: int  # type: ignore[assignment]
    heads: int
    head_width: int
    hidden: int
    blocks: int
    t5: Mapping[str, int]

    model: ClassVar[str] = "wan"
    planned: ClassVar[str] = "wan21-1.3b"
    denoiser_part: ClassVar[str] = "transformer"
    denoiser_class: ClassVar[Any] = WanTransformer3DModel
    vae_class: ClassVar[Any] = AutoencoderKLWan
    text_classes: ClassVar[Mapping[str, Any]] = {"text_encoder": UMT5EncoderModel}
    tokenizer_classes: ClassVar[Mapping[str, Any]] = {"tokenizer": T5Tokenizer}
    latent_channels: ClassVar[int] = 16
    lora_targets: ClassVar[tuple[str, ...]] = ("to_k", "to_q", "to_v", "to_out.0")
    cached_text: ClassVar[tuple[str, ...]] = ("prompt_embeds",)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.latent_channels, (self.frames - 1) // 4 + 1, self.latent_side, self.latent_side

    def make_denoiser(self) -> Any:
        return WanTransformer3DModel(
            num_attention_heads=self.heads,
            attention_head_dim=self.head_width,
            in_channels=self.latent_channels,
            out_channels=self.latent_channels,
            text_dim=self.t5["d_model"],
            ffn_dim=self.hidden,
            num_layers=self.blocks,
        )

    def make_vae(self) -> Any:
        least = self.vae_channels[0]
        return AutoencoderKLWan(
            base_dim=least, dim_mult=[channels // least for channels in self.vae_channels]
        )

    def scaled(self, vae: Any, latents: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(numbers, device=latents.device, dtype=latents.dtype).view(-1, 1, 1, 1)
            for numbers in (vae.config.latents_mean, vae.config.latents_std)
        )
        return (latents - mean) / std

    def make_text_encoder(self, part: str) -> Any:
        numbers = {"vocab_size": T5_VOCABULARY, "feed_forward_proj": "gated-gelu", **self.t5}
        return UMT5EncoderModel(UMT5Config(**numbers))

    def make_pipeline(self, parts: Mapping[str, Any]) -> Any:
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
        )
        return WanPipeline(**parts, tokenizer=build_t5_tokenizer(TOKENS), scheduler=scheduler)

    def example(self) -> dict[str, Any]:
        return {
            "hidden_states": torch.empty(1, *self.latent_shape),
            "timestep": torch.empty(1),
            "encoder_hidden_states": torch.empty(1, TOKENS, self.t5["d_model"]),
        }

    def text_tokens(self, part: str) -> int:
        return TOKENS

    def make_scheduler(self, folder: Path) -> Any:
        return FlowMatchEulerDiscreteScheduler(shift=SHIFT)

    def predict(self, denoiser: Any, draw: Noised, *text: Tensor) -> Tensor:
        rows = pad(text[0], (0, 0, 0, TOKENS - text[0].shape[1]))  # zeros, which are attended to
        prediction: Tensor = denoiser(
            hidden_states=draw.noisy,
            timestep=draw.timesteps,
            encoder_hidden_states=rows,
            return_dict=False,
        )[0]
        return prediction

    def embed(self, tokens: Sequence[Tensor], encoders: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return UMT5's hidden states (B, 512, width), zero beyond each prompt's end."""
        mask = tokens[0].ne(encoders[0].config.pad_token_id)
        return (encoders[0](tokens[0], mask)[0] * mask.unsqueeze(-1),)


SIZES = (
    Wan(
        name="wan", resolution=624, frames=81, heads=12, head_width=128, hidden=8960, blocks=30,
        vae_channels=(96, 192, 384, 384), t5=t5_numbers(4096, 24, 64, 10240),
        engine={"kind": "deepspeed", "zero_stage": 0},
    ),  # UMT5-XXL; as many pixels as 480 x 832
    Wan(
        name="wan-small", resolution=128, frames=17, heads=4, head_width=64, hidden=1024, blocks=6,
        vae_channels=(4, 8, 16, 16), t5=t5_numbers(64, 2, 1, 160),
    ),
    Wan(
        name="wan-tiny", resolution=32, frames=5, heads=2, head_width=12, hidden=32, blocks=2,
        vae_channels=(4, 4, 4, 4), t5=t5_numbers(16, 1, 1, 32),
    ),
)  # fmt: skip
"""`wan`; `wan-small` for the CPU (7 million weights, 16x5x16x16 latents); `wan-tiny` for CI."""
