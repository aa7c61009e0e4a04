"""An aMUSEd pipeline in miniature for 32x32 pixels, tokens 8x8, and its pre-training: first the VQ
model, then text encoder and transformer together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from examples.pretraining import training
from examples.pretraining.stable_diffusion import PIXELS, text_config
from tglo.models.autoencoder import TokenCodec
from tglo.models.families.masked import AESTHETIC_SCORE
from tglo.models.modules.uvit import UVit2DModel
from tglo.noise.masking import MaskSchedule

TOKENS = PIXELS // 4  # of a side


def build(
    tokenizer: CLIPTokenizer,
    *,
    text_width: int,
    width: int,
    layers: int,
    vectors: int,
    vq_widths: tuple[int, int, int],
) -> Any:
    """Build an untrained AmusedPipeline in eval mode; ``vectors`` is the size of its codebook."""
    vqvae: Any = diffusers.VQModel(
        block_out_channels=vq_widths,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=8,
        num_vq_embeddings=vectors,
        norm_num_groups=8,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
        sample_size=PIXELS,
    )
    transformer: Any = diffusers.UVit2DModel(
        hidden_size=width,
        cond_embed_dim=text_width,
        micro_cond_encode_dim=16,
        micro_cond_embed_dim=80,  # of five numbers
        encoder_hidden_size=text_width,
        vocab_size=vectors + 1,
        codebook_size=vectors,
        in_channels=width,
        block_out_channels=width,
        num_res_blocks=1,
        block_num_heads=4,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        sample_size=TOKENS,
    )
    return diffusers.AmusedPipeline(
        vqvae=vqvae.eval(),
        tokenizer=tokenizer,
        text_encoder=CLIPTextModelWithProjection(
            text_config(tokenizer, text_width, projection_dim=text_width)
        ).eval(),
        transformer=transformer.eval(),
        scheduler=diffusers.AmusedScheduler(mask_token_id=vectors),
    )


def train_vq(vqvae: Any, pixels: Callable[[], Tensor], steps: int) -> dict[str, Any]:
    """Train ``vqvae`` in place; pixels: a fresh batch (B, 3, H, W) in [-1, 1] at each call.

    A quarter of the steps trains a plain autoencoder; its latents' k-means are the first codebook,
    so that no vector starts where no latent is.
    """
    warmup = max(1, steps // 4)
    training.descend(vqvae, lambda: _plain_error(vqvae, pixels()), warmup, "autoencoder")
    _spread_codebook(vqvae, pixels)
    error = training.descend(vqvae, lambda: _quantized_error(vqvae, pixels()), steps, "vq model")
    codec = TokenCodec(vqvae.config)
    drawn = [codec.encode(vqvae, pixels())["tokens"].flatten() for _ in range(16)]
    used = torch.cat(drawn).unique()
    return {"vq_error": round(error, 5), "vectors_used": used.numel()}


def train_transformer(
    pipeline: Any,
    tokens: Tensor,
    prompts: list[str],
    captions: training.Captions,
    steps: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Train text encoder and transformer in place on tokens (N, h, w), and leave the averaged weights.

    captions: rows of ``tokens`` -> for each the index of a prompt that describes it. A tenth of the
    captions are replaced by the empty one.
    """
    ids = training.token_ids(pipeline.tokenizer, prompts)
    schedule = MaskSchedule.from_scheduler(pipeline.scheduler)
    count = tokens[0].numel()
    sizes = torch.tensor([PIXELS, PIXELS, 0.0, 0.0, AESTHETIC_SCORE])
    # The pipeline keeps diffusers' class, which its folder names; the same weights compute the error here.
    transformer = UVit2DModel.from_config(pipeline.transformer.config)
    transformer.load_state_dict(pipeline.transformer.state_dict())
    model = nn.ModuleDict({"text_encoder": pipeline.text_encoder, "transformer": transformer})

    def loss() -> Tensor:
        picked, distinct, places = training.draw_captions(
            len(tokens), captions, len(prompts), generator
        )
        text = model["text_encoder"](ids[distinct], output_hidden_states=True)
        known = tokens[picked].long()
        hidden = schedule.count(torch.rand(len(known), dtype=torch.float64), count)
        rank = torch.rand(len(known), count).argsort(1).argsort(1)
        mask = (rank < hidden[:, None]).view_as(known)
        return model["transformer"](
            known.masked_fill(mask, schedule.mask_token),
            encoder_hidden_states=text.hidden_states[-2][places],
            pooled_text_emb=text.text_embeds[places],
            micro_conds=sizes.expand(len(known), -1),
            targets=known,
            mask=mask,
        ).mean()

    error = training.descend(model, loss, steps, "transformer")
    pipeline.transformer.load_state_dict(transformer.state_dict())
    return {"token_error": round(error, 5)}


def _plain_error(vqvae: Any, pixels: Tensor) -> Tensor:
    latents = vqvae.encode((pixels + 1) / 2).latents
    decoded = vqvae.decoder(vqvae.post_quant_conv(latents))
    # Small latents that still tell the images apart, as the codebook's are to be.
    return mse_loss(decoded, (pixels + 1) / 2) + 1e-4 * latents.square().mean()


def _quantized_error(vqvae: Any, pixels: Tensor) -> Tensor:
    decoded = vqvae.decode(vqvae.encode((pixels + 1) / 2).latents)
    return mse_loss(decoded.sample, (pixels + 1) / 2) + 0.1 * decoded.commit_loss.mean()


@torch.no_grad()
def _spread_codebook(vqvae: Any, pixels: Callable[[], Tensor]) -> None:
    from sklearn.cluster import MiniBatchKMeans

    latents = torch.cat([vqvae.encode((pixels() + 1) / 2).latents for _ in range(64)])
    rows = latents.permute(0, 2, 3, 1).flatten(0, 2).numpy()
    weight = vqvae.quantize.embedding.weight
    means = MiniBatchKMeans(len(weight), random_state=0, batch_size=4096, n_init=1).fit(rows)
    weight.copy_(torch.from_numpy(means.cluster_centers_))
