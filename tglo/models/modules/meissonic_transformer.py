"""Meissonic's transformer (arXiv 2410.08261, https://github.com/viiika/Meissonic, Apache-2.0), made of
diffusers' parts: FLUX's blocks between aMUSEd's embedding and head. Weights and configuration have the
names of the published checkpoints.

It computes what the published code does in float32, in which its inference script runs. In bfloat16,
its training script's mixed precision, that rounds 1000 x the timestep to 8 bits, which moves logits
by about their spread (0.34 at a standard deviation of 0.40 was seen); here it stays float32.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.embeddings import (
    CombinedTimestepTextProjEmbeddings,
    TimestepEmbedding,
    get_timestep_embedding,
)
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import RMSNorm
from diffusers.models.transformers.transformer_flux import (
    FluxPosEmbed,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from diffusers.models.unets.uvit_2d import ConvMlmLayer, UVit2DConvEmbed, UVitBlock
from torch import Tensor, nn

from tglo.models.modules.token_head import TokenHead

_EPS = 1e-6
_MICRO_WIDTH = 256  # of each of five numbers


class Transformer2DModel(  # type: ignore[misc]  # as every model of diffusers
    ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin
):
    """Meissonic's denoiser. Its name, which a saved configuration states, and its arguments are the
    original's; patch_size and in_channels have no part in it.
    """

    mlm_layer: Any
    _supports_gradient_checkpointing = True
    _repeated_blocks = ["FluxTransformerBlock", "FluxSingleTransformerBlock"]  # noqa: RUF012
    _gradient_checkpointing_func: Any

    @register_to_config
    def __init__(
        self,
        patch_size: int = 1,
        in_channels: int = 64,
        num_layers: int = 19,
        num_single_layers: int = 38,
        attention_head_dim: int = 128,
        num_attention_heads: int = 24,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 768,
        guidance_embeds: bool = False,
        axes_dims_rope: tuple[int, ...] = (16, 56, 56),
        vocab_size: int = 8256,
        codebook_size: int = 8192,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        if guidance_embeds:
            raise ValueError(
                "guidance_embeds is true; Meissonic with embedded guidance is unknown here"
            )
        heads, size = num_attention_heads, attention_head_dim
        width = heads * size
        self.pos_embed = FluxPosEmbed(theta=10000, axes_dim=list(axes_dims_rope))
        self.time_text_embed = CombinedTimestepTextProjEmbeddings(width, pooled_projection_dim)
        self.context_embedder = nn.Linear(joint_attention_dim, width)
        self.transformer_blocks = nn.ModuleList(
            FluxTransformerBlock(width, heads, size) for _ in range(num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            FluxSingleTransformerBlock(width, heads, size) for _ in range(num_single_layers)
        )
        self.embed = UVit2DConvEmbed(width, width, vocab_size, True, _EPS, False)
        self.mlm_layer = ConvMlmLayer(width, width, False, True, _EPS, codebook_size)
        self.mlm_layer.conv2 = TokenHead.like(self.mlm_layer.conv2)
        self.cond_embed = TimestepEmbedding(
            5 * _MICRO_WIDTH + pooled_projection_dim, width, sample_proj_bias=False
        )
        self.encoder_proj_layer_norm = RMSNorm(width, _EPS)
        self.project_to_hidden_norm = RMSNorm(width, _EPS)
        self.project_to_hidden = nn.Linear(width, width, bias=False)
        self.project_from_hidden_norm = RMSNorm(width, _EPS)
        self.project_from_hidden = nn.Linear(width, width, bias=False)
        self.gradient_checkpointing = False
        self.down_block = _resample(width, downsample=downsample)
        self.up_block = _resample(width, upsample=upsample)

    @property
    def head(self) -> TokenHead:
        """The last layer, which computes the loss."""
        return self.mlm_layer.conv2

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        micro_conds: Tensor,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return logits (B, V, h, w) of tokens hidden_states (B, h, w) int64; with targets, the true tokens
        (B, h, w) int64, and mask (B, h, w) bool, minus the mean log-probability of the masked ones,
        (B,) float64.

        encoder_hidden_states: (B, S, joint_attention_dim); pooled_projections:
        (B, pooled_projection_dim); timestep: (B,), as the original is called with; micro_conds: (B, 5).
        """
        pooled = self._pooled(pooled_projections, micro_conds).to(encoder_hidden_states.dtype)
        context = self.encoder_proj_layer_norm(self.context_embedder(encoder_hidden_states))
        grid = self.down_block(self.embed(hidden_states), None, None, None)  # (B, C, h, w)
        hidden = self.project_to_hidden_norm(grid.flatten(2).transpose(1, 2))
        hidden = self.project_to_hidden(hidden)
        # In float32: 1000 x the share of hidden tokens, times 1000, overflows float16.
        temb = self.time_text_embed(timestep.float() * 1000, pooled)
        rotary = self._rotary(context.shape[1], grid.shape[2], grid.shape[3], hidden.device)
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            run = block
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                run = partial(self._gradient_checkpointing_func, block)
            context, hidden = run(hidden, context, temb, rotary)
        hidden = self.project_from_hidden(self.project_from_hidden_norm(hidden))
        grid = self.up_block(hidden.transpose(1, 2).reshape(grid.shape), None, None, None)
        with self.head.scoring(targets, mask):
            return self.mlm_layer(grid)

    def _pooled(self, text: Tensor, micro_conds: Tensor) -> Tensor:
        """Return the text's projection and the five numbers as one embedding, (B, width)."""
        micro = get_timestep_embedding(
            micro_conds.flatten(), _MICRO_WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        both = torch.cat([text, micro.reshape(len(text), -1)], dim=1)
        return self.cond_embed(both.to(self.dtype))

    def _rotary(
        self, words: int, height: int, width: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return cos and sin of the places (0, row, column); all words are at (0, 0, 0)."""
        places = torch.zeros(height, width, 3, device=device)
        places[..., 1] = torch.arange(height, device=device)[:, None]
        places[..., 2] = torch.arange(width, device=device)[None, :]
        text = torch.zeros(words, 3, device=device)
        return self.pos_embed(torch.cat([text, places.reshape(-1, 3)]))


def _resample(width: int, *, downsample: bool = False, upsample: bool = False) -> UVitBlock:
    """Make aMUSEd's block without residual and attention layers: it halves or doubles the sides, or not."""
    return UVitBlock(width, 0, width, 0.0, True, _EPS, False, 1, 0.0, downsample, upsample)
