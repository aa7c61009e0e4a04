"""Attention backends of a denoiser, all through diffusers' dispatcher.

UNets' stock processors call PyTorch's attention and ignore the dispatcher, so they are replaced by
one that asks it; transformers ask it themselves.
"""

from __future__ import annotations

import difflib
from typing import Any

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    attention_backend,
    dispatch_attention_fn,
)
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

# diffusers' "_flash_3", of the flash_attn_3 package, has no backward; the hub's kernel has one.
ALIASES = {"sdpa": "native", "cudnn": "_native_cudnn", "flash3": "_flash_3_hub"}
_REMEDY = "or set attention to 'default' or 'sdpa'"
_ON_THE_CPU = ("native", "_native_math", "_native_flash", "flex")


class DispatchedAttention:
    """AttnProcessor2_0 with the product of query, key and value left to diffusers' dispatcher."""

    def __init__(self) -> None:
        # The names by which diffusers' own processors and ModelMixin know them.
        self._attention_backend: AttentionBackendName | None = AttentionBackendName.NATIVE
        self._parallel_config: Any = None

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

        query, key, value = (
            layer(x).unflatten(-1, (attn.heads, -1))  # (B, S, heads, C / heads)
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        output = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        output = output.flatten(2).to(query.dtype)
        for layer in attn.to_out:  # projection and dropout
            output = layer(output)
        if len(shape) == 4:
            output = output.transpose(-1, -2).reshape(shape)
        if attn.residual_connection:
            output = output + residual
        return output / attn.rescale_output_factor


def set_backend(denoiser: Any, backend: str, dtype: torch.dtype | None = None) -> None:
    """Let every attention layer of a UNet or a transformer use ``backend``, on its device.

    backend: "default" (the model's own), "sdpa" (PyTorch's scaled_dot_product_attention), "cudnn"
    (the same, cuDNN's kernel), "xformers", "flash3" (FlashAttention-3) or a name of diffusers'
    AttentionBackendName. dtype: of queries, keys and values, the denoiser's if not given. The
    backend is tried on a small input, forward and backward. ValueError when it is unknown, its
    package or a GPU is missing, it cannot compute in dtype, or it has no gradient.
    """
    modules = [m for m in denoiser.modules() if hasattr(m, "processor")]
    name = ALIASES.get(backend, backend)
    if backend != "default":
        like = next(denoiser.parameters())
        _check(backend, name, like.device, dtype or like.dtype, _head_sizes(modules))
    for module in modules:
        if backend == "default" and isinstance(module.processor, DispatchedAttention):
            module.set_processor(AttnProcessor2_0())
        elif backend != "default" and type(module.processor) is AttnProcessor2_0:
            module.set_processor(DispatchedAttention())
    processors = [module.processor for module in modules]
    dispatched = [p for p in processors if hasattr(p, "_attention_backend")]
    if backend != "default" and len(dispatched) < len(processors):
        others = {type(p).__name__ for p in processors if not hasattr(p, "_attention_backend")}
        raise ValueError(
            f"attention {backend!r} has no effect on {type(denoiser).__name__}'s {min(others)}, "
            "which does not ask diffusers' dispatcher; set attention to 'default'"
        )
    for processor in dispatched:
        processor._attention_backend = None if backend == "default" else AttentionBackendName(name)


def check_name(backend: str, key: str = "attention") -> None:
    """Raise ValueError for a name that no backend has; key: what the caller's user calls it."""
    known = [entry.value for entry in AttentionBackendName]
    names = ["default", *ALIASES, *known]
    if ALIASES.get(backend, backend) not in ("default", *known):
        near = ", ".join(difflib.get_close_matches(backend, names, n=3, cutoff=0.4))
        raise ValueError(
            f"unknown {key} {backend!r}"
            + (f"; nearest: {near}" if near else "")
            + f"; valid: {', '.join(names)}"
        )


def check_place(backend: str, device: torch.device, key: str = "attention") -> None:
    """Raise ValueError for an unknown backend, and for one that needs a GPU where the model is not on one."""
    check_name(backend, key)
    anywhere = ("default", *_ON_THE_CPU)
    if device.type != "cuda" and ALIASES.get(backend, backend) not in anywhere:
        raise ValueError(
            f"{key} {backend!r} needs a CUDA device and the model is on {device.type}; "
            f"move it there first, {_REMEDY}"
        )


def _check(
    backend: str, name: str, device: torch.device, dtype: torch.dtype, sizes: set[int]
) -> None:
    """Raise ValueError unless the backend, ``name`` to diffusers, computes a gradient here."""
    check_place(backend, device)
    remedy = _REMEDY
    try:
        with attention_backend(name):  # looks for the package, or gets the kernel from the hub
            pass
    except Exception as error:
        extra = "pip install 'tglo[xformers]', " if name == "xformers" else ""
        raise ValueError(f"attention {backend!r} is missing: {error} {extra}{remedy}") from error
    for size in sorted(sizes):
        generator = torch.Generator(device).manual_seed(0)
        inputs = [
            torch.randn(1, 16, 2, size, device=device, generator=generator)
            .to(dtype)
            .requires_grad_()
            for _ in range(3)
        ]
        try:
            with torch.enable_grad():
                query, key, value = inputs
                output = dispatch_attention_fn(
                    query, key, value, backend=AttentionBackendName(name)
                )
                gradients = torch.autograd.grad(output.float().sum(), inputs)
        except Exception as error:
            raise ValueError(
                f"attention {backend!r} cannot train with {dtype} and head size {size} on "
                f"{device.type}: {error}. Choose another engine.precision (many kernels take "
                f"bf16 and fp16 only), {remedy}"
            ) from error
        assert all(gradient.shape == x.shape for gradient, x in zip(gradients, inputs, strict=True))


def _head_sizes(modules: list[Any]) -> set[int]:
    sizes = {getattr(m, "inner_dim", 0) // m.heads for m in modules if getattr(m, "heads", 0)}
    return sizes - {0} or {64}
