"""What a loss returns beside its value."""

from __future__ import annotations

from typing import Literal, NamedTuple

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
