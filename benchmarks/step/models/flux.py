"""FLUX.1 dev at its true size, and two small models of its kind.

The numbers are those of FLUX.1 dev's configuration files, weights are random. The step without tglo is that of
diffusers' script for a LoRA of FLUX: flow matching on packed latents at timesteps that are all as likely, the
guidance 3.5 told, errors not weighted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from benchmarks.step.models.model import (
    T5_VOCABULARY,
    TOKENS,
    FlowSize,
    Noised,
    clip_config,
    clip_numbers,
    t5_numbers,
)
from tests.tiny import build_tokenizer
from tests.tiny_flow import build_t5_tokenizer

T5_TOKENS = 512
GUIDANCE = 3.5
# The plain engine keeps frozen weights in float32, which are 48 GB here.
_ENGINE = {"kind": "deepspeed", "zero_stage": 0}


@dataclass(frozen=True, kw_only=True)
class Flux(FlowSize):
    """A transformer on packed latents, conditioned on T5's states and CLIP's pooled embedding."""

    heads: int
    axes: tuple[int, int, int]
    """Numbers of a head that turn with each axis of a token's place; together the head's width."""
    blocks: int
    """With two streams; the rest have one."""
    single_blocks: int
    text: Mapping[str, int]
    t5: Mapping[str, int]

    model: ClassVar[str] = "flux"
    planned: ClassVar[str] = "flux-dev"
    denoiser_part: ClassVar[str] = "transformer"
    denoiser_class: ClassVar[Any] = FluxTransformer2DModel
    text_classes: ClassVar[Mapping[str, Any]] = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": T5EncoderModel,
    }
    tokenizer_classes: ClassVar[Mapping[str, Any]] = {
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": T5Tokenizer,
    }
    latent_channels: ClassVar[int] = 16
    lora_targets: ClassVar[tuple[str, ...]] = ("to_k", "to_q", "to_v", "to_out.0")
    vae_options: ClassVar[Mapping[str, Any]] = {
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }

    @property
    def patches(self) -> int:
        return (self.latent_side // 2) ** 2

    def make_denoiser(self) -> Any:
        return FluxTransformer2DModel(
            in_channels=4 * self.latent_channels,
            num_layers=self.blocks,
            num_single_layers=self.single_blocks,
            attention_head_dim=sum(self.axes),
            num_attention_heads=self.heads,
            joint_attention_dim=self.t5["d_model"],
            pooled_projection_dim=self.text["hidden_size"],
            guidance_embeds=True,
            axes_dims_rope=self.axes,
        )

    def make_text_encoder(self, part: str) -> Any:
        if part == "text_encoder":
            return CLIPTextModel(clip_config(self.text))
        return T5EncoderModel(
            T5Config(vocab_size=T5_VOCABULARY, feed_forward_proj="gated-gelu", **self.t5)
        )

    def make_pipeline(self, parts: Mapping[str, Any]) -> Any:
        scheduler = FlowMatchEulerDiscreteScheduler(
            shift=3.0,
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=256,
            max_image_seq_len=4096,
        )
        return FluxPipeline(
            **parts,
            tokenizer=build_tokenizer(),
            tokenizer_2=build_t5_tokenizer(T5_TOKENS),
            scheduler=scheduler,
        )

    def example(self) -> dict[str, Any]:
        return {
            "hidden_states": torch.empty(1, self.patches, 4 * self.latent_channels),
            "timestep": torch.empty(1),
            "guidance": torch.empty(1),
            "pooled_projections": torch.empty(1, self.text["hidden_size"]),
            "encoder_hidden_states": torch.empty(1, T5_TOKENS, self.t5["d_model"]),
            "txt_ids": torch.empty(T5_TOKENS, 3),
            "img_ids": torch.empty(self.patches, 3),
        }

    def text_tokens(self, part: str) -> int:
        return TOKENS if part == "text_encoder" else T5_TOKENS

    def predict(self, denoiser: Any, draw: Noised, *text: Tensor) -> Tensor:
        (hidden, pooled), noisy = text, draw.noisy
        batch, channels, height, width = noisy.shape
        packed = denoiser(
            hidden_states=FluxPipeline._pack_latents(noisy, batch, channels, height, width),
            timestep=draw.timesteps / 1000,
            guidance=torch.full((batch,), GUIDANCE, device=noisy.device),
            pooled_projections=pooled,
            encoder_hidden_states=hidden,
            txt_ids=torch.zeros(hidden.shape[1], 3, device=noisy.device, dtype=hidden.dtype),
            img_ids=FluxPipeline._prepare_latent_image_ids(
                batch, height // 2, width // 2, noisy.device, hidden.dtype
            ),
            return_dict=False,
        )[0]
        scale = 2 ** (len(self.vae_channels) - 1)
        prediction: Tensor = FluxPipeline._unpack_latents(
            packed, height * scale, width * scale, scale
        )
        return prediction

    def embed(self, tokens: Sequence[Tensor], encoders: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Return T5's hidden states (B, 512, width) and CLIP's pooled embedding (B, width)."""
        clip, t5 = encoders
        return t5(tokens[1])[0], clip(tokens[0]).pooler_output


SIZES = (
    Flux(
        name="flux", resolution=1024, heads=24, axes=(16, 56, 56), blocks=19, single_blocks=38,
        vae_channels=(128, 256, 512, 512), vae_groups=32,
        text=clip_numbers(768, 12, 12), t5=t5_numbers(4096, 24, 64, 10240), engine=_ENGINE,
    ),  # CLIP-L and T5-XXL
    Flux(
        name="flux-small", resolution=256, heads=4, axes=(8, 28, 28), blocks=2, single_blocks=4,
        vae_channels=(16, 32, 64, 64), vae_groups=8,
        text=clip_numbers(96, 3, 3), t5=t5_numbers(192, 4, 3, 480),
    ),
    Flux(
        name="flux-tiny", resolution=32, heads=2, axes=(4, 6, 6), blocks=1, single_blocks=1,
        vae_channels=(8, 8), vae_groups=4, text=clip_numbers(16, 2, 2), t5=t5_numbers(16, 1, 1, 32),
    ),
)  # fmt: skip
"""`flux`; `flux-small` for the CPU (9 million weights, 16x32x32 latents); `flux-tiny` for CI."""
