"""Attention backends of a denoiser, all through diffusers' dispatcher.

Most transformers ask it themselves. The stock processors of UNets, SD3 and SANA call PyTorch's attention and
ignore the dispatcher, so they are replaced by ones that ask it (tglo.models.execution.processors).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    attention_backend,
    dispatch_attention_fn,
)
from torch import Tensor

from tglo.console.extras import install
from tglo.models.execution.processors import MASKED, STOCK, WITHOUT_SOFTMAX
from tglo.models.quantization import floating_dtype

# diffusers' "_flash_3", of the flash_attn_3 package, has no backward; the hub's kernel has one.
ALIASES = {"sdpa": "native", "cudnn": "_native_cudnn", "flash3": "_flash_3_hub"}
# Of a masked trial: prompts have any length, and some kernels take multiples of 8 only.
_LENGTH = 13
_REMEDY = "or set attention to 'default' or 'sdpa'"
_ON_THE_CPU = ("native", "_native_math", "_native_flash", "flex")


def set_backend(denoiser: Any, backend: str, dtype: torch.dtype | None = None) -> None:
    """Let every attention layer of a UNet or a transformer use ``backend``, on its device.

    backend: "default" (the model's own), "sdpa" (PyTorch's scaled_dot_product_attention), "cudnn"
    (the same, cuDNN's kernel), "xformers", "flash3" (FlashAttention-3) or a name of diffusers'
    AttentionBackendName. dtype: of queries, keys and values, the denoiser's if not given. The
    backend is tried on a small input, forward and backward, with a mask where the denoiser has one.
    ValueError when it is unknown, its package or a GPU is missing, it cannot compute in dtype, it has no
    gradient or does not take the mask.
    """
    modules = [
        module
        for module in denoiser.modules()
        if not isinstance(getattr(module, "processor", None), (type(None), *WITHOUT_SOFTMAX))
    ]
    if backend == "default":
        _restore(modules)
        return
    device, name = next(denoiser.parameters()).device, ALIASES.get(backend, backend)
    check_place(backend, device)
    kinds = [STOCK.get(type(module.processor), type(module.processor)) for module in modules]
    others = [kind.__name__ for kind in kinds if not _asks(kind)]
    if others:
        raise ValueError(
            f"attention {backend!r} has no effect on {type(denoiser).__name__}'s {min(others)}, "
            "which does not ask diffusers' dispatcher; set attention to 'default'"
            + (", or undo fuse_qkv_projections" if "Fused" in min(others) else "")
        )
    masks = {MASKED[kind.__name__] for kind in kinds if kind.__name__ in MASKED}
    _check(backend, name, device, dtype or floating_dtype(denoiser), _head_sizes(modules), masks)
    for module, kind in zip(modules, kinds, strict=True):
        if type(module.processor) is not kind:
            module.set_processor(kind())
        module.processor._attention_backend = AttentionBackendName(name)


def _restore(modules: list[Any]) -> None:
    stock = {ours: theirs for theirs, ours in STOCK.items()}
    for module in modules:
        if type(module.processor) in stock:
            module.set_processor(stock[type(module.processor)]())
        elif _asks(type(module.processor)):
            module.processor._attention_backend = None


def _asks(processor: type) -> bool:
    """Return whether processors of a class ask the dispatcher."""
    return hasattr(processor, "_attention_backend")


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
    backend: str,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    sizes: set[int],
    masks: Iterable[str] = (),
) -> None:
    """Raise ValueError unless the backend, ``name`` to diffusers, computes a gradient here."""
    check_place(backend, device)
    try:
        with attention_backend(name):  # looks for the package, or gets the kernel from the hub
            pass
    except Exception as error:
        extra = f"{install('xformers')}, " if name == "xformers" else ""
        raise ValueError(f"attention {backend!r} is missing: {error} {extra}{_REMEDY}") from error
    for size in sorted(sizes):
        try:
            _gradients(name, device, dtype, size, None)
        except Exception as error:
            raise ValueError(
                f"attention {backend!r} cannot train with {dtype} and head size {size} on "
                f"{device.type}: {error}. Choose another engine.precision (many kernels take "
                f"bf16 and fp16 only), {_REMEDY}"
            ) from error
        for kind in masks:
            _check_mask(backend, name, device, dtype, size, kind)


def _check_mask(
    backend: str, name: str, device: torch.device, dtype: torch.dtype, size: int, kind: str
) -> None:
    """Raise ValueError unless nothing reaches a prompt's padding, neither forward nor backward."""
    kept = torch.ones(2, 1, 1, _LENGTH, dtype=torch.bool, device=device)
    kept[1, ..., -3:] = False
    mask = kept if kind == "choice" else (1 - kept.to(dtype)) * -10_000
    try:
        _, key, value = _gradients(name, device, dtype, size, mask)
        problem = None if max(x[1, -3:].abs().max() for x in (key, value)) == 0 else "it is ignored"
    except Exception as error:
        problem = str(error)
    if problem:
        raise ValueError(
            f"attention {backend!r} does not take the mask of prompts' padding that this model needs "
            f"({problem}); set attention to 'default' or 'sdpa'"
        )


def _gradients(
    name: str, device: torch.device, dtype: torch.dtype, size: int, mask: Tensor | None
) -> tuple[Tensor, ...]:
    """Return those of a small input's query, key and value."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (1, 16, 2, size) if mask is None else (2, _LENGTH, 2, size)
    inputs = [
        torch.randn(shape, device=device, generator=generator).to(dtype).requires_grad_()
        for _ in range(3)
    ]
    with torch.enable_grad():
        query, key, value = inputs
        output = dispatch_attention_fn(
            query, key, value, attn_mask=mask, backend=AttentionBackendName(name)
        )
        gradients = torch.autograd.grad(output.float().sum(), inputs)
    assert all(gradient.shape == x.shape for gradient, x in zip(gradients, inputs, strict=True))
    return gradients


def _head_sizes(modules: list[Any]) -> set[int]:
    sizes = {getattr(m, "inner_dim", 0) // m.heads for m in modules if getattr(m, "heads", 0)}
    return sizes - {0} or {64}
