"""Attention processors of our own, for layers whose stock ones call PyTorch's attention themselves.

Each computes what the stock processor does, with the product of query, key and value left to diffusers'
dispatcher. Where a processor of diffusers asks the dispatcher already, it stays.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor2_0,
    JointAttnProcessor2_0,
    SanaLinearAttnProcessor2_0,
)
from diffusers.models.transformers.sana_transformer import SanaAttnProcessor2_0
from torch import Tensor, nn


class Dispatched:
    """A processor that asks the dispatcher."""

    # The names by which diffusers' own processors and ModelMixin know them.
    _attention_backend: AttentionBackendName | None = AttentionBackendName.NATIVE
    _parallel_config: Any = None

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S, heads, D) each, mask (B, 1 or heads, 1 or S, S') -> (B, S, heads * D)."""
        output = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return output.flatten(2).to(query.dtype)


class DispatchedAttention(Dispatched):
    """AttnProcessor2_0, of UNets."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """hidden_states (B, S, C) or (B, C, h, w) -> the same shape; context (B, S', C')."""
        residual, shape = hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if attention_mask is not None:
            batch, length = context.shape[:2]
            attention_mask = attn.prepare_attention_mask(attention_mask, length, batch)
            attention_mask = attention_mask.view(batch, attn.heads, -1, attention_mask.shape[-1])
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if encoder_hidden_states is None:
            context = hidden_states
        elif attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)

        query = _normed(attn.norm_q, _heads(attn, attn.to_q, hidden_states))
        key = _normed(attn.norm_k, _heads(attn, attn.to_k, context))
        value = _heads(attn, attn.to_v, context)
        output = _projected(attn, self._attend(query, key, value, attention_mask))
        if len(shape) == 4:
            output = output.transpose(-1, -2).reshape(shape)
        if attn.residual_connection:
            output = output + residual
        return output / attn.rescale_output_factor


class DispatchedJointAttention(Dispatched):
    """JointAttnProcessor2_0, of SD3: image and text attend to both, or the image to itself."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """hidden_states (B, S, C), context (B, S', C) -> both again; attention_mask has no part in it."""
        query = _normed(attn.norm_q, _heads(attn, attn.to_q, hidden_states))
        key = _normed(attn.norm_k, _heads(attn, attn.to_k, hidden_states))
        value = _heads(attn, attn.to_v, hidden_states)
        if encoder_hidden_states is None:
            return _projected(attn, self._attend(query, key, value, None))
        text = encoder_hidden_states
        added_query = _normed(attn.norm_added_q, _heads(attn, attn.add_q_proj, text))
        added_key = _normed(attn.norm_added_k, _heads(attn, attn.add_k_proj, text))
        output = self._attend(
            torch.cat([query, added_query], dim=1),
            torch.cat([key, added_key], dim=1),
            torch.cat([value, _heads(attn, attn.add_v_proj, text)], dim=1),
            None,
        )
        image, text = output.tensor_split([hidden_states.shape[1]], dim=1)
        return _projected(attn, image), text if attn.context_pre_only else attn.to_add_out(text)


class DispatchedCrossAttention(Dispatched):
    """SanaAttnProcessor2_0: to the prompt, whose padding is masked with a bias."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """hidden_states (B, S, C), context (B, S', C'), attention_mask (B, 1, S') -> (B, S, C)."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key = attn.to_q(hidden_states), attn.to_k(context)
        query, key = _normed(attn.norm_q, query), _normed(attn.norm_k, key)  # across heads
        split = (attn.heads, -1)
        if attention_mask is not None:
            attention_mask = attention_mask.unsqueeze(1).to(query.dtype)
        output = self._attend(
            query.unflatten(-1, split),
            key.unflatten(-1, split),
            _heads(attn, attn.to_v, context),
            attention_mask,
        )
        return _projected(attn, output) / attn.rescale_output_factor


STOCK: dict[type, type[Dispatched]] = {
    AttnProcessor2_0: DispatchedAttention,
    JointAttnProcessor2_0: DispatchedJointAttention,
    SanaAttnProcessor2_0: DispatchedCrossAttention,
}
"""diffusers' processors, and ours in their place."""
WITHOUT_SOFTMAX = (SanaLinearAttnProcessor2_0,)
"""Processors that no backend could compute."""
MASKED = {
    "QwenDoubleStreamAttnProcessor2_0": "choice",
    "ZSingleStreamAttnProcessor": "choice",
    "DispatchedCrossAttention": "bias",
    "LTXVideoAttnProcessor": "bias",
}
"""Processors that mask the padding of prompts: by True and False, or by what is added to the scores."""


def _heads(attn: Attention, layer: nn.Module, x: Tensor) -> Tensor:
    """(B, S, C) -> (B, S, heads, D)."""
    return layer(x).unflatten(-1, (attn.heads, -1))


def _normed(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _projected(attn: Attention, x: Tensor) -> Tensor:
    for layer in attn.to_out:  # projection and dropout
        x = layer(x)
    return x
