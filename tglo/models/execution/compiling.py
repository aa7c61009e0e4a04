"""torch.compile of a denoiser, in place: its type, its names and its state dict stay as they are."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch._dynamo

BACKEND = "inductor"
# Of transformers that do not name theirs.
_REPEATED = {
    "SD3Transformer2DModel": ("JointTransformerBlock",),
    "SanaTransformer2DModel": ("SanaTransformerBlock",),
}
# One code object serves every block and both states of a LoRA: more variants than dynamo expects.
_VARIANTS = 64


def compile_denoiser(
    denoiser: Any, how: Literal["blocks", "whole"], *, cuda_graphs: bool = False
) -> None:
    """Compile the repeated blocks, each kind once, or the whole forward pass.

    Switching a LoRA off, gradient checkpointing and other sizes are recompilations, not errors.
    cuda_graphs: replay whole forward and backward passes, recorded once for each size; call
    ``torch.compiler.cudagraph_mark_step_begin`` before each step. ValueError for a model without
    repeated blocks, or cuda_graphs without a CUDA device or with blocks.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _VARIANTS)
    device = next(denoiser.parameters()).device
    if cuda_graphs and (how != "whole" or device.type != "cuda"):
        raise ValueError(
            f"CUDA graphs need compile = whole and a CUDA device, not {how} on {device.type}; "
            "set cuda_graphs = false"
        )
    if how == "whole":
        # A graph is recorded for fixed sizes: one for each bucket.
        options: dict[str, Any] = {"mode": "reduce-overhead", "dynamic": False}
        denoiser.compile(backend=BACKEND, **(options if cuda_graphs else {}))
        return
    name = type(denoiser).__name__
    repeated: Any = getattr(denoiser, "_repeated_blocks", None) or _REPEATED.get(name, ())
    blocks = [module for module in denoiser.modules() if type(module).__name__ in repeated]
    if not blocks:
        raise ValueError(f"{name} names no repeated blocks to compile; use compile = whole")
    for block in blocks:
        block.compile(backend=BACKEND)
