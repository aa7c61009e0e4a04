"""A Stable Diffusion pipeline in miniature for 32x32 pixels: latents 4x8x8."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

PIXELS = 32


def build(
    tokenizer: CLIPTokenizer,
    *,
    text_width: int,
    unet_widths: tuple[int, int],
    attention: tuple[bool, bool],
    vae_widths: tuple[int, int, int],
) -> Any:
    """An untrained StableDiffusionPipeline in eval mode.

    attention: whether the UNet's levels, 8x8 and 4x4, attend to the text.
    """
    unet: Any = UNet2DConditionModel(
        sample_size=PIXELS // 4,
        layers_per_block=1,
        block_out_channels=unet_widths,
        down_block_types=tuple(f"{'CrossAttn' if a else ''}DownBlock2D" for a in attention),
        up_block_types=tuple(f"{'CrossAttn' if a else ''}UpBlock2D" for a in attention[::-1]),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    vae: Any = AutoencoderKL(
        block_out_channels=vae_widths,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=PIXELS,
        mid_block_add_attention=False,
    )
    text_encoder = CLIPTextModel(text_config(tokenizer, text_width))
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",  # starts at the noisiest step, which few-step sampling needs
    )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def text_config(tokenizer: CLIPTokenizer, width: int, **options: Any) -> CLIPTextConfig:
    """A text encoder of two layers; options of CLIPTextConfig."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
