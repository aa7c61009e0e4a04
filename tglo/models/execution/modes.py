"""Train and eval mode of a module, frozen copies, and the memory layout of weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import nn


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Switch to eval mode inside; afterwards every submodule is back in the mode it had."""
    modes = [(m, m.training) for m in module.modules()] if isinstance(module, nn.Module) else []
    try:
        for submodule, _ in modes:
            submodule.training = False
        yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode


def frozen_copy(denoiser: Any) -> Any:
    """Return a copy of the denoiser as it is now: eval mode, no gradients, no checkpointing."""
    frozen = copy.deepcopy(denoiser).eval().requires_grad_(False)
    if frozen.is_gradient_checkpointing:
        frozen.disable_gradient_checkpointing()
    return frozen


def set_channels_last(denoiser: Any, when: Literal["auto", "on", "off"] = "on") -> None:
    """Store convolution weights in channels_last, which convolutions on recent GPUs prefer.

    auto: those of a UNet, on a GPU.
    """
    on_gpu = next(denoiser.parameters()).device.type == "cuda"
    suits = isinstance(denoiser, UNet2DConditionModel) and on_gpu
    if when == "on" or (when == "auto" and suits):
        denoiser.to(memory_format=torch.channels_last)
