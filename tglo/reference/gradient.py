"""The gradients that the kernels write."""

from __future__ import annotations

import torch
from torch import Tensor

from tglo.reference.errors import at_least_float32, zero_hidden
from tglo.reference.loss import loss_slope


def log_ratio_coefficient(
    elements: Tensor | float,
    *,
    temperature: float = 1e-3,
    timestep_weight: Tensor | float = 1.0,
    draws: int = 1,
) -> Tensor:
    """coeff with d ell_b / d p = coeff m (p - y), float64: -omega / T * 2 / n / K.

    `elements` as in `prediction_coefficient`; (B * K,) if elements or omega are, else 0-d.
    """
    return -(timestep_weight / temperature) / draws * error_coefficient(elements)


def error_coefficient(elements: Tensor | float) -> Tensor:
    """coeff with d e / d p = coeff m (p - y), float64, like `elements`: 2 / n, or 0 where n is 0."""
    count = torch.as_tensor(elements, dtype=torch.float64)
    return torch.where(count == 0, 0.0, 2.0 / count)


def prediction_coefficient(
    implicit_score: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    elements: Tensor | float,
    *,
    beta: float = 1.0,
    temperature: float = 1e-3,
    confidence: float = 5.0,
    sample_weight: Tensor | float = 1.0,
    timestep_weight: Tensor | float = 1.0,
    draws: int = 1,
) -> Tensor:
    """coeff with d loss_b / d p = coeff m (p - y): (B,) -> (B * K,) float64.

    `elements` is n, or sum of m for each row (`row_weight`); where that is 0, coeff is 0.

    coeff = v w z sigmoid(-z r) * beta * omega / T * 2 / n, and 1 / K of it for each of K draws.
    """
    slope = loss_slope(implicit_score, scores, threshold, confidence, sample_weight)
    slope = slope.repeat_interleave(draws)
    per_row = log_ratio_coefficient(
        elements, temperature=temperature, timestep_weight=timestep_weight, draws=draws
    )
    return slope * beta * per_row.to(slope.device)


def prediction_gradient(
    policy_pred: Tensor, target: Tensor, coefficient: Tensor, mask: Tensor | None = None
) -> Tensor:
    """coeff m (p - y), (rows, ...) of policy_pred's dtype; coefficient (rows,)."""
    p, y = at_least_float32(policy_pred), at_least_float32(target)
    scale = coefficient.to(p.dtype).reshape(-1, *(1,) * (p.ndim - 1))
    gradient = scale * zero_hidden(p - y, mask)
    return (gradient if mask is None else gradient * mask).to(policy_pred.dtype)
