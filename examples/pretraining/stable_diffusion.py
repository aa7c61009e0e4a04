"""A Stable Diffusion pipeline in miniature for 32x32 pixels, latents 4x8x8, and its pre-training: first
the VAE, then text encoder and UNet together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from examples.pretraining import training

PIXELS = 32


def build(
    tokenizer: CLIPTokenizer,
    *,
    text_width: int,
    unet_widths: tuple[int, int],
    attention: tuple[bool, bool],
    vae_widths: tuple[int, int, int],
) -> Any:
    """Build an untrained StableDiffusionPipeline in eval mode.

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
    """Configure a text encoder of two layers; options are those of CLIPTextConfig."""
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


def train_vae(
    vae: Any,
    pixels: Callable[[], Tensor],
    steps: int,
    *,
    learning_rate: float = 2e-3,
    divergence: float = 3e-4,
) -> dict[str, Any]:
    """Train ``vae`` in place; pixels: a fresh batch, (B, 3, H, W) or (B, 3, F, H, W), in [-1, 1] at each call.

    divergence: the weight of the KL divergence from a standard normal.
    """
    vae.train()
    optimizer, schedule = training.make_optimizer(list(vae.parameters()), learning_rate, steps)
    error = torch.zeros(())
    for step in range(steps):
        batch = pixels()
        posterior = vae.encode(batch).latent_dist
        error = mse_loss(vae.decode(posterior.sample()).sample, batch)
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).mean()
        training.update(error + divergence * kl, optimizer, schedule)
        if step % 100 == 0 or step == steps - 1:
            print(f"vae {step}/{steps}: error {error.item():.4f}, kl {kl.item():.2f}", flush=True)
    vae.eval()
    return {"vae_error": round(error.item(), 5)}


@torch.no_grad()
def scale_latents(vae: Any, pixels: Tensor) -> dict[str, Any]:
    """Set the VAE's scaling factor so that the latents of ``pixels`` have unit variance."""
    deviation = vae.encode(pixels).latent_dist.sample().std().item()
    vae.register_to_config(scaling_factor=round(1.0 / deviation, 4))
    return {"scaling_factor": vae.config.scaling_factor}


@torch.no_grad()
def encode(vae: Any, pixels: Tensor) -> Tensor:
    """Return scaled latents (B, 4, H / f, W / f) of pixels (B, 3, H, W) in [-1, 1]."""
    return vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor


def train_denoiser(
    pipeline: Any,
    latents: Tensor,
    prompts: list[str],
    captions: training.Captions,
    steps: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Train text encoder and UNet in place on latents (N, ...), and leave the averaged weights.

    captions: rows of ``latents`` -> for each the index of a prompt that describes it. A tenth of the
    captions are replaced by the empty one.
    """
    ids = training.token_ids(pipeline.tokenizer, prompts)
    signal = pipeline.scheduler.alphas_cumprod.sqrt()
    noise_level = (1.0 - pipeline.scheduler.alphas_cumprod).sqrt()
    model = nn.ModuleDict({"text_encoder": pipeline.text_encoder, "unet": pipeline.unet})

    def loss() -> Tensor:
        picked, distinct, places = training.draw_captions(
            len(latents), captions, len(prompts), generator
        )
        states = model["text_encoder"](ids[distinct])[0]
        clean = latents[picked]
        timestep = torch.randint(len(signal), (len(clean),))
        noise = torch.randn_like(clean)
        noisy = (
            signal[timestep, None, None, None] * clean
            + noise_level[timestep, None, None, None] * noise
        )
        return mse_loss(model["unet"](noisy, timestep, states[places]).sample, noise)

    return {"denoiser_loss": round(training.descend(model, loss, steps, "denoiser"), 5)}
