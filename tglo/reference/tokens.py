"""Log-probabilities of masked tokens, and their error."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tglo.reference.errors import at_least_float32, row_sum, row_weight


def token_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """hidden (..., D) times weight (V, D), plus bias (V,): (..., V), at least float32."""
    logits = at_least_float32(hidden) @ at_least_float32(weight).T
    return logits if bias is None else logits + at_least_float32(bias)


def picked_log_prob(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits) at the true token: logits (..., V), tokens (...) int64 give (...)."""
    log_probs = functional.log_softmax(at_least_float32(logits), dim=-1)
    return log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def token_log_prob(
    hidden: Tensor, weight: Tensor, tokens: Tensor, mask: Tensor, bias: Tensor | None = None
) -> Tensor:
    """log p(true token) at masked positions, 0 elsewhere; holds the logits of all positions.

    hidden (B, N, D), weight (V, D), bias (V,), tokens (B, N) int64 and mask (B, N) bool give (B, N).
    What lies under False is not looked at, be it NaN or no token.
    """
    logits = token_logits(torch.where(mask.unsqueeze(-1), hidden, 0.0), weight, bias)
    return torch.where(mask, picked_log_prob(logits, torch.where(mask, tokens, 0)), 0.0)


def token_error(log_prob: Tensor, mask: Tensor) -> Tensor:
    """e = -mean of log p(true token) over each sample's mask: (B, N) -> (B,) float64; 0 for a sample
    without masked positions. The mean is a sum times 1 / count.
    """
    count = row_weight(mask, mask)
    share = torch.where(count == 0, 0.0, 1.0 / count)
    return row_sum(torch.where(mask, -log_prob, 0.0)) * share
