"""Attention backends of a denoiser: PyTorch's own, xFormers, or one that diffusers offers."""

from __future__ import annotations

import importlib.util
from typing import Any


def set_backend(denoiser: Any, backend: str) -> None:
    """backend: "default" (PyTorch's scaled_dot_product_attention), "xformers", or a diffusers name.

    diffusers' names ("flash", "sage", ...) work for models whose attention it dispatches, which
    UNets' does not. Raises ValueError when the backend is missing, needs a GPU, or has no effect.
    """
    if backend == "default":
        if _dispatches(denoiser):
            denoiser.reset_attention_backend()
        else:
            denoiser.disable_xformers_memory_efficient_attention()
        return
    if backend == "xformers" and not _dispatches(denoiser):
        if importlib.util.find_spec("xformers") is None:
            raise ValueError(
                "attention 'xformers' is not installed: pip install 'tglo[xformers]', "
                "or set attention to 'default'"
            )
        if next(denoiser.parameters()).device.type != "cuda":
            raise ValueError(
                "attention 'xformers' works on CUDA devices only; move the model there first, "
                "or set attention to 'default'"
            )
        denoiser.enable_xformers_memory_efficient_attention()
        return
    if not _dispatches(denoiser):
        raise ValueError(
            f"attention {backend!r} has no effect on {type(denoiser).__name__}; "
            "choose 'default' or 'xformers'"
        )
    denoiser.set_attention_backend(backend)


def _dispatches(denoiser: Any) -> bool:
    processors = (getattr(module, "processor", None) for module in denoiser.modules())
    return any(hasattr(processor, "_attention_backend") for processor in processors)
