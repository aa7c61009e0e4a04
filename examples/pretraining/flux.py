"""A FLUX pipeline in miniature for 32x32 pixels, latents 4x8x8, and its pre-training: text encoders and
transformer together. Like schnell it has no guidance, so that a denoising step is one pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from examples.pretraining import training
from examples.pretraining.stable_diffusion import text_config

PATCH = 2  # latents along a side of one of the transformer's tokens


def build(
    vae: Any,
    tokenizer: CLIPTokenizer,
    t5_tokenizer: T5Tokenizer,
    *,
    text_width: int,
    heads: int,
    layers: tuple[int, int],
) -> Any:
    """Build a FluxPipeline in eval mode, untrained but for its VAE.

    heads: of 24 numbers each. layers: of blocks with a stream each for text and image, and of blocks with
    one for both.
    """
    pairs, singles = layers
    transformer: Any = FluxTransformer2DModel(
        in_channels=vae.config.latent_channels * PATCH**2,
        num_layers=pairs,
        num_single_layers=singles,
        attention_head_dim=24,
        num_attention_heads=heads,
        joint_attention_dim=text_width,
        pooled_projection_dim=text_width,
        axes_dims_rope=(8, 8, 8),
    )
    _start_at_zero(transformer)
    t5 = T5Config(
        vocab_size=len(t5_tokenizer),
        d_model=text_width,
        d_kv=text_width // 4,
        d_ff=2 * text_width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    if vae.config.shift_factor is None:
        vae.register_to_config(shift_factor=0.0)  # the pipeline adds it
    return FluxPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text_config(tokenizer, text_width)).eval(),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(t5).eval(),
        tokenizer_2=t5_tokenizer,
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def word_tokenizer(texts: list[str], length: int) -> T5Tokenizer:
    """Make a T5 tokenizer of the texts' words; it splits others into letters."""
    words = sorted({word for text in texts for word in text.split()})
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [(chr(letter), -3.0) for letter in range(0x21, 0x7F)]
    vocab += [(f"▁{word}", -4.0) for word in words]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=length)


def train_transformer(
    pipeline: Any,
    latents: Tensor,
    prompts: list[str],
    captions: training.Captions,
    steps: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Train text encoders and transformer in place on latents (N, C, h, w), and leave the averaged weights.

    captions: rows of ``latents`` -> for each the index of a prompt that describes it. Timesteps are
    logit-normal.
    """
    clip_ids = training.token_ids(pipeline.tokenizer, prompts)
    t5_ids = training.token_ids(pipeline.tokenizer_2, prompts)
    height, width = latents.shape[-2:]
    packed = FluxPipeline._pack_latents(latents, *latents.shape)
    places = FluxPipeline._prepare_latent_image_ids(
        len(latents), height // PATCH, width // PATCH, torch.device("cpu"), torch.float32
    )
    words = torch.zeros(t5_ids.shape[1], 3)
    model = nn.ModuleDict(
        {
            "clip": pipeline.text_encoder,
            "t5": pipeline.text_encoder_2,
            "transformer": pipeline.transformer,
        }
    )

    def loss() -> Tensor:
        picked, distinct, which = training.draw_captions(
            len(packed), captions, len(prompts), generator, dropout=0.0
        )
        clean = packed[picked]
        noise = torch.randn_like(clean)
        sigma = torch.randn(len(clean)).sigmoid()
        noisy = torch.lerp(clean, noise, sigma[:, None, None])
        answer = model["transformer"](
            hidden_states=noisy,
            timestep=sigma,
            pooled_projections=model["clip"](clip_ids[distinct]).pooler_output[which],
            encoder_hidden_states=model["t5"](t5_ids[distinct])[0][which],
            txt_ids=words,
            img_ids=places,
        ).sample
        return mse_loss(answer, noise - clean)

    return {"flow_loss": round(training.descend(model, loss, steps, "transformer"), 5)}


def _start_at_zero(transformer: Any) -> None:
    """Close the gates of all blocks, so that training starts from the identity, as in DiT."""
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        for name in ("norm", "norm1", "norm1_context"):
            norm = getattr(block, name, None)
            if norm is not None:
                nn.init.zeros_(norm.linear.weight)
                nn.init.zeros_(norm.linear.bias)
    nn.init.zeros_(transformer.proj_out.weight)
