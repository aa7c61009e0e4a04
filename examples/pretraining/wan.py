"""A Wan pipeline in miniature for clips of 9 frames of 32x32 pixels, latents 16x3x4x4, and its pre-training: first
the VAE, then text encoder and transformer together.

The VAE takes 2 x 2 pixels as one, as Wan 2.2's, which makes it four times faster; the transformer is Wan 2.1's
but for patches of one latent.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pad
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from examples.pretraining import training

CONTEXT = 512  # tokens of a prompt that the pipeline shows the transformer; the rest are zeros
CHANNELS = 16
BATCH = 32


def build(
    tokenizer: T5Tokenizer, *, text_width: int, heads: int, layers: int, vae_width: int
) -> Any:
    """Build an untrained WanPipeline in eval mode. heads: of 12 numbers each."""
    transformer: Any = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=heads,
        attention_head_dim=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=text_width,
        freq_dim=64,
        ffn_dim=24 * heads,
        num_layers=layers,
        rope_max_seq_len=32,
    )
    _start_at_zero(transformer)
    autoencoder: Any = AutoencoderKLWan(
        base_dim=vae_width,
        z_dim=CHANNELS,
        dim_mult=[1, 1, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
        in_channels=12,
        out_channels=12,
        patch_size=2,
    )
    text = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=text_width,
        d_kv=text_width // 4,
        d_ff=2 * text_width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=8,
    )
    return WanPipeline(
        vae=autoencoder.eval(),
        text_encoder=UMT5EncoderModel(text).eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0
        ),
    )


@torch.no_grad()
def scale_latents(vae: Any, pixels: Tensor) -> None:
    """Set the VAE's mean and std of each channel to those of the latents of ``pixels``."""
    latents = vae.encode(pixels).latent_dist.sample().transpose(0, 1).flatten(1)
    vae.register_to_config(
        latents_mean=[round(x, 4) for x in latents.mean(1).tolist()],
        latents_std=[round(x, 4) for x in latents.std(1).tolist()],
    )


@torch.no_grad()
def encode(vae: Any, pixels: Tensor) -> Tensor:
    """Return normalised latents (B, C, f, h, w) of pixels (B, 3, F, H, W) in [-1, 1]."""
    mean, std = (
        torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    return (vae.encode(pixels).latent_dist.sample() - mean) / std


def train_transformer(
    pipeline: Any,
    latents: Tensor,
    prompts: list[str],
    captions: training.Captions,
    steps: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Train text encoder and transformer in place on latents (N, C, f, h, w), and leave the averaged weights.

    captions: rows of ``latents`` -> for each the index of a prompt that describes it. Timesteps are
    logit-normal.
    """
    told = pipeline.tokenizer([*prompts, ""], padding=True, return_tensors="pt")
    ids, mask = told.input_ids, told.attention_mask
    model = nn.ModuleDict(
        {"text_encoder": pipeline.text_encoder, "transformer": pipeline.transformer}
    )
    for block in pipeline.transformer.blocks:
        block.attn2.set_processor(ManyZeros(CONTEXT - ids.shape[1]))

    def loss() -> Tensor:
        picked, distinct, which = training.draw_captions(
            len(latents), captions, len(prompts), generator, dropout=0.0, batch=BATCH
        )
        text = model["text_encoder"](ids[distinct], mask[distinct])[0]
        text = pad(text * mask[distinct].unsqueeze(-1), (0, 0, 0, 1))
        clean = latents[picked]
        noise = torch.randn_like(clean)
        sigma = torch.randn(len(clean)).sigmoid()
        noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1))
        answer = model["transformer"](noisy, 1000 * sigma, text[which]).sample
        return mse_loss(answer, noise - clean)

    reached = {"flow_loss": round(training.descend(model, loss, steps, "transformer"), 5)}
    for block in pipeline.transformer.blocks:
        block.attn2.set_processor(WanAttnProcessor())
    return reached


class ManyZeros(WanAttnProcessor):
    """Attention to a text whose last token stands for ``count`` of its kind: exactly what attending to all of them
    gives, at a tenth of the work.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.bias = math.log(count)

    def __call__(
        self, attn: Any, hidden_states: Any, encoder_hidden_states: Any, *_: Any, **__: Any
    ) -> Any:
        mask = torch.zeros(1, 1, 1, encoder_hidden_states.shape[1])
        mask[..., -1] = self.bias
        return super().__call__(attn, hidden_states, encoder_hidden_states, mask)


def _start_at_zero(transformer: Any) -> None:
    """Close the gates of all blocks, so that training starts from the identity, as in DiT."""
    nn.init.zeros_(transformer.condition_embedder.time_proj.weight)
    nn.init.zeros_(transformer.condition_embedder.time_proj.bias)
    for block in transformer.blocks:
        nn.init.zeros_(block.scale_shift_table)
        for layer in (block.attn2.to_out[0], transformer.proj_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
