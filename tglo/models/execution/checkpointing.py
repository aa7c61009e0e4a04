"""Gradient checkpointing: which activations of a denoiser the forward keeps for the backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

Mode = Literal["none", "selective", "full"]
MODES: tuple[Mode, ...] = get_args(Mode)

_aten = torch.ops.aten
_PRODUCTS = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten.convolution.default,
}


def set_mode(denoiser: Any, mode: Mode) -> None:
    """Choose which activations the forward pass keeps; the gradients are the same.

    none: everything. full: the inputs of each block, which is computed again. selective: also the
    results of matrix products, convolutions and attention, so that only normalisations, activations
    and sums are computed again. ValueError for another mode, or a model without gradient
    checkpointing.
    """
    if mode not in MODES:
        raise ValueError(f"gradient checkpointing {mode!r} is not one of {', '.join(MODES)}")
    if mode == "none":
        denoiser.disable_gradient_checkpointing()
    else:
        denoiser.enable_gradient_checkpointing(_FUNCTIONS[mode])


def _keep(_: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
    # By name: each attention library has operators of its own.
    if op in _PRODUCTS or "attention" in op.name() or "attn" in op.name():
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _full(block: Any, *inputs: Any) -> Any:
    return checkpoint(block.__call__, *inputs, use_reentrant=False)


def _selective(block: Any, *inputs: Any) -> Any:
    contexts = partial(create_selective_checkpoint_contexts, _keep)
    return checkpoint(block.__call__, *inputs, use_reentrant=False, context_fn=contexts)


_FUNCTIONS: dict[str, Callable[..., Any]] = {"selective": _selective, "full": _full}
