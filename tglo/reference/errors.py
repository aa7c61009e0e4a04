"""The error of a prediction, and sums over it."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float64).tiny


def at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def row_sum(elements: Tensor) -> Tensor:
    """Sum over all but the first dimension, in float64."""
    if elements.ndim == 1:
        return elements.to(torch.float64)
    return elements.sum(tuple(range(1, elements.ndim)), dtype=torch.float64)


def row_weight(prediction: Tensor, mask: Tensor) -> Tensor:
    """sum m over every row, what its mean divides by: (rows,) float64.

    The mask (non-negative weights) is broadcast to the shape of `prediction`, (rows, ...).
    """
    return row_sum(mask.expand(prediction.shape))


def row_mean(elements: Tensor, mask: Tensor | None, mask_mean: str = "mask") -> Tensor:
    """sum m x / sum m over all but the first dimension; 0 for a row whose weights are all 0. With
    mask_mean="elements", sum m x / n.
    """
    if mask is None:
        return row_sum(elements) / elements.shape[1:].numel()
    if mask_mean == "elements":
        return row_sum(elements * mask) / elements.shape[1:].numel()
    weight = row_weight(elements, mask)
    return torch.where(weight == 0, 0.0, row_sum(elements * mask) / weight.clamp(min=_TINY))


def zero_hidden(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """Put 0 where the mask is 0: what lies there counts for nothing, be it NaN."""
    return tensor if mask is None else torch.where(mask == 0, 0.0, tensor)


def prediction_error(
    prediction: Tensor, target: Tensor, mask: Tensor | None = None, mask_mean: str = "mask"
) -> Tensor:
    """e = mean((p - y)^2) of every row: (rows, ...) -> (rows,) float64; weighted by the mask, divided by
    its sum ("mask") or by n ("elements").
    """
    difference = zero_hidden(at_least_float32(prediction) - at_least_float32(target), mask)
    return row_mean(difference * difference, mask, mask_mean)


def error_difference(
    policy_pred: Tensor,
    reference_pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    mask_mean: str = "mask",
) -> Tensor:
    """e_theta - e_ref of every row as mean((p - q)(p + q - 2y)): (rows, ...) -> (rows,) float64.

    The product is exactly 0 where p == q, and it avoids the cancellation of two large means.
    """
    p, q, y = (
        zero_hidden(at_least_float32(tensor), mask)
        for tensor in (policy_pred, reference_pred, target)
    )
    return row_mean((p - q) * ((p - y) + (q - y)), mask, mask_mean)
