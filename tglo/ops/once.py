"""Gradients that can be taken once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class _Gradient(torch.autograd.Function):
    """The gradient as a node of its own, whose derivative raises."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], refusal: str, *arguments: Any) -> Any:
        ctx.refusal = refusal
        return run(*arguments)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise RuntimeError(ctx.refusal)


def gradient_once(run: Callable[..., Any], refusal: str, *arguments: Any) -> Any:
    """Return run(*arguments), the gradient that a backward computes. Under create_graph a second
    derivative then raises RuntimeError with the refusal instead of being 0.
    """
    if torch.is_grad_enabled():
        return _Gradient.apply(run, refusal, *arguments)
    return run(*arguments)
