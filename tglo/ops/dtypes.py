"""The dtypes in which constants and predictions reach the operators, without a gradient."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor


def constant(tensor: Tensor) -> Tensor:
    """Return the tensor detached, in float32 or float64; one that is so already is returned as it is."""
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
    """Return the value in float64, detached."""
    return constant(value).to(torch.float64) if isinstance(value, Tensor) else float(value)


def number(value: Tensor | float) -> Tensor | float:
    return constant(value) if isinstance(value, Tensor) else float(value)


def promote(
    policy_pred: Tensor, target: Tensor, reference_pred: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the predictions in the dtype that holds all of theirs (float32 for bf16 with fp16)."""
    dtype = policy_pred.dtype
    if target.dtype == dtype and (reference_pred is None or reference_pred.dtype == dtype):
        return policy_pred, target, reference_pred
    dtype = torch.promote_types(dtype, target.dtype)
    if reference_pred is not None:
        dtype = torch.promote_types(dtype, reference_pred.dtype)
        reference_pred = reference_pred.to(dtype)
    return policy_pred.to(dtype), target.to(dtype), reference_pred
