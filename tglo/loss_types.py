"""What the losses share: their statistics, and how constants reach them."""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


class TGOStats(NamedTuple):
    """What explains a loss; every tensor is detached."""

    log_ratio: Tensor
    """(B,) float64: r = beta * (log pi_theta - log pi_ref), the sigmoid's argument up to the
    label's sign.
    """
    policy_error: Tensor
    """(B * draws,) float64: mean square error of the policy's prediction (of log-probabilities:
    -log pi_theta).
    """
    reference_error: Tensor
    """(B * draws,) float64: the same of the reference; to be cached and passed as
    `reference_error`.
    """
    label: Tensor
    """(B,) bool: score >= threshold."""
    weight: Tensor
    """(B,) float64: 1 + confidence * |score - threshold|."""


def constant(tensor: Tensor) -> Tensor:
    """Detached, in float32 or float64; a tensor that is so already is returned as it is."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    dtype = tensor.dtype
    if dtype == torch.float64 or dtype == torch.float32:
        return tensor
    return tensor.to(torch.float32 if dtype.is_floating_point else torch.float64)


@overload
def wide(value: Tensor) -> Tensor: ...
@overload
def wide(value: Tensor | float) -> Tensor | float: ...
def wide(value: Tensor | float) -> Tensor | float:
    """In float64."""
    return constant(value).to(torch.float64) if isinstance(value, Tensor) else float(value)


def number(value: Tensor | float) -> Tensor | float:
    return constant(value) if isinstance(value, Tensor) else float(value)
