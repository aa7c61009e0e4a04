"""The statistics that a loss returns beside its value."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from tglo import ops, reference
from tglo.ops.dtypes import wide

Reduction = Literal["mean", "sum", "none"]
MaskMean = Literal["mask", "elements"]


class TGOStats(NamedTuple):
    """Statistics that explain a loss; every tensor is detached."""

    implicit_score: Tensor
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
    """(B,) bool: score >= threshold; False where a sample is not scored."""
    weight: Tensor
    """(B,) float64: sample_weight * (1 + confidence * |score - threshold|); 0 where a sample is not scored."""


def label(scores: Tensor, threshold: Tensor | float, scored: Tensor | None) -> Tensor:
    """Return which samples are scored at or above the threshold, (B,) bool."""
    positive = reference.label(scores, threshold)
    return positive if scored is None else positive & scored


def statistics(result: ops.Result, scoring: ops.Scoring) -> TGOStats:
    """Return the statistics of a loss that was computed with that scoring."""
    if isinstance(result, ops.KernelResult):
        result = result.split()
    scores, threshold = wide(scoring.scores), wide(scoring.threshold)
    return TGOStats(
        result.implicit_score.detach(),
        result.policy_error.detach(),
        result.reference_error.detach(),
        label(scores, threshold, scoring.scored),
        reference.loss_weight(scores, threshold, scoring.confidence, wide(scoring.sample_weight)),
    )
